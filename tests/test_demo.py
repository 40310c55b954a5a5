"""The demo page: in a real browser it draws what PyTorch draws, alone and without a request."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, fails
from PIL import Image
from torchvision.utils import make_grid

import gan_mnist

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium here: apt-get install chromium")


def save_generator(path, about=None, seed=1, **shape):
    """A generator with BatchNorm statistics and weights as after a training -> it, saved."""
    torch.manual_seed(seed)
    G = gan_mnist.GENERATORS[shape.pop("arch", "mlp")](**shape)
    for layer in G.layers:
        if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
            torch.nn.init.normal_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.1, 2.0)
    code = torch.randn(100, G.latent_dim), torch.arange(100) % 10
    with torch.no_grad():  # so that all greys from black to white appear
        spread = G.eval().layers[:-1](G.code(*code)).std()
        G.layers[-2].weight.mul_(2 / spread)
    G.about = about or {}
    path.parent.mkdir(exist_ok=True)
    torch.save(G.state_dict(), path)
    return G.eval()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path, monkeypatch):
    """Make the page of a generator and open it: show(classes=10, address="#seed=5").

    With motion=False the page stands still, as for a visitor who has asked the system for that.
    """
    monkeypatch.chdir(tmp_path)
    told = []
    pages = []

    def run(address="", motion=False, **shape):
        G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **shape)
        assert gan_mnist.main(["demo"]) == 0
        return G, visit((tmp_path / "generated_samples" / "demo.html").as_uri() + address, motion)

    def visit(address, motion=False):
        page = browser.new_page(reduced_motion="no-preference" if motion else "reduce")
        pages.append(page)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url))
        page.goto(address)
        return page

    run.visit = visit
    yield run
    for page in pages:
        page.close()
    asked = [text for text in told if not text.startswith("file://")]
    assert asked == []  # no message, no error, and no request but for the page itself
    assert len([text for text in told if "demo.html" in text]) >= 1


def wait(page, condition):
    """Wait until an expression is true; the page forbids Playwright's own way, an eval in it."""
    for _ in range(400):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def colours(page, canvas):
    """Expression of a canvas -> the colours on it, (3, H, W)."""
    script = f"""() => {{
        const canvas = {canvas}, context = canvas.getContext("2d");
        const {{data, width, height}} = context.getImageData(0, 0, canvas.width, canvas.height);
        return [height, width, Array.from(data)];
    }}"""
    height, width, data = page.evaluate(script)
    rgba = torch.tensor(data).view(height, width, 4).permute(2, 0, 1)
    assert (rgba[3] == 255).all()
    return rgba[:3]


def pixels(page, canvas):
    """Expression of a canvas -> the greys on it, (H, W)."""
    red, green, blue = colours(page, canvas)
    assert torch.equal(red, green) and torch.equal(red, blue)
    return red


def sample(number):
    return f"samples[{number - 1}].canvas"


def corner(number):
    return f"document.querySelectorAll('.corner canvas')[{number}]"


def go_to(page, x, y):
    """Move the blend by its two sliders."""
    page.fill("#x", str(x))
    page.fill("#y", str(y))


SMALL = {"latent_dim": 9, "hidden": (30,), "modes": 4}
FOUR_SAMPLES = "#corners=0_0_1_-1*0_1_1_-1*0_2_1_-1*0_3_1_-1"


@needs_browser
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"latent_dim": 7, "hidden": (30,), "modes": 2},
        {"classes": 10},
        {"modes": 0},
        {"norm": "none", "activation": "leaky_relu", "end": "sigmoid", "hidden": (40, 50)},
        {"arch": "dcgan", "width": 8, "classes": 10},
        {"arch": "dcgan", "width": 4, "norm": "none", "image_shape": (1, 64, 64)},
        {"hidden": (40,), "image_shape": (3, 32, 32)},
        {"arch": "dcgan", "width": 4, "image_shape": (3, 64, 64)},
    ],
    ids=[
        "default",
        "tiny",
        "conditional",
        "no modes",
        "no norm",
        "dcgan",
        "dcgan at 64",
        "colour",
        "dcgan in colour",
    ],
)
def test_pixels_equal_those_of_pytorch_within_2_grey_levels(show, shape):
    G, page = show(**shape)
    z, labels = gan_mnist.sample_z(20, G.latent_dim, seed=3), torch.arange(20) % 10
    with torch.no_grad():
        expected = gan_mnist.to_uint8(G(z, labels)).int()
    assert expected.min() == 0 and expected.max() == 255 and 50 < expected.float().mean() < 200
    script = "([z, label]) => paint(picture, generate(z, label))"
    differences = []
    for point, label, image in zip(z.tolist(), labels.tolist(), expected, strict=True):
        page.evaluate(script, [point, label])
        differences.append((colours(page, "picture") - image).abs().max().item())
    print("largest difference in grey levels:", max(differences))
    assert max(differences) <= 2


@needs_browser
def test_the_noise_of_the_page_is_normal(show):
    _, page = show(latent_dim=100, hidden=(8,))
    z = torch.tensor(
        page.evaluate("Array.from({length: 200}, (_, i) => Array.from(noise(5, i)))"),
        dtype=torch.float64,
    )
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.02
    assert abs(z.pow(4).mean() - 3) < 0.2
    assert z.T.cov().sub(torch.eye(100)).abs().max() < 0.45  # 200 points: up to about 5 / sqrt(200)
    assert len(set(z[:, 0].tolist())) == 200
    mixed = torch.tensor(
        page.evaluate("""Array.from({length: 200}, (_, i) =>
        Array.from(mix([0, 1, 2, 3].map(k => noise(k, i)), [.1, .2, .3, .4])))""")
    )
    assert abs(mixed.std() - 1) < 0.02


@needs_browser
def test_a_link_shows_the_same_samples_again_and_new_digits_are_others(show):
    _, page = show("#seed=7&truncation=0.5", **SMALL)
    assert page.input_value("#truncation") == "0.5"
    first = pixels(page, sample(5))
    page.click("#new")
    assert "seed=7&" not in page.url
    assert not torch.equal(pixels(page, sample(5)), first)
    page.evaluate("location.hash = '#seed=7&truncation=0.5'")
    wait(page, "state.seed === 7")
    assert torch.equal(pixels(page, sample(5)), first)


@needs_browser
@pytest.mark.parametrize("classes", [0, 10])
def test_a_link_restores_the_corners_the_blend_and_the_look(show, classes):
    _, page = show(classes=classes, **SMALL)
    page.fill("#truncation", "0.8")
    page.click("#kinds button:nth-child(4)")
    for number in (3, 30):
        page.click("#new")
        page.click(f"#grid button:nth-child({number})")
    page.click("#pixels")
    go_to(page, 0.25, 0.6)
    again = show.visit(page.url)
    for canvas in ("picture", "document.querySelector('#view')", sample(9), *map(corner, range(4))):
        assert torch.equal(pixels(again, canvas), pixels(page, canvas)), canvas
    assert (again.input_value("#x"), again.input_value("#y")) == ("0.25", "0.6")
    assert again.get_attribute("#pixels", "aria-pressed") == "true"
    moving = show.visit(page.url, motion=True)  # a chosen position is not left
    moving.wait_for_timeout(1500)
    assert torch.equal(pixels(moving, "picture"), pixels(page, "picture"))


@needs_browser
def test_the_most_usual_picture_of_a_kind_is_one_and_kinds_differ(show):
    _, page = show("#truncation=0&kind=1", **SMALL)
    assert torch.equal(pixels(page, sample(1)), pixels(page, sample(48)))
    first = pixels(page, sample(1))
    page.click("#kinds button:nth-child(2)")
    assert not torch.equal(pixels(page, sample(1)), first)


@needs_browser
@pytest.mark.parametrize(
    "address",
    [
        "#seed=-1",
        "#seed=x&truncation=9&kind=99&look=odd",
        "#%",
        "#seed=1e99",
        "#corners=1*2&at=5_5",
        "#corners=a_b_c_d*-1_-1_-1_-9*9e99_9e99_9_99*&at=_",
    ],
)
def test_a_senseless_address_falls_back_to_the_defaults(show, address):
    _, page = show(address, **SMALL)
    assert page.evaluate("state") == {"seed": 0, "truncation": 1, "kind": -1, "look": "smooth"}
    assert page.input_value("#x") == page.input_value("#y") == "0"
    assert pixels(page, "picture").float().std() > 10


@needs_browser
def test_a_tapped_sample_fills_the_next_corner_and_the_corners_are_reached(show):
    _, page = show(**SMALL)
    for number, place in ((20, 0), (7, 1)):
        page.click(f"#grid button:nth-child({number})")
        assert torch.equal(pixels(page, corner(place)), pixels(page, sample(number)))
        assert torch.equal(pixels(page, "picture"), pixels(page, sample(number)))  # it is shown
    assert "Sample 7 is in the top right corner" in page.text_content("[role=status]#said")
    page.click("#grid button:nth-child(20)")  # the third corner
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")  # from sample 20 to 29
    page.keyboard.press("Enter")
    for place, number in ((0, 20), (1, 7), (2, 20), (3, 29)):
        expected = pixels(page, sample(number))
        assert torch.equal(pixels(page, corner(place)), expected)
        go_to(page, place % 2, place // 2)
        assert (pixels(page, "picture") - expected).abs().max() <= 1
    page.locator(".corner").nth(1).click()  # a chosen corner is shown, and filled next
    assert (page.input_value("#x"), page.input_value("#y")) == ("1", "0")
    page.click("#grid button:nth-child(3)")
    assert torch.equal(pixels(page, corner(1)), pixels(page, sample(3)))


@needs_browser
def test_the_blend_follows_the_pointer_and_the_arrow_keys(show):
    _, page = show(**SMALL)
    box = page.locator("#morph").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.295)
    page.mouse.up()
    assert abs(float(page.input_value("#x")) - 0.5) < 0.02
    assert abs(float(page.input_value("#y")) - 0.25) < 0.02
    before = pixels(page, "picture")
    page.focus("#x")
    page.keyboard.press("ArrowRight")
    assert not torch.equal(pixels(page, "picture"), before)
    assert "at=0.51_0.25" in page.url


@needs_browser
def test_the_blend_wanders_by_itself_until_a_touch_takes_over(show):
    _, page = show(motion=True, **SMALL)
    assert page.text_content("#wander") == "Pause"
    first = pixels(page, "picture")
    wait(page, "position[0] > 0.3")
    assert not torch.equal(pixels(page, "picture"), first)
    wait(page, "position[0] === 1 && position[1] === 0")
    assert (pixels(page, "picture") - pixels(page, corner(1))).abs().max() <= 1
    page.click("#morph", position={"x": 150, "y": 200})
    assert page.text_content("#wander") == "Wander"
    still = pixels(page, "picture")
    page.wait_for_timeout(1500)
    assert torch.equal(pixels(page, "picture"), still)
    page.click("#wander")
    page.wait_for_timeout(2500)
    assert not torch.equal(pixels(page, "picture"), still)


@needs_browser
def test_nothing_moves_where_the_system_asks_for_that(show):
    _, page = show(**SMALL)
    assert page.text_content("#wander") == "Wander"
    first = pixels(page, "picture")
    page.wait_for_timeout(1500)
    assert torch.equal(pixels(page, "picture"), first)
    assert (first - pixels(page, corner(0))).abs().max() <= 1


@needs_browser
@pytest.mark.parametrize("shape", [{"classes": 10, "modes": 0}, {"modes": 10}])
def test_the_first_corners_are_of_four_different_kinds(show, shape):
    _, page = show(latent_dim=20, hidden=(30,), **shape)
    assert len(set(page.evaluate("corners.map(each => each.kind)"))) == 4


@needs_browser
def test_the_digit_buttons_of_a_conditional_generator_ask_for_that_digit(show):
    _, page = show(classes=10, **SMALL)
    assert page.locator("#kinds button").count() == 11
    page.click("#kinds button:text-is('7')")
    assert "kind=7" in page.url
    for number in (1, 30):
        page.evaluate(f"paint(picture, generate(noise(0, {number - 1}), 7))")
        assert torch.equal(pixels(page, sample(number)), pixels(page, "picture"))


@needs_browser
def test_the_mode_buttons_of_another_generator_ask_for_that_mode_and_show_it(show):
    G, page = show(**SMALL)
    assert page.locator("#kinds button").count() == 5
    page.click("[aria-label='Kind 3']")
    z = torch.tensor(page.evaluate("[0, 29].map(i => Array.from(noise(0, i)))"))
    z = torch.cat([z, torch.zeros(1, 9)])
    z[:, 2] = 100  # so that it is the largest of the first four, which choose the mode
    with torch.no_grad():
        expected = gan_mnist.to_uint8(G(z)).int().squeeze(1)
    button = "document.querySelector('[aria-label=\"Kind 3\"] canvas')"
    for canvas, picture in zip((sample(1), sample(30), button), expected, strict=True):
        assert (pixels(page, canvas) - picture).abs().max() <= 2


@needs_browser
def test_between_corners_of_a_conditional_generator_labels_are_mixed_like_the_points(show):
    G, page = show(FOUR_SAMPLES, classes=10, latent_dim=9, hidden=(30,), modes=0)
    go_to(page, 0.5, 0)
    z = torch.tensor(page.evaluate("[0, 1].map(i => Array.from(noise(0, i)))"))  # a 0 and a 1
    told = torch.zeros(1, 10)
    told[0, :2] = 0.5
    with torch.no_grad():
        middle = G.decode(torch.cat([z.sum(0, keepdim=True) / 2**0.5, told], 1))
    expected = gan_mnist.to_uint8(middle)[0, 0].int()
    assert (pixels(page, "picture") - expected).abs().max() <= 2


@needs_browser
def test_between_corners_the_modes_are_mixed_by_their_shares(show):
    G, page = show(FOUR_SAMPLES, **SMALL)
    go_to(page, 0.25, 0)
    z = torch.tensor(page.evaluate("[0, 1].map(i => Array.from(noise(0, i)))"))
    shares = torch.tensor([[0.75], [0.25]])
    middle = (z * shares).sum(0, keepdim=True) / 0.625**0.5
    middle[:, :4] = (G.code(z)[:, :4] * shares).sum(0)
    with torch.no_grad():
        expected = gan_mnist.to_uint8(G.decode(middle))[0, 0].int()
    assert (pixels(page, "picture") - expected).abs().max() <= 2


@needs_browser
def test_without_classes_and_modes_there_are_no_buttons_for_them(show):
    _, page = show(latent_dim=9, hidden=(30,), modes=0)
    assert not page.is_visible("#kinds") and not page.is_visible("#kinds-title")


@needs_browser
def test_the_blend_looks_smooth_or_pixelated_as_chosen(show):
    _, page = show(**SMALL)
    view = "document.querySelector('#view')"
    smooth = pixels(page, view)
    page.click("#pixels")
    squares = pixels(page, view)
    scale = len(squares) // 28
    enlarged = pixels(page, "picture").repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    assert torch.equal(squares, enlarged)
    assert (
        len(smooth) == len(squares) and smooth.diff().ne(0).sum() > 3 * squares.diff().ne(0).sum()
    )
    both = torch.stack([smooth.flatten(), squares.flatten()]).double()
    assert both.corrcoef()[0, 1] > 0.4  # the same picture
    page.click("#smooth")
    assert torch.equal(pixels(page, view), smooth)


@needs_browser
@pytest.mark.parametrize("shape", [{}, {"image_shape": (3, 64, 64)}])
def test_pictures_are_saved_as_png_at_a_size_that_can_be_shown(show, shape):
    _, page = show(**SMALL, **shape)
    for look in ("smooth", "pixels"):
        page.click(f"#{look}")
        for button, smallest in (("#save-grid", 700), ("#save-blend", 500)):
            with page.expect_download() as download:
                page.click(button)
            with Image.open(download.value.path()) as picture:
                assert picture.format == "PNG"
                assert min(picture.size) >= smallest and max(picture.size) <= 1200
                assert np.asarray(picture.convert("L")).std() > 10


@needs_browser
@pytest.mark.parametrize("classes", [0, 10])
def test_every_control_has_a_name_and_a_phone_needs_no_sideways_scrolling(show, classes):
    _, page = show(classes=classes, about={"dataset": "mnist", "epochs": 1}, **SMALL)
    wait(page, "game")
    nameless = page.evaluate("""[...document.querySelectorAll("button, input")].filter(element =>
        !(element.ariaLabel || element.textContent.trim() || element.labels?.length)).length""")
    assert nameless == 0
    for width in (320, 390, 700, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
@pytest.mark.parametrize("size", [(390, 844), (1280, 800)])
def test_the_blend_is_the_first_thing_and_whole_on_the_first_screen(show, size):
    _, page = show(**SMALL)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    box = page.locator("#view").bounding_box()
    assert box["y"] < 150 and box["y"] + box["height"] < size[1]
    assert box["width"] >= min(550, 0.9 * size[0])
    assert page.locator("#grid").bounding_box()["y"] > box["y"]


# the training replayed


def write_grid(path, images, zoom=1):
    """Write a grid as a run does, enlarged or not."""
    grid = make_grid(images, 8, pad_value=-1.0)[: images.shape[1]]
    large = grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    gan_mnist.save_image(gan_mnist.Path(path), large)


def train_grids(G, epochs, seed=0, zoom=1):
    """Write grids of random greys, and what G draws after the last epoch -> what G tells of it."""
    for epoch in range(1, epochs + 1):
        torch.manual_seed(epoch)
        images = torch.rand(64, *G.image_shape).mul(2).sub(1).round()
        if epoch == epochs:
            images = G.sample(64, seed)
        write_grid(f"generated_samples/epoch_{epoch:04d}.png", images, zoom)
    return {"dataset": "mnist_5k", "epochs": epochs}


@needs_browser
@pytest.mark.parametrize("zoom", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_slider_shows_the_grid_of_its_epoch(show, tmp_path, zoom, channels):
    shape = {"image_shape": (channels, 28, 28), **SMALL}
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **shape)
    write_grid(tmp_path / "plain.png", G.sample(64, seed=0))
    _, page = show(about=train_grids(G, 5, zoom=zoom), **shape)
    assert page.text_content("#epoch-value") == "epoch 1 of 5"
    page.focus("#epoch")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#epoch-value") == "epoch 5 of 5"
    assert page.get_attribute("#epoch", "aria-valuetext") == "epoch 5 of 5"
    assert (
        page.get_attribute("#replay-picture", "alt") == "What the network drew after epoch 5 of 5"
    )
    page.evaluate("document.querySelector('#replay-picture').decode()")
    shown = colours(
        page,
        """(() => {
        const image = document.querySelector("#replay-picture");
        const canvas = newCanvas(image.naturalWidth, image.naturalHeight);
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas;
    })()""",
    )
    with Image.open(tmp_path / "plain.png") as grid:
        expected = torch.tensor(np.array(grid.convert("RGB"))).permute(2, 0, 1)
    assert shown.shape == expected.shape
    assert (shown - expected.int()).abs().float().mean() < (4 if channels == 1 else 20)


@needs_browser
def test_play_runs_through_the_epochs_and_starts_again_at_the_end(show, tmp_path):
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **SMALL)
    _, page = show(about=train_grids(G, 4), **SMALL)
    for _ in range(2):
        page.click("#play")
        assert page.text_content("#play") == "Pause"
        wait(page, "document.querySelector('#play').textContent === 'Play'")
        assert page.text_content("#epoch-value") == "epoch 4 of 4"
    assert page.evaluate("playing") == 0


@needs_browser
@pytest.mark.parametrize("grids", ["none", "another generator", "another seed"])
def test_without_grids_of_its_own_run_there_is_no_replay(show, tmp_path, capsys, grids):
    weights = 5 if grids == "another generator" else 1
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", seed=weights, **SMALL)
    about = {"dataset": "mnist_5k", "epochs": 3}
    if grids != "none":
        train_grids(G, 3, seed=8 if grids == "another seed" else 0)
    _, page = show(about=about, **SMALL)
    assert not page.is_visible("#replay")
    assert "It replays no training" in capsys.readouterr().out
    for width, columns in ((1280, 10), (390, 5)):  # the game is as wide as the page
        page.set_viewport_size({"width": width, "height": 800})
        tiles = [tile.bounding_box() for tile in page.locator("#tiles button").all()]
        assert len({tile["x"] for tile in tiles}) == columns
        assert max(tile["x"] + tile["width"] for tile in tiles) > 0.9 * width - 32


def test_a_run_of_another_seed_is_replayed_when_that_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **SMALL)
    about = train_grids(G, 3, seed=8)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", about, **SMALL)
    assert gan_mnist.main(["demo", "--seed", "8"]) == 0
    assert "It replays the training in 3 grids" in capsys.readouterr().out


def model_of(path):
    """The page that `demo` wrote -> what it has put into the template."""
    text = path.read_text(encoding="utf-8")
    return json.JSONDecoder().raw_decode(text[text.index("const MODEL = ") + 14 :])[0]


def test_of_more_than_60_grids_60_are_in_the_page_with_the_first_and_the_last(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **SMALL)
    about = train_grids(G, 75)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", about, **SMALL)
    assert gan_mnist.main(["demo"]) == 0
    epochs = [
        grid["epoch"] for grid in model_of(tmp_path / "generated_samples" / "demo.html")["grids"]
    ]
    assert len(epochs) == 60 and (epochs[0], epochs[-1]) == (1, 75)
    assert set(np.diff(epochs)) == {1, 2}


def test_a_damaged_grid_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **SMALL)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", train_grids(G, 3), **SMALL)
    (tmp_path / "generated_samples" / "epoch_0002.png").write_bytes(b"no picture")
    code, line = fails(capsys, "demo")
    assert code == 2 and "epoch_0002.png is damaged" in line


# real or drawn?


def play_round(page, wrong):
    """Mark all drawn digits, but `wrong` of all the wrong way round, and show the answer."""
    wait(page, "game && !game.done")
    real = page.evaluate("game.tiles.map(each => each.real)")
    for number, is_real in enumerate(real):
        if is_real == (number < wrong):
            page.locator("#tiles button").nth(number).click()
    page.click("#answer")
    return real


@needs_browser
@pytest.mark.parametrize("classes", [0, 10])
def test_half_of_the_twenty_are_bundled_digits_and_half_are_drawn(show, classes):
    G, page = show(classes=classes, about={"dataset": "mnist", "epochs": 1}, **SMALL)
    wait(page, "game")
    bundled, _ = gan_mnist.load_bundle()
    bundled = {image.numpy().tobytes() for image in bundled}
    rounds = []
    for _ in range(2):
        tiles = page.evaluate("game.tiles.map(({real, sample}) => [real, sample])")
        rounds.append([real for real, _ in tiles])
        for number, (real, origin) in enumerate(tiles):
            shown = pixels(page, f"document.querySelectorAll('#tiles canvas')[{number}]")
            assert (shown.byte().numpy().tobytes() in bundled) == real
            if not real:
                z = torch.tensor([page.evaluate("s => Array.from(inputOf(s).z)", origin)])
                labels = torch.tensor([origin["number"] % 10])
                with torch.no_grad():
                    expected = gan_mnist.to_uint8(G(z, labels))[0, 0].int()
                assert (shown - expected).abs().max() <= 2
        assert sum(rounds[-1]) == 10
        page.click("#again")
    assert rounds[0] != rounds[1]


@needs_browser
@pytest.mark.parametrize("wrong", [0, 6, 20])
def test_the_score_is_the_number_of_digits_that_were_told_right(show, wrong):
    _, page = show(about={"dataset": "mnist_5k", "epochs": 1}, **SMALL)
    real = play_round(page, wrong)
    assert page.text_content("[role=status]#result") == f"You are right about {20 - wrong} of 20."
    assert f"You{round(100 * (20 - wrong) / 20)}%" in page.text_content("#scores")
    for number, is_real in enumerate(real):
        told = page.locator("#tiles button").nth(number).inner_text()
        assert told == ("✗ " if number < wrong else "✓ ") + ("real" if is_real else "drawn")
    page.click("#again")
    assert page.text_content("#result") == "0 of 10 marked."
    assert not page.is_visible("#scores")


@needs_browser
def test_the_game_is_played_by_keyboard_too(show):
    _, page = show(about={"dataset": "mnist_5k", "epochs": 1}, **SMALL)
    wait(page, "game")
    page.locator("#tiles button").first.focus()
    page.keyboard.press("Space")
    assert page.evaluate("game.tiles.map(each => each.chosen)") == [True] + [False] * 19
    assert page.locator("#tiles button").first.get_attribute("aria-pressed") == "true"
    assert page.text_content("#result") == "1 of 10 marked."


TOLD = "told from training images by a new network"


@needs_browser
@pytest.mark.parametrize("measured", ["this", "another", "none", "damaged"])
def test_beside_the_visitor_stands_the_network_that_was_measured_with_this_generator(
    show, tmp_path, measured
):
    about = {"dataset": "mnist_5k", "epochs": 4, "fd": 3.25}
    generated = {TOLD: 0.8765, "told by outlines alone": 0.61}
    metrics = {"about": {"model": "x", **about}, "generated": generated}
    if measured == "another":
        metrics["about"]["fd"] = 3.0
    text = "{" if measured == "damaged" else json.dumps(metrics)
    (tmp_path / "checkpoints").mkdir()
    if measured != "none":
        (tmp_path / "checkpoints" / "generator_final.pth.json").write_text(text)
    _, page = show(about=about, **SMALL)
    play_round(page, 0)
    scores = page.text_content("#scores")
    assert ("A network88%" in scores) == (measured == "this")
    assert ("A network, outlines alone61%" in scores) == (measured == "this")
    assert "By guessing50%" in scores
    assert ("gan_mnist.py evaluate" in page.text_content("#judged")) == (measured != "this")


@needs_browser
@pytest.mark.parametrize(
    "shape", [{"about": {"dataset": "kmnist"}}, {"image_shape": (3, 32, 32)}, {}]
)
def test_there_is_no_game_without_real_digits_of_the_same_kind(show, shape):
    _, page = show(**SMALL, **shape)
    assert not page.is_visible("#game")
    assert page.text_content("#new") == "New pictures"


@needs_browser
def test_real_digits_are_resized_like_those_of_the_training(show):
    about = {"dataset": "mnist", "epochs": 1}
    _, page = show(about=about, arch="dcgan", width=4, image_shape=(1, 64, 64))
    wait(page, "game")
    assert page.evaluate("[sheet.naturalWidth, sheet.naturalHeight]") == [20 * 64, 10 * 64]
    assert sum(page.evaluate("game.tiles.map(each => each.real)")) == 10


# the file


def test_the_page_of_the_default_generator_is_one_file_below_6_mb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth")
    about = train_grids(G, 60)
    pictures, _ = gan_mnist.load_bundle()
    for epoch in range(1, 60):  # no noise, which no PNG makes smaller, but digits
        images = gan_mnist.to_float(pictures[64 * epoch : 64 * (epoch + 1)])
        write_grid(f"generated_samples/epoch_{epoch:04d}.png", images)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", about)
    assert gan_mnist.main(["demo"]) == 0
    page = (tmp_path / "generated_samples" / "demo.html").read_text(encoding="utf-8")
    assert len(model_of(tmp_path / "generated_samples" / "demo.html")["grids"]) == 60
    print("size of the page:", len(page))
    assert 3_900_000 < len(page) < 6_000_000
    assert "/*MODEL*/" not in page
    assert re.findall(r"""(?:src|href)=["']?[^"'> ]+|https?://[^"' ]+|@import|url\(""", page) == []


def test_the_template_has_at_most_600_lines():
    assert len((ROOT / "demo.html").read_text(encoding="utf-8").splitlines()) <= 600


def test_the_page_of_the_pretrained_generator_replays_its_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert gan_mnist.main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "It replays the training in 60 grids" in out
    model = model_of(tmp_path / "generated_samples" / "demo.html")
    assert [grid["epoch"] for grid in model["grids"]] == list(range(1, 61))
    png = base64.b64decode(model["grids"][-1]["png"])
    last = np.array(Image.open(io.BytesIO(png)).convert("L"))
    G = gan_mnist.load_generator(gan_mnist.PRETRAINED)
    gan_mnist.save_grid(tmp_path / "drawn.png", G.sample(64, seed=0))
    drawn = np.array(Image.open(tmp_path / "drawn.png").reduce(3))  # which has 16 greys there
    assert last.shape == drawn.shape == (242, 242)
    assert np.abs(last.astype(int) - drawn).mean() < 3


def test_the_page_of_the_pretrained_generator_gives_way_to_that_of_a_run(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert gan_mnist.main(["demo"]) == 0  # before any run
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", **SMALL)
    assert gan_mnist.main(["demo"]) == 0
    page = (tmp_path / "generated_samples" / "demo.html").read_text(encoding="utf-8")
    assert '"source": "checkpoints/generator_final.pth"' in page
    (tmp_path / "checkpoints" / "generator_final.pth").unlink()
    capsys.readouterr()
    code, line = fails(capsys, "demo")  # and not the other way round
    assert code == 2 and "demo.html is there and not the page of" in line


def test_the_page_of_another_generator_is_not_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "generated_samples" / "demo.html"
    for name in ("checkpoints", "conditional"):
        save_generator(tmp_path / name / "generator_final.pth", **SMALL)
    assert gan_mnist.main(["demo"]) == 0
    assert gan_mnist.main(["demo"]) == 0  # its own is
    before = page.read_bytes()
    capsys.readouterr()
    code, line = fails(capsys, "demo", "--checkpoint_dir", "conditional")
    assert code == 2 and "demo.html is there and not the page of conditional" in line
    assert page.read_bytes() == before
    page.unlink()
    assert gan_mnist.main(["demo", "--checkpoint_dir", "conditional"]) == 0


def test_demo_says_in_words_what_it_wrote_and_from_what(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    about = {"dataset": "mnist_5k", "images": 5000, "epochs": 2, "fd": None}
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", about, **SMALL)
    assert gan_mnist.main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "Wrote generated_samples/demo.html (0.1 MB), drawn by\n" in out
    assert "checkpoints/generator_final.pth (2 epochs of mnist_5k)" in out
    assert "{" not in out and "None" not in out


@pytest.mark.parametrize(
    ("content", "expected"), [(None, 2), (b"", 2), (b"<html>", 2), ("folder", 1)]
)
def test_a_missing_or_damaged_model_is_one_line(tmp_path, monkeypatch, capsys, content, expected):
    monkeypatch.chdir(tmp_path)
    if content == "folder":
        (tmp_path / "model.pth").mkdir()
    elif content is not None:
        (tmp_path / "model.pth").write_bytes(content)
    code, line = fails(capsys, "demo", "--model_path", "model.pth")
    assert code == expected and "model.pth" in line
    assert not (tmp_path / "generated_samples").exists()


def test_the_template_is_never_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(gan_mnist.BUNDLE.parents[1])
    before = (gan_mnist.BUNDLE.parents[1] / "demo.html").read_bytes()
    save_generator(tmp_path / "checkpoints" / "model.pth", hidden=(8,))
    model = str(tmp_path / "checkpoints" / "model.pth")
    code, line = fails(capsys, "demo", "--model_path", model, "--samples_dir", ".")
    assert code == 2 and "demo.html is the template" in line
    assert (gan_mnist.BUNDLE.parents[1] / "demo.html").read_bytes() == before


@needs_browser
def test_the_template_itself_says_how_to_make_the_page_and_nothing_else(show):
    page = show.visit((ROOT / "demo.html").as_uri())  # which asserts that there is no error
    assert "python gan_mnist.py demo" in page.inner_text("body")
    assert len(page.inner_text("body").splitlines()) == 1


def test_a_page_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", hidden=(8,))
    (tmp_path / "pages").write_text("a file where the folder should be")
    code, line = fails(capsys, "demo", "--samples_dir", "pages")
    assert code == 2 and "SAMPLES_DIR (--samples_dir) is 'pages'" in line


def test_the_page_tells_the_training_in_words_and_no_path_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"dataset": str(tmp_path / "cats"), "images": 9, "checksum": "0123abcd"}
    about = {**data, "epochs": 3, "fd": 1.2345}
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", about, hidden=(8,))
    assert gan_mnist.main(["demo"]) == 0
    page = (tmp_path / "generated_samples" / "demo.html").read_text(encoding="utf-8")
    assert '"about": "3 epochs of cats, FD 1.23"' in page
    assert str(tmp_path) not in page and "0123abcd" not in page


def test_a_link_to_the_script_finds_the_template_too(tmp_path):
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", hidden=(8,))
    (tmp_path / "link.py").symlink_to(ROOT / "gan_mnist.py")
    done = subprocess.run(
        [sys.executable, "link.py", "demo"], cwd=tmp_path, text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "generated_samples" / "demo.html").exists()


def test_a_generator_too_large_for_a_page_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gan_mnist, "MAX_PAGE_BYTES", 20_000)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", hidden=(8,))
    code, line = fails(capsys, "demo")
    assert code == 2 and "would make a page of 0 MB, too much for a browser" in line
    assert not (tmp_path / "generated_samples" / "demo.html").exists()
