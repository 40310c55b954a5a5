"""Losses: equal to the paper's formulas, computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F

from gan_mnist import Discriminator, discriminator_loss, generator_loss, gradient_penalty

REAL, FAKE = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).mul(3).double()


def test_discriminator_loss_is_the_cross_entropy_of_the_paper_on_probabilities():
    by_hand = -torch.log(torch.sigmoid(REAL)).mean() - torch.log(1 - torch.sigmoid(FAKE)).mean()
    assert discriminator_loss(REAL, FAKE).item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_generator_loss_is_the_non_saturating_form_on_probabilities():
    by_hand = F.binary_cross_entropy(torch.sigmoid(FAKE), torch.ones_like(FAKE))
    assert generator_loss(FAKE).item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_losses_are_two_ln_2_and_ln_2_when_d_can_only_guess():
    guess = torch.zeros(8)
    assert discriminator_loss(guess, guess).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(guess).item() == pytest.approx(math.log(2))


def test_label_smoothing_touches_the_real_labels_alone():
    p = torch.sigmoid(REAL)
    real_part = -(0.9 * torch.log(p) + 0.1 * torch.log(1 - p)).mean()
    fake_part = -torch.log(1 - torch.sigmoid(FAKE)).mean()
    loss = discriminator_loss(REAL, FAKE, label_smoothing=0.1)
    assert loss.item() == pytest.approx((real_part + fake_part).item(), rel=1e-12)


def test_generator_gradient_is_strong_where_d_is_sure_of_the_fake():
    logits = FAKE.clone().requires_grad_(True)
    generator_loss(logits).backward()
    by_hand = -(1 - torch.sigmoid(FAKE)) / len(FAKE)
    assert torch.allclose(logits.grad, by_hand)


def test_extreme_logits_stay_finite():
    far = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(discriminator_loss(far, far)) and torch.isfinite(generator_loss(far))


def test_hinge_and_wasserstein_losses_are_those_of_their_papers():
    hinge_d = (1 - REAL).clamp(min=0).mean() + (1 + FAKE).clamp(min=0).mean()
    assert discriminator_loss(REAL, FAKE, loss="hinge").item() == pytest.approx(hinge_d.item())
    wasserstein = discriminator_loss(REAL, FAKE, loss="wgan_gp").item()
    assert wasserstein == pytest.approx(FAKE.mean().item() - REAL.mean().item())
    for loss in ("hinge", "wgan_gp"):
        assert generator_loss(FAKE, loss).item() == pytest.approx(-FAKE.mean().item())


def test_hinge_asks_no_more_of_what_is_right_by_a_margin_of_1():
    sure = torch.tensor([1.5, 2.0, 9.0], requires_grad=True)
    discriminator_loss(sure, -sure, loss="hinge").backward()
    assert (sure.grad == 0).all()


def test_penalty_of_wgan_gp_for_a_linear_d_is_its_norm_less_1_squared():
    weights = torch.randn(784)
    images = torch.randn(5, 1, 28, 28, requires_grad=True)
    penalty = gradient_penalty(images.flatten(1) @ weights, images, norm=1)
    assert penalty.item() == pytest.approx((weights.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_of_wgan_gp_is_finite_where_there_is_no_gradient():
    images = torch.zeros(3, 1, 28, 28, requires_grad=True)
    weight = torch.zeros(784, requires_grad=True)
    penalty = gradient_penalty(images.flatten(1) @ weight, images, norm=1)
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-4)
    assert torch.isfinite(weight.grad).all()


def test_gradient_penalty_of_a_linear_d_is_the_squared_norm_of_its_weights():
    weights = torch.randn(784)
    images = torch.randn(5, 1, 28, 28, requires_grad=True)
    logits = images.flatten(1) @ weights + 3
    assert gradient_penalty(logits, images).item() == pytest.approx(weights.square().sum().item())


def test_gradient_penalty_of_the_mlp_is_the_product_of_its_weights_and_slopes():
    D = Discriminator(d_hidden=(20, 10), d_slope=0.2)
    images = torch.rand(50, 1, 28, 28, requires_grad=True)
    one, two, last = (layer for layer in D.layers if isinstance(layer, torch.nn.Linear))
    hidden = one((images + 1).flatten(1))
    slopes_1 = torch.where(hidden > 0, 1.0, 0.2)
    slopes_2 = torch.where(two(F.leaky_relu(hidden, 0.2)) > 0, 1.0, 0.2)
    gradients = ((last.weight * slopes_2) @ two.weight * slopes_1) @ one.weight
    expected = gradients.square().sum(1).mean()
    penalty = gradient_penalty(D(images), images)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(penalty, [one.weight, two.weight, last.weight]),
        torch.autograd.grad(expected, [one.weight, two.weight, last.weight]),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)
