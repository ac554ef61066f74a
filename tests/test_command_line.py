"""What a person at a terminal sees: of all four scripts, each of them alone."""

import contextlib
import importlib
import os
import re
import runpy
import signal
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT, STARTED, assert_is_picture

from sequence import position_baseline

EXPECTED = {
    "lstm_classify": ["Expected: [", "LSTM ", "10 timesteps", "1,000 epochs"],
    "bilstm_classify": ["Epoch 5/5", "Expected: [", "BiLSTM ", "position baseline"],
    "compare_merge_modes": ["bilstm_sum ", "bilstm_mul ", "bilstm_con ", "repeats: 2"],
}


def without_durations(printed):
    """The lines without those of Keras that tell how long something took."""
    return [line for line in printed.splitlines() if "s/" not in line]


REFUSALS = [
    (["--timesteps", "0"], ["--timesteps", "at least 1"]),
    (["--units", "-20"], ["--units", "at least 1"]),
    (["--epochs", "2.5"], ["--epochs", "'2.5'"]),
    (["--epochs", "many"], ["--epochs", "'many'"]),
    (["--seed", "-1"], ["--seed", "0"]),
    (["--learning-rate", "0"], ["--learning-rate", "above 0"]),
    (["--learning-rate", "-0.1"], ["--learning-rate", "above 0"]),
    (["--learning-rate", "inf"], ["--learning-rate", "finite"]),
    (["--learning-rate", "nan"], ["--learning-rate", "finite"]),
    (["--learning-rate", "fast"], ["--learning-rate", "'fast'"]),
    (["--threshold", "half"], ["--threshold", "'half'", "length", "total"]),
    (["--plot", "missing/a.png"], ["missing/a.png"]),
    (["--plot", "file/a.png"], ["file/a.png"]),
    (["--plot", "folder.png"], ["folder.png"]),
    (["--plot", "a.xyz"], ["--plot", "svg"]),
    (["--plot", "a"], ["--plot", "svg"]),
]
OF_CLASSIFIERS = [
    (["--seed", str(2**32)], ["--seed", "from 0"]),
    (["--verbose", "3"], ["--verbose", "0", "1", "2", "3"]),
    (["--verbose", "loud"], ["--verbose", "'loud'"]),
    (["--save", "model.h5"], ["--save", ".keras"]),
    (["--save", "missing/model.keras"], ["missing/model.keras"]),
    (["--save", "folder.keras"], ["folder.keras"]),
]
OF_COMPARISONS = [
    (["--repeats", "0"], ["--repeats", "at least 1"]),
    (["--csv", "missing/a.csv"], ["missing/a.csv"]),
    (["--csv", "folder.png"], ["folder.png"]),
]


def assert_refused(main, args, words, folder, capsys):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main(args)
    printed = capsys.readouterr()
    usage, error = printed.err.rstrip("\n").split(": error: ")
    assert stopped.value.code == 2
    assert usage.startswith("usage: ") and "\n" not in error
    assert all(word in error for word in words), error
    assert printed.out == ""
    assert sorted(path.name for path in folder.iterdir()) == before


def test_refusals(script, in_tmp, capsys):
    (in_tmp / "folder.png").mkdir()
    (in_tmp / "folder.keras").mkdir()
    (in_tmp / "file").touch()
    own = OF_CLASSIFIERS if script.__name__ in CLASSIFIERS else OF_COMPARISONS
    for args, words in REFUSALS + own:
        assert_refused(script.main, args, words, in_tmp, capsys)


def test_default_file_name_is_checked(script, in_tmp, capsys):
    (in_tmp / f"{script.__name__}.png").mkdir()
    assert_refused(script.main, [], [f"{script.__name__}.png"], in_tmp, capsys)


def test_what_cannot_be_written_is_refused(script, in_tmp, capsys, monkeypatch):
    folder = in_tmp / "read only"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: path != folder)
    other = "--save" if script.__name__ in CLASSIFIERS else "--csv"
    ending = {"--save": "keras", "--csv": "csv"}[other]
    for option, path in [
        ("--plot", f"{folder}/a.png"),
        (other, f"{folder}/a.{ending}"),
    ]:
        assert_refused(script.main, [option, path], [path], in_tmp, capsys)


def test_refusal_keeps_the_files_that_were_there(in_tmp, capsys):
    for name in ("old.png", "old.csv"):
        (in_tmp / name).write_bytes(b"mine")
    args = ["--plot", "old.png", "--csv", "old.csv", "--plot", "missing/old.png"]
    main = importlib.import_module("compare_merge_modes").main
    assert_refused(main, args, ["missing"], in_tmp, capsys)
    assert (in_tmp / "old.png").read_bytes() == b"mine"
    assert (in_tmp / "old.csv").read_bytes() == b"mine"


def test_help_opens_with_the_docstring(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    description = printed.split("\n\n")[1]
    assert description == script.__doc__.split("\n\n")[0]
    assert f"python {script.__name__}.py --" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80


def wait_for(process, text):
    """Reads the output line by line until the text comes."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text} did not come: {process.communicate()[1]}")


def test_ctrl_c_reports_what_was_trained(start):
    process = start("lstm_classify", "--epochs", 100_000)
    wait_for(process, "Epoch 30/")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Expected: [" in stdout and "position baseline" in stdout
    assert stdout.splitlines()[-1] == "Figure saved as lstm_classify.png"
    assert_is_picture(process.folder / "lstm_classify.png")


def test_ctrl_c_twice_in_a_classifier_still_reports(in_tmp, monkeypatch, capsys):
    fit = keras.Sequential.fit

    class PressTwice(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 2:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    def fit_and_press(*args, **kwargs):
        return fit(*args, **kwargs, callbacks=[PressTwice()])

    monkeypatch.setattr(keras.Sequential, "fit", fit_and_press)
    script = importlib.import_module("bilstm_classify")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert script.main(["--verbose", "0"]) == 130
    assert signal.signal(signal.SIGINT, before) == signal.default_int_handler
    assert ", 3 epochs\n" in capsys.readouterr().out
    assert_is_picture(in_tmp / "bilstm_classify.png")


def test_handler_of_ctrl_c_is_put_back_after_an_error(script, in_tmp, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a failure")

    monkeypatch.setattr(keras.Sequential, "fit", fail)
    monkeypatch.setattr(script, "train_repeats", fail, raising=False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="a failure"):
        script.main([])
    assert signal.getsignal(signal.SIGINT) == before and list(in_tmp.iterdir()) == []


def test_ctrl_c_before_the_first_repeat_says_so_in_a_line(in_tmp, monkeypatch, capsys):
    def press(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        yield

    script = importlib.import_module("compare_merge_modes")
    monkeypatch.setattr(script, "train_repeats", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert script.main([]) == 130
    signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr()
    assert printed.err == "\nCtrl-C: 0 repeats are done\n" and printed.out == ""
    assert list(in_tmp.iterdir()) == []


def get_seeds(path):
    """The seeds of the CSV, each of which must be complete."""
    losses = pd.read_csv(path, index_col=["seed", "epoch"])
    assert losses.shape[1] == 3 and losses.stack().between(0, 2).all()
    assert (losses.groupby("seed").size() == 20).all()
    return list(losses.index.unique("seed"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_reports_the_repeats_that_have_ended(start):
    terminal, end = os.openpty()
    args = ["--epochs", 20, "--repeats", 500, "--csv", "losses.csv", "--no-jit"]
    process = start("compare_directions", *args, stdout=end)
    os.close(end)
    printed = b""
    while b" 3/500" not in printed:
        printed += os.read(terminal, 4096)
    # What a kill would leave; a later repeat may be cut off.
    lines = (process.folder / "losses.csv").read_text().splitlines(keepends=True)
    (process.folder / "killed.csv").write_text("".join(lines[: 1 + 3 * 20]))
    assert get_seeds(process.folder / "killed.csv") == [1, 2, 3]
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # what Linux says when the other side closes
        while chunk := os.read(terminal, 4096):
            printed += chunk
    os.close(terminal)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    seeds = get_seeds(process.folder / "losses.csv")
    assert f"\nCtrl-C: {len(seeds)} repeats are done\n" in stderr
    assert seeds == list(range(1, len(seeds) + 1)) and 3 <= len(seeds) < 400
    assert f"learning rate 0.001, repeats: {len(seeds)}\r" in printed.decode()
    assert all(name in printed.decode() for name in ("lstm_back ", "bilstm_con "))
    assert_is_picture(process.folder / "compare_directions.png")
    files = {"sequence.py", "compare_directions.py", "compare_directions.png"}
    made = {path.name for path in process.folder.iterdir()} - {"__pycache__"}
    assert made == files | {"losses.csv", "killed.csv"}


@pytest.mark.parametrize("name", COMPARISONS)
def test_ctrl_c_is_not_lost_where_an_exception_would_be(
    name, in_tmp, monkeypatch, capsys
):
    """TensorFlow's `dtype.max`, which a layer asks for as it is built, has such a place."""

    def press_in_the_third(builders, get_data, seeds, jit):
        for seed in seeds:
            with contextlib.suppress(BaseException):
                if seed == 3:
                    signal.raise_signal(signal.SIGINT)
            index = pd.MultiIndex.from_tuples([(seed, 1)], names=["seed", "epoch"])
            yield pd.DataFrame(0.5, index, list(builders)), {}

    script = importlib.import_module(name)
    monkeypatch.setattr(script, "train_repeats", press_in_the_third)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert script.main(["--repeats", "50"]) == 130
    signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr()
    assert printed.err in [f"\nCtrl-C: {n} repeats are done\n" for n in (2, 3)]
    assert ", repeats: 2\n" in printed.out or ", repeats: 3\n" in printed.out
    assert_is_picture(in_tmp / f"{name}.png")


@pytest.mark.parametrize("name", ["sequence", "lstm_classify"])
def test_ctrl_c_works_after_a_run(name, in_tmp, capsys, monkeypatch):
    """As in `%run` of a notebook, whose kernel goes on with what a script has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    args = ["--epochs", "5", "--verbose", "0"] if name == "lstm_classify" else []
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *args])
    try:
        runpy.run_path(ROOT / f"{name}.py", run_name="__main__")
    except SystemExit as stopped:
        assert stopped.code == 0
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_backend_that_does_not_exist_is_named(start):
    process = start("lstm_classify", env={"KERAS_BACKEND": "nonsense"})
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "nonsense" in stderr.splitlines()[-1]


@pytest.mark.parametrize("name", list(STARTED))
def test_standalone_without_a_display(name, ended):
    stdout, stderr = ended[name].printed
    assert ended[name].returncode == 0, stderr
    assert all(text in stdout for text in EXPECTED[name])
    assert stdout.splitlines()[-1] == f"Figure saved as {name}.png"
    folder = ended[name].folder
    assert_is_picture(folder / f"{name}.png")
    made = {path.name for path in folder.iterdir()} - {"__pycache__"}
    csv = {"losses.csv"} & set(STARTED[name])
    assert made == {"sequence.py", f"{name}.py", f"{name}.png"} | csv
    assert "non-interactive" not in stderr
    if csv:
        losses = pd.read_csv(folder / "losses.csv", index_col=["seed", "epoch"])
        assert losses.shape == (10, 4) and losses.stack().between(0.3, 1.5).all()
        assert losses.iloc[0].to_numpy() == pytest.approx(np.log(2), abs=0.05)


def test_same_command_prints_the_same_numbers_again(ended, in_tmp, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(in_tmp.iterdir()))
    args = [str(arg) for arg in STARTED["bilstm_classify"]]
    assert importlib.import_module("bilstm_classify").main(args) == 0
    again = capsys.readouterr().out
    before = ended["bilstm_classify"].printed[0]
    assert without_durations(again) == without_durations(before)
    assert [path.name for path in shown] == ["bilstm_classify.png"]  # saved before


def test_default_run_beats_the_position_baseline(ended):
    stdout, _ = ended["lstm_classify"].printed
    [accuracy, log_loss] = re.findall(r"^LSTM +(\S+) +(\S+)$", stdout, re.MULTILINE)[0]
    guessed, guessed_loss = position_baseline(10)
    assert guessed < float(accuracy) < 1 and 0.9 < float(accuracy)
    assert float(log_loss) < guessed_loss
