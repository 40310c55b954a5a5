"""A run: the files that it writes, and what it does when something goes wrong."""

import csv
import fcntl
import io
import json
import math
import os
import platform
import pty
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_FLAGS, assert_same_run, fails, finish, start
from PIL import Image

import gan_mnist


def settings_of(out, **settings):
    """-> what training takes for the tiny networks, with files in out/."""
    folders = {"samples_dir": f"{out}/samples", "checkpoint_dir": f"{out}/checkpoints"}
    return {**TINY, "data_dir": "digits", **folders, **settings}


def read_history(folder):
    """-> the rows of history.csv, with None for an empty cell."""
    with (folder / "checkpoints/history.csv").open() as file:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


# ── the files ──


def test_every_epoch_writes_a_grid_a_row_and_a_checkpoint_and_the_end_the_rest(train, folder):
    generator, history = train(epochs=5, keep_checkpoints=2)
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        *(f"epoch_{n:04d}.png" for n in range(1, 6)),
        "loss_curves.png",
        "real_and_generated.png",
        "real_samples.png",
        "training.gif",
    ]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "epoch_0004.pth",
        "epoch_0005.pth",
        "generator_final.pth",
        "history.csv",
        "settings.json",
    ]
    assert read_history(folder) == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    loaded = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert torch.equal(loaded.sample(4, seed=1), generator.sample(4, seed=1))
    facts = ("dataset", "images", "classes", "seed", "epochs", "fd")
    assert [loaded.about[fact] for fact in facts] == ["mnist", 1000, 10, 0, 5, None]


def test_settings_json_tells_settings_versions_device_and_data(train, folder, digits):
    train(epochs=1, seed=7, g_hidden=(24,))
    facts = json.loads((folder / "checkpoints/settings.json").read_text())
    asked = {**TINY, "epochs": 1, "seed": 7, "g_hidden": [24], "d_hidden": [16]}
    assert facts["settings"].items() >= asked.items()
    assert facts["settings"].keys() == gan_mnist.DEFAULTS.keys()
    assert (facts["torch"], facts["python"]) == (torch.__version__, platform.python_version())
    assert facts["device"] == "cpu"
    checksum = f"{zlib.crc32(digits[0].numpy().tobytes()):08x}"
    expected = {"dataset": "mnist", "images": 1000, "checksum": checksum, "classes": 10}
    assert facts["data"] == {**expected, "class_names": list("0123456789")}


def test_grids_are_the_averaged_generators_from_the_same_z_and_real_samples_are_real(
    train, folder, digits
):
    train(epochs=2, seed=3)
    for epoch in (1, 2):
        generator = gan_mnist.load_generator(f"checkpoints/epoch_000{epoch}.pth")
        gan_mnist.save_grid(folder / "expected.png", generator.sample(9, seed=3), zoom=1)
        drawn = (folder / f"samples/epoch_000{epoch}.png").read_bytes()
        assert drawn == (folder / "expected.png").read_bytes()
    with Image.open(folder / "samples/real_samples.png") as picture:
        pixels = torch.tensor(np.array(picture))
    tiles = pixels[2:].unfold(0, 28, 30)[:, 2:].unfold(1, 28, 30).reshape(9, 28, 28)
    known = {image.numpy().tobytes() for image in digits[0]}
    assert len({tile.numpy().tobytes() for tile in tiles} & known) == 9


def test_grids_between_epochs_show_the_average_of_their_step_and_change_no_training(train, folder):
    rates = {"learning_rate_g": 0.01, "learning_rate_d": 0.01, "batch_size": 50}
    train(epochs=1, out="watched", grid_every_steps=5, **rates)
    train(epochs=1, out="alone", **rates)
    config = gan_mnist.make_config(**settings_of("by_hand", epochs=1, **rates))
    images, labels, name = gan_mnist.load_dataset("mnist", "digits")
    gan = gan_mnist.GAN(config, (1, 28, 28), gan_mnist.describe_data(images, labels, name))
    gan.epoch = 1
    drawn = [gan.generator().sample(9, config.seed)]  # untrained
    torch.manual_seed(gan_mnist.stream_seed(config.seed, 1))
    for step, (real, classes) in enumerate(gan_mnist.make_loader(images, labels, 50), 1):
        gan.train_step(gan_mnist.to_float(real), classes)
        if step % 5 == 0:
            drawn.append(gan.generator().sample(9, config.seed))
    grids = []
    for number, sample in enumerate(drawn):
        gan_mnist.save_grid(folder / f"{number}.png", sample, zoom=1)
        grids.append((folder / f"{number}.png").read_bytes())
    assert len(set(grids)) == 5
    steps = sorted((folder / "watched/samples").glob("step_*.png"))
    assert [path.name for path in steps] == [f"step_{n:06d}.png" for n in (5, 10, 15, 20)]
    assert [path.read_bytes() for path in steps] == grids[1:]
    for path in steps:
        path.unlink()
    assert_same_run(folder / "watched", folder / "alone")


def test_what_is_printed_of_an_epoch_is_saved(train, folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gan_mnist, "print_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(epochs=3)
    assert gan_mnist.load_weights("checkpoints/epoch_0001.pth")["epoch"] == 1
    assert (folder / "samples/epoch_0001.png").exists()
    assert len(read_history(folder)) == 1


def test_real_and_drawn_images_stand_side_by_side_at_the_end(train, folder):
    train(epochs=2)
    real, drawn, both = (
        np.array(Image.open(folder / f"samples/{name}.png"))
        for name in ("real_samples", "epoch_0002", "real_and_generated")
    )
    assert real.shape == drawn.shape == (92, 92)
    assert np.array_equal(both[-92:, :92], real)
    assert np.array_equal(both[-92:, -92:], drawn)
    assert both[:-92, :92].max() > 100 < both[:-92, -92:].max()  # what they are stands above


# ── a loop over epochs ──


def test_a_loop_sees_each_epoch_with_its_files_and_goes_on_after_a_break(train, folder):
    train(epochs=4, out="at_once")
    for gan in gan_mnist.training(**settings_of("left", epochs=4)):
        epoch = f"epoch_{gan.epoch:04d}"
        assert gan_mnist.load_weights(f"left/checkpoints/{epoch}.pth")["epoch"] == gan.epoch
        assert len(read_history(folder / "left")) == len(gan.history) == gan.epoch
        gan_mnist.save_grid(folder / "seen.png", gan.generator().sample(9, seed=0), zoom=1)
        grid = folder / f"left/samples/{epoch}.png"
        assert grid.read_bytes() == (folder / "seen.png").read_bytes()
        torch.rand(17)  # what is done in the loop does not matter
        if gan.epoch == 2:
            break
    seen = [gan.epoch for gan in gan_mnist.training(**settings_of("left", epochs=4, resume=True))]
    assert seen == [3, 4]
    assert_same_run(folder / "at_once", folder / "left")


def test_a_cell_with_a_loop_can_be_run_again_and_again(train, folder):
    train(epochs=2, out="at_once", seed=2)
    for seed in (1, 2):  # the second time with a changed setting
        for gan in gan_mnist.training(**settings_of("cell", epochs=5, overwrite=True, seed=seed)):
            if gan.epoch == 2:
                break
    again = settings_of("cell", epochs=2, resume=True, seed=2)
    (gan,) = gan_mnist.training(**again)  # nothing is left to train: the files of the end
    assert gan.epoch == 2
    assert_same_run(folder / "at_once", folder / "cell")


# ── what is printed ──


def test_on_a_terminal_of_80_columns_a_bar_shows_batches_losses_speed_and_the_time_left(
    train, monkeypatch
):
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    monkeypatch.setattr(sys, "stderr", os.fdopen(screen, "w"))
    train(epochs=2, batch_size=10, metrics_every=2)
    shown = re.split(r"[\r\n]+", os.read(terminal, 100_000).decode())
    assert max(map(len, shown)) <= 80
    bar = r"Epoch \[1/2\]: .*\| *\d+/100, D \d\.\d\d, G \d\.\d\d, [\d,]+ img/s, 00:\d\d left"
    assert any(re.search(bar, line) for line in shown)


def test_in_a_notebook_bars_are_shown_without_a_terminal(train, capsys, monkeypatch):
    train(epochs=1)
    assert "img/s, 00:00 left" not in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    train(epochs=1, overwrite=True)
    shown = capsys.readouterr()
    assert re.search(r"Epoch \[1/1\]: .*%\|.*img/s, 00:00 left", shown.out)
    assert shown.err == ""


def test_what_a_run_prints_fits_into_80_columns_and_says_what_to_look_at_and_what_to_do_next(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(gan_mnist, "EPOCH_IMAGES", 10_000)
    command = ["--dataset", "mnist_5k", *TINY_FLAGS, "--epochs", "2", "--metrics_every", "2"]
    command += ["--batch_size", "1000"]
    assert gan_mnist.main(command) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "Each epoch sees all of them 2 times" in lines
    epoch = r"D loss \d\.\d{3}, G loss \d\.\d{3}, (FD \d+\.\d\d, )?[\d,]+ img/s"
    assert re.search(rf"(?m)^Epoch \[1/2\]: {epoch}, 00:\d\d left$", out)
    assert re.search(rf"(?m)^Epoch \[2/2\]: {epoch}$", out)
    assert re.fullmatch(r"Wrote checkpoints/generator_final.pth; .* 1 to 2 took 00:\d\d", lines[-3])
    pictures = re.findall(r"\w+\.(?:png|gif)", lines[-2])
    assert len(pictures) == 3
    for name in pictures:
        assert (folder / "generated_samples" / name).exists()
    assert "Next: python gan_mnist.py generate" in lines[-1]
    assert gan_mnist.main([*command, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "epoch 2 was the last one" in out and "took" not in out
    assert gan_mnist.main([*command, "--resume", "--epochs", "3", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "epochs 3 to 3 took " in out and "SEED 0 -> 1" in out


def test_names_that_the_terminal_cannot_show_do_no_harm(folder, monkeypatch):
    name = os.fsdecode(
        b"pictures \xfc \xc3\xbc"
    )  # u umlaut in Latin-1, which is no UTF-8, and in it
    (folder / name).mkdir()
    for number in range(60):
        picture = Image.new("L", (8, 8), 4 * number)
        picture.putpixel((4, 4), 255)
        picture.save(folder / name / f"{number}.png")
    flags = [*TINY_FLAGS, "--dataset", name, "--image_size", "8", "--samples_dir", f"{name} drawn"]
    for epochs, encoding in (("1", "ascii"), ("2", "utf-8")):
        screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        monkeypatch.setattr(sys, "stdout", screen)
        assert gan_mnist.main([*flags, "--epochs", epochs, "--resume"]) == 0
        screen.flush()
        assert b"pictures \\udcfc" in screen.buffer.getvalue()
    assert (folder / f"{name} drawn/training.gif").exists()


def test_a_discriminator_that_wins_outright_is_said(train, capsys):
    train(epochs=2, learning_rate_g=0, learning_rate_d=0.01, batch_size=20, gradient_penalty=0)
    assert "WARNING: D is right in 100.0%" in capsys.readouterr().out
    train(epochs=1, learning_rate_d=0, overwrite=True)
    assert "WARNING" not in capsys.readouterr().out


# ── faults ──


def test_a_loss_that_is_not_finite_is_one_line_that_names_the_learning_rates_and_touches_nothing(
    train, folder, capsys, monkeypatch
):
    train(epochs=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(gan_mnist, "generator_loss", lambda logits, loss: logits.sum() * math.nan)
    code, line = fails(capsys, *TINY_FLAGS, "--samples_dir", "samples", "--epochs", "2", "--resume")
    assert code == 2
    assert "not finite in epoch 2" in line
    assert "LEARNING_RATE_G" in line and "LEARNING_RATE_D" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_batch_larger_than_the_epoch_is_refused(train, folder):
    for wrong in ({"batch_size": 1001}, {"batch_size": 400, "d_steps": 3}):
        with pytest.raises(gan_mnist.UserError, match=r"BATCH_SIZE .*D_STEPS .*more than"):
            train(**wrong)
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("setting", ["samples_dir", "checkpoint_dir"])
def test_a_folder_that_cannot_be_written_to_is_named(folder, capsys, setting):
    (folder / "file").write_text("in the way")
    for value in ("file", "file/out"):
        code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1", f"--{setting}", value)
        assert code == 2
        assert f"cannot write {value}/" in line and "choose a folder" in line


def test_a_full_disk_while_saving_is_one_clear_line_and_earlier_checkpoints_stay_whole(
    train, folder, capsys
):
    train(epochs=1, samples_dir="generated_samples")
    whole = (folder / "checkpoints/epoch_0001.pth").read_bytes()
    assert len(whole) > 200_000
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, former[1]))
    try:
        code, line = fails(capsys, *TINY_FLAGS, "--epochs", "2", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert code == 2
    assert "cannot write checkpoints/epoch_0002.pth (File too large)" in line
    assert (folder / "checkpoints/epoch_0001.pth").read_bytes() == whole
    assert not (folder / "checkpoints/epoch_0002.pth").exists()
    assert not list(folder.rglob("*.part"))
    _, history = train(epochs=2, samples_dir="generated_samples", resume=True)
    assert len(history) == 2


def test_a_picture_that_cannot_be_written_is_a_warning_and_the_training_goes_on(
    train, folder, capsys
):
    (folder / "samples/epoch_0001.png").mkdir(parents=True)
    _, history = train(epochs=2, resume=True)
    assert len(history) == 2
    assert "WARNING: cannot write samples/epoch_0001.png" in capsys.readouterr().out
    assert (folder / "samples/epoch_0002.png").is_file()
    assert (folder / "checkpoints/generator_final.pth").exists()


def heed_ctrl_c():
    """Undo that all which a shell script starts in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_run_keeps_others_out_of_its_folder_until_ctrl_c_which_says_how_to_go_on(folder, capsys):
    flags = [*TINY_FLAGS, "--epochs", "100000"]
    process = start(*flags, cwd=folder, preexec_fn=heed_ctrl_c)
    for line in process.stdout:
        if line.startswith("Epoch [3/"):
            break
    code, line = fails(capsys, *flags, "--resume")
    assert (code, process.poll()) == (2, None)
    assert "another run is at work in checkpoints" in line
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    (line,) = err.strip().splitlines()
    assert "Ctrl-C" in line and "--resume" in line
    newest = gan_mnist.epoch_files(folder / "checkpoints", ".pth")[-1]
    assert gan_mnist.load_weights(newest)["epoch"] >= 3
    assert not [*folder.rglob("*.part"), *folder.rglob(".lock")]


def test_killed_at_5_random_moments_the_run_still_ends_as_if_undisturbed(train, folder):
    epochs = 60
    train(epochs=epochs, out="undisturbed")
    folders = ["--samples_dir", "killed/samples", "--checkpoint_dir", "killed/checkpoints"]
    flags = [*TINY_FLAGS, "--epochs", str(epochs), *folders, "--resume"]
    moments = random.Random(0)
    in_mid_run = 0
    for kill in range(5):
        process = start(*flags, cwd=folder)
        printed = ""
        for line in process.stdout:  # the first one is killed before it trains
            printed += line
            if kill == 0 or line.startswith("Epoch ["):
                break
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        code, out, err = finish(process)
        assert (code, err) == (-signal.SIGKILL, "")
        printed += out
        in_mid_run += "Epoch [" in printed and "Wrote" not in printed
    assert in_mid_run >= 3
    code, _, err = finish(start(*flags, cwd=folder))
    assert (code, err) == (0, "")
    assert_same_run(folder / "undisturbed", folder / "killed")


# ── threads ──


def threads_of_a_run(checkpoint=None, **settings):
    """-> how many threads compute during a run."""
    with gan_mnist.cpu_threads(gan_mnist.make_config(**settings), checkpoint):
        return torch.get_num_threads()


def test_a_run_takes_as_many_threads_as_there_are_idle_cores_and_leaves_pytorch_as_it_was(
    train, monkeypatch, capsys
):
    former = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for idle, expected in ((0.1, 1), (2.2, 2), (3.9, 4), (9.0, 4)):
            monkeypatch.setattr(gan_mnist, "idle_cores", lambda idle=idle: idle)
            assert threads_of_a_run() == expected
            assert ("busy" in capsys.readouterr().out) == (expected < 4)
            assert torch.get_num_threads() == 4
        assert threads_of_a_run(threads=3) == 3
        checkpoint = ("epoch_0001.pth", {"threads": 2})
        assert threads_of_a_run(checkpoint) == 2  # another number rounds differently
        assert threads_of_a_run(checkpoint, threads=3) == 3

        random_numbers = torch.get_rng_state()
        train(epochs=1, batch_size=1000, threads=3)
        assert gan_mnist.load_weights("checkpoints/epoch_0001.pth")["threads"] == 3
        assert torch.get_num_threads() == 4
        assert torch.equal(torch.get_rng_state(), random_numbers)
        assert torch.tensor(1e-40).mul(1) > 0  # such small numbers are 0 during a run
        with pytest.raises(gan_mnist.UserError):
            train(epochs=1, batch_size=1001, threads=3, overwrite=True)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(former)


needs_linux = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux")


@needs_linux
def test_a_busy_program_takes_its_core_from_the_idle_ones():
    """On one core, so that other programs cannot hide it: they make the core busy too."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            time.sleep(0.3)  # until it runs
            idle = gan_mnist.idle_cores(seconds=0.5)
            other.kill()
    finally:
        os.sched_setaffinity(0, allowed)
    assert idle < 0.3


@needs_linux
def test_idle_cores_are_those_that_the_process_may_use(monkeypatch):
    """At 100 ticks a second: in half a second core 1 was idle for 20 of 50 ticks, core 3 for 48, in
    8 of them as it waited for a disk. Core 0 was idle all the time, and is not to be used."""
    earlier = """cpu  9 9 9 400 20 9
        cpu0 1 1 1 100 5 1
        cpu1 1 1 1 100 5 1
        cpu3 1 1 1 200 10 1
        ctxt 7"""
    later = """cpu  9 9 9 510 28 9
        cpu0 1 1 1 150 5 1
        cpu1 9 1 1 120 5 1
        cpu3 1 1 1 240 18 1
        ctxt 9"""
    moments = iter([earlier, later])
    monkeypatch.setattr(Path, "read_text", lambda path: next(moments))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3})
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert gan_mnist.idle_cores(seconds=0.5) == pytest.approx((20 + 48) / 50)
