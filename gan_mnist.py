#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.6", "torchvision>=0.21", "numpy>=1.26", "matplotlib>=3.8",
#                 "pillow>=10.1", "tqdm>=4.66"]
# ///
"""A generative adversarial network (GAN) that learns to draw MNIST digits.

    python gan_mnist.py                            train
    python gan_mnist.py --epochs 10 --seed 1       every constant is also a flag
    python gan_mnist.py --resume                   continue where it stopped
    python gan_mnist.py generate --num_samples 16  draw digits
    python gan_mnist.py evaluate                   measure how good they are
    python gan_mnist.py demo                       make a web page that draws

Each epoch writes generated_samples/epoch_0001.png (a grid of digits, always
from the same z), checkpoints/epoch_0001.pth (everything that --resume needs)
and a line of history.csv. The end of a run writes
checkpoints/generator_final.pth and, beside the grids, real_and_generated.png,
loss_curves.png and training.gif. In a notebook:

    from gan_mnist import load_generator
    generator = load_generator("checkpoints/generator_final.pth")
    images = generator.sample(64, seed=0)  # (64, 1, 28, 28) in [-1, 1]

Goodfellow et al. 2014, Generative Adversarial Networks,
https://arxiv.org/abs/1406.2661
"""

import argparse
import base64
import collections
import contextlib
import copy
import csv
import difflib
import functools
import importlib.util
import inspect
import io
import json
import math
import os
import signal
import socket
import sys
import time
import tokenize
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path


def stop_while_importing(*_):
    """End on Ctrl-C at once: PyTorch does not survive an exception while it is imported."""
    print("Stopped by Ctrl-C", file=sys.stderr)
    os._exit(130)


def check_packages():
    """End with advice if a package is not installed, or is in another virtual environment."""
    packages = ("torch", "torchvision", "numpy", "matplotlib", "PIL", "tqdm")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"error: {', '.join(missing)} not installed: pip install -r requirements.txt")


def cpu_ticks():
    """Return the time of all CPU cores together, and that in which they had nothing to do."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(word) for word in line.split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]  # idle, and waiting for a disk


def busy_cores(seconds=0.1):
    """Return how many CPU cores are busy just now; 0.0 where the system does not tell."""
    if not Path("/proc/stat").exists():  # not Linux
        return 0.0
    total, idle = cpu_ticks()
    time.sleep(seconds)
    later_total, later_idle = cpu_ticks()
    return os.cpu_count() * (1 - (later_idle - idle) / max(1, later_total - total))


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_while_importing)
    check_packages()
    # PyTorch's CPU threads spin while they wait for each other: fast if each has a core, but many
    # times slower if another program has one of them. The digits are the same either way.
    if busy_cores() > 0.5:
        os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageSequence
from torch import distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from tqdm import tqdm

# ── Hyperparameters ── Edit them here, or give them as flags: EPOCHS = 10 is --epochs 10 ──────────

PRESET = "none"  # a known system, see Presets, whose settings replace the constants below; or none

# data
DATASET = "mnist"  # mnist | mnist_5k (bundled) | fashion_mnist | kmnist | cifar10 | a folder
DATA_DIR = "data"  # torchvision's data folder; downloads are saved there
IMAGE_SIZE = 0  # side in pixels to which images are resized; 0 = as they are (folders: 64)
AUGMENT = "auto"  # none | shift (by up to a pixel, from epoch 7) | auto (shift up to 40,000 images)

# networks
G_ARCH = "mlp"  # mlp | dcgan (convolutions; images of side 28, 32, 64 or 128)
D_ARCH = "mlp"  # mlp | dcgan
LATENT_DIM = 100  # length of the noise vector z
MODES = 10  # the largest of z's first MODES numbers picks one of MODES kinds of image; 0 = off
G_HIDDEN = (256, 512, 1024)  # widths of the hidden layers of an mlp generator
SMOOTH = 0.7  # width in pixels of a filter on what an mlp generator draws in grey; 0 = none
D_HIDDEN = (1024, 256)  # widths of the hidden layers of an mlp discriminator; classic 512, 256
G_NORM = "batch"  # batch (BatchNorm in G, in every layer but the last) | none
G_ACTIVATION = "relu"  # relu | leaky_relu (slope 0.2); of G's hidden layers
G_END = "tanh"  # tanh | sigmoid (scaled to the same range, -1 to 1)
WIDTH = 64  # channels of a dcgan next to the image, doubled in each layer away from it
D_NORM = "none"  # none | batch (BatchNorm in a dcgan discriminator, as in its paper)
D_SLOPE = 0.1  # slope of D's LeakyReLU below 0; classic 0.2
SPECTRAL_NORM = False  # divide D's weights by their largest singular value (Miyato et al. 2018)
DROPOUT = 0.0  # dropout probability in D; classic 0.3
CONDITIONAL = False  # show G and D the labels, so that G can be asked for a digit

# training
EPOCHS = 60  # passes over the images, which are repeated up to 60,000 if they are fewer
BATCH_SIZE = 128  # real images in a step of D, of all processes together; classic 64
LEARNING_RATE_G = 1e-3  # Adam's step size for G; classic 2e-4
LEARNING_RATE_D = 5e-4  # Adam's step size for D; classic 2e-4
LR_DECAY_START = 12  # the last epoch with the full learning rates; then both fall linearly
LR_DECAY_END = 60  # the epoch in which they reach 1/50, whatever EPOCHS is; 0 = they never fall
BETA1 = 0.0  # Adam's momentum; classic 0.5, several times slower here
BETA2 = 0.999  # decay of Adam's average of squared gradients
EMA_DECAY = 0.9995  # decay of G's moving average, which draws better than G; 0 = no average
LOSS = "bce"  # bce | hinge | wgan_gp (usual with it: D_STEPS 5, GRADIENT_PENALTY 10, BETA2 0.9)
D_STEPS = 1  # steps of D, each with a batch of its own, for each step of G
LABEL_SMOOTHING = 0.0  # real labels are 1 minus this in D's bce loss; usual alternative 0.1
GRADIENT_PENALTY = 0.5  # weight of D's mean squared gradient at real and fake images; 0 = none
GRAD_CLIP = 0.0  # largest gradient norm of either network; 0 = no limit
SEED = 0  # the same seed, settings and machine give the same digits
DEVICE = "auto"  # auto | cuda | mps | cpu
THREADS = 0  # CPU threads; 0 = as PyTorch chooses; 1 is faster if another program is busy
PRECISION = "auto"  # fp32 | bf16 | auto (bf16 where the hardware is fast at it)

# output
RESUME = False  # continue from the newest checkpoint in CHECKPOINT_DIR
OVERWRITE = False  # delete the earlier run in these folders and start again
SAMPLES_DIR = "generated_samples"  # folder of the pictures
CHECKPOINT_DIR = "checkpoints"  # folder of the checkpoints and the trained generator
SAVE_EVERY = 1  # epochs from one checkpoint to the next; the last epoch always gets one
KEEP_GENERATOR_EVERY = 0  # epochs from one kept generator_epoch_0010.pth to the next; 0 = none
KEEP_CHECKPOINTS = 3  # newest checkpoints to keep, 30 MB each (dcgan_mnist 335 MB); 0 = all
GRID_EVERY_STEPS = 0  # steps from one more grid, step_000100.png, to the next; 0 = none
NUM_SAMPLES = 64  # number of images to draw, in each grid too
ZOOM = 0  # enlarge grids so many times; 0 = until they have 700 pixels, 3 times for 28 x 28
TENSORBOARD = False  # write losses, FD and grids for TensorBoard, under runs/
METRICS_EVERY = 2  # measure the Fréchet distance (FD) every 2 epochs and at the end; 0 = never

# ── Presets ── Settings of known systems: they replace the constants, and flags replace both ──────

COMMON = {  # shared by most GANs of 2014 to 2018, but not by the defaults
    "modes": 0,
    "smooth": 0.0,
    "d_slope": 0.2,
    "beta1": 0.5,
    "learning_rate_g": 2e-4,
    "learning_rate_d": 2e-4,
    "lr_decay_end": 0,
    "gradient_penalty": 0.0,
    "ema_decay": 0.0,
    "batch_size": 64,
}
PRESETS = {
    "classic": {
        "about": "the fully connected GAN of most tutorials",
        **COMMON,
        "g_hidden": (256, 512, 1024),
        "d_hidden": (512, 256),
        "dropout": 0.3,
        "epochs": 100,
    },
    "tiny": {
        "about": "one hidden layer each, a D that hardly learns",
        **COMMON,
        "latent_dim": 64,
        "g_hidden": (256,),
        "g_norm": "none",
        "g_activation": "leaky_relu",
        "d_hidden": (128,),
        "learning_rate_g": 1e-3,
        "learning_rate_d": 3e-7,
        "batch_size": 32,
        "epochs": 50,
        "keep_generator_every": 10,
    },
    "blocks": {  # the original halves D's loss; Adam's steps do not depend on that
        "about": "blocks of Linear, BatchNorm and ReLU, a sigmoid at the end",
        **COMMON,
        "g_hidden": (128, 256, 512, 1024),
        "g_end": "sigmoid",
        "d_hidden": (512, 256, 128),
    },
    "dcgan_mnist": {
        "about": "DCGAN at 64 x 64 (Radford et al. 2016)",
        **COMMON,
        "g_arch": "dcgan",
        "d_arch": "dcgan",
        "d_norm": "batch",
        "width": 128,
        "image_size": 64,
        "epochs": 100,
    },
    "dcgan_cifar10": {
        "about": "DCGAN in colour, CIFAR-10 at 64 x 64; a grid every 100 steps",
        **COMMON,
        "dataset": "cifar10",
        "g_arch": "dcgan",
        "d_arch": "dcgan",
        "d_norm": "batch",
        "width": 64,
        "image_size": 64,
        "epochs": 25,
        "grid_every_steps": 100,
    },
    "best": {
        "about": "the best digits: the defaults for twice as long",
        "epochs": 110,
        "lr_decay_end": 140,
    },
    "conditional": {
        "about": "the defaults with labels (Mirza & Osindero 2014)",
        "conditional": True,
    },
    "hinge": {
        "about": "the defaults with hinge loss (Lim & Ye 2017)",
        "loss": "hinge",
    },
    "wgan_gp": {
        "about": "the defaults as a Wasserstein GAN (Gulrajani et al. 2017)",
        "loss": "wgan_gp",
        "d_steps": 5,
        "gradient_penalty": 10.0,
        "beta2": 0.9,
    },
}

# ── Data ── The whole data set is one uint8 tensor in memory; a batch is one index operation ──────

SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
PROJECT = Path(__file__).resolve().parent  # also where the script is started by a symbolic link
BUNDLE = PROJECT / "data" / "mnist_5k.png"
BUNDLE_CHECKSUM = 0x31CCB7EC
GET_BACK = "get it back by `git checkout`, or download the project again"
EPOCH_IMAGES = 60_000  # a smaller data set is repeated up to this, so that the same settings work
FOLDER_IMAGE_SIZE = 64  # side of images from a folder if IMAGE_SIZE is 0
DOWNLOAD_TIMEOUT = 7  # give up on a mirror after so many seconds without data
BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt}, {remaining} left"  # tqdm's, without its rate


def progress(steps, title, bar_format=BAR_FORMAT, hidden=False):
    """Return `steps`, for which tqdm shows a bar on a terminal and in a notebook, unless hidden."""
    file = sys.stderr
    if "ipykernel" in sys.modules:  # a notebook, which shows stderr in a box of its own
        file = sys.stdout
    elif not hidden:
        hidden = None  # tqdm hides it where `file` is no terminal
    return tqdm(steps, title, leave=False, file=file, disable=hidden, bar_format=bar_format)


def load_bundle():
    """Return the bundled MNIST digits: images (5000, 1, 28, 28) uint8 and labels (5000,).

    They are one picture, 50 rows of 100 digits, five rows for each class. Raises
    FileNotFoundError if it is missing, ValueError if it is damaged.
    """
    if not BUNDLE.exists():
        raise FileNotFoundError(f"{BUNDLE} is missing: {GET_BACK}")
    try:
        with Image.open(BUNDLE) as sheet:
            pixels = np.array(sheet)
        whole = zlib.crc32(pixels) == BUNDLE_CHECKSUM
    except Exception:  # each kind of damage raises an error of its own
        whole = False
    if not whole:
        raise ValueError(f"{BUNDLE} is damaged: {GET_BACK}")
    tiles = pixels.reshape(50, 28, 100, 28).swapaxes(1, 2)  # (row, column, 28, 28)
    images = torch.from_numpy(tiles.reshape(5000, 1, 28, 28).copy())
    labels = torch.arange(10).repeat_interleave(500)
    return images, labels


def read_image(path, side):
    """Return the middle of an image file, upright and in colour: (side, side, 3) uint8."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.array(ImageOps.fit(upright, (side, side)))


def image_files(folder):
    """Return the files in a folder and its sub-folders, in order, without hidden ones."""
    files = []
    for path in sorted(Path(folder).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            files.append(path)
    return files


def load_folder(folder, image_size=0):
    """Return the images of a folder, (N, C, H, W) uint8, and the labels of its sub-folders, (N,).

    Images of any size are cropped to a square and resized; C is 1 if all are grey. Hidden files
    are left out. Raises ValueError if there are no images.
    """
    side = image_size or FOLDER_IMAGE_SIZE
    images = []
    classes = []
    for path in progress(image_files(folder), f"Reading {folder}"):
        try:
            images.append(read_image(path, side))
        except Exception as error:  # each kind of damage raises an error of its own
            print(f"WARNING: {path} is skipped: it cannot be read as an image ({error})")
        else:
            classes.append(str(path.parent))
    if not images:
        raise ValueError(
            f"DATASET (--dataset) is {folder!r}: allowed is mnist_5k | {' | '.join(SETS)}, "
            "or a folder with images in it"
        )

    pixels = np.stack(images)  # (N, side, side, 3)
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    _, labels = np.unique(classes, return_inverse=True)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def download(name, data_dir):
    """Download one of SETS into data_dir. Raises FileNotFoundError if that fails."""
    from torchvision import datasets

    print(f"{name} is not in {data_dir}, or not complete: downloading it")
    former_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torchvision alone would wait for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # without a line for each mirror
            getattr(datasets, SETS[name])(data_dir, download=True)
    except Exception as error:  # each kind of failure raises an error of its own
        reason = short_reason(error)
        raise FileNotFoundError(
            f"{name} cannot be downloaded ({reason}): put its files into {data_dir} as "
            "torchvision does"
        ) from error
    finally:
        socket.setdefaulttimeout(former_timeout)


def short_reason(error):
    """Return why a download failed: the last line of an error, without its number and brackets."""
    last_line = str(error).strip().rpartition("\n")[2]
    return last_line.removeprefix("<urlopen error ").rpartition("] ")[2].removesuffix(">")


def load_torchvision(name, data_dir, train=True):
    """Return one of SETS, downloaded if it is missing: images (N, C, H, W) uint8, labels (N,).

    Raises FileNotFoundError if it cannot be downloaded, ValueError if a file is damaged.
    """
    from torchvision import datasets

    load = getattr(datasets, SETS[name])
    try:
        data = load(data_dir, train)
    except Exception as error:  # each kind of damage raises an error of its own
        if "not found" not in str(error):
            reason = " ".join(str(error).split())
            raise ValueError(
                f"a file of {name} in {data_dir} is damaged or unreadable ({reason}): "
                "delete it and run again"
            ) from error
        download(name, data_dir)
        return load_torchvision(name, data_dir, train)
    images = torch.as_tensor(data.data)
    labels = torch.as_tensor(data.targets)
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            f"{name} in {data_dir} is damaged, it has {len(images)} images and {len(labels)} "
            "labels: delete its files and run again"
        )
    if images.ndim == 3:  # grey images, without a dimension for the colours
        images = images.unsqueeze(3)
    return images.permute(0, 3, 1, 2).contiguous(), labels


def load_mnist(data_dir, train=True):
    """Return MNIST's images, labels and "mnist", or those of the bundle if there is no MNIST."""
    try:
        images, labels = load_torchvision("mnist", data_dir, train)
        return images, labels, "mnist"
    except FileNotFoundError as error:
        if not BUNDLE.exists():
            raise FileNotFoundError(
                f"{error}; the bundled digits, {BUNDLE}, are missing too: {GET_BACK}"
            ) from error
        print(
            f"WARNING: mnist cannot be downloaded ({short_reason(error.__cause__)})\n"
            "Continuing with mnist_5k, the 5,000 digits that come with this script"
        )
        images, labels = load_bundle()
        return images, labels, "mnist_5k"


def load_dataset(name, data_dir, train=True, image_size=0):
    """Return images (N, C, H, W) uint8, labels (N,) and the name of the data set that was loaded.

    If MNIST cannot be downloaded it is the bundle, mnist_5k. The bundle and folders have no test
    images: train=False gives their training images. Raises FileNotFoundError if a data set is
    missing, ValueError if it is damaged or unknown.
    """
    from torchvision.transforms import Resize

    if name == "mnist":
        images, labels, name = load_mnist(data_dir, train)
    elif name == "mnist_5k":
        images, labels = load_bundle()
    elif name in SETS:
        images, labels = load_torchvision(name, data_dir, train)
    else:
        images, labels = load_folder(name, image_size)
    if image_size not in (0, images.shape[-1]):
        resize = Resize((image_size, image_size))
        images = torch.cat([resize(part) for part in images.split(1000)])  # in parts: less memory
    return images, labels, name


def make_loader(images, labels, batch_size):
    """Return a DataLoader of shuffled batches: images (B, C, H, W) uint8 and labels (B,).

    The sampler draws the indices of a whole batch, so that a batch is one index operation. An
    incomplete last batch is left out. Small data sets are repeated up to EPOCH_IMAGES.
    """
    data = TensorDataset(images, labels)
    order = RandomSampler(data, num_samples=max(len(data), EPOCH_IMAGES))
    batches = BatchSampler(order, batch_size, drop_last=True)
    return DataLoader(data, sampler=batches, batch_size=None)


def to_float(images):
    """Return uint8 images as float images in [-1, 1], the range of the generator's tanh."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images):
    """Return float images in [-1, 1] as uint8 images, the inverse of to_float."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()


def random_shift(images, pixels=1):
    """Return images (N, C, H, W) in [-1, 1], each shifted at random by up to `pixels` both ways.

    Real and fake images are shifted alike, so that D cannot learn a small data set by heart and G
    does not learn the shifts. Zhao et al. 2020, DiffAugment, arXiv 2006.10738.
    """
    n, c, h, w = images.shape
    device = images.device
    padded = F.pad(images, [pixels] * 4, value=-1.0)  # black around, (N, C, H + 2p, W + 2p)
    dy, dx = torch.randint(2 * pixels + 1, (2, n, 1), device=device)  # (N, 1) each
    rows = dy + torch.arange(h, device=device)  # which rows of padded are kept, (N, H)
    columns = dx + torch.arange(w, device=device)  # and which columns, (N, W)
    places = rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)  # in flat images, (N, H, W)
    places = places.view(n, 1, h * w).expand(n, c, h * w)
    return padded.flatten(2).gather(2, places).view(n, c, h, w)


# ── Networks ── G turns noise into images; D's logit is above 0 for what it takes to be real ──────


class BaseGenerator(nn.Module):
    """What all generators share: noise z (N, latent_dim) ~ N(0, 1) -> images in [-1, 1].

    Subclasses build the layers and turn a code into images by `decode`. With classes, forward takes
    labels (N,) as well: Mirza & Osindero 2014, Conditional Generative Adversarial Nets, arXiv
    1411.1784. The state dict describes itself: `_extra_state` tells how to build the generator, and
    `about`, what it was trained on.
    """

    arch = None  # name in GENERATORS

    def __init__(self, latent_dim, image_shape, classes, modes, norm, activation, end):
        super().__init__()
        if not 0 <= modes < latent_dim:
            raise ValueError(
                f"LATENT_DIM (--latent_dim) is {latent_dim} and MODES (--modes) is {modes}: MODES "
                "must be below LATENT_DIM"
            )
        self.latent_dim = latent_dim
        self.image_shape = tuple(image_shape)
        self.classes = classes
        self.modes = modes
        self.norm = norm
        self.activation = activation
        self.end = end
        self.about = {}  # data set, epochs and FD of the training, see prepare_run

    def code(self, z, labels=None):
        """Return the input of the layers, (N, latent_dim + classes), for z (N, latent_dim).

        The first numbers of z are replaced by a mode as one-hot, picked by the largest of them (a
        categorical part of z: Chen et al. 2016, arXiv 1606.03657). Without modes G is continuous in
        z, and has to draw what lies between two digits too (Khayatkhoei et al. 2018, arXiv
        1806.00880). Labels (N,) are appended as one-hot.
        """
        parts = [z]
        if self.modes:
            choice = F.one_hot(z[:, : self.modes].argmax(1), self.modes).to(z.dtype)
            choice = choice * self.modes**0.5  # so that its mean square is 1, like that of z
            parts = [choice, z[:, self.modes :]]
        if self.classes:
            parts.append(F.one_hot(labels, self.classes).to(z.dtype))
        return torch.cat(parts, 1)

    def forward(self, z, labels=None):
        return self.decode(self.code(z, labels))

    @torch.no_grad()
    def sample(self, num_samples, seed=None, labels=None):
        """Return images (num_samples, C, H, W) in [-1, 1]; a seed gives the same on every device.

        A conditional G draws labels (num_samples,), or all classes in turn. In eval mode, so that
        each image depends on its own z alone.
        """
        weight = next(self.parameters())
        z = sample_z(num_samples, self.latent_dim, seed).to(weight)  # its device and its dtype
        if labels is None:
            labels = torch.arange(num_samples) % max(1, self.classes)
        labels = labels.to(weight.device)
        was_training = self.training
        self.eval()
        parts = zip(z.split(500), labels.split(500), strict=True)  # for less memory
        images = torch.cat([self(*part) for part in parts])
        self.train(was_training)
        return images

    def folded(self):
        """Return a copy whose last layer has the filter in its weights, if there is a filter."""
        G = copy.deepcopy(self)
        if isinstance(G.layers[-2], SmoothLinear):
            G.layers[-2] = G.layers[-2].folded()
            G.smooth = 0.0
        return G

    def get_extra_state(self):
        return {"arch": self.arch, **self.arguments(), "about": self.about}

    def arguments(self):
        """Return the arguments of the constructor."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names}

    def set_extra_state(self, state):
        own = {"arch": self.arch, **self.arguments()}
        different = [name for name in own if own[name] != state.get(name)]
        if different:
            theirs = ", ".join(f"{name}={state.get(name)}" for name in different)
            raise RuntimeError(
                f"these are the weights of a generator with {theirs}: "
                "load_generator(path) builds it from the file"
            )
        self.about = state["about"]


class ScaledSigmoid(nn.Module):
    """Sigmoid from -1 to 1 rather than from 0 to 1: tanh of half the input."""

    def forward(self, x):
        return 2 * torch.sigmoid(x) - 1


ACTIVATIONS = {
    "relu": functools.partial(nn.ReLU, inplace=True),
    "leaky_relu": functools.partial(nn.LeakyReLU, 0.2),
}
ENDS = {"tanh": nn.Tanh, "sigmoid": ScaledSigmoid}
SMOOTH_GAIN = 1.5  # makes up for the contrast that smoothing takes


class SmoothLinear(nn.Linear):
    """Linear layer that draws an image (C, H, W), and a fixed Gaussian filter over its pixels.

    It tells the layer which pixels are neighbours: single stray pixels become hard to draw, sharp
    edges stay possible, as tanh saturates. x (N, n_in) -> logits of pixels (N, C * H * W).
    """

    def __init__(self, n_in, image_shape, width):
        super().__init__(n_in, math.prod(image_shape))
        self.image_shape = image_shape
        self.register_buffer("rows", smoothing_matrix(image_shape[1], width), persistent=False)
        self.register_buffer("columns", smoothing_matrix(image_shape[2], width), persistent=False)

    def forward(self, x):
        return self.smooth(super().forward(x))

    def smooth(self, pixels):
        """Return pixels (N, C * H * W) after the filter."""
        images = pixels.view(-1, *self.image_shape)
        return (self.rows @ images @ self.columns.T).flatten(1) * SMOOTH_GAIN

    @torch.no_grad()
    def folded(self):
        """Return a Linear layer that does the same: the filter is linear too."""
        layer = nn.Linear(self.in_features, self.out_features, device=self.weight.device)
        layer.weight.copy_(self.smooth(self.weight.T).T)
        layer.bias.copy_(self.smooth(self.bias.unsqueeze(0)).squeeze(0))
        return layer


def smoothing_matrix(size, width):
    """Return M (size, size), for which M @ x is x (size, N) smoothed by a Gaussian of that width.

    Each row adds up to 1, at the border too.
    """
    place = torch.arange(size)
    distance = place.unsqueeze(1) - place
    weights = torch.exp(-distance.square() / (2 * width**2))
    return weights / weights.sum(1, keepdim=True)


class Generator(BaseGenerator):
    """Fully connected generator: z (N, latent_dim) -> images (N, C, H, W) in [-1, 1].

    Goodfellow et al. 2014, with BatchNorm (Ioffe & Szegedy 2015, arXiv 1502.03167): Linear,
    BatchNorm and ReLU for each hidden width, then Linear and tanh. `smooth` is the width in pixels
    of a filter after the last Linear, see SmoothLinear; a saved generator has it in its weights.
    """

    arch = "mlp"

    def __init__(
        self,
        latent_dim=LATENT_DIM,
        hidden=G_HIDDEN,
        image_shape=(1, 28, 28),
        classes=0,
        modes=MODES,
        norm=G_NORM,
        activation=G_ACTIVATION,
        end=G_END,
        smooth=0.0,
    ):
        super().__init__(latent_dim, image_shape, classes, modes, norm, activation, end)
        self.hidden = tuple(hidden)
        self.smooth = smooth
        channels, height, width = image_shape
        widths = [latent_dim + classes, *hidden]
        layers = []
        for n_in, n_out in pairwise(widths):
            layers.append(nn.Linear(n_in, n_out))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(n_out))
            layers.append(ACTIVATIONS[activation]())
        if smooth:
            layers.append(SmoothLinear(widths[-1], image_shape, smooth))
        else:
            layers.append(nn.Linear(widths[-1], channels * height * width))
        layers.append(ENDS[end]())
        self.layers = nn.Sequential(*layers)

    def decode(self, code):
        """Return the images (N, C, H, W) of codes (N, latent_dim + classes), see code."""
        return self.layers(code).view(-1, *self.image_shape)


class ConvGenerator(BaseGenerator):
    """DCGAN's generator: z (N, latent_dim) -> images (N, C, H, W) in [-1, 1].

    Radford et al. 2016, arXiv 1511.06434: a linear layer makes z a small image of many channels
    ("project and reshape"); each transposed convolution doubles its side and halves its channels,
    down to `width` before the image.
    BatchNorm and ReLU in every layer but the last, which has tanh.
    """

    arch = "dcgan"

    def __init__(
        self,
        latent_dim=LATENT_DIM,
        width=WIDTH,
        image_shape=(1, 28, 28),
        classes=0,
        modes=MODES,
        norm=G_NORM,
        activation=G_ACTIVATION,
        end=G_END,
    ):
        super().__init__(latent_dim, image_shape, classes, modes, norm, activation, end)
        self.width = width
        side, channels = conv_sizes(image_shape, width)
        deepest = channels[-1]
        layers = [
            nn.Linear(latent_dim + classes, deepest * side * side, bias=False),
            nn.Unflatten(1, (deepest, side, side)),
            *self.norm_and_activation(deepest),
        ]
        for n_in, n_out in pairwise(reversed(channels)):
            layers.append(nn.ConvTranspose2d(n_in, n_out, 4, 2, padding=1, bias=False))
            layers += self.norm_and_activation(n_out)
        layers += [nn.ConvTranspose2d(width, image_shape[0], 4, 2, padding=1), ENDS[end]()]
        self.layers = nn.Sequential(*layers)
        self.apply(init_dcgan)

    def decode(self, code):
        """Return the images (N, C, H, W) of codes (N, latent_dim + classes), see code."""
        return self.layers(code)

    def norm_and_activation(self, channels):
        """Return the layers after each convolution but the last."""
        layers = [ACTIVATIONS[self.activation]()]
        if self.norm == "batch":
            layers.insert(0, nn.BatchNorm2d(channels))
        return layers


GENERATORS = {"mlp": Generator, "dcgan": ConvGenerator}


class Discriminator(nn.Module):
    """Fully connected discriminator: images (N, C, H, W) in [-1, 1] -> logits (N,).

    The sigmoid of a logit is the probability that the image is real. Layers: Linear, LeakyReLU and
    Dropout for each hidden width (Goodfellow et al. 2014 used maxout), then Linear. With classes,
    forward takes labels (N,) as well.
    """

    def __init__(
        self,
        hidden=D_HIDDEN,
        dropout=DROPOUT,
        image_shape=(1, 28, 28),
        classes=0,
        spectral_norm=SPECTRAL_NORM,
        slope=D_SLOPE,
    ):
        super().__init__()
        self.classes = classes
        widths = [math.prod(image_shape) + classes, *hidden]
        layers = []
        for n_in, n_out in pairwise(widths):
            linear = normalize(nn.Linear(n_in, n_out), spectral_norm)
            layers += [linear, nn.LeakyReLU(slope), nn.Dropout(dropout)]
        layers += [normalize(nn.Linear(widths[-1], 1), spectral_norm)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images, labels=None):
        x = images.flatten(1) + 1  # black is 0 then, and D need not learn the common background
        if self.classes:
            x = torch.cat([x, F.one_hot(labels, self.classes).to(x.dtype)], 1)
        return self.layers(x).squeeze(1).float()


class ConvDiscriminator(nn.Module):
    """DCGAN's discriminator: images (N, C, H, W) in [-1, 1] -> logits (N,).

    Radford et al. 2016: each convolution halves the side and doubles the channels, from `width`
    after the image; the last one gives the logit. LeakyReLU and Dropout in every layer but the
    last; with norm "batch" BatchNorm in every layer but the first and the last. With classes,
    labels (N,) enter as one-hot channels beside those of the image.
    """

    def __init__(
        self,
        width=WIDTH,
        norm=D_NORM,
        dropout=DROPOUT,
        image_shape=(1, 28, 28),
        classes=0,
        spectral_norm=SPECTRAL_NORM,
        slope=D_SLOPE,
    ):
        super().__init__()
        self.classes = classes
        side, channels = conv_sizes(image_shape, width)
        layers = []
        for n_in, n_out in pairwise([image_shape[0] + classes, *channels]):
            first = len(layers) == 0
            has_norm = norm == "batch" and not first
            layers.append(nn.Conv2d(n_in, n_out, 4, 2, padding=1, bias=not has_norm))
            if has_norm:
                layers.append(nn.BatchNorm2d(n_out))
            layers += [nn.LeakyReLU(slope), nn.Dropout(dropout)]
        layers.append(nn.Conv2d(channels[-1], 1, side))
        self.layers = nn.Sequential(*layers)
        self.apply(init_dcgan)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                normalize(layer, spectral_norm)

    def forward(self, images, labels=None):
        x = images
        if self.classes:
            planes = F.one_hot(labels, self.classes).to(x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        return self.layers(x).flatten().float()


def normalize(layer, spectral_norm):
    """Return the layer, with spectral normalization if that is asked for."""
    if spectral_norm:
        return nn.utils.parametrizations.spectral_norm(layer)
    return layer


def conv_sizes(image_shape, width):
    """Return the smallest side in a DCGAN, and the channels of its layers from the image on.

    Raises ValueError for an image whose sides are none of 28, 32, 64 and 128.
    """
    _, height, image_width = image_shape
    smallest = {28: 7, 32: 4, 64: 4, 128: 4}
    if height != image_width or height not in smallest:
        raise ValueError(
            f"a dcgan needs images of side 28, 32, 64 or 128, not {height} x {image_width}: set "
            "IMAGE_SIZE (--image_size)"
        )
    side = smallest[height]
    doublings = int(math.log2(height // side))
    return side, [width * 2**number for number in range(doublings)]


def init_dcgan(layer):
    """Initialize a layer as Radford et al. 2016 do: N(0, 0.02), BatchNorm's weight N(1, 0.02)."""
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


def sample_z(num_samples, latent_dim, seed=None):
    """Return z (num_samples, latent_dim) ~ N(0, 1) on the CPU; the same for the same seed.

    A larger num_samples keeps the first ones as they are: torch.randn draws numbers in blocks of
    16, and an incomplete last block differently, so whole blocks are drawn.
    """
    generator = None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    block = 16
    rows = block * math.ceil(num_samples / block)
    return torch.randn(rows, latent_dim, generator=generator)[:num_samples]


# ── Losses ── Binary cross-entropy: D tells real from fake, G wants its fakes to pass for real ────


def discriminator_loss(real_logits, fake_logits, label_smoothing=0.0, loss="bce"):
    """Return D's loss for logits (N,) of real and of fake images, means over the batch.

    bce: -log D(x) - log(1 - D(G(z))), which is 2 ln 2 = 1.386 when D can only guess. Goodfellow et
    al. 2014, equation 1; real labels are 1 - label_smoothing (Salimans et al. 2016, arXiv
    1606.03498). hinge: Lim & Ye 2017, arXiv 1705.02894. wgan_gp: minus the estimated Wasserstein
    distance, Gulrajani et al. 2017, arXiv 1704.00028.
    """
    if loss == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    if loss == "wgan_gp":
        return fake_logits.mean() - real_logits.mean()
    real_labels = torch.full_like(real_logits, 1.0 - label_smoothing)
    fake_labels = torch.zeros_like(fake_logits)
    real_loss = F.binary_cross_entropy_with_logits(real_logits, real_labels)
    fake_loss = F.binary_cross_entropy_with_logits(fake_logits, fake_labels)
    return real_loss + fake_loss


def generator_loss(fake_logits, loss="bce"):
    """Return G's loss for D's logits (N,) of fake images, the mean over the batch.

    bce: -log D(G(z)), which is ln 2 = 0.693 when D can only guess. This is the non-saturating form,
    with strong gradients where G is bad: Goodfellow et al. 2014, section 3. hinge and wgan_gp:
    minus the mean logit.
    """
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))
    return -fake_logits.mean()


def gradient_penalty(logits, images, norm=0):
    """Return the mean of (|gradient| - norm)² of logits (N,) by images (N, C, H, W).

    With norm 0 it smooths D at real (R1) and at fake (R2) images, so that training converges: Roth
    et al. 2017, arXiv 1705.09367; Mescheder et al. 2018, arXiv 1801.04406. Norm 1 is for wgan_gp.
    The images must require gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    squares = gradient.float().square().flatten(1).sum(1)  # |gradient|², (N,)
    if norm == 0:
        return squares.mean()
    lengths = (squares + 1e-12).sqrt()  # the derivative of the root is infinite at 0
    return (lengths - norm).square().mean()


# ── Training ── D and G take turns, one step each; samples come from a moving average of G ────────

FIRST_SHIFTED_EPOCH = 7  # D has memorized nothing before, and shifts only slow G down
PENALTY_EVERY = 8  # steps; eight times the penalty in every 8th step is as good, and cheaper
AVERAGE_EVERY = 10  # steps from one update of G's moving average to the next; a tenth faster than 1
EPOCH_BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
REPORT_EVERY = 50  # steps from one report of the losses to the next, as a GPU has to wait for it
LAST_LR_FACTOR = 0.02  # what the learning rates are multiplied by at the end
COLUMNS = (  # of the history: one row for each epoch
    "epoch",
    "d_loss",
    "g_loss",
    "d_accuracy",  # share of real and fake images that D tells right
    "seconds",
    "images_per_second",
    "fd",  # this and the next are None if METRICS_EVERY leaves the epoch out
    "covered",  # "8 of 10" classes in the samples
    "missing",  # "3 5", the other classes
)
STREAMS = {"weights": 0, "measurement": -1, "real samples": -2}  # epoch n uses stream n


def stream_seed(seed, stream):
    """Return the seed of one of a run's streams of random numbers, which differ from each other.

    It is at least 2**31, so it never equals a SEED, which itself draws z for grids and `generate`.
    """
    return 2**31 + (seed * 1_000_003 + stream) % 2**31


def process_rank():
    """Return this process's rank and the number of processes, as torchrun sets them, else 0, 1."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait_for_all():
    """Wait until all processes of the run have come here."""
    if dist.is_initialized():
        dist.barrier()


def average_over_processes(tensors):
    """Replace tensors by their means over all processes, in one exchange."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def choose_device(name, precision):
    """Return the torch.device and the dtype (torch.float32 or torch.bfloat16) of the training.

    Raises ValueError if this machine has no such device.
    """
    available = []
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    available.append("cpu")
    if name == "auto":
        name = available[0]
    if name not in available:
        raise ValueError(f"DEVICE is {name}, which PyTorch does not find here: use auto or cpu")
    device = torch.device(name)
    if name == "cuda":  # one GPU for each process
        number = int(os.environ.get("LOCAL_RANK", 0))
        if number >= torch.cuda.device_count():
            raise ValueError(f"process {number} has no GPU: start fewer, or set DEVICE to cpu")
        device = torch.device(name, number)
    if precision == "bf16" or (precision == "auto" and has_fast_bf16(name)):
        return device, torch.bfloat16
    return device, torch.float32


def has_fast_bf16(device_name):
    """Return whether bfloat16 is computed by the hardware; where it is emulated it is slow."""
    if device_name == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_name == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.8 and newer
        features = torch.cpu.get_capabilities()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return False


def lr_factor(epoch, decay_start, decay_end):
    """Return what the learning rates are multiplied by: 1 to decay_start, then a falling line."""
    if decay_end == 0:
        return 1.0
    decay_start = min(decay_start, decay_end - 1)
    return float(np.interp(epoch, [decay_start, decay_end], [1.0, LAST_LR_FACTOR]))


def descend(loss, optimizer, grad_clip=0.0):
    """Take one step of the optimizer down the loss, for its own parameters alone."""
    parameters = optimizer.param_groups[0]["params"]
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    average_over_processes([parameter.grad for parameter in parameters])
    if grad_clip:
        nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()


def load_adam(optimizer, state):
    """Restore Adam's averages, but not its settings, which are those of this run.

    PyTorch does not compare shapes. Raises KeyError or RuntimeError for the state of other weights.
    """
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": settings})
    for weight in optimizer.param_groups[0]["params"]:
        for average in ("exp_avg", "exp_avg_sq"):
            if optimizer.state[weight][average].shape != weight.shape:
                raise RuntimeError("Adam's averages are of other weights")


@torch.no_grad()
def update_ema(G_ema, G, decay):
    """Set G_ema = decay * G_ema + (1 - decay) * G, for weights and BatchNorm statistics alike."""
    averages = [*G_ema.parameters(), *G_ema.buffers()]
    values = [*G.parameters(), *G.buffers()]
    for average, value in zip(averages, values, strict=True):
        if value.is_floating_point():  # all but BatchNorm's count of batches
            average.lerp_(value, 1.0 - decay)


def make_generator(config, image_shape, classes):
    """Return the generator that the settings ask for."""
    common = {
        "latent_dim": config.latent_dim,
        "image_shape": image_shape,
        "classes": classes,
        "modes": config.modes,
        "norm": config.g_norm,
        "activation": config.g_activation,
        "end": config.g_end,
    }
    if config.g_arch == "dcgan":
        return ConvGenerator(width=config.width, **common)
    smooth = config.smooth
    if image_shape[0] > 1:
        smooth = 0.0
    return Generator(hidden=config.g_hidden, smooth=smooth, **common)


def make_discriminator(config, image_shape, classes):
    """Return the discriminator that the settings ask for."""
    common = {
        "dropout": config.dropout,
        "image_shape": image_shape,
        "classes": classes,
        "spectral_norm": config.spectral_norm,
        "slope": config.d_slope,
    }
    if config.d_arch == "dcgan":
        return ConvDiscriminator(width=config.width, norm=config.d_norm, **common)
    return Discriminator(hidden=config.d_hidden, **common)


class GAN:
    """State of a training run: the networks, their optimizers, the moving average, the history."""

    def __init__(self, config, image_shape, classes=0, shift=False):
        """Build the networks that config asks for; `classes`, how many labels the data have."""
        self.config = config
        self.shift = shift  # whether to shift images from FIRST_SHIFTED_EPOCH on
        self.epoch = 0
        self.steps = 0
        self.averaged = 0  # steps at the last update of the moving average
        self.history = []  # one dict for each epoch, see COLUMNS
        self.rank, self.world_size = process_rank()
        self.data = {}  # which images it is trained on, see describe_data
        self.device, self.dtype = choose_device(config.device, config.precision)
        if not config.conditional:
            classes = 0

        torch.manual_seed(stream_seed(config.seed, STREAMS["weights"]))
        place = {"device": self.device, "memory_format": torch.channels_last}  # for convolutions
        self.G = make_generator(config, image_shape, classes).to(**place)
        self.D = make_discriminator(config, image_shape, classes).to(**place)
        self.G_ema = copy.deepcopy(self.G).eval()
        self.optimizer_g = torch.optim.Adam(self.G.parameters(), fused=True)
        self.optimizer_d = torch.optim.Adam(self.D.parameters(), fused=True)
        self.set_learning_rates()
        self.start_clock()

    def set_learning_rates(self):
        """Set learning rates and betas of both optimizers for the current epoch."""
        c = self.config
        factor = lr_factor(self.epoch, c.lr_decay_start, c.lr_decay_end)
        betas = (c.beta1, c.beta2)
        self.optimizer_g.param_groups[0].update(lr=c.learning_rate_g * factor, betas=betas)
        self.optimizer_d.param_groups[0].update(lr=c.learning_rate_d * factor, betas=betas)

    def start_clock(self):
        """Let time_left count from now on: the epochs before were not trained in this process."""
        self.start_time = time.perf_counter()
        self.start_epoch = self.epoch

    def time_left(self, part=1.0):
        """Return the time to the end of the run as "03:12", when `part` of the epoch is done."""
        done = self.epoch - 1 + part
        seconds = time.perf_counter() - self.start_time
        per_epoch = seconds / (done - self.start_epoch)
        return tqdm.format_interval(per_epoch * (self.config.epochs - done))

    def autocast(self):
        """Return the context in which layers compute in bfloat16, if that is enabled."""
        bf16 = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def my_part(self, batch):
        """Return this process's part of a batch; all processes have drawn the same batch."""
        return batch.chunk(self.world_size)[self.rank]

    def augment(self, images):
        """Shift images at random, if that is enabled in this epoch."""
        if self.shift and self.epoch >= FIRST_SHIFTED_EPOCH:
            return random_shift(images)
        return images

    def discriminate(self, images, labels):
        """Return D's logits (2N,) of N real and N fake images with the same labels (N,).

        In one pass, or in two if D has BatchNorm, whose statistics would mix real and fake.
        """
        if self.config.d_arch == "dcgan" and self.config.d_norm == "batch":
            return torch.cat([self.D(half, labels) for half in images.chunk(2)])
        return self.D(images, labels.repeat(2))

    def weighted_penalty(self, logits, images, labels):
        """Return GRADIENT_PENALTY times the penalty of this step, which is 0 in most steps.

        Takes logits (2N,) of images (2N, C, H, W), N real and then N fake ones, and labels (N,).
        """
        weight = self.config.gradient_penalty
        if weight == 0:
            return 0.0
        if self.config.loss == "wgan_gp":  # at random points between real and fake images
            real, fake = images.detach().chunk(2)
            share = torch.rand(len(real), 1, 1, 1, device=self.device)
            between = torch.lerp(real, fake, share).requires_grad_()
            return weight * gradient_penalty(self.D(between, labels), between, norm=1)
        if self.steps % PENALTY_EVERY == 0:  # lazy: Karras et al. 2020, arXiv 1912.04958
            return weight * PENALTY_EVERY * gradient_penalty(logits, images)
        return 0.0

    def train_step(self, real, labels):
        """Take D_STEPS steps of D and one of G; return a tensor: d_loss, g_loss, D's accuracy.

        Takes real images (D_STEPS * N, C, H, W) in [-1, 1] and labels, which fakes get as well.
        """
        c = self.config
        for x, y in zip(real.chunk(c.d_steps), labels.chunk(c.d_steps), strict=True):
            # D: maximize log D(x) + log(1 - D(G(z))), with real and fake in one pass
            z = self.my_part(torch.randn(c.batch_size, c.latent_dim, device=self.device))
            with self.autocast():
                fake = self.G(z, y)
                images = self.augment(torch.cat([x, fake.detach()])).requires_grad_()
                logits = self.discriminate(images, y)
                penalty = self.weighted_penalty(logits, images, y)
            real_logits, fake_logits = logits.chunk(2)
            d_loss = discriminator_loss(real_logits, fake_logits, c.label_smoothing, c.loss)
            descend(d_loss + penalty, self.optimizer_d, c.grad_clip)

        # G: maximize log D(G(z)) for the same fakes, with D as it is after its step
        with self.autocast():
            g_loss = generator_loss(self.D(self.augment(fake), y), c.loss)
        descend(g_loss, self.optimizer_g, c.grad_clip)

        self.steps += 1
        if self.steps % AVERAGE_EVERY == 0:
            self.update_average()
        right = torch.cat([real_logits > 0, fake_logits <= 0])
        return torch.stack([d_loss, g_loss, right.float().mean()]).detach()

    def update_average(self):
        """Update G's moving average as if G had been as it is now since the last update."""
        passed = self.steps - self.averaged
        # a short average at first, while G changes fast
        decay = min(self.config.ema_decay, (1 + self.steps) / (10 + self.steps))
        update_ema(self.G_ema, self.G, decay**passed)
        self.averaged = self.steps

    def my_batch(self, images, labels):
        """Return this process's part of each of the D_STEPS batches from the loader, on its device.

        All processes together see the same batches as one process alone would.
        """
        if self.world_size > 1:
            parts = torch.arange(len(images)).chunk(self.config.d_steps)
            mine = torch.cat([self.my_part(part) for part in parts])
            images, labels = images[mine], labels[mine]
        return images.to(self.device), labels.to(self.device)

    def share_statistics(self):
        """Give all processes the BatchNorm statistics of process 0."""
        if dist.is_initialized():
            for network in (self.G, self.D, self.G_ema):
                for buffer in network.buffers():
                    dist.broadcast(buffer, 0)

    def check_processes(self):
        """Give all processes the weights of process 0, which other hardware may round differently.

        Raises ValueError if they do not have the same data and the same checkpoint.
        """
        if not dist.is_initialized():
            return
        states = [None] * self.world_size
        dist.all_gather_object(states, (self.data["images"], self.data["checksum"], self.epoch))
        if len(set(states)) > 1:
            raise ValueError(
                "the processes differ in their data or checkpoints: each machine needs those of "
                f"process 0 (images, checksum, epoch: {states})"
            )
        for network in (self.G, self.D, self.G_ema):
            for weight in network.parameters():
                dist.broadcast(weight.data, 0)
        self.share_statistics()

    def train_epoch(self, loader):
        """Train for one pass over the loader and return the epoch's row of the history.

        Randomness depends on seed and epoch alone, as if the run had never been stopped. Raises
        FloatingPointError if a loss is not finite.
        """
        c = self.config
        self.epoch += 1
        torch.manual_seed(stream_seed(c.seed, self.epoch))
        self.set_learning_rates()
        sums = torch.zeros(3, device=self.device)
        start = time.perf_counter()
        title = f"Epoch [{self.epoch}/{c.epochs}]"
        with progress(loader, title, EPOCH_BAR_FORMAT, hidden=self.rank > 0) as bar:
            for step, (images, labels) in enumerate(bar, 1):
                images, labels = self.my_batch(images, labels)
                sums += self.train_step(to_float(images), labels)
                if step % REPORT_EVERY == 0 or step == len(loader):
                    row = self.epoch_row(sums, step, time.perf_counter() - start)
                    bar.set_postfix_str(
                        f"D {row['d_loss']:.2f}, G {row['g_loss']:.2f}, "
                        f"{row['images_per_second']:,.0f} img/s, "
                        f"{self.time_left(step / len(loader))} left"
                    )
                if self.rank == 0 and c.grid_every_steps and self.steps % c.grid_every_steps == 0:
                    draw_grid(self, f"step_{self.steps:06d}.png")
        self.update_average()
        self.share_statistics()
        return row

    def epoch_row(self, sums, steps, seconds):
        """Return the row of the history for an epoch so far: sums (3,) of what train_step returns.

        Raises FloatingPointError if a loss is not finite.
        """
        c = self.config
        means = sums / steps
        average_over_processes([means])
        d_loss, g_loss, accuracy = means.tolist()
        if not math.isfinite(d_loss + g_loss):
            raise FloatingPointError(
                f"a loss is not finite in epoch {self.epoch}: lower LEARNING_RATE_G and "
                "LEARNING_RATE_D or set GRAD_CLIP; earlier files are intact"
            )
        if c.loss == "wgan_gp":  # whose logits have no threshold between real and fake
            accuracy = math.nan
        return {
            "epoch": self.epoch,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_accuracy": accuracy,
            "seconds": seconds,
            "images_per_second": steps * c.batch_size * c.d_steps / seconds,
        }

    def state_dict(self):
        """Return all that a checkpoint holds."""
        return {
            "config": self.config._asdict(),
            "data": self.data,
            "world_size": self.world_size,
            "epoch": self.epoch,
            "steps": self.steps,
            "history": self.history,
            "G": self.G.state_dict(),
            "D": self.D.state_dict(),
            "G_ema": self.G_ema.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
        }

    def load_state_dict(self, state):
        """Continue from what state_dict returned.

        Raises KeyError, RuntimeError or TypeError for the state of other networks or of no run.
        """
        self.epoch = state["epoch"]
        self.steps = state["steps"]
        self.averaged = self.steps
        self.history = [{column: row[column] for column in COLUMNS} for row in state["history"]]
        if self.epoch != len(self.history) or self.steps < self.epoch:
            raise RuntimeError("its epochs, steps and history do not match")
        for part in ("G", "D", "G_ema"):
            getattr(self, part).load_state_dict(state[part])
        for part in ("optimizer_g", "optimizer_d"):
            load_adam(getattr(self, part), state[part])


# ── Checkpoints ── Files appear whole or not at all; a run continues from the newest one ──────────

# settings that a resumed run has to keep
FIXED = (
    "g_arch",
    "d_arch",
    "latent_dim",
    "modes",
    "g_hidden",
    "smooth",
    "d_hidden",
    "g_norm",
    "g_activation",
    "g_end",
    "width",
    "d_norm",
    "d_slope",
    "spectral_norm",
    "conditional",
)
FREE = ("epochs", "resume", "overwrite")  # settings that may change without a message


def switch(setting, value=True):
    """Return how the user gives a setting: --resume, or resume=True where there are no flags."""
    if __name__ != "__main__":
        return f"{setting}={value!r}"
    if value is True:
        return f"--{setting}"
    if value is False:
        return f"--no_{setting}"
    return f"--{setting} {value}"


def save_whole(path, write):
    """Write a file completely or not at all: write(file) fills a file beside it, which is renamed.

    Raises OSError naming the path if the disk is full or the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.part")
    buffer = io.BytesIO()
    write(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(buffer.getbuffer())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror}): free disk space, fix permissions or close "
            "the file elsewhere; earlier files are intact"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def load_weights(path):
    """Return the dict that torch.save wrote to `path`, on the CPU. Code in a file is never run.

    Raises FileNotFoundError if there is no file, ValueError if it is damaged, is not a weights
    file, or has weights that are not finite numbers.
    """
    state = None
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            plain = unpacked <= Path(path).stat().st_size  # PyTorch does not compress; bombs do
            if plain and archive.testzip() is None:  # torch.load does not compare checksums
                state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from error
    except Exception:  # each kind of damage raises an error of its own
        state = None
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged, or is not a weights file")
    if not all_finite(state):
        raise ValueError(f"{path} has weights that are not finite numbers")
    return state


def all_finite(state):
    """Return whether all tensors in nested dicts, lists and tuples hold finite numbers."""
    if isinstance(state, torch.Tensor):
        return bool(state.isfinite().all())
    if isinstance(state, dict):
        return all(all_finite(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return all(all_finite(value) for value in state)
    return True


def load_generator(path, device="cpu"):
    """Return the Generator of generator_final.pth, or the averaged one of a checkpoint.

    It is rebuilt from the file alone and is in eval mode. Raises FileNotFoundError if there is no
    file, ValueError if it is damaged or holds no generator.
    """
    state = load_weights(path)
    try:
        state = state.get("G_ema", state)
        arguments = dict(state["_extra_state"])
        del arguments["about"]
        G = GENERATORS[arguments.pop("arch")](**arguments)
        G.load_state_dict(state)
        describe(G.about)
    except Exception as error:  # each kind of misfit raises an error of its own
        raise ValueError(f"{path} holds no generator of this script") from error
    return G.folded().eval().to(device)


def save_generator(gan, name):
    """Write the averaged G into CHECKPOINT_DIR, as CPU tensors that any machine can load."""
    path = Path(gan.config.checkpoint_dir) / name
    state = gan.G_ema.folded().cpu().state_dict()
    save_whole(path, lambda file: torch.save(state, file))
    metrics_path(path).unlink(missing_ok=True)  # they are of an earlier one


def metrics_path(model_path):
    """Return the file in which evaluate keeps the metrics of a generator."""
    return Path(f"{model_path}.json")


def epoch_files(folder, suffix, last=math.inf):
    """Return the files of a folder named like epoch_0001.png, in order, up to epoch `last`."""
    paths = []
    for path in Path(folder).glob(f"epoch_*{suffix}"):
        number = path.stem.removeprefix("epoch_")
        if number.isdecimal() and int(number) <= last and path.is_file():
            paths.append(path)
    return sorted(paths, key=epoch_number)


def epoch_number(path):
    """Return the epoch of a file that is named like epoch_0001.png."""
    return int(path.stem.removeprefix("epoch_"))


def save_checkpoint(gan):
    """Write the state of a run, then delete old ones."""
    path = Path(gan.config.checkpoint_dir) / f"epoch_{gan.epoch:04d}.pth"
    save_whole(path, lambda file: torch.save(gan.state_dict(), file))
    prune_checkpoints(gan)


def prune_checkpoints(gan):
    """Delete the checkpoints up to the current epoch, except the KEEP_CHECKPOINTS newest ones."""
    keep = gan.config.keep_checkpoints
    if keep > 0:
        for path in epoch_files(gan.config.checkpoint_dir, ".pth", gan.epoch)[:-keep]:
            path.unlink()
            metrics_path(path).unlink(missing_ok=True)


Checkpoint = collections.namedtuple("Checkpoint", ["path", "state"])


def newest_checkpoint(folder):
    """Return the newest Checkpoint of a folder that is not damaged, None if there is none.

    Raises ValueError if all checkpoints are damaged.
    """
    paths = epoch_files(folder, ".pth")
    for path in reversed(paths):
        try:
            return Checkpoint(path, load_weights(path))
        except ValueError as error:
            print(f"WARNING: {error}: trying the checkpoint before it")
    if paths:
        raise ValueError(
            f"all checkpoints in {folder} are damaged: start again with {switch('overwrite')}"
        )
    print(f"No checkpoint in {folder} yet: starting with epoch 1")
    return None


def preset_of(checkpoint):
    """Return the preset of a checkpoint's run, "none" if there is none."""
    config = checkpoint.state.get("config")
    if not isinstance(config, dict):
        return "none"
    return config.get("preset", "none")


def compare_settings(path, state, gan):
    """Print which settings differ from a checkpoint's. Raises ValueError for one of FIXED."""
    advice = f"set it as it was, or start again with {switch('overwrite')}"
    now = gan.config._asdict()
    for name, was in state["config"].items():
        if name in FREE or was == now[name]:
            continue
        if name in FIXED:
            raise ValueError(
                f"{path} was trained with {name.upper()} {was}, now it is {now[name]}: {advice}"
            )
        print(f"Changed: {name.upper()} {was} -> {now[name]} ({switch(name, was)} keeps it)")
    if state["world_size"] != gan.world_size:
        print(f"Changed: processes {state['world_size']} -> {gan.world_size}")
    old_data = state["data"]
    if any(old_data[key] != gan.data[key] for key in ("images", "checksum")):  # not the name
        raise ValueError(
            f"{path} was trained on {describe_data(old_data)}; DATASET and IMAGE_SIZE now give "
            f"{describe_data(gan.data)}: {advice}"
        )


def resume(gan, checkpoint):
    """Continue a run from a checkpoint.

    Raises ValueError if it does not fit the settings or the data, or is no checkpoint.
    """
    path, state = checkpoint
    try:
        compare_settings(path, state, gan)
        gan.load_state_dict(state)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint of this script ({error})") from error
    if path.name != f"epoch_{gan.epoch:04d}.pth":
        raise ValueError(f"{path} is of epoch {gan.epoch}: rename it to epoch_{gan.epoch:04d}.pth")
    if gan.epoch > gan.config.epochs:
        raise ValueError(f"EPOCHS is {gan.config.epochs}: {path} has done {gan.epoch}, so raise it")
    print(f"Continuing from {path}")


def earlier_files(config):
    """Return the files of an earlier run that would mix with those of a new one.

    With RESUME, when there is no checkpoint yet, a run starts again if its history.csv is there.
    The grids and generator_best.pth are its own then, and it draws them again.
    """
    samples = Path(config.samples_dir)
    checkpoints = Path(config.checkpoint_dir)
    files = [*epoch_files(checkpoints, ".pth"), *checkpoints.glob("generator_final.pth")]
    if config.resume and (checkpoints / "history.csv").exists():
        return files
    files += checkpoints.glob("generator_epoch_[0-9]*.pth")
    files += checkpoints.glob("generator_best.pth")
    files += samples.glob("step_[0-9]*.png")
    files += epoch_files(samples, ".png")
    return files


def check_earlier_run(config):
    """Raise ValueError if an earlier run is there and is not to be deleted."""
    try:
        files = earlier_files(config)
    except OSError:  # an impossible name, which make_folder will tell
        return
    if files and not config.overwrite:
        raise ValueError(
            f"{files[-1]} is of an earlier run: keep it by another SAMPLES_DIR and CHECKPOINT_DIR, "
            f"continue it by {switch('resume')} if it has a checkpoint, or delete it by "
            f"{switch('overwrite')}"
        )


def clear_folders(config):
    """Delete the earlier run, if there is one, so that two runs do not mix."""
    for path in earlier_files(config):
        path.unlink()
        metrics_path(path).unlink(missing_ok=True)
    if config.overwrite:
        (Path(config.checkpoint_dir) / "history.csv").unlink(missing_ok=True)
        for name in ("loss_curves.png", "real_and_generated.png", "training.gif"):
            (Path(config.samples_dir) / name).unlink(missing_ok=True)


# ── Output ── Pictures and tables for people ──────────────────────────────────────────────────────

MEASURED_SAMPLES = 2000  # of which FD is computed during a run; evaluate takes more
SLOWDOWN = 3  # an epoch so many times slower than the fastest one is worth a warning
D_WINS = 0.98  # accuracy of D above which G learns little
GRID_SIDE = 700  # pixels that the longer side of a grid has at least, if ZOOM is 0
GIF_FRAMES = 200  # at most


def describe_data(data):
    """Return a short description of images: "mnist, 60000 images, checksum 5a1f0f21"."""
    return f"{data['dataset']}, {data['images']} images, checksum {data['checksum']}"


def describe(about):
    """Return a short description of a training: "60 epochs of mnist, FD 0.97"."""
    words = f"{about.get('epochs', 0)} epochs of {Path(about.get('dataset', 'nothing')).name}"
    if about.get("fd") is not None:
        words += f", FD {about['fd']:.2f}"
    return words


def print_epoch(row, epochs, time_left):
    """Print a row of the history as a line, and the warnings that follow from it."""
    line = (
        f"Epoch [{row['epoch']}/{epochs}]: D loss {row['d_loss']:.3f}, G loss {row['g_loss']:.3f}, "
    )
    if row["fd"] is not None:
        line += f"FD {row['fd']:.2f}, "
    line += f"{row['images_per_second']:,.0f} img/s"
    if row["epoch"] < epochs:
        line += f", {time_left} left"
    print(line, flush=True)  # so that a log file has it at once
    if row["missing"]:
        print(
            f"WARNING: almost no sample of {MEASURED_SAMPLES:,} is of class {row['missing']}.\n"
            "  If that lasts, G has collapsed: lower LEARNING_RATE_G or set BETA1 to 0",
            flush=True,
        )
    if row["d_accuracy"] > D_WINS:
        print(
            f"WARNING: D is right in {row['d_accuracy']:.1%} of cases, and G learns little so.\n"
            "  Lower LEARNING_RATE_D, raise DROPOUT or make D smaller",
            flush=True,
        )


def print_slowdown(history):
    """Print a warning if the last epoch is the first of some that are far slower than the fastest.

    PyTorch's CPU threads wait for each other in every operation, so a single one that has to share
    its core delays them all.
    """
    rates = [row["images_per_second"] for row in history]
    slow = [SLOWDOWN * rate < max(rates) for rate in rates]
    if slow[-1] and not slow[-2]:
        print(
            f"WARNING: {max(rates) / rates[-1]:.0f} times slower than before: is another program "
            f"busy?\n  Then Ctrl-C and {switch('resume')} with {switch('threads', 1)} is faster",
            flush=True,
        )


def save_image(path, image):
    """Write an image (C, H, W) in [-1, 1] as a PNG file, with the same scale of grey for all."""
    pixels = to_uint8(image).permute(1, 2, 0).squeeze(2).cpu().numpy()
    save_whole(path, lambda file: Image.fromarray(pixels).save(file, "png"))


def save_grid(path, images, columns=None, zoom=ZOOM):
    """Write images (N, C, H, W) in [-1, 1] as one PNG file, about as wide as high.

    Each pixel is enlarged to zoom x zoom equal ones, see ZOOM.
    """
    from torchvision.utils import make_grid

    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    grid = make_grid(images, columns, pad_value=-1.0)
    channels = images.shape[1]  # make_grid turns one channel into three equal ones
    grid = grid[:channels]
    if zoom == 0:
        zoom = math.ceil(GRID_SIDE / max(grid.shape))
    save_image(path, grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2))


def read_picture(path):
    """Return a picture that save_grid wrote, grey or in colour.

    Raises FileNotFoundError if somebody has deleted it, ValueError if it is damaged.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode == "L":
                return picture.copy()
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is gone: {switch('resume')} draws it again") from error
    except OSError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it") from error


def caption_height(width):
    """Return the height in pixels of the caption of a picture of this width."""
    return max(12, width // 16)


def add_caption(picture, text):
    """Return a picture with a line of text above it."""
    height = caption_height(picture.width)
    captioned = Image.new(picture.mode, (picture.width, height + picture.height))
    captioned.paste(picture, (0, height))
    font = ImageFont.load_default(size=0.7 * height)
    ImageDraw.Draw(captioned).text((height // 4, 0), text, fill="white", font=font)
    return captioned


def save_comparison(path, real, drawn, epoch):
    """Write two grids (paths) side by side: real images left, those drawn after `epoch` right."""
    left = add_caption(read_picture(real), "real")
    right = add_caption(read_picture(drawn), f"drawn after epoch {epoch}")
    gap = left.width // 50
    size = (left.width + gap + right.width, max(left.height, right.height))
    both = Image.new(left.mode, size, "gray")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    save_whole(path, lambda file: both.save(file, "png"))


def save_gif(path, pictures):
    """Write grids, the paths of epoch_0001.png and so on, as a looping GIF that pauses at its end.

    Each of its frames, GIF_FRAMES at most, tells its epoch. Raises ValueError if a grid is damaged.
    """
    step = math.ceil(len(pictures) / GIF_FRAMES)
    first = (len(pictures) - 1) % step  # so that the last picture is among them
    size = read_picture(pictures[-1]).size
    frames = []
    for picture in pictures[first::step]:
        frame = read_picture(picture).resize(size, Image.Resampling.NEAREST)
        frame = frame.point(lambda value: (value + 8) // 17 * 17)  # 16 greys: a third of the bytes
        frames.append(add_caption(frame, f"epoch {epoch_number(picture)}"))
    pauses = [120] * (len(frames) - 1) + [2000]  # milliseconds
    save_whole(
        path,
        lambda file: frames[0].save(
            file, "gif", save_all=True, append_images=frames[1:], duration=pauses, loop=0
        ),
    )


def frames_of_gif(path):
    """Return the grids in a GIF of save_gif that has one for each epoch: {epoch: picture}."""
    with Image.open(path) as gif:
        frames = [frame.convert("L") for frame in ImageSequence.Iterator(gif)]
        top = caption_height(gif.width)
        box = (0, top, gif.width, gif.height)
    return {epoch: frame.crop(box) for epoch, frame in enumerate(frames, 1)}


def save_csv(path, history):
    """Write a list of dicts with the same keys as a CSV file, with one line for each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    save_whole(path, lambda file: file.write(text.getvalue().encode()))


def save_curves(path, history, loss="bce", real_fd=None, first_shifted=None):
    """Write a plot of FD, where it was measured, above one of both losses.

    `real_fd`: FD of real images, drawn as a dashed line; `first_shifted`: the epoch to mark.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    measured = [row for row in history if row["fd"] is not None]
    panels = 1
    if measured:
        panels = 2
    figure = Figure(figsize=(8, 3.5 * panels), layout="constrained")
    axes = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    if measured:
        plot_fd(axes[0], measured, real_fd)
    plot_losses(axes[-1], history, loss)
    for panel in axes:
        if first_shifted is not None:
            panel.axvline(
                first_shifted, color="gray", linestyle=":", label="images are shifted from here on"
            )
        panel.legend()
        panel.grid(alpha=0.3)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    save_whole(path, lambda file: figure.savefig(file, format="png", dpi=150))


def plot_fd(axes, measured, real_fd):
    """Draw FD in rows of the history into a panel, on a logarithmic axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    epochs = [row["epoch"] for row in measured]
    axes.plot(epochs, [row["fd"] for row in measured], ".-", color="C2", label="drawn images")
    if real_fd is not None:
        axes.axhline(real_fd, color="C2", linestyle="--", label="real images")
    axes.set(title="Quality: FD (lower is better)", ylabel="FD", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plot_losses(axes, history, loss):
    """Draw both losses into a panel, with dashed lines where they are when D can only guess."""
    epochs = [row["epoch"] for row in history]
    zero = torch.zeros(1)  # the logit of a D that guesses
    axes.plot(epochs, [row["d_loss"] for row in history], ".-", color="C0", label="discriminator")
    axes.axhline(discriminator_loss(zero, zero, loss=loss).item(), color="C0", linestyle="--")
    axes.plot(epochs, [row["g_loss"] for row in history], ".-", color="C1", label="generator")
    axes.axhline(generator_loss(zero, loss).item(), color="C1", linestyle="--")
    title = "Losses, dashed where the discriminator can only guess"
    if loss != "wgan_gp":
        title = "Losses: flat near the dashed line is normal (there D can only guess)"
    axes.set(title=title, ylabel=f"{loss} loss")


def tensorboard_writer_class():
    """Return TensorBoard's SummaryWriter. Raises ValueError if the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "TENSORBOARD needs a package that is missing: pip install tensorboard"
        ) from error
    return SummaryWriter


def tensorboard_folder(config):
    """Return the folder of a run's events: runs/<preset, if any>_<name of CHECKPOINT_DIR>."""
    name = Path(config.checkpoint_dir).resolve().name
    if config.preset != "none":
        name = f"{config.preset}_{name}"
    return Path("runs") / name


def write_tensorboard(writer, gan):
    """Write the last row of the history, the learning rates and the grids, at the step `epoch`."""
    scalars = {name: value for name, value in gan.history[-1].items() if isinstance(value, float)}
    scalars["learning_rate_g"] = gan.optimizer_g.param_groups[0]["lr"]
    scalars["learning_rate_d"] = gan.optimizer_d.param_groups[0]["lr"]
    for name, value in scalars.items():
        writer.add_scalar(name, value, gan.epoch)
    pictures = {"samples": f"epoch_{gan.epoch:04d}.png"}
    if gan.epoch == 1:
        pictures["real"] = "real_samples.png"
    for name, picture in pictures.items():
        with Image.open(Path(gan.config.samples_dir) / picture) as grid:
            pixels = np.array(grid.convert("RGB"))
        writer.add_image(name, pixels, gan.epoch, dataformats="HWC")
    writer.flush()


# ── Run ── A complete training run: the data, the networks, the epochs and their files ────────────


def train_gan(**settings):
    """Train and return the averaged Generator, in eval mode, and the history, a list of dicts.

    train_gan(epochs=5): settings are named like the constants, whose comments explain them. Raises
    ValueError for a wrong setting or a damaged file, FileNotFoundError for missing data, OSError if
    a file cannot be written, FloatingPointError if a loss is not finite. Under torchrun process 0
    has the history.
    """
    config = make_config(**settings)
    with processes(config):
        return run(config, settings)


@contextlib.contextmanager
def processes(config):
    """Connect the processes of torchrun for the duration of a run; only process 0 prints."""
    rank, world_size = process_rank()
    if world_size == 1:
        yield
        return
    device, _ = choose_device(config.device, config.precision)
    backend = "gloo"
    if device.type == "mps":
        raise ValueError("DEVICE is mps, which is for one process: set it to cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "nccl"
    dist.init_process_group(backend)
    try:
        with contextlib.ExitStack() as stack:
            if rank > 0:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            yield
    finally:
        dist.destroy_process_group()


def run(config, settings):
    """Do what train_gan says, in this process."""
    if config.tensorboard:
        SummaryWriter = tensorboard_writer_class()  # before anything is done
    if config.threads:
        torch.set_num_threads(config.threads)
    checkpoint = None
    if config.resume:
        checkpoint = newest_checkpoint(config.checkpoint_dir)
    if checkpoint:  # whose preset need not be given again
        config = make_config(**{"preset": preset_of(checkpoint), **settings})
    gan, loader, judge = prepare_run(config, checkpoint)
    writer = None
    if config.tensorboard and gan.rank == 0:  # what a stopped run wrote later is replaced
        writer = SummaryWriter(tensorboard_folder(config), purge_step=gan.epoch + 1)
    for dtype in (np.float32, np.float64):  # NumPy 1 warns if it first looks for them later
        np.finfo(dtype).smallest_subnormal  # noqa: B018
    torch.set_flush_denormal(True)  # Adam's averages of zero gradients would be slow
    try:
        train_epochs(gan, loader, judge, writer)
        wait_for_all()
    except BaseException:  # Ctrl-C is one
        print_stop(gan)
        raise
    finally:
        torch.set_flush_denormal(False)
        if writer:
            writer.close()
    return gan.G_ema.folded(), gan.history


def train_epochs(gan, loader, judge, writer):
    """Train up to EPOCHS, with the files and the lines on screen of each epoch and of the end."""
    config = gan.config
    gan.start_clock()
    while gan.epoch < config.epochs:
        row = gan.train_epoch(loader)
        if gan.rank > 0:
            continue
        end_epoch(gan, row, judge, writer)
        print_epoch(row, config.epochs, gan.time_left())  # last: what is printed is saved
        if gan.device.type == "cpu" and torch.get_num_threads() > 1:
            print_slowdown(gan.history)
        if gan.epoch == 1 < config.epochs:
            print(f"Look at {config.samples_dir}/epoch_0001.png, and after the next epochs again")
    if gan.rank == 0:
        real_fd = None
        if judge is not None:
            images, _ = loader.dataset.tensors
            real_fd = judge.fd_of_real(images, stream_seed(config.seed, STREAMS["measurement"]))
        finish_run(gan, real_fd)
        print_end(gan)


def prepare_run(config, checkpoint=None):
    """Return the GAN, new or continued from a checkpoint, the DataLoader, and the judge or None."""
    rank, world_size = process_rank()
    if config.batch_size % world_size or config.batch_size < 2 * world_size:
        raise ValueError(
            f"BATCH_SIZE is {config.batch_size}: must be a multiple of the {world_size} processes, "
            "with at least 2 images for each"
        )
    check_folders(config)
    if rank == 0 and not checkpoint:
        check_earlier_run(config)
    images, labels, dataset = load_in_turn(config)
    classes = int(labels.max()) + 1
    if config.conditional and classes == 1:
        raise ValueError(f"CONDITIONAL needs labels: give each class of {dataset} a sub-folder")
    loader = make_loader(images, labels, config.batch_size * config.d_steps)
    if len(loader) == 0:
        raise ValueError(
            f"BATCH_SIZE is {config.batch_size}, D_STEPS {config.d_steps}: together more than the "
            "images of an epoch"
        )
    few = len(images) <= EPOCH_IMAGES * 2 // 3
    shift = config.augment == "shift" or (config.augment == "auto" and few)
    gan = GAN(config, images.shape[1:], classes, shift)
    checksum = f"{zlib.crc32(images.numpy()):08x}"
    gan.data = {"dataset": dataset, "images": len(images), "checksum": checksum}
    gan.G_ema.about = {**gan.data, "epochs": 0, "fd": None}
    if checkpoint:
        resume(gan, checkpoint)
    judge = None
    if rank == 0:
        judge = choose_judge(config, dataset)
        make_folder("samples_dir", config.samples_dir)
        make_folder("checkpoint_dir", config.checkpoint_dir)
        if not checkpoint:
            clear_folders(config)
        save_real_samples(images, gan)
    gan.check_processes()
    print_start(gan, loader)
    return gan, loader, judge


def print_start(gan, loader):
    """Print what a run is trained on and by which hardware."""
    print(f"Training on {describe_data(gan.data)}; {gan.device.type}, {gan.dtype}")
    passes = len(loader.sampler) * loader.sampler.batch_size / gan.data["images"]
    if passes > 1.5:
        print(f"Each epoch sees all of them {passes:.0f} times")
    if gan.shift:
        print(f"Images are shifted by up to a pixel from epoch {FIRST_SHIFTED_EPOCH} on")
    if gan.world_size > 1:
        each = gan.config.batch_size // gan.world_size
        print(f"{gan.world_size} processes, {each} images each in a step")


def load_in_turn(config):
    """Return what load_dataset does, process 0 before the others: it may have to download."""
    rank, _ = process_rank()
    if rank > 0:
        wait_for_all()
    loaded = load_dataset(config.dataset, config.data_dir, image_size=config.image_size)
    if rank == 0:
        wait_for_all()
    return loaded


def save_real_samples(images, gan):
    """Write a grid of real images, to be compared with the drawn ones."""
    config = gan.config
    real = shuffled(images, stream_seed(config.seed, STREAMS["real samples"]))
    path = Path(config.samples_dir) / "real_samples.png"
    save_grid(path, to_float(real[: config.num_samples]), gan.G.classes or None, config.zoom)


def shuffled(images, seed):
    """Return images in a random order, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return images[torch.randperm(len(images), generator=generator)]


def check_folders(config):
    """Raise ValueError if a run would write into its own folder of training images."""
    if config.dataset in (*SETS, "mnist_5k"):
        return
    for setting in ("samples_dir", "checkpoint_dir"):
        folder = getattr(config, setting)
        if Path(folder).resolve().is_relative_to(Path(config.dataset).resolve()):
            raise ValueError(
                f"{setting.upper()} (--{setting}) is {folder!r}, inside the data folder "
                f"{config.dataset!r}: pictures of the run would become training images"
            )


def make_folder(setting, folder):
    """Make the folder of a setting. Raises ValueError if files cannot be written there."""
    reason = "it is read-only"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        reason = error.strerror
        writable = False
    if not writable:
        raise ValueError(
            f"{setting.upper()} (--{setting}) is {folder!r}, where no file can be written "
            f"({reason}): choose another folder"
        )


def end_epoch(gan, row, judge, writer):
    """Measure what G draws, complete the row of the history and write the files of the epoch."""
    config = gan.config
    last = gan.epoch == config.epochs
    if judge is not None and (last or gan.epoch % config.metrics_every == 0):
        seed = stream_seed(config.seed, STREAMS["measurement"])
        row |= judge.measure(gan.G_ema.folded(), seed)
    else:
        row |= {"fd": None, "covered": None, "missing": None}
    gan.history.append(row)
    gan.G_ema.about |= {"epochs": gan.epoch, "fd": row["fd"]}

    save_csv(Path(config.checkpoint_dir) / "history.csv", gan.history)
    fds = [past["fd"] for past in gan.history if past["fd"] is not None]
    if row["fd"] is not None and row["fd"] == min(fds):
        save_generator(gan, "generator_best.pth")
    draw_grid(gan, f"epoch_{gan.epoch:04d}.png")
    if config.keep_generator_every and gan.epoch % config.keep_generator_every == 0:
        save_generator(gan, f"generator_epoch_{gan.epoch:04d}.pth")
    if writer:
        write_tensorboard(writer, gan)
    if last or gan.epoch % config.save_every == 0:
        save_checkpoint(gan)


def draw_grid(gan, name):
    """Write a grid of samples: always of the same z, and of all classes in turn if there are."""
    config = gan.config
    images = gan.G_ema.folded().sample(config.num_samples, config.seed)
    save_grid(Path(config.samples_dir) / name, images, gan.G.classes or None, config.zoom)


def finish_run(gan, real_fd):
    """Write the files of the end of a run, also when a finished run is resumed.

    `real_fd`: FD of real images, None without a judge.
    """
    config = gan.config
    samples = Path(config.samples_dir)
    save_generator(gan, "generator_final.pth")
    first_shifted = None
    if gan.shift and gan.epoch >= FIRST_SHIFTED_EPOCH:
        first_shifted = FIRST_SHIFTED_EPOCH
    save_curves(samples / "loss_curves.png", gan.history, config.loss, real_fd, first_shifted)
    last_grid = f"epoch_{gan.epoch:04d}.png"
    draw_grid(gan, last_grid)  # SAMPLES_DIR may be another one than before
    save_comparison(
        samples / "real_and_generated.png",
        samples / "real_samples.png",
        samples / last_grid,
        gan.epoch,
    )
    save_gif(samples / "training.gif", epoch_files(samples, ".png", gan.epoch))
    prune_checkpoints(gan)  # if a run was killed before it could do that


def print_end(gan):
    """Print how long the training took, where its pictures are and what can be done next."""
    config = gan.config
    model = Path(config.checkpoint_dir) / "generator_final.pth"
    samples = Path(config.samples_dir)
    if gan.start_epoch == gan.epoch:
        print(f"All {gan.epoch} epochs were done before: raise EPOCHS for more")
        print(f"Wrote {model}")
    else:
        took = tqdm.format_interval(time.perf_counter() - gan.start_time)
        print(f"Wrote {model}; epochs {gan.start_epoch + 1} to {gan.epoch} took {took}")
    print(f"Look at {samples}/real_and_generated.png, training.gif, loss_curves.png")
    if __name__ == "__main__":
        folder = ""
        if config.checkpoint_dir != CHECKPOINT_DIR:
            folder = f" --checkpoint_dir {config.checkpoint_dir}"
        print(f"Next: python gan_mnist.py generate{folder}; likewise evaluate, demo")


def print_stop(gan):
    """Print how a run that ends early is continued."""
    advice = f"before the first checkpoint: start again with {switch('overwrite')}"
    paths = epoch_files(gan.config.checkpoint_dir, ".pth")
    if paths:
        advice = f"{switch('resume')} continues from {paths[-1]}"
    print(f"\nStopped in epoch {gan.epoch}: {advice}", flush=True)


# ── Metrics ── A small classifier, the judge, compares real images with drawn ones ────────────────

CRITIC_PASSES = 12  # over what the network of the two-sample test learns; more make it no better
CRITIC_RATE = 2e-3  # with 5e-3 its ReLUs die if there is little to see
MNIST_JUDGE = BUNDLE.with_name("judge_mnist.pth")  # shipped, so that numbers can be compared


class Judge(nn.Module):
    """Classifier: images (N, C, H, W) in [-1, 1] -> features (N, 64) and logits (N, classes).

    It sees images at 28 x 28. Its file also tells its accuracy on test images, and the statistics
    of its features of all training and test images.
    """

    def __init__(self, classes=10, channels=1):
        super().__init__()
        layers = []
        for n_in, n_out in pairwise([channels, 16, 32, 64]):
            layers += [
                nn.Conv2d(n_in, n_out, 3, padding=1),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        layers += [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 64, 64), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(64, classes)
        for split in ("train", "test"):
            self.register_buffer(f"{split}_mean", torch.zeros(64, dtype=torch.float64))
            self.register_buffer(f"{split}_cov", torch.zeros(64, 64, dtype=torch.float64))

    def forward(self, images):
        if images.shape[-1] != 28:
            images = F.interpolate(images, (28, 28), mode="bilinear", antialias=True)
        features = self.features(images)
        return features, self.classify(features)

    @torch.no_grad()
    def predict(self, images):
        """Return features (N, 64) and probabilities (N, classes) of uint8 images, on the CPU."""
        features = []
        logits = []
        for part in progress(images.cpu().split(500), "Recognizing classes"):
            part_features, part_logits = self(to_float(part))
            features.append(part_features)
            logits.append(part_logits)
        return torch.cat(features), torch.cat(logits).softmax(1)

    def fd(self, features, split="train"):
        """Return the Fréchet distance of features (N, 64) to those of all train or test images."""
        mean = self.get_buffer(f"{split}_mean")
        cov = self.get_buffer(f"{split}_cov")
        return frechet_distance(mean, cov, *statistics(features))

    def measure(self, G, seed):
        """Return FD and classes of samples of G, as columns of the history.

        A class is missing if it has less than a tenth of an equal share.
        """
        features, probabilities = self.predict(to_uint8(G.sample(MEASURED_SAMPLES, seed)))
        classes = probabilities.shape[1]
        shares = class_shares(probabilities)
        missing = [number for number in range(classes) if shares[number] < 0.1 / classes]
        return {
            "fd": self.fd(features),
            "covered": f"{classes - len(missing)} of {classes}",
            "missing": " ".join(map(str, missing)),
        }

    def fd_of_real(self, images, seed):
        """Return FD of as many real images as `measure` takes samples: what G cannot go below."""
        features, _ = self.predict(shuffled(images, seed)[:MEASURED_SAMPLES])
        return self.fd(features)


def class_shares(probabilities):
    """Return how often each class is the most probable one: (N, K) -> (K,), shares of 1."""
    classes = probabilities.shape[1]
    return probabilities.argmax(1).bincount(minlength=classes) / len(probabilities)


def fit_judge(images, labels, epochs, seed=0, shift=2, learning_rate=5e-3):
    """Return a Judge trained on images (N, C, H, W) uint8, shifted at random, and labels (N,)."""
    torch.manual_seed(seed)
    judge = Judge(int(labels.max()) + 1, images.shape[1])
    loader = make_loader(images, labels, 128)
    optimizer = torch.optim.AdamW(judge.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * len(loader))
    for epoch in range(1, epochs + 1):
        for batch, classes in progress(loader, f"Learning [{epoch}/{epochs}]"):
            real = to_float(batch)
            if shift:
                real = random_shift(real, shift)
            _, logits = judge(real)
            optimizer.zero_grad()
            F.cross_entropy(logits, classes).backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def train_judge(dataset=DATASET, data_dir=DATA_DIR, seed=SEED):
    """Train the judge of a data set on all of it, and return its file.

    Raises ValueError if there is one already, and for a folder or less than all of MNIST.
    """
    if dataset not in SETS:
        raise ValueError(
            f"DATASET (--dataset) is {dataset!r}: there are judges of {' | '.join(SETS)}"
        )
    path = judge_path(dataset, data_dir)
    if path.exists():
        raise ValueError(f"{path} is there already: delete it to train it again")
    images, labels, name = load_dataset(dataset, data_dir)
    if name == "mnist_5k" or (name == "mnist" and len(images) < 60_000):
        raise ValueError("the judge of mnist needs all of MNIST: set --data_dir to its folder")
    test_images, test_labels, _ = load_dataset(name, data_dir, train=False)

    judge = fit_judge(images, labels, epochs=8, seed=seed)
    features, _ = judge.predict(images)
    test_features, probabilities = judge.predict(test_images)
    judge.train_mean, judge.train_cov = statistics(features)
    judge.test_mean, judge.test_cov = statistics(test_features)
    accuracy = (probabilities.argmax(1) == test_labels).float().mean().item()
    state = {
        "classes": probabilities.shape[1],
        "channels": images.shape[1],
        "accuracy": accuracy,
        "seed": seed,
        "weights": judge.state_dict(),
    }
    save_whole(path, lambda file: torch.save(state, file))
    print(f"Wrote {path}, right on {accuracy:.2%} of {len(test_images)} test images (seed {seed})")
    return path


def judge_path(dataset, data_dir):
    """Return the file of the judge of a data set."""
    if dataset in ("mnist", "mnist_5k"):
        return MNIST_JUDGE
    return Path(data_dir) / f"judge_{dataset}.pth"


def load_judge(dataset, data_dir):
    """Return the Judge of a data set, trained first if there is none; MNIST's is shipped.

    Raises FileNotFoundError if that is missing, ValueError if the file is damaged.
    """
    path = judge_path(dataset, data_dir)
    if not path.exists():
        if path == MNIST_JUDGE:
            raise FileNotFoundError(f"{path} is missing: {GET_BACK}")
        print(f"Training a judge of {dataset}, once; METRICS_EVERY = 0 trains without metrics")
        train_judge(dataset, data_dir)
    state = load_weights(path)
    try:
        judge = Judge(state["classes"], state["channels"])
        judge.load_state_dict(state["weights"])
        judge.accuracy = state["accuracy"]
        judge.seed = state["seed"]
    except Exception as error:  # each kind of misfit raises an error of its own
        raise ValueError(f"{path} holds no judge: delete it, or download it again") from error
    return judge.eval()


def choose_judge(config, dataset):
    """Return the judge that measures a run, or None; print the reason, unless metrics are off."""
    if config.metrics_every == 0:
        return None
    if dataset not in (*SETS, "mnist_5k"):
        print("Training without metrics: a folder of images has no judge that could measure FD")
        return None
    if judge_path(dataset, config.data_dir) == MNIST_JUDGE and not MNIST_JUDGE.exists():
        print(f"WARNING: training without metrics, as {MNIST_JUDGE} is missing: {GET_BACK}")
        return None
    return load_judge(dataset, config.data_dir)


def statistics(features):
    """Return the mean (d,) and covariance (d, d) of features (N, d), in float64."""
    return features.double().mean(0), features.double().T.cov()


def frechet_distance(mean_a, cov_a, mean_b, cov_b):
    """Return |mean_a - mean_b|² + tr(A + B - 2 (A B)^(1/2)) of two Gaussians, 0 for equal ones.

    Heusel et al. 2017, arXiv 1706.08500. Here of the judge's features, so not to be compared with
    the FID of Inception's.
    """
    values, vectors = torch.linalg.eigh(cov_a)
    half = vectors * values.clamp(min=0).sqrt()  # A = half half^T; half^T B half has A B's values
    cross = torch.linalg.eigvalsh(half.T @ cov_b @ half).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def inception_score(probabilities):
    """Return exp of the mean KL(p(y|x) || p(y)) of probabilities (N, K), from 1 to K.

    1: all are alike; K: each is surely of one class, and all classes are equally frequent.
    Salimans et al. 2016, arXiv 1606.03498.
    """
    p = probabilities.double().clamp(min=1e-12)
    return (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()


def nearest(points, others, k=1):
    """Return the distance (N,) of each of points (N, d) to its k-th nearest of others (M, d)."""
    distances = []
    for part in progress(points.split(500), "Finding neighbours"):
        distances.append(torch.cdist(part, others).kthvalue(k).values)
    return torch.cat(distances)


def share_inside(points, others, k):
    """Return the share of points (N, d) that lie among others (M, d).

    A point does if it is no farther from one of the others than that one's k-th neighbour.
    """
    radii = nearest(others, others, k + 1)  # the nearest of all is the point itself
    inside = []
    for part in progress(points.split(500), "Comparing with neighbours"):
        inside.append((torch.cdist(part, others) <= radii).any(1))
    return torch.cat(inside).float().mean().item()


def precision_recall(real, fake, k=3):
    """Return the share of fake features among the real ones, and of real ones among the fake.

    Features (N, d) and (M, d). Precision: what is drawn looks real; recall: what is real gets
    drawn. Kynkaanniemi et al. 2019, arXiv 1904.06991.
    """
    return share_inside(fake, real, k), share_inside(real, fake, k)


def two_sample_accuracy(real, fake):
    """Return the share of images that a new network classifies correctly as real or fake.

    0.5 if it can only guess. Images (N, C, H, W) uint8 of both kinds; the network learns from one
    half and is tested on the other. Lopez-Paz & Oquab 2017, arXiv 1610.06545.
    """
    n = min(len(real), len(fake)) // 2
    learned = torch.cat([real[:n], fake[:n]])
    tested = torch.cat([real[n : 2 * n], fake[n : 2 * n]])
    labels = torch.arange(2).repeat_interleave(n)
    epochs = math.ceil(CRITIC_PASSES * len(learned) / EPOCH_IMAGES)
    critic = fit_judge(
        spread_dark_greys(learned), labels, epochs, shift=0, learning_rate=CRITIC_RATE
    )
    _, probabilities = critic.predict(spread_dark_greys(tested))
    return (probabilities.argmax(1) == labels).float().mean().item()


def spread_dark_greys(images):
    """Return images (N, 2C, H, W) uint8: as they are, and with the greys near black far apart.

    Without these a network does not notice a pixel of 3 among those of 0.
    """
    dark = 255 * (images / 255) ** 0.25
    return torch.cat([images, dark.to(torch.uint8)], 1)


def outlines(images):
    """Return uint8 images of black and white alone: white is what was at least half grey."""
    return torch.where(images < 128, 0, 255).to(torch.uint8)


# ── Commands ── `train` is train_gan above; the others use the generator that it has saved ────────

METRIC_LINES = {  # of the table of evaluate: the digits of a metric, and which is better
    "FD to training images": (".2f", "lower"),
    "FD to test images": (".2f", "lower"),
    "Inception Score, by the judge": (".2f", "higher"),
    "precision": (".3f", "higher"),
    "recall": (".3f", "higher"),
    "told from training images by a new network": (".1%", "lower"),
    "told by outlines alone": (".1%", "lower"),
    "share below 90% confidence": (".1%", "lower"),
    "classes covered": (".0f", "higher"),
    "KL of the classes to uniform": (".4f", "lower"),
    "distance to the nearest training image": (".2f", "as real"),
}
PRETRAINED = PROJECT / "checkpoints" / "pretrained.pth"  # comes with the script
PRETRAINED_GRIDS = PROJECT / "generated_samples" / "gallery.gif"  # of its training
WALK_STEPS = 8  # images in a row of generate --interpolate
MAX_PAGE_BYTES = 20_000_000


def find_generator(model_path, checkpoint_dir, conditional=False):
    """Return Generator and path of model_path; if that is "", the final one or newest checkpoint.

    Before the first run in CHECKPOINT_DIR it is the pretrained one. Raises FileNotFoundError if
    there is none, with advice to train one (conditional or not), ValueError if the file is damaged.
    """
    if model_path:
        return load_generator(model_path), Path(model_path)
    paths = epoch_files(checkpoint_dir, ".pth")
    final = Path(checkpoint_dir) / "generator_final.pth"
    if final.exists():
        paths.append(final)
    if not paths and checkpoint_dir == CHECKPOINT_DIR and PRETRAINED.exists():
        print(f"No run in {checkpoint_dir} yet: taking the generator that comes with the script")
        path = PRETRAINED
        if path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())  # shorter to read
        paths.append(path)
    if not paths:
        flags = ""
        if conditional:
            flags += " --conditional"
        if checkpoint_dir != CHECKPOINT_DIR:
            flags += f" --samples_dir {checkpoint_dir} --checkpoint_dir {checkpoint_dir}"
        raise FileNotFoundError(
            f"no generator in {checkpoint_dir}: train one by `python gan_mnist.py{flags}`, or name "
            "one by --model_path"
        )
    return load_generator(paths[-1]), paths[-1]


@torch.no_grad()
def walk(G, z, labels):
    """Return images of walks from each of z (N, latent_dim) to the next, WALK_STEPS for each.

    For independent a, b ~ N(0, 1), cos(t) a + sin(t) b is N(0, 1) for every t. One-hot parts of
    the code take cos² and sin², which add up to 1.
    """
    code = G.code(z, labels)  # (N, d)
    one_hot = torch.zeros(code.shape[1], dtype=torch.bool)
    one_hot[: G.modes] = True
    one_hot[G.latent_dim :] = True
    t = torch.linspace(0, math.pi / 2, WALK_STEPS).unsqueeze(1)  # (WALK_STEPS, 1)
    weight_a = torch.where(one_hot, t.cos().square(), t.cos())  # (WALK_STEPS, d)
    weight_b = torch.where(one_hot, t.sin().square(), t.sin())
    rows = [G.decode(weight_a * a + weight_b * b) for a, b in pairwise(code)]
    return torch.cat(rows)


def generate(
    model_path="",
    num_samples=NUM_SAMPLES,
    seed=SEED,
    digit=-1,
    separate=False,
    interpolate=False,
    show=False,
    zoom=ZOOM,
    samples_dir=SAMPLES_DIR,
    checkpoint_dir=CHECKPOINT_DIR,
):
    """Draw digits with a trained generator.

    Returns the path of the picture. Raises FileNotFoundError if there is no generator, ValueError
    if its file is damaged or if it does not know the digit, OSError if a file cannot be written.
    """
    G, model_path = find_generator(model_path, checkpoint_dir, conditional=digit >= 0)
    if digit >= G.classes:
        raise ValueError(
            f"--digit is {digit}: {model_path} knows {G.classes} classes; a generator learns them "
            "by CONDITIONAL = True"
        )
    make_folder("samples_dir", samples_dir)
    labels = torch.arange(num_samples + 1) % max(1, G.classes)
    columns = G.classes or None
    name = f"seed_{seed}"
    if digit >= 0:
        labels = torch.full_like(labels, digit)
        columns = None
        name += f"_digit_{digit}"
    if interpolate:
        walks = math.ceil(num_samples / WALK_STEPS)
        z = sample_z(walks + 1, G.latent_dim, seed)
        images = walk(G, z, labels[: walks + 1])
        columns = WALK_STEPS
        path = Path(samples_dir) / f"interpolation_{name}.png"
    else:
        images = G.sample(num_samples, seed, labels[:num_samples])
        path = Path(samples_dir) / f"generated_{name}.png"

    save_grid(path, images, columns, zoom)
    print(f"Wrote {path}: {len(images)} images, drawn by\n{model_path} ({describe(G.about)})")
    if separate:
        for number, image in enumerate(images, 1):
            save_image(path.with_suffix("") / f"{number:04d}.png", image)
    if show:
        show_picture(path)
    return path


def show_picture(path):
    """Open a picture in a window."""
    from matplotlib import pyplot

    if pyplot.get_backend().lower() == "agg":  # what Matplotlib takes where it finds no display
        print(f"There is no display for --show: open {path}")
        return
    pyplot.imshow(Image.open(path), cmap="gray")
    pyplot.axis("off")
    pyplot.show()


def evaluate(
    model_path="",
    num_samples=10_000,
    seed=SEED,
    data_dir=DATA_DIR,
    checkpoint_dir=CHECKPOINT_DIR,
):
    """Measure how good a generator is, compared with real images.

    Returns {"generated": metrics, "real": metrics}, and prints and writes them. Raises
    FileNotFoundError if there is no generator, ValueError if its file is damaged or its data set
    has no judge.
    """
    G, model_path = find_generator(model_path, checkpoint_dir)
    dataset = G.about.get("dataset", "unknown images")
    if dataset not in (*SETS, "mnist_5k"):
        raise ValueError(
            f"{model_path} was trained on {dataset}: evaluate needs a judge, and there are judges "
            f"of mnist_5k | {' | '.join(SETS)} alone"
        )
    train, reference, real, dataset = choose_images(G, dataset, num_samples, seed, data_dir)
    judge = load_judge(dataset, data_dir)
    generated = to_uint8(G.sample(len(real), seed))

    metrics = {
        "generated": measure_images(generated, reference, judge),
        "real": measure_images(real, reference, judge),
    }
    # test images have no distance to themselves: in their place, that of real training images
    features, _ = judge.predict(reference)
    metrics["real"]["FD to test images"] = judge.fd(features, "test")
    name = "distance to the nearest training image"
    metrics["generated"][name] = distance_to_nearest(generated, train)
    own = dataset == "mnist_5k"  # whose real images are training images
    metrics["real"][name] = distance_to_nearest(real, train, without_itself=own)

    about = {"model": str(model_path), **G.about, "samples": len(real), "seed": seed}
    about["real"] = f"test images of {dataset}"
    if dataset == "mnist_5k":
        about["real"] = "the other half of mnist_5k"
    print(f"{model_path} ({describe(G.about)})")
    print(f"generated: {len(real):,} samples with seed {seed}; real: {about['real']}\n")
    print_metrics(metrics)
    text = json.dumps({"about": about, **metrics}, indent=1)
    path = metrics_path(model_path)
    save_whole(path, lambda file: file.write(text.encode()))
    print(f"Wrote {path}")
    return metrics


def choose_images(G, dataset, num_samples, seed, data_dir):
    """Return the images that evaluate takes, uint8 (N, C, H, W), and the name of their data set.

    All training images, then num_samples of them as the reference, then as many other real ones:
    test images, or the other half of the bundle. Raises ValueError if there are fewer than 400, or
    if G draws another shape.
    """
    side = G.image_shape[-1]
    train, _, dataset = load_dataset(dataset, data_dir, image_size=side)
    if train.shape[1:] != G.image_shape:
        raise ValueError(f"the model draws images {G.image_shape}, not those of {dataset}")
    if dataset == "mnist_5k":
        reference, real = shuffled(train, seed).chunk(2)
    else:
        test, _, _ = load_dataset(dataset, data_dir, train=False, image_size=side)
        reference = shuffled(train, seed)
        real = shuffled(test, seed)
    n = min(num_samples, len(reference), len(real))
    if n < 400:
        raise ValueError(
            f"NUM_SAMPLES (--num_samples) is {num_samples}, and {dataset} has {len(real)} images "
            "to compare: at least 400 are needed"
        )
    return train, reference[:n], real[:n], dataset


def distance_to_nearest(images, train, without_itself=False):
    """Return the median distance of 1,000 images to the nearest training image, uint8 both.

    In pixels of [0, 1]. `without_itself`: for images that are training images.
    """
    k = 2 if without_itself else 1
    distances = nearest(images[:1000].flatten(1) / 255, train.flatten(1) / 255, k)
    return distances.median().item()


def measure_images(images, reference, judge):
    """Return the metrics of images compared with as many real ones, (N, C, H, W) uint8 both."""
    features, probabilities = judge.predict(images)
    reference_features, _ = judge.predict(reference)
    precision, recall = precision_recall(reference_features, features)
    shares = class_shares(probabilities)
    return {
        "FD to training images": judge.fd(features, "train"),
        "FD to test images": judge.fd(features, "test"),
        "Inception Score, by the judge": inception_score(probabilities),
        "precision": precision,
        "recall": recall,
        "told from training images by a new network": two_sample_accuracy(reference, images),
        "told by outlines alone": two_sample_accuracy(outlines(reference), outlines(images)),
        "share below 90% confidence": (probabilities.amax(1) < 0.9).float().mean().item(),
        "classes covered": (shares >= 0.1 / len(shares)).sum().item(),
        "KL of the classes to uniform": shares.xlogy(shares * len(shares)).sum().item(),
        "shares of the classes": [round(share, 4) for share in shares.tolist()],
    }


def print_metrics(metrics):
    """Print a table with a line for each metric: of generated images, of real ones, what is better.

    A metric that METRIC_LINES does not know is printed, too. Below it: how often each class comes.
    """
    print(f"{'':44}{'generated':>11}{'real':>10}   better")
    for key, value in metrics["generated"].items():
        if isinstance(value, list):
            continue
        digits, better = METRIC_LINES.get(key, (".3f", ""))
        print(f"{key:44}{value:11{digits}}{metrics['real'][key]:10{digits}}   {better}")
    shares = [f"{100 * share:.1f}" for share in metrics["generated"]["shares of the classes"]]
    print(f"\nshares of the classes, generated, in %: {' '.join(shares)}")


TEMPLATE = PROJECT / "demo.html"
PAGE_GRIDS = 60  # at most so many grids replay the training
PAGE_GRID_WIDTH = 320  # pixels, at most
PAGE_DIGITS = 20  # real ones of each class in the page; the game takes ten of all


def demo(model_path="", seed=SEED, samples_dir=SAMPLES_DIR, checkpoint_dir=CHECKPOINT_DIR):
    """Write a web page that runs a generator in the browser and needs nothing else.

    It replays the training if the grids in samples_dir are of the generator's run, which had this
    seed. Returns the path. Raises FileNotFoundError if there is no generator, ValueError if its
    file is damaged or the page of another one is there, OSError if the page cannot be written.
    """
    G, model_path = find_generator(model_path, checkpoint_dir)
    path = Path(samples_dir) / "demo.html"
    check_page(path, model_path)
    make_folder("samples_dir", samples_dir)
    model = {
        "source": page_source(model_path),
        "about": describe(G.about),
        "grids": page_grids(G, model_path, samples_dir, seed),
        "real": page_digits(G),
        "told": told_by_networks(G, model_path),
        **page_generator(G),
    }
    text = json.dumps(model).replace("<", "\\u003c")
    page = TEMPLATE.read_bytes().replace(b"/*MODEL*/null", text.encode())
    megabytes = len(page) / 1e6
    if len(page) > MAX_PAGE_BYTES:
        raise ValueError(
            f"{model_path} would make a page of {megabytes:.0f} MB, too much for a browser: "
            "train a generator with a smaller WIDTH or G_HIDDEN"
        )
    save_whole(path, lambda file: file.write(page))
    print(f"Wrote {path} ({megabytes:.1f} MB), drawn by\n{model_path} ({describe(G.about)})")
    if model["grids"]:
        print(f"It replays the training in {len(model['grids'])} grids")
    else:
        print(f"It replays no training: {samples_dir} has no grids of this generator, seed {seed}")
    print("Open it in a browser")
    return path


def check_page(path, model_path):
    """Raise an error if there is no template, or if a page would replace it or another's page."""
    if not TEMPLATE.exists():
        raise FileNotFoundError(f"{TEMPLATE} is missing: {GET_BACK}")
    if path.resolve() == TEMPLATE:
        raise ValueError(f"{path} is the template of the page: choose another SAMPLES_DIR")
    if not path.is_file():
        return
    page = path.read_bytes()
    replaceable = [model_path, PRETRAINED]  # whose page can always be made again
    if not any(json.dumps(page_source(each)).encode() in page for each in replaceable):
        raise ValueError(
            f"{path} is there and not the page of {model_path}: delete it, or choose another "
            "SAMPLES_DIR (--samples_dir)"
        )


def page_source(model_path):
    """Return the name of a generator's file in its folder; a page tells no more of the machine."""
    path = model_path.resolve()
    return f"{path.parent.name}/{path.name}"


def page_grids(G, model_path, samples_dir, seed):
    """Return the grids of a generator's run for the page: a list of epochs with PNGs in base64.

    It is empty if the last grid is not what G draws. Raises ValueError if a grid is damaged.
    """
    if model_path.resolve() == PRETRAINED and PRETRAINED_GRIDS.exists():
        grids = frames_of_gif(PRETRAINED_GRIDS)
    else:
        paths = epoch_files(samples_dir, ".png", G.about.get("epochs", 0))
        chosen = np.linspace(0, len(paths) - 1, min(PAGE_GRIDS, len(paths))).round().astype(int)
        grids = {epoch_number(paths[each]): read_picture(paths[each]) for each in chosen}
    if not grids or not has_drawn(G, grids[max(grids)], seed):
        return []
    pictures = []
    for epoch, grid in grids.items():
        small = grid.reduce(math.ceil(grid.width / PAGE_GRID_WIDTH))
        colours = 16 if small.mode == "L" else 64  # so that 60 grids are below a megabyte
        pictures.append({"epoch": epoch, "png": to_base64(small.quantize(colours))})
    return pictures


def has_drawn(G, grid, seed):
    """Return whether the first image of a grid, of any zoom, is what G draws for this seed."""
    image = to_uint8(G.sample(1, seed))[0].permute(1, 2, 0)  # (H, W, C)
    height, width, _ = image.shape
    grid = torch.from_numpy(np.array(grid))
    grid = grid.view(*grid.shape[:2], -1)
    for zoom in range(1, 17):
        start = 2 * zoom  # make_grid leaves two pixels between images
        tile = grid[start : start + zoom * height : zoom, start : start + zoom * width : zoom]
        if tile.shape == image.shape and (tile.float() - image).abs().mean() < 2:
            return True
    return False


def to_base64(image):
    """Return an image as a PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def page_digits(G):
    """Return bundled digits for the page: a PNG in base64, a row for each class.

    None if G draws no digits of MNIST, so that the page cannot mix real ones with them.
    """
    if G.about.get("dataset") not in ("mnist", "mnist_5k") or G.image_shape[0] != 1:
        return None
    side = G.image_shape[-1]
    images, _, _ = load_dataset("mnist_5k", data_dir="", image_size=side)
    rows = images.view(10, 500, side, side)[:, :PAGE_DIGITS]  # (class, column, side, side)
    sheet = rows.transpose(1, 2).reshape(10 * side, PAGE_DIGITS * side)
    return to_base64(Image.fromarray(sheet.numpy()))


def told_by_networks(G, model_path):
    """Return how often new networks tell G's digits from real ones; None if G is not evaluated."""
    try:
        measured = json.loads(metrics_path(model_path).read_text())
        about = measured["about"]
        if any(about[key] != value for key, value in G.about.items()):
            return None  # of another generator
        generated = measured["generated"]
        told = {"A network": generated["told from training images by a new network"]}
        if "told by outlines alone" in generated:
            told["A network, outlines alone"] = generated["told by outlines alone"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told


def page_generator(G):
    """Return a generator as the page takes it; weights are float16."""
    shapes, numbers = export_layers(G)
    return {
        "latent_dim": G.latent_dim,
        "classes": G.classes,
        "modes": G.modes,
        "image_shape": G.image_shape,
        "activation": G.activation,
        "end": G.end,
        "layers": shapes,
        "weights": base64.b64encode(numbers.half().numpy()).decode(),
    }


@torch.no_grad()
def export_layers(G):
    """Return the layers of a generator as the page takes them: a list of shapes, and all weights.

    BatchNorm is folded into the layer before it. Linear layers have "outputs", transposed
    convolutions "channels" and the "side" of what they draw. The weights are a flat tensor: for
    each layer its weights, input by input, then its biases.
    """
    shapes = []
    numbers = []
    side = 1
    for layer in copy.deepcopy(G.layers):
        if isinstance(layer, nn.Linear):
            shapes.append({"outputs": layer.out_features})
            numbers += [layer.weight.T, bias_of(layer, layer.out_features)]
        elif isinstance(layer, nn.Unflatten):
            side = layer.unflattened_size[-1]
        elif isinstance(layer, nn.ConvTranspose2d):
            side = 2 * side
            shapes.append({"channels": layer.out_channels, "side": side})
            numbers += [layer.weight, bias_of(layer, layer.out_channels)]
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            numbers[-2:] = fold_norm(*numbers[-2:], layer)
    return shapes, torch.cat([part.flatten() for part in numbers])


def bias_of(layer, outputs):
    """Return the bias (outputs,) of a layer, which is 0 if it has none."""
    if layer.bias is None:
        return torch.zeros(outputs)
    return layer.bias


def fold_norm(weight, bias, norm):
    """Return weight (inputs, outputs, ...) and bias (outputs,) with the BatchNorm after them.

    In eval mode BatchNorm is a fixed scale and shift of each channel.
    """
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    pixels = len(bias) // len(scale)  # of a channel, in the linear layer before an image
    scale = scale.repeat_interleave(pixels)
    shift = shift.repeat_interleave(pixels)
    ones = [1] * (weight.ndim - 2)
    return weight * scale.view(1, -1, *ones), bias * scale + shift


COMMANDS = {
    "train": train_gan,
    "generate": generate,
    "evaluate": evaluate,
    "judge": train_judge,
    "demo": demo,
}

# ── Command line ── Every constant is a flag; one table says what each of them may be ─────────────

# (lowest, highest) of a whole number or a float | a list of choices | bool | str | "widths"
SETTINGS = {
    "preset": {
        "preset": ["none", *PRESETS],
    },
    "data": {
        "dataset": str,
        "data_dir": str,
        "image_size": (0, 128),
        "augment": ["none", "shift", "auto"],
    },
    "networks": {
        "g_arch": ["mlp", "dcgan"],
        "d_arch": ["mlp", "dcgan"],
        "latent_dim": (1, 65536),
        "modes": (0, 65536),
        "g_hidden": "widths",
        "smooth": (0.0, 4.0),
        "d_hidden": "widths",
        "g_norm": ["batch", "none"],
        "g_activation": ["relu", "leaky_relu"],
        "g_end": ["tanh", "sigmoid"],
        "width": (1, 65536),
        "d_norm": ["none", "batch"],
        "d_slope": (0.0, 1.0),
        "spectral_norm": bool,
        "dropout": (0.0, 0.999999),
        "conditional": bool,
    },
    "training": {
        "epochs": (1, 10**6),
        "batch_size": (2, 65536),
        "learning_rate_g": (0.0, 10.0),
        "learning_rate_d": (0.0, 10.0),
        "lr_decay_start": (0, 2**31),
        "lr_decay_end": (0, 2**31),
        "beta1": (0.0, 0.999999),
        "beta2": (0.0, 0.999999),
        "ema_decay": (0.0, 0.999999),
        "loss": ["bce", "hinge", "wgan_gp"],
        "d_steps": (1, 10**6),
        "label_smoothing": (0.0, 0.5),
        "gradient_penalty": (0.0, 1e6),
        "grad_clip": (0.0, 1e6),
        "seed": (0, 2**31 - 1),
        "device": ["auto", "cuda", "mps", "cpu"],
        "threads": (0, 1024),
        "precision": ["auto", "fp32", "bf16"],
    },
    "output": {
        "resume": bool,
        "overwrite": bool,
        "samples_dir": str,
        "checkpoint_dir": str,
        "save_every": (1, 10**6),
        "keep_generator_every": (0, 2**31),
        "keep_checkpoints": (0, 2**31),
        "grid_every_steps": (0, 2**31),
        "num_samples": (1, 10**4),
        "zoom": (0, 100),
        "tensorboard": bool,
        "metrics_every": (0, 2**31),
    },
    "other commands": {  # their parameters that are not constants
        "model_path": str,
        "digit": (-1, 65536),
        "separate": bool,
        "interpolate": bool,
        "show": bool,
    },
}
FLAG_HELP = {
    "model_path": "file of the generator; the final one, else the newest checkpoint, if not given",
    "digit": "the class that a conditional generator is to draw; -1 = all in turn",
    "separate": "write each image as a PNG file of its own too",
    "interpolate": "draw walks from one random point to the next, of 8 images in each row",
    "show": "open the picture in a window",
}
RULES = {name: rule for group in SETTINGS.values() for name, rule in group.items()}
Config = collections.namedtuple("Config", [name for name in RULES if name not in FLAG_HELP])
train_gan.__signature__ = inspect.Signature(  # what help(train_gan) and notebooks show
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=globals().get(name.upper()))
    for name in Config._fields
)


def constants():
    """Return {setting: its constant at the top}. Raises ValueError if somebody has renamed one."""
    values = {}
    for name in Config._fields:
        if name.upper() not in globals():
            raise ValueError(f"{name.upper()} is missing among the constants of {__file__}")
        values[name] = globals()[name.upper()]
    return values


def to_number(value, low, high):
    """Return a value as a plain int or float, as `low` is; None if it is not from low to high."""
    kind = type(low)
    try:
        number = kind(value)
        exact = number == float(value)  # not so for 2.5 where an int is asked for
    except (TypeError, ValueError, OverflowError):
        return None
    if exact and low <= number <= high:
        return number
    return None


def to_widths(value):
    """Return one or more layer widths as a tuple of plain ints; None if they are none."""
    if isinstance(value, (str, int)):
        value = [value]
    try:
        widths = tuple(to_number(width, 1, 65536) for width in value)
    except TypeError:  # not iterable
        return None
    if widths == () or None in widths:
        return None
    return widths


def check(name, value):
    """Return a setting as a plain bool, int, float, str or tuple, which a checkpoint can hold.

    It may come from a constant, a flag or an argument. Raises ValueError naming the setting and
    what it allows.
    """
    rule = RULES[name]
    checked = None
    if rule is bool:
        allowed = "True or False"
        if isinstance(value, (bool, np.bool_)):
            checked = bool(value)
    elif rule is str:
        allowed = "a path"
        if isinstance(value, (str, os.PathLike)):
            checked = str.__str__(os.path.expanduser(value))  # plain also for a numpy.str_
    elif rule == "widths":
        allowed = "one or more whole numbers from 1 to 65536"
        checked = to_widths(value)
    elif isinstance(rule, list):
        allowed = " | ".join(rule)
        if isinstance(value, str) and value in rule:
            checked = rule[rule.index(value)]
    else:
        kind = "a whole number" if isinstance(rule[0], int) else "a number"
        allowed = f"{kind} from {rule[0]} to {rule[1]}"
        checked = to_number(value, *rule)
    if checked is None:
        raise ValueError(f"{name.upper()} (--{name}) is {value!r}: allowed is {allowed}")
    return checked


def make_config(**settings):
    """Return all settings, checked and frozen: as given, else of the preset, else the constants."""
    for name in settings:
        if name not in Config._fields:
            advice = f"but there are {', '.join(Config._fields)}"
            similar = difflib.get_close_matches(name.lower(), Config._fields, 1)
            if similar:
                advice = f"did you mean {similar[0]}?"
            raise ValueError(f"there is no setting {name}, {advice}")
    values = constants()
    preset = check("preset", settings.get("preset", PRESET))
    values.update(PRESETS.get(preset, {}))
    values.pop("about", None)
    values.update(settings)
    config = Config(**{name: check(name, value) for name, value in values.items()})
    if config.resume and config.overwrite:
        raise ValueError("RESUME and OVERWRITE exclude each other: continue a run or delete it")
    if config.d_norm == "batch":  # then each logit depends on the whole batch
        if config.d_arch != "dcgan":
            raise ValueError("D_NORM is batch, which is for D_ARCH dcgan: set it to none")
        if config.gradient_penalty or config.loss == "wgan_gp":
            raise ValueError(
                "D_NORM is batch: this needs GRADIENT_PENALTY 0 and no wgan_gp, as BatchNorm makes "
                "the gradient of an image depend on the others"
            )
    return config


def constant_comments():
    """Return the comment behind each constant of this file, the help of its flag."""
    comments = {}
    constant = None
    with Path(__file__).open(encoding="utf-8") as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NAME and token.start[1] == 0:
                constant = token.string  # a line that begins with a name
            elif token.type == tokenize.NEWLINE:
                constant = None
            elif token.type == tokenize.COMMENT and constant:
                comments[constant] = token.string.lstrip("# ")
    return comments


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, so that they are shown like all others."""

    settings = ()  # names of its flags

    def error(self, message):
        advice = f"{self.prog} --help shows all flags"
        _, unrecognized, words = message.partition("unrecognized arguments: ")
        if unrecognized:
            name = words.split()[0].lstrip("-").replace("-", "_")
            similar = difflib.get_close_matches(name, self.settings, 1)
            if similar:
                advice = f"did you mean --{similar[0]}?"
        raise ValueError(f"{message}; {advice}")


def build_parser(command):
    """Return the parser of a command: a flag for each of its settings."""
    parameters = inspect.signature(COMMANDS[command]).parameters
    program = f"python gan_mnist.py {command}"
    groups = {"flags": parameters}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    description = inspect.getdoc(COMMANDS[command]).partition("\n\n")[0]
    epilog = "--no_NAME turns a switch off. Both --batch_size and --batch-size are understood."
    if command == "train":
        program = "python gan_mnist.py"
        groups = {title: SETTINGS[title] for title in SETTINGS if title != "other commands"}
        defaults = constants()
        description = __doc__
        epilog = "\n".join(["presets:", *preset_lines(), "", epilog])

    parser = Parser(
        prog=program,
        usage=f"{program} [flags]",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.settings = list(defaults)
    comments = constant_comments()
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            text = FLAG_HELP.get(name) or comments.get(name.upper(), "")
            add_flag(group, name, defaults[name], text)
    return parser


def preset_lines():
    """Return a line on each preset."""
    return [f"  {name:16}{preset['about']}" for name, preset in PRESETS.items()]


def add_flag(group, name, default, text):
    """Add the flag of a setting, in both spellings, to a group of a parser."""
    text = text.replace("%", "%%")
    if RULES[name] is bool:
        group.add_argument(*spellings(name), dest=name, action="store_true", help=text)
        group.add_argument(
            *spellings(f"no_{name}"), dest=name, action="store_false", help=argparse.SUPPRESS
        )
        return
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    if default != "":
        text += f" [{default}]"
    several = "+" if RULES[name] == "widths" else None
    group.add_argument(*spellings(name), dest=name, nargs=several, metavar="X", help=text)


def spellings(name):
    """Return --batch_size and --batch-size for batch_size, --seed alone for seed."""
    return sorted({f"--{name}", f"--{name.replace('_', '-')}"}, reverse=True)


def run_command(arguments):
    """Run the command that the arguments of the command line name, `train` if they name none."""
    command = "train"
    if arguments and not arguments[0].startswith("-"):
        command, *arguments = arguments
    if command not in COMMANDS:
        raise ValueError(f"there is no command {command}, but there are {', '.join(COMMANDS)}")
    settings = vars(build_parser(command).parse_args(arguments))
    if command != "train":  # which checks its settings itself
        parameters = inspect.signature(COMMANDS[command]).parameters
        for name, parameter in parameters.items():
            settings[name] = check(name, settings.get(name, parameter.default))
    COMMANDS[command](**settings)


def prepare_streams():
    """Let stdout and stderr take every character, also where they were closed before the start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, for as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(arguments=None):
    """Run the command line; return 0, 1 if it failed, 2 for wrong input, 130 after Ctrl-C."""
    if arguments is None:
        arguments = sys.argv[1:]
    prepare_streams()
    rank, _ = process_rank()
    try:
        run_command(arguments)
        return 0
    except KeyboardInterrupt:
        if rank == 0:
            print("Stopped by Ctrl-C", file=sys.stderr)
        return 130
    except Exception as error:
        code, message = explain(error)
        if code is None:
            raise
    if message == LOST:
        time.sleep(8)  # torchrun ends this process before it prints, if another tells the reason
    elif rank > 0:
        time.sleep(3)  # likewise if process 0 says the same
    print(f"error: {message}", file=sys.stderr)
    return code


LOST = "another process of the run has ended, or cannot be reached"


def explain(error):
    """Return the exit code and the line for an error; None, None if it is a fault of the script."""
    _, world_size = process_rank()
    text = str(error).lower()
    if isinstance(error, (ValueError, FileNotFoundError)):
        return 2, str(error)
    if isinstance(error, (OSError, FloatingPointError)):
        return 1, str(error)
    if isinstance(error, (MemoryError, RuntimeError)) and is_out_of_memory(error):
        return 1, f"out of memory: lower BATCH_SIZE, G_HIDDEN, D_HIDDEN or WIDTH ({error})"
    if world_size > 1 and any(word in text for word in ("connection", "gloo", "nccl")):
        return 1, LOST
    return None, None


def is_out_of_memory(error):
    """Return whether an error is for lack of memory: in NumPy, or in PyTorch on any device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == stop_while_importing:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
