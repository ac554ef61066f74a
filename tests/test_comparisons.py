"""The functions that both comparisons hold, on models and data of the tests' own, and
what both scripts make of their options."""

import contextlib
import functools
import importlib
import io
import logging
import re
import threading
from types import SimpleNamespace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import COMPARISONS, assert_is_picture
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from compare_directions import plot_results, summarize, train_model, train_repeats
from sequence import get_sequences, position_baseline


def get_data(seed):
    """12 sequences of six timesteps with two features, and a label a timestep."""
    rng = np.random.default_rng(seed)
    X = rng.random((12, 6, 2), dtype=np.float32)
    return X, (X.sum(axis=2, keepdims=True) > 1).astype(int)


def get_padded_data(seed):
    """The same, padded to lengths of their own, and one of three classes a sequence."""
    X, _ = get_data(seed)
    lengths = np.random.default_rng(seed).integers(2, 7, len(X))
    X[np.arange(6) >= lengths[:, None]] = 0
    return X, lengths // 3


def get_weighted_data(seed):
    """The padded sequences, with labels and weights a timestep, 0 at the padding."""
    X, _ = get_padded_data(seed)
    weights = np.random.default_rng(seed).random(X.shape[:2]) * (X[:, :, 0] > 0)
    return X, get_data(seed)[1], weights


def compiled(*layers, loss="mse", optimizer="adam"):
    model = keras.Sequential([keras.Input((6, 2)), *layers])
    model.compile(loss=loss, optimizer=optimizer)
    return model


def gru():
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    rnn = keras.layers.GRU(3, return_sequences=True)
    optimizer = keras.optimizers.RMSprop(0.01)
    return compiled(rnn, keras.layers.Dense(1), loss=loss, optimizer=optimizer)


def conv():
    layer = keras.layers.Conv1D(3, 2, padding="causal")
    return compiled(layer, keras.layers.Dense(1))


def regularized(dropout=0.0):
    gru = keras.layers.GRU(
        3, return_sequences=True, kernel_regularizer="l2", activity_regularizer="l1"
    )
    layers = [gru, keras.layers.BatchNormalization(), keras.layers.Dropout(dropout)]
    return compiled(*layers, keras.layers.Dense(1))


def nested():
    """A functional model of a model, with random state, and a loss of the test's own."""
    inputs = keras.Input((6, 2))
    inner = keras.Sequential([keras.Input((6, 2)), keras.layers.Dense(3)])
    outputs = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(inputs))
    outputs = keras.layers.Concatenate()([inner(inputs), keras.ops.flip(outputs, 1)])
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    model.compile(loss=lambda y, yhat: keras.ops.square(y - yhat), optimizer="adam")
    return model


class Subclassed(keras.Model):
    """A model that has no weights before it is called."""

    def __init__(self):
        super().__init__()
        self.rnn = keras.layers.LSTM(3, return_sequences=True)
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(self.rnn(inputs))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6, 2)))
    model.compile(loss="mse", optimizer="adam")
    return model


def frozen():
    """Weights that were trained elsewhere, and are not to be trained or drawn anew."""
    pretrained = keras.layers.LSTM(3, return_sequences=True)
    model = keras.Sequential([keras.Input((6, 2)), pretrained, keras.layers.Dense(1)])
    pretrained.set_weights([np.full(w.shape, 0.1) for w in pretrained.get_weights()])
    pretrained.trainable = False
    model.compile(loss="mse", optimizer="adam")
    return model


def adapted():
    normalization = keras.layers.Normalization()
    normalization.adapt(7 * get_data(99)[0] + 5)
    return compiled(normalization, keras.layers.LSTM(3, return_sequences=True))


def scaled():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    return compiled(keras.layers.GRU(1, return_sequences=True), optimizer=optimizer)


def mixed():
    keras.config.set_dtype_policy("mixed_float16")
    rnn = keras.layers.LSTM(3, return_sequences=True)
    model = compiled(rnn, keras.layers.Dense(1, dtype="float32"))
    keras.config.set_dtype_policy("float32")
    return model


def masked():
    layers = [keras.layers.Masking(), keras.layers.Bidirectional(keras.layers.LSTM(3))]
    classes = keras.layers.Dense(3, activation="softmax")
    return compiled(*layers, classes, loss="sparse_categorical_crossentropy")


def masked_timesteps():
    rnn = keras.layers.LSTM(3, return_sequences=True)
    return compiled(keras.layers.Masking(), rnn, keras.layers.Dense(1))


def get_padded_data_with_timesteps(seed):
    return get_padded_data(seed)[0], get_data(seed)[1]


def weighted():
    rnn = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    return compiled(rnn, keras.layers.Dense(1, activation="sigmoid"), loss=loss)


def weighted_and_masked():
    rnn = keras.layers.LSTM(3, return_sequences=True)
    return compiled(keras.layers.Masking(), rnn, keras.layers.Dense(1))


class OfInputs(Subclassed):
    """A model whose loss, the Keras 3 way, counts what follows from its inputs."""

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        error = keras.ops.square(keras.ops.cast(y, "float32") - y_pred)
        return keras.ops.mean(keras.ops.cast(x[..., :1] > 0.3, "float32") * error)


def of_inputs():
    model = OfInputs()
    model(np.zeros((1, 6, 2)))
    model.compile(optimizer="adam")
    return model


def spectral():
    """A layer that divides its weights by their norm as it is called, for good."""
    dense = keras.layers.SpectralNormalization(keras.layers.Dense(3))
    return compiled(dense, keras.layers.Dense(1), optimizer=keras.optimizers.Adam(0.1))


class Normed(keras.layers.Layer):
    """A layer of somebody's own, that does the same."""

    def build(self, input_shape):
        self.kernel = self.add_weight((input_shape[-1],), "random_normal")

    def call(self, inputs):
        self.kernel.assign(self.kernel / keras.ops.norm(self.kernel))
        return inputs * self.kernel


def normed():
    layers = [Normed(), keras.layers.Dense(1)]
    return compiled(*layers, optimizer=keras.optimizers.Adam(0.1))


CASES = [
    (gru, get_data, 1e-5),
    (conv, get_data, 1e-5),
    (regularized, get_data, 1e-5),
    (subclassed, get_data, 1e-5),
    (frozen, get_data, 1e-5),
    (adapted, get_data, 1e-5),
    (scaled, get_data, 1e-5),
    (mixed, get_data, 2e-3),
    (masked, get_padded_data, 1e-5),
    (masked_timesteps, get_padded_data_with_timesteps, 1e-5),
    (weighted, get_weighted_data, 1e-5),
    (weighted_and_masked, get_weighted_data, 1e-5),
    (of_inputs, get_data, 1e-5),
    (spectral, get_data, 1e-5),
    (normed, get_data, 1e-5),
]


def fit(build, data, seed, batch_size):
    """The oracle: a model that Keras's own fit has trained, and its losses."""
    keras.utils.set_random_seed(seed)
    model = build()
    model.run_eagerly = True  # so few updates are done sooner than compiled
    X, y, *weight = data
    n_updates = len(X) // batch_size
    options = {"batch_size": batch_size, "steps_per_epoch": 1, "shuffle": False}
    options["sample_weight"] = weight[0] if weight else None
    history = model.fit(X, y, epochs=n_updates, verbose=0, **options)
    return model, history.history["loss"]


@pytest.mark.parametrize(
    ("batch_size", "jit", "cases"),
    [
        (6, True, CASES[::3]),
        (6, False, CASES[1::3] + CASES[2::3]),
        (1, True, CASES[10:11]),
    ],
)
def test_anybodys_models_are_trained_in_a_worker_thread_as_fit_trains_them(
    batch_size, jit, cases
):
    """With the second seed, which the models of the first are given new weights for."""
    trained = {}

    def work(builders, get_data):
        repeats = train_repeats(builders, get_data, [5, 9], batch_size, jit)
        for losses, models in repeats:
            for name in builders:
                trained[name] = losses[name], models[name].get_weights()

    for data in dict.fromkeys(data for _, data, _ in cases):
        builders = {b.__name__: b for b, of_case, _ in cases if of_case == data}
        thread = threading.Thread(target=work, args=(builders, data))
        thread.start()
        thread.join()
    for build, data, tolerance in cases:
        losses, weights = trained[build.__name__]
        model, expected = fit(build, data(9), 9, batch_size)
        rows = [(9, epoch) for epoch in range(1, 12 // batch_size + 1)]
        assert losses.index.names == ["seed", "epoch"] and losses.index.tolist() == rows
        np.testing.assert_allclose(losses, expected, atol=tolerance)
        for weight, of_fit in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, of_fit, atol=10 * tolerance)


def test_models_score_held_out_data_inside_the_loop():
    X, y = get_data(77)
    for losses, models in train_repeats({"conv": conv}, get_data, [3, 4], 6):
        seed = int(losses.index[0][0])
        model, _ = fit(conv, get_data(seed), seed, 6)
        held_out = models["conv"].evaluate(X, y, verbose=0)
        assert held_out == pytest.approx(model.evaluate(X, y, verbose=0), abs=1e-5)


def test_runs_of_seeds_join_to_the_last_bit():
    builders = {"conv": conv, "nested": nested}
    whole = [losses for losses, _ in train_repeats(builders, get_data, range(4))]
    # What was learned before is left out.
    part = train_repeats(builders, get_data, [2, 3])
    for losses, (again, _) in zip(whole[2:], part, strict=True):
        pd.testing.assert_frame_equal(losses, again, check_exact=True)


def test_repeats_are_trained_one_at_a_time():
    asked = []

    def get_data_and_tell(seed):
        asked.append(seed)
        return get_data(seed)

    repeats = train_repeats({"conv": conv}, get_data_and_tell, range(9), jit=False)
    assert asked == []
    next(repeats)
    next(repeats)
    assert asked == [0, 1]


def around(layer):
    """A builder that puts a new model around somebody's layer."""
    return lambda: compiled(layer, keras.layers.Dense(1))


def new_lstm():
    return keras.layers.LSTM(3, return_sequences=True)


def test_layers_shared_between_calls_are_refused():
    """From the second seed on they would start trained."""
    builders = {"right": conv, "mine": around(new_lstm())}
    with pytest.raises(ValueError, match="builder of mine must make its layers anew"):
        next(train_repeats(builders, get_data, [1, 2], 6, jit=False))


def test_layers_shared_between_builders_are_refused():
    """Both models would train them at once."""
    shared = new_lstm()
    builders = {"right": conv, "mine": around(shared), "yours": around(shared)}
    with pytest.raises(ValueError, match="builder of mine must make its layers anew"):
        next(train_repeats(builders, get_data, [1, 2], 6, jit=False))


def test_builder_that_returns_its_model_again_is_refused():
    model = conv()
    with pytest.raises(ValueError, match="builder of mine must make its layers anew"):
        next(train_repeats({"mine": lambda: model}, get_data, [1], jit=False))


@pytest.mark.parametrize(
    "new_layer", [new_lstm, lambda: keras.layers.Dense(3)], ids=["lstm", "dense"]
)
def test_frozen_layers_may_be_shared(new_layer):
    pretrained = new_layer()
    build = around(pretrained)
    build()
    pretrained.set_weights([np.full(w.shape, 0.1) for w in pretrained.get_weights()])
    pretrained.trainable = False
    repeats = train_repeats({"a": build, "b": build}, get_data, [1, 2], 6, jit=False)
    losses = pd.concat(losses for losses, _ in repeats)
    assert all((weight == np.float32(0.1)).all() for weight in pretrained.get_weights())
    for seed in (1, 2):
        expected = fit(build, get_data(seed), seed, 6)[1]
        for name in ("a", "b"):
            np.testing.assert_allclose(losses.loc[seed, name], expected, atol=1e-5)


def test_many_models_are_no_reason_for_tensorflow_to_warn():
    """It calls it retracing, ten lines of it, from the fifth model on."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    tf.get_logger().addHandler(handler)
    builders = {name: lambda: compiled(keras.layers.Dense(1)) for name in "abcdef"}
    list(train_repeats(builders, get_data, [1, 2], 6, jit=False))
    tf.get_logger().removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def test_seeds_may_be_numpys():
    def train(seed):
        [(losses, _)] = train_repeats({"conv": conv}, get_data, [seed], jit=False)
        return losses

    assert train(np.int64(3)).equals(train(3))


def test_sequences_that_do_not_fill_whole_batches_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        next(train_repeats({"conv": conv}, get_data, [1], batch_size=7))


@pytest.mark.parametrize("jit", [False, True])
def test_labels_that_are_too_few_are_refused(jit):
    def get_too_few(seed):
        X, y = get_data(seed)
        return X, y[:-1]

    with pytest.raises(ValueError, match="12 and 11"):
        next(train_repeats({"conv": conv}, get_too_few, [1], jit=jit))


def test_dropout_is_that_of_fit_where_xla_draws_no_other_numbers():
    def build():
        return regularized(dropout=0.5)

    [(losses, models)] = train_repeats({"a": build}, get_data, [4], 4, jit=False)
    model, expected = fit(build, get_data(4), 4, 4)
    np.testing.assert_allclose(losses["a"], expected, atol=1e-5)
    for weight, of_fit in zip(models["a"].get_weights(), model.get_weights()):
        np.testing.assert_allclose(weight, of_fit, atol=1e-5)


class OwnTrainStep(Subclassed):
    def train_step(self, data):
        return super().train_step(data)


def test_model_with_a_train_step_of_its_own_is_refused():
    """It would not be called, and train_repeats would train what fit does not."""

    def build():
        model = OwnTrainStep()
        model(np.zeros((1, 6, 2)))
        model.compile(loss="mse", optimizer="adam")
        return model

    with pytest.raises(ValueError, match="train_step .* compute_loss"):
        next(train_repeats({"mine": build}, get_data, [1]))
    with pytest.raises(ValueError, match="train_step .* compute_loss"):
        train_model(build(), get_data(1))


def per_sequence(loss="binary_crossentropy"):
    classes = {"binary_crossentropy": 1}.get(loss, 3)
    activation = "sigmoid" if classes == 1 else "softmax"
    layers = [keras.layers.LSTM(2), keras.layers.Dense(classes, activation=activation)]
    return compiled(*layers, loss=loss)


@pytest.mark.parametrize(("batch_size", "jit"), [(1, True), (6, False), (12, True)])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (masked_timesteps, (12, 6)),
        (masked_timesteps, (12, 1)),
        (masked_timesteps, (12,)),
        (per_sequence, (12, 6, 1)),
    ],
)
def test_labels_of_other_axes_than_the_outputs_are_refused(
    build, shape, batch_size, jit
):
    """Keras would average over timesteps before it masks, or spread them over others."""

    def get_flat_data(seed):
        return get_padded_data(seed)[0], np.ones(shape)

    with pytest.raises(ValueError, match=r"^y is .*, the outputs are .*, 1\)"):
        next(train_repeats({"a": build}, get_flat_data, [1], batch_size, jit))


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("build", [gru, masked_timesteps])
def test_weights_per_sequence_need_an_axis_where_labels_are_per_timestep(
    build, batch_size
):
    """In a batch of as many sequences as timesteps, they would weight the timesteps."""

    def get_wrong(seed):
        return *get_data(seed), np.ones(12)

    with pytest.raises(ValueError, match="^weights must be |a weight per sequence"):
        next(train_repeats({"a": build}, get_wrong, [1], batch_size, jit=False))


@pytest.mark.parametrize("batch_size", [4, 6])
def test_weights_per_sequence_with_their_axis_weight_sequences(batch_size):
    weights = np.random.default_rng(0).random((12, 1))

    def build():
        layers = [new_lstm(), keras.layers.Dense(1, activation="sigmoid")]
        standstill = keras.optimizers.SGD(0.0)
        return compiled(*layers, loss="binary_crossentropy", optimizer=standstill)

    def get_weighted(seed):
        return *get_data(seed), weights

    repeats = train_repeats({"a": build}, get_weighted, [2], batch_size, jit=False)
    [(losses, models)] = repeats
    X, y = get_data(2)
    yhat = np.asarray(models["a"](X))
    of_sequences = -np.log(np.where(y == 1, yhat, 1 - yhat)).mean(axis=1)  # [12, 1]
    expected = (weights * of_sequences).reshape(-1, batch_size).mean(axis=1)
    np.testing.assert_allclose(losses["a"], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_label_per_sequence_needs_no_axis_of_its_own(batch_size):
    def get_labels(seed):
        X, y, weights = get_weighted_data(seed)
        return X, y[:, 0, 0], weights[:, 0]

    repeats = train_repeats({"a": per_sequence}, get_labels, [2], batch_size, jit=False)
    [(losses, _)] = repeats
    expected = fit(per_sequence, get_labels(2), 2, batch_size)[1]
    np.testing.assert_allclose(losses["a"], expected, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "shape"), [(1, (12, 6)), (6, (12, 6, 1))])
def test_classes_need_no_axis_of_their_own(batch_size, shape):
    def build():
        rnn = keras.layers.LSTM(3, return_sequences=True)
        classes = keras.layers.Dense(3, activation="softmax")
        loss = "sparse_categorical_crossentropy"
        return compiled(keras.layers.Masking(), rnn, classes, loss=loss)

    def get_classes(seed):
        y = np.random.default_rng(seed).integers(3, size=(12, 6))
        return get_padded_data(seed)[0], y.reshape(shape)

    repeats = train_repeats({"a": build}, get_classes, [2], batch_size, jit=False)
    [(losses, _)] = repeats
    expected = fit(build, get_classes(2), 2, batch_size)[1]
    np.testing.assert_allclose(losses["a"], expected, atol=1e-5)


def test_labels_at_the_padding_change_nothing():
    def train(label, build, weights):
        X, y = get_padded_data_with_timesteps(3)
        y = np.where(X[:, :, :1] == 0, label, y)
        data = (X, y, weights)
        [(losses, _)] = train_repeats({"a": build}, lambda seed: data, [3], 6, False)
        return losses

    weights = (get_padded_data(3)[0][:, :, 0] > 0).astype("float32")
    for build in (weighted, weighted_and_masked):
        pd.testing.assert_frame_equal(
            train(0, build, weights), train(1, build, weights)
        )


@pytest.mark.parametrize("shift", [1, -1])
def test_class_numbers_that_xla_takes_silently_are_named(shift):
    def get_classes(seed):
        X, _ = get_data(seed)
        return X, np.arange(12) % 3 + shift

    def build():
        return per_sequence("sparse_categorical_crossentropy")

    [(losses, _)] = train_repeats({"mine": build}, get_classes, [4], 6)
    cause = "model mine, seed 4: .* 1 .* nan .* a label outside 0 to n_classes - 1"
    with pytest.raises(ValueError, match=cause):
        summarize(losses)


def test_nan_in_the_data_is_named():
    def get_gap(seed):
        X, y = get_data(seed)
        X[7, 2] = np.nan
        return X, y

    [(losses, _)] = train_repeats({"mine": conv}, get_gap, [4], 6, jit=False)
    with pytest.raises(ValueError, match="seed 4: .* epoch 2 .* nan in the data"):
        summarize(losses)


def test_another_backend_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="^[^\n]*KERAS_BACKEND=tensorflow[^\n]*$"):
        next(train_repeats({"conv": conv}, get_data, [1]))


def test_names_of_models_may_be_cleared_between_seeds():
    builders = {"gru": gru}
    kept = [
        losses for losses, _ in train_repeats(builders, get_data, range(3), 6, False)
    ]
    cleared = []
    for losses, _ in train_repeats(builders, get_data, range(3), 6, False):
        cleared.append(losses)
        keras.utils.clear_session(free_memory=False)
    pd.testing.assert_frame_equal(pd.concat(kept), pd.concat(cleared), check_exact=True)


def results_of(models, seeds, n_epochs):
    """Random losses, as train_repeats gives them."""
    index = pd.MultiIndex.from_product(
        [seeds, range(1, n_epochs + 1)], names=["seed", "epoch"]
    )
    losses = np.random.default_rng(0).random((len(index), len(models)))
    return pd.DataFrame(losses, index, models)


@pytest.fixture
def results():
    """Random losses of two models, three seeds and sixty epochs."""
    return results_of(["lstm_forw", "mine"], [3, 4, 8], 60)


def in_any_order(results):
    return results.sample(frac=1, random_state=1)


def test_summary_of_any_selection_in_any_order(results):
    loss = results.to_numpy().reshape(3, 60, 2)[:, 10:].mean(axis=1).T
    best = loss.mean(axis=1).argmin()
    summary = summarize(in_any_order(results))
    for i, name in enumerate(["lstm_forw", "mine"]):
        row = summary.loc[name].to_numpy()
        above = loss[i] - loss[best]
        errors = [2 * x.std(ddof=1) / np.sqrt(3) for x in (loss[i], above)]
        expected = [loss[i].mean(), errors[0], above.mean(), errors[1]]
        assert row == pytest.approx(expected)
    # Of one seed there is no error, and of a part of the epochs just that part.
    one = summarize(results.loc[[8]], n_last=60)
    expected = results.to_numpy().reshape(3, 60, 2)[2].mean(axis=0)
    assert one["loss"].to_numpy() == pytest.approx(expected)
    assert one["2 SE"].isna().all()


@pytest.mark.parametrize("n_last", [0, -1])
def test_summary_of_no_epochs_is_refused(n_last, results):
    """pandas would take -1 for all epochs but the first."""
    with pytest.raises(
        ValueError, match=f"n_last must be at least 1, but was {n_last}"
    ):
        summarize(results, n_last)


def test_summary_of_a_file_is_that_of_the_results(results, in_tmp):
    results.to_csv("losses.csv")
    read = pd.read_csv("losses.csv", index_col=["seed", "epoch"])
    pd.testing.assert_frame_equal(summarize(read), summarize(results))


def test_file_read_without_its_index_is_refused(results):
    """Else its epochs would be a model of their own."""
    with pytest.raises((ValueError, KeyError), match="level|MultiIndex"):
        summarize(results.reset_index())


def with_loss(loss):
    def spoil(results):
        results.loc[(8, 60), "mine"] = loss
        return results

    return spoil


def half_written(results):
    """What a full disk leaves of the last seed."""
    return results.iloc[:-40]


def too_short(results):
    return results.iloc[:-1]


def too_long(results):
    more = results.iloc[-1:].rename(index={60: 61}, level="epoch")
    return pd.concat([results, more])


def one_row_twice(results):
    return pd.concat([results, results.iloc[-1:]])


def all_rows_twice(results):
    return pd.concat([results, results])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (with_loss(np.nan), "mine, seed 8: the loss of epoch 60"),
        (with_loss(np.inf), "mine, seed 8: the loss of epoch 60"),
        (half_written, "lstm_forw, seed 8: the loss of epoch 21"),
        (too_short, "lstm_forw, seed 8: the loss of epoch 60"),
        (too_long, "lstm_forw, seed 3: the loss of epoch 61"),
        (one_row_twice, "lstm_forw, seed 8: the loss of epoch 60"),
        (all_rows_twice, "lstm_forw, seed 3: the loss of epoch 1"),
    ],
)
def test_results_that_would_mislead_are_refused_by_their_names(results, spoil, named):
    with pytest.raises(ValueError, match=f"model {named} is .*diverged"):
        summarize(in_any_order(spoil(results)))
    with pytest.raises(ValueError, match=f"model {named} is .*diverged"):
        plot_results(Figure().subplots(), in_any_order(spoil(results)))


def draw(results, **options):
    """The axes, and the line of each model by name."""
    ax = Figure().subplots()
    plot_results(ax, results, **options)
    return ax, {line.get_label(): line for line in ax.lines}


@pytest.mark.parametrize("n_points", [60, 20, 6])
def test_figure_draws_means_of_neighbouring_epochs_in_their_bands(results, n_points):
    ax, lines = draw(in_any_order(results), n_points=n_points)
    assert list(lines) == ["lstm_forw", "mine"]
    width = -(-60 // n_points)
    starts = range(0, 60, width)
    band = ax.collections[1].get_paths()[0].vertices[:, 1]
    losses = results["mine"].to_numpy().reshape(3, 60)
    points = np.array([losses[:, i : i + width].mean(axis=1) for i in starts])
    mean, error = points.mean(axis=1), 2 * points.std(axis=1, ddof=1) / np.sqrt(3)
    middle = [np.arange(60)[i : i + width].mean() + 1 for i in starts]
    np.testing.assert_allclose(lines["mine"].get_xydata(), np.transpose([middle, mean]))
    assert band.max() == pytest.approx((mean + error).max())
    assert band.min() == pytest.approx((mean - error).min())
    # A band has the colour of its line, and the axes say what is drawn.
    for line, band in zip(ax.lines, ax.collections, strict=True):
        assert to_rgb(line.get_color()) == tuple(band.get_facecolor()[0, :3])
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == "loss, ± 2 SE"
    assert ax.get_ylim()[0] == 0


def test_bands_have_the_colours_of_their_lines_on_axes_that_hold_more(results):
    ax = Figure().subplots()
    ax.plot([1, 60], [0.3, 0.3])
    plot_results(ax, results)
    for line, band in zip(ax.lines[1:], ax.collections, strict=True):
        assert to_rgb(band.get_facecolor()[0][:3]) == to_rgb(line.get_color())


@pytest.mark.parametrize("n_epochs", [1, 3, 5000])
def test_figure_of_short_and_long_trainings_of_one_seed(n_epochs):
    results = results_of(["a"], [7], n_epochs)
    ax, lines = draw(results)
    points = lines["a"].get_ydata()
    assert len(points) == min(n_epochs, 25)
    assert all(tick == int(tick) for tick in ax.get_xticks())
    np.testing.assert_allclose(
        points[0], results["a"].iloc[: -(-n_epochs // 25)].mean()
    )
    assert not any(np.isfinite(p.vertices).all() for p in ax.collections[0].get_paths())


# What the scripts make of their options: they run with a stand-in for the training.

KINDS = {
    "compare_directions": {
        "lstm_forw": "forwards",
        "lstm_back": "backwards",
        "bilstm_con": "concat",
    },
    "compare_merge_modes": {
        "bilstm_sum": "sum",
        "bilstm_mul": "mul",
        "bilstm_ave": "ave",
        "bilstm_con": "concat",
    },
}
# No options but those of the files, and all of them.
DEFAULT = SimpleNamespace(
    args=[],
    timesteps=10,
    threshold="length",
    units=20,
    learning_rate=0.001,
    epochs=250,
    seeds=range(1, 31),
    jit=True,
    scale=0.2,  # of the stand-in's random losses, here below the position baseline's
)
OTHER = SimpleNamespace(
    args=["--timesteps", "5", "--threshold", "total", "--units", "3"]
    + ["--learning-rate", "0.02", "--epochs", "30"]
    + ["--repeats", "2", "--seed", "7", "--no-jit"],
    timesteps=5,
    threshold="total",
    units=3,
    learning_rate=0.02,
    epochs=30,
    seeds=range(7, 9),
    jit=False,
    scale=1.0,
)
OPTIONS = {"default": DEFAULT, "other": OTHER}


def describe(model):
    """The kind of a model's first layer, and its sizes and learning rate."""
    layer = model.layers[0]
    if isinstance(layer, keras.layers.Bidirectional):
        kind, units = layer.merge_mode, layer.forward_layer.units
        assert layer.backward_layer.units == units
    else:
        kind, units = ["forwards", "backwards"][layer.go_backwards], layer.units
    return (
        kind,
        units,
        model.input_shape,
        round(float(model.optimizer.learning_rate), 6),
    )


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """Runs a comparison with options, once for all tests, and gives what the stand-in for
    its training was given, and what came of it."""

    @functools.cache
    def run(name, of_options):
        options = OPTIONS[of_options]
        run = SimpleNamespace(options=options, shown=[])
        folder = tmp_path_factory.mktemp(name)

        def stand_in(builders, get_data, seeds, jit):
            run.models = {model: describe(build()) for model, build in builders.items()}
            run.data, run.seeds, run.jit = get_data(7), seeds, jit
            results = results_of(list(builders), seeds, options.epochs) * options.scale
            for seed in seeds:
                yield results.loc[[seed]], {}

        script = importlib.import_module(name)
        files = ["--csv", str(folder / "a.csv"), "--plot", str(folder / "a.png")]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            patch.setattr(script, "train_repeats", stand_in)
            patch.setattr(plt, "show", lambda: run.shown.extend(folder.iterdir()))
            assert script.main([*options.args, *files]) == 0
        run.figure, run.folder = plt.gcf(), folder
        # The first line is the progress bar's.
        _, *run.lines = printed.getvalue().splitlines()
        run.losses = pd.read_csv(folder / "a.csv", index_col=["seed", "epoch"])
        return run

    return run


@pytest.fixture(params=COMPARISONS)
def name(request):
    return request.param


@pytest.fixture(params=OPTIONS)
def run(request, name, run_of):
    return run_of(name, request.param)


def test_options_reach_the_models_the_data_and_the_training(name, run):
    options = run.options
    sizes = (options.units, (None, options.timesteps, 1), options.learning_rate)
    assert run.models == {model: (kind, *sizes) for model, kind in KINDS[name].items()}
    expected = get_sequences(options.epochs, options.timesteps, 7, options.threshold)
    for given, array in zip(run.data, expected, strict=True):
        assert np.array_equal(given, array)
    assert list(run.seeds) == list(options.seeds) and run.jit == options.jit


def statistics(values):
    """The mean, and two standard errors of it."""
    return values.mean(), 2 * values.std(ddof=1) / np.sqrt(len(values))


def test_table_holds_the_statistics_of_the_csv(name, run):
    options = run.options
    models, n_last = list(KINDS[name]), min(50, options.epochs)
    rows = [(s, epoch) for s in options.seeds for epoch in range(1, options.epochs + 1)]
    assert run.losses.index.tolist() == rows and list(run.losses) == models
    cube = run.losses.to_numpy().reshape(-1, options.epochs, len(models))
    last = cube[:, -n_last:].mean(axis=1)  # [seeds, models]
    above = last - last[:, [last.mean(axis=0).argmin()]]
    baseline = position_baseline(options.timesteps, options.threshold)[1]
    expected = [
        [model, *statistics(last[:, i]), *statistics(above[:, i])]
        for i, model in enumerate(models)
    ] + [["position baseline", baseline]]
    for line, (row, *values) in zip(run.lines[4:-1], expected, strict=True):
        assert line.startswith(row + " ")
        printed = [float(number) for number in line.removeprefix(row).split()]
        assert printed == pytest.approx(values, abs=6e-4)


def test_heading_and_setting_are_printed_above_the_table(name, run):
    options = run.options
    heading, setting, columns = run.lines[1:4]
    n_last = min(50, options.epochs)
    assert heading == f"Log loss, mean of the last {n_last} of {options.epochs} epochs"
    assert setting == (
        f"{options.timesteps} timesteps, threshold {options.threshold}, {options.units} "
        f"units, learning rate {options.learning_rate}, repeats: {len(options.seeds)}"
    )
    assert re.split(" {2,}", columns.strip()) == [
        "loss",
        "2 SE",
        "above the best",
        "2 SE, paired",
    ]
    assert all(line.isascii() and len(line) <= 80 for line in run.lines[:-1])


def test_figure_carries_the_printed_table(name, run):
    options = run.options
    [ax], [legend] = run.figure.axes, run.figure.legends
    heading, setting, *table = run.lines[1:-1]
    assert legend.get_title().get_text() == heading
    assert [text.get_text() for text in legend.get_texts()] == table
    # The title says what the table shows.
    losses = {row[:18].strip(): float(row[18:].split()[0]) for row in table[1:]}
    best = min(losses, key=losses.get)
    assert (best == "position baseline") == (options is OTHER)
    message, below = ax.get_title().split("\n")
    assert message.startswith(f"{best} has the lowest ") and below == setting
    # A row of the legend has the colour and marker of the line that its model has.
    rows = zip(ax.lines, legend.legend_handles[1:], table[1:], strict=True)
    for line, handle, row in rows:
        for look in ("get_color", "get_marker", "get_linestyle"):
            assert getattr(line, look)() == getattr(handle, look)()
        if line is not ax.lines[-1]:
            assert row.startswith(line.get_label() + " ")
            points = run.losses[line.get_label()].to_numpy().reshape(-1, options.epochs)
            width = -(-options.epochs // 25)
            assert line.get_ydata()[0] == pytest.approx(points[:, :width].mean())
    baseline = position_baseline(options.timesteps, options.threshold)[1]
    assert ax.lines[-1].get_ydata() == pytest.approx([baseline, baseline])


def test_figure_is_shown_once_all_is_saved(run):
    assert sorted(path.name for path in run.shown) == ["a.csv", "a.png"]
    assert run.lines[-1] == f"Figure saved as {run.folder / 'a.png'}"
    assert_is_picture(run.folder / "a.png")


def test_docstring_tells_the_losses_of_a_run_at_the_defaults(name, default_run):
    _, lines = default_run(name)
    doc = importlib.import_module(name).__doc__
    told = {model: loss for loss, model in re.findall(r"(\d\.\d+)\s\((\w+)", doc)}
    [told["baseline"]] = re.findall(r"position\salone\shas\s(\d\.\d+)", doc)
    printed = dict(
        re.findall(r"^(?:position )?(\w+) +(\d\.\d+)", "\n".join(lines), re.MULTILINE)
    )
    assert len(printed) == len(told) == len(KINDS[name]) + 1
    for model, loss in printed.items():
        assert float(told[model]) == pytest.approx(float(loss), abs=0.002)


def test_default_run_is_thirty_repeats_from_seed_1(name, default_run):
    losses, _ = default_run(name)
    rows = [(seed, epoch) for seed in range(1, 31) for epoch in range(1, 251)]
    assert losses.index.tolist() == rows and list(losses) == list(KINDS[name])


def test_a_model_looks_the_same_in_both_comparisons(run_of):
    looks = {}
    for name in COMPARISONS:
        *lines, _ = run_of(name, "default").figure.axes[0].lines
        look = {x.get_label(): (x.get_color(), x.get_marker()) for x in lines}
        assert looks.get("bilstm_con", look["bilstm_con"]) == look["bilstm_con"]
        looks |= look
    assert len(looks) == 6
    for of_all in zip(*looks.values()):
        assert len(set(of_all)) == 6
