"""Measure speed and memory: python tests/measure/benchmark.py [--turns 7]

Three training loops over the same networks take turns, a few seconds each, and the medians of their
rates are compared: so the figures hold on a machine whose speed drifts.

- customary: PIL transforms in a DataLoader, BCELoss on sigmoids, separate passes of D for real and
  fake, plain Adam, both losses read by .item() in each step; no averaging of G
- ours in fp32, with all that the script does: averaging of G, D's accuracy
- ours as it is by default: bf16 where the processor has it, else the same as fp32

Beside them: the rate of a 1024 x 1024 matrix product, the share of it that our loop reaches by the
least arithmetic that the step needs, the time to load 60,000 images, and the peak of memory.
"""

import argparse
import itertools
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gan_mnist


class CustomaryDataset(Dataset):
    """What torchvision.datasets.MNIST with a transform does for each image."""

    def __init__(self, images, labels):
        self.images = images.squeeze(1)
        self.labels = labels
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )

    def __len__(self):
        return gan_mnist.EPOCH_IMAGES

    def __getitem__(self, index):
        index %= len(self.images)
        image = Image.fromarray(self.images[index].numpy())
        return self.transform(image), int(self.labels[index])


def customary_steps(images, labels, config, device="cpu"):
    """Train in the customary way, one step for each next()."""
    batch_size = config.batch_size
    G = gan_mnist.Generator().to(device)
    D = gan_mnist.Discriminator(config.d_hidden)
    D = nn.Sequential(D, nn.Unflatten(0, (-1, 1)), nn.Sigmoid()).to(device)
    bce = nn.BCELoss()
    betas = (config.beta1, config.beta2)
    optimizer_g = torch.optim.Adam(G.parameters(), config.learning_rate_g, betas)
    optimizer_d = torch.optim.Adam(D.parameters(), config.learning_rate_d, betas)
    loader = DataLoader(CustomaryDataset(images, labels), batch_size, shuffle=True, drop_last=True)
    ones = torch.ones(batch_size, 1, device=device)
    zeros = torch.zeros(batch_size, 1, device=device)
    for real, _ in itertools.chain.from_iterable(itertools.repeat(loader)):
        real = real.to(device)
        fake = G(torch.randn(batch_size, config.latent_dim, device=device))
        d_loss = bce(D(real), ones) + bce(D(fake.detach()), zeros)
        optimizer_d.zero_grad()
        d_loss.backward()
        optimizer_d.step()
        g_loss = bce(D(fake), ones)
        optimizer_g.zero_grad()
        g_loss.backward()
        optimizer_g.step()
        yield d_loss.item(), g_loss.item()


def our_steps(images, labels, config):
    """Train as gan_mnist.py does, one step for each next()."""
    data = gan_mnist.describe_data(images, labels, config.dataset)
    gan = gan_mnist.GAN(config, images.shape[1:], data)
    loader = gan_mnist.make_loader(images, labels, config.batch_size)
    for real, classes in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield gan.train_step(gan_mnist.to_float(real), classes)


def rate(do, work, seconds):
    """Return how much is done in a second when do() does `work` at a time."""
    done = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        do()
        done += work
    return done / (time.perf_counter() - start)


def matrix_rate(seconds):
    """Return floating point operations per second of a 1024 x 1024 fp32 matrix product."""
    a, b = torch.randn(2, 1024, 1024)
    return rate(lambda: torch.mm(a, b), 2 * 1024**3, seconds)


def operations_per_image(config):
    """Return the least arithmetic of a step for one real and one fake image.

    Two operations for a weight. G: forward, gradient of its weights and of its inputs, but for z.
    D: forward and gradient of its weights for both images, and of its inputs, but for the images.
    Then G's step through D: forward and gradient of its inputs.
    """
    G = gan_mnist.Generator()
    D = gan_mnist.Discriminator(config.d_hidden)
    g, d = (sum(p.numel() for p in net.parameters() if p.ndim == 2) for net in (G, D))
    g_step = 3 * g - G.layers[0].weight.numel()
    d_step = 2 * (3 * d - D.layers[0].weight.numel())
    return 2 * (g_step + d_step + 2 * d)


def print_loading_time(images, labels, turns):
    """Print how long it takes to load an epoch in batches of 64 on one thread."""
    loader = gan_mnist.make_loader(images, labels, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        count = sum(len(batch) for batch, _ in loader)
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    print(f"loading {count:,} images on one thread: {statistics.median(times):.2f} s\n")


def print_rates(images, labels, config, turns, seconds):
    """Print a line of the table for each loop, with the batch size of config."""
    fp32 = config._replace(precision="fp32")
    loops = {
        "customary": customary_steps(images, labels, config),
        "ours, fp32": our_steps(images, labels, fp32),
        "ours, default": our_steps(images, labels, config),
    }
    rates = {loop: [] for loop in loops}
    matrix = []
    for turn in range(1 + turns):  # the first one is a warm-up
        for loop, steps in loops.items():
            rates[loop].append(rate(lambda steps=steps: next(steps), config.batch_size, seconds))
        matrix.append(matrix_rate(seconds / 3))
        if turn == 0:
            rates = {loop: [] for loop in loops}
            matrix = []
    operations = operations_per_image(config)
    for loop, values in rates.items():
        ratio = statistics.median(map(float.__truediv__, values, rates["customary"]))
        share = operations * statistics.median(map(float.__truediv__, values, matrix))
        print(
            f"| {config.batch_size} | {loop} | {statistics.median(values):,.0f} "
            f"({min(values):,.0f} to {max(values):,.0f}) | {ratio:.1f} | {share:.0%} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each turn [3]")
    parser.add_argument("--turns", type=int, default=7, help="of each loop [7]")
    parser.add_argument("--dataset", default="mnist_5k", help="[mnist_5k]")
    parser.add_argument("--data_dir", default="data", help="[data]")
    parser.add_argument("--d_hidden", type=int, nargs="+", default=gan_mnist.D_HIDDEN)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    images, labels, name = gan_mnist.load_dataset(args.dataset, args.data_dir)
    config = gan_mnist.make_config(device="cpu", d_hidden=args.d_hidden)
    _, dtype = gan_mnist.choose_device("cpu", "auto")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"{name}, D {config.d_hidden}; default precision here: {dtype}"
    )
    print_loading_time(images, labels, args.turns)
    print("| batch | loop | images/s (lowest to highest) | times customary | of matrix rate |")
    print("|---|---|---|---|---|")
    for batch_size in (64, config.batch_size):
        of_size = config._replace(batch_size=batch_size)
        print_rates(images, labels, of_size, args.turns, args.seconds)
    operations = operations_per_image(config)
    print(f"\na matrix product makes {matrix_rate(1) / 1e9:.0f} GFLOP/s")
    print(f"a step needs {operations / 1e6:.1f} MFLOP an image")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, else KiB
    peak /= 2**30 if sys.platform == "darwin" else 2**20
    print(f"peak memory of this process, all loops together: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
