"""Commands and flags: what people type does what they mean, or one line says why not."""

import inspect
import pathlib
import pydoc
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_FLAGS, fails
from matplotlib import pyplot
from PIL import Image

import gan_mnist

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "gan_mnist.py").read_text(encoding="utf-8")


@pytest.fixture
def trained(train, capsys):
    """A folder with a finished run of the tiny networks in the default folders."""
    train(epochs=2, samples_dir="generated_samples", checkpoint_dir="checkpoints")
    capsys.readouterr()


# ── settings ──


def constants_at_the_top():
    """{NAME: its comment} as they stand in the script, read without the script's own code."""
    top = SCRIPT.split("# ── Hyperparameters")[1].split("# ── Presets")[0]
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


def test_help_of_training_has_the_groups_of_the_constants(capsys):
    with pytest.raises(SystemExit):
        gan_mnist.main(["--help"])
    text = capsys.readouterr().out
    top = SCRIPT.split("# ── Hyperparameters")[1].split("# ── Presets")[0]
    groups = re.findall(r"^# (\w+)$", top, re.MULTILINE)
    assert groups == ["data", "networks", "training", "output"]
    shown = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert shown == ["options", "preset", *groups, "presets"]


@pytest.mark.parametrize("command", ["generate", "evaluate", "judge", "demo"])
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
    ("latent_dim", -1),
    ("learning_rate_g", "fast"),
    ("learning_rate_d", float("nan")),
    ("learning_rate_g", -1e-3),
    ("beta1", 1.0),
    ("beta2", 1),
    ("ema_decay", 1.0),
    ("dropout", 1),
    ("label_smoothing", 0.6),
    ("grad_clip", -1),
    ("lr_decay_start", -1),
    ("lr_decay_end", 1.5),
    ("seed", -1),
    ("dataset", "mnits"),
    ("device", "gpu"),
    ("precision", "fp16"),
    ("augment", True),
    ("g_hidden", ()),
    ("g_hidden", 0),
    ("d_hidden", (512, 0)),
    ("d_hidden", (512, "x")),
    ("d_hidden", "512"[:0]),
    ("data_dir", 7),
    ("samples_dir", None),
    ("save_every", 0),
    ("keep_checkpoints", -1),
    ("num_samples", 0),
    ("resume", "yes"),
    ("overwrite", 1.5),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_constant_is_one_line_that_names_it_and_what_is_allowed(
    folder, capsys, monkeypatch, name, value
):
    monkeypatch.setattr(gan_mnist, name.upper(), value)
    code, line = fails(capsys)
    assert code == 2
    assert f"{name.upper()} (--{name}) is {value!r}: allowed is " in line
    assert len(line.split("allowed is ")[1]) > 3
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "0"],
        ["--epochs", "1.5"],
        ["--epochs"],
        ["--epoch", "4"],
        ["--learning-rate-g=much"],
        ["--d_hidden", "512", "x"],
        ["--d_hidden"],
        ["--dataset", "cifar"],
        ["--g_hidden=0"],
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


def test_a_tilde_in_a_path_is_the_home_folder_also_behind_an_equals_sign(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    flags = [*TINY_FLAGS, "--epochs", "1", "--samples_dir=~/a", "--checkpoint_dir=~/b"]
    assert gan_mnist.main(flags) == 0
    assert (folder / "home/a/epoch_0001.png").exists()
    assert (folder / "home/b/generator_final.pth").exists()
    assert not (folder / "~").exists()


def test_an_edited_constant_in_a_copy_of_the_script_is_obeyed_or_refused(folder):
    (folder / "data").mkdir()
    for path in (gan_mnist.BUNDLE, gan_mnist.MNIST_JUDGE):
        (folder / "data" / path.name).write_bytes(path.read_bytes())
    edited = SCRIPT.replace('DATASET = "mnist"', 'DATASET = "mnist_5k"').replace(
        "EPOCHS = 60", "EPOCHS = 1"
    )
    edited = edited.replace("(256, 512, 1024)", "(16,)").replace(
        "D_HIDDEN = (1024, 256)", "D_HIDDEN = (16,)"
    )
    edited = edited.replace("BATCH_SIZE = 128", "BATCH_SIZE = 1000")
    for script, expected in ((edited, 0), (edited.replace("BETA1 = 0.0", "BETA1 = 1.0"), 2)):
        (folder / "gan_mnist.py").write_text(script, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "gan_mnist.py"], cwd=folder, text=True, capture_output=True
        )
        assert done.returncode == expected, done.stderr
    assert (
        done.stderr == "error: BETA1 (--beta1) is 1.0: allowed is a number from 0.0 to 0.999999\n"
    )
    G = gan_mnist.load_generator(folder / "checkpoints/generator_final.pth")
    assert (G.hidden, G.about["epochs"]) == ((16,), 1)
    assert (G.about["dataset"], G.about["images"]) == ("mnist_5k", 5000)


def test_constants_may_be_annotated_wrapped_moved_or_left_without_a_comment(folder):
    changes = [
        (r"(?m)^EPOCHS = (\d+)  #.*", r"EPOCHS: int = \1\nMINE = 3  # of my own"),
        (r"(?m)^SEED = (\d+)  #", r"SEED = \1 #"),
        (r"(?m)^(# data)$", r"FIRST = 1  # above all groups\n\n\1"),
        (r"(?m)^G_HIDDEN = \((.*)\)  #", r"G_HIDDEN = (\n    \1,\n)  #"),
    ]
    edited = SCRIPT
    for pattern, replacement in changes:
        edited, count = re.subn(pattern, replacement, edited)
        assert count == 1, pattern
    (folder / "gan_mnist.py").write_text(edited, encoding="utf-8")

    def run(*flags):
        command = [sys.executable, "gan_mnist.py", *flags]
        return subprocess.run(command, cwd=folder, text=True, capture_output=True)

    for flags, line in (
        (["--epochs", "0"], "EPOCHS (--epochs) is '0'"),
        (["--seed", "-1"], "SEED (--seed) is '-1'"),
        (["--g_hidden", "0"], "G_HIDDEN (--g_hidden) is ['0']"),
        (["--mine", "4"], "unrecognized arguments: --mine 4; python gan_mnist.py --help shows"),
        (["--epocs", "4"], "unrecognized arguments: --epocs 4; did you mean --epochs?"),
        (["--batch-sise=4"], "unrecognized arguments: --batch-sise=4; did you mean --batch_size?"),
        (["generate", "--epochs", "4"], "python gan_mnist.py generate --help shows all flags"),
    ):
        done = run(*flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert line in done.stderr
    text = " ".join(run("--help").stdout.split())
    assert (
        "--g_hidden X [X ...], --g-hidden X [X ...] widths of the hidden layers of an mlp gen"
        in text
    )
    assert "--epochs X [60]" in text


def test_dashes_and_underscores_lists_and_equal_signs_all_work(folder):
    code = gan_mnist.main(
        [
            "train",
            *TINY_FLAGS,
            "--epochs=1",
            "--batch-size",
            "500",
            "--d-hidden",
            "12",
            "10",
            "--checkpoint-dir=some-where",
        ]
    )
    assert code == 0
    state = gan_mnist.load_weights("some-where/epoch_0001.pth")
    assert state["config"]["batch_size"] == 500
    assert state["config"]["d_hidden"] == (12, 10)


def test_switches_can_be_turned_off_too(monkeypatch):
    seen = []
    make_config = gan_mnist.make_config

    def stop(**settings):
        seen.append((settings, make_config(**settings)))
        raise ValueError("seen")

    monkeypatch.setattr(gan_mnist, "make_config", stop)
    monkeypatch.setattr(gan_mnist, "RESUME", True)
    for flag in ("--no-resume", "--no_resume", "--no-spectral-norm", "--samples_dir=o--no_x-y"):
        assert gan_mnist.main([flag]) == 2
    settings = [given for given, _ in seen]
    assert settings[:3] == [{"resume": False}, {"resume": False}, {"spectral_norm": False}]
    assert settings[3] == {"samples_dir": "o--no_x-y"}  # what is given is left as it is
    assert [config.resume for _, config in seen] == [False, False, True, True]


@pytest.mark.parametrize("name", gan_mnist.RULES)
def test_check_gives_back_plain_values_of_every_setting(name):
    rule = gan_mnist.RULES[name]
    if rule is bool:
        value = np.bool_(True)
    elif rule is str:
        value = pathlib.PurePosixPath("a/b")
    elif rule == "widths":
        value = np.array([3, 4])
    elif isinstance(rule, list):
        value = np.str_(rule[-1])
    else:
        value = np.array(rule[1])
    plain = gan_mnist.check(name, value)
    assert type(plain) in (bool, int, float, str, tuple)
    if isinstance(plain, tuple):
        assert plain == (3, 4) and {type(each) for each in plain} == {int}
    else:
        assert str(plain) == str(value)


def test_packages_that_are_not_installed_are_one_line():
    command = [sys.executable, "-S", "-I", ROOT / "gan_mnist.py"]  # -S: without site-packages
    done = subprocess.run(command, text=True, capture_output=True)
    names = "torch, torchvision, numpy, matplotlib, PIL, tqdm"
    line = f"error: {names} not installed: pip install -r requirements.txt\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_a_renamed_constant_is_one_line(tmp_path):
    script = tmp_path / "gan_mnist.py"
    script.write_text(SCRIPT.replace("\nEPOCHS = ", "\nEPOCH = "))
    for command in (["--seed", "1"], ["--help"]):
        done = subprocess.run([sys.executable, script, *command], text=True, capture_output=True)
        assert done.returncode == 2
        assert done.stderr == f"error: EPOCHS is missing among the constants of {script}\n"


def test_train_gan_refuses_an_unknown_setting_by_name():
    with pytest.raises(ValueError, match=r"no setting epoch, did you mean epochs\?"):
        gan_mnist.train_gan(epoch=3)
    with pytest.raises(ValueError, match=r"no setting zzz, but there are .*epochs"):
        gan_mnist.train_gan(zzz=3)


def test_help_of_train_gan_names_every_setting_with_its_value():
    text = " ".join(pydoc.render_doc(gan_mnist.train_gan).split())
    for name in gan_mnist.Config._fields:
        assert f"{name}={getattr(gan_mnist, name.upper())!r}" in text


def test_a_device_that_is_not_there_is_refused(folder, capsys):
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    code, line = fails(capsys, "--device", missing)
    assert (code, f"DEVICE is {missing}" in line) == (2, True)


# ── generate ──


def test_generate_draws_what_the_generator_draws_for_that_seed(trained, folder, capsys):
    assert gan_mnist.main("generate --num_samples 16 --seed 7 --separate --zoom 2".split()) == 0
    assert "generated_samples/generated_seed_7.png" in capsys.readouterr().out
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
    assert code == 2 and "--digit is 10" in line and "10 classes" in line


def test_a_generator_without_classes_says_how_to_get_one_that_draws_what_is_asked_for(
    trained, capsys
):
    code, line = fails(capsys, "generate", "--digit", "7")
    assert code == 2 and "CONDITIONAL = True" in line


def test_generate_takes_a_checkpoint_as_well_and_the_newest_before_there_is_a_final_one(
    trained, folder
):
    final = folder / "checkpoints/generator_final.pth"
    picture = folder / "generated_samples/generated_seed_0.png"
    pictures = []
    for flags in (
        [],
        ["--model_path", str(final)],
        ["--model_path", "checkpoints/epoch_0002.pth"],
        "newest",
        ["--model_path", "checkpoints/epoch_0001.pth"],
    ):
        if flags == "newest":
            final.unlink()
            flags = []
        assert gan_mnist.main(["generate", *flags]) == 0
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1] == pictures[2] == pictures[3] != pictures[4]


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


def test_interpolation_draws_eight_walks_in_700_pixels(trained, folder):
    assert gan_mnist.main(["generate", "--interpolate"]) == 0
    with Image.open(folder / "generated_samples/interpolation_seed_0.png") as picture:
        assert picture.size == (3 * 242, 3 * 242)


def test_show_opens_the_picture_with_matplotlib(trained, monkeypatch):
    shown = []
    monkeypatch.setattr(pyplot, "get_backend", lambda: "qtagg")
    monkeypatch.setattr(
        pyplot, "show", lambda: shown.append(pyplot.gca().get_images()[0].get_array().shape)
    )
    assert gan_mnist.main(["generate", "--show"]) == 0
    assert shown == [(726, 726)]


def test_show_without_a_display_says_where_the_picture_is(trained, capsys, monkeypatch):
    monkeypatch.setattr(pyplot, "get_backend", lambda: "agg")
    assert gan_mnist.main(["generate", "--show"]) == 0
    printed = capsys.readouterr()
    last = printed.out.splitlines()[-1]
    assert last == "There is no display for --show: open generated_samples/generated_seed_0.png"
    assert printed.err == ""


def test_before_the_first_run_the_pretrained_generator_draws_and_says_so(
    folder, capsys, monkeypatch
):
    pretrained = folder / "pretrained.pth"
    weights = gan_mnist.Generator(hidden=(32,)).half().state_dict()  # as it is shipped
    torch.save(weights, pretrained)
    monkeypatch.setattr(gan_mnist, "PRETRAINED", pretrained)
    assert gan_mnist.main(["generate", "--num_samples", "4"]) == 0
    out = capsys.readouterr().out
    assert "No run in checkpoints yet: taking the generator that comes with the script" in out
    assert "drawn by\npretrained.pth (" in out
    assert gan_mnist.main(["demo"]) == 0
    assert "taking the generator that comes with the script" in capsys.readouterr().out
    code, line = fails(capsys, "generate", "--checkpoint_dir", "conditonal")  # mistyped
    assert code == 2 and "no generator in conditonal" in line
    code, line = fails(capsys, "generate", "--checkpoint_dir", "mine", "--digit", "7")
    flags = "--conditional --samples_dir mine --checkpoint_dir mine"
    assert code == 2 and f"train one by `python gan_mnist.py {flags}`" in line

    G = gan_mnist.load_generator(pretrained)
    assert all(weight.dtype == torch.float32 for weight in G.parameters())
    gan_mnist.save_grid(folder / "by_hand.png", G.sample(4, seed=0))
    drawn = folder / "generated_samples/generated_seed_0.png"
    assert drawn.read_bytes() == (folder / "by_hand.png").read_bytes()


def test_the_pretrained_generator_gives_way_to_a_run(trained, folder, capsys, monkeypatch):
    pretrained = folder / "checkpoints/pretrained.pth"
    torch.save(gan_mnist.Generator(hidden=(32,)).state_dict(), pretrained)
    content = pretrained.read_bytes()
    monkeypatch.setattr(gan_mnist, "PRETRAINED", pretrained)
    assert gan_mnist.main(["generate"]) == 0
    out = capsys.readouterr().out
    assert "generator_final.pth" in out and "pretrained" not in out
    flags = [*TINY_FLAGS, "--data_dir", "digits", "--overwrite"]
    assert gan_mnist.main(flags) == 0
    assert pretrained.read_bytes() == content  # no run writes or deletes it


def test_generate_without_a_model_says_how_to_get_one(folder, capsys, monkeypatch):
    monkeypatch.setattr(gan_mnist, "PRETRAINED", folder / "missing.pth")
    code, line = fails(capsys, "generate")
    assert code == 2
    assert "no generator in checkpoints" in line and "python gan_mnist.py" in line
    code, line = fails(capsys, "generate", "--model_path", "missing.pth")
    assert (code, line) == (2, "error: missing.pth cannot be read: No such file or directory")


def test_generate_refuses_what_is_no_generator_in_one_line(trained, folder, capsys):
    final = folder / "checkpoints/generator_final.pth"
    content = final.read_bytes()
    other = folder / "other.pth"
    for write, words in (
        (lambda: other.write_bytes(b""), "damaged"),
        (lambda: other.write_bytes(content[:-100]), "damaged"),
        (lambda: torch.save([1, 2], other), "is damaged, or is not a weights file"),
        (lambda: torch.save({"weight": torch.ones(3)}, other), "holds no generator"),
        (lambda: torch.save(gan_mnist.Discriminator().state_dict(), other), "holds no generator"),
    ):
        write()
        code, line = fails(capsys, "generate", "--model_path", "other.pth")
        assert code == 2
        assert "other.pth" in line and words in line


@pytest.mark.parametrize(("name", "value"), [("NUM_SAMPLES", 0), ("SEED", "x"), ("SAMPLES_DIR", 5)])
def test_generate_checks_its_constants_too(folder, name, value):
    script = re.sub(rf"^{name} = \S+", f"{name} = {value!r}", SCRIPT, flags=re.MULTILINE)
    (folder / "gan_mnist.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "gan_mnist.py", "generate"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name} (--{name.lower()}) is {value!r}: allowed is ")
    assert done.stderr.count("\n") == 1


def test_generate_says_of_a_folder_where_it_cannot_write_what_to_change_and_not_to_resume(
    trained, folder, capsys
):
    (folder / "file").write_text("in the way")
    code, line = fails(capsys, "generate", "--samples_dir", "file/out")
    assert code == 2
    assert "SAMPLES_DIR (--samples_dir) is 'file/out'" in line and "resum" not in line


def test_generate_tells_in_words_what_the_generator_was_trained_on(trained, capsys):
    assert gan_mnist.main(["generate"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Wrote generated_samples/generated_seed_0.png: 64 images, drawn by",
        "checkpoints/generator_final.pth (2 epochs of mnist)",
    ]


# ── what the README says ──


def test_the_notebook_cells_of_the_readme_run_one_after_the_other_as_they_stand(
    folder, monkeypatch
):
    monkeypatch.setenv("MPLBACKEND", "agg")
    few = {"epochs": 1, "data_dir": "digits", "batch_size": 500, "metrics_every": 0}
    gan_mnist.train_gan(**few)
    command = re.search(r"`python gan_mnist.py (--conditional --samples_dir[^`]*)`", README)[1]
    flags = [str(each) for name, value in few.items() for each in (f"--{name}", value)]
    assert gan_mnist.main([*command.split(), *flags]) == 0
    shutil.copy(gan_mnist.PRETRAINED, "checkpoints")
    cells = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shown = []
    monkeypatch.setattr(
        pyplot, "show", lambda: shown.append(pyplot.gca().get_images()[0].get_array())
    )
    names = {}
    for cell in cells[:2]:
        exec(cell, names)
        assert names["images"].shape == (64, 1, 28, 28)
        assert names["images"].abs().max() <= 1
    for cell in cells[2:]:
        exec(cell, names)
    assert names["walk"].shape == (8, 1, 28, 28)
    assert [len(row) for row in names["rows"]] == [8] * 10
    assert names["sevens"].shape == (16, 1, 28, 28)
    assert names["generator"].classes == 10
    assert [picture.shape for picture in shown] == [(242, 242), (32, 242), (302, 242), (62, 242)]
    assert (shown[0][2:30, 32:60] == names["images"][1, 0].detach().numpy()).all()
    assert all(picture.std() > 0.01 for picture in shown)


def test_requirements_in_the_script_equal_requirements_txt():
    block = re.search(r"# /// script\n(.*?)# ///", SCRIPT, re.DOTALL)[1]
    dependencies = re.findall(r'"([^"]+)"', block.partition("dependencies")[2])
    requirements = (ROOT / "requirements.txt").read_text().split()
    assert dependencies == requirements
    assert [re.match(r"\w+", line)[0] for line in requirements] == [
        "torch",
        "torchvision",
        "numpy",
        "matplotlib",
        "pillow",
        "tqdm",
    ]


def test_readme_has_the_two_commands_and_every_constant_that_it_names_is_there():
    assert "\npip install -r requirements.txt && python gan_mnist.py\n" in README
    assert "\npip install -r tests/requirements.txt && python -m pytest\n" in README
    named = set(re.findall(r"`([A-Z][A-Z0-9_]*[A-Z0-9])\b[^`]*`", README))
    assert len(named) > 15
    assert named - {"OMP_NUM_THREADS"} <= set(constants_at_the_top())
