"""Measure the recipes of the README's table, seed by seed, and draw FD against seconds.

    python tests/record.py --data_dir data                       all that is not measured yet
    python tests/record.py --recipes defaults --seeds 0 1        some of them
    python tests/record.py --recipes --seeds                     nothing: the table and the picture

Each run is `python gan_mnist.py` with the flags below, in a process of its own, with its files in
--out; what was measured is kept in tests/record.json, and a run that is there is not done again.
"""

import argparse
import csv
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import gan_mnist

RECIPES = {
    "defaults": [],
    "classic": """--modes 0 --d_hidden 512 256 --dropout 0.3 --learning_rate_g 2e-4
        --learning_rate_d 2e-4 --beta1 0.5 --batch_size 64 --lr_decay_end 0 --gradient_penalty 0
        --ema_decay 0 --epochs 80""".split(),
    "bundle": ["--dataset", "mnist_5k"],
    "long": ["--epochs", "150", "--lr_decay_end", "190"],
}
MINUTES = (1, 3, 10)  # if the run takes so long, and the end
RECORD = ROOT / "tests" / "record.json"


def train(recipe, seed, data_dir, out):
    """Train in a process of its own, if that has not been done -> folder of its checkpoints."""
    folder = out / f"{recipe}_{seed}"
    if not (folder / "generator_final.pth").exists():
        flags = ["--data_dir", str(data_dir), "--seed", str(seed), "--keep_checkpoints", "0"]
        flags += ["--samples_dir", str(folder), "--checkpoint_dir", str(folder), "--overwrite"]
        command = [sys.executable, str(ROOT / "gan_mnist.py"), *flags, *RECIPES[recipe]]
        with (out / f"{recipe}_{seed}.log").open("w") as log:
            subprocess.run(command, stdout=log, check=True)
    return folder


def history(folder):
    """-> seconds of training up to each epoch's end, FD of 2,000 samples after it or nan."""
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    seconds = torch.tensor([float(row["seconds"]) for row in rows]).cumsum(0)
    return seconds.tolist(), [float(row["fd"] or "nan") for row in rows]


def measure(path, judge, reference, features, seed):
    """Path of a generator or checkpoint -> figures of 10,000 samples: FD to all training images of
    MNIST, the others against `reference`, as many of them with their features."""
    fake = gan_mnist.to_uint8(gan_mnist.load_generator(path).sample(len(reference), seed))
    fake_features, p = judge.look(fake)
    precision, recall = gan_mnist.precision_recall(features, fake_features)
    return {
        "fd": gan_mnist.frechet_distance(
            *judge.notes["train"], *gan_mnist.statistics(fake_features)
        ),
        "precision": precision,
        "recall": recall,
        "told": gan_mnist.two_sample_accuracy(reference, fake),
        "classes": (p.argmax(1).bincount(minlength=10) >= len(p) // 100).sum().item(),
    }


def record(recipe, seed, data_dir, out):
    """Train and measure one run -> what tests/record.json keeps of it."""
    images, _, name = gan_mnist.load_dataset("mnist", data_dir)  # for the bundle's runs too
    if name != "mnist":
        raise SystemExit("the record needs all of MNIST: say by --data_dir where it is")
    folder = train(recipe, seed, data_dir, out)
    judge = gan_mnist.load_judge("mnist", data_dir)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    reference = images[order[:10_000]]
    features, _ = judge.look(reference)
    seconds, fds = history(folder)
    figures = {}
    shorter = [minutes for minutes in MINUTES if 60 * minutes < seconds[-1]]
    for minutes in (*shorter, math.inf):  # the last epoch that has ended by then
        epoch = sum(time <= 60 * minutes for time in seconds)
        path = folder / f"epoch_{epoch:04d}.pth"
        at = "the end" if minutes == math.inf else f"{minutes} min"
        figures[at] = measure(path, judge, reference, features, seed) | {
            "epoch": epoch,
            "seconds": seconds[epoch - 1],
        }
    machine = f"{os.cpu_count()} cores, {gan_mnist.choose_device('auto', 'auto')[1]}"
    return {
        "machine": f"{platform.machine()}, {machine}, torch {torch.__version__}",
        "curve": [
            (round(time, 1), round(fd, 3))
            for time, fd in zip(seconds, fds, strict=True)
            if fd == fd
        ],
        "figures": figures,
    }


def print_table(runs):
    """{recipe: {seed: what record returns}} -> the README's table, means ± standard deviations."""
    print("| recipe | after | epoch | FD | precision | recall | told | classes | seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for recipe, seeds in runs.items():
        first, *others = [run["figures"] for run in seeds.values()]
        for at in first:
            if not all(at in other for other in others):  # not every run took so long
                continue
            rows = [figures[at] for figures in (first, *others)]
            cells = [f"{statistics.mean(row['seconds'] for row in rows) / 60:.1f} min"]
            cells += [f"{statistics.mean(row['epoch'] for row in rows):.0f}"]
            for key in ("fd", "precision", "recall", "told"):
                values = [row[key] for row in rows]
                digits = 2 if key == "fd" else 3
                spread = statistics.stdev(values) if len(values) > 1 else math.nan
                cells += [f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"]
            cells += [str(min(row["classes"] for row in rows)), ", ".join(seeds)]
            print(f"| {recipe} | {' | '.join(cells)} |")


def draw(path, runs):
    """{recipe: {seed: what record returns}} -> a picture with a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (recipe, seeds) in enumerate(runs.items()):
        for run, each in enumerate(seeds.values()):
            label = f"{recipe} (seeds: {len(seeds)})" if run == 0 else None
            axes.plot(*zip(*each["curve"], strict=True), color=f"C{number}", alpha=0.7, label=label)
    axes.set(
        yscale="log",
        xlabel="seconds of training",
        ylabel="FD-mnist of 2,000 samples to the training images",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path, default=Path("record"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    runs = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for recipe in options.recipes:
        for seed in options.seeds:
            if str(seed) not in runs.setdefault(recipe, {}):
                print(f"{recipe}, seed {seed}", flush=True)
                runs[recipe][str(seed)] = record(recipe, seed, options.data_dir, options.out)
                RECORD.write_text(json.dumps(runs) + "\n")
    print_table(runs)
    draw(ROOT / "generated_samples" / "gallery_fd.png", runs)


if __name__ == "__main__":
    main()
