"""The benchmark, at sizes small enough for a test."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests/studies"))
import benchmark
import keras


def get_dense_model(n_timesteps):
    """A model that compiles sooner than an LSTM."""
    layers = [keras.Input((n_timesteps, 1)), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    return model


def test_each_way_of_training_is_measured():
    builders = {"Dense": get_dense_model}
    table = benchmark.compare_loops(n_few=3, n_many=5, builders=builders)
    assert list(table) == ["Dense ms", "Dense times faster"] and len(table) == 4
    ms = table["Dense ms"].astype(float)
    assert (ms > 0).all() and ms.iloc[0] == ms.max()
    times_faster = table["Dense times faster"].str.replace(",", "").astype(float)
    assert times_faster.iloc[0] == 1
    assert times_faster.iloc[1] == pytest.approx(ms.iloc[0] / ms.iloc[1], abs=0.51)


def test_the_cost_of_a_size_is_measured():
    timesteps, units, ms, compiling, gigabytes = benchmark.measure_size(4, 2, 5)
    assert (timesteps, units) == (4, 2)
    assert ms > 0 and compiling > 0 and 0.1 < gigabytes < 8
