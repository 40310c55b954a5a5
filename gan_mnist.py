#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.6", "torchvision>=0.21", "numpy>=1.26", "matplotlib>=3.8",
#                 "pillow>=10", "tqdm>=4.66"]
# ///
"""A generative adversarial network (GAN) that learns to draw MNIST digits, in one readable script.

    python gan_mnist.py                            train with the constants below
    python gan_mnist.py --epochs 10 --seed 1       every constant is also a flag
    python gan_mnist.py --resume                   go on where the last run stopped
    python gan_mnist.py generate --num_samples 16  draw digits with the trained generator

Each epoch writes generated_samples/epoch_0001.png (a grid of digits, always from the same z),
checkpoints/epoch_0001.pth (all that --resume needs, every SAVE_EVERY epochs) and history.csv; the
end of a run checkpoints/generator_final.pth, generated_samples/loss_curves.png and training.gif.
In a notebook:

    from gan_mnist import load_generator
    images = load_generator("checkpoints/generator_final.pth").sample(64, seed=0)  # in [-1, 1]

Goodfellow et al. 2014, Generative Adversarial Networks, https://arxiv.org/abs/1406.2661
"""

import argparse
import collections
import contextlib
import copy
import gzip
import inspect
import io
import itertools
import math
import os
import re
import socket
import sys
import threading
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm import tqdm

# ── Hyperparameters ──────────────────────────────────────────────────────────────────────────────
# Edit them here or give them as flags: EPOCHS = 10 and --epochs 10 are the same.

# data
DATASET = "mnist"  # mnist | mnist_5k (the 5,000 digits bundled here) | fashion_mnist | kmnist
DATA_DIR = "data"  # folder of the data sets, in torchvision's layout; a missing one is downloaded
AUGMENT = "auto"  # none | shift (real and fake, up to 2 pixels) | auto (shift where data are few)

# networks
LATENT_DIM = 100  # length of the noise vector z
G_HIDDEN = (256, 512, 1024)  # widths of the generator's hidden layers
D_HIDDEN = (1024, 512)  # widths of the discriminator's hidden layers; classic 512 256
DROPOUT = 0.0  # share of D's hidden units switched off in a step; classic 0.3

# training
EPOCHS = 35  # passes over about 60,000 images
BATCH_SIZE = 256  # images in a step; classic 64
LEARNING_RATE_G = 1e-3  # Adam's step size for the generator; classic 2e-4
LEARNING_RATE_D = 5e-4  # Adam's step size for the discriminator; classic 2e-4
LR_DECAY_START = 20  # from this epoch on both rates fall as LR_DECAY_START / epoch; 0 = never
BETA1 = 0.0  # Adam's momentum; classic 0.5, several times slower here
BETA2 = 0.999  # Adam's decay of the squared gradients
EMA_DECAY = 0.999  # averaging of G over its steps, the average draws better; 0 = none
LABEL_SMOOTHING = 0.0  # real labels become 1 - this in D's loss; usual alternative 0.1
GRAD_CLIP = 0.0  # largest gradient norm of either network; 0 = no limit
SEED = 0  # same seed, settings and machine: same digits
DEVICE = "auto"  # auto | cuda | mps | cpu
PRECISION = "auto"  # fp32 | bf16 | auto (bf16 where the hardware has it, which is faster)

# output
RESUME = False  # go on from the newest checkpoint in CHECKPOINT_DIR
OVERWRITE = False  # delete the earlier run in these folders and start anew
SAMPLES_DIR = "generated_samples"  # folder of the pictures
CHECKPOINT_DIR = "checkpoints"  # folder of the checkpoints and the final generator
SAVE_EVERY = 1  # epochs from one checkpoint to the next; the last epoch always gets one
KEEP_CHECKPOINTS = 3  # newest checkpoints to keep, about 40 MB each; 0 = all
NUM_SAMPLES = 64  # digits in a grid

# ── Data ─────────────────────────────────────────────────────────────────────────────────────────
# The whole set is one uint8 tensor in memory, and a batch is one index operation on it.

TORCHVISION_NAMES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
BUNDLE = Path(__file__).resolve().parent / "data" / "mnist_5k.png"
EPOCH_IMAGES = 60_000  # a smaller set is repeated up to about this, so that the same settings work


def read_idx(path, dimensions):
    """IDX file, plain or .gz -> uint8 tensor with that many dimensions.

    Header: two zero bytes, 8 for uint8, the number of dimensions, then each size as 4 bytes.
    Raises ValueError if the file holds anything else: truncated, a web page, another magic number.
    """
    data = path.read_bytes()
    with contextlib.suppress(gzip.BadGzipFile, EOFError, zlib.error):
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    if data[:4] == bytes([0, 0, 8, dimensions]) and len(data) > 4 + 4 * dimensions:
        shape = np.frombuffer(data, ">u4", dimensions, offset=4).tolist()
        if len(data) == 4 + 4 * dimensions + math.prod(shape):
            values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
            return torch.from_numpy(values.reshape(shape).copy())
    raise ValueError(f"{path} is damaged or another kind of file: delete it and run again")


def find_idx(name, data_dir, train=True):
    """-> paths of the image and the label file in torchvision's layout; None if one is missing."""
    raw = Path(data_dir).expanduser() / TORCHVISION_NAMES[name] / "raw"
    part = "train" if train else "t10k"
    paths = [raw / f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    paths = [path if path.is_file() else path.with_name(path.name + ".gz") for path in paths]
    return paths if all(path.is_file() for path in paths) else None


def download(name, data_dir):
    """Let torchvision fetch a data set from those of its mirrors that answer within 7 seconds.

    Raises ConnectionError if none does, and whatever torchvision raises.
    """
    from torchvision import datasets

    dataset, alive = getattr(datasets, TORCHVISION_NAMES[name]), []
    socket.setdefaulttimeout(15)  # a connection that is silent for so long is dead

    def ask(mirror):
        with contextlib.suppress(Exception):
            urllib.request.urlopen(mirror + dataset.resources[-1][0]).close()
            alive.append(mirror)

    threads = [threading.Thread(target=ask, args=[url], daemon=True) for url in dataset.mirrors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(7)
    if not alive:
        raise ConnectionError("no mirror answers")
    dataset.mirrors = alive
    dataset(Path(data_dir).expanduser(), download=True)


def load_bundle():
    """-> the bundled digits, images (5000, 1, 28, 28) uint8 and labels (5000,).

    The sheet has 50 rows of 100 digits, five for each class. Raises ValueError if it is damaged.
    """
    try:
        with Image.open(BUNDLE) as sheet:
            tiles = np.array(sheet).reshape(50, 28, 100, 28).swapaxes(1, 2).copy()
        if zlib.crc32(tiles) != 0xDA5FC5F0:
            raise ValueError("other pixels")
    except Exception as error:  # each kind of damage has an error of its own
        raise ValueError(f"{BUNDLE} is missing or damaged: fetch the project anew") from error
    labels = torch.arange(10).repeat_interleave(500)
    return torch.from_numpy(tiles).view(5000, 1, 28, 28), labels


def load_dataset(name, data_dir, train=True):
    """-> images (N, 1, H, W) uint8, labels (N,) and the name of the set that was really loaded.

    Looks in data_dir, then downloads; without both, MNIST goes on, loudly, with the bundled digits.
    Raises ValueError for a damaged file, FileNotFoundError where there is nothing to load.
    """
    if name != "mnist_5k" and not find_idx(name, data_dir, train):
        print(f"{name} is not in {data_dir}: downloading it")
        try:
            download(name, data_dir)
        except Exception as error:  # torchvision passes on whatever its many parts raise
            if name != "mnist":
                raw = Path(data_dir) / TORCHVISION_NAMES[name] / "raw"
                raise FileNotFoundError(f"{name} cannot be downloaded ({error}): put its four "
                                        f"files into {raw}, or use --dataset mnist_5k") from error
            print(f"WARNING: MNIST cannot be downloaded ({error}): going on with the 5,000 real "
                  "MNIST digits bundled with this script, as with --dataset mnist_5k")
            name = "mnist_5k"
    if name == "mnist_5k":
        return *load_bundle(), name
    image_path, label_path = find_idx(name, data_dir, train)
    images, labels = read_idx(image_path, 3).unsqueeze(1), read_idx(label_path, 1).long()
    if not 0 < len(images) == len(labels):
        raise ValueError(f"{image_path} has {len(images)} images, but {label_path} {len(labels)} "
                         "labels: delete both and run again")
    return images, labels, name


class ImageDataset(torch.utils.data.Dataset):
    """Images (N, C, H, W) uint8 with labels (N,), repeated to about EPOCH_IMAGES."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.repeats = max(1, round(EPOCH_IMAGES / len(images)))

    def __len__(self):
        return len(self.images) * self.repeats

    def __getitem__(self, indices):
        indices = torch.as_tensor(indices) % len(self.images)
        return self.images[indices], self.labels[indices]

    __getitems__ = __getitem__  # DataLoader asks for a whole batch at once


def make_loader(images, labels, batch_size):
    """-> DataLoader of shuffled whole batches: images (B, C, H, W) uint8, labels (B,)."""
    return torch.utils.data.DataLoader(ImageDataset(images, labels), batch_size, shuffle=True,
                                       drop_last=True, collate_fn=lambda batch: batch)


def to_float(images):
    """uint8 images -> float images in [-1, 1], the range of the generator's tanh."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images):
    """Float images in [-1, 1] -> uint8 images, the inverse of to_float."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()


def random_shift(images, pixels=2):
    """Images (N, C, H, W) in [-1, 1] -> each moved by up to `pixels` both ways; -1 fills the gap.

    Differentiable, for real and fake alike: D cannot learn a few training images by heart, and G
    does not learn the shifts. Zhao et al. 2020, DiffAugment, arXiv 2006.10738.
    """
    n, c, h, w = images.shape
    dy, dx = torch.randint(2 * pixels + 1, (2, n, 1), device=images.device)
    rows, columns = dy + torch.arange(h, device=dy.device), dx + torch.arange(w, device=dx.device)
    places = rows[:, :, None] * (w + 2 * pixels) + columns[:, None, :]
    padded = F.pad(images, [pixels] * 4, value=-1.0).flatten(2)
    return padded.gather(2, places.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)


# ── Networks ─────────────────────────────────────────────────────────────────────────────────────
# G turns noise into images; D gives each image a number, above 0 where it takes it for real.


class Generator(nn.Module):
    """z (N, latent_dim) ~ N(0, 1) -> images (N, C, H, W) in [-1, 1].

    Linear, BatchNorm (Ioffe & Szegedy 2015, arXiv 1502.03167) and ReLU in each layer, tanh at the
    end. Its state dict tells, under `_extra_state`, the shape that load_generator rebuilds and, as
    `about`, what it was trained on.
    """

    def __init__(self, latent_dim=LATENT_DIM, hidden=G_HIDDEN, image_shape=(1, 28, 28)):
        super().__init__()
        self.latent_dim, self.hidden, self.image_shape = latent_dim, [*hidden], [*image_shape]
        self.about, layers = {}, []
        for n_in, n_out in itertools.pairwise([latent_dim, *hidden]):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)]
        layers += [nn.Linear(hidden[-1], math.prod(image_shape)), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        return self.layers(z).view(-1, *self.image_shape)

    @torch.no_grad()
    def sample(self, num_samples, seed=None):
        """-> images (num_samples, C, H, W) in [-1, 1], the same for the same seed on every device.

        In eval mode: with BatchNorm's running statistics a picture depends on its own z alone.
        """
        former_mode, device = self.training, next(self.parameters()).device
        images = self.eval()(sample_z(num_samples, self.latent_dim, seed).to(device))
        self.train(former_mode)
        return images

    def get_extra_state(self):
        return {"latent_dim": self.latent_dim, "hidden": self.hidden,
                "image_shape": self.image_shape, "about": self.about}

    def set_extra_state(self, state):
        self.about = state["about"]


class Discriminator(nn.Module):
    """Images (N, C, H, W) in [-1, 1] -> logits (N,); torch.sigmoid(logits) = probability of real.

    Linear, LeakyReLU and Dropout in each layer, as in Goodfellow et al. 2014 but for the maxout.
    """

    def __init__(self, hidden=D_HIDDEN, dropout=DROPOUT, image_shape=(1, 28, 28)):
        super().__init__()
        layers = [nn.Flatten()]
        for n_in, n_out in itertools.pairwise([math.prod(image_shape), *hidden]):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2, inplace=True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, images):
        return self.layers(images).squeeze(1).float()


def sample_z(num_samples, latent_dim, seed=None):
    """-> z (num_samples, latent_dim) ~ N(0, 1), from the CPU: a seed is the same on all devices."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, latent_dim, generator=generator)


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────
# Binary cross-entropy on logits: D says what is real, G wants its images to be called real.


def discriminator_loss(real_logits, fake_logits, label_smoothing=0.0):
    """Logits (N,) of real and of fake images -> -log D(x) - log(1 - D(G(z))), means over the batch.

    2 ln 2 = 1.386 when D can only guess. Goodfellow et al. 2014, equation 1. Real labels are
    1 - label_smoothing (one-sided smoothing, Salimans et al. 2016, arXiv 1606.03498).
    """
    real_labels = torch.full_like(real_logits, 1.0 - label_smoothing)
    return (F.binary_cross_entropy_with_logits(real_logits, real_labels)
            + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits)))


def generator_loss(fake_logits):
    """Logits (N,) of fake images -> -log D(G(z)), mean over the batch; ln 2 when D can only guess.

    The non-saturating form: strong gradients where G is bad. Goodfellow et al. 2014, section 3.
    """
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


# ── Training ─────────────────────────────────────────────────────────────────────────────────────
# D and G take turns, a step each; a running average of G draws what people see.


def choose_device(name):
    """auto | cuda | mps | cpu -> torch.device. Raises ValueError if this machine has none."""
    mps = torch.backends.mps.is_available()
    here = {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    name = next(device for device in here if here[device]) if name == "auto" else name
    if not here[name]:
        raise ValueError(f"DEVICE is {name}, which PyTorch does not find here: use auto or cpu")
    return torch.device(name)


def choose_precision(name, device):
    """auto | fp32 | bf16 -> torch.float32 or torch.bfloat16, which crawls where it is emulated."""
    if name == "auto" and device.type == "cuda":
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    elif name == "auto" and device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        name = "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def descend(loss, optimizer, grad_clip=0.0):
    """One step of the optimizer down the loss, whose gradient goes to its own parameters alone:
    what passes through D on its way to G leaves D as it is."""
    parameters = optimizer.param_groups[0]["params"]
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    if grad_clip:
        nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()


@torch.no_grad()
def update_ema(G_ema, G, decay):
    """G_ema = decay * G_ema + (1 - decay) * G, for weights and BatchNorm statistics alike."""
    averages, values = ([*net.parameters(), *net.buffers()] for net in (G_ema, G))
    for average, value in zip(averages, values, strict=True):
        if value.is_floating_point():
            average.lerp_(value, 1.0 - decay)
        else:
            average.copy_(value)  # BatchNorm's count of batches


class GAN:
    """All that a run has earned: networks, averaged G, optimizers, epoch and history."""

    PARTS = ("G", "D", "G_ema", "optimizer_g", "optimizer_d")

    def __init__(self, config, image_shape, device, shift):
        torch.manual_seed(config.seed)
        self.config, self.device, self.shift = config, device, shift
        self.precision = choose_precision(config.precision, device)
        self.epoch, self.steps, self.history = 0, 0, []
        self.G = Generator(config.latent_dim, config.g_hidden, image_shape).to(device)
        self.D = Discriminator(config.d_hidden, config.dropout, image_shape).to(device)
        self.G_ema = copy.deepcopy(self.G).eval()
        adam = {"betas": (config.beta1, config.beta2), "fused": True}
        self.optimizer_g = torch.optim.Adam(self.G.parameters(), config.learning_rate_g, **adam)
        self.optimizer_d = torch.optim.Adam(self.D.parameters(), config.learning_rate_d, **adam)

    def train_step(self, real):
        """Real images (N, C, H, W) in [-1, 1] -> tensor: d_loss, g_loss, D's accuracy (0 to 1)."""
        c = self.config
        augment = random_shift if self.shift else nn.Identity()
        bf16 = torch.autocast(self.device.type, torch.bfloat16, self.precision == torch.bfloat16)
        z = torch.randn(len(real), c.latent_dim, device=self.device)

        # D: maximize log D(x) + log(1 - D(G(z))), real and fake in one pass
        with bf16:
            fake = self.G(z)
            real_logits, fake_logits = self.D(augment(torch.cat([real, fake.detach()]))).chunk(2)
        d_loss = discriminator_loss(real_logits, fake_logits, c.label_smoothing)
        descend(d_loss, self.optimizer_d, c.grad_clip)

        # G: maximize log D(G(z)), on the same fakes, with D as it is after its step
        with bf16:
            g_loss = generator_loss(self.D(augment(fake)))
        descend(g_loss, self.optimizer_g, c.grad_clip)

        self.steps += 1  # the average is short at first, while G still changes fast
        update_ema(self.G_ema, self.G, min(c.ema_decay, (1 + self.steps) / (10 + self.steps)))
        accuracy = ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()) / 2
        return torch.stack([d_loss, g_loss, accuracy]).detach()

    def train_epoch(self, loader):
        """One pass over the data -> dict of the epoch's means.

        The random numbers depend on seed and epoch alone, so that a resumed epoch is the one that
        it would have been. Sums stay on the device, as a GPU has to wait for each reading, and are
        read every 50 steps. Raises FloatingPointError if a loss is not finite then.
        """
        c, self.epoch = self.config, self.epoch + 1
        torch.manual_seed(c.seed * 1_000_003 + self.epoch)
        decay = c.lr_decay_start / self.epoch if 0 < c.lr_decay_start < self.epoch else 1.0
        for optimizer, rate in ((self.optimizer_g, c.learning_rate_g),
                                (self.optimizer_d, c.learning_rate_d)):
            optimizer.param_groups[0].update(lr=rate * decay, betas=(c.beta1, c.beta2))
        sums, start = torch.zeros(3, device=self.device), time.perf_counter()
        title = f"Epoch [{self.epoch}/{c.epochs}]"
        with tqdm(loader, title, unit="batch", leave=False, disable=None) as bar:
            for step, (images, _) in enumerate(bar, 1):
                sums += self.train_step(to_float(images.to(self.device)))
                if step % 50 == 0 or step == len(loader):
                    d_loss, g_loss, accuracy = (sums / step).tolist()
                    seconds = time.perf_counter() - start
                    speed = step * len(images) / seconds
                    bar.set_postfix_str(f"d_loss {d_loss:.3f}, g_loss {g_loss:.3f}, "
                                        f"{speed:,.0f} img/s")
                    if not math.isfinite(d_loss + g_loss):
                        raise FloatingPointError(
                            f"a loss is not finite in epoch {self.epoch}: lower LEARNING_RATE_G "
                            "and LEARNING_RATE_D or set GRAD_CLIP to 1, then --resume; all that "
                            "was saved before is whole")
        print(f"{title} | D loss {d_loss:.4f} | G loss {g_loss:.4f} | {speed:,.0f} img/s")
        if accuracy > 0.98:
            print(f"WARNING: D is right in {accuracy:.1%} of cases, and G learns little from such "
                  "a judge: lower LEARNING_RATE_D, raise DROPOUT or make D_HIDDEN smaller")
        return {"epoch": self.epoch, "d_loss": d_loss, "g_loss": g_loss, "d_accuracy": accuracy,
                "seconds": seconds, "images_per_second": speed}

    def state_dict(self):
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return {"config": self.config._asdict(), "data": self.G_ema.about["data"],
                "epoch": self.epoch, "steps": self.steps, "history": self.history, **parts}

    def load_state_dict(self, state):
        self.epoch, self.steps, self.history = state["epoch"], state["steps"], state["history"]
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for optimizer in (self.optimizer_g, self.optimizer_d):  # which does not compare shapes
            for weight in optimizer.param_groups[0]["params"]:
                for moment in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[weight][moment].view_as(weight)


def save_whole(path, write):
    """Let write(file) fill a file beside `path`, then move it there: `path` is never half written.

    Raises OSError naming the path if the disk is full or the folder cannot be written to.
    """
    beside, buffer = path.with_name(f".{path.name}.part"), io.BytesIO()
    write(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(buffer.getbuffer())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}): make room or mend the folder; "
                      "all that was saved before is whole, --resume goes on from it") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def load_weights(path):
    """-> the dict that torch.save wrote to `path`, on the CPU. Code in the file is never run.

    Raises FileNotFoundError if it is missing, ValueError if it is damaged or anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            state = archive.testzip() or torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception:  # each kind of damage has an error of its own
        state = None
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged, or holds more or other than weights")
    return state


def load_generator(path, device="cpu"):
    """-> the Generator in generator_final.pth, or the averaged one of a checkpoint, in eval mode.

    Raises FileNotFoundError if the file is missing, ValueError if it is damaged or holds none.
    """
    state = load_weights(path)
    state = state.get("G_ema", state)
    try:
        shape = state["_extra_state"]
        G = Generator(shape["latent_dim"], shape["hidden"], shape["image_shape"])
        G.load_state_dict(state)
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no generator of this script") from error
    return G.eval().to(device)


def numbered(folder, suffix, last=math.inf):
    """-> the files in a folder named like epoch_0001.png, in order, up to number `last`."""
    paths = [path for path in Path(folder).glob(f"epoch_*{suffix}") if path.stem[6:].isdecimal()]
    numbers = {path: int(path.stem[6:]) for path in paths if path.is_file()}
    return sorted((path for path in numbers if numbers[path] <= last), key=numbers.get)


def load_newest(folder):
    """-> path and content of the newest whole checkpoint in the folder; None, None without any.

    Damaged ones are named and passed over. Raises ValueError if all of them are.
    """
    paths = numbered(folder, ".pth")
    for path in reversed(paths):
        try:
            return path, load_weights(path)
        except ValueError as error:
            print(f"WARNING: {error}: trying the one before")
    if paths:
        raise ValueError(f"none in {folder} is whole: start anew by --overwrite")
    return None, None


MAY_CHANGE = {  # in a resumed run, without a word about it
    "dataset", "data_dir", "epochs", "device", "resume", "overwrite", "samples_dir",
    "checkpoint_dir", "save_every", "keep_checkpoints", "num_samples"}


def resume(gan, folder):
    """Load the newest whole checkpoint of the folder into the GAN -> whether there is one.

    Raises ValueError naming what does not fit: networks, data, EPOCHS, or the file in itself.
    """
    path, state = load_newest(folder)
    if path is None:
        print(f"No checkpoint in {folder} yet: starting with epoch 1")
        return False
    strange = ValueError(f"{path} is no whole checkpoint of this script: move it away")
    fresh = gan.state_dict()
    if state.keys() != fresh.keys() or not isinstance(state["config"], dict):
        raise strange
    was, now = ({**each["config"], "data": each["data"]} for each in (state, fresh))
    for name in [name for name in now if name not in MAY_CHANGE and now[name] != was.get(name)]:
        if name in ("latent_dim", "g_hidden", "d_hidden", "data"):
            raise ValueError(f"{path} was trained with {name.upper()} {was.get(name)}, now it is "
                             f"{now[name]}: set it as it was, or start anew by --overwrite")
        print(f"Changed since {path}: {name.upper()} {was.get(name)} -> {now[name]}")
    try:
        gan.load_state_dict(state)
        fits = [row["epoch"] for row in gan.history] == [*range(1, int(path.stem[6:]) + 1)]
    except (AttributeError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise strange from error
    if not fits or gan.epoch != len(gan.history):
        raise strange
    if gan.epoch > gan.config.epochs:
        raise ValueError(f"EPOCHS is {gan.config.epochs}: {path} has done {gan.epoch}, so raise it")
    print(f"Going on from {path}")
    return True


def clear_folders(config, samples, checkpoints):
    """Keep two runs from mixing in a folder: with OVERWRITE delete the earlier, else ValueError.

    A run to be resumed that was stopped before its first checkpoint has drawn SAVE_EVERY grids.
    """
    earned = numbered(samples, ".png")[config.save_every if config.resume else 0:]
    earned += [*checkpoints.glob("generator_final.pth"), *numbered(checkpoints, ".pth")]
    if earned and not config.overwrite:
        raise ValueError(f"{earned[-1]} is there from an earlier run: go on by --resume, delete "
                         "that run by --overwrite, or set another SAMPLES_DIR and CHECKPOINT_DIR")
    for path in earned:
        path.unlink()


def train_gan(**settings):
    """Train -> the averaged Generator, in eval mode, and the history, a list of one dict an epoch.

    Settings are named like the constants, which hold for the others: train_gan(epochs=5, seed=1).
    Writes the files named at the top of this script. Raises ValueError for a wrong setting or a
    damaged file, OSError if one cannot be written, FloatingPointError if a loss is not finite.
    """
    c = make_config(**settings)
    samples, checkpoints = Path(c.samples_dir), Path(c.checkpoint_dir)
    device = choose_device(c.device)
    images, labels, name = load_dataset(c.dataset, c.data_dir)
    loader = make_loader(images, labels, c.batch_size)
    if not len(loader):
        raise ValueError(f"BATCH_SIZE is {c.batch_size}: an epoch has {len(loader.dataset)} images")
    shift = c.augment == "shift" or (c.augment == "auto" and loader.dataset.repeats > 1)
    gan = GAN(c, images.shape[1:], device, shift)
    data = f"{name}, {len(images)} images, checksum {zlib.crc32(images.numpy()):08x}"
    gan.G_ema.about = {"data": data, "epochs": 0}
    for folder in (samples, checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"cannot write to the folder {folder}: choose another")
    if not (c.resume and resume(gan, checkpoints)):
        clear_folders(c, samples, checkpoints)

    def draw_grid():
        grid = gan.G_ema.sample(c.num_samples, c.seed)
        save_grid(samples / f"epoch_{gan.epoch:04d}.png", grid)

    print(f"Training on {data}; {device.type}, {gan.precision}, shifts {'on' if shift else 'off'}")
    try:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(c.seed))
        save_grid(samples / "real_samples.png", to_float(images[order[:c.num_samples]]))
        while gan.epoch < c.epochs:
            torch.set_flush_denormal(True)  # Adam crawls through denormals where gradients are 0
            gan.history.append(gan.train_epoch(loader))
            torch.set_flush_denormal(False)
            gan.G_ema.about["epochs"] = gan.epoch
            draw_grid()
            save_csv(checkpoints / "history.csv", gan.history)
            if gan.epoch % c.save_every == 0 or gan.epoch == c.epochs:  # last: resume counts on it
                path = checkpoints / f"epoch_{gan.epoch:04d}.pth"
                save_whole(path, lambda file: torch.save(gan.state_dict(), file))
                saved = numbered(checkpoints, ".pth", last=gan.epoch)
                for path in saved[:-c.keep_checkpoints] if c.keep_checkpoints else []:
                    path.unlink()
        final, curves, gif = "generator_final.pth", "loss_curves.png", "training.gif"
        save_whole(checkpoints / final, lambda file: torch.save(gan.G_ema.state_dict(), file))
        save_curves(samples / curves, gan.history)
        draw_grid()  # a resumed run may be over already, and its pictures elsewhere
        save_gif(samples / gif, numbered(samples, ".png", last=gan.epoch))
        print(f"Wrote {checkpoints / final}, {samples / curves} and {samples / gif}")
    except KeyboardInterrupt:
        saved = ["nothing yet", *numbered(checkpoints, ".pth")][-1]
        print(f"\nStopped in epoch {gan.epoch}. Saved: {saved}. --resume goes on from there "
              "(without --overwrite)")
        raise
    finally:
        torch.set_flush_denormal(False)
    return gan.G_ema, gan.history


# ── Output ───────────────────────────────────────────────────────────────────────────────────────
# Pictures and tables for people.


def save_image(path, image):
    """Image (C, H, W) in [-1, 1], a range that is the same for all, C 1 or 3 -> a PNG file."""
    pixels = to_uint8(image).permute(1, 2, 0).squeeze(2).cpu().numpy()
    save_whole(path, lambda file: Image.fromarray(pixels).save(file, "png"))


def save_grid(path, images, columns=None):
    """Images (N, C, H, W) in [-1, 1] -> one PNG file with all of them, about as wide as high."""
    from torchvision.utils import make_grid

    grid = make_grid(images, columns or math.ceil(math.sqrt(len(images))), pad_value=-1.0)
    save_image(path, grid[:images.shape[1]])  # make_grid turns grey into three equal channels


def save_gif(path, pictures):
    """Paths of pictures -> an endless GIF of at most 200 of them that rests on the last."""
    frames = []
    for picture in pictures[::-math.ceil(len(pictures) / 200)][::-1]:
        try:
            frames.append(Image.open(picture).copy())
        except OSError as error:
            raise ValueError(f"{picture} is damaged: delete it, then --resume") from error
    frames = [frame.resize(frames[-1].size) for frame in frames]
    pauses = [120] * (len(frames) - 1) + [2000]  # milliseconds
    save_whole(path, lambda file: frames[0].save(
        file, "gif", save_all=True, append_images=frames[1:], duration=pauses, loop=0))


def save_csv(path, history):
    """A list of dicts with the same keys -> a CSV file with one line for each."""
    lines = [history[0].keys(), *(row.values() for row in history)]
    text = "".join(",".join(map(str, line)) + "\n" for line in lines)
    save_whole(path, lambda file: file.write(text.encode()))


def save_curves(path, history):
    """The history -> a plot of both losses; dashed, where they are when D can only guess."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes, epochs = figure.subplots(), [row["epoch"] for row in history]
    for name, color, guess in (("d_loss", "C0", 2 * math.log(2)), ("g_loss", "C1", math.log(2))):
        axes.plot(epochs, [row[name] for row in history], ".-", color=color, label=name)
        axes.axhline(guess, color=color, linestyle="--", label=f"{name} when D can only guess")
    axes.set(xlabel="epoch", ylabel="binary cross-entropy (nats)")
    axes.legend()
    save_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────
# `train` is train_gan above; the others use what it has saved.


@torch.no_grad()
def generate(model_path="", num_samples=NUM_SAMPLES, seed=SEED, separate=False, interpolate=False,
             show=False, samples_dir=SAMPLES_DIR, checkpoint_dir=CHECKPOINT_DIR):
    """Draw digits with a trained generator -> path of the picture that was written.

    Raises FileNotFoundError if there is no model, ValueError if its file is damaged or holds none.
    """
    final = [*Path(checkpoint_dir).glob("generator_final.pth")]
    found = [model_path] if model_path else final or numbered(checkpoint_dir, ".pth")
    if not found:
        raise FileNotFoundError(f"no generator in {checkpoint_dir}: train one by `python "
                                "gan_mnist.py` or name one by --model_path")
    G, path = load_generator(found[-1]), Path(samples_dir) / f"generated_seed_{seed}.png"
    images = G.sample(num_samples, seed)
    if interpolate:  # of independent a, b ~ N(0, 1), cos(t) a + sin(t) b is N(0, 1) for every t
        z = sample_z(num_samples + 1, G.latent_dim, seed)
        t = torch.linspace(0, math.pi / 2, 10).unsqueeze(1)
        images = torch.cat([G(t.cos() * a + t.sin() * b) for a, b in itertools.pairwise(z)])
        path = path.with_name(f"interpolation_seed_{seed}.png")
    save_grid(path, images, 10 if interpolate else None)
    print(f"Wrote {path}, drawn by {found[-1]} ({G.about})")
    if separate:
        for number, image in enumerate(images, 1):
            save_image(path.with_suffix("") / f"{number:04d}.png", image)
        print(f"Wrote {len(images)} single pictures to {path.with_suffix('')}")
    if show:
        from matplotlib import pyplot

        pyplot.imshow(Image.open(path), cmap="gray")
        pyplot.axis("off")
        pyplot.show()
    return path


COMMANDS = {"train": train_gan, "generate": generate}

# ── Command line ─────────────────────────────────────────────────────────────────────────────────
# The constants are the flags: their names, their values, and as help the comments behind them.

EXTRA_FLAGS = {  # flags of the commands other than train, that have no constant
    "model_path": "generator or checkpoint [generator_final.pth, else the newest checkpoint]",
    "separate": "write each digit as a PNG file of its own too",
    "interpolate": "draw walks from one random point to the next, one in a row",
    "show": "open the picture with matplotlib",
}


PATH, SWITCH, LISTS = "a path", "True or False", ("g_hidden", "d_hidden")
RULES = {  # setting: its choices, or the lowest and the highest number, a whole one if they are
    "dataset": ["mnist", "mnist_5k", "fashion_mnist", "kmnist"], "data_dir": PATH,
    "augment": ["none", "shift", "auto"], "latent_dim": (1, 65536), "g_hidden": (1, 65536),
    "d_hidden": (1, 65536), "dropout": (0.0, 0.99), "epochs": (1, 10**6), "batch_size": (2, 10**6),
    "learning_rate_g": (0.0, 10.0), "learning_rate_d": (0.0, 10.0), "lr_decay_start": (0, 10**6),
    "beta1": (0.0, 0.9999), "beta2": (0.0, 0.999999), "ema_decay": (0.0, 0.999999),
    "label_smoothing": (0.0, 0.5), "grad_clip": (0.0, 1e6), "seed": (0, 2**31),
    "device": ["auto", "cuda", "mps", "cpu"], "precision": ["auto", "fp32", "bf16"],
    "resume": SWITCH, "overwrite": SWITCH, "samples_dir": PATH, "checkpoint_dir": PATH,
    "save_every": (1, 10**6), "keep_checkpoints": (0, 10**6), "num_samples": (1, 10**4),
    "model_path": PATH, "separate": SWITCH, "interpolate": SWITCH, "show": SWITCH,
}
Config = collections.namedtuple("Config", [name for name in RULES if name not in EXTRA_FLAGS])


def check(name, value):
    """A setting, as a constant, a flag or an argument gives it -> its value in its own type.

    Raises ValueError naming the setting and what it allows.
    """
    rule = RULES[name]
    if rule in (PATH, SWITCH):
        allowed, fits = rule, isinstance(value, bool if rule is SWITCH else (str, os.PathLike))
    elif isinstance(rule, list):
        allowed, fits = " | ".join(rule), value in rule
    else:
        kind, fits = type(rule[0]), False
        allowed = f"{'a whole number' if kind is int else 'a number'} from {rule[0]} to {rule[1]}"
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            given = [*value] if name in LISTS and not isinstance(value, str) else [value]
            numbers = tuple(kind(each) for each in given)
            pairs = zip(numbers, given, strict=True)
            if given and all(rule[0] <= n <= rule[1] and n == float(each) for n, each in pairs):
                return numbers if name in LISTS else numbers[0]
    if not fits:
        raise ValueError(f"{name.upper()} (--{name}) is {value!r}: allowed is {allowed}")
    return str(value) if rule is PATH else value


def make_config(**settings):
    """Settings -> all of them, checked and frozen; for those not given the constants hold."""
    for name in settings.keys() - set(Config._fields):
        raise ValueError(f"there is no setting {name}, but there are {', '.join(Config._fields)}")
    constants = {name: globals()[name.upper()] for name in Config._fields}
    config = Config(*itertools.starmap(check, {**constants, **settings}.items()))
    if config.resume and config.overwrite:
        raise ValueError("RESUME and OVERWRITE exclude each other: go on with a run or delete it")
    return config


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(f"{message}; --help shows all flags")


def build_parser():
    """-> the parser: a flag for each constant, in their order and groups, read from this file."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                    usage=f"python gan_mnist.py [{' | '.join(COMMANDS)}] [flags]",
                    allow_abbrev=False, argument_default=argparse.SUPPRESS)

    def add(group, name, text):
        if RULES[name] is SWITCH:
            group.add_argument(f"--{name}", action="store_true", help=text)
            parser.add_argument(f"--no_{name}", dest=name, action="store_false",
                                help=argparse.SUPPRESS)
        else:
            group.add_argument(f"--{name}", nargs="+" if name in LISTS else None, metavar="X",
                               help=text.replace("%", "%%"))

    for line in Path(__file__).read_text(encoding="utf-8").partition("# ── Data")[0].splitlines():
        if match := re.fullmatch(r"# (data|networks|training|output)", line):
            group = parser.add_argument_group(match[1])
        match = re.fullmatch(r"([A-Z][A-Z0-9_]*) *= *(.*?)(?:  # (.+))?", line)
        if match and match[1].lower() in Config._fields:
            add(group, match[1].lower(), f"{match[3] or ''} [{match[2]}]")
    group = parser.add_argument_group(
        "generate, which also takes --seed, --num_samples, --samples_dir and --checkpoint_dir")
    for name, text in EXTRA_FLAGS.items():
        add(group, name, text)
    return parser


def main(argv=None):
    """Run the command line -> exit code: 0, 1 failed, 2 wrong input, 130 stopped by Ctrl-C."""
    flags = [re.sub(r"(?<=^--)[\w-]+", lambda match: match[0].replace("-", "_"), flag)
             for flag in (sys.argv[1:] if argv is None else argv)]  # --batch-size is --batch_size
    name = flags.pop(0) if flags and flags[0] in COMMANDS else "train"
    try:
        settings = vars(build_parser().parse_args(flags))
        parameters = inspect.signature(COMMANDS[name]).parameters
        takes = {key: parameters[key].default for key in parameters} if name != "train" else {}
        for flag in settings.keys() - set(takes or Config._fields):
            raise ValueError(f"{name} takes no --{flag}; --help shows all flags")
        COMMANDS[name](**{key: check(key, value) for key, value in {**takes, **settings}.items()})
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, FileNotFoundError)) else 1
    return 0


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # not so in a notebook
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each epoch as it ends
    sys.exit(main())
