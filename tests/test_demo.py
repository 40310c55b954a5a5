"""The demo page: in a real browser it draws what PyTorch draws, alone and without a request."""

import base64
import importlib.util
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, fails
from PIL import Image
from torchvision.utils import make_grid

import gan_mnist

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium here: apt-get install chromium")
SMALL = {"latent_dim": 9, "g_hidden": (30,), "modes": 4}
WITH_GAME = {**SMALL, "about": {"dataset": "mnist_5k", "epochs": 1}}
FOUR_SAMPLES = "#corners=0_0_1_-1*0_1_1_-1*0_2_1_-1*0_3_1_-1"


def save_generator(path, about=None, **shape):
    """A generator with BatchNorm statistics and weights as after a training -> it, saved."""
    torch.manual_seed(1)
    G = gan_mnist.Generator(**shape)
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


def write_grids(folder, G, epochs, zoom=1):
    """Write what a run leaves for the page: grids of random greys, and of G after the last epoch.

    They are in a folder of their own, which settings.json names.
    """
    (folder / "checkpoints").mkdir(exist_ok=True)
    settings = {"settings": {"samples_dir": str(folder / "pictures")}}
    (folder / "checkpoints/settings.json").write_text(json.dumps(settings))
    for epoch in range(1, epochs + 1):
        images = torch.rand(64, *G.image_shape).mul(2).sub(1).round()
        if epoch == epochs:
            images = G.sample(64, seed=0)
        gan_mnist.save_grid(folder / f"pictures/epoch_{epoch:04d}.png", images, 8, zoom)


def make_page(folder, about=None, **shape):
    """Save a generator in a folder and make its page -> the generator, the path of the page."""
    model = folder / "checkpoints/generator_final.pth"
    G = save_generator(model, about, **shape)
    return G, gan_mnist.demo(str(model), str(folder / "pages"))


def model_of(path):
    """The page that `demo` wrote -> what it has put into the template."""
    text = path.read_text(encoding="utf-8")
    return json.JSONDecoder().raw_decode(text[text.index("const MODEL = ") + 14 :])[0]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def told():
    """What the pages have told and asked for: messages, errors and addresses."""
    return []


def listen(tab, told):
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: told.append(request.url))
    return tab


@pytest.fixture(scope="module")
def tab(browser, told):
    """A tab in which a page stands still, as for a visitor who has asked the system for that."""
    return listen(browser.new_page(reduced_motion="reduce"), told)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """page_of(classes=10) -> a generator and its page, made once for each shape."""
    made = {}

    def run(**shape):
        key = repr(sorted(shape.items()))
        if key not in made:
            made[key] = make_page(tmp_path_factory.mktemp("page"), **shape)
        return made[key]

    return run


@pytest.fixture
def visit(tab, told):
    """Load a page, which has to be silent, and to ask for nothing but itself."""
    told.clear()

    def run(path, address=""):
        tab.set_viewport_size({"width": 1280, "height": 720})
        tab.goto("about:blank")  # another address of the same page alone does not load it again
        tab.goto(path.as_uri() + address)
        return tab

    yield run
    assert [text for text in told if not text.startswith("file://")] == []
    assert [text for text in told if text.startswith("file://")]


@pytest.fixture
def show(visit, page_of):
    """show("#seed=5", classes=10) -> a generator of this shape, and the tab with its page."""

    def run(address="", **shape):
        G, path = page_of(**shape)
        return G, visit(path, address)

    return run


@pytest.fixture
def show_moving(browser, told, page_of):
    """The same for a page that may move: in a tab of its own, whose clock the test sets forward."""
    told.clear()
    tabs = []

    def run(address="", motion="no-preference", path=None, **shape):
        tab = listen(browser.new_page(reduced_motion=motion), told)
        tabs.append(tab)
        tab.clock.install(time=0)
        if path is None:
            _, path = page_of(**shape)
        tab.goto(path.as_uri() + address)
        tab.clock.pause_at(60)  # seconds after the start, of which the page sees the last frame
        return tab

    yield run
    for tab in tabs:
        tab.close()
    assert [text for text in told if not text.startswith("file://")] == []


def wait(page, condition):
    """Wait until an expression is true; the page forbids Playwright's own way, an eval in it."""
    for _ in range(400):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never came true: {condition}")


def decode(png):
    """A PNG in base64 -> its picture."""
    return Image.open(io.BytesIO(base64.b64decode(png)))


def colours(page, canvas):
    """Expression of a canvas -> the colours on it, (3, H, W)."""
    picture = decode(page.evaluate(f"{canvas}.toDataURL()").partition(",")[2])
    rgba = torch.tensor(np.array(picture.convert("RGBA"))).permute(2, 0, 1).int()
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


def place(page):
    """Where the two sliders are."""
    return page.input_value("#x"), page.input_value("#y")


# what it draws


@needs_browser
@pytest.mark.parametrize(
    "shape",
    [
        {"smooth": 0.7},
        {"latent_dim": 7, "g_hidden": (30,), "modes": 0, "classes": 10},
        {"g_norm": "none", "g_activation": "leaky_relu", "g_end": "sigmoid", "g_hidden": (40, 50)},
        {"g_arch": "dcgan", "width": 8, "classes": 10},
        {"g_hidden": (40,), "image_shape": (3, 32, 32)},
        {"g_arch": "dcgan", "width": 4, "image_shape": (3, 32, 32)},
        {"g_arch": "dcgan", "width": 4, "g_norm": "none", "image_shape": (1, 64, 64)},
    ],
    ids=["default", "conditional", "no norm", "dcgan", "colour", "dcgan in colour", "at 64"],
)
def test_pixels_equal_those_of_pytorch_within_2_grey_levels(show, shape):
    G, page = show(**shape)
    z, labels = gan_mnist.sample_z(10, G.latent_dim, seed=3), torch.arange(10)
    with torch.no_grad():
        expected = gan_mnist.to_uint8(G(z, labels)).int()
    assert expected.min() == 0 and expected.max() == 255 and 50 < expected.float().mean() < 200
    differences = []
    for point, label, image in zip(z.tolist(), labels.tolist(), expected, strict=True):
        page.evaluate("([z, label]) => paint(picture, generate(z, label))", [point, label])
        differences.append((colours(page, "picture") - image).abs().max().item())
    print("largest difference in grey levels:", max(differences))
    assert max(differences) <= 2


@needs_browser
def test_the_noise_of_the_page_is_normal(show):
    _, page = show(latent_dim=100, g_hidden=(8,))
    z = page.evaluate("Array.from({length: 200}, (_, i) => Array.from(noise(5, i)))")
    z = torch.tensor(z, dtype=torch.float64)
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.02
    assert abs(z.pow(4).mean() - 3) < 0.2
    assert z.T.cov().sub(torch.eye(100)).abs().max() < 0.45  # 200 points: up to about 5 / sqrt(200)
    assert len(set(z[:, 0].tolist())) == 200
    mixed = page.evaluate("""Array.from({length: 200}, (_, i) =>
        Array.from(mix([0, 1, 2, 3].map(k => noise(k, i)), [.1, .2, .3, .4])))""")
    assert abs(torch.tensor(mixed).std() - 1) < 0.02


@needs_browser
def test_the_most_usual_picture_of_a_kind_is_one_and_kinds_differ(show):
    _, page = show("#truncation=0&kind=1", **SMALL)
    first = pixels(page, sample(1))
    assert torch.equal(first, pixels(page, sample(48)))
    page.click("#kinds button:nth-child(2)")
    assert not torch.equal(pixels(page, sample(1)), first)


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
def test_without_classes_and_modes_there_are_no_buttons_for_them(show):
    _, page = show(latent_dim=9, g_hidden=(30,), modes=0)
    assert not page.is_visible("#kinds") and not page.is_visible("#kinds-title")


# the blend


@needs_browser
def test_a_tapped_sample_fills_the_next_corner_and_the_corners_are_reached(show):
    _, page = show(**SMALL)
    for number, filled in ((20, 0), (7, 1)):
        page.click(f"#grid button:nth-child({number})")
        assert torch.equal(pixels(page, corner(filled)), pixels(page, sample(number)))
        assert torch.equal(pixels(page, "picture"), pixels(page, sample(number)))  # it is shown
    assert "Sample 7 is in the top right corner" in page.text_content("[role=status]#said")
    page.click("#grid button:nth-child(20)")  # the third corner
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")  # from sample 20 to 29
    page.keyboard.press("Enter")
    for filled, number in enumerate((20, 7, 20, 29)):
        expected = pixels(page, sample(number))
        assert torch.equal(pixels(page, corner(filled)), expected)
        go_to(page, filled % 2, filled // 2)
        assert (pixels(page, "picture") - expected).abs().max() <= 1
    page.locator(".corner").nth(1).click()  # a chosen corner is shown, and filled next
    assert place(page) == ("1", "0")
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
    assert [float(share) for share in place(page)] == pytest.approx([0.5, 0.25], abs=0.02)
    before = pixels(page, "picture")
    page.focus("#x")
    page.keyboard.press("ArrowRight")
    assert not torch.equal(pixels(page, "picture"), before)
    assert "at=0.51_0.25" in page.url


@needs_browser
def test_between_corners_of_a_conditional_generator_labels_are_mixed_like_the_points(show):
    G, page = show(FOUR_SAMPLES, classes=10, latent_dim=9, g_hidden=(30,), modes=0)
    go_to(page, 0.5, 0)
    z = torch.tensor(page.evaluate("[0, 1].map(i => Array.from(noise(0, i)))"))  # a 0 and a 1
    labels = torch.zeros(1, 10)
    labels[0, :2] = 0.5
    with torch.no_grad():
        middle = G.decode(torch.cat([z.sum(0, keepdim=True) / 2**0.5, labels], 1))
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
@pytest.mark.parametrize("shape", [{"classes": 10, "modes": 0}, {"modes": 10}])
def test_the_first_corners_are_of_four_different_kinds(show, shape):
    _, page = show(latent_dim=20, g_hidden=(30,), **shape)
    assert len(set(page.evaluate("corners.map(each => each.kind)"))) == 4


@needs_browser
def test_the_blend_wanders_by_itself_until_a_touch_takes_over(show_moving):
    page = show_moving(**SMALL)
    assert page.text_content("#wander") == "Pause"
    first = pixels(page, "picture")
    page.clock.fast_forward(4000)  # three seconds are the way from a corner to the next
    second = pixels(page, "picture")
    assert not torch.equal(second, first)
    assert (second - pixels(page, corner(1))).abs().max() <= 1
    page.clock.run_for(2000)
    assert not torch.equal(pixels(page, "picture"), second)
    page.click("#morph", position={"x": 150, "y": 200})
    assert page.text_content("#wander") == "Wander"
    still = pixels(page, "picture")
    page.clock.fast_forward(4000)
    assert torch.equal(pixels(page, "picture"), still)
    page.click("#wander")
    page.clock.fast_forward(4000)
    assert not torch.equal(pixels(page, "picture"), still)


@needs_browser
def test_nothing_moves_where_the_system_asks_for_that(show_moving):
    page = show_moving(motion="reduce", **SMALL)
    assert page.text_content("#wander") == "Wander"
    page.clock.fast_forward(4000)
    assert (pixels(page, "picture") - pixels(page, corner(0))).abs().max() <= 1


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
    assert len(smooth) == len(squares)
    assert smooth.diff().ne(0).sum() > 3 * squares.diff().ne(0).sum()
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


# the address


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
def test_a_link_restores_the_corners_the_blend_and_the_look(show, show_moving, classes):
    def seen(page):
        view = "document.querySelector('#view')"
        return [pixels(page, each) for each in ("picture", view, sample(9), *map(corner, range(4)))]

    _, page = show(classes=classes, **SMALL)
    page.fill("#truncation", "0.8")
    page.click("#kinds button:nth-child(4)")
    for number in (3, 30):
        page.click("#new")
        page.click(f"#grid button:nth-child({number})")
    page.click("#pixels")
    go_to(page, 0.25, 0.6)
    before = seen(page)
    address = page.url[page.url.index("#") :]
    _, again = show(address, classes=classes, **SMALL)
    assert all(map(torch.equal, seen(again), before))
    assert place(again) == ("0.25", "0.6")
    assert again.get_attribute("#pixels", "aria-pressed") == "true"
    moving = show_moving(address, classes=classes, **SMALL)
    moving.clock.fast_forward(4000)  # a chosen position is not left
    assert torch.equal(pixels(moving, "picture"), before[0])


@needs_browser
def test_a_senseless_address_falls_back_to_the_defaults(show):
    for address in (
        "#seed=-1",
        "#seed=x&truncation=9&kind=99&look=odd",
        "#%",
        "#seed=1e99",
        "#corners=1*2&at=5_5",
        "#corners=a_b_c_d*-1_-1_-1_-9*9e99_9e99_9_99*&at=_",
    ):
        _, page = show(address, **SMALL)
        defaults = {"seed": 0, "truncation": 1, "kind": -1, "look": "smooth"}
        assert page.evaluate("state") == defaults, address
        assert place(page) == ("0", "0")
        assert pixels(page, "picture").float().std() > 10


# how it lies on a screen


@needs_browser
@pytest.mark.parametrize("classes", [0, 10])
def test_every_control_has_a_name_and_a_phone_needs_no_sideways_scrolling(show, classes):
    _, page = show(classes=classes, **WITH_GAME)
    wait(page, "game")
    nameless = page.evaluate("""[...document.querySelectorAll("button, input")].filter(element =>
        !(element.ariaLabel || element.textContent.trim() || element.labels?.length)).length""")
    assert nameless == 0
    for width in (320, 390, 700, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_the_blend_is_the_first_thing_and_whole_on_the_first_screen(show):
    _, page = show(**SMALL)
    for width, height in ((390, 844), (1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        box = page.locator("#view").bounding_box()
        assert box["y"] < 150 and box["y"] + box["height"] < height
        assert box["width"] >= min(550, 0.9 * width)
        assert page.locator("#grid").bounding_box()["y"] > box["y"]


# the training replayed


@needs_browser
@pytest.mark.parametrize(("channels", "zoom"), [(1, 3), (3, 1)])
def test_the_slider_shows_the_grid_of_its_epoch(visit, tmp_path, channels, zoom):
    shape = {"image_shape": (channels, 28, 28), **SMALL}
    G = save_generator(tmp_path / "checkpoints/generator_final.pth", **shape)
    write_grids(tmp_path, G, epochs=5, zoom=zoom)
    _, path = make_page(tmp_path, {"dataset": "mnist_5k", "epochs": 5}, **shape)
    page = visit(path)
    assert page.text_content("#epoch-value") == "epoch 1 of 5"
    page.focus("#epoch")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#epoch-value") == "epoch 5 of 5"
    assert page.get_attribute("#epoch", "aria-valuetext") == "epoch 5 of 5"
    assert "after epoch 5 of 5" in page.get_attribute("#replay-picture", "alt")
    page.evaluate("document.querySelector('#replay-picture').decode()")
    canvas = """(() => {
        const image = document.querySelector("#replay-picture");
        const canvas = newCanvas(image.naturalWidth, image.naturalHeight);
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas;
    })()"""
    grid = make_grid(G.sample(64, seed=0), 8, pad_value=-1.0)  # three equal channels, if grey
    expected = gan_mnist.to_uint8(grid).int()
    shown = colours(page, canvas)
    assert shown.shape == expected.shape
    assert (shown - expected).abs().float().mean() < (4 if channels == 1 else 20)


@needs_browser
def test_play_runs_through_the_epochs_and_starts_again_at_the_end(show_moving, tmp_path):
    G = save_generator(tmp_path / "checkpoints/generator_final.pth", **SMALL)
    write_grids(tmp_path, G, epochs=4)
    _, path = make_page(tmp_path, {"epochs": 4}, **SMALL)
    page = show_moving(motion="reduce", path=path)
    for _ in range(2):
        page.click("#play")
        for epoch in (2, 3, 4):
            assert page.text_content("#play") == "Pause"
            page.clock.run_for(150)
            assert page.text_content("#epoch-value") == f"epoch {epoch} of 4"
        assert page.text_content("#play") == "Play"


@needs_browser
def test_without_grids_there_is_no_replay_and_the_game_is_as_wide_as_the_page(show):
    _, page = show(**WITH_GAME)
    assert not page.is_visible("#replay")
    for width, columns in ((1280, 10), (390, 5)):
        page.set_viewport_size({"width": width, "height": 800})
        tiles = [tile.bounding_box() for tile in page.locator("#tiles button").all()]
        assert len({tile["x"] for tile in tiles}) == columns
        assert max(tile["x"] + tile["width"] for tile in tiles) > 0.9 * width - 32


def test_the_grids_are_those_of_the_run_wherever_it_wrote_them_up_to_the_generators_epoch(
    train, folder
):
    train(epochs=3, out="a", keep_generator_every=2)
    for name, epochs in (("generator_final", [1, 2, 3]), ("generator_epoch_0002", [1, 2])):
        page = gan_mnist.demo(f"a/checkpoints/{name}.pth", samples_dir="pages")
        grids = model_of(page)["grids"]
        assert [grid["epoch"] for grid in grids] == epochs
        with Image.open(folder / f"a/samples/epoch_{epochs[-1]:04d}.png") as drawn:
            difference = np.array(drawn, int) - np.array(decode(grids[-1]["png"]).convert("L"))
        assert np.abs(difference).mean() < 8  # 16 greys


def test_the_pretrained_conditional_page_does_not_replay_the_training_of_another(
    train, folder, monkeypatch
):
    train(epochs=1, out="a")
    path = folder / "a/checkpoints/pretrained_conditional.pth"
    save_generator(path, {"epochs": 60}, **SMALL)
    assert model_of(gan_mnist.demo(path, samples_dir="pages"))["grids"]  # as it would be
    monkeypatch.setattr(gan_mnist, "PRETRAINED_CONDITIONAL", path)
    assert model_of(gan_mnist.demo(path, samples_dir="pages"))["grids"] == []


def test_of_more_than_60_grids_60_are_in_the_page_with_the_first_and_the_last(tmp_path):
    G = save_generator(tmp_path / "checkpoints/generator_final.pth", **SMALL)
    write_grids(tmp_path, G, epochs=75)
    _, path = make_page(tmp_path, {"epochs": 75}, **SMALL)
    epochs = [grid["epoch"] for grid in model_of(path)["grids"]]
    assert len(epochs) == 60 and (epochs[0], epochs[-1]) == (1, 75)
    assert set(np.diff(epochs)) == {1, 2}


def test_a_damaged_grid_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    G = save_generator(tmp_path / "checkpoints/generator_final.pth", {"epochs": 3}, **SMALL)
    write_grids(tmp_path, G, epochs=3)
    (tmp_path / "pictures/epoch_0002.png").write_bytes(b"no picture")
    code, line = fails(capsys, "demo")
    assert code == 2 and "epoch_0002.png cannot be read" in line


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
    G, page = show(classes=classes, **WITH_GAME)
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
def test_the_score_is_the_number_of_digits_that_were_told_right(show):
    _, page = show(**WITH_GAME)
    for wrong, percent in ((6, 70), (0, 100)):
        real = play_round(page, wrong)
        assert f"right about {20 - wrong} of 20" in page.text_content("[role=status]#result")
        assert f"You{percent}%" in page.text_content("#scores")
        words = page.locator("#tiles button").all_inner_texts()
        for number, is_real in enumerate(real):
            told = ("✗ " if number < wrong else "✓ ") + ("real" if is_real else "drawn")
            assert words[number] == told
        page.click("#again")
        assert "0 of 10" in page.text_content("#result")
        assert not page.is_visible("#scores")


@needs_browser
def test_the_game_is_played_by_keyboard_too(show):
    _, page = show(**WITH_GAME)
    wait(page, "game")
    page.locator("#tiles button").first.focus()
    page.keyboard.press("Space")
    assert page.evaluate("game.tiles.map(each => each.chosen)") == [True] + [False] * 19
    assert page.locator("#tiles button").first.get_attribute("aria-pressed") == "true"
    assert "1 of 10" in page.text_content("#result")


def write_metrics(folder, about):
    """Write what evaluate writes of the generator in a folder."""
    metrics = {"about": {"model": "x", **about}, "generated": {"told by outlines alone": 0.61}}
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/generator_final.pth.json").write_text(json.dumps(metrics))


@needs_browser
@pytest.mark.parametrize("measured", [True, False])
def test_beside_the_visitor_stands_the_network_that_evaluate_has_asked(visit, tmp_path, measured):
    about = {"dataset": "mnist_5k", "epochs": 4, "fd": 3.25}
    if measured:
        write_metrics(tmp_path, about)
    _, path = make_page(tmp_path, about, **SMALL)
    page = visit(path)
    play_round(page, 0)
    scores = page.text_content("#scores")
    assert ("A network, outlines alone61%" in scores) == measured
    assert "By guessing50%" in scores
    assert ("gan_mnist.py evaluate" in page.text_content("#judged")) != measured


@needs_browser
@pytest.mark.parametrize(
    "shape",
    [
        {"about": {"dataset": "kmnist"}},
        {"about": {"dataset": "mnist"}, "image_shape": (3, 32, 32)},
        {},
    ],
)
def test_there_is_no_game_without_real_digits_of_the_same_kind(show, shape):
    _, page = show(**SMALL, **shape)
    assert not page.is_visible("#game")
    assert page.text_content("#new") == "New pictures"


@needs_browser
def test_real_digits_are_resized_like_those_of_the_training(show):
    about = {"dataset": "mnist", "epochs": 1}
    _, page = show(about=about, g_arch="dcgan", width=4, image_shape=(1, 64, 64))
    wait(page, "game")
    assert page.evaluate("[sheet.naturalWidth, sheet.naturalHeight]") == [20 * 64, 10 * 64]
    assert sum(page.evaluate("game.tiles.map(each => each.real)")) == 10


# the file


def test_the_page_of_the_pretrained_generator_is_one_file_that_replays_its_training(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = gan_mnist.demo()
    page = path.read_text(encoding="utf-8")
    print("size of the page:", len(page))
    assert len(page) < 6_000_000
    assert "/*MODEL*/" not in page
    assert re.findall(r"""(?:src|href)=["']?[^"'> ]+|https?://[^"' ]+|@import|url\(""", page) == []

    grids = model_of(path)["grids"]
    assert [grid["epoch"] for grid in grids] == list(range(1, 61))
    last = np.array(decode(grids[-1]["png"]).convert("L"))
    G = gan_mnist.load_generator(gan_mnist.PRETRAINED)
    gan_mnist.save_grid(tmp_path / "drawn.png", G.sample(64, seed=0))
    drawn = np.array(Image.open(tmp_path / "drawn.png").reduce(3))
    assert last.shape == drawn.shape == (242, 242)
    assert np.abs(last.astype(int) - drawn).mean() < 3  # 16 greys


def test_demo_says_in_words_what_it_wrote_and_from_what(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    about = {"dataset": str(tmp_path / "cats"), "images": 9, "checksum": "0123abcd"}
    about |= {"epochs": 3, "fd": 1.2345}
    save_generator(tmp_path / "checkpoints/generator_final.pth", about, **SMALL)
    assert gan_mnist.main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "Wrote generated_samples/demo.html (0.1 MB)" in out
    assert "checkpoints/generator_final.pth (3 epochs of cats, FD 1.23)" in out
    assert "{" not in out and "None" not in out
    path = tmp_path / "generated_samples/demo.html"
    assert model_of(path)["about"] == "3 epochs of cats, FD 1.23"
    page = path.read_text(encoding="utf-8")
    assert str(tmp_path) not in page and "0123abcd" not in page  # nothing of this machine


@pytest.mark.parametrize("content", [None, b"<html>"])
def test_a_missing_or_damaged_model_is_one_line(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / "model.pth").write_bytes(content)
    code, line = fails(capsys, "demo", "--model_path", "model.pth")
    assert code == 2 and "model.pth" in line
    assert not (tmp_path / "generated_samples").exists()


def test_the_template_is_never_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    before = (ROOT / "demo.html").read_bytes()
    model = tmp_path / "checkpoints/model.pth"
    save_generator(model, g_hidden=(8,))
    code, line = fails(capsys, "demo", "--model_path", str(model), "--samples_dir", ".")
    assert code == 2 and "template" in line
    assert (ROOT / "demo.html").read_bytes() == before


@needs_browser
def test_the_template_itself_says_how_to_make_the_page_and_nothing_else(visit):
    page = visit(ROOT / "demo.html")
    assert "python gan_mnist.py demo" in page.inner_text("body")
    assert len(page.inner_text("body").splitlines()) == 1


def test_a_page_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_generator(tmp_path / "checkpoints/generator_final.pth", g_hidden=(8,))
    (tmp_path / "pages").write_text("a file where the folder should be")
    code, line = fails(capsys, "demo", "--samples_dir", "pages")
    assert code == 2 and "pages/demo.html" in line


def test_a_link_to_the_script_finds_the_template_too(tmp_path):
    (tmp_path / "link.py").symlink_to(ROOT / "gan_mnist.py")
    spec = importlib.util.spec_from_file_location("link", tmp_path / "link.py")
    link = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(link)
    model = tmp_path / "checkpoints/model.pth"
    save_generator(model, g_hidden=(8,))
    assert link.demo(str(model), str(tmp_path / "pages")).exists()


def test_a_generator_too_large_for_a_page_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gan_mnist, "MAX_PAGE_BYTES", 20_000)
    save_generator(tmp_path / "checkpoints/generator_final.pth", g_hidden=(8,))
    code, line = fails(capsys, "demo")
    assert code == 2 and "too much for a browser" in line
    assert not (tmp_path / "generated_samples/demo.html").exists()
