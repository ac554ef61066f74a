"""What several test files need: the scripts, in-process and as a user starts them."""

import contextlib
import functools
import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
CLASSIFIERS = ["lstm_classify", "bilstm_classify"]
COMPARISONS = ["compare_directions", "compare_merge_modes"]

sys.path.insert(0, str(ROOT))
matplotlib.use("agg")


@pytest.fixture(params=CLASSIFIERS + COMPARISONS)
def script(request):
    """Each of the four scripts, imported."""
    return importlib.import_module(request.param)


@pytest.fixture(params=CLASSIFIERS)
def classifier(request):
    """Each of the two classifiers, imported."""
    return importlib.import_module(request.param)


@pytest.fixture(params=COMPARISONS)
def comparison(request):
    """Each of the two comparisons, imported."""
    return importlib.import_module(request.param)


@pytest.fixture(scope="session")
def default_run(tmp_path_factory):
    """Runs a comparison at its defaults, once for all tests, and gives the losses of its
    CSV and the lines that it printed."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp(name)
        files = ["--csv", str(folder / "a.csv"), "--plot", str(folder / "a.png")]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert importlib.import_module(name).main(files) == 0
        losses = pd.read_csv(folder / "a.csv", index_col=["seed", "epoch"])
        return losses, printed.getvalue().splitlines()

    return run


@pytest.fixture(autouse=True)
def nothing_outlives_main():
    """Checks the signal handlers, as `%run` in a notebook leaves them to its kernel, and
    closes the figures that the scripts leave open for it to show."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    plt.close("all")
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """An empty folder, entered."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start_script(folder, name, *args, env=None, **kwargs):
    """Starts a script on a machine without a display, whose output takes ASCII alone, in
    a folder with it and sequence.py alone."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "sequence.py", folder)
    shutil.copy(ROOT / f"{name}.py", folder)
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "PYTHONPATH"}
    inherited = {k: v for k, v in os.environ.items() if k not in hidden}
    inherited |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "ascii"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # In the background of a shell, pytest ignores Ctrl-C; the script shall not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, folder / f"{name}.py", *map(str, args)],
        **{"cwd": folder, **streams, **kwargs},
        env={**inherited, **(env or {})},
    )
    signal.signal(signal.SIGINT, before)
    process.folder = folder
    return process


# Of lstm_classify.py the default run, of the others short ones. compare_directions.py is
# started on a terminal, by the test of its Ctrl-C.
STARTED = {
    "lstm_classify": [],
    "bilstm_classify": ["--epochs", 5],
    "compare_merge_modes": ["--epochs", 5, "--repeats", 2, "--csv", "losses.csv"],
}


@pytest.fixture(scope="session", autouse=True)
def started(request, tmp_path_factory):
    """Scripts, each in a folder of its own, whose name has a space and a letter outside
    ASCII. If a test is to look at them, they run while the first others do."""
    # Somebody has set Keras to another backend, and float64.
    config = tmp_path_factory.mktemp("keras")
    (config / "keras.json").write_text('{"floatx": "float64", "backend": "jax"}')
    of_user = {"KERAS_BACKEND": "jax", "KERAS_HOME": str(config), "MPLBACKEND": "svg"}
    others = {"compare_merge_modes": of_user}
    processes = {}
    if any("ended" in item.fixturenames for item in request.session.items):
        for name, args in STARTED.items():
            folder = tmp_path_factory.mktemp(name) / "a copy für you"
            processes[name] = start_script(folder, name, *args, env=others.get(name))
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def ended(started):
    """The scripts, at their end."""
    for process in started.values():
        process.printed = process.communicate(timeout=180)
    return started


@pytest.fixture
def start(tmp_path):
    """Starts a script as start_script does, and ends it with the test."""
    processes = []

    def start(*args, **kwargs):
        processes.append(start_script(tmp_path / "copy", *args, **kwargs))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def assert_is_picture(path):
    """Opens the figure, and checks that something is drawn on it."""
    pixels = matplotlib.image.imread(path)
    height, width = pixels.shape[:2]
    assert height >= 600 and width >= 1000
    assert len({tuple(pixel) for pixel in pixels[::10, ::10].reshape(-1, 4)}) > 10
