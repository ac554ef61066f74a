"""The functions that both comparisons hold, on models and data of the tests' own."""

import threading

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

from compare_directions import (
    half_interval,
    plot_results,
    summarize,
    train_model,
    train_repeats,
)


def get_data(seed):
    """Twelve sequences of six timesteps with two features."""
    rng = np.random.default_rng(seed)
    X = rng.random((12, 6, 2), dtype=np.float32)
    return X, (X.sum(axis=2, keepdims=True) > 1).astype(int)


def own_model(layer):
    model = keras.Sequential([keras.Input((6, 2)), layer, keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(loss=loss, optimizer=keras.optimizers.RMSprop(0.01))
    return model


def own_models():
    return {
        "gru": own_model(keras.layers.GRU(3, return_sequences=True)),
        "conv": own_model(keras.layers.Conv1D(3, 2, padding="causal")),
    }


def nested_model():
    """A functional model of a model, with random state, and a loss of the test's own."""
    inputs = keras.Input((6, 2))
    inner = keras.Sequential([keras.Input((6, 2)), keras.layers.Dense(3)])
    outputs = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(inputs))
    outputs = keras.layers.Concatenate()([inner(inputs), keras.ops.flip(outputs, 1)])
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    model.compile(loss=lambda y, yhat: keras.ops.square(y - yhat), optimizer="adam")
    return model


def fit_losses(model, X, y):
    """The oracle: Keras's own fit, called once a sequence as in the tutorial."""
    fits = [
        model.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0)
        for i in range(len(X))
    ]
    return [fit.history["loss"][0] for fit in fits]


def test_own_models_and_data_are_trained_in_a_worker_thread_as_fit_trains_them():
    models, results = own_models(), []

    def work():
        results.extend(train_repeats(models, get_data, [5, 9]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [losses["seed"].unique().tolist() for losses in results] == [[5], [9]]
    for seed, losses in zip([5, 9], results):
        assert list(losses.columns) == ["model", "seed", "epoch", "loss"]
        for name, model in models.items():
            keras.utils.set_random_seed(seed)
            expected = fit_losses(keras.models.clone_model(model), *get_data(seed))
            of_model = losses[losses["model"] == name]
            assert of_model["epoch"].tolist() == list(range(1, 13))
            np.testing.assert_allclose(of_model["loss"], expected, atol=1e-5)


def test_runs_of_seeds_join_to_the_last_bit():
    models = {"conv": own_models()["conv"], "nested": nested_model()}
    whole = list(train_repeats(models, get_data, range(4)))
    # What was learned before is left out.
    part = train_repeats(models, get_data, [2, 3])
    for losses, again in zip(whole[2:], part, strict=True):
        pd.testing.assert_frame_equal(losses, again, check_exact=True)


def test_repeats_are_trained_one_at_a_time():
    asked = []

    def get_data_and_tell(seed):
        asked.append(seed)
        return get_data(seed)

    repeats = train_repeats(own_models(), get_data_and_tell, range(9), jit=False)
    assert asked == []
    next(repeats)
    next(repeats)
    assert asked == [0, 1]


@pytest.mark.parametrize("jit", [False, True])
def test_train_model_refuses_labels_that_are_too_few(jit):
    X, y = get_data(0)
    train = tf.function(train_model, jit_compile=jit)
    with pytest.raises(ValueError, match="12 and 11"):
        train(own_models()["conv"], X, y[:-1])


@pytest.mark.parametrize(("jit", "dropout"), [(False, 0.5), (True, 0.0)])
def test_train_model_trains_all_that_fit_trains(jit, dropout):
    """Regularizers, moving averages and, where XLA draws no other numbers, dropout."""

    def build():
        gru = keras.layers.GRU(
            3, return_sequences=True, kernel_regularizer="l2", activity_regularizer="l1"
        )
        layers = [gru, keras.layers.BatchNormalization(), keras.layers.Dropout(dropout)]
        model = keras.Sequential([keras.Input((6, 2)), *layers, keras.layers.Dense(1)])
        model.compile(loss="mse", optimizer="adam")
        return model

    keras.utils.set_random_seed(4)
    model = build()
    losses = tf.function(train_model, jit_compile=jit)(model, *get_data(0))
    keras.utils.set_random_seed(4)
    other = build()
    np.testing.assert_allclose(losses, fit_losses(other, *get_data(0)), atol=1e-5)
    for weight, expected in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize(
    # From a printed table of Student's t.
    ("n_repeats", "t"),
    [(2, 12.706), (3, 4.303), (8, 2.365), (10, 2.262), (30, 2.045), (101, 1.984)],
)
def test_half_interval_is_a_printed_table_times_the_standard_error(n_repeats, t):
    repeats = pd.DataFrame({"a": np.arange(n_repeats), "b": 3.0})
    error = np.std(np.arange(n_repeats), ddof=1) / np.sqrt(n_repeats)
    half = half_interval(repeats)
    assert half["a"] == pytest.approx(t * error, rel=5e-3)
    assert half["b"] == 0


@pytest.fixture
def results():
    """Random losses of two models, three seeds and sixty epochs, in random order."""
    index = pd.MultiIndex.from_product(
        [["lstm_forw", "mine"], [3, 4, 8], range(1, 61)],
        names=["model", "seed", "epoch"],
    )
    losses = np.random.default_rng(0).random(len(index))
    return pd.Series(losses, index, name="loss").reset_index()


def test_summary_of_any_selection_in_any_order(results):
    loss = results["loss"].to_numpy().reshape(2, 3, 60)[:, :, 10:].mean(axis=2)
    best = loss.mean(axis=1).argmin()
    summary = summarize(results.sample(frac=1, random_state=1))
    t = 4.3027  # Student's of two degrees of freedom
    for i, name in enumerate(["lstm_forw", "mine"]):
        row = summary.loc[name].to_numpy()
        above = loss[i] - loss[best]
        half = [t * x.std(ddof=1) / np.sqrt(3) for x in (loss[i], above)]
        expected = [loss[i].mean(), half[0], above.mean(), half[1]]
        assert row == pytest.approx(expected, rel=5e-3)
    # Of one seed there is no interval, and of a part of the epochs just that part.
    one = summarize(results[results["seed"] == 8], n_last=60)
    expected = results["loss"].to_numpy().reshape(2, 3, 60)[:, 2].mean(axis=1)
    assert one["log loss"].to_numpy() == pytest.approx(expected)
    assert one["± 95%"].isna().all()


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_summary_of_a_diverged_training_is_refused(results, loss):
    results.loc[results["epoch"] == 60, "loss"] = loss
    with pytest.raises(ValueError, match="diverged"):
        summarize(results)


def test_summary_is_of_the_seeds_that_all_models_have(results):
    cut = results[(results["model"] != "mine") | (results["seed"] != 8)]
    expected = summarize(results[results["seed"] != 8])
    pd.testing.assert_frame_equal(summarize(cut), expected)


@pytest.mark.parametrize("n_points", [60, 20, 7])
def test_figure_draws_means_of_neighbouring_epochs_in_their_bands(results, n_points):
    ax = Figure().subplots()
    plot_results(ax, results.sample(frac=1, random_state=1), n_points=n_points)
    width = -(-60 // n_points)
    starts = range(0, 60, width)
    mine = [line.get_label() for line in ax.lines].index("mine")
    line, band = ax.lines[mine], ax.collections[mine].get_paths()[0].vertices[:, 1]
    losses = results["loss"].to_numpy().reshape(2, 3, 60)[1]  # of "mine"
    points = np.array([losses[:, i : i + width].mean(axis=1) for i in starts])
    mean, half = points.mean(axis=1), 4.3027 * points.std(axis=1, ddof=1) / np.sqrt(3)
    middle = [np.arange(60)[i : i + width].mean() + 1 for i in starts]
    np.testing.assert_allclose(line.get_xydata(), np.transpose([middle, mean]))
    assert band.max() == pytest.approx((mean + half).max(), rel=5e-3)
    assert band.min() == pytest.approx((mean - half).min(), abs=5e-3)


@pytest.mark.parametrize("n_epochs", [1, 30])
def test_figure_tells_six_models_apart(n_epochs):
    epochs = pd.RangeIndex(1, n_epochs + 1)
    index = pd.MultiIndex.from_product(
        [list("abcdef"), [1, 2], epochs], names=["model", "seed", "epoch"]
    )
    losses = 0.01 * np.random.default_rng(0).random(len(index))
    ax = Figure().subplots()
    plot_results(ax, pd.Series(losses, index, name="loss").reset_index())
    assert len({line.get_color() for line in ax.lines}) == 6
    assert len({line.get_marker() for line in ax.lines}) == 6


def test_figure_of_long_trainings_has_at_most_50_points_and_one_seed_its_raw_losses():
    epochs = np.arange(1, 5001)
    losses = np.random.default_rng(0).random(5000)
    columns = {"model": "a", "seed": 7, "epoch": epochs, "loss": losses}
    ax = Figure().subplots()
    plot_results(ax, pd.DataFrame(columns).sample(frac=1, random_state=1))
    mean, raw = ax.lines
    assert 10 <= len(mean.get_xdata()) <= 50
    np.testing.assert_allclose(mean.get_ydata()[0], losses[:200].mean())
    np.testing.assert_allclose(raw.get_ydata(), losses)
    assert raw.get_alpha() < 0.5
