"""A run: the files that it writes, and what it does when something goes wrong."""

import csv
import fcntl
import math
import os
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
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_FLAGS, assert_same_run, fails, finish, start
from PIL import Image

import gan_mnist


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
    ]
    with (folder / "checkpoints/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    read = [{key: float(value) if value else None for key, value in row.items()} for row in rows]
    assert read == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    loaded = gan_mnist.load_generator("checkpoints/generator_final.pth")
    assert torch.equal(loaded.sample(4, seed=1), generator.sample(4, seed=1))
    assert loaded.about.keys() == {"dataset", "images", "checksum", "epochs", "fd"}
    assert (loaded.about["dataset"], loaded.about["images"]) == ("mnist", 1000)
    assert loaded.about["epochs"] == 5


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


def test_on_a_terminal_of_80_columns_a_bar_shows_batches_losses_speed_and_the_time_left(folder):
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    flags = [*TINY_FLAGS, "--epochs", "2", "--batch_size", "10", "--metrics_every", "1"]
    process = start(*flags, cwd=folder, stderr=screen)
    finish(process)
    shown = re.split(r"[\r\n]+", os.read(terminal, 100_000).decode())
    assert max(map(len, shown)) <= 80
    bar = r"Epoch \[1/2\]: .*\| *\d+/100, D \d\.\d\d, G \d\.\d\d, [\d,]+ img/s, 00:\d\d left"
    assert any(re.search(bar, line) for line in shown)


def test_what_a_run_prints_fits_into_80_columns_and_says_what_to_look_at_and_what_to_do_next(
    folder,
):
    command = [sys.executable, ROOT / "gan_mnist.py", "--dataset", "mnist_5k", *TINY_FLAGS]
    command += ["--epochs", "2", "--metrics_every", "2", "--batch_size", "1000"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    first = lines.index("Look at generated_samples/epoch_0001.png, and after the next epochs again")
    epoch = r"Epoch \[1/2\]: D loss \d\.\d{3}, G loss \d\.\d{3}, [\d,]+ img/s, 00:\d\d left"
    assert re.fullmatch(epoch, lines[first - 1])
    end = r"Wrote checkpoints/generator_final.pth; epochs 1 to 2 took 00:\d\d"
    assert re.fullmatch(end, lines[-3])
    assert "Each epoch sees all of them 12 times" in lines
    for name in re.findall(r"\w+\.(?:png|gif)", lines[-2]):
        assert (folder / "generated_samples" / name).exists()
    assert lines[-1] == "Next: python gan_mnist.py generate; likewise evaluate, demo"
    again = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert "continue it by --resume if" in again.stderr  # a script has flags
    more = subprocess.run([*command, "--resume"], cwd=folder, text=True, capture_output=True)
    assert "All 2 epochs were done before: raise EPOCHS for more\nWrote" in more.stdout
    assert "took" not in more.stdout
    flags = ["--resume", "--epochs", "3", "--beta1", "0.5", "--seed", "1"]
    more = subprocess.run([*command, *flags], cwd=folder, text=True, capture_output=True)
    assert "Changed: BETA1 0.0 -> 0.5 (--beta1 0.0 keeps it)" in more.stdout
    assert "; epochs 3 to 3 took " in more.stdout


def test_what_is_printed_of_an_epoch_is_saved(train, folder, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gan_mnist, "print_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(epochs=3)
    assert gan_mnist.newest_checkpoint(folder / "checkpoints").state["epoch"] == 1
    assert (folder / "samples/epoch_0001.png").exists()


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


def test_pictures_that_are_gone_at_the_end_are_drawn_again_by_resuming(train, folder, monkeypatch):
    real = folder / "samples/real_samples.png"
    save_curves = gan_mnist.save_curves

    def delete_first(*arguments):
        real.unlink()
        save_curves(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(gan_mnist, "save_curves", delete_first)
        with pytest.raises(FileNotFoundError, match=r"real_samples.png is gone: resume=True"):
            train(epochs=1)
    train(epochs=1, resume=True)
    assert real.exists() and (folder / "samples/real_and_generated.png").exists()


def test_in_a_notebook_bars_are_shown_without_a_terminal(train, capsys, monkeypatch):
    train(epochs=1)
    assert "img/s, 00:00 left" not in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    train(epochs=1, overwrite=True)
    shown = capsys.readouterr()
    assert re.search(r"Epoch \[1/1\]: .*%\|.*img/s, 00:00 left", shown.out)
    assert shown.err == ""


# ── faults ──


def test_a_loss_that_is_not_finite_stops_the_run_and_touches_nothing(
    train, folder, capsys, monkeypatch
):
    train(epochs=1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(gan_mnist, "generator_loss", lambda logits, loss: logits.sum() * math.nan)
    code, line = fails(capsys, *TINY_FLAGS, "--samples_dir", "samples", "--epochs", "2", "--resume")
    assert code == 1
    assert "not finite in epoch 2" in line and "LEARNING_RATE_G" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_discriminator_that_wins_outright_is_said(train, capsys):
    train(epochs=2, learning_rate_g=0, learning_rate_d=0.01, batch_size=20, gradient_penalty=0)
    assert "WARNING: D is right in 100.0%" in capsys.readouterr().out
    train(epochs=1, learning_rate_d=0, overwrite=True)
    assert "WARNING" not in capsys.readouterr().out


def test_a_batch_larger_than_the_epoch_is_refused(train):
    with pytest.raises(ValueError, match=r"BATCH_SIZE is 1001, D_STEPS 1: together more than"):
        train(batch_size=1001)


@pytest.mark.parametrize("setting", ["samples_dir", "checkpoint_dir"])
@pytest.mark.parametrize("value", ["file", "file/out", "x" * 300])
def test_a_folder_that_cannot_be_written_to_is_named_with_its_setting(
    folder, capsys, setting, value
):
    (folder / "file").write_text("in the way")
    code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1", f"--{setting}", value)
    assert code == 2
    assert f"{setting.upper()} (--{setting}) is '{value}', where no file can be written (" in line


@pytest.mark.parametrize("setting", ["samples_dir", "checkpoint_dir"])
def test_a_run_never_writes_into_its_own_data_folder(folder, capsys, setting):
    (folder / "in").mkdir()
    Image.new("L", (8, 8)).save(folder / "in/1.png")
    flags = ["--dataset", "in", "--image_size", "8", f"--{setting}", "in/../in/out"]
    code, line = fails(capsys, *TINY_FLAGS, *flags)
    assert code == 2
    assert f"{setting.upper()} (--{setting}) is 'in/../in/out', inside the data folder 'in'" in line
    assert [path.name for path in (folder / "in").iterdir()] == ["1.png"]


def test_a_run_that_needs_more_memory_than_there_is_ends_in_one_line_that_says_what_to_lower(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(gan_mnist.GAN, "train_step", lambda *_: torch.empty(10**15))
    code, line = fails(capsys, *TINY_FLAGS)
    assert code == 1
    assert "out of memory: lower BATCH_SIZE, G_HIDDEN, D_HIDDEN or WIDTH" in line


def test_names_that_the_terminal_cannot_show_do_no_harm(folder):
    name = os.fsdecode(
        b"pictures \xfc \xc3\xbc"
    )  # Latin-1's u umlaut, which is no UTF-8, and UTF-8's
    (folder / name).mkdir()
    for number in range(60):
        Image.new("L", (8, 8), 4 * number).save(folder / name / f"{number}.png")
    flags = [*TINY_FLAGS, "--dataset", name, "--image_size", "8", "--samples_dir", f"{name} drawn"]
    for encoding in ("ascii", "utf-8:strict"):
        extra = [] if encoding == "ascii" else ["--resume"]
        process = start(
            *flags, "--epochs", "1", *extra, cwd=folder, environment={"PYTHONIOENCODING": encoding}
        )
        code, out, err = finish(process)
        assert (code, err) == (0, "")
        assert "pictures \\udcfc" in out
    assert (folder / f"{name} drawn/training.gif").exists()


def test_a_closed_standard_error_does_no_harm(folder):
    process = start(
        *TINY_FLAGS, "--epochs", "1", cwd=folder, preexec_fn=lambda: os.close(2), stderr=None
    )
    code, out, _ = finish(process)
    assert code == 0
    assert "Wrote checkpoints/generator_final.pth" in out


def heed_ctrl_c():
    """Undo that all which a shell script starts in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_while_pytorch_is_imported_is_one_line(folder):
    command = [sys.executable, str(ROOT / "gan_mnist.py"), "--data_dir", "digits"]
    process = subprocess.Popen(
        command, cwd=folder, text=True, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c
    )
    maps = Path(f"/proc/{process.pid}/maps")
    for _ in range(1000):  # until the first part of PyTorch is there, on Linux
        time.sleep(0.01)
        if maps.exists() and "libtorch" in maps.read_text():
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Stopped by Ctrl-C\n")
    assert not (folder / "checkpoints").exists()


def test_ctrl_c_in_mid_epoch_says_what_is_saved_and_how_to_go_on(folder):
    flags = [*TINY_FLAGS, "--epochs", "100000"]
    process = start(*flags, cwd=folder, preexec_fn=heed_ctrl_c)
    for line in process.stdout:
        if line.startswith("Epoch [3/"):
            break
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, err) == (130, "Stopped by Ctrl-C\n")
    newest = gan_mnist.epoch_files(folder / "checkpoints", ".pth")[-1]
    assert f"resume=True continues from checkpoints/{newest.name}" in out  # it was imported
    assert not list(folder.rglob("*.part"))


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_while_saving_is_one_clear_line_and_earlier_checkpoints_stay_whole(
    train, folder
):
    train(epochs=1, samples_dir="generated_samples")
    whole = (folder / "checkpoints/epoch_0001.pth").read_bytes()
    assert len(whole) > 200_000
    process = start(
        *TINY_FLAGS,
        *("--epochs", "2", "--resume"),
        cwd=folder,
        preexec_fn=limit_file_size,
        environment={"PYTHONDONTWRITEBYTECODE": "1"},  # which would be cut off, too
    )
    code, _, err = finish(process)
    assert code == 1
    assert err.count("\n") == 1
    assert "cannot write checkpoints/epoch_0002.pth (File too large)" in err
    assert (folder / "checkpoints/epoch_0001.pth").read_bytes() == whole
    assert not (folder / "checkpoints/epoch_0002.pth").exists()
    assert not list(folder.rglob("*.part"))
    train(epochs=2, samples_dir="generated_samples", resume=True)


def test_killed_at_20_random_moments_the_run_still_ends_as_if_undisturbed(train, folder):
    epochs = 200
    train(epochs=epochs, out="undisturbed")
    folders = ["--samples_dir", "killed/samples", "--checkpoint_dir", "killed/checkpoints"]
    flags = [*TINY_FLAGS, "--epochs", str(epochs), *folders, "--resume"]
    moments = random.Random(0)
    in_mid_run = 0
    for kill in range(20):
        process = start(*flags, cwd=folder)
        printed = ""
        for line in process.stdout:  # one in five is killed before it trains
            printed += line
            if kill % 5 == 0 or line.startswith("Epoch ["):
                break
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        code, out, err = finish(process)
        assert (code, err) == (-signal.SIGKILL, "")
        printed += out
        in_mid_run += "Epoch [" in printed and "Wrote" not in printed
    assert in_mid_run >= 12
    code, _, err = finish(start(*flags, cwd=folder))
    assert (code, err) == (0, "")
    assert_same_run(folder / "undisturbed", folder / "killed")


def test_threads_sets_how_many_threads_compute(train):
    former = torch.get_num_threads()
    try:
        train(epochs=1, threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(former)


def test_a_busy_core_is_noticed():
    assert 0 <= gan_mnist.busy_cores() <= os.cpu_count() + 0.1
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.3)  # until it runs
        busy = gan_mnist.busy_cores(seconds=0.5)
        other.kill()
    assert busy > 0.5
