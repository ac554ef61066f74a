"""Measures what an update costs: the tutorial's way, in one fit call, and compiled.

An update is one training step on one sequence. Every row is measured in this run,
the best of three passes after a first one that compiles.

Example:
    python tests/benchmark.py
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import tensorflow as tf

import compare_directions
import lstm_classify
from sequence import get_sequences

MODELS = {
    "LSTM": compare_directions.get_lstm_model,
    "BiLSTM": compare_directions.get_bi_lstm_model,
}


def tutorials_loop(model, X, y):
    """A fit call a sequence, as in the tutorial."""
    for i in range(len(X)):
        model.fit(X[i : i + 1], y[i : i + 1], epochs=1, batch_size=1, verbose=0)


def one_fit(model, X, y):
    """One fit call, as in the classifiers."""
    lstm_classify.train_model(model, X, y, verbose=0)


def compiled(jit):
    """One compiled loop, as in the comparisons."""
    compiled_loop = tf.function(compare_directions.train_model, jit_compile=jit)

    def train(model, X, y):
        model.optimizer.build(model.trainable_weights)
        compiled_loop(model, X, y).numpy()

    return train


def measure(train, model, X, y):
    """Gives the milliseconds of an update, compiling left out, and of the first pass."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        train(model, X, y)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[1:]) / len(X), 1000 * seconds[0]


def compare_loops():
    X, y = get_sequences(100, 10, rng=0)
    many = get_sequences(2000, 10, rng=0)
    ways = {
        "tutorial: a fit call a sequence": (tutorials_loop, (X, y)),
        "classifiers: one fit call": (one_fit, (X, y)),
        "comparisons: --no-jit": (compiled(jit=False), many),
        "comparisons: compiled by XLA": (compiled(jit=True), many),
    }
    table = {}
    for name, build in MODELS.items():
        milliseconds = {
            way: measure(f, build(10), *d)[0] for way, (f, d) in ways.items()
        }
        table[f"{name} ms"] = pd.Series(milliseconds).map("{:.3f}".format)
        times = {
            way: max(milliseconds.values()) / ms for way, ms in milliseconds.items()
        }
        table[f"{name} times faster"] = pd.Series(times).map("{:,.0f}".format)
    return pd.DataFrame(table)


def compare_sizes():
    rows = []
    for timesteps in (10, 100, 1000):
        for units in (20, 200):
            X, y = get_sequences(max(5, 2000 // timesteps), timesteps, rng=0)
            for name, build in MODELS.items():
                train, model = compiled(jit=True), build(timesteps, n_units=units)
                update, first = measure(train, model, X, y)
                compile_seconds = (first - update * len(X)) / 1000
                rows.append((timesteps, units, name, update, compile_seconds))
    columns = ["timesteps", "units", "model", "ms an update", "s to compile"]
    return pd.DataFrame(rows, columns=columns).round(2)


if __name__ == "__main__":
    print(compare_loops().to_string(), end="\n\n")
    print(compare_sizes().to_string(index=False))
