"""What a person at a terminal sees: of all four scripts, each of them alone."""

import contextlib
import importlib
import io
import os
import re
import runpy
import select
import signal
import sys
import threading
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import CLASSIFIERS, ROOT, STARTED, assert_is_picture

from sequence import position_baseline

EXPECTED = {
    "lstm_classify": ["Expected: [", "LSTM ", "10 timesteps", "1,000 epochs"],
    "bilstm_classify": ["Expected: [", "BiLSTM ", "position baseline", "5 epochs"],
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
    (["--csv", "folder.csv"], ["folder.csv"]),
    (["--csv", "a.zip"], ["--csv", ".csv"]),
    (["--csv", "a"], ["--csv", ".csv"]),
    (["--csv", "compare_directions.py"], ["--csv", ".csv"]),
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
    (in_tmp / "folder.csv").mkdir()
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
    files = [in_tmp / name for name in ("old.png", "old.csv", "compare_directions.py")]
    for path in files:
        path.write_bytes(b"mine")
    main = importlib.import_module("compare_merge_modes").main
    args = ["--plot", "old.png", "--csv", "old.csv", "--plot", "missing/old.png"]
    assert_refused(main, args, ["missing"], in_tmp, capsys)
    args = ["--plot", "old.png", "--csv", "compare_directions.py"]
    assert_refused(main, args, [".csv"], in_tmp, capsys)
    assert all(path.read_bytes() == b"mine" for path in files)


def test_help_opens_with_the_docstring(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    description = printed.split("\n\n")[1]
    assert description == script.__doc__.split("\n\n")[0]
    assert f"python {script.__name__}.py --" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert printed.isascii()


def read_terminal(terminal, pattern=None):
    """Reads what a script prints on its terminal, until the pattern comes or the end."""
    printed = b""
    with contextlib.suppress(OSError):  # what Linux says when the other side closes
        while not (pattern and re.search(pattern, printed)):
            assert select.select([terminal], [], [], 180)[0], printed
            printed += os.read(terminal, 4096)
    return printed.decode("ascii")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_on_a_terminal_reports_what_was_trained(start):
    terminal, end = os.openpty()
    process = start("lstm_classify", "--epochs", 100_000, stdout=end)
    os.close(end)
    bar = read_terminal(terminal, rb"\d\d/100000.*loss: 0\.\d+")
    process.send_signal(signal.SIGINT)
    bar, report = (bar + read_terminal(terminal)).split("Of 1,000 new sequences")
    os.close(terminal)
    stderr = process.communicate(timeout=180)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    # One bar is drawn again and again in its line.
    assert "\n" not in bar.strip() and bar.count("/100000") > 1 and "Epoch" not in bar
    assert "Expected: [" in report and "position baseline" in report
    assert report.splitlines()[-1] == "Figure saved as lstm_classify.png"
    assert_is_picture(process.folder / "lstm_classify.png")


def pressed_before(function):
    """The function, with a Ctrl-C before it."""

    def press(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    return press


@pytest.fixture
def default_handler():
    """Ctrl-C as a script finds it, and must leave it: an error, which ends the test and
    not the tests."""

    def interrupt(signum, frame):
        raise RuntimeError("Ctrl-C")

    before = signal.signal(signal.SIGINT, interrupt)
    yield
    assert signal.signal(signal.SIGINT, before) == interrupt


def test_ctrl_c_again_and_in_the_report_of_a_classifier_changes_nothing(
    classifier, in_tmp, monkeypatch, capsys, default_handler
):
    fit, shown = keras.Sequential.fit, []

    class PressTwice(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 2:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    def fit_and_press(*args, callbacks, **kwargs):
        return fit(*args, **kwargs, callbacks=[*callbacks, PressTwice()])

    monkeypatch.setattr(keras.Sequential, "fit", fit_and_press)
    for owner, name in [
        (keras.Sequential, "predict"),
        (keras.Sequential, "save"),
        (plt.Figure, "savefig"),
    ]:
        monkeypatch.setattr(owner, name, pressed_before(getattr(owner, name)))
    monkeypatch.setattr(plt, "show", lambda: shown.extend(in_tmp.iterdir()))
    assert classifier.main(["--verbose", "0", "--save", "model.keras"]) == 130
    printed = capsys.readouterr().out
    setting = "10 timesteps, threshold length, 20 units, learning rate 0.001, 3 epochs"
    assert f"\n{setting}\n" in printed
    # All is saved before the figure is shown.
    figure = f"{classifier.__name__}.png"
    assert sorted(path.name for path in shown) == sorted([figure, "model.keras"])
    assert_is_picture(in_tmp / figure)
    assert keras.saving.load_model("model.keras").output_shape == (None, 10, 1)
    left, upper, _ = plt.gcf().axes
    assert len(left.lines[0].get_ydata()) == 3
    assert left.lines[-1].get_ydata()[0] == pytest.approx(position_baseline(10)[1])
    assert upper.lines[1].get_ydata()[0] == 2.5


def test_handler_of_ctrl_c_is_put_back_after_an_error(script, in_tmp, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a failure")

    monkeypatch.setattr(keras.Sequential, "fit", fail)
    monkeypatch.setattr(script, "train_repeats", fail, raising=False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="a failure"):
        script.main([])
    assert signal.getsignal(signal.SIGINT) == before and list(in_tmp.iterdir()) == []


WAITS = "\nCtrl-C: finishes the repeat at hand, then reports\n"


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
    printed = read_terminal(terminal, rb" ([3-9]|\d\d)/500")
    # What a kill would leave; a later repeat may be cut off.
    lines = (process.folder / "losses.csv").read_text().splitlines(keepends=True)
    (process.folder / "killed.csv").write_text("".join(lines[: 1 + 3 * 20]))
    assert get_seeds(process.folder / "killed.csv") == [1, 2, 3]
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if line in WAITS.splitlines(keepends=True)[1:]:
            break
    process.send_signal(signal.SIGINT)
    printed += read_terminal(terminal)
    os.close(terminal)
    assert "Traceback" not in process.stderr.read()
    assert process.wait(timeout=180) == 130
    seeds = get_seeds(process.folder / "losses.csv")
    assert seeds == list(range(1, len(seeds) + 1)) and 3 <= len(seeds) < 400
    assert f"learning rate 0.001, repeats: {len(seeds)}\r" in printed
    assert all(name in printed for name in ("lstm_back ", "bilstm_con "))
    assert_is_picture(process.folder / "compare_directions.png")
    files = {"sequence.py", "compare_directions.py", "compare_directions.png"}
    made = {path.name for path in process.folder.iterdir()} - {"__pycache__"}
    assert made == files | {"losses.csv", "killed.csv"}


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_in_a_long_repeat_is_answered_at_once_and_more_of_them_change_nothing(
    comparison, in_tmp, monkeypatch, default_handler
):
    stderr, in_time = io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", stderr)

    def answers():
        return stderr.getvalue().count(WAITS)

    def press_twice(X):
        """Goes on with the training when both are answered, or after a minute."""
        end = time.monotonic() + 60
        for n in (1, 2):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            while answers() < n and time.monotonic() < end:
                time.sleep(0.05)
        in_time.append(answers() >= 2)
        return np.full(len(X), 0.5, "float32")

    def train_slowly(model, data):
        return tf.numpy_function(press_twice, [data[0]], tf.float32)

    monkeypatch.setattr(comparison, "train_model", train_slowly)
    monkeypatch.setattr(plt.Figure, "savefig", pressed_before(plt.Figure.savefig))
    args = ["--repeats", "3", "--epochs", "20", "--no-jit", "--csv", "losses.csv"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert comparison.main(args) == 130
    assert len(in_time) in (3, 4) and all(in_time)
    assert ", repeats: 1\n" in printed.getvalue()
    assert "position baseline" in printed.getvalue()
    losses = pd.read_csv("losses.csv", index_col=["seed", "epoch"])
    assert losses.shape == (20, len(in_time)) and (losses == 0.5).all(axis=None)
    assert_is_picture(in_tmp / f"{comparison.__name__}.png")


def stand_in_for_training(press_in=None):
    """A train_repeats that trains nothing. In one repeat it is pressed where an exception
    would be lost: TensorFlow's `dtype.max`, which layers ask for, has such a place."""

    def train_repeats(builders, get_data, seeds, jit):
        for seed in seeds:
            with contextlib.suppress(BaseException):
                if seed == press_in:
                    signal.raise_signal(signal.SIGINT)
            rows = [(seed, epoch) for epoch in range(1, 21)]
            index = pd.MultiIndex.from_tuples(rows, names=["seed", "epoch"])
            yield pd.DataFrame(0.5, index, list(builders)), {}

    return train_repeats


@pytest.mark.parametrize(
    ("press_in", "repeats", "status"), [(1, 2, 130), (3, 50, 130), (2, 2, 0)]
)
def test_ctrl_c_reports_the_repeats_to_the_one_it_comes_in(
    press_in, repeats, status, comparison, in_tmp, monkeypatch, capsys, default_handler
):
    stand_in = stand_in_for_training(press_in)
    monkeypatch.setattr(comparison, "train_repeats", stand_in)
    assert comparison.main(["--repeats", str(repeats), "--plot", "a.svg"]) == status
    printed = capsys.readouterr()
    assert printed.err == WAITS and f", repeats: {press_in}\n" in printed.out
    assert (in_tmp / "a.svg").exists()


def test_ctrl_c_inside_to_csv_leaves_a_whole_file(
    comparison, in_tmp, monkeypatch, capsys, default_handler
):
    to_csv = pd.DataFrame.to_csv

    class Pressed(io.StringIO):
        """A file that Ctrl-C comes in the middle of."""

        def write(self, text):
            half = len(text) // 2
            self.file.write(text[:half])
            signal.raise_signal(signal.SIGINT)
            self.file.write(text[half:])

    def press_inside(losses, path, mode="w", **options):
        pressed = Pressed()
        with open(path, mode, newline="") as pressed.file:
            to_csv(losses, pressed, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", press_inside)
    monkeypatch.setattr(comparison, "train_repeats", stand_in_for_training())
    args = ["--repeats", "3", "--csv", "losses.csv", "--plot", "a.svg"]
    assert comparison.main(args) == 130
    losses = pd.read_csv("losses.csv", index_col=["seed", "epoch"])
    assert losses.index.tolist() == [(1, epoch) for epoch in range(1, 21)]
    assert (losses == 0.5).all(axis=None)
    assert ", repeats: 1\n" in capsys.readouterr().out


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
    if name == "lstm_classify":  # With "--verbose 0" the report comes first.
        assert capsys.readouterr().out.startswith("\nOf 1,000 new sequences, the one")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_backend_that_does_not_exist_is_named(start):
    process = start("lstm_classify", env={"KERAS_BACKEND": "nonsense"})
    stderr = process.communicate(timeout=180)[1]
    assert process.returncode != 0 and "nonsense" in stderr.splitlines()[-1]


@pytest.mark.parametrize("name", list(STARTED))
def test_standalone_without_a_display(name, ended):
    stdout, stderr = ended[name].printed
    assert ended[name].returncode == 0, stderr
    assert stdout.isascii()
    # In a file, the bar is a line at the end.
    of = {"lstm_classify": "1000/1000", "bilstm_classify": "5/5"}.get(name, "2/2")
    assert re.findall(r"^(\d+/\d+) - \d+s - .*$", stdout, re.MULTILINE) == [of]
    assert "Epoch" not in stdout
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


def test_same_command_prints_the_same_numbers_again(
    ended, in_tmp, monkeypatch, capsys, default_handler
):
    # Ctrl-C after the training changes nothing, the exit status included.
    monkeypatch.setattr(plt.Figure, "savefig", pressed_before(plt.Figure.savefig))
    args = [str(arg) for arg in STARTED["bilstm_classify"]]
    assert importlib.import_module("bilstm_classify").main(args) == 0
    again = capsys.readouterr().out
    before = ended["bilstm_classify"].printed[0]
    assert without_durations(again) == without_durations(before)


def test_default_run_beats_the_position_baseline(ended):
    stdout, _ = ended["lstm_classify"].printed
    [accuracy, log_loss] = re.findall(r"^LSTM +(\S+) +(\S+)$", stdout, re.MULTILINE)[0]
    guessed, guessed_loss = position_baseline(10)
    assert guessed < float(accuracy) < 1 and 0.9 < float(accuracy)
    assert float(log_loss) < guessed_loss
