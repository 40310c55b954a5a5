"""A run: the files that it writes, and what it does when something goes wrong."""

IMPORTS


def test_every_epoch_writes_a_grid_a_row_and_a_checkpoint_and_the_end_the_rest(train, folder):
    generator, history = train(epochs=5, keep_checkpoints=2)
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        *(f"epoch_{n:04d}.png" for n in range(1, 6)),
        "loss_curves.png",
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
    assert loaded.about["data"].startswith("mnist, 1000 images")
    assert loaded.about["epochs"] == 5


def test_grids_are_the_averaged_generators_from_the_same_z_and_real_samples_are_real(
    train, folder, digits
):
    generator, _ = train(epochs=2, seed=3)
    for epoch in (1, 2):
        checkpoint = gan_mnist.load_weights(f"checkpoints/epoch_000{epoch}.pth")
        generator.load_state_dict(checkpoint["G_ema"])
        gan_mnist.save_grid(folder / "expected.png", generator.sample(9, seed=3))
        drawn = (folder / f"samples/epoch_000{epoch}.png").read_bytes()
        assert drawn == (folder / "expected.png").read_bytes()
    with Image.open(folder / "samples/real_samples.png") as picture:
        pixels = torch.tensor(np.array(picture))
    tiles = pixels[2:].unfold(0, 28, 30)[:, 2:].unfold(1, 28, 30).reshape(9, 28, 28)
    known = {image.numpy().tobytes() for image in digits[0]}
    assert len({tile.numpy().tobytes() for tile in tiles} & known) == 9


def test_on_a_terminal_a_bar_shows_batches_speed_and_both_losses(folder):
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = start(*TINY_FLAGS, "--epochs", "1", "--batch_size", "10", cwd=folder, stderr=screen)
    finish(process)
    shown = os.read(terminal, 100_000).decode()
    assert re.search(r"Epoch \[1/1\].* \d+/100 .*d_loss \d\.\d+, g_loss \d\.\d+, [\d,]+/s", shown)





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
    with pytest.raises(ValueError, match=r"BATCH_SIZE is 1001, D_STEPS 1: more than"):
        train(batch_size=1001)


@pytest.mark.parametrize("flag", ["--samples_dir", "--checkpoint_dir"])
def test_a_folder_that_cannot_be_written_to_is_named(folder, capsys, flag):
    (folder / "file").write_text("in the way")
    code, line = fails(capsys, *TINY_FLAGS, "--epochs", "1", flag, "file/out")
    assert code == 1
    assert "file/out" in line


def test_ctrl_c_in_mid_epoch_says_what_is_saved_and_how_to_go_on(folder):
    def heed_ctrl_c():  # which is ignored by all that a shell script starts in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    flags = [*TINY_FLAGS, "--epochs", "100000"]
    process = start(*flags, cwd=folder, preexec_fn=heed_ctrl_c)
    for line in process.stdout:
        if line.startswith("Epoch [3/"):
            break
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, err) == (130, "")
    newest = gan_mnist.numbered(folder / "checkpoints", ".pth")[-1]
    assert f"Saved: checkpoints/{newest.name}; go on by --resume" in out
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
        *TINY_FLAGS, "--epochs", "2", "--resume", cwd=folder, preexec_fn=limit_file_size
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
    epochs = 60
    train(epochs=epochs, out="undisturbed")
    flags = [
        *TINY_FLAGS,
        "--epochs",
        str(epochs),
        "--samples_dir",
        "killed/samples",
        "--checkpoint_dir",
        "killed/checkpoints",
        "--resume",
    ]
    moments = random.Random(0)
    for _ in range(20):
        process = start(*flags, cwd=folder)
        for line in process.stdout:  # some are killed before training starts, most within an epoch
            if line.startswith("Training") or moments.random() < 0.05:
                break
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        code, _, err = finish(process)
        assert (code, err) in ((-signal.SIGKILL, ""), (0, ""))
    code, _, err = finish(start(*flags, cwd=folder))
    assert (code, err) == (0, "")
    assert_same_run(folder / "undisturbed", folder / "killed")
