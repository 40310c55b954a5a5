"""Measure the recipes of the README's table, seed by seed, and draw FD against seconds.

    python tests/record.py --data_dir data                       all rows, several hours
    python tests/record.py --recipes defaults --seeds 0 1        some of them

Each run is `python gan_mnist.py` with the flags below, in a process of its own, and is kept in
--out: what is there already is measured again, but not trained again.
"""

import argparse
import csv
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
    "classic": """--d_hidden 512 256 --dropout 0.3 --learning_rate_g 2e-4 --learning_rate_d 2e-4
        --beta1 0.5 --batch_size 64 --lr_decay_end 0 --gradient_penalty 0 --epochs 40""".split(),
    "bundle": ["--dataset", "mnist_5k"],
}
MINUTES = (1, 3)  # and the end


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


def measure(path, judge, reference, seed):
    """Path of a generator or checkpoint -> FD, recall and classes covered of 10,000 samples."""
    G = gan_mnist.load_generator(path)
    features, p = judge.look(gan_mnist.to_uint8(G.sample(10_000, seed)))
    fd = gan_mnist.frechet_distance(*judge.notes["train"], *gan_mnist.statistics(features))
    _, recall = gan_mnist.precision_recall(reference, features)
    return fd, recall, (p.argmax(1).bincount(minlength=10) >= 100).sum().item()


def draw(path, curves):
    """{recipe: [(seconds, FDs), ...]} -> a picture with a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (recipe, runs) in enumerate(curves.items()):
        for run, (seconds, fds) in enumerate(runs):
            label = f"{recipe}, {len(runs)} seeds" if run == 0 else None
            read = [(time, fd) for time, fd in zip(seconds, fds, strict=True) if fd == fd]
            axes.plot(*zip(*read, strict=True), color=f"C{number}", alpha=0.7, label=label)
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
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path, default=Path("record"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    judge = gan_mnist.load_judge("mnist", options.data_dir)
    floor = gan_mnist.frechet_distance(*judge.notes["train"], *judge.notes["test"])
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch ", end="")
    print(f"{torch.__version__}; FD of the 10,000 test images: {floor:.2f}\n")
    print("| recipe | at | FD | recall | classes | seeds |\n|---|---|---|---|---|---|")
    curves = {}
    for recipe in options.recipes:
        rows, curves[recipe] = {}, []
        for seed in options.seeds:
            folder = train(recipe, seed, options.data_dir, options.out)
            seconds, fds = history(folder)
            curves[recipe].append((seconds, fds))
            name = gan_mnist.load_generator(folder / "generator_final.pth").about["data"]
            images, _, _ = gan_mnist.load_dataset(name.partition(",")[0], options.data_dir)
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            reference, _ = judge.look(images[order[:10_000]])
            for minutes in MINUTES:  # the last epoch that has ended by then
                epoch = sum(time <= 60 * minutes for time in seconds)
                path = folder / f"epoch_{epoch:04d}.pth"
                rows.setdefault(f"{minutes} min", []).append(measure(path, judge, reference, seed))
            end = measure(folder / "generator_final.pth", judge, reference, seed)
            rows.setdefault("the end", []).append((*end, seconds[-1]))
        for at, runs in rows.items():
            if at == "the end":
                at += f", {statistics.mean(run[3] for run in runs) / 60:.1f} min"
            cells = [
                f"{statistics.mean(values):.2f} ± {statistics.pstdev(values):.2f}"
                for values in list(zip(*runs, strict=True))[:2]
            ]
            classes = min(run[2] for run in runs)
            print(f"| {recipe} | {at} | {cells[0]} | {cells[1]} | {classes} | {len(runs)} |")
    draw(options.out / "record.png", curves)
    print(f"\nWrote {options.out / 'record.png'}")


if __name__ == "__main__":
    main()
