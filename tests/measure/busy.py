"""Measure what another busy program costs: python tests/measure/busy.py [--turns 5]

The training step of the defaults runs for some seconds on an otherwise idle machine, then beside a
program that keeps one core busy, with several ways in which PyTorch's CPU threads may wait for each
other. Each measurement is a process of its own, as these ways are chosen when PyTorch is loaded;
they take turns, and medians are printed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAYS = {  # environment variables; GOMP_ is for GNU OpenMP, which PyTorch has on Linux
    "as PyTorch chooses": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "one thread (`--threads 1`)": {"OMP_NUM_THREADS": "1"},
}
BUSY = [sys.executable, "-c", "while True: pass"]


def print_rate(seconds):
    """Train for some seconds and print the images per second."""
    sys.path.insert(0, str(ROOT))
    import torch

    import gan_mnist

    torch.set_flush_denormal(True)
    images, labels = gan_mnist.load_bundle()
    config = gan_mnist.make_config(device="cpu")
    gan = gan_mnist.GAN(config, images.shape[1:])
    loader = gan_mnist.make_loader(images, labels, config.batch_size)
    for period in (1, seconds):  # the first one is a warm-up
        count = 0
        start = time.perf_counter()
        for real, classes in loader:
            gan.train_step(gan_mnist.to_float(real), classes)
            count += config.batch_size
            if time.perf_counter() - start > period:
                break
    print(count / (time.perf_counter() - start))


def rate(variables, seconds):
    """Return the images per second of a process with these environment variables."""
    command = [sys.executable, __file__, "--rate", str(seconds)]
    environment = {**os.environ, **variables}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement [4]")
    parser.add_argument("--turns", type=int, default=5, help="of each way [5]")
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)  # what a process is to do
    args = parser.parse_args()
    if args.rate:
        print_rate(args.rate)
        return

    idle = {way: [] for way in WAYS}
    busy = {way: [] for way in WAYS}
    for _ in range(args.turns):
        for way, variables in WAYS.items():
            idle[way].append(rate(variables, args.seconds))
            other = subprocess.Popen(BUSY)
            try:
                busy[way].append(rate(variables, args.seconds))
            finally:
                other.kill()
                other.wait()
    print(f"{os.cpu_count()} cores\n")
    print("| threads wait | images/s, idle machine | one core busy |")
    print("|---|---|---|")
    for way in WAYS:
        cells = []
        for rates in (idle[way], busy[way]):
            median = statistics.median(rates)
            cells.append(f"{median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
