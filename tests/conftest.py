"""What several test files need: the scripts, here and as a user starts them."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

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
def nothing_outlives_a_test():
    """Checks the signal handlers, which `%run` in a notebook leaves to its kernel, and
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


@pytest.fixture
def eagerly():
    """For few updates: TensorFlow compiles nothing, which would take seconds."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def start():
    """Starts a script as a user does, in a process that ends with the tests at last.

    It is alone with sequence.py in a folder, whose name has a space and a letter beyond
    ASCII, on a machine without a display, and its output takes ASCII alone.
    """
    processes = []

    def start(folder, name, *args, stdout=subprocess.PIPE, **env):
        folder = folder / "a copy für dich"
        folder.mkdir()
        for file in ("sequence.py", f"{name}.py"):
            shutil.copy(ROOT / file, folder)
        hidden = {"DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND", "PYTHONPATH"}
        inherited = {k: v for k, v in os.environ.items() if k not in hidden}
        inherited |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, f"{name}.py", *map(str, args)]
        streams = {"stdout": stdout, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=folder, env=inherited | env, **streams)
        processes.append(process)
        process.folder = folder
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def read_losses(folder):
    """The losses that a comparison wrote into losses.csv."""
    return pd.read_csv(folder / "losses.csv", index_col=["seed", "epoch"])


@pytest.fixture(scope="session", autouse=True)
def default_runs(start, request, tmp_path_factory):
    """Runs the scripts at their defaults, one after the other, beside the other tests
    (if any needs them), so that these and the scripts use a core each."""
    items = request.session.items
    needed = any("default_run" in item.fixturenames for item in items)
    names = CLASSIFIERS + COMPARISONS if needed else []
    folders = {name: tmp_path_factory.mktemp(name) for name in names}

    def run(name):
        csv = ["--csv", "losses.csv"] if name in COMPARISONS else []
        process = start(folders[name], name, *csv)
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        run = SimpleNamespace(folder=process.folder, stdout=stdout, stderr=stderr)
        run.losses = read_losses(process.folder) if csv else None
        return run

    pool = ThreadPoolExecutor(1)
    yield {name: pool.submit(run, name) for name in names}
    pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def default_run(default_runs):
    """Waits for a script's run at its defaults, and gives what it left."""
    return lambda name: default_runs[name].result(timeout=600)


def train_nothing(monkeypatch, press_in=None):
    """Puts stand-ins for Keras's fit, whose losses are 1, 1/2, 1/3 and so on, and which
    may press Ctrl-C in an epoch, for predict, and for evaluate."""

    def fit(model, X, y, *, epochs, callbacks, **options):
        model.stop_training, losses = False, []
        while len(losses) < epochs and not model.stop_training:
            losses.append(1 / (len(losses) + 1))
            if press_in == len(losses):
                signal.raise_signal(signal.SIGINT)
            for callback in callbacks:
                callback.on_epoch_end(len(losses) - 1, {"loss": losses[-1]})
        return SimpleNamespace(history={"loss": losses})

    def predict(model, X, **options):
        return np.full(X.shape, 0.5, "float32")

    monkeypatch.setattr("keras.Sequential.fit", fit)
    monkeypatch.setattr("keras.Sequential.predict", predict)
    monkeypatch.setattr("keras.Sequential.evaluate", lambda *_, **__: [0.6, 0.4])


def random_losses(models, seeds, n_epochs):
    """Random losses, in a table like that of train_repeats."""
    epochs = range(1, n_epochs + 1)
    index = pd.MultiIndex.from_product([seeds, epochs], names=["seed", "epoch"])
    losses = np.random.default_rng(0).random((len(index), len(models)))
    return pd.DataFrame(losses, index, list(models))


def assert_below(lower, higher):
    """That the 95% interval of the paired difference of 30 seeds is below 0."""
    difference = np.asarray(lower) - np.asarray(higher)
    assert len(difference) == 30  # Student's t is 2.045
    half = 2.045 * difference.std(ddof=1) / np.sqrt(30)
    assert difference.mean() + half < 0


def assert_is_picture(path):
    """Opens the figure, and checks that something is drawn on it."""
    pixels = matplotlib.image.imread(path)
    height, width = pixels.shape[:2]
    assert height >= 600 and width >= 1000
    assert len({tuple(pixel) for pixel in pixels[::10, ::10].reshape(-1, 4)}) > 10
