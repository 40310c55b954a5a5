"""Networks: the shapes, sizes and modes that people expect."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from gan_mnist import Discriminator, Generator, SmoothLinear, UserError, folded


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_generator_is_100_256_512_1024_784_with_batchnorm_and_relu():
    G = Generator(latent_dim=100)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in G.layers] == hidden * 3 + [nn.Linear, nn.Tanh]
    by_hand = 101 * 256 + 257 * 512 + 513 * 1024 + 1025 * 784 + 2 * (256 + 512 + 1024)
    assert count(G) == by_hand == 1_489_936


def test_classic_discriminator_is_784_512_256_1_with_leaky_relu_and_dropout():
    D = Discriminator(d_hidden=(512, 256), dropout=0.3, d_slope=0.2)
    hidden = [nn.Linear, nn.LeakyReLU, nn.Dropout]
    assert [type(layer) for layer in D.layers] == [*hidden, *hidden, nn.Linear]
    assert [layer.p for layer in D.layers if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    assert [layer.negative_slope for layer in D.layers if isinstance(layer, nn.LeakyReLU)] == [
        0.2,
        0.2,
    ]
    assert count(D) == 785 * 512 + 513 * 256 + 257 == 533_505


def test_z_becomes_images_in_the_range_of_tanh_and_images_become_one_logit_each():
    torch.manual_seed(0)
    images = Generator(latent_dim=100)(100 * torch.randn(64, 100))
    assert images.shape == (64, 1, 28, 28)
    assert images.abs().max() <= 1
    logits = Discriminator()(images)
    assert logits.shape == (64,)
    assert len(logits.unique()) == 64


def test_black_reaches_the_first_layer_of_d_as_zero():
    D = Discriminator(d_hidden=(20,))
    seen = []
    D.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    D(torch.full((1, 1, 28, 28), -1.0))
    assert (seen[0] == 0).all()


def test_other_sizes_follow_from_the_arguments():
    G = Generator(latent_dim=7, modes=3, g_hidden=(5,), image_shape=(3, 8, 6))
    images = G(torch.randn(4, 7))
    assert images.shape == (4, 3, 8, 6)
    assert Discriminator(d_hidden=(5, 4, 3), image_shape=(3, 8, 6))(images).shape == (4,)


def test_labels_change_what_is_drawn_and_what_is_real():
    torch.manual_seed(0)
    G, D = Generator(latent_dim=7, modes=3, classes=10).eval(), Discriminator(classes=10)
    assert count(G) - count(Generator(latent_dim=7, modes=3)) == 10 * 256
    assert count(D) - count(Discriminator()) == 9 * (256 + 1)
    z, labels = torch.randn(4, 7), torch.tensor([3, 3, 0, 9])
    with torch.no_grad():
        images = G(z, labels)
        changed = G(z, torch.tensor([3, 4, 0, 9]))
        assert torch.equal(images[[0, 2, 3]], changed[[0, 2, 3]])
        assert not torch.equal(images[1], changed[1])
        assert D(images, labels)[1] != D(images, torch.tensor([3, 4, 0, 9]))[1]
        assert torch.equal(G.sample(12, 5), G.sample(12, 5, labels=torch.arange(12) % 10))


def test_modes_are_a_one_hot_choice_by_the_largest_of_the_first_numbers_and_the_rest_stays():
    G, z = Generator(latent_dim=12, modes=4), torch.randn(2000, 12)
    code = G.code(z)
    assert torch.equal(code[:, 4:], z[:, 4:])
    for row, point in zip(code[:50, :4].tolist(), z[:50, :4].tolist(), strict=True):
        assert row == [2.0 if number == max(point) else 0.0 for number in point]
    assert (code[:, :4].sum(0) / 2 - 500).abs().max() < 100  # all are chosen equally often
    assert torch.equal(Generator(latent_dim=12, modes=0).code(z), z)


def test_modes_that_leave_nothing_of_z_are_refused_by_their_name():
    for latent_dim in (5, 10):
        with pytest.raises(UserError, match=r"MODES \(--modes\) is 10: must be below LATENT_DIM"):
            Generator(latent_dim=latent_dim)
    assert Generator(latent_dim=2, modes=0)(torch.randn(3, 2)).shape == (3, 1, 28, 28)


def test_within_a_mode_only_the_choice_matters_of_the_numbers_that_choose():
    G, z = Generator(latent_dim=12, modes=4).eval(), torch.randn(64, 12)
    other = z.clone()
    other[:, :4] = 3 * z[:, :4] + 1
    with torch.no_grad():
        assert torch.equal(G(z), G(other))
        other[:, :4] = -z[:, :4]
        assert not torch.equal(G(z), G(other))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_generator_of_another_precision_draws_in_it(dtype):
    G = Generator(latent_dim=12, modes=4, classes=3).eval()
    expected = G.sample(6, seed=1)
    images = G.to(dtype).sample(6, seed=1)
    assert images.dtype == dtype
    assert (images.float() - expected).abs().max() < 0.05
    assert G(torch.randn(4, 12, dtype=dtype), torch.arange(4) % 3).dtype == dtype


@pytest.mark.parametrize(
    "labels",
    [7, [7] * 4, (7,) * 4, np.full(4, 7), np.full(4, 7, np.uint8), torch.full((4,), 7).int()],
    ids=repr,
)
def test_sample_takes_labels_as_people_write_them(labels):
    G = Generator(latent_dim=12, classes=10)
    expected = G.sample(4, seed=1, labels=torch.full((4,), 7))
    assert torch.equal(G.sample(4, seed=1, labels=labels), expected)


@pytest.mark.parametrize("labels", [10, -1, [1, 2], np.arange(5), [0, 1, 2, 10]], ids=repr)
def test_labels_that_do_not_fit_are_named(labels):
    with pytest.raises(UserError, match="labels"):
        Generator(latent_dim=12, classes=10).sample(4, labels=labels)
    with pytest.raises(UserError, match="0 classes"):
        Generator(latent_dim=12).sample(4, labels=3)


def test_z_may_have_the_shape_of_dcgan_code_and_labels_may_be_left_out():
    G = Generator(latent_dim=12, classes=10).eval()
    z = torch.randn(20, 12)
    with torch.no_grad():
        expected = G(z, torch.arange(20) % 10)
        assert torch.equal(G(z.view(20, 12, 1, 1)), expected)
        assert torch.equal(G(z), expected)


def test_weights_of_another_generator_are_refused_with_the_way_to_load_them():
    conditional = Generator(latent_dim=90, classes=10)  # whose layers have the same shapes
    with pytest.raises(UserError, match=r"'latent_dim': 90, .*'classes': 10, .*load_generator"):
        Generator(latent_dim=100).load_state_dict(conditional.state_dict())
    Generator(latent_dim=90, classes=10).load_state_dict(conditional.state_dict())


def test_decode_of_the_code_is_what_forward_draws():
    G, z, labels = (
        Generator(latent_dim=12, classes=3).eval(),
        torch.randn(5, 12),
        torch.arange(5) % 3,
    )
    with torch.no_grad():
        assert torch.equal(G.decode(G.code(z, labels)), G(z, labels))
        by_hand = G.layers(G.code(z, labels)).view(5, 1, 28, 28)
        assert torch.equal(G(z, labels), by_hand)


def test_spectral_norm_brings_the_largest_singular_value_of_every_weight_to_1():
    torch.manual_seed(0)
    D = Discriminator(d_hidden=(40, 20), image_shape=(1, 8, 8), spectral_norm=True)
    for _ in range(200):  # each pass in train mode is a step of the power iteration
        D(torch.randn(4, 1, 8, 8))
    weights = [layer.weight for layer in D.layers if isinstance(layer, torch.nn.Linear)]
    assert [weight.shape for weight in weights] == [(40, 64), (20, 40), (1, 20)]
    for weight in weights:
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-3)
    assert not any("parametrizations" in name for name in Discriminator().state_dict())


def test_a_given_z_draws_the_same_picture_alone_and_in_a_batch_of_64():
    torch.manual_seed(0)
    G = Generator()
    for _ in range(5):
        G(torch.randn(64, 100))  # gives BatchNorm statistics that are not the initial ones
    G.eval()
    z = torch.randn(64, 100)
    with torch.no_grad():
        together = G(z)
        alone = torch.cat([G(each.unsqueeze(0)) for each in z])
    assert torch.allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_sampling_uses_eval_mode_depends_on_the_seed_alone_and_leaves_no_trace(training):
    G = Generator().train(training)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items() if "layers" in name}
    torch.manual_seed(1)
    next_random = torch.rand(1)
    torch.manual_seed(1)
    first = G.sample(5, seed=3)
    assert torch.equal(torch.rand(1), next_random)
    assert torch.equal(first, G.sample(5, seed=3))
    assert not torch.equal(first, G.sample(5, seed=4))
    assert not torch.equal(G.sample(5), G.sample(5))
    assert G.training is training
    assert not first.requires_grad
    with torch.no_grad():
        z = torch.randn(16, 100, generator=torch.Generator().manual_seed(3))[:5]
        assert torch.equal(first, G.eval()(z))
    assert all(torch.equal(before[name], G.state_dict()[name]) for name in before)


def test_the_first_samples_of_a_seed_are_the_same_however_many_are_drawn():
    G = Generator()
    many = G.sample(64, seed=7)
    for number in (*range(1, 20), 63):
        assert torch.allclose(G.sample(number, seed=7), many[:number], atol=1e-5)


def test_importing_prints_nothing_writes_nothing_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, torch; before = set(sys.modules); import gan_mnist; "
        "print({m.partition('.')[0] for m in set(sys.modules) - before} & "
        "{'torchvision', 'matplotlib', 'scipy', 'tensorboard'})"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        text=True,
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert not list(tmp_path.iterdir())


def test_the_filter_is_the_gaussian_blur_of_torchvision_away_from_the_border():
    torch.manual_seed(0)
    layer = SmoothLinear(5, (1, 20, 30), width=0.8)
    pixels = torch.randn(3, 600)
    blurred = gaussian_blur(pixels.view(3, 1, 20, 30), kernel_size=9, sigma=0.8)
    smooth = layer.smooth(pixels).view(3, 1, 20, 30)
    inside = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(smooth[inside], 1.5 * blurred[inside], atol=1e-5)
    even = layer.smooth(torch.ones(1, 600))  # as bright at the border as elsewhere
    assert torch.allclose(even, torch.full_like(even, 1.5))


def test_a_folded_generator_draws_the_same_with_plain_layers():
    torch.manual_seed(0)
    G = Generator(g_hidden=(20, 30), smooth=0.7)
    plain = folded(G)
    assert type(G.layers[-2]) is SmoothLinear and type(plain.layers[-2]) is nn.Linear
    assert torch.allclose(plain.sample(50, seed=0), G.sample(50, seed=0), atol=1e-6)
    other = Generator(g_hidden=(20, 30))
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other.sample(50, seed=0), plain.sample(50, seed=0))
    with pytest.raises(UserError, match=r"'smooth': 0\.7"):
        other.load_state_dict(G.state_dict())


def test_dcgan_for_mnist_has_the_layers_and_weights_of_its_paper_at_64():
    """100 -> 1024 x 4 x 4 -> 512 -> 256 -> 128 -> 1, and 1 -> 128 -> 256 -> 512 -> 1024 -> 1."""
    G = Generator(g_arch="dcgan", width=128, image_shape=(1, 64, 64), modes=0)
    project = [nn.Linear, nn.Unflatten, nn.BatchNorm2d, nn.ReLU]
    double = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU]
    types = [type(layer) for layer in G.layers]
    assert types == [*project, *double * 3, nn.ConvTranspose2d, nn.Tanh]
    convolutions = 100 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 1
    assert count(G) == 16 * convolutions + 1 + 2 * (1024 + 512 + 256 + 128) == 12_654_337
    D = Discriminator(d_arch="dcgan", width=128, image_shape=(1, 64, 64), d_norm="batch")
    types = [type(layer) for layer in D.layers if not isinstance(layer, nn.Dropout)]
    first, block = [nn.Conv2d, nn.LeakyReLU], [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert types == [*first, *block * 3, nn.Conv2d]
    convolutions = 1 * 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024 * 1
    assert count(D) == 16 * convolutions + 128 + 1 + 2 * (256 + 512 + 1024) == 11_032_193


def test_dcgan_for_cifar10_has_3_channels_and_half_the_width():
    """100 -> 512 x 4 x 4 -> 256 -> 128 -> 64 -> 3, and 3 -> 64 -> 128 -> 256 -> 512 -> 1."""
    G = Generator(g_arch="dcgan", width=64, image_shape=(3, 64, 64), modes=0)
    convolutions = 100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3
    assert count(G) == 16 * convolutions + 3 + 2 * (512 + 256 + 128 + 64) == 3_576_707
    D = Discriminator(d_arch="dcgan", width=64, image_shape=(3, 64, 64), d_norm="batch")
    convolutions = 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1
    assert count(D) == 16 * convolutions + 64 + 1 + 2 * (128 + 256 + 512) == 2_765_633


@pytest.mark.parametrize("side", [28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_dcgan_draws_and_sees_images_of_four_sides(side, channels):
    shape = (channels, side, side)
    G = Generator(g_arch="dcgan", latent_dim=12, width=2, image_shape=shape, classes=3)
    images = G(torch.randn(5, 12), torch.arange(5) % 3)
    assert images.shape == (5, *shape) and images.abs().max() <= 1
    for norm in ("none", "batch"):
        logits = Discriminator(d_arch="dcgan", width=2, d_norm=norm, image_shape=shape, classes=3)(
            images, torch.arange(5) % 3
        )
        assert logits.shape == (5,)


@pytest.mark.parametrize("shape", [(1, 30, 30), (1, 64, 32), (3, 8, 8)])
def test_dcgan_says_which_sides_it_can_draw(shape):
    expected = r"side 28, 32, 64 or 128, not \d+ x \d+.*IMAGE_SIZE"
    with pytest.raises(UserError, match=expected):
        Generator(g_arch="dcgan", image_shape=shape)
    with pytest.raises(UserError, match=expected):
        Discriminator(d_arch="dcgan", image_shape=shape)


def test_dcgan_starts_with_weights_of_a_spread_of_002_and_batchnorm_around_1():
    torch.manual_seed(0)
    networks = (
        Generator(g_arch="dcgan", width=32),
        Discriminator(d_arch="dcgan", width=32, d_norm="batch"),
        Discriminator(d_arch="dcgan", width=32, spectral_norm=True),
    )
    for network in networks:
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and weight.numel() > 5000:
                assert abs(weight.std() - 0.02) < 0.001 and abs(weight.mean()) < 0.001, name
            elif weight.ndim == 1 and "weight" in name:  # BatchNorm
                assert 0.9 < weight.min() < weight.max() < 1.1


def test_labels_change_what_a_dcgan_draws_and_takes_to_be_real():
    torch.manual_seed(0)
    G = Generator(g_arch="dcgan", latent_dim=7, modes=3, width=4, classes=10).eval()
    D = Discriminator(d_arch="dcgan", width=4, classes=10)
    z, labels = torch.randn(4, 7), torch.tensor([3, 3, 0, 9])
    with torch.no_grad():
        images = G(z, labels)
        changed = G(z, torch.tensor([3, 4, 0, 9]))
        assert torch.allclose(images[[0, 2, 3]], changed[[0, 2, 3]], atol=1e-6)
        assert not torch.allclose(images[1], changed[1], atol=1e-4)
        assert D(images, labels)[1] != D(images, torch.tensor([3, 4, 0, 9]))[1]


def test_a_dcgan_draws_the_same_picture_alone_and_in_a_batch_of_64():
    torch.manual_seed(0)
    G = Generator(g_arch="dcgan", width=4)
    for _ in range(5):
        G(torch.randn(64, 100))  # gives BatchNorm statistics that are not the initial ones
    G.eval()
    z = torch.randn(64, 100)
    with torch.no_grad():
        together = G(z)
        alone = torch.cat([G(each.unsqueeze(0)) for each in z])
    assert torch.allclose(alone, together, atol=1e-5)


def test_a_generator_without_norm_with_leaky_relu_and_a_sigmoid_has_these_layers():
    G = Generator(g_hidden=(20, 30), g_norm="none", g_activation="leaky_relu", g_end="sigmoid")
    linear, slope = [nn.Linear, nn.LeakyReLU], [m for m in G.layers if hasattr(m, "negative_slope")]
    assert [type(layer) for layer in G.layers[:-2]] == linear * 2
    assert [layer.negative_slope for layer in slope] == [0.2, 0.2]
    x = torch.linspace(-9, 9, 99)
    assert torch.allclose(G.layers[-1](x), torch.tanh(x / 2), atol=1e-6)
