"""Losses: equal to the paper's formulas, computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F

from gan_mnist import discriminator_loss, generator_loss

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
