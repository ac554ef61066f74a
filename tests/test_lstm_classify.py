import signal

import keras
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lstm_classify import ctrl_c_stops, get_lstm_model, plot_sequence, plot_training
from sequence import get_sequences


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


def test_sizes_direction_and_learning_rate_are_arguments():
    model = get_lstm_model(
        7, backwards=True, n_units=3, n_features=2, learning_rate=0.02
    )
    assert np.asarray(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert model.input_shape == (None, 7, 2) and model.output_shape == (None, 7, 1)
    assert model.count_params() == 4 * 3 * (2 + 3 + 1) + 3 + 1
    assert model.layers[0].go_backwards


def test_units_are_not_taken_for_a_direction():
    with pytest.raises(TypeError):
        get_lstm_model(10, 32)


def test_without_a_length_it_takes_sequences_of_any():
    model = get_lstm_model(None, n_units=2)
    for n_timesteps in (3, 8):
        X, _ = get_sequences(2, n_timesteps, rng=0)
        assert model.predict(X, verbose=0).shape == (2, n_timesteps, 1)


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
    expected = np.asarray(tutorials(X))
    np.testing.assert_allclose(np.asarray(model(X)), expected, atol=1e-6)


@pytest.fixture
def axes():
    return Figure().subplots()


@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_every_loss_is_drawn_at_its_epoch(kind, axes):
    losses = np.linspace(0.7, 0.1, 80)
    plot_training(axes, kind(losses), 0.25)
    epochs, mean, baseline = axes.lines
    assert mean.get_label() == "mean of the last 50"
    assert epochs.get_xdata().tolist() == list(range(1, 81))
    assert epochs.get_ydata().tolist() == pytest.approx(losses)
    assert mean.get_ydata()[-1] == pytest.approx(losses[-50:].mean())
    assert baseline.get_ydata() == [0.25, 0.25]
    # The axes say what is drawn.
    rows = [text.get_text() for text in axes.get_legend().get_texts()]
    assert rows == ["one epoch", "mean of the last 50", "position baseline"]
    assert rows == [line.get_label() for line in axes.lines]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "log loss (nats)")
    assert axes.get_ylim()[0] == 0


def test_a_single_epoch_has_whole_ticks(axes):
    plot_training(axes, [0.7], 0.25)
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_mean_of_fewer_epochs_than_50_is_named_so(axes):
    plot_training(axes, [0.7, 0.5, 0.3], 0.25)
    _, mean, _ = axes.lines
    assert mean.get_ydata().tolist() == pytest.approx([0.7, 0.6, 0.5])
    assert mean.get_label() == "mean of the last 3"


@pytest.mark.parametrize("n_timesteps", [1, 10, 50])
def test_both_panels_have_the_same_whole_ticks(n_timesteps):
    upper, lower = Figure().subplots(2)
    X, y = get_sequences(1, n_timesteps, rng=0)
    plot_sequence(upper, lower, X[0, :, 0], y[0, :, 0], X[0, :, 0], n_timesteps / 4)
    assert upper.get_xlim() == lower.get_xlim() == (0.5, n_timesteps + 0.5)
    ticks = lower.get_xticks().tolist()
    assert upper.get_xticks().tolist() == ticks and all(t == int(t) for t in ticks)
    seen = [tick for tick in ticks if 1 <= tick <= n_timesteps]
    assert min(n_timesteps, 3) <= len(seen) <= 10
    assert lower.get_xlabel() == "timestep"


@pytest.mark.parametrize("n_wrong", [0, 2])
def test_wrong_timesteps_are_shaded_in_the_colour_of_the_legend(n_wrong):
    upper, lower = Figure().subplots(2)
    X = np.array([0.6, 0.6, 0.1, 0.9])
    y = np.array([0, 1, 1, 1])
    yhat = np.array([0.1, 0.9, 0.2 if n_wrong else 0.8, 0.2 if n_wrong else 0.8])
    plot_sequence(upper, lower, X, y, yhat, 1)
    shaded = [bar for bar in lower.patches if bar.get_height()]
    assert [bar.get_x() for bar in shaded] == [2.5, 3.5][:n_wrong]
    assert all(bar.get_width() == bar.get_height() == 1 for bar in shaded)
    _, labels = lower.get_legend_handles_labels()
    swatch = lower.get_legend().legend_handles[labels.index("wrong prediction")]
    assert all(bar.get_facecolor() == swatch.get_facecolor() for bar in lower.patches)


def test_sums_and_threshold_are_drawn_above_and_probabilities_below():
    upper, lower = Figure().subplots(2)
    X, yhat = np.array([0.5, 0.25, 0.75]), np.array([0.1, 0.4, 0.7])
    plot_sequence(upper, lower, X, np.array([0, 0, 1]), yhat, 0.9)
    lines = {
        line.get_label(): line.get_ydata() for line in [*upper.lines, *lower.lines]
    }
    assert lines["sum so far"].tolist() == [0.5, 0.75, 1.5]
    assert set(lines["threshold"]) == {0.9}
    assert lines["probability of 1"].tolist() == [0.1, 0.4, 0.7]
    assert lines["expected label"].tolist() == [0, 0, 1]
    assert set(lines["predicts 1 above"]) == {0.5}
    assert [bar.get_height() for bar in upper.patches] == X.tolist()
    of_legends = [
        {text.get_text() for text in ax.get_legend().get_texts()}
        for ax in (upper, lower)
    ]
    assert of_legends[0] == {"value", "sum so far", "threshold"}
    assert of_legends[0] | of_legends[1] == {*lines, "value", "wrong prediction"}


def test_ctrl_c_stops_the_fit_inside_and_no_other():
    model = get_lstm_model(3, n_units=2)
    X, y = get_sequences(4, 3, rng=0)
    press = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: signal.raise_signal(signal.SIGINT)
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="a failure"), ctrl_c_stops(model):
        history = model.fit(X, y, epochs=9, verbose=0, callbacks=[press])
        raise RuntimeError("a failure")
    assert len(history.history["loss"]) == 1
    assert signal.getsignal(signal.SIGINT) == before
