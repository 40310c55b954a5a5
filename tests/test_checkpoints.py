"""Checkpoints: a run that was stopped ends as if it had not been, and no file is half written."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import EPOCH_IMAGES, ROOT, TINY, assert_same_run
from PIL import Image

import gan_mnist


def contents(folder):
    """-> {path: bytes} of all files in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoint_names(folder="checkpoints"):
    return [path.name for path in gan_mnist.epoch_files(folder, ".pth")]


# ── a run that goes on ──


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


def test_networks_and_preset_need_not_be_given_again(train, folder):
    asked = {"preset": "hinge", "g_hidden": (24, 12), "latent_dim": 12, "spectral_norm": True}
    train(epochs=3, out="at_once", **asked)
    train(epochs=1, out="resumed", **asked)
    rest = {name: TINY[name] for name in ("batch_size", "num_samples", "zoom", "metrics_every")}
    folders = {"samples_dir": "resumed/samples", "checkpoint_dir": "resumed/checkpoints"}
    gan_mnist.train_gan(epochs=3, resume=True, data_dir="digits", device="cpu", **rest, **folders)
    assert_same_run(folder / "at_once", folder / "resumed")


def test_another_network_is_refused_by_the_names_of_constant_and_flag(train, folder):
    train(epochs=1)
    before = contents(folder)
    for name, value in (
        ("g_hidden", (16, 16)),
        ("d_hidden", (8,)),
        ("latent_dim", 9),
        ("modes", 0),
        ("spectral_norm", True),
        ("conditional", True),
        ("image_size", 20),
    ):
        state = gan_mnist.load_weights("checkpoints/epoch_0001.pth")
        with pytest.raises(gan_mnist.UserError) as caught:
            train(epochs=2, resume=True, **{name: value})
        told = str(caught.value)
        assert f"{name.upper()} (--{name})" in told
        assert str(value) in told and f"epoch_0001.pth has {state['config'][name]}" in told
    assert contents(folder) == before


def test_other_data_are_refused(train, folder):
    train(epochs=1)
    path = folder / "digits/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(gan_mnist.UserError, match=r"was trained on mnist, 1000 .*DATASET"):
        train(epochs=2, resume=True)
    with pytest.raises(gan_mnist.UserError, match=r"was trained on mnist, .* now mnist_5k, 5000"):
        train(epochs=2, resume=True, dataset="mnist_5k")


def test_another_learning_rate_is_obeyed_and_told_in_one_line(train, capsys):
    train(epochs=1)
    train(epochs=2, resume=True, learning_rate_g=0.5, beta1=0.75)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Continuing" in line]
    assert set(line.split("; ")[1:]) == {
        "EPOCHS 1 -> 2",
        "LEARNING_RATE_G 0.001 -> 0.5",
        "BETA1 0.0 -> 0.75",
    }
    group = gan_mnist.load_weights("checkpoints/epoch_0002.pth")["optimizer_g"]["param_groups"][0]
    assert (group["lr"], group["betas"]) == (0.5, (0.75, 0.999))


TWO_THREADS = f"""
import gan_mnist

gan_mnist.EPOCH_IMAGES = {EPOCH_IMAGES}
gan_mnist.idle_cores = lambda: 1  # of another moment than the checkpoint's
wide = {{**{TINY}, "data_dir": "digits", "g_hidden": (512,), "d_hidden": (512,)}}


def train(out, **settings):
    folders = {{"samples_dir": f"{{out}}/samples", "checkpoint_dir": f"{{out}}/checkpoints"}}
    gan_mnist.train_gan(**wide, **folders, **settings)


train("at_once", epochs=3, threads=2)
train("resumed", epochs=1, threads=2)
train("resumed", epochs=3, resume=True)
"""


def test_a_run_of_two_threads_resumes_bit_for_bit_though_its_number_is_not_given_again(folder):
    """With networks that are wide enough for two threads to share their work."""
    quick = {"GOMP_SPINCOUNT": "0"}  # on a busy machine threads that spin as they wait are slow
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **quick}
    subprocess.run([sys.executable, "-c", TWO_THREADS], cwd=folder, env=environment, check=True)
    assert_same_run(folder / "at_once", folder / "resumed")
    assert gan_mnist.load_weights("resumed/checkpoints/epoch_0003.pth")["threads"] == 2


def test_a_folder_of_colour_pictures_may_be_renamed_before_its_run_goes_on(train, folder, capsys):
    for number in range(60):
        path = folder / f"pictures/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (9, 8), (4 * number, 99, 0))
        picture.putpixel((4, 4), (0, 0, 255))
        picture.save(path)
    pictures = {"image_size": 8, "conditional": True}
    train(epochs=3, out="at_once", dataset="pictures", **pictures)
    train(epochs=1, out="resumed", dataset="pictures", **pictures)
    train(epochs=3, out="resumed", dataset="pictures", resume=True, **pictures)
    assert_same_run(folder / "at_once", folder / "resumed")
    (folder / "pictures").rename(folder / "images")
    _, history = train(epochs=4, out="resumed", dataset="images", resume=True, **pictures)
    assert len(history) == 4
    assert "DATASET pictures -> images" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_know_a_newer_setting_can_be_resumed(train, folder):
    train(epochs=1)
    path = folder / "checkpoints/epoch_0001.pth"
    state = gan_mnist.load_weights(path)
    del state["config"]["spectral_norm"], state["config"]["loss"]
    torch.save(state, path)
    _, history = train(epochs=2, resume=True)
    assert len(history) == 2


def test_fewer_epochs_than_done_are_refused(train):
    train(epochs=2)
    with pytest.raises(gan_mnist.UserError, match=r"EPOCHS is 1: .*epoch_0002.pth has done 2"):
        train(epochs=1, resume=True)


def test_a_finished_run_writes_its_final_files_again_also_into_a_new_folder(train, folder):
    _, history = train(epochs=2)
    final = folder / "checkpoints/generator_final.pth"
    content = final.read_bytes()
    final.unlink()
    _, again = train(epochs=2, resume=True, samples_dir="new")
    assert final.read_bytes() == content
    assert again == history
    new, old = folder / "new/epoch_0002.png", folder / "samples/epoch_0002.png"
    assert new.read_bytes() == old.read_bytes()
    assert (folder / "new/training.gif").exists()


# ── which checkpoints there are, and which one counts ──


def test_save_every_and_the_last_epoch_get_checkpoints(train):
    train(epochs=5, save_every=2, keep_checkpoints=0)
    assert checkpoint_names() == ["epoch_0002.pth", "epoch_0004.pth", "epoch_0005.pth"]


def test_one_checkpoint_too_many_goes_when_the_finished_run_is_resumed(train, folder):
    train(epochs=3, keep_checkpoints=0)
    (folder / "checkpoints/epoch_0001.pth").unlink()  # as if killed before epoch 2 was deleted
    train(epochs=3, keep_checkpoints=1, resume=True)
    assert checkpoint_names() == ["epoch_0003.pth"]


def test_without_a_checkpoint_it_starts_and_says_so(train, capsys):
    _, history = train(epochs=1, resume=True)
    assert len(history) == 1
    assert "starting with epoch 1" in capsys.readouterr().out


def test_a_run_stopped_before_its_first_checkpoint_can_be_resumed(train, folder, monkeypatch):
    def stop(gan):
        raise KeyboardInterrupt

    train(epochs=4, out="at_once", save_every=3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_mnist, "save_checkpoint", stop)
        train(epochs=4, out="resumed", save_every=3)
    assert len(list((folder / "resumed/samples").glob("epoch_*.png"))) == 3
    train(epochs=4, out="resumed", save_every=3, resume=True)
    assert_same_run(folder / "at_once", folder / "resumed")


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "empty":
        content = b""
    elif how == "shorter by a byte":
        content = content[:-1]
    else:  # a flipped bit
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "shorter by a byte", "a flipped bit"])
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


def test_old_checkpoints_go_before_the_newest_whole_one_whatever_damaged_ones_lie_there(
    train, folder
):
    train(epochs=4)
    for number in (3, 4):
        damage(folder / f"checkpoints/epoch_000{number}.pth", "shorter by a byte")
    train(epochs=3, resume=True, keep_checkpoints=1)
    assert checkpoint_names() == ["epoch_0003.pth", "epoch_0004.pth"]
    damage(folder / "checkpoints/epoch_0004.pth", "empty")
    _, history = train(epochs=4, resume=True)
    assert len(history) == 4


def refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("readable", [True, False])
def test_when_no_checkpoint_can_be_read_it_stops_and_touches_nothing(
    train, folder, capsys, monkeypatch, readable
):
    train(epochs=2)
    if readable:
        for name in checkpoint_names():
            damage(folder / "checkpoints" / name, "shorter by a byte")
    else:
        monkeypatch.setattr(gan_mnist.zipfile, "ZipFile", refuse)
    before = contents(folder)
    with pytest.raises(gan_mnist.UserError, match=r"epoch_0001.pth is of an earlier run"):
        train(epochs=3, resume=True)
    assert contents(folder) == before
    out = capsys.readouterr().out
    for name in checkpoint_names():
        reason = "is damaged" if readable else "cannot be read: Permission denied"
        assert f"{name} {reason}" in out


def test_a_trained_generator_without_checkpoints_is_not_replaced_by_resume(train, folder):
    train(epochs=2)
    for name in checkpoint_names():
        (folder / "checkpoints" / name).unlink()
    before = contents(folder)
    with pytest.raises(gan_mnist.UserError, match=r"generator_final.pth is of an earlier run"):
        train(epochs=3, resume=True)
    assert contents(folder) == before


# ── an earlier run ──


def test_a_new_run_never_mixes_with_an_earlier_one(train, folder):
    train(epochs=3, out="a")
    before = contents(folder)
    with pytest.raises(
        gan_mnist.UserError, match=r"earlier run: --resume .* --overwrite .* CHECKPOINT_DIR"
    ):
        train(epochs=1, out="a")
    with pytest.raises(gan_mnist.UserError, match=r"a/samples/epoch_0001.png is of an earlier run"):
        train(epochs=1, out="a", checkpoint_dir="elsewhere")
    with pytest.raises(gan_mnist.UserError, match="RESUME and OVERWRITE"):
        train(epochs=1, out="a", resume=True, overwrite=True)
    assert contents(folder) == before


def test_overwriting_leaves_nothing_of_the_earlier_run_and_all_that_is_not_of_it(train, folder):
    train(epochs=3, out="a", grid_every_steps=8, keep_generator_every=2)
    (folder / "a/checkpoints/epoch_0001.pth.json").write_text("figures of the run before")
    others = [folder / "a/samples/holiday.png", folder / "a/checkpoints/generator_best.onnx"]
    for other in others:
        other.write_bytes(b"not ours")
    train(epochs=1, out="a", overwrite=True, seed=1, grid_every_steps=9)
    for other in others:
        assert other.read_bytes() == b"not ours"
        other.unlink()
    train(epochs=1, out="b", seed=1, grid_every_steps=9)
    assert_same_run(folder / "a", folder / "b")


def test_overwriting_touches_nothing_before_an_epoch_of_the_new_run_is_trained(
    train, folder, monkeypatch
):
    train(epochs=2)
    before = contents(folder)

    def mistyped(*_):
        raise RuntimeError("an error in an edited line")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="edited line"):
        patch.setattr(gan_mnist, "discriminator_loss", mistyped)
        train(epochs=1, overwrite=True)
    (folder / "file").write_text("in the way")
    with pytest.raises(gan_mnist.UserError, match="file/out"):
        train(epochs=1, overwrite=True, samples_dir="file/out")
    (folder / "file").unlink()
    assert contents(folder) == before


def test_a_generator_that_is_left_alone_is_never_replaced_without_overwrite(train, folder):
    (folder / "checkpoints").mkdir()
    left = folder / "checkpoints/generator_best.pth"
    left.write_bytes(b"dear to me")
    with pytest.raises(gan_mnist.UserError, match=r"generator_best.pth is of an earlier run"):
        train(epochs=1)
    assert left.read_bytes() == b"dear to me"


def test_an_earlier_run_is_noticed_before_a_data_set_is_looked_for(train):
    train(epochs=1)
    with pytest.raises(gan_mnist.UserError, match=r"epoch_0001.pth is of an earlier run"):
        train(epochs=1, dataset="a folder that is not there")


# ── files ──


class Evil:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


def test_code_in_a_file_is_refused_and_not_run(folder, capsys):
    torch.save({"epoch": Evil()}, "evil.pth")
    with pytest.raises(gan_mnist.UserError, match=r"evil.pth is damaged, or is not a weights"):
        gan_mnist.load_generator("evil.pth")
    assert "code in a checkpoint was run" not in capsys.readouterr().out
    script = (ROOT / "gan_mnist.py").read_text(encoding="utf-8")
    loads = re.findall(r"torch\.load\(.*", script)
    assert len(loads) == 1 and "weights_only=True" in loads[0]  # nothing else reads such files


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
        with pytest.raises(gan_mnist.UserError, match=r"file.bin \(No space left on device\)"):
            gan_mnist.save_whole(path, lambda file: file.write(b"new"))
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert path.read_bytes() == b"old"
    gan_mnist.save_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
