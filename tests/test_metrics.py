"""Metrics: each against a closed form or another implementation, and against known damage."""

import csv
import json
import math
import re

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from conftest import ROOT, fails, idx_bytes, same_tensors
from sklearn.neighbors import NearestNeighbors

import gan_mnist


def points(n, d, seed=0, scale=1.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def judge():
    return gan_mnist.load_judge("mnist", "nowhere")


@pytest.fixture(scope="module")
def halves():
    """The bundled digits, images and labels, in two halves that have no image in common."""
    images, labels = gan_mnist.load_bundle()
    return (images[::2], labels[::2]), (images[1::2], labels[1::2])


# ── the formulas ──


def test_statistics_are_numpys_mean_and_covariance():
    features = points(500, 6)
    mean, covariance = gan_mnist.statistics(features)
    assert np.allclose(mean, features.double().numpy().mean(0))
    assert np.allclose(covariance, np.cov(features.double().numpy(), rowvar=False))


def test_frechet_distance_of_equal_covariances_is_the_squared_distance_of_the_means():
    mean, covariance = gan_mnist.statistics(points(500, 6))
    step = torch.arange(6.0).double()
    same = gan_mnist.frechet_distance(mean, covariance, mean, covariance)
    moved = gan_mnist.frechet_distance(mean, covariance, mean + step, covariance)
    assert same == pytest.approx(0, abs=1e-9)
    assert moved == pytest.approx(step.square().sum().item())


def test_frechet_distance_equals_the_formula_with_scipys_matrix_root():
    mix = points(6, 6, seed=3)
    a = gan_mnist.statistics(points(500, 6, seed=1) @ mix)
    b = gan_mnist.statistics(points(400, 6, seed=2, scale=2.0) + 0.5)
    root = scipy.linalg.sqrtm(a[1].numpy() @ b[1].numpy())
    expected = (a[0] - b[0]).square().sum() + np.trace((a[1] + b[1]).numpy() - 2 * root.real)
    assert gan_mnist.frechet_distance(*a, *b) == pytest.approx(expected.item())
    assert gan_mnist.frechet_distance(*b, *a) == pytest.approx(expected.item())


def test_frechet_distance_takes_features_that_never_vary():
    features = torch.cat([points(500, 3), torch.zeros(500, 2)], 1)
    assert gan_mnist.frechet_distance(
        *gan_mnist.statistics(features), *gan_mnist.statistics(features + 1)
    ) == pytest.approx(5, abs=1e-5)


def test_inception_score_is_1_for_no_opinion_and_the_number_of_classes_for_perfect_balance():
    assert gan_mnist.inception_score(torch.full((50, 10), 0.1)) == pytest.approx(1)
    assert gan_mnist.inception_score(torch.eye(10).repeat(5, 1)) == pytest.approx(10)
    assert gan_mnist.inception_score(torch.eye(10)[:1].repeat(5, 1)) == pytest.approx(1)


def test_inception_score_equals_scipys_relative_entropies():
    p = points(200, 10).softmax(1).double().numpy()
    expected = math.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert gan_mnist.inception_score(torch.from_numpy(p)) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 4])
def test_nearest_distances_equal_scikit_learns(k):
    some, others = points(700, 5), points(300, 5, seed=1)
    distances, _ = NearestNeighbors(n_neighbors=k).fit(others).kneighbors(some)
    assert np.allclose(gan_mnist.nearest(some, others, k), distances[:, -1], atol=1e-4)


def test_precision_and_recall_equal_those_of_scikit_learns_neighbours():
    real, fake = points(300, 4), points(250, 4, seed=1, scale=0.6) + 0.4

    def share(some, others):  # k = 3 neighbours, not counting the point itself
        radii = NearestNeighbors(n_neighbors=4).fit(others).kneighbors(others)[0][:, -1]
        distances = np.linalg.norm(some[:, None].numpy() - others[None].numpy(), axis=2)
        return (distances <= radii).any(1).mean()

    precision, recall = gan_mnist.precision_recall(real, fake)
    assert precision == pytest.approx(share(fake, real))
    assert recall == pytest.approx(share(real, fake))
    assert recall < precision < 1


def test_precision_and_recall_of_far_apart_sets_are_0_and_of_equal_ones_1():
    real = points(100, 4)
    assert gan_mnist.precision_recall(real, real + 100) == (0, 0)
    assert gan_mnist.precision_recall(real, real) == (1, 1)


# ── the shipped judge ──


def test_the_shipped_judge_is_small_and_right_and_says_where_it_comes_from(judge, halves):
    assert gan_mnist.MNIST_JUDGE.stat().st_size < 500_000
    assert judge.accuracy >= 0.993  # on the test images, which are not bundled
    assert judge.seed == 0
    for images, labels in halves:
        _, probabilities = judge.predict(images)
        assert (probabilities.argmax(1) == labels).float().mean() > 0.99
        assert torch.allclose(probabilities.sum(1), torch.ones(len(images)))


def test_the_judge_knows_the_statistics_of_60000_training_images(judge, halves):
    features, _ = judge.predict(torch.cat([halves[0][0], halves[1][0]]))
    near = judge.fd(features)
    floor = gan_mnist.frechet_distance(
        judge.train_mean, judge.train_cov, judge.test_mean, judge.test_cov
    )
    assert 0 < near < 2  # 5,000 of the 60,000, each class equally often
    assert 0 < floor < 1


# ── known damage ──


def measure(judge, reference, images):
    features, p = judge.predict(images)
    real, _ = judge.predict(reference)
    precision, recall = gan_mnist.precision_recall(real, features)
    return {
        "fd": judge.fd(features),
        "score": gan_mnist.inception_score(p),
        "precision": precision,
        "recall": recall,
        "sure": (p.amax(1) > 0.9).float().mean().item(),
    }


@pytest.fixture(scope="module")
def undamaged(judge, halves):
    return measure(judge, halves[0][0], halves[1][0])


def test_noise_moves_distance_and_precision_and_score(judge, halves, undamaged):
    images = gan_mnist.to_float(halves[1][0])
    noisy = gan_mnist.to_uint8(images + 0.7 * torch.randn(images.shape).abs())
    damaged = measure(judge, halves[0][0], noisy)
    assert damaged["fd"] > 20 * undamaged["fd"]
    assert damaged["precision"] < undamaged["precision"] - 0.1
    assert damaged["score"] < undamaged["score"] - 1


def test_two_digits_in_one_image_move_confidence(judge, halves, undamaged):
    images = halves[1][0]
    both = torch.maximum(images, images.roll(1250, 0))  # a digit and one five classes further
    damaged = measure(judge, halves[0][0], both)
    assert damaged["sure"] < undamaged["sure"] - 0.2
    assert damaged["fd"] > 20 * undamaged["fd"]


def test_a_missing_digit_moves_distance_and_recall_but_not_precision(judge, halves, undamaged):
    images, labels = halves[1]
    damaged = measure(judge, halves[0][0], images[labels != 3])
    assert damaged["fd"] > 3 * undamaged["fd"]
    assert damaged["recall"] < undamaged["recall"] - 0.05
    assert abs(damaged["precision"] - undamaged["precision"]) < 0.03
    assert damaged["score"] == pytest.approx(9, abs=0.2)


def test_one_digit_only_is_a_score_of_1_and_a_recall_of_a_tenth(judge, halves, undamaged):
    images, labels = halves[1]
    damaged = measure(judge, halves[0][0], images[labels == 1])
    assert damaged["fd"] > 50 * undamaged["fd"]
    assert damaged["score"] < 1.2
    assert damaged["recall"] < 0.15


def test_copies_of_training_images_have_no_distance_to_them(halves):
    train, test = (half[0].flatten(1) / 255 for half in halves)
    copies = gan_mnist.nearest(train[::5], train)
    others = gan_mnist.nearest(test[::5], train)
    assert copies.max() < 0.05 < 3 < others.median()


def test_a_fresh_network_tells_real_from_noise_but_not_real_from_real(halves, monkeypatch):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", 10_000)
    (images, _), (others, _) = halves
    order = torch.randperm(2500, generator=torch.Generator().manual_seed(0))
    images, others = images[order], others[order]
    noisy = gan_mnist.to_uint8(gan_mnist.to_float(others) + 0.3 * torch.randn(others.shape))
    assert abs(gan_mnist.two_sample_accuracy(images, others) - 0.5) < 0.06
    assert gan_mnist.two_sample_accuracy(images, noisy) > 0.95


def test_a_fresh_network_notices_a_grey_of_3_in_2_percent_of_the_black_pixels(halves, monkeypatch):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", 10_000)
    torch.manual_seed(0)
    images = halves[0][0][:2000]
    images = images[torch.randperm(2000)]
    spotted = images.clone()
    spotted[(images == 0) & (torch.rand(images.shape) < 0.02)] = 3
    assert gan_mnist.two_sample_accuracy(images, spotted) >= 0.95
    assert torch.equal(gan_mnist.outlines(images), gan_mnist.outlines(spotted))


def test_outlines_are_white_from_half_grey_on():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    white = gan_mnist.outlines(images)
    assert white.dtype == torch.uint8 and set(white.unique().tolist()) == {0, 255}
    assert torch.equal(white == 255, gan_mnist.to_float(images) > 0)


def test_dark_greys_are_spread_beside_the_images_themselves():
    images = torch.tensor([0, 1, 3, 128, 255], dtype=torch.uint8).view(5, 1, 1, 1)
    spread = gan_mnist.spread_dark_greys(images)
    assert torch.equal(spread[:, :1], images)
    assert spread[:, 1].flatten().tolist() == [0, 63, 83, 214, 255]


# ── in a run ──


class OneImage:
    """A generator that has collapsed."""

    def __init__(self, image):
        self.image = image

    def sample(self, num_samples, seed=None):
        return gan_mnist.to_float(self.image).expand(num_samples, 1, 28, 28)


def test_a_reading_names_the_missing_classes(judge, halves):
    images, labels = halves[0]
    reading = judge.measure(OneImage(images[labels == 4][0]), seed=0)
    assert reading["covered"] == "1 of 10"
    assert reading["missing"] == "0 1 2 3 5 6 7 8 9"
    assert reading["fd"] > 100


def test_collapse_is_said_with_what_to_do(train, capsys, monkeypatch, halves):
    images, labels = halves[0]
    collapsed = OneImage(images[labels == 7][0])
    monkeypatch.setattr(gan_mnist.Generator, "sample", lambda G, *_: collapsed.sample(*_))
    train(epochs=1, metrics_every=1)
    warning = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warning) == 1
    assert warning[0].endswith(" is of class 0 1 2 3 4 5 6 8 9.")


def rows(folder):
    with (folder / "checkpoints/history.csv").open() as file:
        return list(csv.DictReader(file))


def test_readings_are_on_the_line_in_the_history_and_choose_the_best_generator(
    train, folder, capsys
):
    _, history = train(epochs=4, metrics_every=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    fds = [row["fd"] for row in history]
    for line, row in zip(lines, history, strict=True):
        assert f", FD {row['fd']:.2f}, " in line
    assert [float(row["fd"]) for row in rows(folder)] == fds
    best = gan_mnist.load_generator("checkpoints/generator_best.pth")
    assert best.about["epochs"] == 1 + fds.index(min(fds))
    judge = gan_mnist.load_judge("mnist", "nowhere")
    seed = gan_mnist.stream_seed(0, gan_mnist.STREAMS["measurement"])
    assert judge.measure(best, seed)["fd"] == pytest.approx(min(fds), rel=1e-6)
    assert best.about["fd"] == min(fds)


def test_readings_come_every_metrics_every_epochs_and_at_the_end_and_0_means_never(train, folder):
    _, history = train(epochs=5, metrics_every=2)
    assert [row["fd"] is None for row in history] == [True, False, True, False, False]
    assert [row["fd"] == "" for row in rows(folder)] == [True, False, True, False, False]
    assert gan_mnist.load_generator("checkpoints/generator_final.pth").about["fd"] > 0
    _, history = train(epochs=1, out="b", metrics_every=0)
    assert history[0]["fd"] is None
    assert not (folder / "b/checkpoints/generator_best.pth").exists()


def test_a_resumed_run_reads_what_an_undisturbed_one_reads_and_a_new_one_clears_the_best(
    train, folder
):
    train(epochs=4, out="a", metrics_every=1)
    train(epochs=2, out="b", metrics_every=1)
    train(epochs=4, out="b", metrics_every=1, resume=True)
    for name in ("generator_best.pth", "generator_final.pth"):
        a, b = (gan_mnist.load_weights(folder / run / "checkpoints" / name) for run in "ab")
        assert same_tensors(a, b)
    fds = [[row["fd"] for row in rows(folder / run)] for run in "ab"]
    assert fds[0] == fds[1]
    mine = folder / "b/checkpoints/generator_mine.pth"
    mine.write_bytes(b"not of the run")
    train(epochs=1, out="b", metrics_every=0, overwrite=True)
    assert not (folder / "b/checkpoints/generator_best.pth").exists()
    assert mine.read_bytes() == b"not of the run"


def test_readings_change_nothing_in_the_training(train, folder):
    a, _ = train(epochs=2, out="a", metrics_every=1)
    b, _ = train(epochs=2, out="b", metrics_every=0)
    ours, theirs = ({**net.state_dict(), "_extra_state": None} for net in (a, b))
    assert same_tensors(ours, theirs)  # BatchNorm's statistics too
    checkpoints = (gan_mnist.load_weights(f"{run}/checkpoints/epoch_0002.pth") for run in "ab")
    ours, theirs = ([state[part] for part in ("D", "optimizer_d")] for state in checkpoints)
    assert same_tensors(ours, theirs)


# ── judges of other data sets ──


def test_another_set_gets_a_judge_on_first_use_that_is_kept(train, folder, capsys):
    (folder / "digits/MNIST").rename(folder / "digits/KMNIST")
    train(epochs=1, dataset="kmnist", metrics_every=1)
    assert "Training a judge of kmnist" in capsys.readouterr().out
    path = folder / "digits/judge_kmnist.pth"
    notes, time = gan_mnist.load_weights(path), path.stat().st_mtime_ns
    train(epochs=2, dataset="kmnist", metrics_every=1, resume=True)
    assert path.stat().st_mtime_ns == time
    assert notes["accuracy"] > 0.9  # its test images are its training images here
    path.unlink()
    assert gan_mnist.main(["judge", "--dataset", "kmnist", "--data_dir", "digits"]) == 0
    assert same_tensors(gan_mnist.load_weights(path), notes)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("mnist", "judge_mnist.pth is there already: delete it to train it again"),
        ("mnist_5k", "there are judges of mnist | "),
        ("digits", "there are judges of mnist | "),
    ],
)
def test_less_than_the_whole_of_mnist_never_replaces_the_shipped_judge(
    folder, capsys, monkeypatch, dataset, words
):
    before = gan_mnist.MNIST_JUDGE.read_bytes()
    code, line = fails(capsys, "judge", "--dataset", dataset, "--data_dir", "digits")
    assert code == 2
    assert words in line
    assert gan_mnist.MNIST_JUDGE.read_bytes() == before
    monkeypatch.setattr(gan_mnist, "MNIST_JUDGE", folder / "judge.pth")
    code, line = fails(capsys, "judge", "--data_dir", "digits")
    assert code == 2 and "needs all of MNIST: set --data_dir" in line
    assert not (folder / "judge.pth").exists()


def test_a_damaged_judge_is_named(train, folder, capsys, monkeypatch):
    monkeypatch.setattr(gan_mnist, "MNIST_JUDGE", folder / "judge.pth")
    flags = ["--dataset", "mnist_5k", "--metrics_every", "1"]
    whole = gan_mnist.load_weights(gan_mnist.BUNDLE.with_name("judge_mnist.pth"))
    weights = whole["weights"]
    blind = {**whole, "weights": {**weights, "train_cov": weights["train_cov"] * math.nan}}
    narrow = {**whole, "weights": {**weights, "test_mean": torch.zeros(9)}}
    other = [{"weights": {}}, {**whole, "classes": 7}, narrow, blind]
    for content in (b"", b"no judge", *other):
        if isinstance(content, bytes):
            gan_mnist.MNIST_JUDGE.write_bytes(content)
        else:
            torch.save(content, gan_mnist.MNIST_JUDGE)
        code, line = fails(capsys, *flags)
        assert code == 2
        assert "judge.pth" in line
    assert not (folder / "checkpoints").exists()


# ── evaluate ──


@pytest.fixture
def other_test_images(folder):
    """Make the test images others than the training images: the next 1,000 of the bundle."""
    images, labels = gan_mnist.load_bundle()
    order = torch.arange(5000).view(50, 100).T.flatten()[1000:2000]
    for name, array in (("images-idx3", images[order, 0]), ("labels-idx1", labels[order].byte())):
        (folder / f"digits/MNIST/raw/t10k-{name}-ubyte").write_bytes(idx_bytes(array))


@pytest.fixture
def evaluated(train, folder, capsys, other_test_images):
    train(epochs=1, modes=0)
    capsys.readouterr()
    figures = gan_mnist.evaluate(num_samples=1000, data_dir="digits")
    return figures, capsys.readouterr().out


class Copier(gan_mnist.Generator):
    """Draws given images, in their order, instead of its own."""

    images = None

    def sample(self, num_samples, seed=None):
        return gan_mnist.to_float(Copier.images[:num_samples])


@pytest.fixture
def draws(train, folder, monkeypatch):
    """draws(images, ...): evaluate a generator that has drawn these images."""
    train(epochs=1)

    def run(images, data="mnist", **flags):
        Copier.images = images
        G = Copier(4, (4,), modes=0)
        G.about = {"dataset": data, "epochs": 1, "fd": None}
        monkeypatch.setattr(gan_mnist, "load_generator", lambda path: G)
        return gan_mnist.evaluate(num_samples=1000, data_dir="digits", **flags)

    return run


def test_evaluate_sees_real_digits_as_real_and_a_missing_class_as_missing(draws, other_test_images):
    images, labels = gan_mnist.load_bundle()
    order = torch.arange(5000).view(50, 100).T.flatten()[2000:]
    images, labels = images[order], labels[order]
    whole = draws(images)
    generated, real = whole["generated"], whole["real"]
    tolerances = {  # both are real digits that were not trained on
        "FD to training images": 1.5,
        "FD to test images": 1.5,
        "Inception Score, by the judge": 0.3,
        "precision": 0.08,
        "recall": 0.08,
        "told from training images by a new network": 0.08,
        "told by outlines alone": 0.08,
        "share below 90% confidence": 0.02,
        "classes covered": 0,
        "KL of the classes to uniform": 0.02,
        "shares of the classes": 0.04,
        "distance to the nearest training image": 0.5,
    }
    assert list(tolerances) == list(generated) == list(real)
    for name, tolerance in tolerances.items():
        assert generated[name] == pytest.approx(real[name], abs=tolerance), name
    assert 0.3 < generated["told from training images by a new network"] < 0.7
    assert 0.7 < generated["precision"] < 1 and 0.7 < generated["recall"] < 1
    assert generated["share below 90% confidence"] < 0.05
    assert generated["shares of the classes"] == pytest.approx([0.1] * 10, abs=0.01)

    lacking = draws(images[labels != 3])["generated"]
    assert lacking["classes covered"] == 9
    assert lacking["shares of the classes"][3] < 0.01
    assert lacking["recall"] < generated["recall"] - 0.04
    assert lacking["precision"] == pytest.approx(generated["precision"], abs=0.03)
    assert lacking["KL of the classes to uniform"] == pytest.approx(math.log(10 / 9), abs=0.02)
    assert lacking["FD to training images"] > 2 * generated["FD to training images"]


def test_evaluate_sees_copies_of_training_images(draws, digits, other_test_images):
    name = "distance to the nearest training image"
    figures = draws(digits[0].unsqueeze(1))
    assert figures["generated"][name] < 0.05 < 3 < figures["real"][name]


def test_evaluate_on_the_bundle_alone_measures_one_half_against_the_other(draws, folder, capsys):
    for path in (folder / "digits/MNIST/raw").iterdir():
        path.unlink()
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(3))
    figures = draws(gan_mnist.load_bundle()[0][order], data="mnist_5k")
    assert "; real: the other half of mnist_5k" in capsys.readouterr().out
    name = "distance to the nearest training image"
    assert figures["generated"][name] < 0.05 < 3 < figures["real"][name]
    shares = figures["real"]["shares of the classes"]
    assert shares == pytest.approx([0.1] * 10, abs=0.04)  # the bundle is sorted, its halves are not
    assert figures["real"]["recall"] > 0.7


def test_6_epochs_on_the_bundle_teach_a_conditional_generator_the_digit_that_is_asked_for(
    tmp_path, monkeypatch, judge
):
    """The real networks on real digits, about a minute: the longest of these tests."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    G, _ = gan_mnist.train_gan(dataset="mnist_5k", conditional=True, epochs=6, metrics_every=0)
    asked = torch.arange(2000) % 10
    _, probabilities = judge.predict(gan_mnist.to_uint8(G.sample(2000, seed=3, labels=asked)))
    right = (probabilities.argmax(1) == asked).float()
    print("right:", right.mean().item())
    assert right.mean() >= 0.95
    assert min(right[asked == digit].mean() for digit in range(10)) >= 0.8


@pytest.mark.parametrize("dataset", [None, "holidays", "/home/me/holidays"])
def test_a_generator_of_unknown_images_or_of_a_folder_is_not_evaluated(folder, capsys, dataset):
    G = gan_mnist.Generator(4, (4,), modes=2)
    if dataset:
        G.about = {"dataset": dataset, "images": 7, "checksum": "0", "epochs": 1, "fd": None}
    torch.save(G.state_dict(), "strange.pth")
    code, line = fails(capsys, "evaluate", "--model_path", "strange.pth")
    assert code == 2
    assert f"strange.pth was trained on {dataset or 'unknown images'}: evaluate needs a" in line
    assert "--dataset" not in line  # which evaluate does not take


def test_evaluate_never_writes_over_the_model(train, folder, other_test_images):
    train(epochs=1)
    model = folder / "gen.json"
    (folder / "checkpoints/generator_final.pth").rename(model)
    before = model.read_bytes()
    gan_mnist.evaluate("gen.json", num_samples=400, data_dir="digits")
    assert model.read_bytes() == before
    assert json.loads((folder / "gen.json.json").read_text())["about"]["model"] == "gen.json"


def test_figures_go_with_the_generator_that_they_measured(train, folder, other_test_images):
    train(epochs=1)
    gan_mnist.evaluate(num_samples=1000, data_dir="digits")
    figures = folder / "checkpoints/generator_final.pth.json"
    assert figures.exists()
    train(epochs=2, resume=True)
    assert not figures.exists()


def test_a_run_stopped_after_a_reading_but_before_a_checkpoint_can_be_resumed(
    train, folder, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    train(epochs=4, out="whole", metrics_every=1, save_every=3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_mnist, "draw_grid", stop)
        train(epochs=4, out="b", metrics_every=1, save_every=3)
    assert (folder / "b/checkpoints/generator_best.pth").exists()
    train(epochs=4, out="b", metrics_every=1, save_every=3, resume=True)
    for name in ("generator_best.pth", "generator_final.pth"):
        a, b = (
            gan_mnist.load_weights(folder / run / "checkpoints" / name) for run in ("whole", "b")
        )
        assert same_tensors(a, b)


def test_evaluate_prints_and_keeps_what_it_returns(evaluated, folder):
    figures, printed = evaluated
    with (folder / "checkpoints/generator_final.pth.json").open() as file:
        kept = json.load(file)
    assert {column: kept[column] for column in ("generated", "real")} == figures
    about = kept["about"]
    assert (about["dataset"], about["images"], about["epochs"]) == ("mnist", 1000, 1)
    assert (about["samples"], about["seed"], about["real"]) == (1000, 0, "test images of mnist")
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Wrote checkpoints/generator_final.pth.json"
    assert lines[0] == "checkpoints/generator_final.pth (1 epochs of mnist)"
    assert lines[1] == "generated: 1,000 samples with seed 0; real: test images of mnist"
    assert lines[3].split() == ["generated", "real", "better"]
    for key, value in figures["generated"].items():
        (line,) = [line for line in lines if line.startswith(key)]
        if key == "shares of the classes":
            shares = [float(each) / 100 for each in line.split()[-10:]]
            assert shares == pytest.approx(value, abs=1e-3)
        else:
            digits, better = gan_mnist.METRIC_LINES[key]
            numbers = [f"{value:{digits}}", f"{figures['real'][key]:{digits}}"]
            assert line.removeprefix(key).split() == [*numbers, *better.split()]


def test_evaluate_measures_the_generator_that_it_is_given(evaluated, judge):
    figures, _ = evaluated
    G = gan_mnist.load_generator("checkpoints/generator_final.pth")
    features, p = judge.predict(gan_mnist.to_uint8(G.sample(1000, 0)))
    generated = figures["generated"]
    assert generated["FD to training images"] == pytest.approx(judge.fd(features))
    assert generated["Inception Score, by the judge"] == pytest.approx(gan_mnist.inception_score(p))
    shares = generated["shares of the classes"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert generated["KL of the classes to uniform"] == pytest.approx(
        scipy.stats.entropy(shares, [0.1] * 10), abs=1e-3
    )


def test_evaluate_finds_real_digits_better_than_those_of_an_untrained_generator(evaluated):
    generated, real = evaluated[0]["generated"], evaluated[0]["real"]
    assert real["FD to training images"] < 5 < generated["FD to training images"]
    assert real["FD to test images"] < 5 < generated["FD to test images"]
    assert real["classes covered"] == 10
    assert (
        real["recall"] > generated["recall"]
    )  # precision may be high, of blobs that are all alike
    for name in ("told from training images by a new network", "told by outlines alone"):
        assert real[name] < 0.6 < 0.9 < generated[name]


def test_evaluate_refuses_too_few_samples_in_one_line(train, capsys):
    train(epochs=1)
    capsys.readouterr()
    code, line = fails(capsys, "evaluate", "--num_samples", "99", "--data_dir", "digits")
    assert code == 2
    assert "NUM_SAMPLES (--num_samples) is 99" in line and "at least 400" in line


def test_evaluate_without_a_model_says_how_to_get_one(folder, capsys, monkeypatch):
    monkeypatch.setattr(gan_mnist, "PRETRAINED", folder / "missing.pth")
    code, line = fails(capsys, "evaluate", "--data_dir", "digits")
    assert code == 2
    assert "--model_path" in line


# ── the generator that comes with the script ──


def test_the_pretrained_generator_has_the_fd_of_the_readme(judge):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fd = float(re.search(r"pretrained\.pth`[^|]*\|[^|]*FD (\d\.\d\d)", readme)[1])
    assert fd < 1
    G = gan_mnist.load_generator(gan_mnist.PRETRAINED)
    features, _ = judge.predict(gan_mnist.to_uint8(G.sample(10_000, seed=0)))
    assert judge.fd(features) == pytest.approx(fd, abs=0.02)
    assert G.about["dataset"] == "mnist" and G.about["images"] == 60_000
    assert gan_mnist.PRETRAINED.stat().st_size < 3.2e6

    path = gan_mnist.metrics_path(gan_mnist.PRETRAINED)  # what evaluate measured, for its page
    measured = json.loads(path.read_text())
    assert measured["generated"]["FD to training images"] == pytest.approx(fd, abs=0.02)
    assert measured["about"]["model"] == "checkpoints/pretrained.pth"
    told = gan_mnist.told_by_networks(G, gan_mnist.PRETRAINED)
    assert told["A network, outlines alone"] == measured["generated"]["told by outlines alone"]
