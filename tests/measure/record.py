"""Train and measure the recipes of the README's results, seed by seed.

    python tests/measure/record.py --data_dir data                 all that is not measured yet
    python tests/measure/record.py --recipes defaults --seeds 0 1  some of them
    python tests/measure/record.py --recipes --seeds               none: the table and the picture
    python tests/measure/record.py --modes checkpoints/generator_final.pth
    python tests/measure/record.py --pretrained checkpoints/generator_final.pth

Each run is `python gan_mnist.py --threads 1` with the flags below, in a process of its own, with
its files in --out; with two cores, start this script twice, with different seeds. What was measured
is kept in record.json, and a run that is there is not done again: delete its entry and its folder
in --out to repeat it.
--modes measures no recipe, but prints which digits the modes of generators draw, and draws samples
of those of the first one into modes.png.
--pretrained writes a generator in half precision to checkpoints/pretrained.pth, a conditional one
to checkpoints/pretrained_conditional.pth, which the commands take before the first run.
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

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import gan_mnist

RECIPES = {
    "epochs_10": ["--epochs", "10"],
    "epochs_20": ["--epochs", "20"],
    "epochs_30": ["--epochs", "30"],
    "defaults": [],
    "best": ["--preset", "best"],
    "conditional_10": ["--preset", "conditional", "--epochs", "10"],
    "conditional": ["--preset", "conditional"],
    "bundle_10": ["--dataset", "mnist_5k", "--epochs", "10"],
    "bundle": ["--dataset", "mnist_5k"],
    "classic": ["--preset", "classic", "--epochs", "80"],
    "hinge": ["--preset", "hinge", "--epochs", "30"],
    "wgan_gp": ["--preset", "wgan_gp", "--epochs", "30"],
    "blocks": ["--preset", "blocks", "--epochs", "30"],
    "tiny": ["--preset", "tiny", "--epochs", "30"],
}
LABEL_PLACES = {  # of the name of a recipe from the end of its line in the picture, in points
    "epochs_20": (-48, -26),
    "epochs_30": (-20, -22),
    "defaults": (-30, -20),
    "best": (-20, 8),
    "bundle": (5, -3),
    "classic": (-20, 8),
}
EARLY_EPOCH = 16  # in which a run is measured, as well as in its last one
GOOD_FD = 2  # of 10,000 samples: the epoch in which it is reached is noted
RECORD = Path(__file__).with_name("record.json")


def parzen_log_likelihood(samples, images, sigmas):
    """Return the mean log-likelihood (S,) in nats of images (N, d) in [0, 1] for each sigma (S,).

    The density is a Gaussian around each of the samples (M, d). The measure of Goodfellow et al.
    2014; it misleads: Theis et al. 2016, arXiv 1511.01844.
    """
    total, d = torch.zeros(len(sigmas)), samples.shape[1]
    for part in images.split(500):
        squares = torch.cdist(part, samples).square()
        total += torch.stack([(squares / (-2 * s * s)).logsumexp(1).sum() for s in sigmas])
    return total / len(images) - math.log(len(samples)) - d / 2 * (2 * math.pi * sigmas**2).log()


def parzen(fake, validation, test):
    """Return the log-likelihood of test images, with the sigma that is best for validation images.

    Images (N, C, H, W) uint8.
    """
    fake, validation, test = (images.flatten(1) / 255 for images in (fake, validation, test))
    sigmas = torch.logspace(-1, -0.3, 15)
    best = parzen_log_likelihood(fake, validation, sigmas).argmax()
    return parzen_log_likelihood(fake, test, sigmas[best : best + 1]).item()


def train(recipe, seed, data_dir, out):
    """Train in a process of its own, if that has not been done -> folder of its checkpoints."""
    folder = out / f"{recipe}_{seed}"
    if not (folder / "generator_final.pth").exists():
        flags = ["--data_dir", str(data_dir), "--seed", str(seed), "--threads", "1"]
        flags += ["--keep_generator_every", "2", "--save_every", "10"]
        flags += ["--samples_dir", str(folder), "--checkpoint_dir", str(folder), "--overwrite"]
        command = [sys.executable, str(ROOT / "gan_mnist.py"), *flags, *RECIPES[recipe]]
        with (out / f"{recipe}_{seed}.log").open("w") as log:
            subprocess.run(command, stdout=log, check=True)
    return folder


def history(folder):
    """-> the number of epochs, and of those in which it was measured, [epoch, FD of 2,000 samples].

    By epochs rather than seconds, which depend on what else the machine does.
    """
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = [[int(row["epoch"]), round(float(row["fd"]), 3)] for row in rows if row["fd"]]
    return len(rows), curve


def measure(path, judge, images, seed):
    """Path of a generator or checkpoint -> figures of 10,000 samples: FD to all training images of
    MNIST, the others beside images["reference"], 10,000 training images."""
    reference = images["reference"]
    fake = gan_mnist.to_uint8(gan_mnist.load_generator(path).sample(len(reference), seed))
    features, probabilities = judge.predict(fake)
    reference_features, _ = judge.predict(reference)
    precision, recall = gan_mnist.precision_recall(reference_features, features)
    return {
        "fd": judge.fd(features),
        "precision": precision,
        "recall": recall,
        "outlines": gan_mnist.two_sample_accuracy(
            gan_mnist.outlines(reference), gan_mnist.outlines(fake)
        ),
        "parzen": parzen(fake, images["validation"], images["test"]),
        "classes": (gan_mnist.class_shares(probabilities) >= 0.01).sum().item(),
    }


def load_images(data_dir, seed):
    """-> images to measure with: training images, others to choose sigma by, all test images."""
    train_images, _, name = gan_mnist.load_dataset("mnist", data_dir)  # for the bundle's runs too
    if name != "mnist":
        raise SystemExit("the record needs all of MNIST: say by --data_dir where it is")
    test_images, _, _ = gan_mnist.load_dataset("mnist", data_dir, train=False)
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(seed))
    return {
        "reference": train_images[order[:10_000]],
        "validation": train_images[order[10_000:11_000]],
        "test": test_images,
    }


def record(recipe, seed, data_dir, out):
    """Train and measure one run -> what record.json keeps of it."""
    images = load_images(data_dir, seed)
    folder = train(recipe, seed, data_dir, out)
    judge = gan_mnist.load_judge("mnist", data_dir)
    last, curve = history(folder)
    figures = {}
    for epoch in sorted({min(EARLY_EPOCH, last), last}):
        figures[epoch] = measure(folder / f"generator_epoch_{epoch:04d}.pth", judge, images, seed)
    machine = f"{os.cpu_count()} cores, {gan_mnist.choose_device('auto', 'auto')[1]}"
    return {
        "machine": f"{platform.machine()}, {machine}, one thread, torch {torch.__version__}",
        "curve": curve,
        "figures": figures,
        "good": good_epoch(folder, curve, judge, seed),
    }


def good_epoch(folder, curve, judge, seed):
    """-> the first even epoch with an FD of 10,000 samples of at most GOOD_FD, or None."""
    for epoch, fd_of_2000 in curve:
        if fd_of_2000 <= 2 * GOOD_FD:
            G = gan_mnist.load_generator(folder / f"generator_epoch_{epoch:04d}.pth")
            features, _ = judge.predict(gan_mnist.to_uint8(G.sample(10_000, seed)))
            if judge.fd(features) <= GOOD_FD:
                return epoch
    return None


def print_table(runs):
    """{recipe: {seed: what record returns}} -> the README's table, means ± standard deviations."""
    digits = {"fd": 2, "precision": 3, "recall": 3, "outlines": 3, "parzen": 1}
    names = "recipe epochs FD precision recall outlines Parzen digits seeds FD<=2".split()
    print(f"| {' | '.join(names)} |")
    print("|---" * len(names) + "|")
    for recipe, seeds in runs.items():
        figures = [run["figures"] for run in seeds.values()]
        for epoch in figures[0]:
            rows = [each[epoch] for each in figures]
            cells = [epoch]
            for key, places in digits.items():
                values = [row[key] for row in rows]
                cell = f"{statistics.mean(values):.{places}f}"
                if len(values) > 1:
                    cell += f" ± {statistics.stdev(values):.{places}f}"
                cells.append(cell)
            cells += [str(min(row["classes"] for row in rows)), ", ".join(seeds)]
            cells.append(", ".join(str(run.get("good", "?")) for run in seeds.values()))
            print(f"| {recipe} | {' | '.join(cells)} |")


def draw(path, runs):
    """{recipe: {seed: what record returns}} -> a picture: for each of LABEL_PLACES the mean FD of
    its seeds as a line, in a band from the lowest to the highest."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    drawn = [recipe for recipe in LABEL_PLACES if recipe in runs]
    for number, recipe in enumerate(drawn):
        seeds = runs[recipe]
        curves = [run["curve"] for run in seeds.values()]  # measured after the same epochs
        points = torch.tensor(curves, dtype=torch.float64)  # (seeds, measurements, 2)
        epochs, mean = points.mean(0).T
        fds = points[:, :, 1]
        color = f"C{number}"
        axes.fill_between(epochs, fds.amin(0), fds.amax(0), color=color, alpha=0.2, linewidth=0)
        axes.plot(epochs, mean, color=color)
        end = (epochs[-1], mean[-1])
        name = recipe.replace("_", " ")
        place = LABEL_PLACES[recipe]
        axes.annotate(name, end, place, textcoords="offset points", color=color)
    axes.set(
        title="Quality while training: the mean of the seeds, in a band from the best to the worst",
        xlabel="epoch",
        ylabel="FD of 2,000 samples (lower is better)",
        yscale="log",
    )
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def show_modes(paths, data_dir):
    """Print which digits the modes of generators draw; write samples of the first one's modes."""
    for path in paths:
        G = gan_mnist.load_generator(path)
        if not G.modes:
            raise SystemExit(f"{path} has no modes")
        z = gan_mnist.sample_z(10_000, G.latent_dim, seed=0)
        modes = G.code(z)[:, : G.modes].argmax(1)
        images = G.sample(10_000, seed=0)
        judge = gan_mnist.load_judge(G.about["dataset"], data_dir)
        _, probabilities = judge.predict(gan_mnist.to_uint8(images))
        digits = probabilities.argmax(1)
        counts = [digits[modes == mode].bincount(minlength=10) for mode in range(G.modes)]
        most, digit = torch.stack(counts).max(1)
        print(f"{path}: digits (columns) in the modes (rows), as the judge sees them")
        print(torch.stack(counts))
        print(f"{most.sum() / len(digits):.1%} are the most frequent digit of their mode")
        if path == paths[0]:
            order = digit.argsort(stable=True)
            rows = torch.stack([images[modes == mode][:8] for mode in order], 1)
            gan_mnist.save_grid(Path("modes.png"), rows.flatten(0, 1), G.modes)


def read_record():
    """-> {recipe: {seed: what record returned}}, seeds in order."""
    runs = {}
    if RECORD.exists():
        runs = json.loads(RECORD.read_text())
    return {recipe: dict(sorted(runs.get(recipe, {}).items())) for recipe in RECIPES}


def save_pretrained(path):
    """Write a generator as float16, half as large, where those are that come with the script."""
    G = gan_mnist.load_generator(path)
    target = gan_mnist.PRETRAINED
    if G.classes:
        target = gan_mnist.PRETRAINED_CONDITIONAL
    state = G.state_dict()
    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point():
            state[name] = value.half()
    gan_mnist.save_whole(target, lambda file: torch.save(state, file))
    gan_mnist.metrics_path(target).unlink(missing_ok=True)  # of an earlier one
    print(f"Wrote {target}, {target.stat().st_size / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path, default=Path("record"))
    parser.add_argument("--modes", nargs="+", type=Path, metavar="GENERATOR")
    parser.add_argument("--pretrained", type=Path, metavar="GENERATOR")
    options = parser.parse_args()
    if options.pretrained:
        save_pretrained(options.pretrained)
        return
    if options.modes:
        show_modes(options.modes, options.data_dir)
        return

    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for recipe in options.recipes:
        for seed in options.seeds:
            if str(seed) not in read_record()[recipe]:
                print(f"{recipe}, seed {seed}", flush=True)
                run = record(recipe, seed, options.data_dir, options.out)
                runs = read_record()  # again: another process may have written meanwhile
                runs[recipe][str(seed)] = run
                RECORD.write_text(json.dumps(runs, indent=1) + "\n")
    runs = {recipe: seeds for recipe, seeds in read_record().items() if seeds}
    print_table(runs)
    draw(ROOT / "generated_samples" / "gallery_fd.png", runs)


if __name__ == "__main__":
    main()
