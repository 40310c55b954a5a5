"""Output: pictures and tables say what is in the numbers."""

import csv
import math
import sys
import types

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_FLAGS, fails
from matplotlib.figure import Figure
from PIL import Image

import gan_mnist


def make_gan(history, **settings):
    """-> the state of a run that has this history."""
    config = gan_mnist.make_config(**{**TINY, **settings})
    data = {"dataset": "mnist", "images": 1000, "checksum": "", "classes": 10}
    gan = gan_mnist.GAN(config, (1, 28, 28), data)
    gan.history = history
    gan.epoch = len(history)
    return gan


def test_grid_holds_each_image_at_its_place_in_a_fixed_range(tmp_path):
    images = torch.linspace(-1, 1, 9).view(9, 1, 1, 1).expand(9, 1, 28, 28)
    gan_mnist.save_grid(tmp_path / "grid.png", images, zoom=1)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.mode == "L"
        pixels = np.array(picture)
    assert pixels.shape == (92, 92)  # three images and four borders of 2 pixels
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        tile = pixels[2 + 30 * row : 30 + 30 * row, 2 + 30 * column : 30 + 30 * column]
        assert (tile == round((image[0, 0, 0].item() + 1) * 127.5)).all()
    pixels[2:30, 2:30] = pixels[2:30, 32:60] = pixels[2:30, 62:90] = 0
    assert (pixels[:32] == 0).all()


@pytest.mark.parametrize(
    ("images", "side", "zoom", "enlarged"),
    [(64, 28, 0, 3), (64, 64, 0, 2), (9, 28, 0, 8), (1000, 28, 0, 1), (64, 28, 5, 5)],
)
def test_grid_is_enlarged_to_700_pixels_or_as_zoom_says_and_each_pixel_stays_as_it_was(
    tmp_path, images, side, zoom, enlarged
):
    images = torch.rand(images, 1, side, side, generator=torch.Generator().manual_seed(0))
    gan_mnist.save_grid(tmp_path / "small.png", images, zoom=1)
    gan_mnist.save_grid(tmp_path / "large.png", images, zoom=zoom)
    small, large = (np.array(Image.open(tmp_path / f"{name}.png")) for name in ("small", "large"))
    assert np.array_equal(large, np.kron(small, np.ones((enlarged, enlarged), np.uint8)))
    assert large.shape[0] >= 700


def test_grid_of_dim_images_stays_dim(tmp_path):
    gan_mnist.save_grid(tmp_path / "grid.png", torch.full((4, 1, 28, 28), -0.5))
    assert np.array(Image.open(tmp_path / "grid.png")).max() == 64


def test_colour_images_keep_their_colours(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(4, 3, 8, 8)
    gan_mnist.save_grid(tmp_path / "grid.png", red, zoom=1)
    assert Image.open(tmp_path / "grid.png").getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(("pictures", "frames"), [(1, 1), (200, 200), (201, 101), (450, 150)])
def test_gif_shows_at_most_200_pictures_in_order_and_ends_with_the_last(tmp_path, pictures, frames):
    paths = [tmp_path / f"epoch_{number}.png" for number in range(pictures)]
    for number, path in enumerate(paths):  # in the 16 greys that it keeps
        Image.new("L", (60, 4), 17 * (15 * number // pictures)).save(path)
    gan_mnist.save_gif(tmp_path / "training.gif", paths)
    levels = []
    with Image.open(tmp_path / "training.gif") as gif:
        shown = 0
        while True:
            levels.append(gif.convert("L").getpixel((0, 15)))  # below the caption
            shown += gif.info["duration"]
            try:
                gif.seek(gif.tell() + 1)
            except EOFError:
                break
    assert levels == sorted(levels)
    assert levels[-1] == 17 * (15 * (pictures - 1) // pictures)
    assert len(levels) == frames
    assert shown == 120 * (frames - 1) + 2000


def test_frames_of_the_gif_tell_their_epochs(tmp_path):
    paths = [tmp_path / f"epoch_{epoch:04d}.png" for epoch in (7, 8, 17)]
    for path in paths:
        Image.new("L", (242, 242)).save(path)
    gan_mnist.save_gif(tmp_path / "training.gif", paths)
    with Image.open(tmp_path / "training.gif") as gif:
        assert gif.size == (242, 257)
        for number, epoch in enumerate((7, 8, 17)):
            gif.seek(number)
            expected = gan_mnist.add_caption(Image.new("L", (242, 242)), f"epoch {epoch}")
            assert np.array_equal(np.array(gif.convert("L")), np.array(expected))
    captions = {
        np.array(gan_mnist.add_caption(Image.new("L", (242, 8)), str(n))).tobytes()
        for n in range(60)
    }
    assert len(captions) == 60


def test_gif_takes_grids_of_other_sizes_and_refuses_a_damaged_one(tmp_path):
    small, large = tmp_path / "epoch_1.png", tmp_path / "epoch_2.png"
    Image.new("L", (4, 4), 0).save(small)
    Image.new("L", (8, 8), 9).save(large)
    gan_mnist.save_gif(tmp_path / "training.gif", [small, large])
    with Image.open(tmp_path / "training.gif") as gif:
        assert (gif.size, gif.n_frames) == ((8, 20), 2)
    small.write_bytes(small.read_bytes()[:40])
    with pytest.raises(gan_mnist.UserError, match=r"epoch_1.png cannot be read .*delete it"):
        gan_mnist.save_gif(tmp_path / "training.gif", [small, large])


def test_csv_is_read_back_as_it_was_written(tmp_path):
    history = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-30}]
    gan_mnist.save_csv(tmp_path / "history.csv", history)
    with (tmp_path / "history.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history


def drawn_rows(pixels, color):
    """-> the rows of a picture (H, W, 3) in which a colour is seen."""
    return np.flatnonzero((pixels == color).all(2).any(1))


def test_curves_are_panels_of_the_distance_and_of_both_losses_and_none_is_empty(tmp_path):
    rows = [{"epoch": n, "d_loss": n, "g_loss": 9.0 - n, "fd": None} for n in range(1, 9)]
    gan_mnist.save_curves(make_gan(rows, samples_dir=tmp_path / "losses"), None, None)
    rows = [{**row, "fd": 10.0 ** (row["epoch"] % 2)} for row in rows]
    gan_mnist.save_curves(make_gan(rows, samples_dir=tmp_path / "both"), None, None)
    losses, both = (
        np.array(Image.open(tmp_path / name / "loss_curves.png").convert("RGB"))
        for name in ("losses", "both")
    )
    assert losses.shape == (525, 1200, 3)
    assert both.shape == (1050, 1200, 3)
    blue, orange, green = (31, 119, 180), (255, 127, 14), (44, 160, 44)
    for color in (blue, orange):
        assert np.ptp(drawn_rows(losses, color)) > 300
        assert drawn_rows(both, color).min() > 525
    assert len(drawn_rows(losses, green)) == 0
    assert np.ptp(drawn_rows(both, green)) > 300
    assert drawn_rows(both, green).max() < 525


def test_curves_have_whole_epochs_plain_numbers_and_dashed_lines_at_real_images_and_at_guesses(
    tmp_path, monkeypatch
):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    monkeypatch.setattr(gan_mnist, "FIRST_SHIFTED_EPOCH", 2)
    rows = [{"epoch": n, "d_loss": 1.4, "g_loss": 0.7, "fd": 90.0 / n} for n in (1, 2, 3)]
    judge = types.SimpleNamespace(predict=lambda images: (images, None), fd=lambda features: 1.25)
    gan = make_gan(rows, augment="shift", samples_dir=tmp_path)
    gan_mnist.save_curves(gan, torch.zeros(9), judge)
    (figure,) = figures
    figure.draw_without_rendering()
    quality, losses = figure.axes
    assert {"50", "20", "2"} <= {label.get_text() for label in quality.get_yticklabels()}
    assert all(float(label.get_text()).is_integer() for label in losses.get_xticklabels())

    def level(panel, style):
        return [line.get_ydata()[0] for line in panel.lines if line.get_linestyle() == style]

    assert level(quality, "--") == [1.25]
    assert level(losses, "--") == pytest.approx([2 * math.log(2), math.log(2)])
    for panel, names, dashed in (
        (quality, ["drawn images"], "dashed for real images"),
        (losses, ["discriminator", "generator"], "dashed where the discriminator can only guess"),
    ):
        *labels, shifted = [text.get_text() for text in panel.get_legend().get_texts()]
        assert labels == names and "shifted" in shifted
        assert dashed in panel.get_title()
        assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"] == [2]


def read_events(folder):
    """-> {name: [(step, value), ...]} of the scalars, {name: [(step, size), ...]} of the images."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    scalars = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    images = {
        name: [(event.step, event.width) for event in events.Images(name)]
        for name in events.Tags()["images"]
    }
    return scalars, images


def test_tensorboard_has_the_rows_of_the_history_and_the_grids_also_after_a_stop(
    train, folder, monkeypatch
):
    def stop(gan):
        raise KeyboardInterrupt

    settings = {"tensorboard": True, "metrics_every": 2, "lr_decay_start": 1}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_mnist, "save_checkpoint", stop)
        train(epochs=4, save_every=3, **settings)  # writes three epochs, and no checkpoint
    _, history = train(epochs=4, resume=True, **settings)
    scalars, images = read_events(folder / "runs" / "checkpoints")
    for column in ("d_loss", "g_loss", "d_accuracy", "images_per_second"):
        expected = [(row["epoch"], pytest.approx(row[column], rel=1e-6)) for row in history]
        assert scalars[column] == expected
    measured = [row for row in history if row["fd"] is not None]
    assert [step for step, _ in scalars["fd"]] == [row["epoch"] for row in measured] == [2, 4]
    rates = [value for _, value in scalars["learning_rate_g"]]
    assert rates == pytest.approx([1e-3, 1e-3 * (1 - 0.98 / 3), 1e-3 * (1 - 0.98 * 2 / 3), 2e-5])
    assert images == {"samples": [(step, 92) for step in (1, 2, 3, 4)], "real": [(1, 92)]}


def test_a_missing_tensorboard_is_one_line_before_the_training(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    code, line = fails(capsys, *TINY_FLAGS, "--tensorboard")
    assert code == 2
    assert "TENSORBOARD" in line and "pip install tensorboard" in line
    assert not list(folder.glob("generated_samples"))


@pytest.mark.parametrize(
    ("rates", "before", "warned"),  # of each epoch; how many of them another process has done
    [
        ([9000], 0, False),
        ([9000, 3100], 0, False),
        ([9000, 2900], 0, True),
        ([9000, 2900, 2800], 0, False),  # was said before
        ([9000, 2900, 8000, 1000], 0, True),
        ([1000, 9000], 0, False),
        ([9000, 2900], 1, False),
        ([9000, 2900, 2800], 1, False),
        ([9000, 2900, 900], 1, True),
    ],
)
def test_an_epoch_far_slower_than_the_fastest_of_this_process_is_one_warning_with_the_way_out(
    rates, before, warned, capsys, monkeypatch
):
    rest = {"d_loss": 1.4, "g_loss": 0.7, "d_accuracy": 0.5, "fd": None, "missing": None}
    gan = make_gan([{**rest, "images_per_second": rate} for rate in rates])
    gan.start_epoch = before
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    gan_mnist.print_epoch(gan, gan.history[-1])
    out = capsys.readouterr().out
    assert ("WARNING" in out) == warned
    if warned:
        assert f"{max(rates[before:]) / rates[-1]:.0f} times slower" in out
        assert "--resume --threads 1" in out
        assert max(map(len, out.splitlines())) <= 80
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # where that is no way out
    gan_mnist.print_epoch(gan, gan.history[-1])
    assert "WARNING" not in capsys.readouterr().out
