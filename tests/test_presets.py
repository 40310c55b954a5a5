"""Presets: each is the system that it is named after, and can be changed, saved and resumed."""

import pytest
import torch
from conftest import assert_same_run, fails
from PIL import Image
from torch import nn

import gan_mnist

RUN = {  # what makes a preset short enough for a test
    "dataset": "mnist",
    "data_dir": "digits",
    "batch_size": 100,
    "num_samples": 9,
    "zoom": 1,
    "metrics_every": 0,
    "device": "cpu",
    "precision": "fp32",
}
NETWORKS = {
    "latent_dim": 12,
    "g_hidden": (16,),
    "d_hidden": (16,),
    "width": 4,
    "image_size": 28,
}
DATA = {"dataset": "mnist", "images": 60_000, "checksum": "00000000", "classes": 10}


def layers(network):
    return [module for module in network.modules() if not list(module.children())]


def widths(network):
    linear = [layer for layer in layers(network) if isinstance(layer, nn.Linear)]
    return [linear[0].in_features, *[layer.out_features for layer in linear]]


def gan_of(preset, image_shape=(1, 28, 28)):
    return gan_mnist.GAN(gan_mnist.make_config(preset=preset, device="cpu"), image_shape, DATA)


def adam(gan):
    groups = [opt.param_groups[0] for opt in (gan.optimizer_g, gan.optimizer_d)]
    return [(group["lr"], *group["betas"]) for group in groups]


def test_classic_is_the_gan_of_the_tutorials():
    gan = gan_of("classic")
    assert widths(gan.G) == [100, 256, 512, 1024, 784]
    assert widths(gan.D) == [784, 512, 256, 1]
    assert [layer.p for layer in layers(gan.D) if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    assert slopes(gan) == [0.2, 0.2]
    assert type(layers(gan.G)[-2]) is nn.Linear  # without a filter
    assert adam(gan) == [(2e-4, 0.5, 0.999)] * 2
    c = gan.config
    assert (c.batch_size, c.epochs, c.modes, c.ema_decay, c.gradient_penalty) == (64, 100, 0, 0, 0)


def test_tiny_has_one_hidden_layer_each_no_batchnorm_and_a_d_that_hardly_learns():
    gan = gan_of("tiny")
    assert widths(gan.G) == [64, 256, 784] and widths(gan.D) == [784, 128, 1]
    assert [type(layer) for layer in layers(gan.G)] == [
        nn.Linear,
        nn.LeakyReLU,
        nn.Linear,
        nn.Tanh,
    ]
    assert adam(gan) == [(1e-3, 0.5, 0.999), (3e-7, 0.5, 0.999)]
    assert (gan.config.batch_size, gan.config.epochs) == (32, 50)
    assert gan.config.keep_generator_every == 10


def test_blocks_grow_from_128_to_1024_and_end_in_a_sigmoid():
    gan = gan_of("blocks")
    assert widths(gan.G) == [100, 128, 256, 512, 1024, 784]
    assert widths(gan.D) == [784, 512, 256, 128, 1]
    assert isinstance(layers(gan.G)[-1], gan_mnist.ScaledSigmoid)
    assert len([layer for layer in layers(gan.G) if isinstance(layer, nn.BatchNorm1d)]) == 4


def slopes(gan):
    return [layer.negative_slope for layer in layers(gan.D) if isinstance(layer, nn.LeakyReLU)]


@pytest.mark.parametrize("preset", ["none", "best"])
def test_the_defaults_and_best_smooth_what_they_show_to_a_larger_discriminator(preset):
    gan = gan_of(preset)
    assert widths(gan.G) == [100, 256, 512, 1024, 784]
    assert isinstance(layers(gan.G)[-2], gan_mnist.SmoothLinear)
    assert type(layers(gan.generator())[-2]) is nn.Linear
    assert widths(gan.D) == [784, 1024, 256, 1]
    assert slopes(gan) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("preset", "channels", "width", "epochs"),
    [("dcgan_mnist", 1, 128, 100), ("dcgan_cifar10", 3, 64, 25)],
)
def test_dcgans_are_those_of_the_paper_at_64(preset, channels, width, epochs):
    gan = gan_of(preset, (channels, 64, 64))
    rising = [width, 2 * width, 4 * width, 8 * width]
    ups = [layer for layer in layers(gan.G) if isinstance(layer, nn.ConvTranspose2d)]
    downs = [layer for layer in layers(gan.D) if isinstance(layer, nn.Conv2d)]
    assert [layer.in_channels for layer in ups] == rising[::-1]
    assert [layer.in_channels for layer in downs] == [channels, *rising]
    norms = [layer for layer in layers(gan.D) if isinstance(layer, nn.BatchNorm2d)]
    assert [layer.num_features for layer in norms] == rising[1:]
    assert adam(gan) == [(2e-4, 0.5, 0.999)] * 2
    c = gan.config
    assert (c.batch_size, c.epochs, c.image_size) == (64, epochs, 64)


@pytest.mark.parametrize("preset", gan_mnist.PRESETS)
def test_every_preset_trains_saves_draws_and_resumes_bit_for_bit(folder, preset):
    def run(out, **settings):
        folders = {"samples_dir": f"{out}/samples", "checkpoint_dir": f"{out}/checkpoints"}
        gan_mnist.train_gan(**RUN, **folders, **settings)

    run("at_once", epochs=2, preset=preset, **NETWORKS)
    run("resumed", epochs=1, preset=preset, **NETWORKS)
    run("resumed", epochs=2, resume=True)  # preset and networks are in the checkpoint
    assert_same_run(folder / "at_once", folder / "resumed")
    before, after = (
        gan_mnist.load_weights(f"{out}/checkpoints/epoch_0002.pth")["config"]
        for out in ("at_once", "resumed")
    )
    different = {name for name in before if before[name] != after[name]}
    assert different == {"samples_dir", "checkpoint_dir", "resume"}
    assert after["preset"] == preset
    final = "resumed/checkpoints/generator_final.pth"
    assert gan_mnist.load_generator(final).sample(4, seed=1).shape == (4, 1, 28, 28)
    assert gan_mnist.main(["generate", "--model_path", final, "--interpolate"]) == 0
    assert gan_mnist.main(["demo", "--model_path", final]) == 0


def test_flags_win_over_the_preset_and_the_preset_over_the_constants(monkeypatch):
    for name, value in {"batch_size": 7, "epochs": 8, "seed": 9}.items():
        monkeypatch.setitem(gan_mnist.DEFAULTS, name, value)
    config = gan_mnist.make_config(preset="tiny", epochs=3)
    assert (config.epochs, config.batch_size, config.seed, config.preset) == (3, 32, 9, "tiny")
    monkeypatch.setitem(gan_mnist.DEFAULTS, "preset", "tiny")
    assert gan_mnist.make_config().batch_size == 32
    assert gan_mnist.make_config(preset="none").batch_size == 7


def test_presets_are_settings_that_the_script_takes_and_are_listed_in_the_help(capsys):
    for name, preset in gan_mnist.PRESETS.items():
        assert set(preset) - {"about"} <= set(gan_mnist.Config._fields), name
    with pytest.raises(SystemExit):
        gan_mnist.main(["--help"])
    text = capsys.readouterr().out
    for name, preset in gan_mnist.PRESETS.items():
        assert f"  {name} " in text and preset["about"] in text


def test_an_unknown_preset_is_one_line_that_lists_them(folder, capsys):
    code, line = fails(capsys, "--preset", "dcgan")
    assert code == 2
    assert "PRESET (--preset) is 'dcgan': allowed is none | classic | tiny | " in line


def test_a_generator_is_kept_every_few_epochs_and_goes_with_its_run(train, folder):
    train(epochs=5, keep_generator_every=2, smooth=0)  # a filter would be folded into the weights
    kept = sorted((folder / "checkpoints").glob("generator_epoch_*.pth"))
    assert [path.name for path in kept] == ["generator_epoch_0002.pth", "generator_epoch_0004.pth"]
    state = gan_mnist.load_weights("checkpoints/epoch_0004.pth")["G_ema"]
    G = gan_mnist.load_generator(kept[1])
    assert all(
        torch.equal(value, G.state_dict()[name])
        for name, value in state.items()
        if name != "_extra_state"
    )
    train(epochs=1, overwrite=True)
    assert not list((folder / "checkpoints").glob("generator_epoch_*.pth"))


def test_grids_every_few_steps_stay_out_of_the_gif(train, folder):
    train(epochs=2, grid_every_steps=4)  # of 20 steps
    names = sorted(path.name for path in (folder / "samples").glob("step_*.png"))
    assert names == [f"step_{steps:06d}.png" for steps in (4, 8, 12, 16, 20)]
    with Image.open("samples/training.gif") as gif:
        assert gif.n_frames <= 2
    last, epoch = (folder / f"samples/{name}.png" for name in ("step_000020", "epoch_0002"))
    assert last.read_bytes() == epoch.read_bytes()
    train(epochs=1, overwrite=True)
    assert not list((folder / "samples").glob("step_*.png"))


def test_batchnorm_in_d_is_refused_with_a_penalty_on_gradients_of_single_images(train, folder):
    dcgan = {"d_arch": "dcgan", "d_norm": "batch", "width": 4}
    for wrong in (
        {**dcgan, "gradient_penalty": 0.5},
        {**dcgan, "gradient_penalty": 0, "loss": "wgan_gp"},
        {"d_arch": "mlp", "d_norm": "batch"},
    ):
        with pytest.raises(gan_mnist.UserError, match="D_NORM"):
            train(epochs=1, **wrong)
    assert not (folder / "checkpoints").exists()


def test_a_d_with_batchnorm_sees_real_and_fake_in_batches_of_their_own(digits):
    config = gan_mnist.make_config(**RUN, **NETWORKS, preset="dcgan_mnist")
    gan = gan_mnist.GAN(config, (1, 28, 28), DATA)
    images = gan_mnist.to_float(digits[0][:20].unsqueeze(1))
    images = torch.cat([images, torch.zeros(20, 1, 28, 28)]) + 0.1 * torch.randn(40, 1, 28, 28)
    apart = gan.discriminate(images, torch.zeros(20, dtype=torch.int64))
    expected = torch.cat([gan.D(images[:20]), gan.D(images[20:])])
    assert torch.allclose(apart, expected, atol=1e-5)
    assert not torch.allclose(apart, gan.D(images), atol=1e-3)
