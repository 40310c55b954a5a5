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
    python gan_mnist.py evaluate                   measure how good its digits are
    python gan_mnist.py demo                       make a web page that draws them

Each epoch writes generated_samples/epoch_0001.png (a grid of digits, always from the same z),
checkpoints/epoch_0001.pth (all that --resume needs) and history.csv; the end of a run
checkpoints/generator_final.pth, generated_samples/loss_curves.png and training.gif. In a notebook:

    from gan_mnist import load_generator
    images = load_generator("checkpoints/generator_final.pth").sample(64, seed=0)  # in [-1, 1]

Goodfellow et al. 2014, Generative Adversarial Networks, https://arxiv.org/abs/1406.2661
"""

import argparse
import base64
import collections
import contextlib
import copy
import inspect
import io
import json
import math
import os
import re
import socket
import sys
import time
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from tqdm import tqdm

# ── Hyperparameters ── Edit them here, or give them as flags: EPOCHS = 10 is --epochs 10 ──────────

# data
DATASET = "mnist"  # mnist | mnist_5k (bundled) | fashion_mnist | kmnist | cifar10 | a folder
DATA_DIR = "data"  # folder of the data sets, in torchvision's layout; a missing one is downloaded
IMAGE_SIZE = 0  # side in pixels to which images are resized; 0 = as they are (folders: 64)
AUGMENT = "auto"  # none | shift (by up to 1 pixel, from epoch 7 on) | auto (shift if data are few)

# networks
LATENT_DIM = 100  # length of the noise vector z
MODES = 10  # kinds of image among which z's first numbers choose, by the largest; 0 = none
G_HIDDEN = (256, 512, 1024)  # widths of the generator's hidden layers
D_HIDDEN = (512, 256)  # widths of the discriminator's hidden layers
SPECTRAL_NORM = False  # D's weights divided by their largest singular value (Miyato et al. 2018)
DROPOUT = 0.0  # share of D's hidden units switched off in a step; classic 0.3
CONDITIONAL = False  # G and D are told the label, and G draws the digit that it is asked for

# training
EPOCHS = 60  # passes over about 60,000 images
BATCH_SIZE = 128  # images in a step; classic 64
LEARNING_RATE_G = 1e-3  # Adam's step size for the generator; classic 2e-4
LEARNING_RATE_D = 5e-4  # Adam's step size for the discriminator; classic 2e-4
LR_DECAY_START = 12  # after this epoch both rates fall, in a straight line,
LR_DECAY_END = 60  # to a fiftieth at this one, whatever EPOCHS is; 0 = they never fall
BETA1 = 0.0  # Adam's momentum; classic 0.5, several times slower here
BETA2 = 0.999  # Adam's decay of the squared gradients
EMA_DECAY = 0.9995  # averaging of G over its steps, the average draws better; 0 = none
LOSS = "bce"  # bce | hinge | wgan_gp (customary: D_STEPS 5, GRADIENT_PENALTY 10, BETA2 0.9)
D_STEPS = 1  # steps of D for each step of G
LABEL_SMOOTHING = 0.0  # real labels of bce become 1 - this in D's loss; usual alternative 0.1
GRADIENT_PENALTY = 0.5  # weight of D's squared gradient at real and fake images; 0 = none
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
KEEP_CHECKPOINTS = 3  # newest checkpoints to keep, about 30 MB each; 0 = all
NUM_SAMPLES = 64  # digits in a grid
METRICS_EVERY = 2  # epochs from one reading of the quality to the next; 0 = never

# ── Data ── The whole set is one uint8 tensor in memory, a batch one index operation on it ────────

SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
BUNDLE = Path(__file__).resolve().parent / "data" / "mnist_5k.png"
MNIST_JUDGE = BUNDLE.with_name("judge_mnist.pth")  # shipped, so that numbers can be compared
EPOCH_IMAGES = 60_000  # a smaller set is repeated up to about this, so that the same settings work

def load_bundle():
    """-> the bundled digits, images (5000, 1, 28, 28) uint8 and labels (5000,), from a sheet with
    50 rows of 100 digits, five for each class. Raises ValueError if it is damaged."""
    try:
        with Image.open(BUNDLE) as sheet:
            tiles = np.array(sheet).reshape(50, 28, 100, 28).swapaxes(1, 2).copy()
        assert zlib.crc32(tiles) == 0xDA5FC5F0
    except Exception as error:  # each kind of damage has an error of its own
        raise ValueError(f"{BUNDLE} is missing or damaged: fetch the project anew") from error
    return torch.from_numpy(tiles).view(5000, 1, 28, 28), torch.arange(10).repeat_interleave(500)

def load_folder(folder, size):
    """Folder of images of any sizes, in sub-folders for their classes or in none -> images
    (N, C, size, size) uint8, the middles; labels (N,). Raises ValueError if there are none."""
    paths = sorted(path for path in Path(folder).rglob("*") if folder and path.is_file()
                   and "/." not in f"/{path.relative_to(folder).as_posix()}")  # hidden
    images, classes, colours = [], [], 1
    for path in tqdm(paths, f"Reading {folder}", leave=False, disable=None):
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            images.append(np.array(ImageOps.fit(upright, (size or 64, size or 64))))
            classes.append(str(path.parent))
            colours = 3 if np.ptp(images[-1], 2).any() else colours
        except Exception as error:  # each kind of damage has an error of its own
            print(f"WARNING: {path} is skipped, as it cannot be read as an image ({error})")
    if not images:
        raise ValueError(f"DATASET (--dataset) is {folder!r}: allowed is mnist_5k | "
                         f"{' | '.join(SETS)}, or a folder with images in it")
    pixels = torch.from_numpy(np.stack(images)[..., :colours]).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.unique(classes, return_inverse=True)[1])

def load_torchvision(name, data_dir, train):
    """A set of torchvision's, downloaded if it is not in data_dir -> images (N, C, H, W) uint8,
    labels (N,). Raises ValueError if it is damaged, FileNotFoundError if there is no way to it."""
    from torchvision import datasets
    kind, root = getattr(datasets, SETS[name]), Path(data_dir).expanduser()
    try:
        data = kind(root, train)
        images, labels = torch.as_tensor(data.data), torch.as_tensor(data.targets)
        assert 0 < len(images) == len(labels), "images without labels"
    except Exception as error:  # each kind of damage has an error of its own
        if "not found" not in str(error):
            raise ValueError(f"a file of {name} in {root / SETS[name]} is damaged or unreadable "
                             f"({' '.join(str(error).split())}): delete or mend it") from error
        print(f"{name} is not in {data_dir}, or not whole: downloading it")
        socket.setdefaulttimeout(7)  # torchvision itself would wait for ever, at each mirror
        try:
            kind(root, download=True)
        except Exception as error:
            raise FileNotFoundError(f"{name} cannot be downloaded ({' '.join(str(error).split())})"
                                    f": put its files into {root}, as torchvision does") from error
        return load_torchvision(name, data_dir, train)
    return images.view(len(images), *images.shape[1:3], -1).permute(0, 3, 1, 2).contiguous(), labels

def load_dataset(name, data_dir, train=True, image_size=0):
    """-> images (N, C, H, W) uint8, labels (N,), name of the set that was really loaded: MNIST that
    cannot be downloaded becomes, loudly, the bundled digits. Raises what the three above raise."""
    from torchvision.transforms import Resize
    try:
        images, labels = (load_torchvision(name, data_dir, train) if name in SETS else
                          load_bundle() if name == "mnist_5k" else load_folder(name, image_size))
    except FileNotFoundError as error:
        if name != "mnist":
            raise
        print(f"WARNING: {error}. Going on with the 5,000 real MNIST digits bundled with this "
              "script, as with --dataset mnist_5k")
        (images, labels), name = load_bundle(), "mnist_5k"
    if image_size not in (0, images.shape[-1]):
        images = torch.cat([*map(Resize((image_size, image_size)), images.split(1000))])
    return images, labels, name

def make_loader(images, labels, batch_size):
    """-> DataLoader of shuffled whole batches: images (B, C, H, W) uint8, labels (B,). The sampler
    draws the indices of a whole batch at once; small sets are repeated to about EPOCH_IMAGES."""
    data, repeats = TensorDataset(images, labels), max(1, round(EPOCH_IMAGES / len(images)))
    order = BatchSampler(RandomSampler(data, num_samples=repeats * len(data)), batch_size, True)
    return DataLoader(data, sampler=order, batch_size=None)

def to_float(images):
    """uint8 images -> float images in [-1, 1], the range of the generator's tanh."""
    return images.float().div_(127.5).sub_(1)

def to_uint8(images):
    """Float images in [-1, 1] -> uint8 images, the inverse of to_float."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()

def random_shift(images, pixels=1):
    """Images (N, C, H, W) in [-1, 1] -> each moved by up to `pixels` both ways: real and fake, as
    D would learn few images by heart, in time. Zhao et al. 2020, DiffAugment, arXiv 2006.10738."""
    n, c, h, w = images.shape
    dy, dx = torch.randint(2 * pixels + 1, (2, n, 1), device=images.device)
    rows, columns = dy + torch.arange(h, device=dy.device), dx + torch.arange(w, device=dx.device)
    places = rows[:, :, None] * (w + 2 * pixels) + columns[:, None, :]
    padded = F.pad(images, [pixels] * 4, value=-1.0).flatten(2)
    return padded.gather(2, places.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)

# ── Networks ── G turns noise into images; D's logit is above 0 where it takes one for real ───────

class Generator(nn.Module):
    """z (N, latent_dim) ~ N(0, 1) -> images (N, C, H, W) in [-1, 1]; with classes, labels (N,) too:
    Mirza & Osindero 2014, Conditional Generative Adversarial Nets, arXiv 1411.1784. Layers: Linear,
    BatchNorm (Ioffe & Szegedy 2015, arXiv 1502.03167), ReLU; tanh at the end. `_extra_state` in its
    state dict tells the shape, which load_generator rebuilds, and `about`, what it learned from."""
    def __init__(self, latent_dim=LATENT_DIM, hidden=G_HIDDEN, image_shape=(1, 28, 28), classes=0,
                 modes=MODES):
        super().__init__()
        if modes >= latent_dim:
            raise ValueError(f"MODES (--modes) is {modes}: must be below LATENT_DIM, {latent_dim}")
        self.latent_dim, self.hidden, self.image_shape = latent_dim, [*hidden], [*image_shape]
        self.classes, self.modes, self.about, layers = classes, modes, {}, []
        for n_in, n_out in pairwise([latent_dim + classes, *hidden]):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(n_out, math.prod(image_shape)), nn.Tanh())

    def code(self, z, labels=None):
        """-> what the layers see, (N, latent_dim + classes). z's first places become a one-hot
        choice of a mode (Chen et al. 2016, arXiv 1606.03657): without it G, being continuous, draws
        what lies between two digits too (Khayatkhoei et al. 2018, arXiv 1806.00880)."""
        if self.modes:
            choice = F.one_hot(z[:, :self.modes].argmax(1), self.modes)
            z = torch.cat([choice * self.modes**0.5, z[:, self.modes:]], 1)
        return torch.cat([z, F.one_hot(labels, self.classes)], 1) if self.classes else z

    def forward(self, z, labels=None):
        return self.layers(self.code(z, labels)).view(-1, *self.image_shape)

    @torch.no_grad()
    def sample(self, num_samples, seed=None, labels=None):
        """-> images (num_samples, C, H, W) in [-1, 1], of the labels (num_samples,) or all in turn,
        the same for the same seed on every device; in eval mode each depends on its own z alone."""
        former_mode, device = self.training, next(self.parameters()).device
        labels = torch.arange(num_samples) % max(1, self.classes) if labels is None else labels
        z = sample_z(num_samples, self.latent_dim, seed)
        images = self.eval()(z.to(device), labels.to(device))
        self.train(former_mode)
        return images

    def get_extra_state(self):
        return {"latent_dim": self.latent_dim, "hidden": self.hidden, "classes": self.classes,
                "image_shape": self.image_shape, "modes": self.modes, "about": self.about}

    def set_extra_state(self, state):
        self.about, self.modes = state["about"], state.get("modes", 0)  # 0 in older files

class Discriminator(nn.Module):
    """Images (N, C, H, W) in [-1, 1], with classes labels (N,) too -> logits (N,); their sigmoid is
    the probability of real. Linear, LeakyReLU and Dropout; Goodfellow et al. 2014 had maxout.
    Black enters as 0: so D does not have to unlearn first what all images have in common."""
    def __init__(self, hidden=D_HIDDEN, dropout=DROPOUT, image_shape=(1, 28, 28), classes=0,
                 spectral=False):
        super().__init__()
        self.classes, layers = classes, []
        norm = nn.utils.parametrizations.spectral_norm if spectral else nn.Identity()
        for n_in, n_out in pairwise([math.prod(image_shape) + classes, *hidden]):
            layers += [norm(nn.Linear(n_in, n_out)), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, norm(nn.Linear(hidden[-1], 1)))

    def forward(self, images, labels=None):
        x = images.flatten(1) + 1
        x = torch.cat([x, F.one_hot(labels, self.classes)], 1) if self.classes else x
        return self.layers(x).squeeze(1).float()

def sample_z(num_samples, latent_dim, seed=None):
    """-> z (num_samples, latent_dim) ~ N(0, 1), from the CPU: a seed is the same on all devices."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows = num_samples + -num_samples % 16  # for other counts randn draws the last numbers anew
    return torch.randn(rows, latent_dim, generator=generator)[:num_samples]

# ── Losses ── Binary cross-entropy: D says what is real, G wants its images to be called so ───────

def discriminator_loss(real_logits, fake_logits, label_smoothing=0.0, loss="bce"):
    """Logits (N,) of real and of fake images -> -log D(x) - log(1 - D(G(z))), means over the batch;
    2 ln 2 = 1.386 when D can only guess: Goodfellow et al. 2014, equation 1. Real labels are 1 -
    label_smoothing (one-sided, Salimans et al. 2016, arXiv 1606.03498)."""
    if loss == "hinge":  # Lim & Ye 2017, Geometric GAN, arXiv 1705.02894
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    if loss == "wgan_gp":  # minus the Wasserstein distance: Gulrajani et al. 2017, arXiv 1704.00028
        return fake_logits.mean() - real_logits.mean()
    real_labels = torch.full_like(real_logits, 1.0 - label_smoothing)
    return (F.binary_cross_entropy_with_logits(real_logits, real_labels)
            + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits)))

def generator_loss(fake_logits, loss="bce"):
    """Logits (N,) of fake images -> -log D(G(z)), mean over the batch; ln 2 when D can only guess.
    The non-saturating form: strong gradients where G is bad. Goodfellow et al. 2014, section 3."""
    if loss != "bce":
        return -fake_logits.mean()
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))

def gradient_penalty(logits, images, norm=0):
    """Logits (N,) of images (N, C, H, W) that require gradients -> mean of (|gradient| - norm)².
    With norm 0 smooths D at real (R1) and fake (R2) images, so that it can be strong and G still
    converges: Roth et al. 2017, arXiv 1705.09367; Mescheder et al. 2018, arXiv 1801.04406."""
    gradient, = torch.autograd.grad(logits.sum(), images, create_graph=True)
    squares = gradient.float().square().flatten(1).sum(1)  # the root of 0 has no gradient
    return (((squares + 1e-12).sqrt() - norm).square() if norm else squares).mean()

# ── Training ── D and G take turns, a step each; an average of G over time is what people see ─────

def choose_device(name, precision):
    """DEVICE and PRECISION -> torch.device, torch.float32 or torch.bfloat16, which is slow where it
    is emulated. Raises ValueError if this machine has no such device."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = max(has, key=has.get) if name == "auto" else name  # the first that is there
    if not has[name]:
        raise ValueError(f"DEVICE is {name}, which PyTorch does not find here: use auto or cpu")
    features = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch does not know
    fast = (features.get("avx512_bf16") or features.get("amx_bf16")) if name == "cpu" else (
        name == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    bf16 = precision == "bf16" or (precision == "auto" and fast)
    return torch.device(name), torch.bfloat16 if bf16 else torch.float32

def descend(loss, optimizer, grad_clip=0.0):
    """One step of the optimizer down the loss, for its own parameters: G's leaves D as it is."""
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
        if value.is_floating_point():  # BatchNorm's count of batches is of no use
            average.lerp_(value, 1.0 - decay)

class GAN:
    """All that a run has earned: networks, averaged G, optimizers, epoch and history."""
    PARTS = ("G", "D", "G_ema", "optimizer_g", "optimizer_d")
    def __init__(self, c, image_shape, shift, classes=0):
        self.config, self.shift, self.epoch, self.steps, self.history = c, shift, 0, 0, []
        self.device, self.precision = choose_device(c.device, c.precision)
        torch.manual_seed(c.seed)
        shape = image_shape, classes if c.conditional else 0
        self.G = Generator(c.latent_dim, c.g_hidden, *shape, c.modes).to(self.device)
        self.D = Discriminator(c.d_hidden, c.dropout, *shape, c.spectral_norm).to(self.device)
        self.G_ema = copy.deepcopy(self.G).eval()
        adam = {"betas": (c.beta1, c.beta2), "fused": True}
        self.optimizer_g = torch.optim.Adam(self.G.parameters(), c.learning_rate_g, **adam)
        self.optimizer_d = torch.optim.Adam(self.D.parameters(), c.learning_rate_d, **adam)

    def train_step(self, real, labels):
        """Real images (D_STEPS * N, C, H, W) in [-1, 1] with their labels, which fakes get too
        -> tensor: d_loss, g_loss, D's accuracy (0 to 1)."""
        c = self.config
        augment = random_shift if self.shift and self.epoch > 6 else nn.Identity()
        bf16 = torch.autocast(self.device.type, torch.bfloat16, self.precision == torch.bfloat16)
        for images, classes in zip(real.chunk(c.d_steps), labels.chunk(c.d_steps), strict=True):
            z = torch.randn(len(images), c.latent_dim, device=self.device)
            # D: maximize log D(x) + log(1 - D(G(z))), real and fake in one pass
            with bf16:
                fake, penalty = self.G(z, classes), 0.0
                both = augment(torch.cat([images, fake.detach()])).requires_grad_()
                logits = self.D(both, classes.repeat(2))
                if c.gradient_penalty and c.loss == "wgan_gp":  # between real and fake
                    between = torch.rand(len(images), 1, 1, 1, device=self.device)
                    mixed = torch.lerp(*both.detach().chunk(2), between).requires_grad_()
                    penalty = gradient_penalty(self.D(mixed, classes), mixed, norm=1)
                elif c.gradient_penalty and self.steps % 8 == 0:  # as good as always, and cheaper
                    penalty = 8 * gradient_penalty(logits, both)
            real_logits, fake_logits = logits.chunk(2)
            d_loss = discriminator_loss(real_logits, fake_logits, c.label_smoothing, c.loss)
            descend(d_loss + c.gradient_penalty * penalty, self.optimizer_d, c.grad_clip)

        # G: maximize log D(G(z)), on the same fakes, with D as it is after its step
        with bf16:
            g_loss = generator_loss(self.D(augment(fake), classes), c.loss)
        descend(g_loss, self.optimizer_g, c.grad_clip)

        self.steps += 1  # the average is short at first, while G still changes fast
        update_ema(self.G_ema, self.G, min(c.ema_decay, (1 + self.steps) / (10 + self.steps)))
        accuracy = ((real_logits > 0).float().mean() + (fake_logits <= 0).float().mean()) / 2
        return torch.stack([d_loss, g_loss, accuracy]).detach()

    def train_epoch(self, loader):
        """One pass over the data -> the epoch's row of the history. Randomness depends on seed and
        epoch alone, as if never stopped. Raises FloatingPointError if a loss is not finite."""
        c, self.epoch = self.config, self.epoch + 1
        torch.manual_seed(c.seed * 1_000_003 + self.epoch)
        epochs = min(c.lr_decay_start, c.lr_decay_end - 1), c.lr_decay_end
        share = float(np.interp(self.epoch, epochs, (1, 0.02))) if c.lr_decay_end else 1.0
        for optimizer, rate in ((self.optimizer_g, c.learning_rate_g),
                                (self.optimizer_d, c.learning_rate_d)):
            optimizer.param_groups[0].update(lr=rate * share, betas=(c.beta1, c.beta2))
        torch.set_flush_denormal(True)  # Adam crawls through denormals where gradients are 0
        sums, start = torch.zeros(3, device=self.device), time.perf_counter()
        with tqdm(loader, f"Epoch [{self.epoch}/{c.epochs}]", leave=False, disable=None) as bar:
            for step, (images, labels) in enumerate(bar, 1):
                sums += self.train_step(to_float(images.to(self.device)), labels.to(self.device))
                if step % 50 == 0 or step == len(loader):  # seldom, as a GPU has to wait for it
                    d_loss, g_loss, accuracy = (sums / step).tolist()
                    seconds = time.perf_counter() - start
                    speed = step * len(images) / seconds
                    bar.set_postfix_str(f"d_loss {d_loss:.3f}, g_loss {g_loss:.3f}, {speed:,.0f}/s")
                    if not math.isfinite(d_loss + g_loss):
                        raise FloatingPointError(
                            f"a loss is not finite in epoch {self.epoch}: lower LEARNING_RATE_G, "
                            "LEARNING_RATE_D or set GRAD_CLIP, then --resume; all files are whole")
        return {"epoch": self.epoch, "d_loss": d_loss, "g_loss": g_loss,
                "d_accuracy": math.nan if c.loss == "wgan_gp" else accuracy, "seconds": seconds,
                "images_per_second": speed, "fd": None, "covered": None, "missing": None}

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
                [optimizer.state[weight][key].view_as(weight) for key in ("exp_avg", "exp_avg_sq")]

def save_whole(path, write):
    """Let write(file) fill a file beside `path`, then move it there: `path` is never half written.
    Raises OSError naming the path if the disk is full or the folder cannot be written to."""
    beside, buffer = path.with_name(f".{path.name}.part"), io.BytesIO()
    write(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(buffer.getbuffer())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}): make room, mend the folder or "
                      "close the file; all before is whole; a run goes on by --resume") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()

def load_weights(path):
    """-> the dict that torch.save wrote to `path`, on the CPU. Code in the file is never run.
    Raises FileNotFoundError if it is missing, ValueError if it is damaged or anything else."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            state = archive.testzip() or torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from error
    except Exception:  # each kind of damage has an error of its own
        state = None
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged, or holds more or other than weights")
    return state

def load_generator(path, device="cpu"):
    """-> the Generator in generator_final.pth, or the averaged one of a checkpoint, in eval mode.
    Raises FileNotFoundError if the file is missing, ValueError if it is damaged or holds none."""
    state = load_weights(path)
    state = state.get("G_ema", state)
    try:
        G = Generator(**{k: v for k, v in state["_extra_state"].items() if k != "about"})
        G.load_state_dict(state)
    except (AttributeError, LookupError, NameError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no generator of this script") from error
    return G.eval().to(device)

def numbered(folder, suffix, last=math.inf):
    """-> the files in a folder named like epoch_0001.png, in order, up to number `last`."""
    numbers = {path: int(path.stem[6:]) for path in Path(folder).glob(f"epoch_*{suffix}")
               if path.stem[6:].isdecimal() and path.is_file()}
    return sorted((path for path in numbers if numbers[path] <= last), key=numbers.get)

def resume(gan, folder):
    """Load the newest whole checkpoint of the folder into the GAN -> whether there is one.
    Raises ValueError naming what does not fit: networks, data, EPOCHS, or the file in itself."""
    paths = numbered(folder, ".pth")
    for path in reversed(paths):
        try:
            state = load_weights(path)
            break
        except ValueError as error:
            print(f"WARNING: {error}: trying the one before")
    else:
        if paths:
            raise ValueError(f"all checkpoints in {folder} are damaged: start anew by --overwrite")
        print(f"No checkpoint in {folder} yet: starting with epoch 1")
        return False
    try:
        was, now = ({**each["config"], "data": each["data"]} for each in (state, gan.state_dict()))
        for name in [name for name in now if now[name] != was.get(name, now[name])]:
            if name in "latent_dim modes g_hidden d_hidden spectral_norm conditional data".split():
                raise ValueError(f"{path} was trained with {name.upper()} {was[name]}, now it "
                                 f"is {now[name]}: set it as it was, or start anew by --overwrite")
            if name not in ("epochs", "resume", "overwrite"):
                print(f"Changed since {path}: {name.upper()} {was[name]} -> {now[name]}")
        gan.load_state_dict(state)
        rows = [row["epoch"] for row in gan.history if "missing" in row]
        if rows != [*range(1, int(path.stem[6:]) + 1)] or gan.epoch != len(gan.history):
            raise TypeError("another epoch than the name says")
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of this script") from error
    if gan.epoch > gan.config.epochs:
        raise ValueError(f"EPOCHS is {gan.config.epochs}: {path} has done {gan.epoch}, so raise it")
    print(f"Going on from {path}")
    return True

def clear_folders(config, samples, checkpoints):
    """Keep two runs from mixing in a folder: with OVERWRITE delete the earlier, else ValueError.
    A run to be resumed that was stopped before its first checkpoint has drawn SAVE_EVERY grids."""
    own = [checkpoints / f"generator_{name}.pth" for name in ("best", "final")[config.resume:]]
    kept = [*numbered(samples, ".png")[config.save_every * config.resume:],
            *numbered(checkpoints, ".pth"), *filter(Path.is_file, own)]
    if kept and not config.overwrite:
        raise ValueError(f"{kept[-1]} is there from an earlier run: go on by --resume, delete that "
                         "run by --overwrite, or set another SAMPLES_DIR and CHECKPOINT_DIR")
    for path in kept:
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)  # its figures

def train_gan(**settings):
    """Train -> the averaged Generator, in eval mode, and the history, a list of one dict an epoch.
    train_gan(epochs=5): settings are named like the constants. Raises ValueError for a wrong one or
    a damaged file, OSError if one cannot be written, FloatingPointError if a loss is not finite."""
    c = make_config(**settings)
    samples, checkpoints = Path(c.samples_dir), Path(c.checkpoint_dir)
    images, labels, name = load_dataset(c.dataset, c.data_dir, image_size=c.image_size)
    loader = make_loader(images, labels, c.batch_size * c.d_steps)
    if not len(loader):
        raise ValueError(f"BATCH_SIZE is {c.batch_size}, D_STEPS {c.d_steps}: more than an epoch")
    shift = c.augment == "shift" or (c.augment == "auto" and len(images) <= EPOCH_IMAGES * 2 // 3)
    gan = GAN(c, images.shape[1:], shift, int(labels.max()) + 1)
    data = f"{Path(name)}, {len(images)} images, checksum {zlib.crc32(images.numpy()):08x}"
    gan.G_ema.about = {"data": data, "epochs": 0, "fd": None}
    if c.conditional and not labels.any():
        raise ValueError(f"CONDITIONAL needs labels: give each class of {name} a sub-folder")
    judge = load_judge(name, c.data_dir) if c.metrics_every and labels.any() else None
    for folder in (samples, checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"cannot write to the folder {folder}: choose another")
    if not (c.resume and resume(gan, checkpoints)):
        clear_folders(c, samples, checkpoints)
    def save_generator(name):
        state = copy.deepcopy(gan.G_ema).cpu().state_dict()  # which any machine can load
        save_whole(checkpoints / name, lambda file: torch.save(state, file))
        (checkpoints / name).with_suffix(".json").unlink(missing_ok=True)  # figures of another one
    def draw_grid():
        grid = gan.G_ema.sample(c.num_samples, c.seed)
        save_grid(samples / f"epoch_{gan.epoch:04d}.png", grid, gan.G.classes)
    print(f"Training on {data}; {gan.device.type}, {gan.precision}{', shifts from epoch 7' * shift}"
          f"{', without metrics, which need labels' * (c.metrics_every > 0 and not judge)}")
    try:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(c.seed))
        save_grid(samples / "real_samples.png", to_float(images[order[:c.num_samples]]))
        while gan.epoch < c.epochs:
            gan.history.append(gan.train_epoch(loader))
            read = judge and gan.epoch % c.metrics_every == 0
            gan.history[-1] |= judge.read(gan.G_ema, c.seed + 1) if read else {}
            gan.G_ema.about |= {"epochs": gan.epoch, "fd": gan.history[-1]["fd"]}
            if read and gan.G_ema.about["fd"] <= min(row["fd"] or math.inf for row in gan.history):
                save_generator("generator_best.pth")
            print_epoch(gan.history[-1], c.epochs)
            draw_grid()
            save_csv(checkpoints / "history.csv", gan.history)
            if gan.epoch % c.save_every == 0 or gan.epoch == c.epochs:  # last: resume counts on it
                path = checkpoints / f"epoch_{gan.epoch:04d}.pth"
                save_whole(path, lambda file: torch.save(gan.state_dict(), file))
                saved = numbered(checkpoints, ".pth", last=gan.epoch)
                for path in saved[:-c.keep_checkpoints] if c.keep_checkpoints else []:
                    path.unlink()
        save_generator("generator_final.pth")
        save_curves(samples / "loss_curves.png", gan.history, c.loss)
        draw_grid()  # a resumed run may be over already, and its pictures elsewhere
        save_gif(samples / "training.gif", numbered(samples, ".png", last=gan.epoch))
        print(f"Wrote {checkpoints}/generator_final.pth, {samples}/loss_curves.png, training.gif")
    except KeyboardInterrupt:
        saved = ["nothing yet", *numbered(checkpoints, ".pth")][-1]
        print(f"\nStopped in epoch {gan.epoch}. Saved: {saved}; go on by --resume, not --overwrite")
        raise
    finally:
        torch.set_flush_denormal(False)
    return gan.G_ema, gan.history

# ── Output ── Pictures and tables for people ──────────────────────────────────────────────────────

def print_epoch(row, epochs):
    """A row of the history -> its line on the screen, and what is to be warned of."""
    line = (f"Epoch [{row['epoch']}/{epochs}] | D loss {row['d_loss']:.4f} | "
            f"G loss {row['g_loss']:.4f} | {row['images_per_second']:,.0f} img/s")
    line += f" | FD {row['fd']:.2f} | {row['covered']} classes" if row["covered"] else ""
    if row["missing"]:
        line += (f"\nWARNING: only {row['covered']} classes in 2,000 samples, not {row['missing']}"
                 ": if that lasts, G has collapsed: lower LEARNING_RATE_G or set BETA1 to 0")
    if row["d_accuracy"] > 0.98:
        line += (f"\nWARNING: D is right in {row['d_accuracy']:.1%} of cases, and G learns little "
                 "from such a D: lower LEARNING_RATE_D, raise DROPOUT or make D_HIDDEN smaller")
    print(line, flush=True)  # so that a log file has it at once

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
    try:
        frames = [Image.open(each).copy() for each in pictures[::-math.ceil(len(pictures) / 200)]]
    except OSError as error:
        raise ValueError(f"a grid in {path.parent} is damaged ({error}): delete it") from error
    frames = [frame.resize(frames[0].size) for frame in reversed(frames)]
    pauses = [120] * (len(frames) - 1) + [2000]  # milliseconds
    save_whole(path, lambda file: frames[0].save(
        file, "gif", save_all=True, append_images=frames[1:], duration=pauses, loop=0))

def save_csv(path, history):
    """A list of dicts with the same keys -> a CSV file with one line for each."""
    lines = [history[0].keys(), *(row.values() for row in history)]
    text = "".join(",".join("" if v is None else str(v) for v in line) + "\n" for line in lines)
    save_whole(path, lambda file: file.write(text.encode()))

def save_curves(path, history, loss="bce"):
    """The history -> a plot of both losses, dashed where they are when D can only guess, and FD."""
    from matplotlib.figure import Figure
    figure, zero = Figure(figsize=(8, 4.5), layout="constrained"), torch.zeros(1)
    axes, epochs = figure.subplots(), [row["epoch"] for row in history]
    for name, color, guess in (("d_loss", "C0", discriminator_loss(zero, zero, 0.0, loss)),
                               ("g_loss", "C1", generator_loss(zero, loss))):
        axes.plot(epochs, [row[name] for row in history], ".-", color=color, label=name)
        axes.axhline(guess, color=color, linestyle="--", label=f"{name} when D can only guess")
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)" if loss == "bce" else f"{loss} loss")
    axes.legend(loc="center right")
    right, read = axes.twinx(), [row for row in history if row["fd"]]
    right.plot([row["epoch"] for row in read], [row["fd"] for row in read], ".-", color="C2")
    right.set(yscale="log", ylabel="FD to the training images (green)")
    save_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))

# ── Metrics ── A small classifier, the judge, looks at real and at drawn images ───────────────────

class Judge(nn.Module):
    """Images (N, C, H, W) in [-1, 1], seen at 28 x 28 -> the layer before the last, (N, 64), and
    logits (N, classes). `notes`: what else its file tells, such as statistics of real images."""
    def __init__(self, classes=10, channels=1):
        super().__init__()
        layers = []
        for n_in, n_out in pairwise([channels, 16, 32, 64]):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(),
                       nn.MaxPool2d(2)]
        layers += [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 64, 64), nn.ReLU()]
        self.features, self.classify = nn.Sequential(*layers), nn.Linear(64, classes)

    def forward(self, images):
        if images.shape[-1] != 28:
            images = F.interpolate(images, (28, 28), mode="bilinear", antialias=True)
        features = self.features(images)
        return features, self.classify(features)

    @torch.no_grad()
    def look(self, images):
        """Images (N, C, H, W) uint8 -> features (N, 64), probabilities (N, classes), on the CPU."""
        parts = [self(to_float(part)) for part in images.cpu().split(500)]
        features, logits = map(torch.cat, zip(*parts, strict=True))
        return features, logits.softmax(1)

    def read(self, G, seed):
        """2,000 samples -> "fd", classes "covered", "missing" (under a tenth of an equal share)."""
        features, probabilities = self.look(to_uint8(G.sample(2000, seed)))
        share = probabilities.argmax(1).bincount(minlength=probabilities.shape[1]) / 2000
        missing = (share < 0.1 / len(share)).nonzero().flatten().tolist()
        return {"fd": frechet_distance(*self.notes["train"], *statistics(features)),
                "covered": f"{len(share) - len(missing)} of {len(share)}",
                "missing": " ".join(map(str, missing))}

def fit_judge(images, labels, epochs, seed=0, augment=lambda images: random_shift(images, 2)):
    """Images (N, C, H, W) uint8, labels (N,) -> a Judge that has learned the labels."""
    torch.manual_seed(seed)
    judge, loader = Judge(int(labels.max()) + 1, images.shape[1]), make_loader(images, labels, 128)
    optimizer = torch.optim.AdamW(judge.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs * len(loader))
    for epoch in range(1, epochs + 1):
        for batch, classes in tqdm(loader, f"Judge [{epoch}/{epochs}]", leave=False, disable=None):
            descend(F.cross_entropy(judge(augment(to_float(batch)))[1], classes), optimizer)
            schedule.step()
    return judge.eval()

def train_judge(dataset=DATASET, data_dir=DATA_DIR, seed=SEED):
    """Train the judge of a data set, save it with what it sees in the real images -> path. Raises
    ValueError without labels, or with less than all of MNIST, whose judge is shipped."""
    images, labels, name = load_dataset(dataset, data_dir)
    if name in SETS:
        test, test_labels, _ = load_dataset(name, data_dir, train=False)
    else:  # every tenth image of a folder
        tenth = torch.arange(len(images)) % 10 == 0
        (test, images), (test_labels, labels) = ((x[tenth], x[~tenth]) for x in (images, labels))
    path = judge_path(name, data_dir)
    if not labels.any() or len(test) < 10 or (path == MNIST_JUDGE and len(images) < 60_000):
        raise ValueError(f"a judge of {name} needs 100 images in sub-folders for their classes, "
                         "MNIST's all of it in --data_dir; METRICS_EVERY = 0 trains without one")
    judge = fit_judge(images, labels, epochs=8, seed=seed)
    (features, _), (test_features, probabilities) = judge.look(images), judge.look(test)
    accuracy = (probabilities.argmax(1) == test_labels).float().mean().item()
    state = {"weights": judge.state_dict(), "classes": probabilities.shape[1],
             "channels": images.shape[1], "accuracy": accuracy, "seed": seed,
             "train": statistics(features), "test": statistics(test_features)}
    save_whole(path, lambda file: torch.save(state, file))
    print(f"Wrote {path}, right on {accuracy:.2%} of {len(test)} test images (seed {seed})")
    return path

def judge_path(name, data_dir):
    """-> file of a data set's judge."""
    files = repr(sorted(Path(name).resolve().rglob("*"))).encode()  # of a folder of images
    own = f"judge_{name if name in SETS else f'folder_{zlib.crc32(files):08x}'}.pth"
    return MNIST_JUDGE if name in ("mnist", "mnist_5k") else Path(data_dir).expanduser() / own

def load_judge(name, data_dir):
    """-> the Judge of a data set, trained if there is none yet. Raises ValueError if damaged."""
    path = judge_path(name, data_dir)
    if not path.exists():
        print(f"Training a judge of {name} for the metrics, once; METRICS_EVERY = 0 does without")
        train_judge(name, data_dir)
    notes = load_weights(path)
    try:
        judge = Judge(notes["classes"], notes["channels"])
        judge.load_state_dict(notes["weights"])
        judge.notes = {**notes, "floor": frechet_distance(*notes["train"], *notes["test"])}
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no judge: delete it or fetch the project anew") from error
    return judge.eval()

def statistics(features):
    """Features (N, d) -> their mean (d,) and covariance (d, d), in float64."""
    return features.double().mean(0), features.double().T.cov()

def frechet_distance(mean_a, cov_a, mean_b, cov_b):
    """|mean_a - mean_b|² + tr(A + B - 2 (A B)^(1/2)) of two Gaussians; 0 where they are the same.
    Heusel et al. 2017, arXiv 1706.08500; not of Inception's features, so it is no FID."""
    values, vectors = torch.linalg.eigh(cov_a)
    half = vectors * values.clamp(min=0).sqrt()  # A = half half^T; half^T B half has A B's values
    cross = torch.linalg.eigvalsh(half.T @ cov_b @ half).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()

def inception_score(probabilities):
    """Probabilities (N, K) -> exp of the mean KL(p(y|x) || p(y)): from 1, all alike, to K, all sure
    and all classes equally often. Salimans et al. 2016, arXiv 1606.03498."""
    p = probabilities.double().clamp(min=1e-12)
    return (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()

def nearest(points, others, k=1):
    """Points (N, d), others (M, d) -> distance (N,) of each point to its k-th nearest other."""
    return torch.cat([torch.cdist(part, others).kthvalue(k).values for part in points.split(500)])

def precision_recall(real, fake, k=3):
    """Features (N, d), (M, d) -> share of fakes among the real, share of reals among the fake:
    what is drawn looks real; what is real gets drawn. Among others is what lies within the distance
    of one of them to its k-th neighbour. Kynkaanniemi et al. 2019, arXiv 1904.06991."""
    def share(points, others):
        radii = nearest(others, others, k + 1)  # the nearest of all is the point itself
        inside = [(torch.cdist(part, others) <= radii).any(1) for part in points.split(500)]
        return torch.cat(inside).float().mean().item()
    return share(fake, real), share(real, fake)

def two_sample_accuracy(real, fake):
    """Images (N, C, H, W) uint8 of both kinds -> share that a fresh network, trained on one half to
    tell them, gets right in the other: 0.5 to 1. Lopez-Paz & Oquab 2017, arXiv 1610.06545."""
    n = min(len(real), len(fake)) // 2
    classes = torch.arange(2).repeat_interleave(n)
    critic = fit_judge(torch.cat([real[:n], fake[:n]]), classes, epochs=1, augment=nn.Identity())
    _, probabilities = critic.look(torch.cat([real[n:2 * n], fake[n:2 * n]]))
    return (probabilities.argmax(1) == classes).float().mean().item()

def parzen_log_likelihood(samples, images, sigmas):
    """Samples (M, d), images (N, d) in [0, 1] -> (S,) mean log-likelihood (nats) of images under
    Gaussians of each sigma (S,) around the samples. Misleading: Theis et al. 2016, 1511.01844."""
    total, d = torch.zeros(len(sigmas)), samples.shape[1]
    for part in images.split(500):
        squares = torch.cdist(part, samples).square()
        total += torch.stack([(squares / (-2 * s * s)).logsumexp(1).sum() for s in sigmas])
    return total / len(images) - math.log(len(samples)) - d / 2 * (2 * math.pi * sigmas**2).log()

# ── Commands ── `train` is train_gan above; the others use what it has saved ──────────────────────

def find_generator(model_path, checkpoint_dir):
    """-> Generator and path of model_path or, if that is empty, the final one, else the newest."""
    final = [*Path(checkpoint_dir).glob("generator_final.pth")]
    found = [model_path] if model_path else final or numbered(checkpoint_dir, ".pth")
    if not found:
        raise FileNotFoundError(f"no generator in {checkpoint_dir}: train one by `python "
                                "gan_mnist.py` or name one by --model_path")
    return load_generator(found[-1]), Path(found[-1])

@torch.no_grad()
def generate(model_path="", num_samples=NUM_SAMPLES, seed=SEED, digit=-1, separate=False,
             interpolate=False, show=False, samples_dir=SAMPLES_DIR,
             checkpoint_dir=CHECKPOINT_DIR):
    """Draw digits with a trained generator -> path of the picture. Raises FileNotFoundError without
    a file of it, ValueError if that is damaged or holds none, or if it does not know the digit."""
    G, model_path = find_generator(model_path, checkpoint_dir)
    path = Path(samples_dir) / f"generated_seed_{seed}{f'_digit_{digit}' * (digit >= 0)}.png"
    if digit >= G.classes:
        raise ValueError(f"--digit is {digit}: {model_path} knows {G.classes} classes; a generator "
                         "learns them by CONDITIONAL = True")
    labels = torch.arange(num_samples + 1) % max(1, G.classes)
    labels = labels if digit < 0 else torch.full_like(labels, digit)
    images = G.sample(num_samples, seed, labels[:-1])
    if interpolate:  # of independent a, b ~ N(0, 1), cos(t) a + sin(t) b is N(0, 1) for every t
        codes = G.code(sample_z(num_samples + 1, G.latent_dim, seed), labels)
        t, place = torch.linspace(0, math.pi / 2, 10).unsqueeze(1), torch.arange(codes.shape[1])
        power = 1 + ((place < G.modes) | (place >= G.latent_dim)).int()  # so that shares add to 1
        images = torch.cat([G.layers(t.cos()**power * a + t.sin()**power * b)
                            for a, b in pairwise(codes)]).view(-1, *G.image_shape)
        path = path.with_name(path.name.replace("generated", "interpolation"))
    save_grid(path, images, 10 if interpolate else G.classes * (digit < 0))
    print(f"Wrote {path}, drawn by {model_path} ({G.about})")
    if separate:
        for number, image in enumerate(images, 1):
            save_image(path.with_suffix("") / f"{number:04d}.png", image)
    if show:
        from matplotlib import pyplot
        pyplot.imshow(Image.open(path), cmap="gray").axes.axis("off")
        pyplot.show()
    return path

def evaluate(model_path="", num_samples=10_000, seed=SEED, parzen=False, data_dir=DATA_DIR,
             checkpoint_dir=CHECKPOINT_DIR):
    """Measure a generator -> {"generated": figures, "real": those of test images, or else of half
    of the training images}, as a table and as a JSON file too. Raises what `generate` raises."""
    G, model_path = find_generator(model_path, checkpoint_dir)
    if not isinstance(G.about, dict) or not isinstance(G.about.get("data"), str):
        raise ValueError(f"{model_path} does not say which data set it was trained on")
    name, side = G.about["data"].rsplit(", ", 2)[0], G.image_shape[-1]
    everything, _, name = load_dataset(name, data_dir, image_size=side)
    whole, judge = "mnist" if name == "mnist_5k" else name, load_judge(name, data_dir)
    def shuffle(images):
        return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    train, test = shuffle(everything).chunk(2)  # of the bundle and of folders, half against half
    if name in SETS:
        train, test = shuffle(everything), shuffle(load_dataset(name, data_dir, False, side)[0])
    reference, validation = train.tensor_split([len(train) * 9 // 10])
    n = min(num_samples, len(reference), len(test))
    if n < 400 or everything.shape[1:] != (*G.image_shape,):
        raise ValueError(f"NUM_SAMPLES (--num_samples) must be 400 or more, images in {name} 1000, "
                         f"all of the shape that {model_path} draws, {G.image_shape}")
    reference, generated = reference[:n], to_uint8(G.sample(n, seed))
    real_features, figures = judge.look(reference)[0], {}
    for column, images in (("generated", generated), ("real", test[:n])):
        features, p = judge.look(images)
        to_test = statistics(features if column == "generated" else real_features)
        share = p.argmax(1).bincount(minlength=p.shape[1]) / len(p)
        precision, recall = precision_recall(real_features, features)
        figures[column] = {
            f"FD-{whole} to training images": frechet_distance(
                *judge.notes["train"], *statistics(features)),
            f"FD-{whole} to test images": frechet_distance(*judge.notes["test"], *to_test),
            "Inception Score, by the judge": inception_score(p),
            "precision": precision, "recall": recall,
            "told from training images by a fresh network": two_sample_accuracy(reference, images),
            "distance to the nearest training image": nearest(
                images[:1000].flatten(1) / 255, everything.flatten(1) / 255,
                k=2 if column == "real" and name not in SETS else 1).median().item(),  # not itself
            "share below 90% confidence": (p.amax(1) < 0.9).float().mean().item(),
            "classes covered": (share >= 0.1 / len(share)).sum().item(),
            "KL of the classes to uniform": share.xlogy(share * len(share)).sum().item(),
            **{f"share of class {label}": each for label, each in enumerate(share.tolist())}}
        if parzen:
            samples = (generated if column == "generated" else reference).flatten(1) / 255
            sigmas = torch.logspace(-1, -0.3, 15)
            best = parzen_log_likelihood(samples, validation.flatten(1) / 255, sigmas).argmax()
            figures[column]["Parzen log-likelihood (nats)"] = parzen_log_likelihood(
                samples, test.flatten(1) / 255, sigmas[best:best + 1]).item()
    about = {"model": str(model_path), **G.about, "samples": n, "seed": seed,
             "real": f"{'test' if name in SETS else f'half of {len(everything)}'} images of {name}"}
    print(*(f"{key}: {value}" for key, value in about.items()), sep=", ")
    for key, value in figures["generated"].items():
        print(f"{key:48}{value:12.4f}{figures['real'][key]:12.4f}")
    text = json.dumps({"about": about, **figures}, indent=1).encode()
    save_whole(model_path.with_suffix(".json"), lambda file: file.write(text))
    return figures

def demo(model_path="", samples_dir=SAMPLES_DIR, checkpoint_dir=CHECKPOINT_DIR):
    """Write a page that runs the generator in a browser, needing nothing else. Raises what
    `generate` raises. Each BatchNorm is folded into the layer before it, weights are float16."""
    G, model_path = find_generator(model_path, checkpoint_dir)
    template, path = Path(__file__).with_name("demo.html"), Path(samples_dir) / "demo.html"
    if path.resolve() == template.resolve():
        raise ValueError(f"{path} is the template of the page: choose another SAMPLES_DIR")
    pairs = zip(G.layers[:-2:3], G.layers[1:-2:3], strict=True)
    layers = [*(nn.utils.fuse_linear_bn_eval(*pair) for pair in pairs), G.layers[-2]]
    weights = [tensor.flatten() for layer in layers for tensor in (layer.weight.T, layer.bias)]
    model = {"name": model_path.name, "about": str(G.about), "latent_dim": G.latent_dim,
             "classes": G.classes, "modes": G.modes, "image_shape": G.image_shape,
             "widths": [layer.out_features for layer in layers],
             "weights": base64.b64encode(torch.cat(weights).detach().half().numpy()).decode()}
    text = json.dumps(model).replace("<", "\\u003c").encode()
    save_whole(path, lambda file: file.write(template.read_bytes().replace(b"/*MODEL*/null", text)))
    print(f"Wrote {path}: open it in a browser")

COMMANDS = {"train": train_gan, "generate": generate, "evaluate": evaluate, "judge": train_judge,
            "demo": demo}

# ── Command line ── The constants are the flags, the comments behind them are the help ────────────

EXTRA_FLAGS = """
# generate, evaluate and demo, which take some of the above too
MODEL_PATH = the final one, else the newest checkpoint  # file of the generator
DIGIT = -1  # the class that a conditional generator draws; -1 = all in turn
SEPARATE = False  # write each digit as a PNG file of its own too
INTERPOLATE = False  # draw walks from one random point to the next, one in a row
SHOW = False  # open the picture with matplotlib
PARZEN = False  # measure the Parzen-window log-likelihood too, as papers of 2014 did"""
LISTS = ("g_hidden", "d_hidden")  # settings of several numbers
RULES = {"augment": ["none", "shift", "auto"], "device": ["auto", "cuda", "mps", "cpu"],
         "precision": ["auto", "fp32", "bf16"], "loss": ["bce", "hinge", "wgan_gp"]}
for rule, names in {(0, 128): "image_size", (2, 65536): "batch_size", (-1, 65536): "digit",
        bool: "conditional spectral_norm resume overwrite separate interpolate show parzen",
        str: "dataset data_dir samples_dir checkpoint_dir model_path", (1, 10**4): "num_samples",
        (0, 2**31): "modes seed lr_decay_start lr_decay_end keep_checkpoints metrics_every",
        (1, 65536): "latent_dim g_hidden d_hidden", (1, 10**6): "epochs save_every d_steps",
        (0.0, 0.999999): "dropout beta1 beta2 ema_decay", (0.0, 1e6): "gradient_penalty grad_clip",
        (0.0, 0.5): "label_smoothing", (0.0, 10.0): "learning_rate_g learning_rate_d"}.items():
    RULES |= dict.fromkeys(names.split(), rule)
SETTINGS = [name for name in RULES if name.upper() in globals()]  # others are of other commands
Config = collections.namedtuple("Config", SETTINGS)

def check(name, value):
    """A setting, as a constant, a flag or an argument gives it -> its value in its own type.
    Raises ValueError naming the setting and what it allows."""
    rule, allowed = RULES[name], "True or False" if RULES[name] is bool else "a path"
    if isinstance(rule, tuple):
        low, high, kind = *rule, type(rule[0])
        allowed = f"{'a whole number' if kind is int else 'a number'} from {low} to {high}"
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            given = [*value] if name in LISTS and not isinstance(value, (str, int)) else [value]
            if given and all(low <= kind(each) == float(each) <= high for each in given):
                return tuple(map(kind, given)) if name in LISTS else kind(given[0])
    elif isinstance(rule, list):
        allowed = " | ".join(rule)
        if value in rule:
            return value
    elif isinstance(value, rule) or (rule is str and isinstance(value, os.PathLike)):
        return os.path.expanduser(value) if rule is str else value
    raise ValueError(f"{name.upper()} (--{name}) is {value!r}: allowed is {allowed}")

def make_config(**settings):
    """Settings -> all of them, checked and frozen; for those not given the constants hold."""
    for name in settings.keys() - set(SETTINGS):
        raise ValueError(f"there is no setting {name}, but there are {', '.join(SETTINGS)}")
    constants = {name: globals()[name.upper()] for name in SETTINGS}
    config = Config(*(check(*pair) for pair in {**constants, **settings}.items()))
    if config.resume and config.overwrite:
        raise ValueError("RESUME and OVERWRITE exclude each other: go on with a run or delete it")
    return config

def build_parser():
    """-> the parser: a flag for each constant, in their order and groups, read from this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"python gan_mnist.py [{' | '.join(COMMANDS)}] [flags]", allow_abbrev=False,
        argument_default=argparse.SUPPRESS)
    def error(message):
        raise ValueError(f"{message}; --help shows all flags")
    parser.error = error
    text = Path(__file__).read_text(encoding="utf-8").partition("# ── Data")[0] + EXTRA_FLAGS
    for title, name, value, comment in re.findall(
            r"(?m)^# ([a-z ,]+)$|^([A-Z]\w+) *= *(.+?)(?: +# (.+))?$", text):
        if title:
            group = parser.add_argument_group(title)
        elif RULES.get(name.lower()) is bool:
            group.add_argument(f"--{name.lower()}", action=argparse.BooleanOptionalAction,
                               help=comment)
        else:
            group.add_argument(f"--{name.lower()}", nargs="+" if name.lower() in LISTS else None,
                               metavar="X", help=f"{comment} [{value}]".replace("%", "%%"))
    return parser

def main(argv=None):
    """Run the command line -> exit code: 0, 1 failed, 2 wrong input, 130 stopped by Ctrl-C."""
    flags = [re.sub("^--no_", "--no-", re.sub(r"(?<=^--)[\w-]+", lambda word: word[0].replace(
        "-", "_"), flag)) for flag in (sys.argv[1:] if argv is None else argv)]  # - as good as _
    name = flags.pop(0) if flags and flags[0] in COMMANDS else "train"
    try:
        settings = vars(build_parser().parse_args(flags))
        parameters = inspect.signature(COMMANDS[name]).parameters
        takes = {key: parameters[key].default for key in parameters} if name != "train" else {}
        for flag in settings.keys() - set(takes or SETTINGS):
            raise ValueError(f"{name} takes no --{flag}; --help shows all flags")
        COMMANDS[name](**{key: check(key, value) for key, value in {**takes, **settings}.items()})
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, FloatingPointError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, FileNotFoundError)) else 1
    return 0

if __name__ == "__main__":
    sys.exit(main())
