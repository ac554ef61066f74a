"""The models that the builders return: layers and sizes, directions and merge modes.

The builders of several scripts are the same to the letter, see test_standalone.py.
"""

import keras
import numpy as np
import pytest

from bilstm_classify import get_bi_lstm_model
from lstm_classify import get_lstm_model
from sequence import get_sequences

MODES = ["concat", "sum", "mul", "ave"]
BUILDERS = [get_lstm_model, get_bi_lstm_model]


def test_lstm_is_the_tutorials():
    model = get_lstm_model(10)
    lstm, dense = model.layers
    assert isinstance(lstm, keras.layers.LSTM) and lstm.units == 20
    assert lstm.return_sequences and not lstm.go_backwards
    assert isinstance(dense, keras.layers.Dense) and dense.units == 1
    # Four gates of 20 units, each with 1 input, 20 recurrent inputs and a bias.
    assert model.count_params() == 4 * 20 * (1 + 20 + 1) + 20 + 1 == 1781


@pytest.mark.parametrize("mode", MODES)
def test_bidirectional_lstm_is_the_tutorials(mode):
    model = get_bi_lstm_model(10, mode)
    bidirectional, dense = model.layers
    assert isinstance(bidirectional, keras.layers.Bidirectional)
    assert isinstance(bidirectional.forward_layer, keras.layers.LSTM)
    assert bidirectional.forward_layer.units == bidirectional.backward_layer.units == 20
    assert bidirectional.backward_layer.go_backwards
    assert bidirectional.merge_mode == mode
    assert isinstance(dense, keras.layers.Dense) and dense.units == 1
    assert model.count_params() == {"concat": 3561}.get(mode, 3541)


@pytest.mark.parametrize("build", BUILDERS)
def test_sizes_and_learning_rate_are_arguments(build):
    model = build(7, n_units=3, n_features=2, learning_rate=0.02)
    assert model.loss == "binary_crossentropy"
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert model.input_shape == (None, 7, 2) and model.output_shape == (None, 7, 1)
    directions = 1 + (build is get_bi_lstm_model)
    lstms, dense = directions * 4 * 3 * (2 + 3 + 1), directions * 3 + 1
    assert model.count_params() == lstms + dense


@pytest.mark.parametrize("build", BUILDERS)
def test_without_a_length_models_take_sequences_of_any(build):
    model = build(None, n_units=2)
    for n_timesteps in (3, 8):
        X, _ = get_sequences(2, n_timesteps, rng=0)
        assert model(X).shape == (2, n_timesteps, 1)


def test_dense_predicts_what_the_tutorials_time_distributed_predicts():
    model, (X, _) = get_lstm_model(10), get_sequences(5, 10, rng=0)
    dense = keras.layers.Dense(1, activation="sigmoid")
    lstm = keras.layers.LSTM(20, return_sequences=True)
    layers = [keras.Input((10, 1)), lstm, keras.layers.TimeDistributed(dense)]
    tutorials = keras.Sequential(layers)
    tutorials.set_weights(model.get_weights())
    expected = np.asarray(tutorials(X))
    np.testing.assert_allclose(np.asarray(model(X)), expected, atol=1e-6)


def test_go_backwards_gives_its_outputs_in_reversed_order():
    X, _ = get_sequences(1, 10, rng=0)

    def moves(model, timestep):
        """Which outputs a change at one timestep moves."""
        changed = X.copy()
        changed[0, timestep] += 0.5
        before, after = np.asarray(model(X)), np.asarray(model(changed))
        return (np.abs(before - after)[0, :, 0] > 1e-6).tolist()

    forwards, backwards = get_lstm_model(10), get_lstm_model(10, backwards=True)
    assert moves(forwards, 0) == moves(backwards, -1) == [True] * 10
    assert moves(forwards, -1) == moves(backwards, 0) == [False] * 9 + [True]
    both = get_bi_lstm_model(10)
    assert both.layers[0].merge_mode == "concat"
    assert moves(both, 0) == moves(both, -1) == [True] * 10


@pytest.mark.parametrize("mode", MODES)
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
