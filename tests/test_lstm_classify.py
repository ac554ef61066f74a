import keras
import numpy as np
import pytest

from lstm_classify import evaluate_model, get_lstm_model, train_model
from sequence import get_sequences, position_baseline


def test_layers_and_parameters_are_the_tutorials():
    model = get_lstm_model(10)
    lstm, dense = model.layers
    assert isinstance(lstm, keras.layers.LSTM) and lstm.units == 20
    assert lstm.return_sequences and not lstm.go_backwards
    assert isinstance(dense, keras.layers.Dense) and dense.units == 1
    # Four gates of 20 units, each with 1 input, 20 recurrent inputs and a bias.
    assert model.count_params() == 4 * 20 * (1 + 20 + 1) + 20 + 1 == 1781
    assert model.input_shape == model.output_shape == (None, 10, 1)
    assert model.loss == "binary_crossentropy"
    assert isinstance(model.optimizer, keras.optimizers.Adam)


def test_sizes_and_direction_are_arguments():
    model = get_lstm_model(7, backwards=True, n_units=3, n_features=2)
    assert model.input_shape == (None, 7, 2) and model.output_shape == (None, 7, 1)
    assert model.count_params() == 4 * 3 * (2 + 3 + 1) + 3 + 1
    assert model.layers[0].go_backwards


def test_dense_predicts_what_the_tutorials_time_distributed_predicts():
    model, (X, _) = get_lstm_model(10), get_sequences(5, 10, rng=0)
    time_distributed = keras.layers.TimeDistributed(
        keras.layers.Dense(1, activation="sigmoid")
    )
    tutorials = keras.Sequential(
        [
            keras.Input((10, 1)),
            keras.layers.LSTM(20, return_sequences=True),
            time_distributed,
        ]
    )
    tutorials.set_weights(model.get_weights())
    expected = tutorials.predict(X, verbose=0)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-6)


def test_train_model_does_what_the_tutorials_loop_does():
    X, y = get_sequences(20, 10, rng=1)
    model, tutorials = get_lstm_model(10), get_lstm_model(10)
    tutorials.set_weights(model.get_weights())
    history = train_model(model, X, y, verbose=0)
    expected = [
        tutorials.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0).history
        for i in range(len(X))
    ]
    assert isinstance(history, keras.callbacks.History)
    for metric in ("loss", "accuracy"):
        of_the_loop = [epoch[metric][0] for epoch in expected]
        np.testing.assert_allclose(history.history[metric], of_the_loop, atol=1e-5)
    for weight, other in zip(model.get_weights(), tutorials.get_weights()):
        np.testing.assert_allclose(weight, other, atol=1e-5)


def test_evaluate_model_scores_the_model_and_the_baseline():
    model, (X, y) = get_lstm_model(10), get_sequences(50, 10, rng=2)
    scores = evaluate_model(model, X, y, "mine")
    yhat = model.predict(X, verbose=0)
    accuracy = np.mean((yhat > 0.5) == y)
    log_loss = -np.mean(np.log(np.where(y == 1, yhat, 1 - yhat)))
    assert scores.loc["mine"].tolist() == pytest.approx([accuracy, log_loss], abs=1e-5)
    baseline = scores.loc["position baseline"].tolist()
    assert baseline == list(position_baseline(10))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: get_lstm_model(0), ValueError, ["n_timesteps", "at least 1", "0"]),
        (lambda: get_lstm_model(10, n_units=-3), ValueError, ["n_units", "-3"]),
        (lambda: get_lstm_model(2.5), TypeError, ["n_timesteps", "whole", "2.5"]),
        (lambda: get_lstm_model(9, n_features="1"), TypeError, ["n_features", "'1'"]),
        (
            lambda: train_model(None, np.zeros((3, 5, 1)), np.zeros((2, 5, 1))),
            ValueError,
            ["X and y", "equally many", "3 and 2"],
        ),
        (lambda: train_model(None, [], []), ValueError, ["X and y", "0 and 0"]),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message
