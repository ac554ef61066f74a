import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import compare_directions
import compare_merge_modes
from compare_merge_modes import get_bi_lstm_model, main
from sequence import get_sequences

MODES = {"bilstm_sum": "sum", "bilstm_mul": "mul", "bilstm_ave": "ave"}
MODES["bilstm_con"] = "concat"


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """The CSV of one run of the script that many tests look at."""
    folder = tmp_path_factory.mktemp("study")
    files = ["--csv", str(folder / "a.csv"), "--plot", str(folder / "a.png")]
    assert main(["--repeats", "8", "--seed", "60", *files]) == 0
    return pd.read_csv(folder / "a.csv", index_col=["seed", "epoch"])


@pytest.mark.parametrize("name", ["bilstm_mul"])
def test_losses_are_those_of_fit(name, losses):
    X, y = get_sequences(250, 10, rng=62)
    keras.utils.set_random_seed(62)
    model = get_bi_lstm_model(10, MODES[name])
    model.run_eagerly = True  # so few updates are done sooner than compiled
    fits = [
        model.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0) for i in range(5)
    ]
    expected = [fit.history["loss"][0] for fit in fits]
    np.testing.assert_allclose(losses.loc[62, name].loc[1:5], expected, atol=1e-4)


def test_claims_hold_over_several_seeds(losses):
    last = losses.query("epoch > 200").groupby("seed").mean()
    assert len(last) == 8
    for lower, higher in [
        ("bilstm_sum", "bilstm_ave"),
        ("bilstm_con", "bilstm_ave"),
        ("bilstm_ave", "bilstm_mul"),
    ]:
        difference = last[lower] - last[higher]
        # The 95% interval of the paired difference, with Student's t of 7.
        assert difference.mean() + 2.365 * difference.std() / np.sqrt(8) < 0


@pytest.mark.parametrize("mode", ["sum", "mul", "ave", "concat"])
def test_merge_modes_do_their_arithmetic(mode):
    X, _ = get_sequences(3, 10, rng=0)
    layer = get_bi_lstm_model(10, mode).layers[0]
    forward = np.asarray(layer.forward_layer(X))
    # The backward layer gives its outputs in the order it reads; Bidirectional flips.
    backward = np.asarray(layer.backward_layer(X))[:, ::-1]
    expected = {
        "sum": forward + backward,
        "mul": forward * backward,
        "ave": (forward + backward) / 2,
        "concat": np.concatenate([forward, backward], axis=-1),
    }[mode]
    np.testing.assert_allclose(np.asarray(layer(X)), expected, atol=1e-6)


def train_nothing(builders, get_data, seeds, jit):
    """Stands in for train_repeats: the same loss for all."""
    for seed in seeds:
        index = pd.MultiIndex.from_tuples([(seed, 1)], names=["seed", "epoch"])
        yield pd.DataFrame(0.5, index, list(builders)), {}


def test_a_model_looks_the_same_in_both_comparisons(in_tmp, monkeypatch):
    looks = {}
    for script in (compare_merge_modes, compare_directions):
        monkeypatch.setattr(script, "train_repeats", train_nothing)
        assert script.main(["--repeats", "1", "--epochs", "1"]) == 0
        *lines, _ = plt.gcf().axes[0].lines
        look = {x.get_label(): (x.get_color(), x.get_marker()) for x in lines}
        assert looks.get("bilstm_con", look["bilstm_con"]) == look["bilstm_con"]
        looks |= look
    assert len(looks) == 6
    for of_all in zip(*looks.values()):
        assert len(set(of_all)) == 6
