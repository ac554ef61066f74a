"""train_model and train_repeats, which train anybody's models as Keras's fit does.

Each is compared with fit, which trains the same model on the same data, for the losses
and the weights. The models here are small, and are not those of the scripts.
"""

import functools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from compare_directions import train_repeats

DENSE = functools.partial(keras.layers.Dense, 1)


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


def lstm():
    return keras.layers.LSTM(3, return_sequences=True)


def conv():
    return compiled(keras.layers.Conv1D(3, 2, padding="causal"), DENSE())


def regularized():
    options = {"kernel_regularizer": "l2", "activity_regularizer": "l1"}
    gru = keras.layers.GRU(3, return_sequences=True, **options)
    layers = [gru, keras.layers.BatchNormalization(), DENSE()]
    return compiled(*layers, optimizer="rmsprop")


def dropout():
    """A functional model of a model, with random state, and a loss of its own."""
    inputs = keras.Input((6, 2))
    inner = keras.Sequential([keras.Input((6, 2)), keras.layers.Dense(3)])
    outputs = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(inputs))
    outputs = keras.layers.Concatenate()([inner(inputs), keras.ops.flip(outputs, 1)])
    model = keras.Model(inputs, DENSE()(outputs))
    model.compile(loss=lambda y, yhat: keras.ops.square(y - yhat), optimizer="adam")
    return model


class Subclassed(keras.Model):
    """A model that has no weights before it is called."""

    def __init__(self):
        super().__init__()
        self.rnn, self.dense = lstm(), DENSE()

    def call(self, inputs):
        return self.dense(self.rnn(inputs))


class OfInputs(Subclassed):
    """One whose loss, the Keras 3 way, counts what follows from its inputs."""

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        error = keras.ops.square(keras.ops.cast(y, "float32") - y_pred)
        return keras.ops.mean(keras.ops.cast(x[..., :1] > 0.3, "float32") * error)


class OwnTrainStep(Subclassed):
    def train_step(self, data):
        return super().train_step(data)


def subclassed(of=Subclassed):
    model = of()
    model(np.zeros((1, 6, 2)))
    model.compile(loss="mse", optimizer="adam")
    return model


def frozen():
    """Weights that were trained elsewhere, and are not to be trained or drawn anew."""
    pretrained = lstm()
    model = compiled(pretrained, DENSE())
    pretrained.set_weights([np.full(w.shape, 0.1) for w in pretrained.get_weights()])
    pretrained.trainable = False
    model.compile(loss="mse", optimizer="adam")
    return model


def mixed():
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.SGD(0.1)  # which compile puts a LossScaleOptimizer on
    model = compiled(lstm(), DENSE(dtype="float32"), optimizer=optimizer)
    keras.config.set_dtype_policy("float32")
    return model


def masked():
    lstms = keras.layers.Bidirectional(keras.layers.LSTM(3))
    layers = [keras.layers.Masking(), lstms, keras.layers.Dense(3, "softmax")]
    return compiled(*layers, loss="sparse_categorical_crossentropy")


def masked_and_weighted():
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    layers = [keras.layers.Masking(), lstm(), DENSE(activation="sigmoid")]
    return compiled(*layers, loss=loss)


def spectral():
    """A layer that divides its weights by their norm as it is called, for good."""
    dense = keras.layers.SpectralNormalization(keras.layers.Dense(3))
    return compiled(dense, DENSE(), optimizer=keras.optimizers.Adam(0.1))


def fit(build, data, seed, batch_size):
    """The oracle: a model that Keras's own fit has trained, and its losses."""
    keras.utils.set_random_seed(seed)
    model = build()
    model.run_eagerly = True  # so few updates are done sooner than compiled
    X, y, *weight = data
    options = {"batch_size": batch_size, "steps_per_epoch": 1, "shuffle": False}
    options["sample_weight"] = weight[0] if weight else None
    history = model.fit(X, y, epochs=len(X) // batch_size, verbose=0, **options)
    return model, history.history["loss"]


# With XLA, and without. XLA draws other numbers for a dropout.
@pytest.mark.parametrize(
    ("build", "get_data", "batch_size", "jit"),
    [
        (regularized, get_data, 6, False),
        (dropout, get_data, 4, False),
        (functools.partial(subclassed, OfInputs), get_data, 6, False),
        (frozen, get_data, 6, True),
        (mixed, get_data, 6, False),
        (masked, get_padded_data, 12, False),
        (masked_and_weighted, get_weighted_data, 4, True),
        (spectral, get_data, 4, True),
    ],
)
def test_models_are_trained_as_fit_trains_them(build, get_data, batch_size, jit):
    """With the second seed, which the models of the first are given new weights for."""
    options = {"batch_size": batch_size, "jit": jit}
    _, (losses, models) = train_repeats({"a": build}, get_data, [5, 9], **options)
    model, expected = fit(build, get_data(9), 9, batch_size)
    rows = [(9, epoch) for epoch in range(1, 12 // batch_size + 1)]
    assert losses.index.names == ["seed", "epoch"] and losses.index.tolist() == rows
    tolerance = 2e-3 if build is mixed else 1e-5
    np.testing.assert_allclose(losses["a"], expected, atol=tolerance)
    for weight, of_fit in zip(models["a"].get_weights(), model.get_weights()):
        np.testing.assert_allclose(weight, of_fit, atol=3 * tolerance)


@pytest.mark.parametrize(("jit", "builds"), [(True, [conv]), (False, [conv, dropout])])
def test_seeds_join_to_the_last_bit(jit, builds):
    """Another run goes on with later seeds, and NumPy's integers will do."""
    builders = {build.__name__: build for build in builds}
    whole = [x for x, _ in train_repeats(builders, get_data, np.arange(4), 4, jit)]
    part = train_repeats(builders, get_data, [2, 3], 4, jit)
    for losses, (again, _) in zip(whole[2:], part, strict=True):
        pd.testing.assert_frame_equal(losses, again, check_exact=True)


def around(layer):
    """A builder that puts a new model around somebody's layer."""
    return lambda: compiled(layer, DENSE())


def test_layers_that_are_shared_and_trained_are_refused():
    """From the second seed on they would start trained, or two models train them."""
    mine, options = around(lstm()), {"batch_size": 6, "jit": False}
    repeats = train_repeats({"a": conv, "mine": mine}, get_data, [1, 2], **options)
    next(repeats)
    with pytest.raises(ValueError, match="builder of mine must create new layers"):
        next(repeats)
    repeats = train_repeats({"mine": mine, "yours": mine}, get_data, [1], **options)
    with pytest.raises(ValueError, match="builder of yours must create new layers"):
        next(repeats)


def test_frozen_layers_may_be_shared():
    pretrained = frozen().layers[0]
    build = around(pretrained)
    builders = {"a": build, "b": build}
    _, (losses, _) = train_repeats(builders, get_data, [1, 2], 6, jit=False)
    assert all((weight == np.float32(0.1)).all() for weight in pretrained.get_weights())
    expected = fit(build, get_data(2), 2, 6)[1]
    for name in ("a", "b"):
        np.testing.assert_allclose(losses[name], expected, atol=1e-5)


def test_many_models_are_no_reason_for_tensorflow_to_warn(monkeypatch):
    """It calls it retracing, ten lines of it, from the fifth model on."""
    warned = []
    monkeypatch.setattr(tf.get_logger(), "warning", lambda *args: warned.append(args))
    builders = {name: lambda: compiled(DENSE()) for name in "abcdefgh"}
    list(train_repeats(builders, get_data, [1, 2], 6, jit=False))
    assert warned == []


def test_what_would_not_be_trained_as_by_fit_is_refused():
    """Rows that do not fill whole batches, and a train_step that is not called."""
    with pytest.raises(ValueError, match="reshape"):
        next(train_repeats({"a": conv}, get_data, [1], batch_size=7))
    builders = {"a": functools.partial(subclassed, OwnTrainStep)}
    with pytest.raises(ValueError, match="train_step.*compute_loss"):
        next(train_repeats(builders, get_data, [1]))
