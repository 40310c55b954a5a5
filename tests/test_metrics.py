"""Metrics: each against a closed form or another implementation, and against known damage."""

import contextlib
import csv
import io
import json
import math
import re

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from conftest import EPOCH_IMAGES, ROOT, TINY, fails, idx_bytes, same_tensors, write_mnist
from sklearn.neighbors import NearestNeighbors

import gan_mnist

NEAREST = "distance to the nearest training image"


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


@pytest.fixture(scope="module")
def measure(judge, halves):
    """measure(images): metrics of images beside half of the bundle, without a new network."""

    def run(images):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gan_mnist, "two_sample_accuracy", lambda real, fake: 0.5)
            return gan_mnist.measure_images(images, halves[0][0], judge)

    return run


@pytest.fixture(scope="module")
def undamaged(measure, halves):
    return measure(halves[1][0])


def rows(folder):
    with (folder / "checkpoints/history.csv").open() as file:
        return list(csv.DictReader(file))


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
    a, b = gan_mnist.statistics(features), gan_mnist.statistics(features + 1)
    assert gan_mnist.frechet_distance(*a, *b) == pytest.approx(5, abs=1e-5)


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


def test_outlines_are_white_from_half_grey_on():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    white = gan_mnist.outlines(images)
    assert white.dtype == torch.uint8 and set(white.unique().tolist()) == {0, 255}
    assert torch.equal(white == 255, gan_mnist.to_float(images) > 0)


def test_a_new_network_tells_real_from_noise_but_not_real_from_real(halves, monkeypatch):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", EPOCH_IMAGES)
    images, others = (gan_mnist.shuffled(half[0], seed=0)[:1000] for half in halves)
    noise = 0.3 * points(1000, 28 * 28).view(1000, 1, 28, 28)
    noisy = gan_mnist.to_uint8(gan_mnist.to_float(others) + noise)
    assert abs(gan_mnist.two_sample_accuracy(images, others) - 0.5) < 0.06
    assert gan_mnist.two_sample_accuracy(images, noisy) > 0.95


class Copier:
    """In the place of a conditional generator: real digits, of the class asked for plus `wrong`."""

    classes = 10

    def __init__(self, images, labels, wrong=0):
        self.images = [images[labels == (number + wrong) % 10] for number in range(10)]

    def sample(self, num_samples, seed):
        place = torch.randint(100, (num_samples,), generator=torch.Generator().manual_seed(seed))
        chosen = [self.images[number % 10][place[number]] for number in range(num_samples)]
        return gan_mnist.to_float(torch.stack(chosen))


def test_real_digits_score_as_high_in_the_place_of_samples_and_wrong_classes_teach_nothing(
    halves, monkeypatch
):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", 3000)
    score, real = gan_mnist.teacher_scores(Copier(*halves[0]), *halves, seed=0)
    print(score, real)
    assert real > 0.95 and score > 0.93  # of 1,000 of the digits
    wrong, _ = gan_mnist.teacher_scores(Copier(*halves[0], wrong=1), *halves, seed=0)
    assert wrong < 0.02


# ── the shipped judge ──


def test_the_shipped_judge_is_small_and_right_and_says_where_it_comes_from(judge, halves):
    assert gan_mnist.MNIST_JUDGE.stat().st_size < 500_000
    assert gan_mnist.load_weights(gan_mnist.MNIST_JUDGE)["seed"] == 0
    assert judge.accuracy >= 0.993  # on the test images, which are not bundled
    for images, labels in halves:
        _, probabilities = judge.predict(images)
        assert (probabilities.argmax(1) == labels).float().mean() > 0.99
        assert torch.allclose(probabilities.sum(1), torch.ones(len(images)))


def test_the_judge_recognizes_digits_of_another_size_too(judge, halves):
    images, labels = (each[::5] for each in halves[0])
    large = torch.nn.functional.interpolate(gan_mnist.to_float(images), (64, 64), mode="bilinear")
    _, probabilities = judge.predict(gan_mnist.to_uint8(large))
    assert (probabilities.argmax(1) == labels).float().mean() > 0.97


def test_the_judge_knows_the_statistics_of_60000_training_images(judge, halves):
    features, _ = judge.predict(torch.cat([halves[0][0], halves[1][0]]))
    near = judge.fd(features)
    floor = gan_mnist.frechet_distance(
        judge.train_mean, judge.train_cov, judge.test_mean, judge.test_cov
    )
    assert 0 < near < 2  # 5,000 of the 60,000, each class equally often
    assert 0 < floor < 1


# ── known damage ──


def test_of_other_real_digits_all_metrics_are_good(undamaged):
    assert undamaged["FD to training images"] < 2
    assert undamaged["FD to test images"] < 4
    assert 9.7 < undamaged["Inception Score, by the judge"] < 10
    assert 0.7 < undamaged["precision"] < 1 and 0.7 < undamaged["recall"] < 1
    assert undamaged["share below 90% confidence"] < 0.05
    assert undamaged["classes covered"] == 10
    assert undamaged["shares of the classes"] == pytest.approx([0.1] * 10, abs=0.01)


def test_noise_moves_distance_and_precision_and_score(measure, halves, undamaged):
    noise = 0.7 * points(2500, 28 * 28).view(2500, 1, 28, 28).abs()
    damaged = measure(gan_mnist.to_uint8(gan_mnist.to_float(halves[1][0]) + noise))
    for split in ("training", "test"):
        name = f"FD to {split} images"
        assert damaged[name] > 10 * undamaged[name]
    assert damaged["precision"] < undamaged["precision"] - 0.1
    score = "Inception Score, by the judge"
    assert damaged[score] < undamaged[score] - 1


def test_two_digits_in_one_image_move_confidence(measure, halves, undamaged):
    images = halves[1][0]
    damaged = measure(torch.maximum(images, images.roll(1250, 0)))  # one five classes further
    unsure = "share below 90% confidence"
    assert damaged[unsure] > undamaged[unsure] + 0.2
    assert damaged["FD to training images"] > 20 * undamaged["FD to training images"]


def test_a_missing_digit_moves_distance_and_recall_but_not_precision(measure, halves, undamaged):
    images, labels = halves[1]
    damaged = measure(images[labels != 3])
    assert damaged["classes covered"] == 9
    assert damaged["shares of the classes"][3] < 0.01
    assert damaged["FD to training images"] > 3 * undamaged["FD to training images"]
    assert damaged["recall"] < undamaged["recall"] - 0.05
    assert damaged["precision"] == pytest.approx(undamaged["precision"], abs=0.03)
    assert damaged["Inception Score, by the judge"] == pytest.approx(9, abs=0.2)


def test_one_digit_only_is_a_score_of_1_and_a_recall_of_a_tenth(measure, halves, undamaged):
    images, labels = halves[1]
    damaged = measure(images[labels == 1])
    assert damaged["classes covered"] == 1
    assert damaged["FD to training images"] > 50 * undamaged["FD to training images"]
    assert damaged["Inception Score, by the judge"] < 1.2
    assert damaged["recall"] < 0.15


def test_copies_of_training_images_have_no_distance_to_them(halves):
    train, others = halves[0][0], halves[1][0]
    assert gan_mnist.distance_to_nearest(train[::5], train) < 0.05
    assert gan_mnist.distance_to_nearest(others[::5], train) > 3


# ── in a run ──


def test_collapse_is_seen_and_said_with_what_to_do(train, capsys, monkeypatch, halves):
    images, labels = halves[0]
    image = gan_mnist.to_float(images[labels == 7][0])
    monkeypatch.setattr(gan_mnist.Generator, "sample", lambda G, n, *_: image.expand(n, 1, 28, 28))
    _, (row,) = train(epochs=1, metrics_every=1)
    assert (row["covered"], row["missing"]) == (1, "0 1 2 3 4 5 6 8 9")
    assert row["fd"] > 100
    (warning,) = re.findall(r"(?m)^WARNING: .*\n .*", capsys.readouterr().out)
    assert "of class 0 1 2 3 4 5 6 8 9." in warning and "lower LEARNING_RATE_G" in warning


def test_fd_comes_every_metrics_every_epochs_and_at_the_end_and_chooses_the_best_generator(
    train, folder, capsys, judge
):
    _, history = train(epochs=5, metrics_every=2)
    fds = [row["fd"] for row in history]
    assert [fd is None for fd in fds] == [True, False, True, False, False]
    assert [row["fd"] for row in rows(folder)] == ["" if fd is None else str(fd) for fd in fds]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    for line, fd in zip(lines, fds, strict=True):
        assert "FD" not in line if fd is None else f"FD {fd:.2f}" in line

    lowest = min(fd for fd in fds if fd is not None)
    best = gan_mnist.load_generator("checkpoints/generator_best.pth")
    assert (best.about["epochs"], best.about["fd"]) == (1 + fds.index(lowest), lowest)
    seed = gan_mnist.stream_seed(0, gan_mnist.STREAMS["measurement"])
    assert judge.measure(best, seed)["fd"] == pytest.approx(lowest, rel=1e-6)
    final = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert final.about["fd"] == fds[-1]


def test_a_stopped_and_resumed_run_measures_what_an_undisturbed_one_does(
    train, folder, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gan_mnist, "MEASURED_SAMPLES", 500)
    often = {"metrics_every": 1, "save_every": 3}
    train(epochs=4, out="a", **often)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_mnist, "draw_grid", stop)
        train(epochs=4, out="b", **often)  # it is stopped after a measurement
    assert (folder / "b/checkpoints/generator_best.pth").exists()
    train(epochs=2, out="b", resume=True, **often)  # from epoch 1, as there is no checkpoint yet
    train(epochs=4, out="b", resume=True, **often)
    assert [row["fd"] for row in rows(folder / "a")] == [row["fd"] for row in rows(folder / "b")]
    for name in ("generator_best.pth", "generator_final.pth"):
        a, b = (gan_mnist.load_weights(folder / run / "checkpoints" / name) for run in "ab")
        assert same_tensors(a, b)


def test_measuring_changes_nothing_in_the_training_and_0_means_never(train, folder):
    a, _ = train(epochs=2, out="a", metrics_every=1)
    b, history = train(epochs=2, out="b", metrics_every=0)
    assert [row["fd"] for row in history] == [None, None]
    assert not (folder / "b/checkpoints/generator_best.pth").exists()
    ours, theirs = ({**net.state_dict(), "_extra_state": None} for net in (a, b))
    assert same_tensors(ours, theirs)  # BatchNorm's statistics too
    checkpoints = (gan_mnist.load_weights(f"{run}/checkpoints/epoch_0002.pth") for run in "ab")
    ours, theirs = ([state[part] for part in ("D", "optimizer_d")] for state in checkpoints)
    assert same_tensors(ours, theirs)


# ── judges of other data sets ──


def test_another_set_gets_a_judge_on_first_use_that_is_kept(train, folder, capsys, digits):
    (folder / "digits/MNIST").rename(folder / "digits/KMNIST")
    _, (row,) = train(epochs=1, dataset="kmnist", metrics_every=1)
    assert row["fd"] > 0
    assert "Training a judge of kmnist" in capsys.readouterr().out
    path = folder / "digits/judge_kmnist.pth"
    before = path.read_bytes()
    judge = gan_mnist.load_judge("kmnist", "digits")
    assert "Training a judge" not in capsys.readouterr().out
    assert path.read_bytes() == before
    assert judge.accuracy > 0.9  # its test images are its training images here
    features, _ = judge.predict(digits[0].unsqueeze(1))
    assert judge.fd(features) == pytest.approx(0, abs=1e-3)


def test_images_from_a_folder_have_no_judge(capsys):
    assert gan_mnist.load_judge("holidays", "nowhere") is None
    assert "no judge" in capsys.readouterr().out


def test_a_missing_or_damaged_judge_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(gan_mnist, "MNIST_JUDGE", folder / "judge.pth")
    for content in (None, b"", b"no judge", {"weights": {}}):
        if isinstance(content, bytes):
            gan_mnist.MNIST_JUDGE.write_bytes(content)
        elif content is not None:
            torch.save(content, gan_mnist.MNIST_JUDGE)
        code, line = fails(capsys, "--data_dir", "digits")
        assert code == 2
        assert "judge.pth" in line
    assert not list(folder.glob("checkpoints/*"))


# ── evaluate ──


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, digits):
    """A generator after one epoch, evaluated -> its folder, what evaluate returned and printed.

    Its test images are others than the training images: the next 500 of the bundle.
    """
    folder = tmp_path_factory.mktemp("evaluated")
    raw = write_mnist(folder / "digits", *digits)
    images, labels = gan_mnist.load_bundle()
    order = torch.arange(5000).view(50, 100).T.flatten()[1000:1500]
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(images[order, 0]))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels[order].byte()))
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gan_mnist, "EPOCH_IMAGES", EPOCH_IMAGES)
        gan_mnist.train_gan(**{**TINY, "modes": 0}, epochs=1, data_dir="digits")
        with contextlib.redirect_stdout(printed):
            metrics = gan_mnist.evaluate(data_dir="digits")
    return folder, metrics, printed.getvalue()


def test_evaluate_prints_and_keeps_what_it_returns(evaluated):
    folder, metrics, printed = evaluated
    kept = json.loads((folder / "checkpoints/generator_final.pth.json").read_text())
    assert {column: kept[column] for column in ("generated", "real")} == metrics
    about = kept["about"]
    assert (about["dataset"], about["images"], about["epochs"]) == ("mnist", 1000, 1)
    assert (about["samples"], about["seed of samples"]) == (500, 0)
    assert about["real"] == "test images of mnist"
    steps, _, table = printed.partition("\n\n")
    kinds = ("generated", "real")
    assert steps.splitlines() == [f"Measuring 500 {kind} images" for kind in kinds]
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "checkpoints/generator_final.pth (1 epochs of mnist)"
    assert "500 samples with seed 0" in lines[1]
    assert "checkpoints/generator_final.pth.json" in lines[-1]
    for key, value in metrics["generated"].items():
        (line,) = [line for line in lines if line.startswith(key)]
        if key == "shares of the classes":
            shares = [float(each) / 100 for each in line.split()[-10:]]
            assert shares == pytest.approx(value, abs=1e-3)
        else:
            digits, better = gan_mnist.METRIC_LINES[key]
            numbers = [f"{value:{digits}}", f"{metrics['real'][key]:{digits}}"]
            assert line.removeprefix(key).split() == [*numbers, *better.split()]


def test_evaluate_measures_the_generator_that_it_is_given(evaluated, judge, digits):
    folder, metrics, _ = evaluated
    generated = metrics["generated"]
    G = gan_mnist.load_generator(folder / "checkpoints/generator_final.pth")
    images = gan_mnist.to_uint8(G.sample(500, 0))
    features, p = judge.predict(images)
    assert generated["FD to training images"] == pytest.approx(judge.fd(features))
    assert generated["Inception Score, by the judge"] == pytest.approx(gan_mnist.inception_score(p))
    counts = np.bincount(p.argmax(1), minlength=10)
    assert generated["shares of the classes"] == pytest.approx(counts / 500, abs=1e-3)
    train = (digits[0] / 255).flatten(1)
    distances, _ = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(images.flatten(1) / 255)
    assert generated[NEAREST] == pytest.approx(np.median(distances), abs=1e-3)


def test_evaluate_finds_real_digits_better_than_those_of_an_untrained_generator(evaluated):
    generated, real = evaluated[1]["generated"], evaluated[1]["real"]
    for name in ("FD to training images", "FD to test images"):
        assert real[name] < 10 < generated[name]
    assert real["classes covered"] == 10
    assert real["recall"] > generated["recall"]  # blobs that are all alike may be precise
    assert real["told by outlines alone"] < 0.6 < 0.9 < generated["told by outlines alone"]


def test_evaluate_on_the_bundle_measures_one_half_against_the_other(folder, monkeypatch):
    images = gan_mnist.shuffled(gan_mnist.load_bundle()[0], seed=3)
    monkeypatch.setattr(gan_mnist, "two_sample_accuracy", lambda real, fake: 0.5)
    monkeypatch.setattr(  # copies of training images
        gan_mnist.Generator, "sample", lambda G, n, seed: gan_mnist.to_float(images[:n])
    )
    G = gan_mnist.Generator(4, (4,), modes=0)
    G.about = {"dataset": "mnist_5k", "epochs": 1, "fd": None}
    torch.save(G.state_dict(), "copier.pth")
    metrics = gan_mnist.evaluate("copier.pth", data_dir="nowhere")
    kept = json.loads((folder / "copier.pth.json").read_text())
    assert kept["about"]["samples"] == 2500
    assert "other half" in kept["about"]["real"]
    assert metrics["generated"][NEAREST] < 0.05 < 3 < metrics["real"][NEAREST]
    shares = metrics["real"]["shares of the classes"]
    assert shares == pytest.approx([0.1] * 10, abs=0.02)  # the bundle is sorted, its halves are not
    train, reference, real, _ = gan_mnist.choose_images(G, "mnist_5k", 10_000, 0, "nowhere")
    together = torch.cat([reference, real])
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, train.numpy()))


@pytest.mark.parametrize(
    ("about", "flags", "words"),
    [
        ({}, [], "trained on unknown images"),
        ({"dataset": "/home/me/holidays"}, [], "trained on /home/me/holidays"),
        ({"dataset": "mnist"}, ["--num_samples", "99"], "NUM_SAMPLES (--num_samples) is 99"),
    ],
)
def test_evaluate_says_in_one_line_what_it_cannot_measure(folder, capsys, about, flags, words):
    G = gan_mnist.Generator(4, (4,), modes=2)
    G.about = about
    torch.save(G.state_dict(), "strange.pth")
    flags = ["--model_path", "strange.pth", "--data_dir", "digits", *flags]
    code, line = fails(capsys, "evaluate", *flags)
    assert code == 2
    assert words in line


def test_evaluate_without_a_model_says_how_to_get_one(folder, capsys, monkeypatch):
    monkeypatch.setattr(gan_mnist, "PRETRAINED", folder / "missing.pth")
    code, line = fails(capsys, "evaluate", "--data_dir", "digits")
    assert code == 2
    assert "--model_path" in line


def test_metrics_go_with_the_generator_that_they_measured(train, folder, monkeypatch):
    monkeypatch.setattr(gan_mnist, "two_sample_accuracy", lambda real, fake: 0.5)
    train(epochs=1)
    gan_mnist.evaluate(num_samples=400, data_dir="digits")
    metrics = folder / "checkpoints/generator_final.pth.json"
    assert metrics.exists()
    train(epochs=2, resume=True)
    assert not metrics.exists()


# ── the generator that comes with the script ──


@pytest.mark.parametrize("name", ["pretrained", "pretrained_conditional"])
def test_the_pretrained_generators_have_the_fd_of_the_readme(judge, name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    fd = float(re.search(rf"{name}\.pth`[^|]*\|[^|]*FD (\d\.\d\d)", readme)[1])
    assert fd < 1.2
    path = ROOT / f"checkpoints/{name}.pth"
    G = gan_mnist.load_generator(path)
    features, _ = judge.predict(gan_mnist.to_uint8(G.sample(10_000, seed=0)))
    assert judge.fd(features) == pytest.approx(fd, abs=0.02)
    assert G.about["dataset"] == "mnist" and G.about["images"] == 60_000
    assert path.stat().st_size < 3.2e6

    measured = json.loads(gan_mnist.metrics_path(path).read_text())  # by evaluate, for its page
    assert measured["generated"]["FD to training images"] == pytest.approx(fd, abs=0.02)
    assert measured["about"]["model"] == f"checkpoints/{name}.pth"
    told = gan_mnist.told_by_networks(path)
    assert told["A network, outlines alone"] == measured["generated"]["told by outlines alone"]


def test_the_digit_that_is_asked_for_is_drawn(judge):
    """Against a conditional generator whose labels say little; the judge errs in 0.5%."""
    G = gan_mnist.load_generator(gan_mnist.PRETRAINED_CONDITIONAL)
    asked = torch.arange(10_000) % 10
    _, probabilities = judge.predict(gan_mnist.to_uint8(G.sample(10_000, seed=0, labels=asked)))
    right = (probabilities.argmax(1) == asked).float()
    assert right.mean() >= 0.99
    assert min(right[asked == digit].mean() for digit in range(10)) > 0.97


def test_evaluate_prints_the_score_of_a_conditional_generator_as_a_teacher(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(gan_mnist, "two_sample_accuracy", lambda real, fake: 0.5)
    monkeypatch.setattr(gan_mnist, "teacher_scores", lambda G, train, test, seed: (0.875, 0.9375))
    G = gan_mnist.Generator(8, (16,), modes=0, classes=10)
    G.about = {"dataset": "mnist", "epochs": 1, "fd": None}
    torch.save(G.state_dict(), "conditional.pth")
    metrics = gan_mnist.evaluate("conditional.pth", data_dir="digits")
    assert metrics["generated"]["score as a teacher"] == 0.875
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("score as a")]
    assert line.split()[-3:] == ["87.50%", "93.75%", "higher"]
