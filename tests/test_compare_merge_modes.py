"""What holds for the models of compare_merge_modes.py, and for no other."""

import keras
import numpy as np
import pytest

from compare_merge_modes import get_bi_lstm_model
from sequence import get_sequences

MODES = {"bilstm_sum": "sum", "bilstm_mul": "mul", "bilstm_ave": "ave"}
MODES["bilstm_con"] = "concat"


@pytest.fixture
def study(default_run):
    """The losses of a run at the defaults."""
    return default_run("compare_merge_modes")[0]


@pytest.mark.parametrize("name", ["bilstm_mul"])
def test_losses_are_those_of_fit(name, study):
    X, y = get_sequences(250, 10, rng=3)
    keras.utils.set_random_seed(3)
    model = get_bi_lstm_model(10, MODES[name])
    model.run_eagerly = True  # so few updates are done sooner than compiled
    fits = [
        model.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0) for i in range(5)
    ]
    expected = [fit.history["loss"][0] for fit in fits]
    np.testing.assert_allclose(study.loc[3, name].loc[1:5], expected, atol=1e-4)


def test_claims_hold_over_several_seeds(study):
    last = study.query("epoch > 200").groupby("seed").mean()
    assert len(last) == 30
    for lower, higher in [
        ("bilstm_sum", "bilstm_ave"),
        ("bilstm_con", "bilstm_ave"),
        ("bilstm_ave", "bilstm_mul"),
    ]:
        difference = last[lower] - last[higher]
        # The 95% interval of the paired difference, with Student's t of 29.
        assert difference.mean() + 2.045 * difference.std() / np.sqrt(30) < 0


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
