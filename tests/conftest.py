"""What several test files need: the scripts, in-process and as a user starts them."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
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
    """Starts a script on a machine without a display, in a folder with it and
    sequence.py alone."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "sequence.py", folder)
    shutil.copy(ROOT / f"{name}.py", folder)
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "PYTHONPATH"}
    inherited = {k: v for k, v in os.environ.items() if k not in hidden}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # In the background of a shell, pytest ignores Ctrl-C; the script shall not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, folder / f"{name}.py", *map(str, args)],
        **{"cwd": folder, **streams, **kwargs},
        env={**inherited, "PYTHONUNBUFFERED": "1", **(env or {})},
    )
    signal.signal(signal.SIGINT, before)
    process.folder = folder
    return process


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
