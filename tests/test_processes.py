"""Several processes: together they train what one process trains, and end together."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import EPOCH_IMAGES, ROOT, TINY_FLAGS, assert_same_run, same_tensors

import gan_mnist

WORKER = f"""
import os
import sys
from pathlib import Path

import torch

import gan_mnist

gan_mnist.EPOCH_IMAGES = {EPOCH_IMAGES}
rank = os.environ["RANK"]
Path(f"pid_{{rank}}").write_text(str(os.getpid()))
train_epoch = gan_mnist.GAN.train_epoch


def note_networks(gan, loader):
    row = train_epoch(gan, loader)
    networks = {{"G": gan.G, "D": gan.D, "G_ema": gan.G_ema}}
    torch.save({{name: net.state_dict() for name, net in networks.items()}}, f"rank_{{rank}}.pth")
    return row


gan_mnist.GAN.train_epoch = note_networks
sys.exit(gan_mnist.main())
"""
PLAIN = ["--g_norm", "none", "--precision", "fp32"]  # no BatchNorm, which sees one part of a batch


def start_all(folder, *flags, count=2, worker=WORKER):
    """Start the script by torchrun, in `count` processes that talk by gloo."""
    (folder / "worker.py").write_text(worker)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={count}", "worker.py", *TINY_FLAGS, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


def run_all(folder, *flags, count=2):
    """-> standard output of a run that has to succeed."""
    process = start_all(folder, *flags, count=count)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def outputs(name):
    return ["--samples_dir", f"{name}/samples", "--checkpoint_dir", f"{name}/checkpoints"]


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_two_processes_train_what_one_trains_within_rounding(train, folder):
    flags = [*PLAIN, "--epochs", "1", "--d_steps", "2", "--modes", "0"]
    out = run_all(folder, *flags, *outputs("two"))
    assert "2 processes, 50 images each in a step" in out
    assert out.count("Epoch [1/1]") == 1  # of process 0 alone
    settings = {"g_norm": "none", "precision": "fp32", "d_steps": 2, "modes": 0}
    train(epochs=1, out="one", **settings)
    states = [
        gan_mnist.load_weights(folder / f"{run}/checkpoints/epoch_0001.pth")
        for run in ("one", "two")
    ]
    for part in ("G", "D", "G_ema"):
        for name, one in states[0][part].items():
            if name != "_extra_state":
                assert torch.allclose(one, states[1][part][name], atol=2e-4), (part, name)
    one, two = (state["history"][0] for state in states)
    for column in ("d_loss", "g_loss", "d_accuracy"):
        assert two[column] == pytest.approx(one[column], rel=1e-3)


def test_all_processes_have_the_same_networks_after_an_epoch(folder):
    run_all(folder, "--epochs", "2", *outputs("two"))  # with BatchNorm
    first, second = (torch.load(folder / f"rank_{rank}.pth") for rank in (0, 1))
    for part in first:
        weights = [{**state[part], "_extra_state": None} for state in (first, second)]
        assert same_tensors(*weights), part


def test_two_processes_resume_bit_for_bit_and_one_goes_on_from_them(train, folder, capsys):
    run_all(folder, "--epochs", "3", *outputs("at_once"))
    run_all(folder, "--epochs", "1", *outputs("resumed"))
    run_all(folder, "--epochs", "3", "--resume", *outputs("resumed"))
    assert_same_run(folder / "at_once", folder / "resumed")
    train(epochs=4, out="resumed", resume=True)
    assert "Changed: processes 2 -> 1" in capsys.readouterr().out


def test_a_wrong_setting_is_one_line_for_all_processes(folder):
    for flags, words in (
        (["--batch_size", "101"], "must be a multiple of the 2 processes"),
        (["--batch_size", "2"], "with at least 2 images for each"),
        (["--epochs", "0"], "EPOCHS (--epochs) is '0'"),
    ):
        process = start_all(folder, *flags)
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        (line,) = errors(err)
        assert words in line


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_within_a_minute_and_its_checkpoint_is_whole(folder, rank):
    process = start_all(folder, "--epochs", "100000", *outputs("killed"))
    for line in process.stdout:
        if line.startswith("Epoch [2/"):
            break
    os.kill(int((folder / f"pid_{rank}").read_text()), signal.SIGKILL)
    start = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 60
    assert process.returncode != 0
    assert len(errors(err)) <= 1
    for other in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / f"pid_{other}").read_text()), 0)
    newest = gan_mnist.newest_checkpoint(folder / "killed/checkpoints")
    assert newest.state["epoch"] >= 1


def test_ctrl_c_ends_all_processes_with_one_line(folder):
    process = start_all(folder, "--epochs", "100000", *outputs("stopped"))
    for line in process.stdout:
        if line.startswith("Epoch [2/"):
            break
    for rank in (0, 1):  # as a terminal sends it to all
        os.kill(int((folder / f"pid_{rank}").read_text()), signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("Stopped by Ctrl-C") == 1
    assert out.count("resume=True continues from stopped/checkpoints/epoch_") == 1


def test_a_set_without_a_judge_is_no_deadlock(folder):
    (folder / "digits/MNIST").rename(folder / "digits/KMNIST")
    out = run_all(folder, "--dataset", "kmnist", "--metrics_every", "1", "--epochs", "1")
    assert ", FD " in out


def test_processes_with_other_data_or_without_the_checkpoint_are_told_apart(folder):
    worker = WORKER.replace(
        "sys.exit", "if rank == '1': sys.argv += ['--data_dir', 'others']\nsys.exit"
    )
    shutil.copytree(folder / "digits", folder / "others")
    path = folder / "others/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    process = start_all(folder, worker=worker)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = errors(err)
    assert "the processes differ in their data or checkpoints" in line


def test_an_error_of_one_process_alone_is_the_one_that_is_told(folder):
    worker = WORKER.replace(
        "sys.exit", "if rank == '1': sys.argv += ['--data_dir', 'others']\nsys.exit"
    )
    shutil.copytree(folder / "digits", folder / "others")
    (folder / "others/MNIST/raw/train-labels-idx1-ubyte").write_bytes(b"")
    process = start_all(folder, worker=worker)
    _, err = process.communicate(timeout=120)
    (line,) = errors(err)
    assert "a file of mnist in others is damaged" in line
