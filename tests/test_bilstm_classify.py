import keras
import numpy as np
import pytest

from bilstm_classify import get_bi_lstm_model, train_model
from sequence import get_sequences


@pytest.mark.parametrize(
    ("mode", "parameters"),
    [("concat", 3561), ("sum", 3541), ("mul", 3541), ("ave", 3541)],
)
def test_layers_and_parameters_are_the_tutorials(mode, parameters):
    model = get_bi_lstm_model(10, mode)
    bidirectional, dense = model.layers
    assert isinstance(bidirectional, keras.layers.Bidirectional)
    assert isinstance(bidirectional.forward_layer, keras.layers.LSTM)
    assert bidirectional.forward_layer.units == bidirectional.backward_layer.units == 20
    assert bidirectional.backward_layer.go_backwards
    assert bidirectional.merge_mode == mode
    assert isinstance(dense, keras.layers.Dense) and dense.units == 1
    assert model.count_params() == parameters
    assert model.input_shape == model.output_shape == (None, 10, 1)


def test_concat_is_the_default():
    assert get_bi_lstm_model(10).layers[0].merge_mode == "concat"


def test_train_model_does_what_the_tutorials_loop_does():
    X, y = get_sequences(20, 10, rng=1)
    model, tutorials = get_bi_lstm_model(10), get_bi_lstm_model(10)
    tutorials.set_weights(model.get_weights())
    history = train_model(model, X, y, verbose=0)
    of_the_loop = [
        tutorials.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0)
        for i in range(len(X))
    ]
    losses = [epoch.history["loss"][0] for epoch in of_the_loop]
    np.testing.assert_allclose(history.history["loss"], losses, atol=1e-5)


def test_beats_the_position_baseline_after_1000_sequences(script_results):
    table = script_results.splitlines()[-3:-1]
    (_, accuracy, log_loss), (_, _, baseline_accuracy, baseline_log_loss) = (
        row.split() for row in table
    )
    assert float(accuracy) > float(baseline_accuracy)
    assert float(log_loss) < float(baseline_log_loss)


@pytest.fixture
def script_results(in_tmp, capsys):
    """What the script prints by default, but for the epochs."""
    from bilstm_classify import main

    assert main(["--verbose", "0"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: get_bi_lstm_model(0), ValueError, ["n_timesteps", "at least 1", "0"]),
        (lambda: get_bi_lstm_model(10, n_units=1.5), TypeError, ["n_units", "1.5"]),
        (lambda: get_bi_lstm_model(10, "max"), ValueError, ["mode", "ave", "'max'"]),
        (lambda: get_bi_lstm_model(10, None), ValueError, ["mode", "concat", "None"]),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message
