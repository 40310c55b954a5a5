"""Training: the step is the paper's, computed a second way."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, same_tensors

import gan_mnist


def make_gan(image_shape=(1, 28, 28), **settings):
    config = gan_mnist.make_config(
        **{**TINY, "precision": "fp32", "augment": "none", **settings},
    )
    data = {"dataset": "mnist", "images": 1000, "checksum": "", "classes": 10}
    return gan_mnist.GAN(config, image_shape, data)


def step(gan, real):
    return gan.train_step(real, torch.arange(len(real)) % 10)


def real_batches(digits, number):
    return gan_mnist.to_float(digits[0].unsqueeze(1)).split(100)[:number]


def penalty(D, images):
    """Mean of |d logit / d image|², of each image by itself."""
    norms = []
    for image in images:
        image = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(D(image[None])[0], image, create_graph=True)
        norms.append(gradient.square().sum())
    return torch.stack(norms).mean()


def test_training_equals_the_textbook_loop(digits):
    """Against a second way: separate passes for real and fake, BCELoss on sigmoids, plain Adam,
    the penalty, eight times as large in every eighth step, image by image, gradients clipped."""
    clip = 0.02  # below the norm of all gradients
    options = {"label_smoothing": 0.1, "grad_clip": clip, "gradient_penalty": 0.1}
    gan = make_gan(beta1=0.5, d_hidden=(32, 16), **options)
    norms_d, norms_g = [], []
    G, D = copy.deepcopy(gan.G), copy.deepcopy(gan.D)
    optimizer_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(D.parameters(), 5e-4, betas=(0.5, 0.999))
    ones, zeros = torch.ones(100), torch.zeros(100)
    for number, real in enumerate(real_batches(digits, 9)):
        torch.manual_seed(number)
        d_loss, g_loss, accuracy = step(gan, real)

        torch.manual_seed(number)
        fake = G(torch.randn(100, 8))
        on_real, on_fake = torch.sigmoid(D(real)), torch.sigmoid(D(fake.detach()))
        loss_d = F.binary_cross_entropy(on_real, 0.9 * ones) + F.binary_cross_entropy(
            on_fake, zeros
        )
        optimizer_d.zero_grad()
        (
            loss_d
            + (0.4 * (penalty(D, real) + penalty(D, fake.detach())) if number % 8 == 0 else 0)
        ).backward()
        norms_d.append(torch.nn.utils.clip_grad_norm_(D.parameters(), clip))
        optimizer_d.step()
        loss_g = F.binary_cross_entropy(torch.sigmoid(D(fake)), ones)
        optimizer_g.zero_grad()
        loss_g.backward()
        norms_g.append(torch.nn.utils.clip_grad_norm_(G.parameters(), clip))
        optimizer_g.step()

        assert d_loss.item() == pytest.approx(loss_d.item(), rel=1e-4)
        assert g_loss.item() == pytest.approx(loss_g.item(), rel=1e-4)
        right = ((on_real > 0.5).sum() + (on_fake <= 0.5).sum()) / 200
        assert accuracy.item() == pytest.approx(right.item())
    assert min(norms_d) > clip and min(norms_g) > clip
    for ours, theirs in zip(gan.D.parameters(), D.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)
    z = torch.randn(
        100, 8
    )  # G's biases before BatchNorm have no effect and drift with the rounding
    assert torch.allclose(gan.G(z), G(z), atol=2e-4)


def test_a_conditional_step_projects_on_the_labels_of_real_which_the_fakes_get_too(digits):
    gan = make_gan(conditional=True, modes=0)
    G, D = copy.deepcopy(gan.G), copy.deepcopy(gan.D)
    real, labels = real_batches(digits, 1)[0], digits[1][:100].long()
    torch.manual_seed(0)
    d_loss, *_ = gan.train_step(real, labels)
    torch.manual_seed(0)
    told = torch.zeros(100, 10)
    told[torch.arange(100), labels] = 1
    fake = G.decode(torch.cat([torch.randn(100, 8), told], 1))
    logits = []
    for images in (real, fake):  # by the formula of Miyato & Koyama 2018: w·h + e(y)·h
        features = D.layers[:-1](images.flatten(1) + 1)
        last = D.layers[-1]
        shared = last.weight.mean(0)
        embedded = told @ (last.weight - shared)
        logits.append(features @ shared + (features * embedded).sum(1) + told @ last.bias)
    expected = gan_mnist.discriminator_loss(*logits)
    assert d_loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["hinge", "wgan_gp"])
def test_two_steps_of_d_and_one_of_g_equal_the_textbook_loop_of_the_loss(digits, loss):
    """Against a second way: losses by hand, passes of their own, penalty image by image."""
    gan = make_gan(loss=loss, d_steps=2, gradient_penalty=10.0 if loss == "wgan_gp" else 0.0)
    G, D = copy.deepcopy(gan.G), copy.deepcopy(gan.D)
    optimizer_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.0, 0.999))
    optimizer_d = torch.optim.Adam(D.parameters(), 5e-4, betas=(0.0, 0.999))
    for number, real in enumerate(torch.cat(real_batches(digits, 8)).split(200)):
        torch.manual_seed(number)
        step(gan, real)

        torch.manual_seed(number)
        for images in real.split(100):
            fake = G(torch.randn(100, 8))
            if loss == "hinge":
                loss_d = (1 - D(images)).clamp(min=0).mean() + (1 + D(fake)).clamp(min=0).mean()
            else:
                share = torch.rand(100, 1, 1, 1)
                norms = []
                for image in images + share * (fake.detach() - images):
                    image.requires_grad_()
                    (gradient,) = torch.autograd.grad(D(image[None])[0], image, create_graph=True)
                    norms.append(torch.linalg.vector_norm(gradient))
                loss_d = D(fake).mean() - D(images).mean()
                loss_d = loss_d + 10 * (torch.stack(norms) - 1).square().mean()
            optimizer_d.zero_grad()
            loss_d.backward(inputs=list(D.parameters()))
            optimizer_d.step()
        optimizer_g.zero_grad()
        (-D(fake).mean()).backward()
        optimizer_g.step()
    for ours, theirs in zip(gan.D.parameters(), D.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)  # of steps of 5e-4; Adam enlarges rounding
    z = torch.randn(100, 8)
    assert torch.allclose(gan.G(z), G(z), atol=2e-4)


def test_each_step_moves_its_own_network_alone(digits):
    gan = make_gan()
    d_before, g_before = copy.deepcopy(gan.D.state_dict()), copy.deepcopy(gan.G.state_dict())
    fake = gan.G(torch.randn(50, 8))
    gan_mnist.descend(gan_mnist.generator_loss(gan.D(fake)), gan.optimizer_g)
    assert same_tensors(gan.D.state_dict(), d_before)
    assert all(parameter.grad is None for parameter in gan.D.parameters())
    moved = [
        name
        for name in g_before
        if "weight" in name and not torch.equal(gan.G.state_dict()[name], g_before[name])
    ]
    assert len(moved) == 3  # Linear, BatchNorm, Linear
    d_before, g_before = copy.deepcopy(gan.D.state_dict()), copy.deepcopy(gan.G.state_dict())
    losses = gan_mnist.discriminator_loss(gan.D(real_batches(digits, 1)[0]), gan.D(fake))
    gan_mnist.descend(losses, gan.optimizer_d)
    assert same_tensors(gan.G.state_dict(), g_before)
    assert not any(torch.equal(gan.D.state_dict()[name], d_before[name]) for name in d_before)


def test_dropout_reaches_every_layer_of_d_and_no_other_network():
    gan = make_gan(dropout=0.3, d_hidden=(32, 16))
    shares = [
        [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)] for net in (gan.D, gan.G)
    ]
    assert shares == [[0.3, 0.3], []]


def test_grad_clip_limits_the_norm_of_the_gradient():
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    gan_mnist.descend((10 * parameter).sum(), optimizer, grad_clip=0.5)
    assert parameter.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_average_of_g_is_the_exponential_average_of_weights_and_batchnorm_statistics(digits):
    """In every 10th step it moves as far as in ten steps, and after the last as far as is left."""
    gan = make_gan(ema_decay=0.9, smooth=0.0)
    expected = copy.deepcopy(gan.G_ema.state_dict())
    for steps, real in enumerate(real_batches(digits, 1) * 23, 1):
        step(gan, real)
        if steps in (10, 20, 23):
            passed = 10 if steps < 23 else 3
            decay = min(0.9, (1 + steps) / (10 + steps)) ** passed
            for name, value in gan.G.state_dict().items():
                if name != "_extra_state":
                    expected[name] = decay * expected[name] + (1 - decay) * value
    drawn = gan.generator()  # is up to date, and leaves the average as it is
    assert gan.averaged == 20
    gan.update_average()
    gan.update_average()  # no step since the last time: no change
    for G in (gan.G_ema, drawn):
        for name, value in G.state_dict().items():
            if "num_batches" not in name and name != "_extra_state":
                assert torch.allclose(value, expected[name], atol=1e-6), name


def test_without_an_average_the_drawn_weights_are_those_of_g_after_each_epoch(digits):
    gan = make_gan(ema_decay=0.0)
    gan.train_epoch([(images, torch.zeros(125)) for images in digits[0].unsqueeze(1).split(125)])
    assert gan.steps % 10
    for average, weight in zip(gan.G_ema.parameters(), gan.G.parameters(), strict=True):
        assert torch.equal(average, weight)


def test_shifts_reach_real_and_fake_alike_from_epoch_7_on(digits, monkeypatch):
    shifted = []
    monkeypatch.setattr(
        gan_mnist, "random_shift", lambda images: shifted.append(len(images)) or images
    )
    gan = make_gan(augment="shift")
    gan.epoch = 6
    step(gan, real_batches(digits, 1)[0])
    assert not shifted
    gan.epoch = 7
    step(gan, real_batches(digits, 1)[0])
    assert shifted == [200, 100]  # D sees real and fake, then G's step the same fakes


@pytest.mark.parametrize(
    ("augment", "epoch_images", "shifted"),
    [
        ("auto", 1499, False),  # 1,000 images are more than two thirds of that
        ("auto", 1500, True),
        ("shift", 1000, True),
        ("none", 1500, False),
    ],
)
def test_auto_shifts_where_images_are_few(
    train, capsys, monkeypatch, augment, epoch_images, shifted
):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", epoch_images)
    shifts, train_epoch = [], gan_mnist.GAN.train_epoch
    monkeypatch.setattr(
        gan_mnist.GAN,
        "train_epoch",
        lambda gan, loader: shifts.append(gan.shift) or train_epoch(gan, loader),
    )
    train(epochs=1, augment=augment)
    assert shifts == [shifted]
    assert ("shifted by up to a pixel from epoch 7" in capsys.readouterr().out) == shifted


def test_bf16_training_stays_close_to_fp32(digits):
    losses = {}
    for precision in ("fp32", "bf16"):
        gan = make_gan(precision=precision)
        torch.manual_seed(0)
        losses[precision] = torch.stack([step(gan, real) for real in real_batches(digits, 9)])
        assert all(p.dtype == torch.float32 for p in [*gan.G.parameters(), *gan.D.parameters()])
    assert not torch.equal(losses["fp32"], losses["bf16"])
    assert torch.allclose(losses["fp32"][:, :2], losses["bf16"][:, :2], atol=0.05)


@pytest.mark.parametrize(
    ("epochs", "start", "shares"),
    [
        (5, 2, [1, 1, 1 - 0.98 / 3, 1 - 0.98 * 2 / 3, 0.02]),  # to 1/50 at the end, by hand
        (3, 2, [1, 1, 0.02]),
        (3, 3, [1, 1, 1]),  # too short to fall
        (3, 0, [1, 1, 1]),  # never
    ],
)
def test_learning_rates_fall_in_a_line_to_the_end_of_the_run(
    train, monkeypatch, epochs, start, shares
):
    rates = []
    original = gan_mnist.GAN.train_step

    def note_rates(self, real, labels):
        rates_now = [o.param_groups[0]["lr"] for o in (self.optimizer_g, self.optimizer_d)]
        rates.append((self.epoch, *rates_now))
        return original(self, real, labels)

    monkeypatch.setattr(gan_mnist.GAN, "train_step", note_rates)
    rest = {"learning_rate_g": 0.01, "learning_rate_d": 0.1, "batch_size": 1000}
    train(epochs=epochs, lr_decay_start=start, **rest)
    expected = [(n, 0.01 * share, 0.1 * share) for n, share in enumerate(shares, 1)]
    assert [pytest.approx(row) for row in expected] == rates


def test_a_finished_run_made_longer_gets_the_rates_of_its_new_length_and_says_so(train, capsys):
    """Against 20 more epochs at a fiftieth of the learning rates, in which little is learned."""
    train(epochs=3, lr_decay_start=2)
    capsys.readouterr()
    factors = []
    set_rates = gan_mnist.GAN.set_learning_rates

    def note(gan):
        set_rates(gan)
        factors.append(gan.optimizer_g.param_groups[0]["lr"] / gan.config.learning_rate_g)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan_mnist.GAN, "set_learning_rates", note)
        train(epochs=6, lr_decay_start=2, resume=True)
    assert factors[-3:] == pytest.approx([1 - 0.98 / 4 * past for past in (2, 3, 4)])
    out = capsys.readouterr().out
    assert "EPOCHS 3 -> 6" in out and "The learning rates now fall to epoch 6" in out


@pytest.mark.parametrize(
    "system",
    [
        {},
        {"loss": "hinge", "spectral_norm": True},
        {"loss": "wgan_gp", "d_steps": 3, "gradient_penalty": 10.0, "beta2": 0.9},
    ],
)
def test_samples_come_close_to_the_digits_in_mean_and_spread_of_every_pixel(digits, system):
    real = gan_mnist.to_float(digits[0].unsqueeze(1))
    gan = make_gan(
        latent_dim=32,
        g_hidden=(128,),
        d_hidden=(128,),
        learning_rate_g=3e-3,
        learning_rate_d=1.5e-3,
        **system,
    )
    distances = []
    for number in range(401):
        torch.manual_seed(number)
        if number in (0, 400):
            drawn = gan.G_ema.sample(1000, seed=0)
            distances += [
                (drawn.mean(0) - real.mean(0)).abs().mean(),
                (drawn.std(0) - real.std(0)).abs().mean(),
            ]
        step(gan, real[torch.randperm(1000)[: 100 * gan.config.d_steps]])
    assert distances[0] > 0.7 and distances[1] > 0.3
    assert distances[2] < 0.1 and distances[3] < 0.15


META_SYSTEMS = {
    "defaults": {},
    "shifts": {"augment": "shift"},
    "conditional": {"conditional": True, "label_smoothing": 0.1, "grad_clip": 1.0},
    "hinge": {"loss": "hinge", "spectral_norm": True, "dropout": 0.3},
    "wgan_gp": {"loss": "wgan_gp", "d_steps": 2, "gradient_penalty": 10.0},
    "dcgan": {"preset": "dcgan_mnist", "width": 4, "conditional": True, "augment": "shift"},
}


@pytest.mark.parametrize("system", META_SYSTEMS)
def test_every_tensor_of_a_step_is_made_on_the_device_of_the_networks(system, monkeypatch):
    """Without a GPU: the device "meta" computes nothing, and takes no tensor of the CPU either."""
    meta = torch.device("meta")
    gan = make_gan(**META_SYSTEMS[system])
    for part in ("G", "D", "G_ema"):
        setattr(gan, part, getattr(gan, part).to(meta))
    gan.optimizer_g = torch.optim.Adam(gan.G.parameters())
    gan.optimizer_d = torch.optim.Adam(gan.D.parameters())
    gan.device = meta
    monkeypatch.setattr(gan, "autocast", contextlib.nullcontext)  # PyTorch has none for "meta"
    gan.epoch = gan_mnist.FIRST_SHIFTED_EPOCH
    c = gan.config
    n = c.batch_size * c.d_steps
    labels = torch.zeros(n, dtype=torch.int64, device=meta)
    losses = gan.train_step(torch.zeros(n, 1, 28, 28, device=meta), labels)
    gan.update_average()
    drawn = gan.generator().sample(20, seed=0)
    assert losses.device == drawn.device == meta
    assert drawn.shape == (20, 1, 28, 28)


def test_a_tensor_made_on_another_device_is_noticed_by_that_test(monkeypatch):
    labels_on_the_cpu = lambda logits, loss: F.binary_cross_entropy_with_logits(  # noqa: E731
        logits, torch.ones(len(logits))
    )
    monkeypatch.setattr(gan_mnist, "generator_loss", labels_on_the_cpu)
    with pytest.raises((RuntimeError, NotImplementedError)):
        test_every_tensor_of_a_step_is_made_on_the_device_of_the_networks("defaults", monkeypatch)


def test_no_two_random_streams_of_a_run_have_a_seed_in_common_nor_with_one_that_a_user_gives():
    for seed in (0, 1, 2**31 - 1):
        streams = [*gan_mnist.STREAMS.values(), *range(1, 100_001)]  # epoch n has stream n
        seeds = {gan_mnist.stream_seed(seed, stream) for stream in streams}
        assert len(seeds) == len(streams)
        assert min(seeds) >= 2**31 and max(seeds) < 2**32  # PyTorch uses the lowest 32 bits
    assert gan_mnist.LIMITS["seed"][1] < 2**31


def test_first_weights_training_measurement_and_grid_draw_different_numbers(train, monkeypatch):
    """Against what once was: the measurement's z were numbers that the first epoch trained with."""
    drawn = {}
    code = gan_mnist.Generator.code

    def note(G, z, labels=None):
        purpose = {9: "grid", 500: "measurement"}.get(len(z), "training")  # 2,000 in four parts
        drawn.setdefault(purpose, []).append(z.flatten())
        return code(G, z, labels)

    monkeypatch.setattr(gan_mnist.Generator, "code", note)
    train(epochs=2, metrics_every=1)
    numbers = {purpose: set(torch.cat(parts).tolist()) for purpose, parts in drawn.items()}
    assert {purpose: len(values) > 70 for purpose, values in numbers.items()} == {
        "training": True,
        "measurement": True,
        "grid": True,
    }
    assert len(numbers["training"] & numbers["measurement"]) < 100  # of 16,000; chance alone
    assert len(numbers["training"] & numbers["grid"]) < 3
    assert len(numbers["measurement"] & numbers["grid"]) < 3
