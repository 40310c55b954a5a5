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

Each epoch writes a grid of digits and a checkpoint; the end of a run writes
checkpoints/generator_final.pth. In a notebook:

    from gan_mnist import load_generator
    images = load_generator("checkpoints/generator_final.pth").sample(64, seed=0)

Read Generator, Discriminator, the two losses and train_step: that is all of the
algorithm, some 200 lines. The rest makes it safe, measured and convenient.

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
import errno
import functools
import gzip
import importlib.util
import inspect
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
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
from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageSequence
from torch import distributed as dist
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from tqdm import tqdm

# ── Settings ── Edit them here, or give them as flags: EPOCHS = 10 is --epochs 10 ─────────────────

# change these first; "classic" is what most tutorials have
EPOCHS = 60  # passes over the images, which are repeated up to 60,000 if they are fewer
BATCH_SIZE = 128  # real images in a step of D, of all processes together; classic 64
LATENT_DIM = 100  # length of the noise vector z
LEARNING_RATE_G = 1e-3  # Adam's step size for G; classic 2e-4
LEARNING_RATE_D = 5e-4  # Adam's step size for D; classic 2e-4
SEED = 0  # the same seed, settings, machine and number of threads give the same digits
SAMPLES_DIR = "generated_samples"  # folder of the pictures
CHECKPOINT_DIR = "checkpoints"  # folder of the checkpoints and the trained generator
PRESET = "none"  # a known system, see PRESETS, whose settings replace the constants; or none

# data; what is not clear from here on can wait until it is met in the code
DATASET = "mnist"  # mnist | mnist_5k (bundled) | fashion_mnist | kmnist | cifar10 | a folder
DATA_DIR = "data"  # torchvision's data folder; downloads are saved there
IMAGE_SIZE = 0  # side in pixels to which images are resized; 0 = as they are (folders: 64)
AUGMENT = "auto"  # none | shift (by up to a pixel, from epoch 7) | auto (shift up to 40,000 images)

# networks
G_HIDDEN = (256, 512, 1024)  # widths of the hidden layers of an mlp generator
D_HIDDEN = (1024, 256)  # widths of the hidden layers of an mlp discriminator; classic 512, 256
MODES = 10  # the largest of z's first MODES numbers picks one of MODES kinds of image; 0 = off
SMOOTH = 0.7  # width in pixels of a filter on what an mlp generator draws, if grey; 0 = none
CONDITIONAL = False  # show G and D the labels, so that G can be asked for a digit
DROPOUT = 0.0  # dropout probability in D; classic 0.3
D_SLOPE = 0.1  # slope of D's LeakyReLU below 0; classic 0.2
SPECTRAL_NORM = False  # divide D's weights by their largest singular value (Miyato et al. 2018)
G_NORM = "batch"  # batch (BatchNorm in G, in every layer but the last) | none
G_ACTIVATION = "relu"  # relu | leaky_relu (slope 0.2); of G's hidden layers
G_END = "tanh"  # tanh | sigmoid (scaled to the same range, -1 to 1)
G_ARCH = "mlp"  # mlp | dcgan (convolutions; images of side 28, 32, 64 or 128)
D_ARCH = "mlp"  # mlp | dcgan
D_NORM = "none"  # none | batch (BatchNorm in a dcgan discriminator, as in its paper)
WIDTH = 64  # channels of a dcgan next to the image, doubled in each layer away from it

# training
LOSS = "bce"  # bce | hinge | wgan_gp (usual with it: D_STEPS 5, GRADIENT_PENALTY 10, BETA2 0.9)
GRADIENT_PENALTY = 0.5  # weight of a penalty on D's gradients, see gradient_penalty; 0 = none
LABEL_SMOOTHING = 0.0  # real labels are 1 minus this in D's bce loss; usual alternative 0.1
D_STEPS = 1  # steps of D, each with a batch of its own, for each step of G
BETA1 = 0.0  # Adam's momentum; classic 0.5, which takes several times as many epochs here
BETA2 = 0.999  # decay of Adam's average of squared gradients
LR_DECAY_START = 12  # last epoch with full learning rates; then down to 1/50 at the end; 0 = never
EMA_DECAY = 0.9995  # decay of G's moving average, which draws better than G; 0 = no average
GRAD_CLIP = 0.0  # largest gradient norm of either network; 0 = no limit
DEVICE = "auto"  # auto | cuda | mps | cpu
PRECISION = "auto"  # fp32 | bf16 | auto (bf16 where the hardware is fast at it)
THREADS = 0  # CPU threads; 0 = as many as there are idle cores when the run starts

# output
RESUME = False  # continue from the newest checkpoint in CHECKPOINT_DIR
OVERWRITE = False  # replace the earlier run in these folders
SAVE_EVERY = 1  # epochs from one checkpoint to the next; the last epoch always gets one
KEEP_CHECKPOINTS = 3  # newest checkpoints to keep, 37 MB each (dcgan_mnist 335 MB); 0 = all
KEEP_GENERATOR_EVERY = 0  # epochs from one kept generator_epoch_0010.pth to the next; 0 = none
GRID_EVERY_STEPS = 0  # steps from one more grid, step_000100.png, to the next; 0 = none
NUM_SAMPLES = 64  # number of images in each grid
ZOOM = 0  # how many times grids are enlarged; 0 = to at least 700 pixels, 64 digits 3 times
METRICS_EVERY = 2  # epochs from one FD, a distance to real images, to the next, and last; 0 = never
TENSORBOARD = False  # write losses, FD and grids for TensorBoard, under runs/

DEFAULTS = {  # the constants above are the settings
    name.lower(): value
    for name, value in globals().copy().items()
    if name.isupper() and isinstance(value, (bool, int, float, str, tuple, list, Path))
}
Config = collections.namedtuple("Config", DEFAULTS)


class UserError(ValueError):
    """Something that the user can mend: the message says how, and is shown without a traceback."""


# ── Data ── The whole data set is one uint8 tensor in memory; a batch is one index operation ──────

EPOCH_IMAGES = 60_000  # a smaller data set is repeated up to this, so that the same settings work


def load_mnist(data_dir, train=True):
    """Return MNIST's images, labels and "mnist"; those of the bundle if it cannot be downloaded.

    Files that are there and cannot be read are an error: the bundle never replaces them.
    """
    try:
        images, labels = load_torchvision("mnist", data_dir, train)
        return images, labels, "mnist"
    except UserError as error:
        if idx_files("mnist", data_dir, "*"):
            raise
        print(f"WARNING: {error}")
    print("Continuing with mnist_5k, the 5,000 digits that come with this script")
    images, labels = load_bundle()
    return images, labels, "mnist_5k"


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


# ── Networks ── G turns noise into images; D's logit is positive for images it takes to be real ───


class Generator(nn.Module):
    """Generator: noise z (N, latent_dim) ~ N(0, 1) -> images (N, C, H, W) in [-1, 1].

    Fully connected, as in Goodfellow et al. 2014, with BatchNorm (Ioffe & Szegedy 2015, arXiv
    1502.03167): Linear, BatchNorm and ReLU for each hidden width, then Linear and tanh. With
    `smooth`, a fixed filter over the pixels comes before tanh, see SmoothLinear. Labels (N,) are
    ignored without classes (with them: Mirza & Osindero 2014, arXiv 1411.1784).
    The arguments are named like the settings; a saved generator is rebuilt from them.
    """

    def __init__(
        self,
        latent_dim=LATENT_DIM,
        g_hidden=G_HIDDEN,
        image_shape=(1, 28, 28),
        classes=0,
        modes=MODES,
        smooth=0.0,  # not SMOOTH: a saved generator has the filter in its weights
        g_norm=G_NORM,
        g_activation=G_ACTIVATION,
        g_end=G_END,
        g_arch=G_ARCH,
        width=WIDTH,
    ):
        g_hidden = tuple(g_hidden)
        image_shape = tuple(image_shape)
        # as given, for the file of a saved generator
        arguments = {name: value for name, value in locals().items() if name in G_ARGUMENTS}
        super().__init__()
        if not 0 <= modes < latent_dim:
            raise UserError(f"MODES (--modes) is {modes}: must be below LATENT_DIM, {latent_dim}")
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.classes = classes
        self.modes = modes
        self.arguments = arguments
        self.about = {}  # data set, seed, epochs and FD of the training
        inputs = latent_dim + classes
        if g_arch == "dcgan":
            self.layers = dcgan_generator(inputs, image_shape, width, g_norm, g_activation, g_end)
            return
        layers = []
        for n_in, n_out in pairwise([inputs, *g_hidden]):
            layers.append(nn.Linear(n_in, n_out))
            if g_norm == "batch":
                layers.append(nn.BatchNorm1d(n_out))
            layers.append(ACTIVATIONS[g_activation]())  # ReLU
        if smooth and image_shape[0] == 1:
            layers.append(SmoothLinear(g_hidden[-1], image_shape, smooth))
        else:
            layers.append(nn.Linear(g_hidden[-1], math.prod(image_shape)))
        layers.append(ENDS[g_end]())  # tanh
        self.layers = nn.Sequential(*layers)

    def forward(self, z, labels=None):
        return self.decode(self.code(z, labels))

    def code(self, z, labels=None):
        """Return what the layers see, (N, latent_dim + classes): a mode, the rest of z, the label.

        A G that is continuous in z has to draw what lies between two digits too (Khayatkhoei et al.
        2018, arXiv 1806.00880). So the first numbers of z are replaced by a choice, the mode: the
        largest of them becomes 1, the others 0. It is a categorical code as in InfoGAN (Chen et al.
        2016, arXiv 1606.03657), without that paper's loss. Labels (N,), or all classes in turn, are
        appended as one-hot.
        """
        z = z.flatten(1)  # z may be (N, latent_dim, 1, 1), as in code of DCGANs
        parts = [z]
        if self.modes:
            mode = F.one_hot(z[:, : self.modes].argmax(1), self.modes).to(z.dtype)
            mode = mode * self.modes**0.5  # so that its mean square is 1, like that of z
            parts = [mode, z[:, self.modes :]]
        if self.classes:
            if labels is None:
                labels = torch.arange(len(z), device=z.device) % self.classes
            parts.append(F.one_hot(labels.long(), self.classes).to(z.dtype))
        return torch.cat(parts, 1)

    def decode(self, code):
        """Return the images (N, C, H, W) of codes (N, latent_dim + classes)."""
        return self.layers(code).view(-1, *self.image_shape)

    @torch.no_grad()
    def sample(self, num_samples, seed=None, labels=None):
        """Return images (num_samples, C, H, W) in [-1, 1]; a seed gives the same on every device.

        A conditional G draws labels, one for all or one for each, or all classes in turn. In eval
        mode, so that BatchNorm uses its running statistics, and each image depends on its z alone.
        """
        weight = next(self.parameters())
        z = sample_z(num_samples, self.latent_dim, seed).to(weight)  # its device and its dtype
        labels = choose_labels(num_samples, self.classes, labels).to(weight.device)
        was_training = self.training
        self.eval()
        parts = zip(z.split(500), labels.split(500), strict=True)  # for less memory
        images = torch.cat([self(*part) for part in parts])
        self.train(was_training)
        return images

    def get_extra_state(self):  # is in the state dict, beside the weights
        return {**self.arguments, "about": self.about}

    def set_extra_state(self, state):
        theirs = {name: state.get(name, value) for name, value in self.arguments.items()}
        if theirs != self.arguments:
            raise UserError(f"the weights are of Generator(**{theirs}): load_generator builds it")
        self.about |= state["about"]  # keeps its own keys, so that files stay equal byte for byte


class Discriminator(nn.Module):
    """Discriminator: images (N, C, H, W) in [-1, 1] -> logits (N,); for bce sigmoid is P(real).

    Fully connected: Linear, LeakyReLU and Dropout for each hidden width (Goodfellow et al. 2014
    used maxout), then Linear. Labels (N,) are ignored without classes. With them D has a logit for
    each class, and the label says which one counts: a linear function of the last features for each
    class, as in the projection of Miyato & Koyama 2018 (arXiv 1802.05637). The arguments are named
    like the settings.
    """

    def __init__(
        self,
        d_hidden=D_HIDDEN,
        dropout=DROPOUT,
        image_shape=(1, 28, 28),
        classes=0,
        d_slope=D_SLOPE,
        spectral_norm=SPECTRAL_NORM,
        d_arch=D_ARCH,
        d_norm=D_NORM,
        width=WIDTH,
    ):
        super().__init__()
        self.classes = classes
        self.convolutional = d_arch == "dcgan"
        if self.convolutional:
            self.layers = dcgan_discriminator(
                image_shape, max(1, classes), width, d_norm, d_slope, dropout, spectral_norm
            )
            return
        if d_norm == "batch":
            raise UserError("D_NORM (--d_norm) is batch, which needs D_ARCH dcgan: set it to none")
        widths = [math.prod(image_shape), *d_hidden]
        layers = []
        for n_in, n_out in pairwise(widths):
            linear = maybe_spectral_norm(nn.Linear(n_in, n_out), spectral_norm)
            layers += [linear, nn.LeakyReLU(d_slope), nn.Dropout(dropout)]
        layers.append(maybe_spectral_norm(nn.Linear(widths[-1], max(1, classes)), spectral_norm))
        self.layers = nn.Sequential(*layers)

    def forward(self, images, labels=None):
        x = images
        if not self.convolutional:
            x = images.flatten(1) + 1  # black is 0 then, and D need not learn the common background
        logits = self.layers(x).flatten(1)  # (N, 1), or (N, classes)
        if self.classes:
            logits = logits.gather(1, labels.unsqueeze(1))
        return logits.flatten().float()


G_ARGUMENTS = set(inspect.signature(Generator).parameters)
D_ARGUMENTS = set(inspect.signature(Discriminator).parameters)

# ── Losses ── Binary cross-entropy: D tells real from fake, G wants its fakes to pass for real ────


def discriminator_loss(real_logits, fake_logits, label_smoothing=0.0, loss="bce"):
    """Return D's loss for logits (N,) of real and of fake images, means over the batch.

    bce: -log D(x) - log(1 - D(G(z))), which is 2 ln 2 = 1.386 when D can only guess. Goodfellow et
    al. 2014, equation 1; real labels are 1 - label_smoothing (Salimans et al. 2016, arXiv
    1606.03498). hinge: Lim & Ye 2017, arXiv 1705.02894. wgan_gp: minus the estimated Wasserstein
    distance, Gulrajani et al. 2017, arXiv 1704.00028.
    """
    if loss == "bce":
        real_labels = torch.full_like(real_logits, 1.0 - label_smoothing)
        fake_labels = torch.zeros_like(fake_logits)
        real_loss = F.binary_cross_entropy_with_logits(real_logits, real_labels)
        fake_loss = F.binary_cross_entropy_with_logits(fake_logits, fake_labels)
        return real_loss + fake_loss
    if loss == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return fake_logits.mean() - real_logits.mean()  # wgan_gp


def generator_loss(fake_logits, loss="bce"):
    """Return G's loss for D's logits (N,) of fake images, the mean over the batch.

    bce: -log D(G(z)), which is ln 2 = 0.693 when D can only guess. It is not minus D's loss: where
    D is sure that an image is fake, log(1 - D(G(z))) has hardly any gradient, and there G has to
    learn most. This is the non-saturating form of Goodfellow et al. 2014, section 3. hinge and
    wgan_gp: minus the mean logit.
    """
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))
    return -fake_logits.mean()


def gradient_penalty(logits, images, norm=0):
    """Return the mean of (|gradient| - norm)² of logits (N,) by images (N, C, H, W).

    With norm 0 it smooths D at real (R1) and at fake (R2) images, which helps training to converge:
    Roth et al. 2017, arXiv 1705.09367; Mescheder et al. 2018, arXiv 1801.04406. Norm 1 is for
    wgan_gp. The images must require gradients.
    """
    # a logit depends on its own image alone, so the gradient of the sum holds that of each
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    squares = gradient.float().square().flatten(1).sum(1)  # |gradient|², (N,)
    if norm == 0:
        return squares.mean()
    lengths = (squares + 1e-12).sqrt()  # the derivative of the root is infinite at 0
    return (lengths - norm).square().mean()


# ── Training ── D and G take turns, one step each; samples come from a moving average of G ────────

FIRST_SHIFTED_EPOCH = 7  # D has memorized nothing before, and shifts only slow G down
PENALTY_EVERY = 8  # steps; eight times the penalty in every 8th step is as good, and cheaper
AVERAGE_EVERY = 10  # steps from one update of G's moving average to the next; 10% faster than 1
REPORT_EVERY = 50  # steps from one report of the losses to the next, as a GPU has to wait for it
LAST_LR_FACTOR = 0.02  # what the learning rates are multiplied by at the end
STREAMS = {"weights": 0, "measurement": -1, "real samples": -2}  # epoch n uses stream n


class GAN:
    """State of a training run: the networks, their optimizers, the moving average, the history."""

    def __init__(self, config, image_shape, data):
        """Build the networks that config asks for; data: see describe_data."""
        self.config = config
        self.data = data
        self.start_date = time.time()
        self.epoch = 0
        self.start_epoch = 0  # where a resumed run goes on
        self.start_time = time.perf_counter()
        self.steps = 0
        self.averaged = 0  # steps at the last update of the moving average
        self.history = []  # a dict for each epoch: losses, seconds, FD
        self.device, self.dtype = choose_device(config.device, config.precision)
        few = data["images"] <= EPOCH_IMAGES * 2 // 3
        self.shift = config.augment == "shift" or (config.augment == "auto" and few)

        torch.manual_seed(stream_seed(config.seed, STREAMS["weights"]))
        settings = {**config._asdict(), "image_shape": image_shape, "classes": 0}
        if config.conditional:
            settings["classes"] = data["classes"]
        place = {"device": self.device, "memory_format": torch.channels_last}  # for convolutions
        self.G = Generator(**{name: settings[name] for name in G_ARGUMENTS}).to(**place)
        self.D = Discriminator(**{name: settings[name] for name in D_ARGUMENTS}).to(**place)
        self.G_ema = copy.deepcopy(self.G).eval()
        self.G_ema.about = {**data, "seed": config.seed, "epochs": 0, "fd": None}
        # their learning rates and betas: see set_learning_rates
        self.optimizer_g = torch.optim.Adam(self.G.parameters(), fused=True)
        self.optimizer_d = torch.optim.Adam(self.D.parameters(), fused=True)
        self.columns = grid_columns(config.num_samples, self.G.classes)
        self.set_learning_rates()

    def train_step(self, real, labels):
        """Take D_STEPS steps of D and one of G; return a tensor (3,): d_loss, g_loss, D's accuracy.

        Takes real images (D_STEPS * N, C, H, W) in [-1, 1] and labels, which the fakes get as well;
        the networks ignore labels unless CONDITIONAL. d_loss is that of the last step of D, without
        the penalty. Without the extras this is a textbook's step:
            fake = G(z)
            D steps down bce(D(real), 1) + bce(D(fake.detach()), 0)   detach: G is not trained here
            G steps down bce(D(fake), 1)          gradients pass through D, and only G is changed
        (Goodfellow et al. draw new z for G; to use the same fakes again is usual, and faster.)
        """
        c = self.config
        for x, y in zip(real.chunk(c.d_steps), labels.chunk(c.d_steps), strict=True):
            z = torch.randn(len(x), c.latent_dim, device=self.device)
            x, y, z = my_part(x, y, z)  # of several processes; one alone has all of them

            # D: maximize log D(x) + log(1 - D(G(z))), with real and fake in one pass
            with self.autocast():
                fake = self.G(z, y)
                images = self.augment(torch.cat([x, fake.detach()])).requires_grad_()
                logits = self.discriminate(images, y)
                penalty = self.weighted_penalty(logits, images, y)
            real_logits, fake_logits = logits.chunk(2)
            d_loss = discriminator_loss(real_logits, fake_logits, c.label_smoothing, c.loss)
            descend(d_loss + penalty, self.optimizer_d, c.grad_clip)

        # G: maximize log D(G(z)) for the fakes of D's last step, with D as it is after it
        with self.autocast():
            g_loss = generator_loss(self.D(self.augment(fake), y), c.loss)
        descend(g_loss, self.optimizer_g, c.grad_clip)

        self.steps += 1
        if self.steps % AVERAGE_EVERY == 0:
            self.update_average()
        right = torch.cat([real_logits > 0, fake_logits <= 0])
        return torch.stack([d_loss, g_loss, right.float().mean()]).detach()

    def autocast(self):
        """Return the context in which layers compute in bfloat16, if that is enabled."""
        bf16 = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def augment(self, images):
        """Shift images at random, if that is enabled in this epoch."""
        if self.shift and self.epoch >= FIRST_SHIFTED_EPOCH:
            return random_shift(images)
        return images

    def discriminate(self, images, labels):
        """Return D's logits (2N,) of N real and N fake images with the same labels (N,).

        In one pass, or in two if D has BatchNorm, whose statistics would mix real and fake.
        """
        if self.config.d_norm == "batch":
            return torch.cat([self.D(half, labels) for half in images.chunk(2)])
        return self.D(images, labels.repeat(2))

    def weighted_penalty(self, logits, images, labels):
        """Return GRADIENT_PENALTY times the penalty of this step: 0 in most steps, but for wgan_gp.

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

    def train_epoch(self, loader):
        """Train for one pass over the loader and return the epoch's row of the history.

        Randomness depends on seed and epoch alone, as if the run had never been stopped. Raises
        UserError if a loss is not finite.
        """
        c = self.config
        self.epoch += 1
        torch.manual_seed(stream_seed(c.seed, self.epoch))
        self.set_learning_rates()
        sums = torch.zeros(3, device=self.device)
        start = time.perf_counter()
        with progress(loader, f"Epoch [{self.epoch}/{c.epochs}]", "{postfix}") as bar:
            for step, (images, labels) in enumerate(bar, 1):
                real = to_float(images.to(self.device))
                sums += self.train_step(real, labels.to(self.device))
                if step % REPORT_EVERY == 0 or step == len(loader):
                    row = self.epoch_row(sums, step, time.perf_counter() - start)
                    bar.set_postfix_str(
                        f"D {row['d_loss']:.2f}, G {row['g_loss']:.2f}, "
                        f"{row['images_per_second']:,.0f} img/s, "
                        f"{self.time_left(step / len(loader))}"
                    )
                if c.grid_every_steps and self.steps % c.grid_every_steps == 0:
                    draw_grid(self, f"step_{self.steps:06d}.png")
        self.update_average()
        share_networks(self)
        return row

    def epoch_row(self, sums, steps, seconds):
        """Return the row of the history for an epoch so far: sums (3,) of what train_step returns.

        Raises UserError if a loss is not finite.
        """
        c = self.config
        means = sums / steps
        average_over_processes([means])
        d_loss, g_loss, accuracy = means.tolist()
        if not math.isfinite(d_loss + g_loss):
            raise UserError(
                f"a loss is not finite in epoch {self.epoch}: lower LEARNING_RATE_G and "
                "LEARNING_RATE_D or set GRAD_CLIP, then --resume; earlier files are intact"
            )
        if c.loss == "wgan_gp":  # whose logits have no threshold between real and fake
            accuracy = math.nan
        return {
            "epoch": self.epoch,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_accuracy": accuracy,  # share of real and fake images that D classifies correctly
            "seconds": seconds,
            "images_per_second": steps * c.batch_size * c.d_steps / seconds,
        }

    def update_average(self):
        """Bring the moving average of G up to date."""
        self.average_into(self.G_ema)
        self.averaged = self.steps

    @torch.no_grad()
    def average_into(self, G_ema):
        """Set G_ema = decay * G_ema + (1 - decay) * G, for weights and BatchNorm statistics alike.

        Once for each step since the last update, all in one, with G as it is now.
        """
        # a short average at first, while G changes fast
        decay = min(self.config.ema_decay, (1 + self.steps) / (10 + self.steps))
        decay = decay ** (self.steps - self.averaged)
        averages = [*G_ema.parameters(), *G_ema.buffers()]
        values = [*self.G.parameters(), *self.G.buffers()]
        for average, value in zip(averages, values, strict=True):
            if value.is_floating_point():  # all but BatchNorm's count of batches
                average.lerp_(value, 1.0 - decay)

    def generator(self):
        """Return the generator that people see: the moving average of G, with the filter folded."""
        G = copy.deepcopy(self.G_ema)
        self.average_into(G)  # the steps since its last update
        return folded(G)

    def set_learning_rates(self):
        """Set the learning rates, which fall in a line after LR_DECAY_START, and the betas."""
        c = self.config
        factor = 1.0
        if 0 < c.lr_decay_start < self.epoch:
            line = [c.lr_decay_start, c.epochs]
            factor = float(np.interp(self.epoch, line, [1.0, LAST_LR_FACTOR]))
        betas = (c.beta1, c.beta2)
        self.optimizer_g.param_groups[0].update(lr=c.learning_rate_g * factor, betas=betas)
        self.optimizer_d.param_groups[0].update(lr=c.learning_rate_d * factor, betas=betas)

    def time_left(self, part=1.0):
        """Return the time to the end of the run, "03:12 left", when `part` of the epoch is done."""
        done = self.epoch - 1 + part
        per_epoch = (time.perf_counter() - self.start_time) / (done - self.start_epoch)
        return f"{tqdm.format_interval(per_epoch * (self.config.epochs - done))} left"


def descend(loss, optimizer, grad_clip=0.0):
    """Take one step of the optimizer down the loss, for its own parameters alone."""
    parameters = optimizer.param_groups[0]["params"]
    optimizer.zero_grad()
    loss.backward(inputs=parameters)  # no gradients for the weights of the other network
    average_over_processes([parameter.grad for parameter in parameters])
    if grad_clip:
        nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()


def stream_seed(seed, stream):
    """Return the seed of one of a run's streams of random numbers, which differ from each other.

    It is at least 2**31, so it never equals a SEED, which itself draws z for grids and `generate`.
    """
    return 2**31 + (seed * 1_000_003 + stream) % 2**31


# ── Run ── The loop over epochs, with the files that it writes ────────────────────────────────────


def train_gan(**settings):
    """Train, and return the averaged Generator, in eval mode, and the history, a list of dicts.

    train_gan(epochs=5): settings are named like the constants, whose comments explain them. Raises
    UserError for what the user can mend.
    """
    for gan in training(**settings):
        pass
    return gan.generator(), gan.history


def training(**settings):
    """Train, and yield the GAN after each epoch, when its files are written.

    Takes what train_gan takes. A loop that is left early can be continued with resume=True.
    """
    config = make_config(**settings)
    checkpoint = find_earlier_run(config)
    if checkpoint:
        config = make_config(**networks_of(checkpoint, settings))
    with processes(config), cpu_threads(config, checkpoint):
        with first_process_first():  # which may have to download
            images, labels, dataset = load_dataset(
                config.dataset, config.data_dir, image_size=config.image_size
            )
        gan = GAN(config, images.shape[1:], describe_data(images, labels, dataset))
        if checkpoint:
            resume(gan, checkpoint)
        images = images.to(gan.device)  # all of them, so that batches need not be copied
        loader = make_loader(images, labels.to(gan.device), config.batch_size * config.d_steps)
        check_run(gan, loader)
        with locked(config.checkpoint_dir):
            judge = start_run(gan, loader)
            while gan.epoch < config.epochs:
                row = gan.train_epoch(loader)
                if is_first_process():
                    record_epoch(gan, row, judge)
                yield gan
            if is_first_process():
                finish_run(gan, images, judge)
            if gan.epoch == gan.start_epoch:  # resumed, and nothing was left to train
                yield gan


def start_run(gan, loader):
    """Draw real images, say what the run does, and return the judge that measures FD, or None."""
    config = gan.config
    share_networks(gan)
    judge = None
    if is_first_process():
        if config.metrics_every:
            judge = load_judge(gan.data["dataset"], config.data_dir, config.checkpoint_dir)
        real = real_samples(loader.dataset.tensors[0], config)
        save_grid(Path(config.samples_dir) / "real_samples.png", real, gan.columns, config.zoom)
    print_start(gan, loader)
    gan.start_time = time.perf_counter()
    return judge


def record_epoch(gan, row, judge):
    """Measure what G draws, complete the row of the history and write the files of the epoch."""
    config = gan.config
    checkpoints = Path(config.checkpoint_dir)
    last = gan.epoch == config.epochs
    if gan.epoch == gan.start_epoch + 1:
        save_settings(gan)
        if config.overwrite:  # not before an epoch has shown that the new run works
            delete_earlier_run(gan)
    row |= {"fd": None, "covered": None, "missing": None}
    if judge is not None and (last or gan.epoch % config.metrics_every == 0):
        row |= judge.measure(gan.generator(), stream_seed(config.seed, STREAMS["measurement"]))
    gan.history.append(row)
    gan.G_ema.about |= {"epochs": gan.epoch, "fd": row["fd"]}

    with only_warn():  # somebody may have it open; the next epoch writes it again
        save_csv(checkpoints / "history.csv", gan.history)
    fds = [past["fd"] for past in gan.history if past["fd"] is not None]
    if row["fd"] is not None and row["fd"] == min(fds):
        save_generator(gan, "generator_best.pth")
    with only_warn():
        draw_grid(gan, f"epoch_{gan.epoch:04d}.png")
    if config.keep_generator_every and gan.epoch % config.keep_generator_every == 0:
        save_generator(gan, f"generator_epoch_{gan.epoch:04d}.pth")
    if config.tensorboard:
        with only_warn():
            write_tensorboard(gan)
    if last or gan.epoch % config.save_every == 0:
        save_checkpoint(gan)
    print_epoch(gan, row)  # last: what is printed is saved


def draw_grid(gan, name):
    """Write a grid of samples: always of the same z, and of all classes in turn if there are."""
    config = gan.config
    if is_first_process():
        images = gan.generator().sample(config.num_samples, config.seed)
        save_grid(Path(config.samples_dir) / name, images, gan.columns, config.zoom)


def finish_run(gan, images, judge):
    """Write the files of the end of a run, also when a finished run is resumed."""
    config = gan.config
    samples = Path(config.samples_dir)
    save_generator(gan, "generator_final.pth")
    with only_warn():
        draw_grid(gan, f"epoch_{gan.epoch:04d}.png")  # SAMPLES_DIR may be another one than before
        save_comparison(gan, images)
        save_gif(samples / "training.gif", epoch_files(samples, ".png", gan.epoch))
        save_curves(gan, images, judge)
    delete_old_checkpoints(gan)  # if a run was killed before it could do that
    print_end(gan)


# This is the whole default training. What follows are its files, its pictures and its judge; the
# filter and other networks, presets and data; hardware and several processes; commands and page.

# ── Files ── Whole or not there at all; a run continues from its newest checkpoint ────────────────

PROJECT = Path(__file__).resolve().parent
BUNDLE = PROJECT / "data" / "mnist_5k.png"
GET_BACK = "get it back by `git checkout`, or download the project again"
RUN_FILES = re.compile(  # the names of what a run writes, and of the figures of its generators
    r"(epoch_\d+|generator_epoch_\d+|generator_best|generator_final)\.pth(\.json)?"
    r"|(epoch_\d+|step_\d+|loss_curves|real_and_generated)\.png"
    r"|training\.gif|history\.csv|settings\.json"
)
CHECKPOINT_PARTS = ("G", "D", "G_ema", "optimizer_g", "optimizer_d")


def save_whole(path, write):
    """Write a file completely or not at all: write(file) fills a file beside it, which is renamed.

    Raises UserError naming the path if the disk is full or the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.part")
    buffer = io.BytesIO()
    write(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(buffer.getbuffer())
        os.replace(beside, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): free some disk space, choose a folder that "
            "can be written to, or close the file elsewhere; earlier files are intact"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


@contextlib.contextmanager
def only_warn():
    """Print a UserError as a warning: of a file that can be written later, or done without."""
    try:
        yield
    except UserError as error:
        print(f"WARNING: {error}")


def load_weights(path):
    """Return the dict that torch.save wrote to `path`, on the CPU. Code in a file is never run.

    Raises UserError if there is no file, or if it is damaged or not a weights file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare checksums
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # zipfile and PyTorch raise many kinds for a damaged file
        raise UserError(f"{path} is damaged, or is not a weights file") from error
    if damaged or not isinstance(state, dict):
        raise UserError(f"{path} is damaged, or is not a weights file")
    return state


def load_generator(path, device="cpu"):
    """Return the Generator of generator_final.pth, or the averaged one of a checkpoint.

    It is rebuilt from the file alone and is in eval mode. Raises UserError if that is impossible.
    """
    state = load_weights(path)
    state = state.get("G_ema", state)
    arguments = state.get("_extra_state")
    if not isinstance(arguments, dict) or "latent_dim" not in arguments:
        raise UserError(f"{path} holds no generator of this script")
    G = Generator(**{name: arguments[name] for name in G_ARGUMENTS & arguments.keys()})
    try:
        G.load_state_dict(state)
    except RuntimeError as error:  # somebody has changed the class
        raise UserError(f"{path} does not fit the Generator of this script: {error}") from error
    return folded(G).eval().to(device)


def save_generator(gan, name):
    """Write what gan.generator() returns, as CPU tensors that any machine can load."""
    path = Path(gan.config.checkpoint_dir) / name
    state = gan.generator().cpu().state_dict()
    save_whole(path, lambda file: torch.save(state, file))
    metrics_path(path).unlink(missing_ok=True)  # they are of an earlier one


def metrics_path(model_path):
    """Return the file in which evaluate keeps the metrics of a generator."""
    return Path(f"{model_path}.json")


def epoch_files(folder, suffix, last=math.inf):
    """Return the files of a folder named like epoch_0001.png, in order, up to epoch `last`."""
    paths = []
    for path in Path(folder).glob(f"epoch_*{suffix}"):
        if RUN_FILES.fullmatch(path.name) and epoch_number(path) <= last:
            paths.append(path)
    return sorted(paths, key=epoch_number)


def epoch_number(path):
    """Return the epoch of a file that is named like epoch_0001.png."""
    return int(path.stem.removeprefix("epoch_"))


def save_checkpoint(gan):
    """Write all that a run needs to continue, then delete old checkpoints."""
    state = {
        "config": gan.config._asdict(),
        "data": gan.data,
        "threads": torch.get_num_threads(),
        "epoch": gan.epoch,
        "steps": gan.steps,
        "history": gan.history,
    }
    for part in CHECKPOINT_PARTS:
        state[part] = getattr(gan, part).state_dict()
    path = Path(gan.config.checkpoint_dir) / f"epoch_{gan.epoch:04d}.pth"
    save_whole(path, lambda file: torch.save(state, file))
    delete_old_checkpoints(gan)


def delete_old_checkpoints(gan):
    """Delete the checkpoints up to the current epoch, except the KEEP_CHECKPOINTS newest ones."""
    keep = gan.config.keep_checkpoints
    if keep > 0:
        for path in epoch_files(gan.config.checkpoint_dir, ".pth", gan.epoch)[:-keep]:
            path.unlink()
            metrics_path(path).unlink(missing_ok=True)


def check_run(gan, loader):
    """Raise UserError for what would end a run later: settings and folders that do not work."""
    config = gan.config
    if len(loader) == 0:
        raise UserError(
            f"BATCH_SIZE (--batch_size) is {config.batch_size} and D_STEPS {config.d_steps}: "
            "together more than the images of an epoch"
        )
    if config.conditional and gan.data["classes"] == 1:
        raise UserError("CONDITIONAL needs labels: give each class a sub-folder")
    if config.d_norm == "batch" and (config.gradient_penalty or config.loss == "wgan_gp"):
        raise UserError(
            "D_NORM (--d_norm) is batch: set GRADIENT_PENALTY to 0, and no wgan_gp, as BatchNorm "
            "makes the gradient of an image depend on the others"
        )
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("TENSORBOARD needs a package: pip install tensorboard")
    if is_first_process():
        for folder in (config.samples_dir, config.checkpoint_dir):
            empty = Path(folder, ".try")
            save_whole(empty, lambda file: None)
            empty.unlink()


def find_earlier_run(config):
    """Return path and content of the newest undamaged checkpoint, or None for a new run."""
    if config.resume and config.overwrite:
        raise UserError("RESUME and OVERWRITE exclude each other: continue a run or replace it")
    files = run_files(config)
    checkpoints = epoch_files(config.checkpoint_dir, ".pth")
    if config.resume:
        for path in reversed(checkpoints):
            try:
                return path, load_weights(path)
            except UserError as error:
                if is_first_process():
                    print(f"WARNING: {error}: trying the checkpoint before it")
        # what a run leaves behind before its first checkpoint is written again
        files = [path for path in files if path in checkpoints or path.stem == "generator_final"]
        if files:
            raise UserError(
                f"{files[0]} is of an earlier run, but no checkpoint of it can be read: "
                "--overwrite starts again"
            )
        if is_first_process():
            print(f"No checkpoint in {config.checkpoint_dir} yet: starting with epoch 1")
    elif files and not config.overwrite:
        raise UserError(
            f"{files[0]} is of an earlier run: --resume continues it from its newest checkpoint, "
            "--overwrite replaces it, another SAMPLES_DIR and CHECKPOINT_DIR keep it"
        )
    elif files and is_first_process():
        print("The earlier run is replaced when the first epoch of this one is done")
    return None


def run_files(config):
    """Return the files of a run in the folders of config."""
    files = {*Path(config.checkpoint_dir).glob("*"), *Path(config.samples_dir).glob("*")}
    return sorted(path for path in files if RUN_FILES.fullmatch(path.name))


def delete_earlier_run(gan):
    """Delete the files of an earlier run: those that are older than this one."""
    for path in run_files(gan.config):
        if path.stat().st_mtime < gan.start_date:
            path.unlink()


@contextlib.contextmanager
def locked(folder):
    """Keep other processes from training in the same folder; on Windows they are not noticed.

    The lock of a killed process does not count.
    """
    if not is_first_process() or importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    path = Path(folder, ".lock")
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another run is at work in {folder}: choose other folders") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def networks_of(checkpoint, settings):
    """Return the settings of a run that continues: those given, and the networks as they were."""
    path, state = checkpoint
    before = state["config"]
    kept = {"image_size", "conditional"} | ((G_ARGUMENTS | D_ARGUMENTS) & before.keys())
    now = make_config(**{"preset": before["preset"], **settings})._asdict()
    if "preset" not in settings:
        kept.add("preset")
        now["preset"] = DEFAULTS["preset"]
    for name in sorted(kept):
        if now[name] == before[name]:
            continue
        if name in settings:
            raise UserError(
                f"{name.upper()} (--{name}) is {settings[name]}, but {path} has {before[name]}: "
                "leave it out, or start again with --overwrite"
            )
        if is_first_process():  # an edited constant, or a flag that was given before
            print(f"{name.upper()} is {now[name]}, but stays {before[name]} as in {path}")
    return {name: before[name] for name in kept} | settings


def resume(gan, checkpoint):
    """Continue a run from a checkpoint, and say which settings differ from before."""
    path, state = checkpoint
    config = gan.config
    if state["data"]["checksum"] != gan.data["checksum"]:  # not the name: a folder may move
        raise UserError(
            f"{path} was trained on {data_in_words(state['data'])}; DATASET (--dataset) is now "
            f"{data_in_words(gan.data)}: set it as it was, or start again with --overwrite"
        )
    gan.epoch = state["epoch"]
    gan.start_epoch = gan.epoch
    gan.steps = state["steps"]
    gan.averaged = gan.steps
    gan.history = state["history"]
    if gan.epoch > config.epochs:
        raise UserError(f"EPOCHS is {config.epochs}: {path} has done {gan.epoch}, so raise it")
    try:
        for part in CHECKPOINT_PARTS:
            getattr(gan, part).load_state_dict(state[part])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} does not fit this script, in which a network has changed since: undo that, or "
            "start again with --overwrite"
        ) from error
    changes = []
    for name, value in config._asdict().items():
        if name != "resume" and state["config"].get(name) != value:
            changes.append(f"{name.upper()} {state['config'].get(name)} -> {value}")
    print(f"Continuing from {path}", *changes, sep="; ")
    if config.epochs != state["config"]["epochs"] and 0 < config.lr_decay_start < config.epochs:
        print(f"The learning rates now fall to epoch {config.epochs}")


def save_settings(gan):
    """Write settings.json: the settings of a run, and where and on what it was done."""
    facts = {
        "settings": gan.config._asdict(),
        "data": gan.data,
        "device": str(gan.device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    text = json.dumps(facts, indent=1)
    path = Path(gan.config.checkpoint_dir) / "settings.json"
    save_whole(path, lambda file: file.write(text.encode()))


def save_csv(path, history):
    """Write a list of dicts with the same keys as a CSV file, with one line for each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    save_whole(path, lambda file: file.write(text.getvalue().encode()))


# ── Pictures and words ── What people see of a run ────────────────────────────────────────────────

MEASURED_SAMPLES = 2000  # of which FD is computed during a run; evaluate takes more
SLOWDOWN = 3  # an epoch so many times slower than the fastest one is worth a warning
D_WINS = 0.98  # accuracy of D above which G learns little
GRID_SIDE = 700  # pixels that the longer side of a grid has at least, if ZOOM is 0
GIF_FRAMES = 200  # at most
BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt}"  # tqdm's, without its rate


def progress(steps, title, more=", {remaining} left"):
    """Return `steps`, for which tqdm shows a bar on a terminal and in a notebook."""
    hidden = None  # tqdm hides it where `file` is no terminal
    file = sys.stderr
    if "ipykernel" in sys.modules:  # a notebook, which shows stderr in a box of its own
        hidden = False
        file = sys.stdout
    if not is_first_process():
        hidden = True
    return tqdm(steps, title, leave=False, file=file, disable=hidden, bar_format=BAR_FORMAT + more)


def data_in_words(data):
    """Return a short description of images: "mnist, 60000 images, checksum 5a1f0f21"."""
    return f"{data['dataset']}, {data['images']} images, checksum {data['checksum']}"


def classes_in_words(names):
    """Return numbers and names of classes: "0 ant, 1 bee"; of digits the numbers alone."""
    words = []
    for number, name in enumerate(names):
        if name != str(number):
            name = f"{number} {name}"
        words.append(name)
    return ", ".join(words)


def describe(about):
    """Return a short description of a training: "60 epochs of mnist, FD 0.97"."""
    words = f"{about.get('epochs', 0)} epochs of {Path(about.get('dataset', 'nothing')).name}"
    if about.get("fd") is not None:
        words += f", FD {about['fd']:.2f}"
    return words


def print_start(gan, loader):
    """Print on which images and on which device a run trains, and how often it sees them."""
    print(f"Training on {data_in_words(gan.data)}; {gan.device.type}, {gan.dtype}")
    names = gan.data["class_names"]
    if len(names) > 1 and gan.data["dataset"] not in ("mnist", "mnist_5k"):
        print(f"{len(names)} classes: {classes_in_words(names)}")
    passes = len(loader) * loader.sampler.batch_size / gan.data["images"]
    if passes > 1.5:
        print(f"Each epoch sees all of them {passes:.0f} times")
    if gan.shift:
        print(f"Images are shifted by up to a pixel from epoch {FIRST_SHIFTED_EPOCH} on")


def print_epoch(gan, row):
    """Print a row of the history as a line, and the warnings that follow from it."""
    epochs = gan.config.epochs
    line = f"Epoch [{gan.epoch}/{epochs}]: "
    line += f"D loss {row['d_loss']:.3f}, G loss {row['g_loss']:.3f}, "
    if row["fd"] is not None:
        line += f"FD {row['fd']:.2f}, "
    line += f"{row['images_per_second']:,.0f} img/s"
    if gan.epoch < epochs:
        line += f", {gan.time_left()}"
    if row["missing"]:
        line += (
            f"\nWARNING: almost no sample of {MEASURED_SAMPLES:,} is of class {row['missing']}.\n"
            "  If that lasts, G has collapsed: lower LEARNING_RATE_G or set BETA1 to 0"
        )
    if row["d_accuracy"] > D_WINS:
        line += (
            f"\nWARNING: D is right in {row['d_accuracy']:.1%} of cases, so that G learns little.\n"
            "  Lower LEARNING_RATE_D, raise DROPOUT or make D smaller"
        )
    rates = [past["images_per_second"] for past in gan.history[gan.start_epoch :]]
    slow = [SLOWDOWN * rate < max(rates) for rate in rates]
    if slow[-1] and not slow[-2] and torch.get_num_threads() > 1:
        line += (  # a thread that shares its core delays all the others
            f"\nWARNING: {max(rates) / rates[-1]:.0f} times slower than before: is another program "
            "busy?\n  If so, Ctrl-C and then --resume --threads 1 is faster"
        )
    print(line, flush=True)


def print_end(gan):
    """Print how long the training took, where its pictures are and what can be done next."""
    config = gan.config
    print(f"Wrote {config.checkpoint_dir}/generator_final.pth", end="; ")
    if gan.start_epoch == gan.epoch:
        print(f"epoch {gan.epoch} was the last one: a larger EPOCHS trains longer")
    else:
        took = tqdm.format_interval(time.perf_counter() - gan.start_time)
        print(f"epochs {gan.start_epoch + 1} to {gan.epoch} took {took}")
    print(f"Look at {config.samples_dir}/real_and_generated.png, training.gif, loss_curves.png")
    flag = f"--checkpoint_dir {shlex.quote(config.checkpoint_dir)}"
    print(f"Next: python gan_mnist.py generate {flag}; likewise demo")


def save_picture(path, picture):
    """Write a picture of Pillow as a PNG file."""
    save_whole(path, lambda file: picture.save(file, "png"))


def to_picture(image):
    """Return an image (C, H, W) in [-1, 1] as a picture of Pillow, grey or in colour."""
    return Image.fromarray(to_uint8(image).permute(1, 2, 0).squeeze(2).cpu().numpy())


def make_grid(images, columns=0, zoom=ZOOM):
    """Return images (N, C, H, W) in [-1, 1] as a picture: a grid with black lines between them.

    With 0 columns it is about as wide as high. Each pixel is enlarged to zoom x zoom equal ones.
    """
    columns = columns or grid_columns(len(images), classes=0)
    grid = import_torchvision().utils.make_grid(images, columns, pad_value=-1.0)
    channels = images.shape[1]  # torchvision turns one channel into three equal ones
    grid = grid[:channels]
    zoom = zoom or math.ceil(GRID_SIDE / max(grid.shape))
    return to_picture(grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2))


def save_grid(path, images, columns=0, zoom=ZOOM):
    """Write images (N, C, H, W) in [-1, 1] as one PNG file, see make_grid."""
    save_picture(path, make_grid(images, columns, zoom))


def sample_z(num_samples, latent_dim, seed=None):
    """Return z (num_samples, latent_dim) ~ N(0, 1) on the CPU; the same for the same seed.

    A larger num_samples keeps the first ones as they are: torch.randn draws numbers in blocks of
    16, and an incomplete last block differently, so whole blocks are drawn.
    """
    rng = None
    if seed is not None:
        rng = torch.Generator().manual_seed(seed)
    block = 16
    rows = block * math.ceil(num_samples / block)
    return torch.randn(rows, latent_dim, generator=rng)[:num_samples]


def choose_labels(num_samples, classes, labels=None):
    """Return labels (num_samples,): those asked for, a number or a list, else all in turn."""
    if labels is None:
        return torch.arange(num_samples) % max(1, classes)
    labels = torch.as_tensor(labels)
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels are {labels.tolist()}, and the generator has {classes} classes")
    if labels.ndim > 0 and len(labels) != num_samples:
        raise UserError(f"there are {len(labels)} labels for {num_samples} samples")
    return labels.expand(num_samples)


def grid_columns(num_samples, classes):
    """Return the columns of a grid about as wide as high; each is to have samples of one class."""
    side = math.ceil(math.sqrt(num_samples))
    if classes == 0:
        return side
    return classes * max(1, round(side / classes))


def real_samples(images, config):
    """Return real images, as many as in a grid, in [-1, 1]: to compare the drawn ones with."""
    seed = stream_seed(config.seed, STREAMS["real samples"])
    return to_float(shuffled(images, seed)[: config.num_samples])


def shuffled(images, seed):
    """Return images in a random order, the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    return images[torch.randperm(len(images), generator=rng)]


def read_picture(path):
    """Return a picture that save_grid wrote, grey or in colour."""
    try:
        with Image.open(path) as picture:
            return picture.copy()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): delete it") from error


def caption_height(width):
    """Return the height in pixels of the caption of a picture of this width."""
    return max(12, width // 16)


def add_caption(picture, text):
    """Return a picture with a line of text above it."""
    height = caption_height(picture.width)
    captioned = ImageOps.expand(picture, (0, height, 0, 0))
    font = ImageFont.load_default(size=0.7 * height)
    ImageDraw.Draw(captioned).text((height // 4, 0), text, fill="white", font=font)
    return captioned


def save_comparison(gan, images):
    """Write real images and drawn ones side by side."""
    config = gan.config
    real = real_samples(images, config)  # a folder may have fewer than NUM_SAMPLES
    drawn = gan.generator().sample(len(real), config.seed)
    real = make_grid(real, gan.columns, config.zoom)
    drawn = make_grid(drawn, gan.columns, config.zoom)
    gap = (0, 0, real.width // 50, 0)
    left = ImageOps.expand(add_caption(real, "real"), gap, "gray")
    right = add_caption(drawn, f"drawn after epoch {gan.epoch}")
    both = Image.fromarray(np.hstack([left, right]))
    save_picture(Path(config.samples_dir) / "real_and_generated.png", both)


def save_gif(path, pictures):
    """Write grids, the paths of epoch_0001.png and so on, as a looping GIF that pauses at its end.

    Each of its frames, GIF_FRAMES at most, tells its epoch.
    """
    step = math.ceil(len(pictures) / GIF_FRAMES)
    size = read_picture(pictures[-1]).size
    frames = []
    for picture in reversed(pictures[::-step]):  # the last one is among them
        frame = read_picture(picture).resize(size, Image.Resampling.NEAREST)
        frame = frame.point(lambda value: (value + 8) // 17 * 17)  # 16 greys: a third of the bytes
        frames.append(add_caption(frame, f"epoch {epoch_number(picture)}"))
    pauses = [120] * (len(frames) - 1) + [2000]  # milliseconds
    options = {"save_all": True, "append_images": frames[1:], "duration": pauses, "loop": 0}
    save_whole(path, lambda file: frames[0].save(file, "gif", **options))


def save_curves(gan, images, judge):
    """Write a plot of FD, where it was measured, above one of both losses."""
    from matplotlib.figure import Figure

    measured = [row for row in gan.history if row["fd"] is not None]
    panels = 1
    if measured:
        panels = 2
    figure = Figure(figsize=(8, 3.5 * panels), layout="constrained")
    axes = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    if measured:
        real_fd = None
        if judge is not None:
            seed = stream_seed(gan.config.seed, STREAMS["measurement"])
            features, _ = judge.predict(shuffled(images, seed)[:MEASURED_SAMPLES])
            real_fd = judge.fd(features)
        plot_curve(axes[0], measured, "fd", "C2", "drawn images", real_fd)
        axes[0].set(title="FD (lower is better), dashed for real images", ylabel="FD", yscale="log")
        axes[0].locator_params("y", subs=(1, 2, 5))
        axes[0].yaxis.set_major_formatter("{x:g}")  # plain numbers
        axes[0].minorticks_off()
    loss = gan.config.loss
    zero = torch.zeros(1)  # the logit of a D that can only guess
    d_guess = discriminator_loss(zero, zero, loss=loss).item()
    g_guess = generator_loss(zero, loss).item()
    plot_curve(axes[-1], gan.history, "d_loss", "C0", "discriminator", d_guess)
    plot_curve(axes[-1], gan.history, "g_loss", "C1", "generator", g_guess)
    title = "Losses, dashed where the discriminator can only guess"
    axes[-1].set(title=title, ylabel=f"{loss} loss", xlabel="epoch")
    axes[-1].locator_params("x", integer=True, steps=(1, 2, 5, 10))
    for panel in axes:
        if gan.shift and gan.epoch >= FIRST_SHIFTED_EPOCH:
            label = "images are shifted from here on"
            panel.axvline(FIRST_SHIFTED_EPOCH, color="gray", linestyle=":", label=label)
        panel.legend()
        panel.grid(alpha=0.3)
    path = Path(gan.config.samples_dir) / "loss_curves.png"
    save_whole(path, lambda file: figure.savefig(file, format="png", dpi=150))


def plot_curve(axes, rows, column, color, label, level):
    """Draw a column of rows of the history into a panel, and dashed a level to compare it with."""
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row[column] for row in rows], ".-", color=color, label=label)
    if level is not None:
        axes.axhline(level, color=color, linestyle="--")


def write_tensorboard(gan):
    """Write the last row of the history, the learning rates and the grid, at the step `epoch`.

    Into runs/<preset, if any>_<name of CHECKPOINT_DIR>.
    """
    from torch.utils.tensorboard import SummaryWriter

    config = gan.config
    folder = Path(config.checkpoint_dir).resolve().name
    if config.preset != "none":
        folder = f"{config.preset}_{folder}"
    scalars = {name: value for name, value in gan.history[-1].items() if isinstance(value, float)}
    scalars["learning_rate_g"] = gan.optimizer_g.param_groups[0]["lr"]
    scalars["learning_rate_d"] = gan.optimizer_d.param_groups[0]["lr"]
    pictures = {"samples": f"epoch_{gan.epoch:04d}.png"}
    if gan.epoch == 1:
        pictures["real"] = "real_samples.png"
    # what a stopped run wrote of this epoch and of later ones is replaced
    with SummaryWriter(Path("runs") / folder, purge_step=gan.epoch) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, gan.epoch)
        for name, picture in pictures.items():
            grid = np.array(read_picture(Path(config.samples_dir) / picture).convert("RGB"))
            writer.add_image(name, grid, gan.epoch, dataformats="HWC")


# ── Judge ── A small classifier whose features compare real images with drawn ones ────────────────

MNIST_JUDGE = BUNDLE.with_name("judge_mnist.pth")  # shipped, so that numbers can be compared
CRITIC_PASSES = 12  # over what the network of the two-sample test learns; more make it no better
CRITIC_RATE = 2e-3  # with 5e-3 its ReLUs die if there is little to see
TEACHER_PASSES = 5  # over real images, of a network that is to recognize others


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
            "covered": classes - len(missing),
            "missing": " ".join(map(str, missing)),
        }


def load_judge(dataset, data_dir, checkpoint_dir=CHECKPOINT_DIR):
    """Return the Judge of a data set, trained first if there is none; MNIST's is shipped.

    A trained one is kept in the data folder, or with the run if that is read-only. None for a
    folder of images. Raises UserError if its file is missing or damaged.
    """
    if dataset not in (*SETS, "mnist_5k"):
        print("There is no judge of a folder of images that could measure FD")
        return None
    path = MNIST_JUDGE
    if dataset not in ("mnist", "mnist_5k"):
        path = Path(data_dir) / f"judge_{dataset}.pth"
        if not path.exists() and not os.access(data_dir, os.W_OK):
            path = Path(checkpoint_dir) / path.name
        if not path.exists():
            print(f"Training a judge of {dataset}, once; --metrics_every 0 trains without one")
            train_judge(dataset, data_dir, path)
    if not path.exists():
        raise UserError(f"{path} is missing: {GET_BACK}, or set METRICS_EVERY to 0")
    state = load_weights(path)
    if "classes" not in state:
        raise UserError(f"{path} holds no judge: delete it, or {GET_BACK}")
    judge = Judge(state["classes"], state["channels"])
    judge.load_state_dict(state["weights"])
    judge.accuracy = state["accuracy"]
    return judge.eval()


def train_judge(dataset, data_dir, path, seed=SEED):
    """Train the judge of one of SETS on its training images, and write its file."""
    images, labels, _ = load_dataset(dataset, data_dir)
    test_images, test_labels, _ = load_dataset(dataset, data_dir, train=False)
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


@torch.random.fork_rng(devices=[])  # leaves random numbers as they were
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


def class_shares(probabilities):
    """Return how often each class is the most probable one: (N, K) -> (K,), shares of 1."""
    classes = probabilities.shape[1]
    return probabilities.argmax(1).bincount(minlength=classes) / len(probabilities)


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

    0.5 if it can only guess: a classifier two-sample test (C2ST), Lopez-Paz & Oquab 2017, arXiv
    1610.06545. Images (N, C, H, W) uint8 of both kinds; the network learns from one half and is
    tested on the other.
    """
    n = min(len(real), len(fake)) // 2
    learned = torch.cat([real[:n], fake[:n]])
    tested = torch.cat([real[n : 2 * n], fake[n : 2 * n]])
    labels = torch.arange(2).repeat_interleave(n)
    epochs = math.ceil(CRITIC_PASSES * len(learned) / EPOCH_IMAGES)
    critic = fit_judge(learned, labels, epochs, shift=0, learning_rate=CRITIC_RATE)
    return recognized(critic, tested, labels)


def recognized(network, images, labels):
    """Return the share of images (N, C, H, W) uint8 of which a Judge finds the label."""
    _, probabilities = network.predict(images)
    return (probabilities.argmax(1) == labels).float().mean().item()


def teacher_scores(G, train, test, seed):
    """Return the shares of test images that new networks recognize: taught by samples, by images.

    The first one learns from new samples throughout, in as many steps: the classification accuracy
    score of Ravuri & Vinyals 2019, arXiv 1905.10887. train, test: images (N, C, H, W) uint8 and
    labels (N,).
    """
    n = len(train[0])
    samples = [to_uint8(G.sample(n, seed + number)) for number in range(TEACHER_PASSES)]
    asked = torch.arange(n) % G.classes  # as G.sample draws them
    pupil_of_samples = fit_judge(torch.cat(samples), asked.repeat(TEACHER_PASSES), epochs=1)
    pupil_of_images = fit_judge(*train, TEACHER_PASSES)
    return recognized(pupil_of_samples, *test), recognized(pupil_of_images, *test)


def outlines(images):
    """Return uint8 images of black and white alone: white is what was at least half grey.

    A few greys that the eye does not see give every generator away; outlines are what it sees.
    """
    return torch.where(images < 128, 0, 255).to(torch.uint8)


# ── More networks ── The filter of the default generator; convolutions; variants of old systems ───


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
        layer = nn.utils.skip_init(  # without random weights, which nobody would see
            nn.Linear, self.in_features, self.out_features, device=self.weight.device
        )
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


def folded(G):
    """Return a copy of G whose last layer has the filter in its weights: it draws the same."""
    G = copy.deepcopy(G)
    for number, layer in enumerate(G.layers):
        if isinstance(layer, SmoothLinear):
            G.layers[number] = layer.folded()
    G.arguments["smooth"] = 0.0
    return G


def maybe_spectral_norm(layer, spectral_norm):
    """Return the layer, with spectral normalization if that is asked for."""
    if spectral_norm:
        return nn.utils.parametrizations.spectral_norm(layer)
    return layer


def dcgan_generator(inputs, image_shape, width, norm, activation, end):
    """Return the layers of DCGAN's generator, from codes (N, inputs) to images (N, C, H, W).

    Radford et al. 2016, arXiv 1511.06434: a linear layer makes z a small image of many channels
    ("project and reshape"); each transposed convolution doubles its side and halves its channels,
    down to `width` before the image. BatchNorm and ReLU in every layer but the last.
    """
    side, channels = dcgan_sizes(image_shape, width)

    def norm_and_activation(n):
        layers = [ACTIVATIONS[activation]()]
        if norm == "batch":
            layers.insert(0, nn.BatchNorm2d(n))
        return layers

    deepest = channels[-1]
    layers = [
        nn.Linear(inputs, deepest * side * side, bias=False),
        nn.Unflatten(1, (deepest, side, side)),
        *norm_and_activation(deepest),
    ]
    for n_in, n_out in pairwise(reversed(channels)):
        layers.append(nn.ConvTranspose2d(n_in, n_out, 4, 2, padding=1, bias=False))
        layers += norm_and_activation(n_out)
    layers += [nn.ConvTranspose2d(width, image_shape[0], 4, 2, padding=1), ENDS[end]()]
    return nn.Sequential(*layers).apply(init_dcgan)


def dcgan_discriminator(image_shape, outputs, width, norm, slope, dropout, spectral_norm):
    """Return the layers of DCGAN's discriminator, from images to logits (N, outputs, 1, 1).

    Each convolution halves the side and doubles the channels, from `width` after the image; the
    last one gives the logit. With norm "batch" BatchNorm in every layer but the first and the last.
    """
    side, channels = dcgan_sizes(image_shape, width)
    layers = []
    for n_in, n_out in pairwise([image_shape[0], *channels]):
        has_norm = norm == "batch" and len(layers) > 0
        layers.append(nn.Conv2d(n_in, n_out, 4, 2, padding=1, bias=not has_norm))
        if has_norm:
            layers.append(nn.BatchNorm2d(n_out))
        layers += [nn.LeakyReLU(slope), nn.Dropout(dropout)]
    layers.append(nn.Conv2d(channels[-1], outputs, side))
    layers = nn.Sequential(*layers).apply(init_dcgan)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            maybe_spectral_norm(layer, spectral_norm)
    return layers


def dcgan_sizes(image_shape, width):
    """Return the smallest side in a DCGAN, and the channels of its layers from the image on."""
    _, height, image_width = image_shape
    smallest = {28: 7, 32: 4, 64: 4, 128: 4}
    if height != image_width or height not in smallest:
        raise UserError(
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


# ── Presets ── Settings of known systems: they replace the constants, and flags replace both ──────

COMMON = {  # shared by most GANs of 2014 to 2018, but not by the defaults
    "modes": 0,
    "smooth": 0.0,
    "d_slope": 0.2,
    "beta1": 0.5,
    "learning_rate_g": 2e-4,
    "learning_rate_d": 2e-4,
    "lr_decay_start": 0,
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
    },
    "conditional": {
        "about": "the defaults with labels (Mirza & Osindero 2014)",
        "conditional": True,
        "lr_decay_start": 6,  # with labels G is as far after 6 epochs as without after 12
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

# ── More data ── Other data sets, the bundle, folders of pictures, shifts ─────────────────────────

SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
CLASS_NAMES = {  # where they are not the digits
    "fashion_mnist": "T-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker, bag, boot",
    "kmnist": "o, ki, su, tsu, na, ha, ma, ya, re, wo",
    "cifar10": "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
}
FOLDER_IMAGE_SIZE = 64  # side of images from a folder if IMAGE_SIZE is 0
DOWNLOAD_TIMEOUT = 7  # give up on a mirror after so many seconds without data


def load_dataset(name, data_dir, train=True, image_size=0):
    """Return images (N, C, H, W) uint8, labels (N,) and the name of the data set that was loaded.

    If MNIST cannot be downloaded it is the bundle, mnist_5k. The bundle and folders have no test
    images: train=False gives their training images. Raises UserError if a data set is missing,
    damaged or unknown.
    """
    if name == "mnist":
        images, labels, name = load_mnist(data_dir, train)
    elif name == "mnist_5k":
        images, labels = load_bundle()
    elif name in SETS:
        images, labels = load_torchvision(name, data_dir, train)
    else:
        images, labels = load_folder(name, image_size)
    if image_size not in (0, images.shape[-1]):
        resize = import_torchvision().transforms.Resize((image_size, image_size))
        images = torch.cat([resize(part) for part in images.split(1000)])  # in parts: less memory
    return images, labels, name


def load_torchvision(name, data_dir, train=True):
    """Return one of SETS, downloaded if it is missing: images (N, C, H, W) uint8, labels (N,)."""
    part = "train"
    if not train:
        part = "t10k"
    paths = idx_files(name, data_dir, part)
    if len(paths) == 1:
        raise UserError(
            f"{paths[0]} is there, but not the file of its images or labels: add it, or delete the "
            "folder"
        )
    if paths:
        images = read_idx(paths[0], dimensions=3)
        labels = read_idx(paths[-1], dimensions=1)
    else:
        data = download(name, data_dir, train)
        images = torch.as_tensor(data.data)
        labels = torch.as_tensor(data.targets)
    if images.ndim == 3:  # grey images, without a dimension for the colours
        images = images.unsqueeze(3)
    return images.permute(0, 3, 1, 2).contiguous(), labels.long()


def idx_files(name, data_dir, part):
    """Return the files of images and labels that are there, packed or not, in the usual places.

    As torchvision puts them, in MNIST/raw, in MNIST or, for MNIST, in data_dir itself.
    """
    places = [Path(data_dir) / SETS[name] / "raw", Path(data_dir) / SETS[name]]
    if name == "mnist":
        places.append(Path(data_dir))
    for place in places:
        found = [sorted(place.glob(f"{part}-{kind}?idx*")) for kind in ("images", "labels")]
        if any(found):
            return [paths[0] for paths in found if paths]  # unpacked, if there are both
    return []


def read_idx(path, dimensions):
    """Return the numbers in an IDX file, the format of MNIST. Raises UserError if it is damaged."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        if content[:4] != bytes([0, 0, 8, dimensions]):  # 8: uint8
            raise ValueError(f"no {dimensions} dimensions of bytes")
        shape = np.frombuffer(content, ">i4", dimensions, offset=4)
        numbers = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        return torch.from_numpy(numbers.reshape(shape).copy())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or incomplete ({error}): replace it, or delete its folder"
        ) from error


def download(name, data_dir, train):
    """Return one of SETS as torchvision has it, downloaded whole or not at all if it is missing."""
    load = getattr(import_torchvision().datasets, SETS[name])
    folder = Path(data_dir) / SETS[name]
    is_new = not folder.exists()
    if is_new and name != "cifar10":
        print(f"No {name} in {folder}/raw: downloading it")
    former_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torchvision alone would wait for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # without a line for each mirror
            return load(data_dir, train, download=True)
    except BaseException as error:  # Ctrl-C too
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        reason = str(error).strip().rpartition("\n")[2]
        files = "{train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, also .gz, in "
        files += f"{folder}/raw and around"
        if name == "cifar10":
            files = f"cifar-10-batches-py in {data_dir}"
        raise UserError(f"{name} cannot be downloaded ({reason}); looked for {files}") from error
    finally:
        socket.setdefaulttimeout(former_timeout)


def load_bundle():
    """Return the bundled MNIST digits: images (5000, 1, 28, 28) uint8 and labels (5000,).

    They are one picture, 50 rows of 100 digits, five rows for each class.
    """
    try:
        with Image.open(BUNDLE) as sheet:
            tiles = np.array(sheet).reshape(50, 28, 100, 28)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's SyntaxError: a damaged PNG
        raise UserError(f"{BUNDLE} is missing or damaged: {GET_BACK}") from error
    tiles = tiles.swapaxes(1, 2)  # (row, column, 28, 28)
    images = torch.from_numpy(tiles.reshape(5000, 1, 28, 28).copy())
    labels = torch.arange(10).repeat_interleave(500)
    return images, labels


def describe_data(images, labels, name):
    """Return what a run and its generator remember of the images that they are trained on."""
    checksum = zlib.crc32(images.numpy())
    classes = int(labels.max()) + 1
    class_names = [str(number) for number in range(classes)]
    if name in CLASS_NAMES:
        class_names = CLASS_NAMES[name].split(", ")
    elif name not in (*SETS, "mnist_5k"):
        class_names = [path.name for path in class_folders(name)]
    return {
        "dataset": name,
        "images": len(images),
        "checksum": f"{checksum:08x}",
        "classes": classes,
        "class_names": class_names,
    }


def import_torchvision():
    """Return torchvision, which is as slow to import as PyTorch. Raises UserError if it fails."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another PyTorch
        raise UserError(
            f"torchvision does not fit this PyTorch ({error}): install both together, by "
            "`pip install --upgrade torch torchvision`"
        ) from error
    return torchvision


def load_folder(folder, image_size=0):
    """Return the pictures of a folder, (N, C, H, W) uint8, and the numbers of their classes, (N,).

    Pictures of any size and kind are cropped to a square and resized; C is 1 if all are grey.
    Classes: see class_folders. Raises UserError if there are no pictures, or if all are equal.
    """
    if training_folder(folder) != Path(folder):
        print(f"Taking the pictures in {training_folder(folder)} alone")
    paths = []
    labels = []
    for number, class_folder in enumerate(class_folders(folder)):
        files = files_below(class_folder)
        paths += files
        labels += [number] * len(files)
    pixels, bad = read_pictures(paths, image_size or FOLDER_IMAGE_SIZE)
    if len(bad) == len(paths):
        raise UserError(
            f"DATASET (--dataset) is {folder!r}: allowed is mnist_5k | {' | '.join(SETS)}, "
            "or a folder with pictures in it"
        )
    if bad:
        print(
            f"WARNING: {len(bad)} files are skipped that are no pictures, such as {paths[bad[0]]}"
        )
        pixels = np.delete(pixels, bad, 0)
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    all_equal = len(pixels) > 1 and (pixels == pixels[:1]).all()
    if all_equal or (pixels == pixels[:, :1, :1]).all():
        raise UserError(f"all pictures in {folder} are equal, or of one colour each")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.delete(labels, bad))


def read_pictures(paths, side):
    """Return files as pictures (N, side, side, 3) uint8, and the numbers of those that are none."""
    pixels = np.empty((len(paths), side, side, 3), np.uint8)
    deep = {}  # number of a picture -> more than 256 greys, (side, side)
    alpha = {}  # number of a picture -> its opacity from 0 to 1, (side, side, 1)
    bad = []
    for number, path in enumerate(progress(paths, "Reading pictures")):
        try:
            picture = read_middle(path, side)
        except Exception:  # Pillow raises many kinds for a damaged file
            bad.append(number)
            continue
        if picture.ndim == 2:
            deep[number] = picture
        elif picture.shape[2] == 4:
            alpha[number] = picture[..., 3:] / 255
            pixels[number] = (picture[..., :3] * alpha[number]).round()  # on black
        else:
            pixels[number] = picture
    spread_deep_greys(pixels, deep)
    put_on_background(pixels, alpha)
    return pixels, bad


def class_folders(folder):
    """Return the folders of the classes, in natural order: the first level of sub-folders.

    If pictures lie beside them there are no classes, and it is the folder alone.
    """
    root = training_folder(folder)
    if not root.is_dir():
        return []
    suffixes = Image.registered_extensions()
    visible = [path for path in root.iterdir() if not path.name.startswith(".")]
    has_pictures = any(path.suffix.lower() in suffixes for path in visible)
    folders = []
    for path in visible:
        if path.is_dir() and any(file.suffix.lower() in suffixes for file in files_below(path)):
            folders.append(path)
    if has_pictures or not folders:
        return [root]
    return sorted(folders, key=natural_order)


def training_folder(folder):
    """Return the sub-folder train or training of a folder, if it has one, else the folder."""
    for name in ("train", "training"):
        if Path(folder, name).is_dir():
            return Path(folder, name)
    return Path(folder)


def natural_order(path):
    """Return by what files are sorted, so that 10 comes after 2."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def files_below(folder, above=()):
    """Return the files in a folder and below, without hidden ones; links are followed once."""
    files = []
    above = (*above, folder.parent.resolve(), folder.resolve())
    for path in sorted(folder.iterdir(), key=natural_order):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            files.append(path)
        elif path.resolve() not in above:
            files += files_below(path, above)
    return files


def read_middle(path, side):
    """Return the middle of a picture, upright: (side, side, 3) uint8.

    (side, side, 4) if it has transparency, (side, side) float if it has more than 256 greys.
    """
    mode = "RGB"
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            mode = "F"
        elif image.has_transparency_data:
            mode = "RGBA"
        upright = ImageOps.exif_transpose(image).convert(mode)
    return np.array(ImageOps.fit(upright, (side, side)))


def spread_deep_greys(pixels, deep):
    """Bring pictures of 12 and more bits, or of floats, to 0 to 255: all by the same scale.

    White is 1, 255, 4095 (12 bits) or 65535 (16 bits), the first one that no picture exceeds; for
    other numbers the range of all pictures is taken.
    """
    if not deep:
        return
    black = 0.0
    highest = max(picture.max() for picture in deep.values())
    whites = [white for white in (1, 255, 4095, 65535) if highest <= white]
    lowest = min(picture.min() for picture in deep.values())
    if lowest < 0 or not whites:
        black = lowest
        whites = [highest]
    print(f"{len(deep)} pictures of more than 8 bits: {black:g} is black, {whites[0]:g} white")
    for number, picture in deep.items():
        grey = (picture - black) / (whites[0] - black) * 255
        pixels[number] = grey.round()[..., np.newaxis]


def put_on_background(pixels, alpha):
    """Put pictures with transparency, which lie on black, on white if what is visible is dark."""
    if not alpha:
        return
    numbers = list(alpha)
    visible = sum(picture.sum() for picture in alpha.values())
    light = sum(pixels[number].mean(2).sum() for number in numbers) / max(visible, 1) > 127
    if not light:
        for number in numbers:
            pixels[number] += ((1 - alpha[number]) * 255).round().astype(np.uint8)
    background = {True: "black", False: "white"}[bool(light)]
    print(f"{len(alpha)} pictures are transparent: they are put on {background}")


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


# ── Hardware ── Device, idle cores; several processes, each with its part of every batch ──────────


def choose_device(name, precision):
    """Return the torch.device and the dtype (torch.float32 or torch.bfloat16) of the training."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind in there if there[kind])
    if not there[name]:
        raise UserError(
            f"DEVICE (--device) is {name}, which PyTorch does not find: use auto or cpu"
        )
    device = torch.device(name)
    if name == "cuda":  # one GPU for each process
        device = torch.device(name, int(os.environ.get("LOCAL_RANK", 0)))
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


@contextlib.contextmanager
def cpu_threads(config, checkpoint):
    """Set the number of CPU threads for the duration of a run, after which all is as it was.

    PyTorch's threads wait for each other in every operation, and one that shares its core with
    another program delays all: so there are as many as idle cores, or as in the checkpoint.
    """
    former = torch.get_num_threads()
    threads = config.threads
    if threads == 0 and checkpoint:  # another number rounds differently
        threads = min(former, checkpoint[1]["threads"])
    elif threads == 0:
        threads = max(1, min(former, round(idle_cores())))
        if threads < former:
            print(f"Other programs are busy: CPU threads of this run: {threads} (see THREADS)")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # Adam's averages of zero gradients would be slow
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # restores random numbers
            yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(former)


def idle_cores(seconds=0.1):
    """Return how many of the CPU cores that this process may use are idle; all if not on Linux."""
    if not Path("/proc/stat").exists():
        return os.cpu_count()
    earlier = idle_ticks()
    time.sleep(seconds)
    return (idle_ticks() - earlier) / (seconds * os.sysconf("SC_CLK_TCK"))


def idle_ticks():
    """Return how long the CPU cores that this process may use have been idle, all together."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        number = name.removeprefix("cpu")
        if number.isdecimal() and int(number) in os.sched_getaffinity(0):
            ticks += int(words[3]) + int(words[4])  # idle, and waiting for a disk
    return ticks


def process_rank():
    """Return this process's rank and the number of processes, as torchrun sets them, else 0, 1."""
    world_size = int(os.environ.get("WORLD_SIZE") or 1)
    if world_size == 1 or "MASTER_ADDR" not in os.environ:  # left over from something else
        return 0, 1
    return int(os.environ["RANK"]), world_size


def is_first_process():
    """Return whether this process is the one that writes, measures and prints."""
    return process_rank()[0] == 0


@contextlib.contextmanager
def processes(config):
    """Connect the processes of torchrun for the duration of a run; only the first one prints."""
    rank, world_size = process_rank()
    if config.batch_size % world_size or config.batch_size < 2 * world_size:
        raise UserError(
            f"BATCH_SIZE (--batch_size) is {config.batch_size}: must be a multiple of the "
            f"{world_size} processes, with at least 2 images for each"
        )
    if world_size == 1:
        yield
        return
    device, _ = choose_device(config.device, config.precision)
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    out = sys.stdout
    if rank > 0:
        out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            print(
                f"{world_size} processes, {config.batch_size // world_size} images each in a step"
            )
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def first_process_first():
    """Let the first process do something before the others do it."""
    if dist.is_initialized() and not is_first_process():
        dist.barrier()
    yield
    if dist.is_initialized() and is_first_process():
        dist.barrier()


def my_part(*batches):
    """Return this process's part of each batch; all processes have drawn the same batches."""
    rank, world_size = process_rank()
    return [batch.chunk(world_size)[rank] for batch in batches]


def average_over_processes(tensors):
    """Replace tensors by their means over all processes, in one exchange."""
    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def share_networks(gan):
    """Give all processes the weights and the BatchNorm statistics of the first one."""
    if dist.is_initialized():
        for network in (gan.G, gan.D, gan.G_ema):
            for tensor in (*network.parameters(), *network.buffers()):
                dist.broadcast(tensor.data, 0)


# ── Commands ── What can be done with a trained generator ─────────────────────────────────────────

PRETRAINED = PROJECT / "checkpoints" / "pretrained.pth"  # comes with the script
PRETRAINED_CONDITIONAL = PRETRAINED.with_name("pretrained_conditional.pth")
PRETRAINED_GRIDS = PROJECT / "generated_samples" / "gallery.gif"  # of its training
WALK_STEPS = 8  # images in a row of generate --interpolate


def is_older(final, checkpoint):
    """Return whether a generator_final.pth has fewer epochs than a checkpoint."""
    return load_generator(final).about.get("epochs", 0) < epoch_number(checkpoint)


def find_generator(model_path, checkpoint_dir, digit=""):
    """Return Generator and path of model_path; if that is "", the newest one of checkpoint_dir.

    Before the first run in CHECKPOINT_DIR it is a pretrained one, for a digit the conditional one.
    Raises UserError if there is none, or if the file is damaged.
    """
    final = Path(checkpoint_dir) / "generator_final.pth"
    checkpoints = epoch_files(checkpoint_dir, ".pth")
    pretrained = PRETRAINED
    if digit != "":
        pretrained = PRETRAINED_CONDITIONAL
    if model_path:
        path = Path(model_path)
    elif checkpoints and (not final.exists() or is_older(final, checkpoints[-1])):
        path = checkpoints[-1]  # of a run that has not ended, or is being made longer
    elif final.exists():
        path = final
    elif Path(checkpoint_dir) == Path(CHECKPOINT_DIR) and pretrained.exists():
        print(f"No run in {checkpoint_dir} yet: taking the generator that comes with the script")
        path = pretrained
    else:
        raise UserError(
            f"no generator in {checkpoint_dir}: train one with --checkpoint_dir {checkpoint_dir}, "
            "or name one by --model_path"
        )
    return load_generator(path), path


def generate(
    model_path="",
    num_samples=NUM_SAMPLES,
    seed=SEED,
    digit="",
    separate=False,
    interpolate=False,
    show=False,
    zoom=ZOOM,
    samples_dir=SAMPLES_DIR,
    checkpoint_dir=CHECKPOINT_DIR,
):
    """Draw digits with a trained generator.

    Returns the path of the picture. Raises UserError if there is no generator or no such digit.
    """
    G, model_path = find_generator(model_path, checkpoint_dir, digit)
    columns = grid_columns(num_samples, G.classes)
    labels = None
    name = f"seed_{seed}"
    if digit != "":
        labels = class_number(digit, G)
        columns = 0
        name += f"_digit_{labels}"
    if interpolate:
        walks = math.ceil(num_samples / WALK_STEPS)
        z = sample_z(walks + 1, G.latent_dim, seed)
        images = walk(G, z, choose_labels(walks + 1, G.classes, labels))
        columns = WALK_STEPS
        path = Path(samples_dir) / f"interpolation_{name}.png"
    else:
        images = G.sample(num_samples, seed, labels)
        path = Path(samples_dir) / f"generated_{name}.png"

    save_grid(path, images, columns, zoom)
    print(f"Wrote {path}: {len(images)} images, drawn by\n{model_path} ({describe(G.about)})")
    if G.classes:
        print(f"Classes: {classes_in_words(G.about.get('class_names', []))}")
    if separate:
        for earlier in path.with_suffix("").glob("[0-9]*.png"):
            earlier.unlink()
        for number, image in enumerate(images, 1):
            save_picture(path.with_suffix("") / f"{number:04d}.png", to_picture(image))
    if show:
        show_picture(path)
    return path


def class_number(digit, G):
    """Return the number of a class of G, given by its number or name. Raises UserError if none."""
    names = G.about.get("class_names", [])[: G.classes]
    numbers = [str(number) for number in range(G.classes)]
    for known in (names, numbers):  # a name may be a number
        if str(digit) in known:
            return known.index(str(digit))
    classes = ", ".join(names)
    if not classes:
        way = "train with --preset conditional"
        classes = f"no classes: --model_path {PRETRAINED_CONDITIONAL} does, or {way}"
    raise UserError(f"--digit is {digit}, but the generator knows {classes}")


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


def show_picture(path):
    """Open a picture in a window."""
    from matplotlib import pyplot

    if pyplot.get_backend().lower() == "agg":  # what Matplotlib takes where it finds no display
        print(f"There is no display for --show: open {path}")
        return
    pyplot.imshow(Image.open(path), cmap="gray")
    pyplot.axis("off")
    pyplot.show()


METRIC_LINES = {  # of the table of evaluate: the digits of a metric, and which is better
    "FD to training images": (".2f", "lower"),
    "FD to test images": (".2f", "lower"),
    "Inception Score, by the judge": (".2f", "higher"),
    "precision": (".3f", "higher"),
    "recall": (".3f", "higher"),
    "told by outlines alone": (".1%", "lower"),
    "share below 90% confidence": (".1%", "lower"),
    "score as a teacher": (".2%", "higher"),
    "classes covered": (".0f", "higher"),
    "distance to the nearest training image": (".2f", "as real"),
}


def evaluate(
    model_path="",
    num_samples=10_000,
    seed=SEED,
    data_dir=DATA_DIR,
    checkpoint_dir=CHECKPOINT_DIR,
):
    """Measure how good a generator is, compared with real images.

    Returns {"generated": metrics, "real": metrics}, and prints and writes them. Raises UserError if
    there is no generator, or no judge of its data set.
    """
    G, model_path = find_generator(model_path, checkpoint_dir)
    dataset = G.about.get("dataset", "unknown images")
    judge = load_judge(dataset, data_dir, checkpoint_dir)
    if judge is None:
        raise UserError(f"{model_path} was trained on {dataset}: evaluate needs a judge of it")
    train, reference, real, dataset = choose_images(G, dataset, num_samples, seed, data_dir)
    generated = to_uint8(G.sample(len(real), seed))
    metrics = {}
    for column, images in (("generated", generated), ("real", real)):
        print(f"Measuring {len(images):,} {column} images", flush=True)
        metrics[column] = measure_images(images, reference, judge)
    if G.classes and dataset != "mnist_5k":  # which has no test images
        print("Measuring what networks learn from samples, and from real images", flush=True)
        side = G.image_shape[-1]
        labelled = [load_dataset(dataset, data_dir, part, side)[:2] for part in (True, False)]
        scores = teacher_scores(G, *labelled, seed)
        metrics["generated"]["score as a teacher"], metrics["real"]["score as a teacher"] = scores
    # test images have no distance to themselves: in their place, that of real training images
    features, _ = judge.predict(reference)
    metrics["real"]["FD to test images"] = judge.fd(features, "test")
    real_name = f"test images of {dataset}"
    k = 1
    if dataset == "mnist_5k":
        real_name = "the other half of mnist_5k"
        k = 2  # they are training images, each its own nearest one
    name = "distance to the nearest training image"
    metrics["generated"][name] = distance_to_nearest(generated, train)
    metrics["real"][name] = distance_to_nearest(real, train, k)

    about = {"model": str(model_path), **G.about, "samples": len(real), "seed of samples": seed}
    about["real"] = real_name
    print(f"\n{model_path} ({describe(G.about)})")
    print(f"generated: {len(real):,} samples with seed {seed}; real: {real_name}\n")
    print_metrics(metrics)
    if model_path.resolve() not in (PRETRAINED, PRETRAINED_CONDITIONAL):  # theirs are shipped
        text = json.dumps({"about": about, **metrics}, indent=1)
        path = metrics_path(model_path)
        with only_warn():  # in a folder of somebody else's
            save_whole(path, lambda file: file.write(text.encode()))
            print(f"Wrote {path}")
    return metrics


def choose_images(G, dataset, num_samples, seed, data_dir):
    """Return the images that evaluate takes, uint8 (N, C, H, W), and the name of their data set.

    All training images, then num_samples of them as the reference, then as many other real ones:
    test images, or the other half of the bundle.
    """
    side = G.image_shape[-1]
    train, _, dataset = load_dataset(dataset, data_dir, image_size=side)
    if dataset == "mnist_5k":
        reference, real = shuffled(train, seed).chunk(2)
    else:
        test, _, _ = load_dataset(dataset, data_dir, train=False, image_size=side)
        reference = shuffled(train, seed)
        real = shuffled(test, seed)
    n = min(num_samples, len(reference), len(real))
    if n < 400:
        raise UserError(
            f"NUM_SAMPLES (--num_samples) is {num_samples}, and {dataset} has {len(real)} images "
            "to compare: at least 400 are needed"
        )
    return train, reference[:n], real[:n], dataset


def distance_to_nearest(images, train, k=1):
    """Return the median distance of 1,000 uint8 images to their k-th nearest training image."""
    return nearest(images[:1000].flatten(1) / 255, train.flatten(1) / 255, k).median().item()


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
        "told by outlines alone": two_sample_accuracy(outlines(reference), outlines(images)),
        "share below 90% confidence": (probabilities.amax(1) < 0.9).float().mean().item(),
        "classes covered": (shares >= 0.1 / len(shares)).sum().item(),
        "shares of the classes": [round(share, 4) for share in shares.tolist()],
    }


def print_metrics(metrics):
    """Print a table with a line for each metric: of generated images, of real ones, what is better.

    Below it: how often each class comes.
    """
    print(f"{'':44}{'generated':>11}{'real':>10}   better")
    for key, (digits, better) in METRIC_LINES.items():
        if key in metrics["generated"]:
            generated = metrics["generated"][key]
            real = metrics["real"][key]
            print(f"{key:44}{generated:11{digits}}{real:10{digits}}   {better}")
    shares = [f"{100 * share:.1f}" for share in metrics["generated"]["shares of the classes"]]
    print(f"\nshares of the classes, generated, in %: {' '.join(shares)}")


# ── The page ── demo.html with a generator in it, which draws in a browser ────────────────────────

TEMPLATE = PROJECT / "demo.html"
MAX_PAGE_BYTES = 20_000_000
PAGE_GRIDS = 60  # at most so many grids replay the training
PAGE_GRID_WIDTH = 320  # pixels, at most
PAGE_DIGITS = 20  # real ones of each class in the page; the game takes ten of all
PAGE_FUNCTIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh, ScaledSigmoid)  # which it can compute


def demo(model_path="", samples_dir=SAMPLES_DIR, checkpoint_dir=CHECKPOINT_DIR):
    """Write a web page that runs a generator in the browser and needs nothing else.

    It replays the training if the grids of the generator's run are there. Returns the path. Raises
    UserError if there is no generator, or if it is too large.
    """
    G, model_path = find_generator(model_path, checkpoint_dir)
    path = Path(samples_dir) / "demo.html"
    if path.resolve() == TEMPLATE:
        raise UserError(f"{path} is the template of the page: choose another SAMPLES_DIR")
    model = {
        "about": describe(G.about),
        "grids": page_grids(G, model_path),
        "real": page_digits(G),
        "told": told_by_networks(model_path),
        **page_generator(G),
    }
    text = json.dumps(model).replace("<", "\\u003c")
    page = TEMPLATE.read_bytes().replace(b"/*MODEL*/null", text.encode())
    megabytes = len(page) / 1e6
    if len(page) > MAX_PAGE_BYTES:
        raise UserError(
            f"{model_path} would make a page of {megabytes:.0f} MB, too much for a browser: "
            "train a generator with a smaller WIDTH or G_HIDDEN"
        )
    save_whole(path, lambda file: file.write(page))
    print(f"Wrote {path} ({megabytes:.1f} MB), drawn by\n{model_path} ({describe(G.about)})")
    if model["grids"]:
        print(f"It replays the training in {len(model['grids'])} grids")
    print("Open it in a browser")
    return path


def page_grids(G, model_path):
    """Return the grids of a generator's run for the page: a list of epochs with PNGs in base64.

    They are where settings.json, beside the generator, says; the list is empty if there are none.
    """
    settings = model_path.with_name("settings.json")
    grids = {}
    if model_path.resolve() == PRETRAINED:
        with Image.open(PRETRAINED_GRIDS) as gif:
            box = (0, caption_height(gif.width), gif.width, gif.height)
            frames = [frame.convert("L").crop(box) for frame in ImageSequence.Iterator(gif)]
        grids = dict(enumerate(frames, 1))  # one of each epoch
    elif settings.exists() and model_path.resolve() != PRETRAINED_CONDITIONAL:
        folder = json.loads(settings.read_text())["settings"]["samples_dir"]
        paths = epoch_files(folder, ".png", G.about.get("epochs", 0))
        chosen = np.linspace(0, len(paths) - 1, min(PAGE_GRIDS, len(paths))).round().astype(int)
        for number in chosen:
            grids[epoch_number(paths[number])] = read_picture(paths[number])
    pictures = []
    for epoch, grid in grids.items():
        small = grid.reduce(math.ceil(grid.width / PAGE_GRID_WIDTH))
        colours = 64
        if small.mode == "L":
            colours = 16  # so that 60 grids are below a megabyte
        pictures.append({"epoch": epoch, "png": to_base64(small.quantize(colours))})
    return pictures


def to_base64(picture):
    """Return a picture as a PNG in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
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


def told_by_networks(model_path):
    """Return how often a new network tells G's digits from real ones; None if not evaluated."""
    path = metrics_path(model_path)
    if not path.exists():
        return None
    measured = json.loads(path.read_text())["generated"]
    return {"A network, outlines alone": measured["told by outlines alone"]}


@torch.no_grad()
def page_generator(G):
    """Return a generator as the page takes it.

    Its layers are a list of shapes: linear ones have "outputs", transposed convolutions "channels"
    and the "side" of what they draw. The weights are float16 in base64: for each layer its weights,
    input by input, then its biases. BatchNorm is folded into the layer before it.
    """
    layers = []  # weight and bias
    for layer in G.layers:
        if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)):
            layers.append((layer.weight, layer.bias))
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layers[-1] = fold_norm(*layers[-1], layer)
        elif isinstance(layer, nn.Unflatten):
            side = layer.unflattened_size[-1]
        elif not isinstance(layer, PAGE_FUNCTIONS):
            raise UserError(f"the page cannot compute a layer {layer}; generate can draw")
    shapes = []
    numbers = []
    for weight, bias in layers:
        if weight.ndim == 2:
            weight = weight.T  # (inputs, outputs)
            shapes.append({"outputs": weight.shape[1]})
        else:
            side = 2 * side
            shapes.append({"channels": weight.shape[1], "side": side})
        if bias is None:
            bias = torch.zeros(weight.shape[1])
        numbers += [weight.flatten(), bias]
    return {
        "latent_dim": G.latent_dim,
        "classes": G.classes,
        "class_names": G.about.get("class_names", [])[: G.classes],
        "modes": G.modes,
        "image_shape": G.image_shape,
        "activation": G.arguments["g_activation"],
        "end": G.arguments["g_end"],
        "layers": shapes,
        "weights": base64.b64encode(torch.cat(numbers).half().numpy()).decode(),
    }


def fold_norm(weight, bias, norm):
    """Return weight and bias of a layer with the BatchNorm after it, a fixed scale and shift."""
    statistics = [norm.running_mean, norm.running_var, norm.weight, norm.bias]
    if weight.ndim == 4:
        mean, var, scale, shift = statistics
        return fuse_conv_bn_weights(weight, bias, mean, var, norm.eps, scale, shift, transpose=True)
    pixels = len(weight) // norm.num_features  # of a channel, in the linear layer before an image
    mean, var, scale, shift = (each.repeat_interleave(pixels) for each in statistics)
    return fuse_linear_bn_weights(weight, bias, mean, var, norm.eps, scale, shift)


# ── Command line ── Every constant is a flag; one table says what each of them may be ─────────────

COMMANDS = {"train": train_gan, "generate": generate, "evaluate": evaluate, "demo": demo}
ANY = math.inf
PATH = "a path"
SWITCH = "True or False"
WIDTHS = "one or more whole numbers above 0"
LIMITS = {  # (lowest, highest) of a number, which is whole if the lowest is; the choices; or words
    "epochs": (1, ANY),
    "batch_size": (2, ANY),
    "latent_dim": (1, ANY),
    "learning_rate_g": (0.0, 10.0),
    "learning_rate_d": (0.0, 10.0),
    "seed": (0, 2**31 - 1),
    "samples_dir": PATH,
    "checkpoint_dir": PATH,
    "preset": ["none", *PRESETS],
    "dataset": PATH,
    "data_dir": PATH,
    "image_size": (0, 128),
    "augment": ["none", "shift", "auto"],
    "g_hidden": WIDTHS,
    "d_hidden": WIDTHS,
    "modes": (0, ANY),
    "smooth": (0.0, 4.0),
    "conditional": SWITCH,
    "dropout": (0.0, 0.999),
    "d_slope": (0.0, 1.0),
    "spectral_norm": SWITCH,
    "g_norm": ["batch", "none"],
    "g_activation": [*ACTIVATIONS],
    "g_end": [*ENDS],
    "g_arch": ["mlp", "dcgan"],
    "d_arch": ["mlp", "dcgan"],
    "d_norm": ["none", "batch"],
    "width": (1, ANY),
    "loss": ["bce", "hinge", "wgan_gp"],
    "gradient_penalty": (0.0, ANY),
    "label_smoothing": (0.0, 0.5),
    "d_steps": (1, ANY),
    "beta1": (0.0, 0.999999),
    "beta2": (0.0, 0.999999),
    "lr_decay_start": (0, ANY),
    "ema_decay": (0.0, 0.999999),
    "grad_clip": (0.0, ANY),
    "device": ["auto", "cuda", "mps", "cpu"],
    "precision": ["auto", "fp32", "bf16"],
    "threads": (0, ANY),
    "resume": SWITCH,
    "overwrite": SWITCH,
    "save_every": (1, ANY),
    "keep_checkpoints": (0, ANY),
    "keep_generator_every": (0, ANY),
    "grid_every_steps": (0, ANY),
    "num_samples": (1, 10_000),
    "zoom": (0, 100),
    "metrics_every": (0, ANY),
    "tensorboard": SWITCH,
    "model_path": PATH,
    "digit": str,
    "separate": SWITCH,
    "interpolate": SWITCH,
    "show": SWITCH,
}
FLAG_HELP = {  # of what is no constant, or means something else to a command
    "model_path": "file of the generator; the newest one of CHECKPOINT_DIR, if not given",
    "digit": "number or name of the class that a conditional generator is to draw",
    "separate": "write each image as a PNG file of its own too",
    "interpolate": "draw walks from one random point to the next, of 8 images in each row",
    "show": "open the picture in a window",
    "generate num_samples": "number of images to draw",
    "generate seed": "the same seed draws the same digits",
    "evaluate num_samples": "number of samples to measure",
    "evaluate seed": "the same seed draws the same samples",
    "evaluate data_dir": "folder of the data set that the generator was trained on",
    "demo samples_dir": "folder into which demo.html is written",
}
train_gan.__signature__ = inspect.Signature(  # what help(train_gan) and notebooks show
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
    for name, value in DEFAULTS.items()
)
training.__signature__ = train_gan.__signature__


def check(name, value):
    """Return a setting as a plain bool, int, float, str or tuple, if it is allowed."""
    limits = LIMITS.get(name) or type(DEFAULTS[name])  # of a constant of the reader's own
    try:
        return convert(value, limits)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(limits, list):
            limits = " | ".join(limits)
        elif isinstance(limits, tuple):
            kind = {int: "a whole number", float: "a number"}[type(limits[0])]
            limits = f"{kind} from {limits[0]} to {limits[1]}".replace(" to inf", " on")
        message = f"{name.upper()} (--{name}) is {value!r}: allowed is {limits}"
        raise UserError(message) from error


def convert(value, limits):
    """Return a value in the type that its limits ask for; raise an error if it does not fit."""
    if limits == PATH or isinstance(value, Path):
        return str(os.path.expanduser(os.fspath(value)))
    if limits == SWITCH and isinstance(value, bool):
        return value
    if limits == WIDTHS:
        if isinstance(value, (int, str)):
            value = [value]
        widths = tuple(int(width) for width in value)
        if min(widths) > 0:
            return widths
    if isinstance(limits, list) and str(value) in limits:
        return str(value)
    if isinstance(limits, tuple):
        number = type(limits[0])(value)
        if number == float(value) and limits[0] <= number <= limits[1]:
            return number
    if isinstance(limits, type):
        return limits(value)
    raise ValueError(value)


def make_config(**settings):
    """Return all settings, checked and frozen: as given, else of the preset, else the constants."""
    for name in settings:
        if name not in DEFAULTS:
            raise UserError(f"there is no setting {name}: {nearest_names(name, DEFAULTS)}")
    preset = check("preset", settings.get("preset", DEFAULTS["preset"]))
    values = {**DEFAULTS, **PRESETS.get(preset, {}), **settings}
    return Config(**{name: check(name, values[name]) for name in DEFAULTS})


def nearest_names(name, names):
    """Return advice on a name that there is not: those that are written or abbreviated alike."""
    name = name.lower().replace("-", "_")
    similar = difflib.get_close_matches(name, names, cutoff=0.5)
    for other in names:
        initials = "".join(word[0] for word in other.split("_"))  # lr -> learning_rate_g
        if initials.startswith(name.replace("_", "")) and other not in similar:
            similar.append(other)
    if not similar:
        return "--help shows all"
    return f"did you mean {' or '.join(similar)}?"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors, which say what flag may have been meant."""

    def error(self, message):
        _, _, flags = message.partition("unrecognized arguments: ")
        if flags:
            name = flags.split()[0].lstrip("-").partition("=")[0]
            message += "; " + nearest_names(name, [action.dest for action in self._actions])
        raise UserError(message)


def build_parser(command):
    """Return the parser of a command: a flag for each parameter, in both spellings."""
    function = COMMANDS[command]
    description = (inspect.getdoc(function) or "").partition("\n\n")[0]  # None by python -OO
    epilog = "--no-NAME turns a switch off. Both --batch_size and --batch-size are understood."
    if command == "train":
        description = __doc__
        presets = [f"  {name:16}{preset['about']}" for name, preset in PRESETS.items()]
        epilog = "\n".join(["presets:", *presets, "", epilog])
    source = Path(__file__).read_text(encoding="utf-8")
    comments = dict(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)\b.*?  # (.+)$", source))
    parser = Parser(
        prog=f"python gan_mnist.py {command}",
        usage="%(prog)s [flags]",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        text = FLAG_HELP.get(f"{command} {name}") or FLAG_HELP.get(name)
        text = text or comments.get(name.upper(), "")
        options = {"dest": name, "metavar": "X"}
        if LIMITS.get(name) == WIDTHS:
            options["nargs"] = "+"
        if isinstance(default, tuple):
            default = " ".join(map(str, default))
        if isinstance(default, bool):
            options = {"dest": name, "action": argparse.BooleanOptionalAction}
        elif default != "":
            text += f" [{default}]"
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(*spellings, help=text.replace("%", "%%"), **options)
    return parser


def run_command(arguments):
    """Run the command line: the command that it names, `train` if it names none."""
    command = "train"
    if arguments and not arguments[0].startswith("-"):
        command, *arguments = arguments
    if command not in COMMANDS:
        raise UserError(f"there is no command {command}: {nearest_names(command, COMMANDS)}")
    function = COMMANDS[command]
    given = vars(build_parser(command).parse_args(arguments))
    if command != "train":  # which checks its settings itself
        for name, parameter in inspect.signature(function).parameters.items():
            given[name] = check(name, given.get(name, parameter.default))
    function(**given)


def main(arguments=None):
    """Run the command line; return 0, 2 for what the user can mend, 130 after Ctrl-C.

    1 where nobody reads the output. A bug is raised.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that it cannot show
    os.environ.pop("MPLBACKEND", None)  # of a notebook that has started this; files need none
    try:
        run_command(arguments)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):  # `| head`, or a terminal that is gone
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not printed
        with contextlib.suppress(OSError):
            print(
                "Nobody reads the output: stopped. --resume continues a training", file=sys.stderr
            )
        return 1
    except KeyboardInterrupt:
        if is_first_process():
            print("\nStopped by Ctrl-C. A training is continued by --resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
