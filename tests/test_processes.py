"""Several processes: together they train what one process trains, and end together."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import EPOCH_IMAGES, ROOT, TINY_FLAGS, assert_same_run, fails, same_tensors

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


def test_a_batch_that_the_processes_cannot_share_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for batch_size in ("101", "2"):
        code, line = fails(capsys, *TINY_FLAGS, "--batch_size", batch_size)
        assert code == 2
        assert f"BATCH_SIZE (--batch_size) is {batch_size}" in line and "2 processes" in line


def until_epoch_2(process):
    for line in process.stdout:
        if line.startswith("Epoch [2/"):
            return
    pytest.fail("the run ended before its second epoch")


def test_two_processes_have_the_same_networks_and_when_one_is_killed_resume_bit_for_bit(
    train, folder
):
    """With BatchNorm, whose statistics are of one part of a batch, and with a set that has no judge
    yet: the first process trains one, and the other waits for it."""
    (folder / "digits/MNIST").rename(folder / "digits/KMNIST")
    flags = ["--dataset", "kmnist", "--metrics_every", "1000", "--epochs", "8"]
    out = run_all(folder, *flags, *outputs("at_once"))
    assert out.count(", FD ") == 1  # at the end
    first, second = (torch.load(folder / f"rank_{rank}.pth") for rank in (0, 1))
    for part in first:
        weights = [{**state[part], "_extra_state": None} for state in (first, second)]
        assert same_tensors(*weights), part

    process = start_all(folder, *flags, *outputs("killed"))
    until_epoch_2(process)
    os.kill(int((folder / "pid_1").read_text()), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / f"pid_{rank}").read_text()), 0)
    newest = gan_mnist.epoch_files(folder / "killed/checkpoints", ".pth")[-1]
    assert 2 <= gan_mnist.load_weights(newest)["epoch"] < 8

    run_all(folder, *flags, *outputs("killed"), "--resume")
    assert_same_run(folder / "at_once", folder / "killed")
    _, history = train(epochs=9, out="killed", resume=True, dataset="kmnist")  # one goes on
    assert len(history) == 9


def test_ctrl_c_ends_all_processes_with_one_line_of_the_first(folder):
    process = start_all(folder, "--epochs", "100000", *outputs("stopped"))
    until_epoch_2(process)
    for rank in (0, 1):  # as a terminal sends it to all
        os.kill(int((folder / f"pid_{rank}").read_text()), signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("Stopped by Ctrl-C") == 1


def test_an_error_of_one_process_alone_ends_all_and_is_told(folder):
    worker = WORKER.replace(
        "sys.exit", "if rank == '1': sys.argv += ['--data_dir', 'others']\nsys.exit"
    )
    shutil.copytree(folder / "digits", folder / "others")
    (folder / "others/MNIST/raw/train-labels-idx1-ubyte").write_bytes(b"")
    process = start_all(folder, worker=worker)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "others/MNIST" in line and "damaged" in line
