"""README: its cells, its commands and its change to the code work as they stand."""

import re
import shutil
import subprocess
import sys
import types

import numpy as np
import torch
from conftest import EPOCH_IMAGES, ROOT
from matplotlib import pyplot

import gan_mnist

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "gan_mnist.py").read_text(encoding="utf-8")


def test_the_notebook_cells_run_one_after_the_other_and_twice(folder, monkeypatch):
    few = {"epochs": 1, "data_dir": "digits", "batch_size": 500, "metrics_every": 0}
    gan_mnist.train_gan(**few)
    shutil.copy(gan_mnist.PRETRAINED, "checkpoints")
    shutil.copy(gan_mnist.PRETRAINED_CONDITIONAL, "checkpoints")
    for name, value in {**few, "epochs": 2}.items():
        monkeypatch.setitem(gan_mnist.DEFAULTS, name, value)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cleared = []
    notebook = types.ModuleType("IPython.display")  # which a notebook has
    notebook.clear_output = lambda wait: cleared.append(wait)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    shown = []
    monkeypatch.setattr(
        pyplot, "show", lambda: shown.append(pyplot.gca().get_images()[-1].get_array())
    )
    cells = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    for cell in (*cells, *cells):
        exec(cell.replace("50_000", "1_000"), names)
    assert len(cells) == 4 and len(cleared) == 10  # five epochs, twice
    assert names["images"].shape == (64, 1, 28, 28)
    assert (shown[0][2:30, 32:60] == names["images"][1, 0].numpy()).all()
    assert len(shown) == 2 * 8
    assert all(picture.std() > 0.01 for picture in shown)
    assert shown[1].shape == (62, 242)  # 16 sevens
    assert names["gan"].epoch == 5
    ones = names["conditional"].sample(1000, 0, labels=1)
    assert names["samples"].shape == (1000, 1, 28, 28)
    assert np.array_equal(names["samples"][1::10], gan_mnist.to_uint8(ones)[1::10].numpy())


def test_a_discriminator_is_loaded_and_a_generator_exported_as_it_says(train):
    G, _ = train(epochs=1)
    assert '`D.load_state_dict(load_weights(path)["D"])`' in README
    D = gan_mnist.Discriminator(d_hidden=(16,))
    D.load_state_dict(gan_mnist.load_weights("checkpoints/epoch_0001.pth")["D"])
    assert D(G.sample(4, seed=0)).shape == (4,)
    G.eval()
    z = torch.randn(1, 8)
    exported = torch.export.export(G, (z,)).module()
    assert torch.allclose(exported(z), G(z), atol=1e-6)


def test_the_change_to_the_code_can_be_made_and_trains(folder):
    """Against a diff that no longer fits: each of its parts is found once, and the rest is kept."""
    (diff,) = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if line[0] != "+")
    after = "\n".join(line[1:] for line in lines if line[0] != "-")
    assert SCRIPT.count(before) == 1
    changed = SCRIPT.replace(before, after)
    changed, count = re.subn(
        r"(?m)^EPOCH_IMAGES = [\d_]+", f"EPOCH_IMAGES = {EPOCH_IMAGES}", changed
    )
    assert count == 1
    (folder / "gan_mnist.py").write_text(changed, encoding="utf-8")
    flags = "--epochs 4 --data_dir digits --metrics_every 0 --learning_rate_g 3e-3".split()
    command = [sys.executable, "gan_mnist.py", *flags]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    losses = [float(number) for number in re.findall(r"D loss (\d\.\d+)", done.stdout)]
    assert len(losses) == 4
    assert all(0.01 < loss < 1.5 for loss in losses)  # ln 2 = 0.693 when D can only guess


def test_the_two_commands_stand_there_and_every_name_of_the_script_exists():
    assert "\npip install -r requirements.txt && python gan_mnist.py\n" in README
    assert "\npip install -r tests/requirements.txt && python -m pytest\n" in README
    named = set(re.findall(r"`([A-Z][A-Z0-9_]*[A-Z0-9])\b[^`]*`", README))
    assert len(named) > 12
    assert named - {"OMP_NUM_THREADS", "GAN"} <= {name.upper() for name in gan_mnist.DEFAULTS}
    read = README.split("## Read the code")[1].split("## Change it")[0]
    for name in re.findall(r"`(?:class |GAN\.)?(\w+)`", read):
        assert re.search(rf"(?m)^ *(class|def) {name}\b", SCRIPT), name


def test_requirements_in_the_script_equal_requirements_txt():
    block = re.search(r"# /// script\n(.*?)# ///", SCRIPT, re.DOTALL)[1]
    dependencies = re.findall(r'"([^"]+)"', block.partition("dependencies")[2])
    requirements = (ROOT / "requirements.txt").read_text().split()
    assert dependencies == requirements
    packages = [re.match(r"\w+", line)[0] for line in requirements]
    assert packages == ["torch", "torchvision", "numpy", "matplotlib", "pillow", "tqdm"]
