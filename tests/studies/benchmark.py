"""Measures what an update costs: the tutorial's way, in one fit call, and compiled.

An update is one training step on one sequence. Every row is measured in this run: the
best of three passes, after a first one that compiles. The rows of the second table are
the compiled loop's, each in a process of its own, and with that process's memory.

Example:
    python tests/studies/benchmark.py
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides some of TensorFlow's log
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import pandas as pd
import tensorflow as tf

from compare_directions import get_bi_lstm_model, get_lstm_model, train_model
from sequence import get_sequences


def tutorials_loop(model, X, y):
    """Trains with a fit call for each sequence, as the tutorial does."""
    for i in range(len(X)):
        model.fit(X[i : i + 1], y[i : i + 1], epochs=1, batch_size=1, verbose=0)


def one_fit(model, X, y):
    """Trains with one fit call, as the classifiers do."""
    options = {"batch_size": 1, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    model.fit(X, y, epochs=len(X), **options)


def compiled(jit):
    """Returns a function that trains in one compiled loop, as the comparisons do."""
    loop = tf.function(train_model, jit_compile=jit, autograph=False)

    def train(model, X, y):
        model.optimizer.build(model.trainable_variables)
        loop(model, (X[:, None], y[:, None])).numpy()  # batches of one

    return train


def measure(train, model, X, y):
    """Returns the milliseconds of a compiled update, and of the first pass."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        train(model, X, y)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[1:]) / len(X), 1000 * seconds[0]


MODELS = {"LSTM": get_lstm_model, "BiLSTM": get_bi_lstm_model}


def compare_loops(n_few=50, n_many=2000, builders=MODELS):
    """Returns the first table: what an update costs in each way of training.

    `fit` is measured with n_few updates, and the compiled loops with n_many.
    """
    few, many = get_sequences(n_few, 10, rng=0), get_sequences(n_many, 10, rng=0)
    ways = {
        "tutorial: a fit call a sequence": (tutorials_loop, few),
        "classifiers: one fit call": (one_fit, few),
        "comparisons: --no-jit": (compiled(jit=False), many),
        "comparisons: compiled by XLA": (compiled(jit=True), many),
    }
    table = pd.DataFrame(index=list(ways))
    for name, build in builders.items():
        ms = pd.Series(
            {way: measure(f, build(10), *d)[0] for way, (f, d) in ways.items()}
        )
        table[f"{name} ms"] = ms.map("{:.3f}".format)
        table[f"{name} times faster"] = (ms.max() / ms).map("{:,.0f}".format)
    return table


def measure_size(timesteps, units, n_updates=None):
    """Returns a row of the second table: what an update of this size costs.

    The last number is the peak memory of the whole process: call this once in each.
    """
    X, y = get_sequences(n_updates or max(5, 4000 // timesteps), timesteps, rng=0)
    model = get_bi_lstm_model(timesteps, n_units=units)
    ms, first = measure(compiled(jit=True), model, X, y)
    unit = 1e9 if sys.platform == "darwin" else 1e6  # bytes on macOS, else kilobytes
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return timesteps, units, ms, (first - ms * len(X)) / 1000, gigabytes


def compare_sizes():
    """Returns the second table: what an update costs, by timesteps and units."""
    sizes = [(timesteps, units) for units in (20, 200) for timesteps in (10, 100, 1000)]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = pool.starmap(measure_size, sizes, chunksize=1)
    columns = ["timesteps", "units", "BiLSTM ms", "s to compile", "peak GB"]
    table = pd.DataFrame(rows, columns=columns)
    ms = table["BiLSTM ms"]
    growth = (ms / ms.shift()).where(table["units"] == table["units"].shift())
    table.insert(3, "times the row above", growth)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    sizes = compare_sizes()  # first: a process starts with the peak of its parent
    print(compare_loops().to_string(), end="\n\n")
    print(sizes.to_string(index=False, float_format="%.2f", na_rep=""))
