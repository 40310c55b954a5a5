"""Commands and flags: what people type does what they mean, or one line says why not."""

import importlib.util
import inspect
import json
import pathlib
import pydoc
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import EPOCH_IMAGES, ROOT, TINY, TINY_FLAGS, fails, write_mnist
from matplotlib import pyplot
from PIL import Image

import gan_mnist

SCRIPT = (ROOT / "gan_mnist.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, digits):
    """The folder of a finished run of the tiny networks, in the default folders."""
    folder = tmp_path_factory.mktemp("run")
    write_mnist(folder / "digits", *digits)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gan_mnist, "EPOCH_IMAGES", EPOCH_IMAGES)
        gan_mnist.train_gan(**TINY, epochs=2, data_dir="digits")
    return folder


@pytest.fixture
def trained(finished_run, folder):
    """Be in a folder with a copy of that run."""
    for name in ("generated_samples", "checkpoints"):
        shutil.copytree(finished_run / name, folder / name)


# ── settings ──


def constants_at_the_top():
    """{NAME: its comment} as they stand in the script, read without the script's own code."""
    top = SCRIPT.split("# ── Settings")[1].split("\nDEFAULTS = ")[0]
    return dict(re.findall(r"^([A-Z][A-Z0-9_]*) = .+?  # (\S.+)$", top, re.MULTILINE))


def help_of(capsys, *command):
    """-> {flag: its line of help}, as --help prints them after the description."""
    with pytest.raises(SystemExit) as stop:
        gan_mnist.main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    entries = re.split(r"\n  (?=--)", text[text.index("\n  --") :])[1:]
    entries = [entry.partition("\n\n")[0] for entry in entries]
    return {re.match(r"--(\w+)", entry)[1]: " ".join(entry.split()) for entry in entries}


def test_every_constant_is_a_flag_whose_help_is_its_comment_and_its_value(capsys):
    constants = constants_at_the_top()
    assert list(gan_mnist.Config._fields) == [name.lower() for name in constants]  # in this order
    shown = help_of(capsys)
    assert list(shown) == [name.lower() for name in constants]
    for name, comment in constants.items():
        line = shown[name.lower()]
        assert comment in line
        value = getattr(gan_mnist, name)
        if not isinstance(value, bool):
            words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert line.endswith(f"[{words}]")
        if "_" in name:
            assert f"--{name.lower().replace('_', '-')}" in line


@pytest.mark.parametrize("command", ["generate", "evaluate", "demo"])
def test_help_of_a_command_lists_what_it_takes_and_nothing_else(capsys, command):
    parameters = inspect.signature(gan_mnist.COMMANDS[command]).parameters
    shown = help_of(capsys, command)
    assert list(shown) == list(parameters)
    assert all(len(line.split()) > 4 for line in shown.values())


WRONG = [
    ("epochs", 0),
    ("epochs", 2.5),
    ("epochs", "many"),
    ("epochs", None),
    ("epochs", float("nan")),
    ("batch_size", 1),
    ("learning_rate_g", "fast"),
    ("learning_rate_d", float("nan")),
    ("learning_rate_g", -1e-3),
    ("beta1", 1.0),
    ("dropout", 1),
    ("label_smoothing", 0.6),
    ("lr_decay_start", 1.5),
    ("seed", -1),
    ("dataset", "mnits"),
    ("device", "gpu"),
    ("augment", True),
    ("g_hidden", ()),
    ("g_hidden", 0),
    ("d_hidden", (512, "x")),
    ("data_dir", 7),
    ("samples_dir", None),
    ("resume", "yes"),
    ("overwrite", 1.5),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_constant_is_one_line_that_names_it_and_what_is_allowed(
    folder, capsys, monkeypatch, name, value
):
    constants = {**TINY, "epochs": 1, "data_dir": "digits", name: value}
    for constant, edited in constants.items():
        monkeypatch.setitem(gan_mnist.DEFAULTS, constant, edited)
    code, line = fails(capsys)
    assert code == 2
    assert f"{name.upper()} (--{name}) is {value!r}: allowed is " in line
    assert len(line.split("allowed is ")[1]) > 3
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "1.5"],
        ["--epochs"],
        ["--epoch", "4"],
        ["--learning-rate-g=much"],
        ["--d_hidden", "512", "x"],
        ["--d_hidden"],
        ["--g_hidden=0"],
        ["--dataset", "cifar"],
        ["train", "--nonsense"],
        ["genrate"],
        ["generate", "--epochs", "3"],
        ["--resume", "--overwrite"],
        ["--seed", "1e99"],
        ["--beta1", "inf"],
        ["--device", "CUDA"],
    ],
)
def test_a_wrong_flag_is_one_line_with_exit_code_2(folder, capsys, flags):
    code, line = fails(capsys, *flags)
    assert code == 2
    name = next((flag for flag in flags if flag.startswith("--")), flags[0])
    name = name.lstrip("-").partition("=")[0]
    assert name.replace("-", "_").upper() in line.upper()
    assert not (folder / "checkpoints").exists()


def test_a_name_that_there_is_not_is_answered_with_the_names_that_are_like_it(folder, capsys):
    """Also with what it abbreviates: most other scripts call their learning rate lr."""
    for wrong, meant in (
        ("lr", ["learning_rate_g", "learning_rate_d"]),
        ("epocs", ["epochs"]),
        ("batch_sise", ["batch_size"]),
    ):
        code, line = fails(capsys, f"--{wrong}", "3")
        assert code == 2
        with pytest.raises(gan_mnist.UserError) as refused:
            gan_mnist.train_gan(**{wrong: 3})
        for message in (line, str(refused.value)):
            assert wrong in message and len(message) < 100
            named = set(re.findall(r"\w+", message)) & set(gan_mnist.DEFAULTS)
            assert set(meant) <= named and len(named) <= 3
    for command in ([], ["generate"]):
        code, line = fails(capsys, *command, "--zzz", "3")
        assert (code, "--help" in line) == (2, True)


def test_both_spellings_equal_signs_lists_and_a_tilde_for_the_home_folder_work(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    flags = "train --epochs=1 --batch-size 500 --samples_dir=~/a --checkpoint-dir ~/some-where"
    assert gan_mnist.main([*flags.split(), *TINY_FLAGS[2:], "--d-hidden", "12", "10"]) == 0
    assert (folder / "home/a/epoch_0001.png").exists()
    assert not (folder / "~").exists()
    config = gan_mnist.load_weights("home/some-where/epoch_0001.pth")["config"]
    assert (config["d_hidden"], config["batch_size"]) == ((12, 10), 100)  # the last one counts


def test_switches_can_be_turned_off_too(monkeypatch):
    seen = []

    def train(**settings):
        seen.append(settings)

    train.__doc__ = gan_mnist.train_gan.__doc__
    train.__signature__ = inspect.signature(gan_mnist.train_gan)
    monkeypatch.setitem(gan_mnist.COMMANDS, "train", train)
    for flag in ("--no-resume", "--no-spectral-norm", "--no-spectral_norm"):
        assert gan_mnist.main([flag]) == 0
    assert seen == [{"resume": False}, {"spectral_norm": False}, {"spectral_norm": False}]
    monkeypatch.setitem(gan_mnist.DEFAULTS, "resume", True)
    assert gan_mnist.make_config().resume is True
    assert gan_mnist.make_config(**seen[0]).resume is False


def test_lists_paths_and_numbers_of_another_type_become_plain_settings():
    """Against checkpoints that cannot be read, as they may hold plain values alone."""
    given = {
        "g_hidden": [16, 8],
        "d_hidden": 12,
        "samples_dir": pathlib.PurePosixPath("a/b"),
        "epochs": 2.0,
        "dropout": 0,
    }
    config = gan_mnist.make_config(**given)
    values = [getattr(config, name) for name in given]
    assert values == [(16, 8), (12,), "a/b", 2, 0.0]
    assert [type(value) for value in values] == [tuple, tuple, str, int, float]


def test_help_of_train_gan_names_every_setting_with_its_value():
    text = " ".join(pydoc.render_doc(gan_mnist.train_gan).split())
    for name in gan_mnist.Config._fields:
        assert f"{name}={getattr(gan_mnist, name.upper())!r}" in text


def test_a_device_that_is_not_there_is_refused(folder, capsys):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    code, line = fails(capsys, "--device", missing)
    assert (code, "DEVICE" in line, missing in line) == (2, True, True)


def test_a_bug_keeps_its_traceback(folder, monkeypatch):
    """Errors of the user are ValueErrors too, and a line of them would hide where the bug is."""

    def broken(*_):
        raise ValueError("too many values to unpack")

    monkeypatch.setattr(gan_mnist, "discriminator_loss", broken)
    with pytest.raises(ValueError, match="too many values") as bug:
        gan_mnist.main([*TINY_FLAGS, "--epochs", "1"])
    assert not isinstance(bug.value, gan_mnist.UserError)


# ── an edited copy of the script ──


def load_copy(folder, changes):
    """Write a copy of the script with (pattern, replacement) changes -> the copy as a module."""
    source = SCRIPT
    for pattern, replacement in changes:
        source, count = re.subn(f"(?m){pattern}", replacement, source)
        assert count == 1, pattern
    path = folder / "gan_mnist.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited", path)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    copy.EPOCH_IMAGES = EPOCH_IMAGES
    return copy


def edit(folder, **constants):
    """Write a copy of the script with other values of its constants -> the copy as a module."""
    return load_copy(
        folder,
        [(rf"^{name} = .+?(?=  # )", f"{name} = {value}") for name, value in constants.items()],
    )


def test_an_edited_copy_of_the_script_does_what_it_says(folder):
    few = {
        "EPOCH_IMAGES": 1000,
        "EPOCHS": 1,
        "BATCH_SIZE": 500,
        "G_HIDDEN": "16,",
        "D_HIDDEN": "16,",
    }
    edit(folder, DATASET='"mnist_5k"', METRICS_EVERY=0, **few)
    (folder / "data").mkdir()
    shutil.copy(gan_mnist.BUNDLE, "data")
    command = [sys.executable, "gan_mnist.py"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    G = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert (G.arguments["g_hidden"], G.about["epochs"]) == ((16,), 1)
    assert (G.about["dataset"], G.about["images"]) == ("mnist_5k", 5000)


def test_a_constant_of_another_type_of_number_still_lets_its_flag_be_what_it_may_be(folder, capsys):
    copy = edit(folder, BETA1="0", D_HIDDEN="512", EPOCHS="1e0")
    config = copy.make_config()
    assert (config.beta1, config.d_hidden, config.epochs) == (0.0, (512,), 1)
    flags = [*TINY_FLAGS, "--overwrite"]
    place = flags.index("--d_hidden")
    del flags[place : place + 2]
    for more, expected in (
        (["--beta1", "0.5"], (0.5, (512,))),
        (["--d_hidden", "12"], (0.0, (12,))),
        (["--d_hidden", "12", "10"], (0.0, (12, 10))),
    ):
        assert copy.main([*flags, *more]) == 0, capsys.readouterr().err
        config = copy.load_weights("checkpoints/epoch_0001.pth")["config"]
        assert (config["beta1"], config["d_hidden"]) == expected


def test_constants_may_be_annotated_wrapped_or_left_without_a_comment(folder, capsys):
    copy = load_copy(
        folder,
        [
            (r"^EPOCHS = (\d+)  #.*", r"EPOCHS: int = \1"),
            (r"^SEED = (\d+)  #", r"SEED = \1 #"),
            (r"^G_HIDDEN = \((.*)\)  #", r"G_HIDDEN = (\n    \1,\n)  #"),
        ],
    )
    assert copy.make_config() == gan_mnist.make_config()
    with pytest.raises(SystemExit):
        copy.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--epochs X [60]" in text and "[256 512 1024]" in text
    for flag in ("epochs", "seed", "g_hidden"):
        assert copy.main([f"--{flag}", "-1.5"]) == 2
        assert f"--{flag}" in capsys.readouterr().err


def test_a_constant_of_ones_own_among_the_settings_is_in_nobodys_way(folder):
    copy = load_copy(folder, [(r"^SEED = ", "MINE = 3  # weight of a loss of my own\nSEED = ")])
    assert copy.main([*TINY_FLAGS, "--epochs", "1"]) == 0
    assert copy.MINE == 3


def test_what_is_no_setting_may_stand_above_and_may_be_imported_by_a_short_name(folder):
    mine = "from torch.optim import SGD\nimport torchvision as T\nOUT = Path('x')\nNONE = None\n"
    copy = load_copy(folder, [(r"^SEED = ", f"{mine}CRITERION = nn.BCELoss()\nSEED = ")])
    assert copy.main([*TINY_FLAGS, "--epochs", "1"]) == 0
    assert copy.main([*TINY_FLAGS, "--epochs", "2", "--resume"]) == 0
    settings = json.loads((folder / "checkpoints/settings.json").read_text())["settings"]
    assert settings.keys() == {*gan_mnist.DEFAULTS, "out"}


def test_a_generator_with_one_more_layer_draws_the_same_from_its_file(folder):
    more = "layers.append(nn.Dropout(0.1))\n        layers.append(ENDS[g_end]())"
    copy = load_copy(folder, [(r"layers\.append\(ENDS\[g_end\]\(\)\)", more)])
    G, _ = copy.train_gan(**TINY, data_dir="digits", epochs=1, smooth=0.7)
    loaded = copy.load_generator("checkpoints/generator_final.pth")
    assert torch.equal(loaded.sample(9, seed=0), G.sample(9, seed=0))
    drawn = gan_mnist.to_uint8(loaded.sample(9, seed=0))
    with Image.open("generated_samples/epoch_0001.png") as grid:
        assert np.array_equal(np.array(grid)[2:30, 32:60], drawn[1, 0].numpy())


def test_a_generator_with_one_more_parameter_still_loads_older_files(trained, folder):
    change = (
        r"^        width=WIDTH,\n    \):\n        g_hidden",
        "        width=WIDTH,\n        extra_layers=0,\n    ):\n        g_hidden",
    )
    copy = load_copy(folder, [change, (r"^SEED = ", "EXTRA_LAYERS = 0\nSEED = ")])
    path = "checkpoints/generator_final.pth"
    older = gan_mnist.load_generator(path)
    assert torch.equal(copy.load_generator(path).sample(4, seed=0), older.sample(4, seed=0))
    assert copy.main(["--resume", "--epochs", "3", *OTHER_FLAGS]) == 0


def test_a_layer_that_the_page_cannot_compute_is_refused_there_alone(folder):
    relu = (r"layers\.append\(ACTIVATIONS\[g_activation\]\(\)\)", "layers.append(nn.GELU())")
    copy = load_copy(folder, [relu])
    assert copy.main([*TINY_FLAGS, "--epochs", "1"]) == 0
    assert copy.main(["generate"]) == 0
    with pytest.raises(copy.UserError, match="GELU"):
        copy.page_generator(copy.load_generator("checkpoints/generator_final.pth"))


def test_a_network_that_was_changed_since_is_named_on_resume(trained, folder, capsys):
    more = "layers.append(nn.Linear(784, 784))\n        layers.append(ENDS[g_end]())"
    copy = load_copy(folder, [(r"layers\.append\(ENDS\[g_end\]\(\)\)", more)])
    assert copy.main(["--resume", "--epochs", "3", *OTHER_FLAGS]) == 2
    error = capsys.readouterr().err
    assert "network has changed" in error and error.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("NUM_SAMPLES", 0), ("SEED", "x"), ("SAMPLES_DIR", 5)])
def test_generate_checks_its_constants_too(folder, capsys, name, value):
    assert edit(folder, **{name: repr(value)}).main(["generate"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name} (--{name.lower()}) is {value!r}: allowed is ")
    assert error.count("\n") == 1


# ── resume ──

OTHER_FLAGS = TINY_FLAGS[TINY_FLAGS.index("--batch_size") :]  # that are not of the networks


def test_resume_needs_no_flag_of_the_networks_and_refuses_those_of_other_networks(folder, capsys):
    flags = [*TINY_FLAGS, "--conditional", "--spectral_norm"]
    assert gan_mnist.main([*flags, "--epochs", "1"]) == 0
    capsys.readouterr()
    resume = ["--resume", "--epochs", "2", *OTHER_FLAGS]
    for name, *values in (["latent_dim", "9"], ["g_hidden", "16", "16"], ["no-conditional"]):
        code, line = fails(capsys, *resume, f"--{name}", *values)
        assert code == 2
        assert f"--{name.removeprefix('no-')}" in line and "epoch_0001.pth" in line
    assert gan_mnist.main(resume) == 0
    out = capsys.readouterr().out
    assert "G_HIDDEN is (256, 512, 1024), but stays (16,) as in checkpoints/epoch_0001.pth" in out
    assert "D_SLOPE" not in out
    G = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert (G.about["epochs"], G.classes, G.latent_dim) == (2, 10, 8)
    assert G.arguments["g_hidden"] == (16,)
    assert gan_mnist.main([*flags, "--resume", "--epochs", "3"]) == 0  # the same may be repeated


def test_resume_takes_the_preset_as_well_and_flags_that_say_what_it_says(folder, capsys):
    small = "--preset dcgan_mnist --width 4 --image_size 28 --latent_dim 8 --epochs 1".split()
    assert gan_mnist.main([*small, *OTHER_FLAGS]) == 0
    capsys.readouterr()
    assert gan_mnist.main(["--resume", "--d_norm", "batch", "--epochs", "2", *OTHER_FLAGS]) == 0
    stays = re.findall(r"(\w+) is .* but stays", capsys.readouterr().out)
    assert stays == ["IMAGE_SIZE", "LATENT_DIM", "PRESET", "WIDTH"]  # what was a flag
    config = gan_mnist.load_weights("checkpoints/epoch_0002.pth")["config"]
    assert (config["preset"], config["d_norm"], config["width"]) == ("dcgan_mnist", "batch", 4)


# ── generate ──


def test_generate_draws_what_the_generator_draws_for_that_seed(trained, folder, capsys):
    assert gan_mnist.main("generate --num_samples 16 --seed 7 --separate --zoom 2".split()) == 0
    out = capsys.readouterr().out
    assert "generated_samples/generated_seed_7.png" in out
    assert "generator_final.pth (2 epochs of mnist)" in out
    images = gan_mnist.to_uint8(
        gan_mnist.load_generator("checkpoints/generator_final.pth").sample(16, seed=7)
    )
    singles = sorted((folder / "generated_samples/generated_seed_7").iterdir())
    assert [p.name for p in singles] == [f"{number:04d}.png" for number in range(1, 17)]
    for image, path in zip(images, singles, strict=True):
        assert np.array_equal(np.array(Image.open(path)), image[0].numpy())
    grid = np.array(Image.open(folder / "generated_samples/generated_seed_7.png"))
    assert grid.shape == (244, 244)
    assert np.array_equal(grid[::2, ::2][32:60, 62:90], images[6, 0].numpy())


def test_a_conditional_generator_draws_one_class_a_column_or_the_digit_that_is_asked_for(
    train, folder, capsys
):
    folders = {"samples_dir": "generated_samples", "checkpoint_dir": "checkpoints"}
    train(epochs=1, conditional=True, num_samples=20, **folders)
    G = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert G.classes == 10
    grid = np.array(Image.open("generated_samples/epoch_0001.png"))
    assert grid.shape == (62, 302)  # two rows of ten
    asked = [([], "", torch.arange(30) % 10), (["--digit", "7"], "_digit_7", torch.full((30,), 7))]
    for flags, name, labels in asked:
        assert gan_mnist.main(["generate", "--num_samples", "30", "--separate", *flags]) == 0
        images = gan_mnist.to_uint8(G.sample(30, seed=0, labels=labels))
        for number, image in enumerate(images, 1):
            path = f"generated_samples/generated_seed_0{name}/{number:04d}.png"
            assert np.array_equal(np.array(Image.open(path)), image[0].numpy())
    assert gan_mnist.main(["generate", "--interpolate", "--num_samples", "2", "--digit", "7"]) == 0
    capsys.readouterr()
    code, line = fails(capsys, "generate", "--digit", "10")
    assert code == 2 and "--digit is 10" in line and "7, 8, 9" in line
    assert gan_mnist.main(["generate", "--num_samples", "3", "--separate"]) == 0
    assert len(list((folder / "generated_samples/generated_seed_0").iterdir())) == 3


def test_a_generator_without_classes_says_how_to_get_one_that_draws_what_is_asked_for(
    trained, capsys
):
    code, line = fails(capsys, "generate", "--digit", "7")
    assert code == 2 and "--preset conditional" in line and "pretrained_conditional.pth" in line


def test_generate_takes_a_checkpoint_as_well_and_the_newest_before_there_is_a_final_one(
    trained, folder
):
    final = folder / "checkpoints/generator_final.pth"
    picture = folder / "generated_samples/generated_seed_0.png"

    def draw(*flags):
        assert gan_mnist.main(["generate", *flags]) == 0
        return picture.read_bytes()

    drawn = draw()
    assert drawn == draw("--model_path", str(final))
    assert drawn == draw("--model_path", "checkpoints/epoch_0002.pth")
    assert drawn != draw("--model_path", "checkpoints/epoch_0001.pth")
    final.unlink()
    assert drawn == draw()


def test_generate_takes_the_newest_checkpoint_of_a_run_that_is_being_made_longer(trained, capsys):
    capsys.readouterr()
    for gan in gan_mnist.training(**TINY, data_dir="digits", resume=True, epochs=4):
        if gan.epoch == 3:
            break  # as Ctrl-C does
    assert pathlib.Path("checkpoints/generator_final.pth").exists()
    assert gan_mnist.main(["generate"]) == 0
    assert "checkpoints/epoch_0003.pth (3 epochs" in capsys.readouterr().out


def test_interpolation_walks_from_point_to_point_on_the_shell_of_the_noise(trained, folder):
    flags = "generate --interpolate --num_samples 24 --seed 1 --zoom 1".split()
    assert gan_mnist.main(flags) == 0
    grid = np.array(Image.open(folder / "generated_samples/interpolation_seed_1.png"))
    assert grid.shape == (3 * 30 + 2, 8 * 30 + 2)
    points = gan_mnist.to_uint8(
        gan_mnist.load_generator("checkpoints/generator_final.pth").sample(4, seed=1)
    )
    for row in range(3):
        for column, point in ((0, row), (7, row + 1)):
            tile = grid[2 + 30 * row : 30 + 30 * row, 2 + 30 * column : 30 + 30 * column]
            assert np.abs(tile.astype(int) - points[point, 0].numpy()).max() <= 1
    assert not np.array_equal(grid[:, 2:30], grid[:, 122:150])


def test_show_opens_the_picture_with_matplotlib(trained, monkeypatch):
    shown = []
    monkeypatch.setattr(pyplot, "get_backend", lambda: "qtagg")
    monkeypatch.setattr(
        pyplot, "show", lambda: shown.append(pyplot.gca().get_images()[0].get_array().shape)
    )
    assert gan_mnist.main(["generate", "--show", "--interpolate"]) == 0
    assert shown == [(3 * 242, 3 * 242)]  # eight walks, in 700 pixels at least


def test_show_without_a_display_says_where_the_picture_is(trained, capsys, monkeypatch):
    monkeypatch.setattr(pyplot, "get_backend", lambda: "agg")
    assert gan_mnist.main(["generate", "--show"]) == 0
    printed = capsys.readouterr()
    last = printed.out.splitlines()[-1]
    assert "no display" in last and "generated_samples/generated_seed_0.png" in last
    assert printed.err == ""


def test_before_the_first_run_the_pretrained_generator_draws_and_says_so(
    folder, capsys, monkeypatch
):
    pretrained = folder / "pretrained.pth"
    weights = gan_mnist.Generator(g_hidden=(32,)).half().state_dict()  # as it is shipped
    torch.save(weights, pretrained)
    monkeypatch.setattr(gan_mnist, "PRETRAINED", pretrained)
    assert gan_mnist.main(["generate", "--num_samples", "4"]) == 0
    out = capsys.readouterr().out
    assert "No run in checkpoints yet" in out and f"drawn by\n{pretrained} (" in out
    assert (
        gan_mnist.main(["generate", "--num_samples", "4", "--checkpoint_dir", "checkpoints/"]) == 0
    )
    code, line = fails(capsys, "generate", "--checkpoint_dir", "conditonal")  # mistyped
    assert code == 2 and "no generator in conditonal" in line

    G = gan_mnist.load_generator(pretrained)
    assert all(weight.dtype == torch.float32 for weight in G.parameters())
    gan_mnist.save_grid(folder / "by_hand.png", G.sample(4, seed=0))
    drawn = folder / "generated_samples/generated_seed_0.png"
    assert drawn.read_bytes() == (folder / "by_hand.png").read_bytes()


def test_sevens_are_drawn_before_any_training(folder, capsys, monkeypatch):
    path = folder / "pretrained_conditional.pth"
    G = gan_mnist.Generator(g_hidden=(32,), classes=10)
    G.about["class_names"] = list("0123456789")
    torch.save(G.state_dict(), path)
    monkeypatch.setattr(gan_mnist, "PRETRAINED_CONDITIONAL", path)
    assert gan_mnist.main(["generate", "--digit", "7", "--num_samples", "4"]) == 0
    out = capsys.readouterr().out
    assert f"drawn by\n{path} (" in out
    assert "Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n" in out
    sevens = gan_mnist.load_generator(path).sample(4, seed=0, labels=7)
    gan_mnist.save_grid(folder / "by_hand.png", sevens)
    drawn = folder / "generated_samples/generated_seed_0_digit_7.png"
    assert drawn.read_bytes() == (folder / "by_hand.png").read_bytes()


def test_the_pretrained_generator_gives_way_to_a_run_and_no_run_deletes_it(
    trained, folder, capsys, monkeypatch
):
    pretrained = folder / "checkpoints/pretrained.pth"
    torch.save(gan_mnist.Generator(g_hidden=(32,)).state_dict(), pretrained)
    content = pretrained.read_bytes()
    monkeypatch.setattr(gan_mnist, "PRETRAINED", pretrained)
    assert gan_mnist.main(["generate"]) == 0
    out = capsys.readouterr().out
    assert "generator_final.pth" in out and "pretrained" not in out
    assert gan_mnist.main([*TINY_FLAGS, "--epochs", "1", "--overwrite"]) == 0
    assert not (folder / "checkpoints/epoch_0002.pth").exists()
    assert pretrained.read_bytes() == content


def test_generate_without_a_model_says_how_to_get_one(folder, capsys, monkeypatch):
    monkeypatch.setattr(gan_mnist, "PRETRAINED", folder / "missing.pth")
    code, line = fails(capsys, "generate")
    assert code == 2
    assert "no generator in checkpoints" in line and "train one" in line
    code, line = fails(capsys, "generate", "--model_path", "missing.pth")
    assert (code, "missing.pth" in line, "No such file" in line) == (2, True, True)


def test_generate_refuses_what_is_no_generator_in_one_line(trained, folder, capsys):
    content = (folder / "checkpoints/generator_final.pth").read_bytes()
    other = folder / "other.pth"
    for write, words in (
        (lambda: other.write_bytes(b""), "damaged"),
        (lambda: other.write_bytes(content[:-100]), "damaged"),
        (lambda: torch.save([1, 2], other), "not a weights file"),
        (lambda: torch.save({"weight": torch.ones(3)}, other), "no generator"),
        (lambda: torch.save(gan_mnist.Discriminator().state_dict(), other), "no generator"),
    ):
        write()
        code, line = fails(capsys, "generate", "--model_path", "other.pth")
        assert code == 2
        assert "other.pth" in line and words in line


def test_generate_names_a_path_where_it_cannot_write_and_does_not_advise_to_resume(
    trained, folder, capsys
):
    (folder / "file").write_text("in the way")
    code, line = fails(capsys, "generate", "--samples_dir", "file/out")
    assert code == 2
    assert "cannot write file/out/generated_seed_0.png" in line and "resum" not in line
