"""Measuring scripts: what they compute themselves equals another implementation."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from sklearn.neighbors import KernelDensity

import gan_mnist

sys.path.insert(0, str(ROOT / "tests/measure"))
import benchmark
import judge
import record
import settings


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_parzen_log_likelihood_equals_scikit_learns_kernel_density():
    samples, images = points(600, 3), points(700, 3, seed=1)
    sigmas = torch.tensor([0.2, 0.5])
    expected = [
        KernelDensity(bandwidth=sigma).fit(samples).score_samples(images).mean()
        for sigma in sigmas.tolist()
    ]
    ours = record.parzen_log_likelihood(samples, images, sigmas)
    assert np.allclose(ours, expected, rtol=1e-4)


def test_parzen_is_higher_for_digits_than_for_noise():
    images, _ = gan_mnist.load_bundle()
    images = images[torch.randperm(5000, generator=torch.Generator().manual_seed(0))]
    noise = torch.randint(256, (1000, 1, 28, 28), dtype=torch.uint8)
    validation, test = images[1000:1500], images[2000:3000]
    assert record.parzen(images[:1000], validation, test) > 100
    assert record.parzen(noise, validation, test) < 0


def test_what_the_record_and_the_gallery_train_is_made_of_settings_that_the_script_takes():
    for flags in record.RECIPES.values():
        values = vars(gan_mnist.build_parser("train").parse_args(flags))
        gan_mnist.make_config(**values)
    for values in settings.VARIANTS.values():
        gan_mnist.make_config(**values)


def test_all_loops_that_the_benchmark_compares_train(digits):
    config = gan_mnist.make_config(batch_size=100, device="cpu")
    images, labels = digits[0].unsqueeze(1), digits[1].long()
    for steps in (benchmark.customary_steps, benchmark.our_steps):
        d_loss, g_loss, *_ = next(steps(images, labels, config))
        assert 1 < d_loss < 2  # 2 ln 2, as D can only guess yet
        assert 0 < g_loss < 5


def test_the_shipped_judge_is_neither_replaced_nor_made_of_less_than_all_of_mnist(
    folder, monkeypatch
):
    before = gan_mnist.MNIST_JUDGE.read_bytes()
    with pytest.raises(SystemExit, match="is there"):
        judge.main(["--data_dir", "digits"])
    assert gan_mnist.MNIST_JUDGE.read_bytes() == before
    monkeypatch.setattr(gan_mnist, "MNIST_JUDGE", folder / "judge.pth")
    with pytest.raises(SystemExit, match="1000 images"):
        judge.main(["--data_dir", "digits"])
    assert not (folder / "judge.pth").exists()
