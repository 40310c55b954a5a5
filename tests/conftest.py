"""One tiny data set and one tiny network pair, so that a whole run takes a second."""

import csv
import os
import struct
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two tests run side by side

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import gan_mnist

TINY = {
    "g_hidden": (16,),
    "d_hidden": (16,),
    "latent_dim": 8,
    "modes": 4,
    "batch_size": 100,
    "num_samples": 9,
    "zoom": 1,  # so that pixels can be compared
    "metrics_every": 0,
    "device": "cpu",  # where bits can be compared
}
TINY_FLAGS = (
    "--g_hidden 16 --d_hidden 16 --latent_dim 8 --modes 4 --batch_size 100 --num_samples 9 "
    "--zoom 1 --metrics_every 0 --device cpu --data_dir digits"
).split()
EPOCH_IMAGES = 1000


def pytest_configure(config):
    """Leave out that the oldest Matplotlib calls functions of pyparsing by their former names."""
    renamed = r"ignore:.* deprecated - use .*:DeprecationWarning:matplotlib\."
    config.addinivalue_line("filterwarnings", renamed)


def idx_bytes(array):
    """uint8 tensor -> the content of an IDX file."""
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.numpy().tobytes()
    )


def write_mnist(folder, images, labels, name="MNIST"):
    """Images (N, 28, 28), labels (N,) uint8 -> the files of a data set, test as training set."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return raw


@pytest.fixture(scope="session")
def digits():
    """100 bundled digits of each class, mixed: images (1000, 28, 28) and labels (1000,), uint8."""
    images, labels, _ = gan_mnist.load_dataset("mnist_5k", "nowhere")
    order = torch.arange(5000).view(50, 100).T.flatten()[:1000]
    return images[order, 0], labels[order].byte()


@pytest.fixture
def folder(tmp_path, monkeypatch, digits):
    """An empty working folder with a small MNIST in `digits/`, where an epoch has 1,000 images."""
    write_mnist(tmp_path / "digits", *digits)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", EPOCH_IMAGES)
    return tmp_path


@pytest.fixture
def train(folder):
    """Train the tiny networks in this process: train(epochs=2, out="a") writes to a/."""

    def run(out=".", **settings):
        folders = {"samples_dir": f"{out}/samples", "checkpoint_dir": f"{out}/checkpoints"}
        return gan_mnist.train_gan(**{**TINY, "data_dir": "digits", **folders, **settings})

    return run


def start(*flags, threads=1, environment=None, **options):
    """Start the script in a process of its own, with epochs of 1,000 images."""
    code = f"import gan_mnist as g; g.EPOCH_IMAGES = {EPOCH_IMAGES}; raise SystemExit(g.main())"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **(environment or {})}
    environment["OMP_NUM_THREADS"] = str(threads)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [sys.executable, "-u", "-c", code, *flags]
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def finish(process):
    """-> exit code, standard output and standard error of a started process."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def fails(capsys, *flags):
    """Run the command line in this process -> its exit code and its one line of error."""
    code = gan_mnist.main(list(flags))
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return code, lines[0]


def same_tensors(a, b):
    """Whether two nested structures of dicts, lists and tensors are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_tensors, a, b))
    return a == b


def assert_same_run(a, b):
    """Assert that two runs wrote the same bytes, but for times, the names of folders and flags."""
    names = {p.relative_to(a) for p in a.rglob("*") if p.is_file()}
    assert names == {p.relative_to(b) for p in b.rglob("*") if p.is_file()}
    assert not [name for name in names if name.suffix == ".part"]
    for name in names:
        if name.name == "settings.json":  # tells the folders, and whether the run was resumed
            continue
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
