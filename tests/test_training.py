"""Training: the step is the paper's, and nothing that a run has earned is lost."""

import copy
import csv
import fcntl
import math
import os
import pty
import random
import re
import resource
import signal
import struct
import termios
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, TINY_FLAGS, fails, finish, same_tensors, start
from PIL import Image

import gan_mnist


def make_gan(shift=False, classes=0, **settings):
    config = gan_mnist.make_config(**{**TINY, "device": "cpu", "precision": "fp32", **settings})
    return gan_mnist.GAN(config, (1, 28, 28), shift, classes)


def step(gan, real):
    return gan.train_step(real, torch.arange(len(real)) % 10)


def real_batches(digits, number):
    return gan_mnist.to_float(digits[0].unsqueeze(1)).split(100)[:number]


# ── the step ──


def penalty(D, images):
    """Mean of |d logit / d image|², of each image by itself."""
    norms = []
    for image in images:
        image = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(D(image[None])[0], image, create_graph=True)
        norms.append(gradient.square().sum())
    return torch.stack(norms).mean()


def test_training_equals_the_textbook_loop(digits):
    """Against a second way: separate passes for real and fake, BCELoss on sigmoids, plain Adam,
    the penalty, eight times as large in every eighth step, image by image, gradients clipped."""
    clip = 0.05  # below the norm of all gradients
    options = {"label_smoothing": 0.1, "grad_clip": clip, "gradient_penalty": 0.1}
    gan = make_gan(beta1=0.5, d_hidden=(32, 16), **options)
    norms_d, norms_g = [], []
    G, D = copy.deepcopy(gan.G), copy.deepcopy(gan.D)
    optimizer_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(D.parameters(), 5e-4, betas=(0.5, 0.999))
    ones, zeros = torch.ones(100), torch.zeros(100)
    for number, real in enumerate(real_batches(digits, 9)):
        torch.manual_seed(number)
        d_loss, g_loss, accuracy = step(gan, real)

        torch.manual_seed(number)
        fake = G(torch.randn(100, 8))
        on_real, on_fake = torch.sigmoid(D(real)), torch.sigmoid(D(fake.detach()))
        loss_d = F.binary_cross_entropy(on_real, 0.9 * ones) + F.binary_cross_entropy(
            on_fake, zeros
        )
        optimizer_d.zero_grad()
        (
            loss_d
            + (0.4 * (penalty(D, real) + penalty(D, fake.detach())) if number % 8 == 0 else 0)
        ).backward()
        norms_d.append(torch.nn.utils.clip_grad_norm_(D.parameters(), clip))
        optimizer_d.step()
        loss_g = F.binary_cross_entropy(torch.sigmoid(D(fake)), ones)
        optimizer_g.zero_grad()
        loss_g.backward()
        norms_g.append(torch.nn.utils.clip_grad_norm_(G.parameters(), clip))
        optimizer_g.step()

        assert d_loss.item() == pytest.approx(loss_d.item(), rel=1e-4)
        assert g_loss.item() == pytest.approx(loss_g.item(), rel=1e-4)
        right = ((on_real > 0.5).sum() + (on_fake <= 0.5).sum()) / 200
        assert accuracy.item() == pytest.approx(right.item())
    assert min(norms_d) > clip and min(norms_g) > clip
    for ours, theirs in zip(gan.D.parameters(), D.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)
    z = torch.randn(
        100, 8
    )  # G's biases before BatchNorm have no effect and drift with the rounding
    assert torch.allclose(gan.G(z), G(z), atol=2e-4)


def test_a_conditional_step_shows_d_the_labels_of_real_and_the_same_ones_of_fake(digits):
    gan = make_gan(conditional=True, classes=10, modes=0)
    G, D = copy.deepcopy(gan.G), copy.deepcopy(gan.D)
    real, labels = real_batches(digits, 1)[0], digits[1][:100].long()
    torch.manual_seed(0)
    d_loss, *_ = gan.train_step(real, labels)
    torch.manual_seed(0)
    told = torch.zeros(100, 10)
    told[torch.arange(100), labels] = 1
    fake = G.layers(torch.cat([torch.randn(100, 8), told], 1))
    logits = [
        D.layers(torch.cat([images.flatten(1) + 1, told], 1)).squeeze(1) for images in (real, fake)
    ]
    expected = gan_mnist.discriminator_loss(*logits)
    assert d_loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "wgan_gp"])
def test_two_steps_of_d_and_one_of_g_equal_the_textbook_loop_of_the_loss(digits, loss):
    """Against a second way: losses by hand, passes of their own, penalty image by image."""
    gan = make_gan(loss=loss, d_steps=2, gradient_penalty=10.0 if loss == "wgan_gp" else 0.0)
    G, D = copy.deepcopy(gan.G), copy.deepcopy(gan.D)
    optimizer_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.0, 0.999))
    optimizer_d = torch.optim.Adam(D.parameters(), 5e-4, betas=(0.0, 0.999))
    for number, real in enumerate(torch.cat(real_batches(digits, 8)).split(200)):
        torch.manual_seed(number)
        step(gan, real)

        torch.manual_seed(number)
        for images in real.split(100):
            fake = G(torch.randn(100, 8))
            if loss == "hinge":
                loss_d = (1 - D(images)).clamp(min=0).mean() + (1 + D(fake)).clamp(min=0).mean()
            else:
                share = torch.rand(100, 1, 1, 1)
                norms = []
                for image in images + share * (fake.detach() - images):
                    image.requires_grad_()
                    (gradient,) = torch.autograd.grad(D(image[None])[0], image, create_graph=True)
                    norms.append(torch.linalg.vector_norm(gradient))
                loss_d = D(fake).mean() - D(images).mean()
                loss_d = loss_d + 10 * (torch.stack(norms) - 1).square().mean()
            optimizer_d.zero_grad()
            loss_d.backward(inputs=list(D.parameters()))
            optimizer_d.step()
        optimizer_g.zero_grad()
        (-D(fake).mean()).backward()
        optimizer_g.step()
    for ours, theirs in zip(gan.D.parameters(), D.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)
    z = torch.randn(100, 8)
    assert torch.allclose(gan.G(z), G(z), atol=2e-4)


def test_each_step_moves_its_own_network_alone(digits):
    gan = make_gan()
    d_before, g_before = copy.deepcopy(gan.D.state_dict()), copy.deepcopy(gan.G.state_dict())
    fake = gan.G(torch.randn(50, 8))
    gan_mnist.descend(gan_mnist.generator_loss(gan.D(fake)), gan.optimizer_g)
    assert same_tensors(gan.D.state_dict(), d_before)
    assert all(parameter.grad is None for parameter in gan.D.parameters())
    moved = [
        name
        for name in g_before
        if "weight" in name and not torch.equal(gan.G.state_dict()[name], g_before[name])
    ]
    assert len(moved) == 3  # Linear, BatchNorm, Linear
    d_before, g_before = copy.deepcopy(gan.D.state_dict()), copy.deepcopy(gan.G.state_dict())
    losses = gan_mnist.discriminator_loss(gan.D(real_batches(digits, 1)[0]), gan.D(fake))
    gan_mnist.descend(losses, gan.optimizer_d)
    assert same_tensors(gan.G.state_dict(), g_before)
    assert not any(torch.equal(gan.D.state_dict()[name], d_before[name]) for name in d_before)


def test_dropout_reaches_every_layer_of_d_and_no_other_network():
    gan = make_gan(dropout=0.3, d_hidden=(32, 16))
    shares = [
        [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] for net in (gan.D, gan.G)
    ]
    assert shares == [[0.3, 0.3], []]


def test_grad_clip_limits_the_norm_of_the_gradient():
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    gan_mnist.descend((10 * parameter).sum(), optimizer, grad_clip=0.5)
    assert parameter.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_average_of_g_is_the_exponential_average_of_weights_and_batchnorm_statistics(digits):
    gan = make_gan(ema_decay=0.5)
    expected = copy.deepcopy(gan.G_ema.state_dict())
    for steps, real in enumerate(real_batches(digits, 9), 1):
        step(gan, real)
        decay = min(0.5, (1 + steps) / (10 + steps))
        for name, value in gan.G.state_dict().items():
            if name != "_extra_state":
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in gan.G_ema.state_dict().items():
        if "num_batches" not in name and name != "_extra_state":
            assert torch.allclose(value, expected[name], atol=1e-6), name


def test_shifts_reach_real_and_fake_alike_from_epoch_7_on(digits, monkeypatch):
    shifted = []
    monkeypatch.setattr(
        gan_mnist, "random_shift", lambda images: shifted.append(len(images)) or images
    )
    gan = make_gan(shift=True)
    gan.epoch = 6
    step(gan, real_batches(digits, 1)[0])
    assert not shifted
    gan.epoch = 7
    step(gan, real_batches(digits, 1)[0])
    assert shifted == [200, 100]  # D sees real and fake, then G's step the same fakes


@pytest.mark.parametrize(
    ("augment", "epoch_images", "shifted"),
    [
        ("auto", 1499, False),  # 1,000 images are more than two thirds of that
        ("auto", 1500, True),
        ("shift", 1000, True),
        ("none", 1500, False),
    ],
)
def test_auto_shifts_where_images_are_few(
    train, capsys, monkeypatch, augment, epoch_images, shifted
):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", epoch_images)
    shifts, train_epoch = [], gan_mnist.GAN.train_epoch
    monkeypatch.setattr(
        gan_mnist.GAN,
        "train_epoch",
        lambda gan, loader: shifts.append(gan.shift) or train_epoch(gan, loader),
    )
    train(epochs=1, augment=augment)
    assert shifts == [shifted]
    assert ("shifts from epoch 7" in capsys.readouterr().out) == shifted


def test_bf16_training_stays_close_to_fp32(digits):
    losses = {}
    for precision in ("fp32", "bf16"):
        gan = make_gan(precision=precision)
        torch.manual_seed(0)
        losses[precision] = torch.stack([step(gan, real) for real in real_batches(digits, 9)])
        assert all(p.dtype == torch.float32 for p in [*gan.G.parameters(), *gan.D.parameters()])
    assert not torch.equal(losses["fp32"], losses["bf16"])
    assert torch.allclose(losses["fp32"][:, :2], losses["bf16"][:, :2], atol=0.05)


def test_learning_rates_fall_in_a_line_from_start_to_end_whatever_epochs_is(train, monkeypatch):
    rates = []
    original = gan_mnist.GAN.train_step

    def note_rate(self, real, labels):
        rates.append(
            (
                self.epoch,
                self.optimizer_g.param_groups[0]["lr"],
                self.optimizer_d.param_groups[0]["lr"],
            )
        )
        return original(self, real, labels)

    monkeypatch.setattr(gan_mnist.GAN, "train_step", note_rate)
    rest = {"learning_rate_g": 0.01, "learning_rate_d": 0.1, "batch_size": 1000}
    train(epochs=5, lr_decay_start=2, lr_decay_end=4, **rest)
    shares = [1, 1, 0.51, 0.02, 0.02]
    expected = [(n, 0.01 * share, 0.1 * share) for n, share in enumerate(shares, 1)]
    assert [pytest.approx(row) for row in expected] == rates
    rates.clear()
    train(epochs=3, out="b", lr_decay_start=1, lr_decay_end=0, **rest)
    assert [pytest.approx(row) for row in rates] == [(n, 0.01, 0.1) for n in (1, 2, 3)]
    rates.clear()  # an end before the start holds all the same
    train(epochs=4, out="c", lr_decay_start=9, lr_decay_end=3, **rest)
    shares = [1, 1, 0.02, 0.02]
    expected = [(n, 0.01 * share, 0.1 * share) for n, share in enumerate(shares, 1)]
    assert [pytest.approx(row) for row in expected] == rates


@pytest.mark.parametrize(
    "system",
    [
        {},
        {"loss": "hinge", "spectral_norm": True},
        {"loss": "wgan_gp", "d_steps": 5, "gradient_penalty": 10.0, "beta2": 0.9},
    ],
)
def test_samples_come_close_to_the_digits_in_mean_and_spread_of_every_pixel(digits, system):
    real = gan_mnist.to_float(digits[0].unsqueeze(1))
    gan = make_gan(
        latent_dim=32,
        g_hidden=(128,),
        d_hidden=(128,),
        learning_rate_g=2e-3,
        learning_rate_d=1e-3,
        **system,
    )
    distances = []
    for number in range(601):
        torch.manual_seed(number)
        if number in (0, 600):
            drawn = gan.G_ema.sample(1000, seed=0)
            distances += [
                (drawn.mean(0) - real.mean(0)).abs().mean(),
                (drawn.std(0) - real.std(0)).abs().mean(),
            ]
        step(gan, real[torch.randperm(1000)[: 100 * gan.config.d_steps]])
    assert distances[0] > 0.7 and distances[1] > 0.3
    assert distances[2] < 0.1 and distances[3] < 0.15


# ── the files of a run ──


def test_every_epoch_writes_a_grid_a_row_and_a_checkpoint_and_the_end_the_rest(train, folder):
    generator, history = train(epochs=5, keep_checkpoints=2)
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        *(f"epoch_{n:04d}.png" for n in range(1, 6)),
        "loss_curves.png",
        "real_samples.png",
        "training.gif",
    ]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "epoch_0004.pth",
        "epoch_0005.pth",
        "generator_final.pth",
        "history.csv",
    ]
    with (folder / "checkpoints/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    read = [{key: float(value) if value else None for key, value in row.items()} for row in rows]
    assert read == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    loaded = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert torch.equal(loaded.sample(4, seed=1), generator.sample(4, seed=1))
    assert loaded.about["data"].startswith("mnist, 1000 images")
    assert loaded.about["epochs"] == 5


def test_grids_are_the_averaged_generators_from_the_same_z_and_real_samples_are_real(
    train, folder, digits
):
    generator, _ = train(epochs=2, seed=3)
    for epoch in (1, 2):
        checkpoint = gan_mnist.load_weights(f"checkpoints/epoch_000{epoch}.pth")
        generator.load_state_dict(checkpoint["G_ema"])
        gan_mnist.save_grid(folder / "expected.png", generator.sample(9, seed=3))
        drawn = (folder / f"samples/epoch_000{epoch}.png").read_bytes()
        assert drawn == (folder / "expected.png").read_bytes()
    with Image.open(folder / "samples/real_samples.png") as picture:
        pixels = torch.tensor(np.array(picture))
    tiles = pixels[2:].unfold(0, 28, 30)[:, 2:].unfold(1, 28, 30).reshape(9, 28, 28)
    known = {image.numpy().tobytes() for image in digits[0]}
    assert len({tile.numpy().tobytes() for tile in tiles} & known) == 9


def test_save_every_and_the_last_epoch_get_checkpoints(train, folder):
    train(epochs=5, save_every=2, keep_checkpoints=0)
    assert [p.name for p in gan_mnist.numbered(folder / "checkpoints", ".pth")] == [
        "epoch_0002.pth",
        "epoch_0004.pth",
        "epoch_0005.pth",
    ]


def assert_same_run(a, b):
    """All files of two runs are the same to the byte, but for times and the names of folders."""
    names = {p.relative_to(a) for p in a.rglob("*") if p.is_file()}
    assert names == {p.relative_to(b) for p in b.rglob("*") if p.is_file()}
    assert not [name for name in names if name.suffix == ".part"]
    for name in names:
        if name.suffix == ".csv":
            rows_a, rows_b = (list(csv.DictReader((x / name).open())) for x in (a, b))
            timeless = ("epoch", "d_loss", "g_loss", "d_accuracy")
            assert [[r[k] for k in timeless] for r in rows_a] == [
                [r[k] for k in timeless] for r in rows_b
            ]
        elif name.name.startswith("epoch_") and name.suffix == ".pth":
            state_a, state_b = gan_mnist.load_weights(a / name), gan_mnist.load_weights(b / name)
            for key in ("G", "D", "G_ema", "optimizer_g", "optimizer_d", "epoch", "steps", "data"):
                assert same_tensors(state_a[key], state_b[key]), (name, key)
        else:
            assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize(
    ("first", "extra"),
    [
        (2, {}),
        (
            7,
            {
                "dropout": 0.3,
                "augment": "shift",
                "grad_clip": 1.0,
                "save_every": 3,
                "keep_checkpoints": 0,
            },
        ),
        (
            2,
            {
                "loss": "wgan_gp",
                "d_steps": 2,
                "spectral_norm": True,
                "conditional": True,
                "precision": "bf16",
            },
        ),
    ],
)
def test_a_resumed_run_equals_one_of_as_many_epochs_at_once_bit_for_bit(
    train, folder, first, extra
):
    train(epochs=first + 3, out="at_once", **extra)
    train(epochs=first, out="resumed", **extra)
    torch.rand(17)  # whatever happens in between does not matter
    train(epochs=first + 3, out="resumed", resume=True, **extra)
    if "save_every" in extra:  # the first run kept its last epoch, which is no third
        (folder / f"resumed/checkpoints/epoch_{first:04d}.pth").unlink()
    assert_same_run(folder / "at_once", folder / "resumed")


def test_two_threads_resume_bit_for_bit_too(folder):
    wide = [*TINY_FLAGS, "--g_hidden", "512", "--d_hidden", "512"]
    for out, more in (
        ("a", ["--epochs", "3"]),
        ("b", ["--epochs", "1"]),
        ("b", ["--epochs", "3", "--resume"]),
    ):
        folders = ["--samples_dir", out, "--checkpoint_dir", f"{out}/checkpoints"]
        code, _, err = finish(start(*wide, *folders, *more, threads=2))
        assert code == 0, err
    assert_same_run(folder / "a", folder / "b")


def test_resuming_a_finished_run_writes_its_final_files_again(train, folder):
    train(epochs=2)
    final = folder / "checkpoints/generator_final.pth"
    content = final.read_bytes()
    final.unlink()
    train(epochs=2, resume=True)
    assert final.read_bytes() == content


def test_resume_without_a_checkpoint_starts_and_says_so(train, capsys):
    _, history = train(epochs=1, resume=True)
    assert len(history) == 1
    assert "No checkpoint in checkpoints yet: starting with epoch 1" in capsys.readouterr().out


def damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "truncated": content[:middle],
            "text": b"hello",
            "shorter by a byte": content[:-1],
            "a flipped bit": content[:middle]
            + bytes([content[middle] ^ 1])
            + content[middle + 1 :],
        }[how]
    )


@pytest.mark.parametrize(
    "how", ["empty", "truncated", "text", "shorter by a byte", "a flipped bit"]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    train, folder, capsys, how
):
    train(epochs=4, out="at_once")
    train(epochs=3, out="resumed")
    damage(folder / "resumed/checkpoints/epoch_0003.pth", how)
    train(epochs=4, out="resumed", resume=True)
    out = capsys.readouterr().out
    assert "WARNING: resumed/checkpoints/epoch_0003.pth is damaged" in out
    assert "Going on from resumed/checkpoints/epoch_0002.pth" in out
    assert_same_run(folder / "at_once", folder / "resumed")


def test_when_all_checkpoints_are_damaged_resume_stops_and_deletes_nothing(train, folder):
    train(epochs=2)
    for path in (folder / "checkpoints").glob("epoch_*.pth"):
        damage(path, "truncated")
    with pytest.raises(ValueError, match=r"all checkpoints in checkpoints are damaged: start anew"):
        train(epochs=3, resume=True)
    assert len(list((folder / "checkpoints").glob("epoch_*.pth"))) == 2


class Evil:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


def test_code_in_a_checkpoint_is_refused_and_not_run(train, folder, capsys):
    train(epochs=1)
    torch.save({"epoch": Evil()}, folder / "checkpoints/epoch_0001.pth")
    with pytest.raises(ValueError, match=r"all checkpoints in checkpoints are damaged: start anew"):
        train(epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"epoch_0001.pth is damaged, or holds more or other"):
        gan_mnist.load_generator("checkpoints/epoch_0001.pth")
    assert "code in a checkpoint was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"g_hidden": (16, 16)},
        {"d_hidden": (8,)},
        {"latent_dim": 9},
        {"modes": 0},
        {"spectral_norm": True},
    ],
)
def test_resume_with_another_network_is_refused_by_the_name_of_the_constant(train, change):
    train(epochs=1)
    (name,) = change
    with pytest.raises(ValueError, match=f"trained with {name.upper()} .* now it is .*"):
        train(epochs=2, resume=True, **change)


def test_resume_with_other_data_is_refused(train, folder):
    train(epochs=1)
    path = folder / "digits/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(ValueError, match=r"trained with DATA mnist, 1000 images"):
        train(epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"DATA mnist, .* now it is mnist_5k, 5000 images"):
        train(epochs=2, resume=True, dataset="mnist_5k")


def optimizer_of_another_shape(state):
    state["optimizer_g"]["state"][0]["exp_avg"] = torch.zeros(2, 2)


CRAFTED = [
    optimizer_of_another_shape,
    lambda state: state["optimizer_d"].update(state={}),
    lambda state: state.update(G={}),
    lambda state: state.update(D=None),
    lambda state: state.update(config=None),
    lambda state: state.update(epoch=1),
    lambda state: state.update(epoch="2"),
    lambda state: state.update(history=[]),
    lambda state: state.update(history=None),
    lambda state: state.pop("steps"),
]


@pytest.mark.parametrize("craft", CRAFTED)
def test_a_checkpoint_that_does_not_fit_in_itself_is_refused_in_one_line(train, folder, craft):
    train(epochs=2)
    path = folder / "checkpoints/epoch_0002.pth"
    state = gan_mnist.load_weights(path)
    craft(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"epoch_0002.pth is no checkpoint of this script"):
        train(epochs=3, resume=True)


def test_a_renamed_checkpoint_is_refused(train, folder):
    train(epochs=2)
    (folder / "checkpoints/epoch_0002.pth").rename(folder / "checkpoints/epoch_0099.pth")
    with pytest.raises(ValueError, match=r"epoch_0099.pth is no checkpoint"):
        train(epochs=100, resume=True)


def test_old_checkpoints_go_before_the_newest_whole_one_whatever_damaged_ones_lie_there(
    train, folder
):
    train(epochs=4)
    for number in (3, 4):
        damage(folder / f"checkpoints/epoch_000{number}.pth", "truncated")
    train(epochs=3, resume=True, keep_checkpoints=1)
    assert [p.name for p in gan_mnist.numbered("checkpoints", ".pth")] == [
        "epoch_0003.pth",
        "epoch_0004.pth",
    ]
    damage(folder / "checkpoints/epoch_0004.pth", "empty")
    _, history = train(epochs=4, resume=True)
    assert len(history) == 4


def test_a_file_that_may_not_be_read_is_not_called_damaged(train, folder, monkeypatch):
    train(epochs=1)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(gan_mnist.zipfile, "ZipFile", refuse)
    with pytest.raises(PermissionError, match=r"epoch_0001.pth cannot be read: Permission denied"):
        train(epochs=2, resume=True)


def test_resume_without_a_checkpoint_spares_what_another_run_has_earned(train, folder):
    train(epochs=3)
    for path in (folder / "checkpoints").glob("epoch_*.pth"):
        path.unlink()
    with pytest.raises(ValueError, match=r"generator_final.pth is there from an earlier run"):
        train(epochs=3, resume=True)
    with pytest.raises(ValueError, match=r"epoch_0003.png is there from an earlier run"):
        train(epochs=3, resume=True, checkpoint_dir="elsewhere")
    (folder / "checkpoints/generator_final.pth").unlink()
    for number in (2, 3):  # as if killed between its first grid and its first checkpoint
        (folder / f"samples/epoch_000{number}.png").unlink()
    train(epochs=1, resume=True)


def test_overwriting_deletes_nothing_when_it_cannot_write(train, folder):
    train(epochs=1)
    (folder / "file").write_text("in the way")
    with pytest.raises(OSError, match="file/out"):
        train(epochs=1, overwrite=True, samples_dir="file/out")
    assert (folder / "checkpoints/generator_final.pth").exists()


def test_a_finished_run_can_be_resumed_into_a_new_folder_of_pictures(train, folder):
    train(epochs=2)
    train(epochs=2, resume=True, samples_dir="new")
    new, old = folder / "new/epoch_0002.png", folder / "samples/epoch_0002.png"
    assert new.read_bytes() == old.read_bytes()
    assert (folder / "new/training.gif").exists()


def test_resume_to_fewer_epochs_than_done_is_refused(train):
    train(epochs=2)
    with pytest.raises(
        ValueError, match=r"EPOCHS is 1: checkpoints/epoch_0002.pth has done 2, so raise it"
    ):
        train(epochs=1, resume=True)


def test_resume_with_another_learning_rate_goes_on_and_says_so(train, capsys):
    train(epochs=1)
    train(epochs=2, resume=True, learning_rate_g=0.5, beta1=0.75)
    changes = [line for line in capsys.readouterr().out.splitlines() if "Changed" in line]
    assert sorted(changes) == [
        "Changed since checkpoints/epoch_0001.pth: BETA1 0.0 -> 0.75",
        "Changed since checkpoints/epoch_0001.pth: LEARNING_RATE_G 0.001 -> 0.5",
    ]
    group = gan_mnist.load_weights("checkpoints/epoch_0002.pth")["optimizer_g"]["param_groups"][0]
    assert (group["lr"], group["betas"]) == (0.5, (0.75, 0.999))


def test_a_new_run_never_mixes_with_an_earlier_one(train, folder):
    train(epochs=3)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"earlier run: go on by --resume, .* --overwrite"):
        train(epochs=1)
    with pytest.raises(ValueError, match=r"earlier run"):
        train(epochs=1, checkpoint_dir="elsewhere")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "samples/holiday.png").write_bytes(b"not ours")
    (folder / "checkpoints/epoch_0001.json").write_text("figures of the run before")
    train(epochs=1, overwrite=True)
    assert (folder / "samples/holiday.png").read_bytes() == b"not ours"
    assert [p.name for p in gan_mnist.numbered("checkpoints", ".pth")] == ["epoch_0001.pth"]
    assert [p.name for p in gan_mnist.numbered("samples", ".png")] == ["epoch_0001.png"]
    assert not (folder / "checkpoints/epoch_0001.json").exists()


@pytest.mark.parametrize("name", ["best", "final"])
def test_a_generator_that_is_left_is_never_deleted_without_overwrite_nor_another_file(
    train, folder, name
):
    (folder / "checkpoints").mkdir()
    for suffix in ("pth", "onnx"):
        (folder / f"checkpoints/generator_{name}.{suffix}").write_bytes(b"dear to me")
    with pytest.raises(ValueError, match=f"generator_{name}.pth is there from an earlier run"):
        train(epochs=1)
    for suffix in ("pth", "onnx"):
        assert (folder / f"checkpoints/generator_{name}.{suffix}").read_bytes() == b"dear to me"
    train(epochs=1, overwrite=True)
    assert (folder / f"checkpoints/generator_{name}.onnx").read_bytes() == b"dear to me"


def test_a_checkpoint_that_does_not_know_a_newer_setting_can_be_resumed(train, folder):
    train(epochs=1)
    path = folder / "checkpoints/epoch_0001.pth"
    state = gan_mnist.load_weights(path)
    del state["config"]["spectral_norm"], state["config"]["loss"]
    torch.save(state, path)
    _, history = train(epochs=2, resume=True)
    assert len(history) == 2


def test_a_run_on_a_folder_of_colour_pictures_resumes_as_any_other(train, folder):
    for number in range(60):
        path = folder / f"pictures/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (4 * number, 99, 0)).save(path)
    pictures = {"dataset": "pictures", "image_size": 8, "conditional": True}
    train(epochs=3, out="at_once", **pictures)
    train(epochs=1, out="resumed", **pictures)
    pictures["dataset"] = "./pictures/"  # the same one
    train(epochs=3, out="resumed", resume=True, **pictures)
    assert_same_run(folder / "at_once", folder / "resumed")


def test_on_a_terminal_a_bar_shows_batches_speed_and_both_losses(folder):
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = start(*TINY_FLAGS, "--epochs", "1", "--batch_size", "10", cwd=folder, stderr=screen)
    finish(process)
    shown = os.read(terminal, 100_000).decode()
    assert re.search(r"Epoch \[1/1\].* \d+/100 .*d_loss \d\.\d+, g_loss \d\.\d+, [\d,]+/s", shown)


# ── faults ──


def test_a_loss_that_is_not_finite_stops_the_run_and_touches_nothing(
    train, folder, capsys, monkeypatch
):
    train(epochs=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(gan_mnist, "generator_loss", lambda logits, loss: logits.sum() * math.nan)
    code, line = fails(capsys, *TINY_FLAGS, "--samples_dir", "samples", "--epochs", "2", "--resume")
    assert code == 1
    assert "not finite in epoch 2" in line and "LEARNING_RATE_G" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_discriminator_that_wins_outright_is_said(train, capsys):
    train(epochs=2, learning_rate_g=0, learning_rate_d=0.01, batch_size=20, gradient_penalty=0)
    assert "WARNING: D is right in 100.0%" in capsys.readouterr().out
    train(epochs=1, learning_rate_d=0, overwrite=True)
    assert "WARNING" not in capsys.readouterr().out


def test_a_batch_larger_than_the_epoch_is_refused(train):
    with pytest.raises(ValueError, match=r"BATCH_SIZE is 1001, D_STEPS 1: more than"):
        train(batch_size=1001)


@pytest.mark.parametrize("flag", ["--samples_dir", "--checkpoint_dir"])
def test_a_folder_that_cannot_be_written_to_is_named(folder, capsys, flag):
    (folder / "file").write_text("in the way")
    code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1", flag, "file/out")
    assert code == 1
    assert "file/out" in line


def test_ctrl_c_in_mid_epoch_says_what_is_saved_and_how_to_go_on(folder):
    def heed_ctrl_c():  # which is ignored by all that a shell script starts in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    flags = [*TINY_FLAGS, "--epochs", "100000"]
    process = start(*flags, cwd=folder, preexec_fn=heed_ctrl_c)
    for line in process.stdout:
        if line.startswith("Epoch [3/"):
            break
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, err) == (130, "")
    newest = gan_mnist.numbered(folder / "checkpoints", ".pth")[-1]
    assert f"Saved: checkpoints/{newest.name}; go on by --resume" in out
    assert not list(folder.rglob("*.part"))


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_while_saving_is_one_clear_line_and_earlier_checkpoints_stay_whole(
    train, folder
):
    train(epochs=1, samples_dir="generated_samples")
    whole = (folder / "checkpoints/epoch_0001.pth").read_bytes()
    assert len(whole) > 200_000
    process = start(
        *TINY_FLAGS, "--epochs", "2", "--resume", cwd=folder, preexec_fn=limit_file_size
    )
    code, _, err = finish(process)
    assert code == 1
    assert err.count("\n") == 1
    assert "cannot write checkpoints/epoch_0002.pth (File too large)" in err
    assert (folder / "checkpoints/epoch_0001.pth").read_bytes() == whole
    assert not (folder / "checkpoints/epoch_0002.pth").exists()
    assert not list(folder.rglob("*.part"))
    train(epochs=2, samples_dir="generated_samples", resume=True)


def test_killed_at_20_random_moments_the_run_still_ends_as_if_undisturbed(train, folder):
    epochs = 60
    train(epochs=epochs, out="undisturbed")
    flags = [
        *TINY_FLAGS,
        "--epochs",
        str(epochs),
        "--samples_dir",
        "killed/samples",
        "--checkpoint_dir",
        "killed/checkpoints",
        "--resume",
    ]
    moments = random.Random(0)
    for _ in range(20):
        process = start(*flags, cwd=folder)
        for line in process.stdout:  # some are killed before training starts, most within an epoch
            if line.startswith("Training") or moments.random() < 0.05:
                break
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        code, _, err = finish(process)
        assert (code, err) in ((-signal.SIGKILL, ""), (0, ""))
    code, _, err = finish(start(*flags, cwd=folder))
    assert (code, err) == (0, "")
    assert_same_run(folder / "undisturbed", folder / "killed")
