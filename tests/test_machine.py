"""Machines and notebooks as they are: what is left over, held open, shared or gone does no harm."""

import os
import pty
import random

import numpy as np
import pytest
import torch
from conftest import TINY_FLAGS, finish, start

import gan_mnist


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": ""},
        {"RANK": "1"},
        {"WORLD_SIZE": "4", "RANK": "2"},  # of a cluster, without MASTER_ADDR
    ],
)
def test_left_over_variables_of_torchrun_are_ignored(train, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert gan_mnist.process_rank() == (0, 1)
    _, history = train(epochs=1)
    assert len(history) == 1


def test_a_run_started_by_a_notebook_of_another_environment_draws_its_pictures(folder):
    """Jupyter and Colab set MPLBACKEND to a module that this environment may not have."""
    inherited = {"MPLBACKEND": "module://not_installed_here"}
    code, _, err = finish(start(*TINY_FLAGS, "--epochs", "1", cwd=folder, environment=inherited))
    assert (code, err) == (0, "")
    assert (folder / "generated_samples/loss_curves.png").exists()


def test_the_commands_need_no_docstrings(monkeypatch):
    """As by python -OO, which leaves them out."""
    monkeypatch.setattr(gan_mnist, "__doc__", None)
    for command, function in gan_mnist.COMMANDS.items():
        monkeypatch.setattr(function, "__doc__", None)
        parser = gan_mnist.build_parser(command)
        assert vars(parser.parse_args([])) == {}
        assert "--seed" in parser.format_help() or command == "demo"


def test_head_ends_a_run_with_a_word_and_its_epochs_are_kept(folder):
    process = start(*TINY_FLAGS, "--epochs", "100000", cwd=folder)
    while not process.stdout.readline().startswith("Epoch [2/"):
        pass
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert err.count("\n") == 1 and "--resume" in err
    assert gan_mnist.load_weights(gan_mnist.epoch_files("checkpoints", ".pth")[-1])["epoch"] >= 2


def test_a_terminal_that_is_gone_ends_a_run_and_its_epochs_are_kept(folder):
    terminal, screen = pty.openpty()
    process = start(*TINY_FLAGS, "--epochs", "100000", cwd=folder, stdout=screen, stderr=screen)
    os.close(screen)
    while not gan_mnist.epoch_files("checkpoints", ".pth"):
        os.read(terminal, 10_000)  # what it prints
    os.close(terminal)
    assert process.wait(timeout=60) == 1
    assert gan_mnist.load_weights(gan_mnist.epoch_files("checkpoints", ".pth")[-1])["epoch"] >= 1


def test_of_two_runs_in_the_same_new_folder_the_second_ends(train, folder):
    first = start(*TINY_FLAGS, "--epochs", "100000", cwd=folder)
    while not first.stdout.readline().startswith("Training on"):
        pass
    code, _, err = finish(start(*TINY_FLAGS, "--epochs", "1", "--overwrite", cwd=folder))
    first.kill()
    finish(first)
    assert code == 2
    assert "another run is at work in checkpoints" in err
    train(epochs=1, checkpoint_dir="checkpoints", overwrite=True)  # the killed one is in no way
    assert not (folder / "checkpoints/.lock").exists()


def test_an_epoch_is_kept_while_somebody_else_holds_a_table_or_picture_open(
    train, folder, capsys, monkeypatch
):
    """As on Windows, where history.csv cannot be replaced while Excel shows it."""
    replace = os.replace
    held = ("history.csv", "epoch_0002.png", "training.gif")

    def refuse(source, target):
        if target.name in held:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        _, history = train(epochs=2)
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if "WARNING: cannot write" in line]
    assert len(warnings) == 4 and "history.csv" in warnings[0]  # once each epoch, and two pictures
    assert len(history) == 2
    assert not (folder / "checkpoints/history.csv").exists()
    train(epochs=3, resume=True)
    assert (folder / "checkpoints/history.csv").read_text().count("\n") == 4


def test_a_run_leaves_random_numbers_and_threads_as_they_were(train):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    threads = torch.get_num_threads()
    train(epochs=1, threads=3, metrics_every=1)
    gan_mnist.fit_judge(torch.zeros(200, 1, 28, 28, dtype=torch.uint8), torch.arange(200) % 2, 1)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]
    assert torch.get_num_threads() == threads
    small = torch.tensor(1e-40)
    assert small.mul(1) == small  # tiny numbers are not set to 0


def test_a_judge_is_kept_with_the_run_where_the_data_folder_is_read_only(
    train, folder, monkeypatch, capsys
):
    (folder / "digits/MNIST").rename(folder / "digits/KMNIST")
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "digits" not in str(path) and access(path, mode)
    )
    _, history = train(epochs=1, dataset="kmnist", metrics_every=1)
    assert history[0]["fd"] > 0
    assert (folder / "checkpoints/judge_kmnist.pth").exists()
    assert not (folder / "digits/judge_kmnist.pth").exists()
    capsys.readouterr()
    train(epochs=2, dataset="kmnist", metrics_every=1, resume=True)
    assert "Training a judge" not in capsys.readouterr().out
