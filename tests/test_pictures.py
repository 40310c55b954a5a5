"""Folders of pictures: whatever mode a picture has, its loaded pixels are the true ones."""

import numpy as np
import pytest
from conftest import fails
from PIL import Image

import gan_mnist

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)  # the true greys


def load(folder, side=16):
    """-> images (N, H, W, C) as NumPy has them, and labels."""
    images, labels, _ = gan_mnist.load_dataset(str(folder), "nowhere", image_size=side)
    return images.permute(0, 2, 3, 1).numpy(), labels.tolist()


def in_colour(greys):
    return np.stack([greys, greys[::-1], greys.T], 2)


def palette(greys):
    picture = Image.fromarray(greys, "P")
    picture.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    return picture


DEPTHS = {  # true greys -> a picture that shows them
    "L.png": Image.fromarray,
    "L.bmp": Image.fromarray,
    "P.png": palette,
    "P.gif": palette,
    "RGB.png": lambda greys: Image.fromarray(greys).convert("RGB"),
    "CMYK.tif": lambda greys: Image.fromarray(greys).convert("RGB").convert("CMYK"),
    "16 bits.png": lambda greys: Image.fromarray(greys.astype(np.uint16) * 257),
    "16 bits.tif": lambda greys: Image.fromarray(greys.astype(np.uint16) * 257),
    "16 bits.pgm": lambda greys: Image.fromarray(greys.astype(np.uint16) * 257),
    "16 bits, big-endian.tif": lambda greys: Image.frombytes(
        "I;16B", greys.shape[::-1], (greys.astype(">u2") * 257).astype(">u2").tobytes()
    ),
    "12 bits in 16.png": lambda greys: Image.fromarray((greys * (4095 / 255)).astype(np.uint16)),
    "8 bits in 16.png": lambda greys: Image.fromarray(greys.astype(np.uint16)),
    "32 bits.tif": lambda greys: Image.fromarray(greys.astype(np.int32) * 1_000_000),
    "floats from 0 to 1.tif": lambda greys: Image.fromarray((greys / 255).astype(np.float32)),
    "floats from -1 to 1.tif": lambda greys: Image.fromarray((greys / 127.5 - 1).astype("f4")),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_greys_of_every_depth_are_the_true_ones(tmp_path, kind):
    shown = [RAMP, RAMP[::-1].copy(), (RAMP // 2)]  # the last one stays half as bright
    name, _, suffix = kind.rpartition(".")
    for number, greys in enumerate(shown):
        DEPTHS[kind](greys).save(tmp_path / f"{number}.{suffix}")
    images, labels = load(tmp_path)
    assert images.shape == (3, 16, 16, 1) and labels == [0, 0, 0]
    for image, greys in zip(images, shown, strict=True):
        assert np.abs(image[..., 0].astype(int) - greys).max() <= 1, name


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_colours_keep_their_places(tmp_path, suffix):
    colours = in_colour(RAMP)
    for number in range(2):
        picture = Image.fromarray(np.roll(colours, number, 0))
        picture.save(
            tmp_path / f"{number}.{suffix}", **({"lossless": True} if suffix == "webp" else {})
        )
    images, _ = load(tmp_path)
    assert np.array_equal(images[0], colours)


def transparent(kind, ink):
    """A picture of `ink` whose opacity is the ramp, in one of the ways to say so."""
    if kind == "palette":
        picture = Image.new("P", (16, 16), 0)
        picture.putpalette([255, 0, 255, ink, ink, ink] + [0] * 750)
        picture.paste(1, (8, 0, 16, 16))
        return picture, {"transparency": 0}
    layers = np.full((16, 16, 4), ink, np.uint8)
    layers[..., 3] = RAMP
    return Image.fromarray(layers).convert(kind), {}


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
@pytest.mark.parametrize(("ink", "background"), [(0, 255), (255, 0)])
def test_dark_pictures_are_put_on_white_and_light_ones_on_black(
    tmp_path, capsys, kind, ink, background
):
    picture, options = transparent(kind, ink)
    picture.save(tmp_path / "1.png", **options)
    picture.rotate(180).save(tmp_path / "2.png", **options)
    images, _ = load(tmp_path)
    opacity = RAMP / 255
    if kind == "palette":
        opacity = np.repeat([[0.0] * 8 + [1.0] * 8], 16, 0)
    expected = ink * opacity + background * (1 - opacity)
    assert np.abs(images[0, ..., 0] - expected).max() <= 1
    word = {255: "white", 0: "black"}[background]
    assert f"2 pictures are transparent: they are put on {word}" in capsys.readouterr().out


def save(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.roll(RAMP, number)).save(path)


@pytest.mark.parametrize("colours", [[7, 7, 7], [7, 8, 9]])
def test_pictures_that_are_all_equal_or_of_one_colour_each_are_not_trained_on(tmp_path, colours):
    for number, colour in enumerate(colours):
        Image.new("L", (9, 9), colour).save(tmp_path / f"{number}.png")
    with pytest.raises(gan_mnist.UserError, match="are equal, or of one colour each"):
        load(tmp_path)


def test_captions_beside_pictures_are_one_line_with_a_count(tmp_path, capsys):
    for number in range(30):
        save(tmp_path / f"{number}.png", number)
        (tmp_path / f"{number}.txt").write_text("a caption")
    images, _ = load(tmp_path)
    assert len(images) == 30
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert "30 files are skipped" in warning and "0.txt" in warning


def test_a_class_is_a_folder_of_the_first_level_in_natural_order(tmp_path):
    for number in (0, 1, 2, 10, 11):
        save(tmp_path / f"{number}/a.png", number)
    save(tmp_path / "2/more/and more/b.png", 99)
    (tmp_path / "3").mkdir()  # is empty, and no class
    images, labels = load(tmp_path)
    assert labels == [0, 1, 2, 2, 3, 4]
    data = gan_mnist.describe_data(*gan_mnist.load_dataset(str(tmp_path), "", image_size=16))
    assert data["class_names"] == ["0", "1", "2", "10", "11"]
    assert np.array_equal(images[4, ..., 0], np.roll(RAMP, 10))


def test_test_pictures_are_not_trained_on(tmp_path, capsys):
    for part in ("train", "test"):
        for number, animal in enumerate(("cat", "dog")):
            save(tmp_path / f"{part}/{animal}/1.png", number + 2 * (part == "test"))
    images, labels = load(tmp_path)
    assert labels == [0, 1]
    assert np.array_equal(images[..., 0], np.stack([RAMP, np.roll(RAMP, 1)]))
    assert f"{tmp_path / 'train'}" in capsys.readouterr().out


def test_a_folder_without_pictures_is_no_class(tmp_path):
    for name in ("ant", "bee"):
        save(tmp_path / f"set/{name}/1.png", 10 * len(name))
    (tmp_path / "set/annotations").mkdir()
    (tmp_path / "set/annotations/1.txt").write_text("ant")
    assert [path.name for path in gan_mnist.class_folders(tmp_path / "set")] == ["ant", "bee"]


def test_pictures_beside_the_folders_mean_that_there_are_no_classes(tmp_path, folder, capsys):
    for number in range(150):
        save(tmp_path / f"pictures/{number}.png", number)
    save(tmp_path / "pictures/others/1.png", 200)
    _, labels = load(tmp_path / "pictures")
    assert labels == [0] * 151
    code, line = fails(capsys, "--dataset", "pictures", "--conditional", "--image_size", "8")
    assert code == 2 and "CONDITIONAL needs labels" in line


def test_linked_folders_are_read_and_a_loop_of_links_ends(tmp_path):
    save(tmp_path / "elsewhere/1.png", 1)
    save(tmp_path / "all/a/1.png")
    (tmp_path / "all/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all/a/loop").symlink_to(tmp_path / "all")
    images, labels = load(tmp_path / "all")
    assert labels == [0, 1]
    assert np.array_equal(images[-1, ..., 0], np.roll(RAMP, 1))


def test_names_of_classes_are_told_kept_and_asked_for(train, folder, capsys):
    for number, name in enumerate(("bee", "ant")):
        for picture in range(60):
            save(folder / f"animals/{name}/{picture}.png", 60 * number + picture)
    train(epochs=1, dataset="animals", image_size=16, conditional=True, num_samples=16)
    assert "2 classes: 0 ant, 1 bee" in capsys.readouterr().out
    with Image.open("samples/epoch_0001.png") as grid:
        assert grid.size == (4 * 18 + 2, 4 * 18 + 2)  # two columns of each class
    generate = ["generate", "--checkpoint_dir", "checkpoints", "--num_samples", "4"]
    drawn = []
    for digit in ("bee", "1", "ant"):
        assert gan_mnist.main([*generate, "--digit", digit]) == 0
        number = {"ant": 0}.get(digit, 1)
        path = folder / f"generated_samples/generated_seed_0_digit_{number}.png"
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]
    capsys.readouterr()
    code, line = fails(capsys, *generate, "--digit", "wasp")
    assert code == 2 and "ant, bee" in line


def test_a_class_whose_name_is_a_number_is_asked_for_by_its_name():
    G = gan_mnist.Generator(g_hidden=(16,), classes=3)
    G.about["class_names"] = ["1", "2", "3"]
    assert [gan_mnist.class_number(name, G) for name in ("1", 2, "3")] == [0, 1, 2]
