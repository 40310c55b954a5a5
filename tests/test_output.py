"""Output: pictures and tables say what is in the numbers."""

import csv
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS, fails
from PIL import Image

import gan_mnist


def test_grid_holds_each_image_at_its_place_in_a_fixed_range(tmp_path):
    images = torch.linspace(-1, 1, 9).view(9, 1, 1, 1).expand(9, 1, 28, 28)
    gan_mnist.save_grid(tmp_path / "grid.png", images)
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


def test_grid_of_dim_images_stays_dim(tmp_path):
    gan_mnist.save_grid(tmp_path / "grid.png", torch.full((4, 1, 28, 28), -0.5))
    assert np.array(Image.open(tmp_path / "grid.png")).max() == 64


def test_colour_images_keep_their_colours(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(4, 3, 8, 8)
    gan_mnist.save_grid(tmp_path / "grid.png", red)
    assert Image.open(tmp_path / "grid.png").getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("pictures", "frames"), [(1, 1), (3, 3), (200, 200), (201, 101), (450, 150)]
)
def test_gif_shows_at_most_200_pictures_in_order_and_ends_with_the_last(tmp_path, pictures, frames):
    paths = [tmp_path / f"{number}.png" for number in range(pictures)]
    for number, path in enumerate(paths):
        Image.new("L", (4, 4), number // 2).save(path)
    gan_mnist.save_gif(tmp_path / "training.gif", paths)
    levels = []
    with Image.open(tmp_path / "training.gif") as gif:
        shown = 0
        while True:
            levels.append(gif.convert("L").getpixel((0, 0)))
            shown += gif.info["duration"]
            try:
                gif.seek(gif.tell() + 1)
            except EOFError:
                break
    assert levels == sorted(levels)
    assert levels[-1] == (pictures - 1) // 2
    assert shown == 120 * (frames - 1) + 2000  # equal neighbours are merged, their times are kept


def test_gif_takes_grids_of_other_sizes_and_refuses_a_damaged_one(tmp_path):
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.new("L", (4, 4), 0).save(small)
    Image.new("L", (8, 8), 9).save(large)
    gan_mnist.save_gif(tmp_path / "training.gif", [small, large])
    with Image.open(tmp_path / "training.gif") as gif:
        assert (gif.size, gif.n_frames) == ((8, 8), 2)
    small.write_bytes(small.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"small.png is damaged \(.*\): delete it"):
        gan_mnist.save_gif(tmp_path / "training.gif", [small, large])


def test_csv_is_read_back_as_it_was_written(tmp_path):
    history = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-30}]
    gan_mnist.save_csv(tmp_path / "history.csv", history)
    with (tmp_path / "history.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history


def test_curves_are_a_picture_of_both_losses_and_of_the_distance(tmp_path):
    flat = [{"epoch": n, "d_loss": 1.0, "g_loss": 1.0, "fd": None} for n in range(1, 9)]
    steep = [
        {"epoch": n, "d_loss": n, "g_loss": 9.0 - n, "fd": 10.0 ** (n % 2)} for n in range(1, 9)
    ]
    for name, history in (("flat", flat), ("steep", steep)):
        gan_mnist.save_curves(tmp_path / f"{name}.png", history)
    flat, steep = (
        np.array(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("flat", "steep")
    )
    assert flat.shape == steep.shape == (540, 960, 3)

    def height(pixels, color):
        rows = np.flatnonzero((pixels == color).all(2).sum(1))
        return rows.max() - rows.min()

    blue, orange, green = (31, 119, 180), (255, 127, 14), (44, 160, 44)
    assert height(steep, blue) > 300 and height(steep, orange) > 300
    assert height(steep, green) > 300 and not (flat == green).all(2).any()


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

    settings = {"tensorboard": True, "metrics_every": 2, "lr_decay_start": 1, "lr_decay_end": 3}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_mnist, "save_checkpoint", stop)
        train(epochs=4, save_every=3, **settings)  # writes epochs 1 and 2, and no checkpoint
    _, history = train(epochs=4, resume=True, **settings)
    scalars, images = read_events(folder / "runs" / "checkpoints")
    for column in ("d_loss", "g_loss", "d_accuracy", "images_per_second"):
        expected = [(row["epoch"], pytest.approx(row[column], rel=1e-6)) for row in history]
        assert scalars[column] == expected
    measured = [row for row in history if row["fd"] is not None]
    assert [step for step, _ in scalars["fd"]] == [row["epoch"] for row in measured] == [2, 4]
    rates = [value for _, value in scalars["learning_rate_g"]]
    assert rates == pytest.approx([1e-3, 5.1e-4, 2e-5, 2e-5])
    assert images == {"samples": [(step, 92) for step in (1, 2, 3, 4)], "real": [(1, 92)]}


def test_a_missing_tensorboard_is_one_line_before_the_training(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, line = fails(capsys, *TINY_FLAGS, "--tensorboard")
    assert (code, line) == (
        2,
        "error: TENSORBOARD needs a package that is missing: pip install tensorboard",
    )
    assert not list(folder.glob("generated_samples"))
