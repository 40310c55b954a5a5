"""Checkpoints: a run that was stopped ends as if it had not been, and no file is half written."""

import os
import re
import zipfile
from enum import Enum

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_FLAGS, assert_same_run, fails, finish, start
from PIL import Image

import gan_mnist


def test_save_every_and_the_last_epoch_get_checkpoints(train, folder):
    train(epochs=5, save_every=2, keep_checkpoints=0)
    assert [p.name for p in gan_mnist.epoch_files(folder / "checkpoints", ".pth")] == [
        "epoch_0002.pth",
        "epoch_0004.pth",
        "epoch_0005.pth",
    ]


@pytest.mark.parametrize(
    ("first", "extra"),
    [
        (2, {}),
        (
            7,
            {
                "dropout": 0.3,
                "augment": "shift",
                "grad_clip": 1.0,
                "save_every": 3,
                "keep_checkpoints": 0,
            },
        ),
        (
            2,
            {
                "loss": "wgan_gp",
                "d_steps": 2,
                "spectral_norm": True,
                "conditional": True,
                "precision": "bf16",
                "smooth": 0.0,
            },
        ),
    ],
)
def test_a_resumed_run_equals_one_of_as_many_epochs_at_once_bit_for_bit(
    train, folder, first, extra
):
    train(epochs=first + 3, out="at_once", **extra)
    train(epochs=first, out="resumed", **extra)
    torch.rand(17)  # whatever happens in between does not matter
    train(epochs=first + 3, out="resumed", resume=True, **extra)
    if "save_every" in extra:  # the first run kept its last epoch, which is no third
        (folder / f"resumed/checkpoints/epoch_{first:04d}.pth").unlink()
    assert_same_run(folder / "at_once", folder / "resumed")


def run_in_two_threads(folder, out, *more):
    """Run the script with networks that are wide enough for two threads to share their work."""
    flags = [*TINY_FLAGS, "--g_hidden", "512", "--d_hidden", "512", "--overwrite"]
    if "--resume" in more:
        flags.remove("--overwrite")
    folders = ["--samples_dir", f"{out}/samples", "--checkpoint_dir", f"{out}/checkpoints"]
    quick = {"GOMP_SPINCOUNT": "0"}  # on a busy machine threads that spin as they wait are slow
    process = start(*flags, *folders, *more, threads=2, environment=quick)
    code, _, err = finish(process)
    assert code == 0, err
    return (folder / out / "samples/epoch_0001.png").read_bytes()


def test_two_threads_resume_bit_for_bit_too(folder):
    for _ in range(3):  # until two first epochs are equal, which once, on a busy machine, were not
        first = run_in_two_threads(folder, "a", "--epochs", "3")
        if run_in_two_threads(folder, "b", "--epochs", "1") == first:
            break
    run_in_two_threads(folder, "b", "--epochs", "3", "--resume")
    assert_same_run(folder / "a", folder / "b")


def test_resuming_a_finished_run_writes_its_final_files_again(train, folder):
    train(epochs=2)
    final = folder / "checkpoints/generator_final.pth"
    content = final.read_bytes()
    final.unlink()
    train(epochs=2, resume=True)
    assert final.read_bytes() == content


def test_resume_without_a_checkpoint_starts_and_says_so(train, capsys):
    _, history = train(epochs=1, resume=True)
    assert len(history) == 1
    assert "checkpoints yet: starting with epoch 1" in capsys.readouterr().out


def damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "truncated": content[:middle],
            "text": b"hello",
            "shorter by a byte": content[:-1],
            "a flipped bit": content[:middle]
            + bytes([content[middle] ^ 1])
            + content[middle + 1 :],
        }[how]
    )


@pytest.mark.parametrize(
    "how", ["empty", "truncated", "text", "shorter by a byte", "a flipped bit"]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    train, folder, capsys, how
):
    train(epochs=4, out="at_once")
    train(epochs=3, out="resumed")
    damage(folder / "resumed/checkpoints/epoch_0003.pth", how)
    train(epochs=4, out="resumed", resume=True)
    out = capsys.readouterr().out
    assert "WARNING: resumed/checkpoints/epoch_0003.pth is damaged" in out
    assert "Continuing from resumed/checkpoints/epoch_0002.pth" in out
    assert_same_run(folder / "at_once", folder / "resumed")


def test_when_all_checkpoints_are_damaged_resume_stops_and_deletes_nothing(train, folder):
    train(epochs=2)
    for path in (folder / "checkpoints").glob("epoch_*.pth"):
        damage(path, "truncated")
    with pytest.raises(ValueError, match=r"all checkpoints in .* are damaged: start again"):
        train(epochs=3, resume=True)
    assert len(list((folder / "checkpoints").glob("epoch_*.pth"))) == 2


class Evil:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


def test_code_in_a_checkpoint_is_refused_and_not_run(train, folder, capsys):
    train(epochs=1)
    torch.save({"epoch": Evil()}, folder / "checkpoints/epoch_0001.pth")
    with pytest.raises(ValueError, match=r"all checkpoints in .* are damaged: start again"):
        train(epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"epoch_0001.pth is damaged, or is not a weights file"):
        gan_mnist.load_generator("checkpoints/epoch_0001.pth")
    assert "code in a checkpoint was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"g_hidden": (16, 16)},
        {"d_hidden": (8,)},
        {"latent_dim": 9},
        {"modes": 0},
        {"spectral_norm": True},
    ],
)
def test_resume_with_another_network_is_refused_by_the_name_of_the_constant(train, change):
    train(epochs=1)
    (name,) = change
    with pytest.raises(ValueError, match=f"trained with {name.upper()} .* now it is .*"):
        train(epochs=2, resume=True, **change)


def test_resume_with_other_data_is_refused(train, folder):
    train(epochs=1)
    path = folder / "digits/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(ValueError, match=r"trained on mnist, 1000 images.*; DATASET and IMAGE"):
        train(epochs=2, resume=True)
    with pytest.raises(ValueError, match=r"trained on mnist, .* now give mnist_5k, 5000 images"):
        train(epochs=2, resume=True, dataset="mnist_5k")
    with pytest.raises(ValueError, match=r"IMAGE_SIZE now give"):
        train(epochs=2, resume=True, image_size=20)


def optimizer_of_another_shape(state):
    state["optimizer_g"]["state"][0]["exp_avg"] = torch.zeros(2, 2)


def row_without_fd(state):
    del state["history"][1]["fd"]


def steps_of_a_word(state):
    state["steps"] = "x"


def modes_below_zero(state):
    state["G_ema"]["_extra_state"]["modes"] = -3


CRAFTED = [
    row_without_fd,
    steps_of_a_word,
    modes_below_zero,
    lambda state: state["G"].pop("_extra_state"),
    lambda state: state["optimizer_d"].pop("state"),
    lambda state: state["optimizer_d"]["state"][0].pop("exp_avg_sq"),
    lambda state: state.update(optimizer_g=[]),
    lambda state: state.update(data=None),
    lambda state: state["data"].pop("checksum"),
    lambda state: state["config"].update(no_such_setting=1),
    optimizer_of_another_shape,
    lambda state: state["optimizer_d"].update(state={}),
    lambda state: state.update(G={}),
    lambda state: state.update(D=None),
    lambda state: state.update(config=None),
    lambda state: state.update(epoch=1),
    lambda state: state.update(epoch="2"),
    lambda state: state.update(history=[]),
    lambda state: state.update(history=None),
    lambda state: state.pop("steps"),
]


@pytest.mark.parametrize("craft", CRAFTED)
def test_a_checkpoint_that_does_not_fit_in_itself_is_refused_in_one_line(train, folder, craft):
    train(epochs=2)
    path = folder / "checkpoints/epoch_0002.pth"
    state = gan_mnist.load_weights(path)
    craft(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"epoch_0002.pth is no checkpoint of this script"):
        train(epochs=3, resume=True)


def test_a_renamed_checkpoint_is_refused(train, folder):
    train(epochs=2)
    (folder / "checkpoints/epoch_0002.pth").rename(folder / "checkpoints/epoch_0099.pth")
    with pytest.raises(
        ValueError, match=r"epoch_0099.pth is of epoch 2: rename it to epoch_0002.pth"
    ):
        train(epochs=100, resume=True)


def test_old_checkpoints_go_before_the_newest_whole_one_whatever_damaged_ones_lie_there(
    train, folder
):
    train(epochs=4)
    for number in (3, 4):
        damage(folder / f"checkpoints/epoch_000{number}.pth", "truncated")
    train(epochs=3, resume=True, keep_checkpoints=1)
    assert [p.name for p in gan_mnist.epoch_files("checkpoints", ".pth")] == [
        "epoch_0003.pth",
        "epoch_0004.pth",
    ]
    damage(folder / "checkpoints/epoch_0004.pth", "empty")
    _, history = train(epochs=4, resume=True)
    assert len(history) == 4


def test_a_file_that_may_not_be_read_is_not_called_damaged(train, folder, monkeypatch):
    train(epochs=1)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(gan_mnist.zipfile, "ZipFile", refuse)
    with pytest.raises(PermissionError, match=r"epoch_0001.pth cannot be read: Permission denied"):
        train(epochs=2, resume=True)


def test_resume_without_a_checkpoint_spares_what_another_run_has_drawn(train, folder):
    train(epochs=3)
    for path in (folder / "checkpoints").glob("epoch_*.pth"):
        path.unlink()
    with pytest.raises(ValueError, match=r"generator_final.pth is of an earlier run"):
        train(epochs=3, resume=True)
    with pytest.raises(ValueError, match=r"epoch_0003.png is of an earlier run"):
        train(epochs=3, resume=True, checkpoint_dir="elsewhere")


def test_a_run_stopped_before_its_first_checkpoint_is_resumed_with_any_save_every(
    train, folder, monkeypatch
):
    def stop(gan):
        raise KeyboardInterrupt

    train(epochs=4, out="whole", metrics_every=1, save_every=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_mnist, "save_checkpoint", stop)
        train(epochs=4, out="b", metrics_every=1, save_every=3)
    assert len(list((folder / "b/samples").glob("epoch_*.png"))) == 3
    train(epochs=4, out="b", metrics_every=1, save_every=2, resume=True)
    for path in (folder / "whole").rglob("generator_*.pth"):
        other = folder / "b" / path.relative_to(folder / "whole")
        assert other.read_bytes() == path.read_bytes()


def test_overwriting_deletes_nothing_when_it_cannot_write(train, folder):
    train(epochs=1)
    (folder / "file").write_text("in the way")
    with pytest.raises(ValueError, match="file/out"):
        train(epochs=1, overwrite=True, samples_dir="file/out")
    assert (folder / "checkpoints/generator_final.pth").exists()


def test_a_finished_run_can_be_resumed_into_a_new_folder_of_pictures(train, folder):
    train(epochs=2)
    train(epochs=2, resume=True, samples_dir="new")
    new, old = folder / "new/epoch_0002.png", folder / "samples/epoch_0002.png"
    assert new.read_bytes() == old.read_bytes()
    assert (folder / "new/training.gif").exists()


def test_resume_to_fewer_epochs_than_done_is_refused(train):
    train(epochs=2)
    with pytest.raises(
        ValueError, match=r"EPOCHS is 1: checkpoints/epoch_0002.pth has done 2, so raise it"
    ):
        train(epochs=1, resume=True)


def test_resume_with_another_learning_rate_goes_on_and_says_so(train, capsys):
    train(epochs=1)
    train(epochs=2, resume=True, learning_rate_g=0.5, beta1=0.75)
    changes = [line for line in capsys.readouterr().out.splitlines() if "Changed" in line]
    assert sorted(changes) == [
        "Changed: BETA1 0.0 -> 0.75 (beta1=0.0 keeps it)",
        "Changed: LEARNING_RATE_G 0.001 -> 0.5 (learning_rate_g=0.001 keeps it)",
    ]
    group = gan_mnist.load_weights("checkpoints/epoch_0002.pth")["optimizer_g"]["param_groups"][0]
    assert (group["lr"], group["betas"]) == (0.5, (0.75, 0.999))


def test_a_new_run_never_mixes_with_an_earlier_one(train, folder):
    train(epochs=3)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"earlier run: .* continue it by resume=True if .* overwrite=True"
    ):
        train(epochs=1)
    with pytest.raises(ValueError, match=r"earlier run"):
        train(epochs=1, checkpoint_dir="elsewhere")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "samples/holiday.png").write_bytes(b"not ours")
    (folder / "checkpoints/epoch_0001.pth.json").write_text("figures of the run before")
    train(epochs=1, overwrite=True)
    assert (folder / "samples/holiday.png").read_bytes() == b"not ours"
    assert [p.name for p in gan_mnist.epoch_files("checkpoints", ".pth")] == ["epoch_0001.pth"]
    assert [p.name for p in gan_mnist.epoch_files("samples", ".png")] == ["epoch_0001.png"]
    assert not (folder / "checkpoints/epoch_0001.pth.json").exists()


def test_an_earlier_run_is_noticed_before_a_data_set_is_looked_for(train):
    train(epochs=1)
    with pytest.raises(ValueError, match=r"epoch_0001.png is of an earlier run"):
        train(epochs=1, dataset="a folder that is not there")


@pytest.mark.parametrize("name", ["best", "final"])
def test_a_generator_that_is_left_is_never_deleted_without_overwrite_nor_another_file(
    train, folder, name
):
    (folder / "checkpoints").mkdir()
    for suffix in ("pth", "onnx"):
        (folder / f"checkpoints/generator_{name}.{suffix}").write_bytes(b"dear to me")
    with pytest.raises(ValueError, match=f"generator_{name}.pth is of an earlier run"):
        train(epochs=1)
    for suffix in ("pth", "onnx"):
        assert (folder / f"checkpoints/generator_{name}.{suffix}").read_bytes() == b"dear to me"
    train(epochs=1, overwrite=True)
    assert (folder / f"checkpoints/generator_{name}.onnx").read_bytes() == b"dear to me"


def test_a_checkpoint_that_does_not_know_a_newer_setting_can_be_resumed(train, folder):
    train(epochs=1)
    path = folder / "checkpoints/epoch_0001.pth"
    state = gan_mnist.load_weights(path)
    del state["config"]["spectral_norm"], state["config"]["loss"]
    torch.save(state, path)
    _, history = train(epochs=2, resume=True)
    assert len(history) == 2


def test_a_run_on_a_folder_of_colour_pictures_resumes_as_any_other(train, folder):
    for number in range(60):
        path = folder / f"pictures/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (4 * number, 99, 0)).save(path)
    pictures = {"dataset": "pictures", "image_size": 8, "conditional": True}
    train(epochs=3, out="at_once", **pictures)
    train(epochs=1, out="resumed", **pictures)
    train(epochs=3, out="resumed", resume=True, **pictures)
    assert_same_run(folder / "at_once", folder / "resumed")


def test_weights_that_are_no_numbers_are_never_drawn_nor_resumed(train, folder, capsys):
    train(epochs=3, out="at_once")
    train(epochs=2, out="resumed")
    path = folder / "resumed/checkpoints/epoch_0002.pth"
    state = gan_mnist.load_weights(path)
    state["optimizer_d"]["state"][0]["exp_avg"][0, 0] = float("nan")
    torch.save(state, path)
    train(epochs=3, out="resumed", resume=True)
    assert "epoch_0002.pth has weights that are not finite numbers" in capsys.readouterr().out
    assert_same_run(folder / "at_once", folder / "resumed")
    G = gan_mnist.Generator(4, (4,), modes=2)
    G.layers[0].weight.data[0, 0] = float("inf")
    torch.save(G.state_dict(), "infinite.pth")
    code, line = fails(capsys, "generate", "--model_path", "infinite.pth")
    assert (code, line) == (2, "error: infinite.pth has weights that are not finite numbers")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(folder, capsys, monkeypatch):
    with zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**7))
    assert (folder / "bomb.pth").stat().st_size < 20_000
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: pytest.fail("unpacked"))
    code, line = fails(capsys, "generate", "--model_path", "bomb.pth")
    assert (code, line) == (2, "error: bomb.pth is damaged, or is not a weights file")


STRANGE_GENERATORS = [
    {"modes": -3},
    {"modes": "x"},
    {"modes": 4},
    {"image_shape": (28, 28)},
    {"image_shape": (1, 28, -28)},
    {"image_shape": None},
    {"latent_dim": 4.5},
    {"hidden": 4},
    {"hidden": ("x",)},
    {"classes": None},
    {"about": None},
    {"about": [1]},
    {"about": {"dataset": 7, "epochs": "many", "fd": "low"}},
    {"another": 1},
]


@pytest.mark.parametrize("change", STRANGE_GENERATORS, ids=str)
@pytest.mark.parametrize("command", ["generate", "demo", "evaluate"])
def test_an_edited_generator_is_refused_in_one_line(folder, capsys, change, command):
    state = gan_mnist.Generator(4, (4,), modes=2).state_dict()
    state["_extra_state"].update(change)
    torch.save(state, "edited.pth")
    code, line = fails(capsys, command, "--model_path", "edited.pth")
    assert code == 2
    assert "edited.pth holds no generator of this script" in line


def test_one_checkpoint_too_many_goes_when_the_finished_run_is_resumed(train, folder):
    train(epochs=3, keep_checkpoints=0)
    (folder / "checkpoints/epoch_0001.pth").unlink()  # as if killed before epoch 2 was deleted
    train(epochs=3, keep_checkpoints=1, resume=True)
    names = [path.name for path in gan_mnist.epoch_files("checkpoints", ".pth")]
    assert names == ["epoch_0003.pth"]


def test_settings_of_other_types_become_plain_ones_that_every_checkpoint_can_hold(train, folder):
    class Loss(str, Enum):
        BCE = "bce"

    class Name(str):
        pass

    strange = {
        "dataset": np.str_("mnist"),
        "data_dir": folder / "digits",
        "loss": Loss.BCE,
        "precision": Name("fp32"),
        "checkpoint_dir": Name("checkpoints"),
        "seed": np.int64(3),
        "dropout": np.float32(0.5),
        "g_hidden": np.array([16]),
        "conditional": np.bool_(True),
        "batch_size": torch.tensor(100),
    }
    train(epochs=1, **strange)
    state = gan_mnist.load_weights("checkpoints/epoch_0001.pth")
    types = {name: type(value) for name, value in state["config"].items()}
    assert set(types.values()) == {bool, int, float, str, tuple}
    assert {type(width) for width in state["config"]["g_hidden"]} == {int}
    _, history = train(epochs=2, resume=True, **strange)
    assert len(history) == 2


def test_a_folder_of_pictures_may_be_renamed_between_two_runs(train, folder, capsys):
    for number in range(60):
        path = folder / f"pictures/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (9, 8), 4 * number).save(path)
    train(epochs=1, dataset="pictures", image_size=8)
    (folder / "pictures").rename(folder / "images")
    _, history = train(epochs=2, dataset=str(folder / "images"), image_size=8, resume=True)
    assert len(history) == 2
    assert "DATASET pictures -> " in capsys.readouterr().out


def test_every_file_is_loaded_as_weights_only():
    script = (ROOT / "gan_mnist.py").read_text(encoding="utf-8")
    loads = re.findall(r"torch\.load\(.*", script)
    assert len(loads) == 1 and "weights_only=True" in loads[0]


@pytest.mark.parametrize("stop_at", ["write", "replace"])
def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path, monkeypatch, stop_at):
    path = tmp_path / "file.bin"
    gan_mnist.save_whole(path, lambda file: file.write(b"old"))

    def broken(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if stop_at == "replace":
            patch.setattr(os, "replace", broken)
        else:
            patch.setattr("pathlib.Path.write_bytes", broken)
        with pytest.raises(OSError, match=r"cannot write .*file.bin \(No space left on device\)"):
            gan_mnist.save_whole(path, lambda file: file.write(b"new"))
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert path.read_bytes() == b"old"
    gan_mnist.save_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
