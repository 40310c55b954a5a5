"""Make the judge that comes with the script: python tests/measure/judge.py --data_dir data

It is trained on MNIST's 60,000 training images (seed 0) and tried on the 10,000 test images, a few
minutes on one thread. OMP_NUM_THREADS=1 makes it the same again on the same kind of machine. The
one that is there is never replaced: numbers that it gave could not be compared any more.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gan_mnist

TRAINING_IMAGES = 60_000


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data", help="[data]")
    data_dir = parser.parse_args(arguments).data_dir
    if gan_mnist.MNIST_JUDGE.exists():
        raise SystemExit(f"{gan_mnist.MNIST_JUDGE} is there: move it away to make it again")
    images, _, name = gan_mnist.load_dataset("mnist", data_dir)
    if len(images) < TRAINING_IMAGES:
        raise SystemExit(
            f"{name} has {len(images)} images: say by --data_dir where all of MNIST is"
        )
    gan_mnist.train_judge("mnist", data_dir, gan_mnist.MNIST_JUDGE)


if __name__ == "__main__":
    main()
