"""The demo page: in a real browser it draws what PyTorch draws, alone and without a request."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, fails

import gan_mnist

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium here: apt-get install chromium")


def save_generator(path, **shape):
    """A generator with BatchNorm statistics and weights as after a training -> it, saved."""
    torch.manual_seed(1)
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
    """Make the page of a generator and open it: show(classes=10, address="#seed=5")."""
    monkeypatch.chdir(tmp_path)
    told = []

    def run(address="", **shape):
        G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", **shape)
        assert gan_mnist.main(["demo"]) == 0
        page = browser.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url))
        page.goto((tmp_path / "generated_samples" / "demo.html").as_uri() + address)
        return G, page

    yield run
    asked = [text for text in told if not text.startswith("file://")]
    assert asked == []  # no message, no error, and no request but for the page itself
    assert len([text for text in told if "demo.html" in text]) >= 1


def pixels(page, element):
    """Selector of a canvas -> the greys on it, (H, W)."""
    script = """element => {
        const {data, width, height} =
            element.getContext("2d").getImageData(0, 0, element.width, element.height);
        return [height, width, Array.from(data)];
    }"""
    height, width, data = page.eval_on_selector(element, script)
    rgba = torch.tensor(data).view(height, width, 4)
    assert (rgba[..., 3] == 255).all()
    assert (rgba[..., 0] == rgba[..., 1]).all() and (rgba[..., 0] == rgba[..., 2]).all()
    return rgba[..., 0]


SAMPLE = "#grid button:nth-child({}) canvas"
CORNERS = [f".corner:nth-of-type({number}) canvas" for number in (1, 2, 3, 4)]


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
    ],
    ids=["default", "tiny", "conditional", "no modes", "no norm", "dcgan", "dcgan at 64"],
)
def test_pixels_equal_those_of_pytorch_within_2_grey_levels(show, shape):
    G, page = show(**shape)
    z, labels = gan_mnist.sample_z(20, G.latent_dim, seed=3), torch.arange(20) % 10
    with torch.no_grad():
        expected = gan_mnist.to_uint8(G(z, labels)).int().squeeze(1)
    assert expected.min() == 0 and expected.max() == 255 and 50 < expected.float().mean() < 200
    script = "([z, label]) => paint(document.querySelector('#picture'), generate(z, label))"
    differences = []
    for point, label, picture in zip(z.tolist(), labels.tolist(), expected, strict=True):
        page.evaluate(script, [point, label])
        differences.append((pixels(page, "#picture") - picture).abs().max().item())
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
def test_a_link_shows_the_same_samples_again_and_another_seed_others(show):
    _, page = show("#seed=7&truncation=0.5", latent_dim=9, hidden=(30,), modes=3)
    assert page.input_value("#seed") == "7"
    assert page.text_content("#truncation-value") == "0.50"
    first = pixels(page, SAMPLE.format(5))
    page.fill("#seed", "8")
    page.keyboard.press("Tab")
    assert "seed=8" in page.url
    assert not torch.equal(pixels(page, SAMPLE.format(5)), first)
    page.evaluate("location.hash = '#seed=7&truncation=0.5'")
    page.wait_for_function("document.querySelector('#seed').value === '7'")
    assert torch.equal(pixels(page, SAMPLE.format(5)), first)
    page.click("#new")
    assert page.input_value("#seed") != "7"
    assert f"seed={page.input_value('#seed')}&" in page.url


@needs_browser
def test_no_truncation_left_draws_the_same_mean_picture_everywhere(show):
    _, page = show("#truncation=0", latent_dim=9, hidden=(30,), modes=3)
    assert torch.equal(pixels(page, SAMPLE.format(1)), pixels(page, SAMPLE.format(64)))


@needs_browser
@pytest.mark.parametrize(
    "address", ["#seed=-1", "#seed=x&truncation=9&digit=99", "#%", "#seed=1e99"]
)
def test_a_senseless_address_falls_back_to_the_defaults(show, address):
    _, page = show(address, latent_dim=9, hidden=(30,), modes=3)
    assert page.input_value("#seed") == "0"
    assert page.text_content("#truncation-value") == "1.00"


@needs_browser
def test_samples_are_put_into_corners_by_mouse_and_keyboard_and_the_corners_are_reached(show):
    _, page = show(latent_dim=9, hidden=(30,), modes=3)
    page.click("#grid button:nth-child(20)")
    start = pixels(page, SAMPLE.format(20))
    assert torch.equal(pixels(page, ".corner[aria-label^='Top left'] canvas"), start)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")  # from sample 20 to 29
    page.evaluate("document.querySelectorAll('.corner')[3].click()")
    page.keyboard.press("Enter")
    end = pixels(page, SAMPLE.format(29))
    assert torch.equal(pixels(page, ".corner[aria-label^='Bottom right'] canvas"), end)
    for place, expected in (((0, 0), start), ((1, 1), end)):
        for axis, value in zip("xy", place, strict=True):
            page.fill(f"#{axis}", str(value))
        assert (pixels(page, "#picture") - expected).abs().max() <= 1
    box = page.locator("#morph").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.mouse.up()
    assert abs(float(page.input_value("#x")) - 0.5) < 0.02
    assert abs(float(page.input_value("#y")) - 0.25) < 0.02


@needs_browser
def test_the_walk_moves_until_it_is_stopped(show):
    _, page = show(latent_dim=9, hidden=(30,), modes=3)
    before = pixels(page, "#picture")
    page.click("#walk")
    assert page.get_attribute("#walk", "aria-pressed") == "true"
    page.wait_for_timeout(500)
    first = pixels(page, "#picture")
    page.wait_for_timeout(500)
    assert not torch.equal(pixels(page, "#picture"), first)
    page.click("#walk")
    assert page.get_attribute("#walk", "aria-pressed") == "false"
    for _ in range(3):  # and it stays there
        assert torch.equal(pixels(page, "#picture"), before)
        page.wait_for_timeout(200)


@needs_browser
def test_the_digit_buttons_of_a_conditional_generator_ask_for_that_digit(show):
    _, page = show(classes=10, latent_dim=9, hidden=(30,), modes=3)
    assert page.locator("#digits button").count() == 11
    page.click("#digits button:text-is('7')")
    assert "digit=7" in page.url
    for number in (1, 30):
        point = f"noise(0, {number - 1})"
        page.evaluate(f"paint(document.querySelector('#picture'), generate({point}, 7))")
        assert torch.equal(pixels(page, SAMPLE.format(number)), pixels(page, "#picture"))


@needs_browser
def test_between_corners_of_a_conditional_generator_labels_are_mixed_like_the_points(show):
    G, page = show(classes=10, latent_dim=9, hidden=(30,), modes=0)
    page.fill("#x", "0.5")
    page.fill("#y", "0")
    z = torch.tensor(page.evaluate("[0, 1].map(i => Array.from(noise(0, i)))"))  # a 0 and a 1
    told = torch.zeros(1, 10)
    told[0, :2] = 0.5
    with torch.no_grad():
        middle = G.decode(torch.cat([z.sum(0, keepdim=True) / 2**0.5, told], 1))
    expected = gan_mnist.to_uint8(middle)[0, 0].int()
    assert (pixels(page, "#picture") - expected).abs().max() <= 2


@needs_browser
def test_between_corners_the_modes_are_mixed_by_their_shares(show):
    G, page = show(latent_dim=9, hidden=(30,), modes=4)
    page.fill("#x", "0.25")
    page.fill("#y", "0")
    z = torch.tensor(page.evaluate("[0, 1].map(i => Array.from(noise(0, i)))"))
    shares = torch.tensor([[0.75], [0.25]])
    middle = (z * shares).sum(0, keepdim=True) / 0.625**0.5
    middle[:, :4] = (G.code(z)[:, :4] * shares).sum(0)
    with torch.no_grad():
        expected = gan_mnist.to_uint8(G.decode(middle))[0, 0].int()
    assert (pixels(page, "#picture") - expected).abs().max() <= 2


@needs_browser
def test_without_classes_there_are_no_digit_buttons(show):
    _, page = show(latent_dim=9, hidden=(30,), modes=3)
    assert not page.is_visible("#digits")


@needs_browser
def test_pictures_are_saved_as_png(show, tmp_path):
    _, page = show(latent_dim=9, hidden=(30,), modes=3)
    for button, size in (("#save-grid", (224, 224)), ("#save-morph", (28, 28))):
        with page.expect_download() as download:
            page.click(button)
        from PIL import Image

        with Image.open(download.value.path()) as picture:
            assert (picture.format, picture.size) == ("PNG", size)


@needs_browser
def test_every_control_has_a_name_and_a_phone_needs_no_sideways_scrolling(show):
    _, page = show(classes=10, latent_dim=9, hidden=(30,), modes=3)
    nameless = page.evaluate("""[...document.querySelectorAll("button, input")].filter(element =>
        !(element.ariaLabel || element.textContent.trim() || element.labels?.length)).length""")
    assert nameless == 0
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_of_the_default_generator_is_one_file_below_6_mb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth")
    assert gan_mnist.main(["demo"]) == 0
    page = (tmp_path / "generated_samples" / "demo.html").read_text(encoding="utf-8")
    assert 3_900_000 < len(page) < 6_000_000
    assert "/*MODEL*/" not in page
    assert re.findall(r"""(?:src|href)=["']?[^"'> ]+|https?://[^"' ]+|@import|url\(""", page) == []


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
def test_the_template_itself_says_what_it_is(browser):
    page = browser.new_page()
    page.goto((gan_mnist.BUNDLE.parents[1] / "demo.html").as_uri())
    assert "gan_mnist.py demo" in page.text_content("body")


def test_a_page_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_generator(tmp_path / "checkpoints" / "generator_final.pth", hidden=(8,))
    (tmp_path / "pages").write_text("a file where the folder should be")
    code, line = fails(capsys, "demo", "--samples_dir", "pages")
    assert code == 2 and "SAMPLES_DIR (--samples_dir) is 'pages'" in line


def test_the_page_tells_the_training_in_words_and_no_path_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    G = save_generator(tmp_path / "checkpoints" / "generator_final.pth", hidden=(8,))
    data = {"dataset": str(tmp_path / "cats"), "images": 9, "checksum": "0123abcd"}
    G.about = {**data, "epochs": 3, "fd": 1.2345}
    torch.save(G.state_dict(), tmp_path / "checkpoints" / "generator_final.pth")
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
