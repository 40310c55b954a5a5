"""Draw what each mode of a generator draws, and print how much of it is one digit.

python tests/show_modes.py --model_path checkpoints/generator_final.pth --out modes.png
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import gan_mnist


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", type=Path, nargs="+", required=True)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, help="a picture of the first one, a column for a mode")
    options = parser.parse_args()
    for path in options.model_path:
        G = gan_mnist.load_generator(path)
        if not G.modes:
            parser.error(f"{path} has no modes")
        z = gan_mnist.sample_z(10_000, G.latent_dim, seed=0)
        modes = G.code(z)[:, : G.modes].argmax(1)
        images = G.sample(10_000, seed=0)
        name = G.about["data"].partition(",")[0]
        _, probabilities = gan_mnist.load_judge(name, options.data_dir).look(
            gan_mnist.to_uint8(images)
        )
        digits = probabilities.argmax(1)
        shares = torch.stack(
            [(digits[modes == mode]).bincount(minlength=10) for mode in range(G.modes)]
        )
        print(f"{path}: digits (columns) in the modes (rows), as the judge sees them")
        print(shares)
        most, column = shares.max(1)
        print(
            f"{most.sum() / shares.sum():.1%} are the most frequent digit of their mode; "
            f"{len(set(column.tolist()))} digits are the most frequent of one\n"
        )
        if path == options.model_path[0] and options.out:
            order = column.argsort(stable=True)
            rows = torch.stack([images[modes == mode][:8] for mode in order], 1)
            gan_mnist.save_grid(options.out, rows.flatten(0, 1), len(order))


if __name__ == "__main__":
    main()
