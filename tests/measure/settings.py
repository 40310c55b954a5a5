"""Show what single settings do: train the defaults with one of them changed, and draw the digits.

    python tests/measure/settings.py --data_dir data          all that is not measured yet
    python tests/measure/settings.py --variants "BETA1 0.5"   one of them
    python tests/measure/settings.py --variants               none: the table and the picture

Each is trained for 30 epochs, seed 0, one thread, with its files in --out; with two cores, start
this script twice, with different --variants. What was measured is kept in settings.json. A variant
that is there is not trained again. generated_samples/gallery_settings.png has a row for each
variant, after 1, 4, 16 and 30 epochs, always of the same z, with the FD of 10,000 samples.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import gan_mnist

VARIANTS = {  # by the names that they have in the picture
    "defaults": {},
    "MODES 0": {"modes": 0},
    "SMOOTH 0": {"smooth": 0.0},
    "BETA1 0.5": {"beta1": 0.5},
    "EMA_DECAY 0": {"ema_decay": 0.0},
    "GRADIENT_PENALTY 0": {"gradient_penalty": 0.0},
    "D_HIDDEN 512 256": {"d_hidden": (512, 256)},
    "CONDITIONAL": {"preset": "conditional"},
    "LOSS hinge": {"preset": "hinge"},
    "LOSS wgan_gp": {"preset": "wgan_gp"},
}
EPOCHS = (1, 4, 16, 30)  # after which they are measured and drawn
MEASURED = 10_000  # samples
SHOWN = 12  # samples in a picture, in two rows
SCALE = 2  # pixels for each of a digit's
RESULTS = Path(__file__).with_name("settings.json")
PICTURE = ROOT / "generated_samples" / "gallery_settings.png"


def train(variant, data_dir, out):
    """Train a variant, and return {epoch: FD}; its generators are kept in its folder in `out`."""
    folder = out / variant.replace(" ", "_").lower()
    judge = gan_mnist.load_judge("mnist", data_dir)
    settings = {
        "epochs": EPOCHS[-1],
        "data_dir": data_dir,
        "samples_dir": folder,
        "checkpoint_dir": folder,
        "metrics_every": 0,
        "save_every": 10,
        "threads": 1,
        "overwrite": True,
        **VARIANTS[variant],
    }
    fds = {}
    for gan in gan_mnist.training(**settings):
        if gan.data["dataset"] != "mnist":
            raise SystemExit("this needs all of MNIST: say by --data_dir where it is")
        if gan.epoch in EPOCHS:
            samples = gan_mnist.to_uint8(gan.generator().sample(MEASURED, seed=1))
            features, _ = judge.predict(samples)
            fds[gan.epoch] = round(judge.fd(features), 2)
            gan_mnist.save_generator(gan, f"shown_{gan.epoch:04d}.pth")
    return fds


def draw(results, out):
    """Draw the generators in `out`: a row for each variant in results, a column for each epoch."""
    rows = []
    for variant, fds in results.items():
        cells = []
        for epoch in EPOCHS:
            name = f"shown_{epoch:04d}.pth"
            G = gan_mnist.load_generator(out / variant.replace(" ", "_").lower() / name)
            images = G.sample(SHOWN, seed=0)
            picture = gan_mnist.make_grid(images, SHOWN // 2, SCALE)
            words = f"{variant}, epoch {epoch}: FD {fds[str(epoch)]:.3g}"
            cells.append(gan_mnist.add_caption(picture, words))
        rows.append(cells)
    gap = 16
    width = rows[0][0].width + gap
    height = rows[0][0].height + gap
    sheet = Image.new("L", (len(EPOCHS) * width - gap, len(rows) * height - gap), 255)
    for y, cells in enumerate(rows):
        for x, cell in enumerate(cells):
            sheet.paste(cell, (x * width, y * height))
    sheet.quantize(16).save(PICTURE, optimize=True)
    print(f"Wrote {PICTURE}")


def print_table(results):
    """Print {variant: {epoch: FD}} as a table of README."""
    print(f"| changed | {' | '.join(map(str, EPOCHS))} |")
    print("|---|" + "---|" * len(EPOCHS))
    for variant, fds in results.items():
        print(f"| {variant} | {' | '.join(f'{fds[str(epoch)]:.2f}' for epoch in EPOCHS)} |")


def read_results():
    """Return {variant: {epoch: FD}} of what has been measured, in the order of VARIANTS."""
    results = {}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())
    return {variant: results[variant] for variant in VARIANTS if variant in results}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path, default=Path("settings"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for variant in options.variants:
        if variant not in read_results():
            print(f"\n{variant}", flush=True)
            fds = train(variant, options.data_dir, options.out)
            results = {**read_results(), variant: fds}  # again: another process may have written
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    results = read_results()
    print_table(results)
    draw(results, options.out)


if __name__ == "__main__":
    main()
