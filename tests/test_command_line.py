"""What a person at a terminal sees of every script: refusals, help, Ctrl-C, and runs of
the scripts alone in a folder. What their options make is in test_classifiers.py and
test_comparisons.py."""

import contextlib
import importlib
import os
import re
import select
import signal
import sys

import keras
import matplotlib.pyplot as plt
import pytest
from conftest import (
    CLASSIFIERS,
    COMPARISONS,
    assert_is_picture,
    random_losses,
    read_losses,
    train_nothing,
)

from sequence import position_baseline

# Options, and what a message must say, in this order.
REFUSALS = {
    "--timesteps 0": "--timesteps.* at least 1",
    "--seed -1": "--seed.* 0",
    "--threshold half": "--threshold.*'half'.*length.*total",
}
OF_TRAININGS = {
    "--units -20": "--units.* at least 1",
    "--epochs 0": "--epochs.* at least 1",
    "--learning-rate 0": "--learning-rate.* above 0",
    "--learning-rate inf": "--learning-rate.* finite",
    "--learning-rate nan": "--learning-rate.* finite",
    "--plot missing/a.png": "cannot write missing/a.png",
    "--plot mine.csv/a.png": "cannot write mine.csv/a.png",
    "--plot folder.png": "cannot write folder.png",
    "--plot locked/a.png": "cannot write locked/a.png",
    "--plot a.xyz": "a.xyz must end in.* svg",
}
OF_CLASSIFIERS = {
    f"--seed {2**32}": "--seed must be from 0",
    "--verbose 2": "--verbose.* 0, 1",
    "--save model.h5": "model.h5 must end in.* keras",
    "--save folder.keras": "cannot write folder.keras",
}
OF_COMPARISONS = {
    "--repeats 0": "--repeats.* at least 1",
    "--csv locked/a.csv": "cannot write locked/a.csv",
    "--csv mine.py": "mine.py must end in.* csv",
    "--csv mine.csv --plot mine.png --units 0": "--units",
}
EVERY = pytest.mark.parametrize("name", ["sequence", *CLASSIFIERS, *COMPARISONS])


@EVERY
def test_what_would_fail_later_is_refused_at_once(name, in_tmp, capsys, monkeypatch):
    """In one line. Files that are there stay as they are, and no others are made."""
    script, refusals, access = importlib.import_module(name), REFUSALS, os.access
    if name != "sequence":
        refusals = refusals | OF_TRAININGS
        refusals |= OF_CLASSIFIERS if name in CLASSIFIERS else OF_COMPARISONS
    # Root may write in a folder without permission, so it is told otherwise.
    monkeypatch.setattr(os, "access", lambda p, m: str(p) != "locked" and access(p, m))
    for folder in ("folder.png", "folder.keras", "folder.csv", "locked"):
        (in_tmp / folder).mkdir()
    files = [in_tmp / file for file in ("mine.py", "mine.csv", "mine.png")]
    for file in files:
        file.write_bytes(b"mine")
    before = sorted(in_tmp.iterdir())
    for args, words in refusals.items():
        with pytest.raises(SystemExit) as stopped:
            script.main(args.split())
        printed = capsys.readouterr()
        usage, error = printed.err.rstrip("\n").split(": error: ")
        assert stopped.value.code == 2 and printed.out == ""
        assert usage.startswith("usage: ") and "\n" not in error
        assert re.search(words, error), error
    assert sorted(in_tmp.iterdir()) == before
    assert all(file.read_bytes() == b"mine" for file in files)


@EVERY
def test_help_shows_the_docstring(name, capsys):
    script = importlib.import_module(name)
    with pytest.raises(SystemExit) as stopped:
        script.main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert script.__doc__.strip() in printed and f"python {name}.py --" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert printed.isascii()


def press_on_terminal(pattern, start, *args, **env):
    """Starts a script on a terminal, presses Ctrl-C once it has printed a pattern, and
    gives what it printed to its end, and its folder."""
    terminal, end = os.openpty()
    # In the background of a shell, pytest ignores Ctrl-C; the script shall not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(*args, stdout=end, **env)
    signal.signal(signal.SIGINT, before)
    os.close(end)
    printed, pressed = "", False
    with contextlib.suppress(OSError):  # what Linux says when the other side closes
        while select.select([terminal], [], [], 180)[0]:
            printed += os.read(terminal, 4096).decode("ascii")
            if not pressed and re.search(pattern, printed):
                process.send_signal(signal.SIGINT)
                pressed = True
    os.close(terminal)
    stderr = process.communicate(timeout=180)[1]
    assert process.returncode == 130 and "Traceback" not in stderr
    return printed.replace("\r\n", "\n"), process.folder


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_on_a_terminal_ends_a_classifier_with_its_report(start, tmp_path):
    args = [tmp_path, "lstm_classify", "--epochs", 2000, "--save", "model.keras"]
    printed, folder = press_on_terminal(r"epoch 200: loss 0\.\d{3}", start, *args)
    lines, report = printed.replace(",", "").split("\nOf 1000 new sequences")
    [n] = map(int, re.findall(r"rate 0.001 (\d+) epochs\n", report))
    assert 200 <= n < 1800 and len(lines.splitlines()) == n // 200
    assert "Expected: [" in report and "position baseline" in report
    assert report.splitlines()[-1] == "Figure saved as lstm_classify.png"
    assert_is_picture(folder / "lstm_classify.png")
    model = keras.saving.load_model(folder / "model.keras")
    assert model.output_shape == (None, 10, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_on_a_terminal_ends_a_comparison_with_its_report(start, tmp_path):
    """Somebody has set another backend of Keras, float64, and one of Matplotlib."""
    (tmp_path / "keras.json").write_text('{"floatx": "float64", "backend": "jax"}')
    env = {"KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path), "MPLBACKEND": "svg"}
    args = [tmp_path, "compare_directions", "--csv", "losses.csv", "--no-jit"]
    args += ["--epochs", 20, "--repeats", 500]
    printed, folder = press_on_terminal(r" [3-9]/500", start, *args, **env)
    losses = read_losses(folder)
    n = len(losses) // 20
    rows = [(seed, epoch) for seed in range(1, n + 1) for epoch in range(1, 21)]
    assert losses.index.tolist() == rows and 3 <= n < 400
    assert losses.stack().between(0, 2).all() and losses.loc[1].iloc[-1].max() < 0.8
    assert f"learning rate 0.001, repeats: {n}\n" in printed
    assert_is_picture(folder / "compare_directions.png")


@pytest.mark.parametrize("press_in", [3, 5])
def test_ctrl_c_is_the_scripts_in_the_training_alone(
    press_in, script, in_tmp, monkeypatch, capsys
):
    """The report, and a notebook after `%run`, have the handler that was there before.
    The last of the epochs or repeats is part of the training."""
    seen = []

    def train_repeats(builders, get_data, seeds, jit):
        for seed in seeds:
            if seed == press_in:
                signal.raise_signal(signal.SIGINT)
            yield random_losses(builders, [seed], 20), {}

    train_nothing(monkeypatch, press_in)
    monkeypatch.setattr(script, "train_repeats", train_repeats, raising=False)
    show = lambda: seen.append(signal.getsignal(signal.SIGINT))
    monkeypatch.setattr(plt, "show", show)
    option = "--epochs" if script.__name__ in CLASSIFIERS else "--repeats"
    before = signal.signal(signal.SIGINT, stop := lambda *_: pytest.fail("Ctrl-C"))
    try:
        assert script.main([option, "5"]) == 130
        plt.show()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [stop, stop]
    ended = f", ({press_in} epochs|repeats: {press_in})\n"
    assert re.search(ended, capsys.readouterr().out)
    assert_is_picture(in_tmp / f"{script.__name__}.png")


def test_an_error_in_the_training_leaves_ctrl_c_as_it_was(script, in_tmp, monkeypatch):
    """Its handler is looked at after each test. Here the training cannot be called."""
    monkeypatch.setattr(keras.Sequential, "fit", None)
    monkeypatch.setattr(script, "train_repeats", None, raising=False)
    with pytest.raises(TypeError, match="not callable"):
        script.main([])
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_without_a_display_beats_the_position_baseline(name, default_run):
    run, row = default_run(name), "BiLSTM" if name == "bilstm_classify" else "LSTM"
    assert "non-interactive" not in run.stderr
    [scores] = re.findall(rf"\n{row} +(\S+) +(\S+)\n", run.stdout)
    assert position_baseline(10)[0] < 0.9 < float(scores[0]) < 1
    assert float(scores[1]) < position_baseline(10)[1]
    assert len(re.findall(r"\nepoch [\d,]+: loss", "\n" + run.stdout)) == 10
    assert_is_picture(run.folder / f"{name}.png")
    made = {path.name for path in run.folder.iterdir()} - {"__pycache__"}
    assert made == {"sequence.py", f"{name}.py", f"{name}.png"}
