"""What a person at a terminal sees: of all four scripts, each of them alone."""

import importlib
import os
import signal
import sys

import pytest
from conftest import CLASSIFIERS, COMPARISONS, assert_is_picture

QUICK = {
    "lstm_classify": ["--epochs", 5],
    "bilstm_classify": ["--epochs", 5],
    "compare_directions": ["--epochs", 40, "--repeats", 2, "--csv", "losses.csv"],
    "compare_merge_modes": ["--epochs", 5, "--repeats", 2, "--no-jit"],
}
EXPECTED = {
    "lstm_classify": ["Epoch 5/5", "Expected: [", "LSTM ", "position baseline"],
    "bilstm_classify": ["Epoch 5/5", "Expected: [", "BiLSTM ", "position baseline"],
    "compare_directions": ["lstm_forw ", "lstm_back ", "bilstm_con ", "2 repeats"],
    "compare_merge_modes": ["bilstm_sum ", "bilstm_mul ", "bilstm_ave ", "bilstm_con "],
}


def without_durations(printed):
    """The lines without those of Keras that tell how long something took."""
    return [line for line in printed.splitlines() if "s/" not in line]


@pytest.mark.parametrize("name", list(QUICK))
def test_standalone_without_a_display(name, run, in_tmp, capsys):
    result = run(name, *QUICK[name])
    assert result.returncode == 0, result.stderr
    assert all(text in result.stdout for text in EXPECTED[name])
    assert result.stdout.splitlines()[-1] == f"Figure saved as {name}.png"
    assert_is_picture(result.folder / f"{name}.png")
    made = {path.name for path in result.folder.iterdir()} - {"__pycache__"}
    csv = {"losses.csv"} & set(QUICK[name])
    assert made == {"sequence.py", f"{name}.py", f"{name}.png"} | csv
    assert "non-interactive" not in result.stderr
    if name not in ("lstm_classify", "compare_directions"):  # the other two do alike
        return
    # The same command prints and writes the same numbers again.
    assert importlib.import_module(name).main([str(x) for x in QUICK[name]]) == 0
    again = capsys.readouterr().out
    assert without_durations(again) == without_durations(result.stdout)
    for file in csv:
        tidy = (in_tmp / file).read_bytes()
        assert tidy == (result.folder / file).read_bytes()
        assert tidy.startswith(b"model,seed,epoch,loss")


def test_classifier_prints_as_the_tutorial(in_tmp, capsys):
    script = importlib.import_module("lstm_classify")
    assert script.main(["--epochs", "3", "--timesteps", "7", "--verbose", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = {"[0]", "[1]"}
    for line in lines[:7]:
        expected, y, predicted, yhat = line.split()
        assert (expected, predicted) == ("Expected:", "Predicted")
        assert y in values and yhat in values
    assert lines[7].startswith("1,000 new sequences")
    assert len(lines) == 11


@pytest.mark.parametrize("ending", ["svg", "PDF", "jpg"])
def test_figure_is_saved_in_the_format_of_its_name(ending, in_tmp, capsys):
    script = importlib.import_module("bilstm_classify")
    path = in_tmp / f"ein Bild für dich.{ending}"
    args = ["--epochs", "2", "--verbose", "0", "--timesteps", "4", "--plot", str(path)]
    assert script.main(args) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Figure saved as {path}"
    start = {"svg": b"<?xml", "PDF": b"%PDF", "jpg": b"\xff\xd8\xff"}[ending]
    assert path.read_bytes().startswith(start)


REFUSALS = [
    (["--timesteps", "0"], ["--timesteps", "whole number from 1", "'0'"]),
    (["--units", "-20"], ["--units", "whole number from 1", "'-20'"]),
    (["--epochs", "2.5"], ["--epochs", "whole number from 1", "'2.5'"]),
    (["--epochs", "many"], ["--epochs", "whole number from 1", "'many'"]),
    (["--seed", "-1"], ["--seed", "whole number from 0", "'-1'"]),
    (["--seed", str(2**32)], ["--seed", str(2**32 - 1), f"'{2**32}'"]),
    (["--plot", "missing/a.png"], ["--plot", "No such file", "'missing/a.png'"]),
    (["--plot", "file/a.png"], ["--plot", "Not a directory", "'file/a.png'"]),
    (["--plot", "folder.png"], ["--plot", "Is a directory", "'folder.png'"]),
    (["--plot", "a.xyz"], ["--plot", "format", "svg", "'a.xyz'"]),
    (["--plot", "a"], ["--plot", "format", "svg", "'a'"]),
]
OF_CLASSIFIERS = [
    (["--verbose", "3"], ["--verbose", "0", "1", "2", "3"]),
    (["--verbose", "loud"], ["--verbose", "'loud'"]),
]
OF_COMPARISONS = [
    (["--repeats", "0"], ["--repeats", "whole number from 1", "'0'"]),
    (["--csv", "missing/a.csv"], ["--csv", "No such file", "'missing/a.csv'"]),
    (["--csv", "folder.png"], ["--csv", "Is a directory", "'folder.png'"]),
    (
        ["--seed", str(2**32 - 2), "--repeats", "3"],
        ["--seed + --repeats - 1", str(2**32), f"but was {2**32}"],
    ),
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
    (in_tmp / "file").touch()
    own = OF_CLASSIFIERS if script.__name__ in CLASSIFIERS else OF_COMPARISONS
    for args, words in REFUSALS + own:
        assert_refused(script.main, args, words, in_tmp, capsys)


def test_file_name_chosen_without_a_display_is_checked(script, in_tmp, capsys):
    (in_tmp / f"{script.__name__}.png").mkdir()
    words = ["--plot", "Is a directory", f"'{script.__name__}.png'"]
    assert_refused(script.main, [], words, in_tmp, capsys)


def test_folder_that_cannot_be_written_is_refused(script, in_tmp, capsys):
    folder = in_tmp / "read only"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere but in /proc
        folder = "/proc" if os.path.isdir("/proc") else pytest.skip("runs as root")
    path = f"{folder}/a.png"
    assert_refused(script.main, ["--plot", path], ["--plot", path], in_tmp, capsys)


def test_refusal_keeps_the_file_that_was_there(in_tmp, capsys):
    (in_tmp / "old.png").write_bytes(b"mine")
    args = ["--plot", "old.png", "--epochs", "0"]
    main = importlib.import_module("lstm_classify").main
    assert_refused(main, args, ["--epochs"], in_tmp, capsys)
    assert (in_tmp / "old.png").read_bytes() == b"mine"


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


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_ctrl_c_reports_what_was_trained(name, start):
    process = start(name, "--epochs", 100_000)
    wait_for(process, "Epoch 30/")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Expected: [" in stdout and "position baseline" in stdout
    assert stdout.splitlines()[-1] == f"Figure saved as {name}.png"
    assert_is_picture(process.folder / f"{name}.png")


def test_ctrl_c_before_the_first_epoch_ends_is_one_line(start):
    # So long a first step that the signal comes before its end.
    process = start("lstm_classify", "--timesteps", 3000, "--units", 300)
    wait_for(process, "Epoch 1/")
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted" and "Traceback" not in stderr
    assert not (process.folder / "lstm_classify.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_keeps_the_repeats_that_all_models_have_finished(start):
    terminal, end = os.openpty()
    args = ["--epochs", 20, "--repeats", 5000, "--csv", "losses.csv"]
    process = start("compare_directions", *args, stdout=end)
    os.close(end)
    printed = b""
    while b" 2/5000" not in printed and b"\x1b[1m   2/5000" not in printed:
        printed += os.read(terminal, 4096)
    assert b"now lstm_back" in printed
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(terminal, 4096):
            printed += chunk
    except OSError:  # how Linux says that the other side has closed
        pass
    os.close(terminal)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    rows = (process.folder / "losses.csv").read_text().splitlines()[1:]
    seeds = {int(row.split(",")[1]) for row in rows}
    assert len(seeds) >= 2 and len(rows) == 3 * len(seeds) * 20
    assert f"epochs, {len(seeds)} repeats" in printed.decode()
    assert_is_picture(process.folder / "compare_directions.png")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
def test_closed_pipe_leaves_no_traceback(start):
    process = start("lstm_classify", "--epochs", 100_000)
    wait_for(process, "Epoch 2/")
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == -signal.SIGPIPE
    assert "Traceback" not in stderr and "BrokenPipe" not in stderr


@pytest.mark.parametrize("name", ["lstm_classify", "compare_merge_modes"])
def test_backend_that_cannot_work_is_said_in_one_line(name, run):
    result = run(name, env={"KERAS_BACKEND": "nonsense"})
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"{name}.py: error: ")
    assert "nonsense" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_refuse_another_backend(name, in_tmp, monkeypatch, capsys):
    script = importlib.import_module(name)
    monkeypatch.setattr(script.keras.config, "backend", lambda: "jax")
    words = ["KERAS_BACKEND", "tensorflow", "jax"]
    assert_refused(script.main, [], words, in_tmp, capsys)


def test_two_at_once_in_one_folder(start):
    processes = [start("bilstm_classify", "--epochs", 3) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert without_durations(printed[0]) == without_durations(printed[1])
    assert_is_picture(processes[0].folder / "bilstm_classify.png")


def test_window_system_that_is_not_there_in_another_folder(run, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    args = ["--epochs", 2, "--verbose", 0]
    result = run("lstm_classify", *args, cwd=folder, env={"MPLBACKEND": "TkAgg"})
    assert result.returncode == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["lstm_classify.png"]
    assert_is_picture(folder / "lstm_classify.png")
