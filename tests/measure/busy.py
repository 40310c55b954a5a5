"""Measure what another busy program costs: python tests/measure/busy.py [--turns 3]

The training step of the defaults runs for some seconds on an otherwise idle machine, then beside a
program that keeps one core busy: with all CPU threads, with one, and with as many as the script
chooses when a run starts. Each measurement is a process of its own, which starts as a command does,
or as a notebook in which PyTorch has worked with all threads before. They take turns, and medians
are printed.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WAYS = {"all threads": "all", "one thread": "1", "as the script chooses": "0"}
STARTS = ("command", "notebook")
BUSY = [sys.executable, "-c", "while True: pass"]


def print_rate(start, threads, seconds):
    """Train for some seconds, and print the images per second."""
    import benchmark
    import torch

    import gan_mnist

    if start == "notebook":
        matrix = torch.randn(2000, 2000)
        for _ in range(10):
            matrix @ matrix
    if threads == "all":
        threads = torch.get_num_threads()
    config = gan_mnist.make_config(device="cpu", threads=threads)
    with gan_mnist.cpu_threads(config, None):
        images, labels = gan_mnist.load_bundle()
        steps = benchmark.our_steps(images, labels, config)
        for period in (1, seconds):  # the first one is a warm-up
            rate = benchmark.rate(lambda: next(steps), config.batch_size, period)
    print(rate)


def measure(start, threads, seconds):
    """Return the images per second of a new process."""
    command = [sys.executable, __file__, "--seconds", str(seconds), "--only", start, threads]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement [4]")
    parser.add_argument("--turns", type=int, default=3, help="of each way [3]")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)  # what a process is to do
    args = parser.parse_args()
    if args.only:
        print_rate(*args.only, args.seconds)
        return

    rows = list(itertools.product(WAYS, STARTS))
    idle = {row: [] for row in rows}
    busy = {row: [] for row in rows}
    for _ in range(args.turns):
        for way, start in rows:
            idle[way, start].append(measure(start, WAYS[way], args.seconds))
            other = subprocess.Popen(BUSY)
            try:
                busy[way, start].append(measure(start, WAYS[way], args.seconds))
            finally:
                other.kill()
                other.wait()
    print(f"{os.cpu_count()} cores\n")
    print("| CPU threads | started as a | images/s, idle machine | one core busy |")
    print("|---|---|---|---|")
    for row in rows:
        cells = list(row)
        for rates in (idle[row], busy[row]):
            median = statistics.median(rates)
            cells.append(f"{median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
