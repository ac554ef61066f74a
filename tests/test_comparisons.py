"""The functions that both comparisons hold, on models and data of the tests' own."""

import threading

import keras
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from compare_directions import (
    half_interval,
    plot_results,
    summarize,
    train_repeats,
)


def get_data(seed):
    """48 sequences of six timesteps with two features, and a label a timestep."""
    rng = np.random.default_rng(seed)
    X = rng.random((48, 6, 2), dtype=np.float32)
    return X, (X.sum(axis=2, keepdims=True) > 1).astype(int)


def get_padded_data(seed):
    """The same, padded to lengths of their own, and one of three classes a sequence."""
    X, _ = get_data(seed)
    lengths = np.random.default_rng(seed).integers(2, 7, len(X))
    X[np.arange(6) >= lengths[:, None]] = 0
    return X, lengths // 3


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
]


def fit(build, data, seed, batch_size):
    """The oracle: a model that Keras's own fit has trained, and its losses."""
    keras.utils.set_random_seed(seed)
    model = build()
    model.run_eagerly = True  # so few updates are done sooner than compiled
    X, y = data
    n_updates = len(X) // batch_size
    options = {"batch_size": batch_size, "steps_per_epoch": 1, "shuffle": False}
    history = model.fit(X, y, epochs=n_updates, verbose=0, **options)
    return model, history.history["loss"]


@pytest.mark.parametrize(
    ("batch_size", "jit", "cases"),
    [(16, True, CASES[::2]), (16, False, CASES[1::2]), (1, True, CASES[-1:])],
)
def test_anybodys_models_are_trained_in_a_worker_thread_as_fit_trains_them(
    batch_size, jit, cases
):
    """With the second seed, which the models of the first are given new weights for."""
    trained = {}

    def work(builders, get_data):
        repeats = train_repeats(builders, get_data, [5, 9], batch_size, jit)
        for losses, models in repeats:
            for name, rows in losses.groupby("model"):
                trained[name] = rows, models[name].get_weights()

    for data in dict.fromkeys(data for _, data, _ in cases):
        builders = {b.__name__: b for b, of_case, _ in cases if of_case == data}
        thread = threading.Thread(target=work, args=(builders, data))
        thread.start()
        thread.join()
    for build, data, tolerance in cases:
        rows, weights = trained[build.__name__]
        model, expected = fit(build, data(9), 9, batch_size)
        assert list(rows.columns) == ["model", "seed", "epoch", "loss"]
        assert rows["seed"].unique().tolist() == [9]
        assert rows["epoch"].tolist() == list(range(1, 48 // batch_size + 1))
        np.testing.assert_allclose(rows["loss"], expected, atol=tolerance)
        for weight, of_fit in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, of_fit, atol=10 * tolerance)


def test_models_score_held_out_data_inside_the_loop():
    X, y = get_data(77)
    for losses, models in train_repeats({"conv": conv}, get_data, [3, 4], 16):
        seed = int(losses["seed"].iloc[0])
        model, _ = fit(conv, get_data(seed), seed, 16)
        held_out = models["conv"].evaluate(X, y, verbose=0)
        assert held_out == pytest.approx(model.evaluate(X, y, verbose=0), abs=1e-5)


def drawn_by_numpy():
    model = conv()
    model.set_weights([np.random.normal(size=w.shape) for w in model.get_weights()])
    return model


def test_runs_of_seeds_join_to_the_last_bit():
    builders = {"conv": conv, "nested": nested, "numpy": drawn_by_numpy}
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


def test_builder_that_returns_a_trained_model_again_is_refused():
    model = conv()
    repeats = train_repeats({"mine": lambda: model}, get_data, [1, 2], jit=False)
    next(repeats)
    with pytest.raises(ValueError, match="builder of mine .* new model"):
        next(repeats)


def test_seeds_may_be_numpys():
    def train(seed):
        [(losses, _)] = train_repeats({"conv": conv}, get_data, [seed], jit=False)
        return losses["loss"]

    assert train(np.int64(3)).equals(train(3))


def test_sequences_that_do_not_fill_whole_batches_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        next(train_repeats({"conv": conv}, get_data, [1], batch_size=7))


@pytest.mark.parametrize("jit", [False, True])
def test_labels_that_are_too_few_are_refused(jit):
    def get_too_few(seed):
        X, y = get_data(seed)
        return X, y[:-1]

    with pytest.raises(ValueError, match="48 and 47"):
        next(train_repeats({"conv": conv}, get_too_few, [1], jit=jit))


def test_dropout_is_that_of_fit_where_xla_draws_no_other_numbers():
    def build():
        return regularized(dropout=0.5)

    [(losses, models)] = train_repeats({"a": build}, get_data, [4], 4, jit=False)
    model, expected = fit(build, get_data(4), 4, 4)
    np.testing.assert_allclose(losses["loss"], expected, atol=1e-5)
    for weight, of_fit in zip(models["a"].get_weights(), model.get_weights()):
        np.testing.assert_allclose(weight, of_fit, atol=1e-5)


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
    assert one["loss"].to_numpy() == pytest.approx(expected)
    assert one["± 95%"].isna().all()


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_summary_of_a_diverged_training_is_refused(results, loss):
    results.loc[results["epoch"] == 60, "loss"] = loss
    with pytest.raises(ValueError, match="diverged"):
        summarize(results)


def half_written(results):
    """What a full disk leaves of the last seed."""
    return results[(results["seed"] != 8) | (results["epoch"] <= 20)]


def too_short(results):
    of_one = (results["model"] == "mine") & (results["seed"] == 8)
    return results[~of_one | (results["epoch"] <= 59)]


def too_long(results):
    more = pd.DataFrame({"model": "mine", "seed": [8], "epoch": 61, "loss": 0.5})
    return pd.concat([results, more])


def of_two_lengths(results):
    """A model trained half as long as the other in each of its seeds."""
    return results[(results["model"] != "mine") | (results["epoch"] <= 30)]


def one_row_twice(results):
    again = results.query("model == 'mine' and seed == 8 and epoch == 60")
    return pd.concat([results, again])


def all_rows_twice(results):
    return pd.concat([results, results])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (half_written, "lstm_forw, seed 8: epoch 21"),
        (too_short, "mine, seed 8: epoch 60"),
        (too_long, "mine, seed 8: epoch 61"),
        (of_two_lengths, "mine, seed 3: epoch 31"),
        (one_row_twice, "mine, seed 8: epoch 60"),
        (all_rows_twice, "lstm_forw, seed 3: epoch 1"),
    ],
)
def test_results_that_would_mislead_are_refused_by_their_names(results, spoil, named):
    spoilt = spoil(results).sample(frac=1, random_state=1)
    with pytest.raises(ValueError, match=f"model {named} "):
        summarize(spoilt)
    with pytest.raises(ValueError, match=f"model {named} "):
        plot_results(Figure().subplots(), spoilt)


def draw(results, **options):
    """The axes, and the lines of the models by name, with what else their labels say."""
    ax = Figure().subplots()
    plot_results(ax, results, **options)
    labels = {line: line.get_label() for line in ax.lines}
    lines = {label.split("  ")[0]: line for line, label in labels.items()}
    return ax, lines, {name: lines[name].get_label() for name in lines}


def test_seeds_that_a_model_lacks_are_left_out(results):
    cut = results[(results["model"] != "mine") | (results["seed"] != 8)]
    rest = results[results["seed"] != 8]
    pd.testing.assert_frame_equal(summarize(cut), summarize(rest))
    for name, line in draw(cut)[1].items():
        expected = draw(rest)[1][name].get_xydata()
        np.testing.assert_allclose(line.get_xydata(), expected)


@pytest.mark.parametrize("n_points", [60, 20, 6])
def test_figure_draws_means_of_neighbouring_epochs_in_their_bands(results, n_points):
    ax, lines, _ = draw(results.sample(frac=1, random_state=1), n_points=n_points)
    width = -(-60 // n_points)
    starts = range(0, 60, width)
    band = ax.collections[list(lines).index("mine")].get_paths()[0].vertices[:, 1]
    losses = results["loss"].to_numpy().reshape(2, 3, 60)[1]  # of "mine"
    points = np.array([losses[:, i : i + width].mean(axis=1) for i in starts])
    mean, half = points.mean(axis=1), 4.3027 * points.std(axis=1, ddof=1) / np.sqrt(3)
    middle = [np.arange(60)[i : i + width].mean() + 1 for i in starts]
    np.testing.assert_allclose(lines["mine"].get_xydata(), np.transpose([middle, mean]))
    assert band.max() == pytest.approx((mean + half).max(), rel=5e-3)
    assert band.min() == pytest.approx((mean - half).min(), abs=5e-3)


def test_legend_carries_the_numbers_of_the_summary(results):
    summary = summarize(results, n_last=20)
    best = summary["loss"].idxmin()
    [other] = set(summary.index) - {best}
    loss, _, above, half = summary.loc[other]
    labels = draw(results, n_last=20)[2]
    assert labels[best] == f"{best}  {summary.loc[best, 'loss']:.3f}"
    assert labels[other] == f"{other}  {loss:.3f}, +{above:.3f} ± {half:.3f}"
    of_one_seed = draw(results[results["seed"] == 3])[2]
    assert all("±" not in label for label in of_one_seed.values())
    assert sum("+" in label for label in of_one_seed.values()) == 1


def results_of(models, seeds, n_epochs):
    index = pd.MultiIndex.from_product(
        [models, seeds, range(1, n_epochs + 1)], names=["model", "seed", "epoch"]
    )
    losses = 0.01 * np.random.default_rng(0).random(len(index))
    return pd.Series(losses, index, name="loss").reset_index()


def test_two_seeds_whose_interval_is_endless_leave_the_means_readable():
    results = results_of(["a"], [1, 2], 30)
    results["loss"] += results["seed"]
    ax, lines, _ = draw(results)
    low, high = ax.get_ylim()
    mean = lines["a"].get_ydata()
    assert low <= mean.min() and mean.max() <= high
    assert high - low < 2 * np.ptp(mean)
    assert np.ptp(ax.collections[0].get_paths()[0].vertices[:, 1]) > 10


@pytest.mark.parametrize("n_epochs", [1, 30])
def test_figure_tells_twelve_models_apart(n_epochs):
    lines = draw(results_of(list("abcdefghijkl"), [1, 2], n_epochs))[1].values()
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 12
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 12


def test_figure_of_long_trainings_has_at_most_50_points_and_one_seed_no_band():
    results = results_of(["a"], [7], 5000)
    ax, lines, _ = draw(results.sample(frac=1, random_state=1))
    points = lines["a"].get_ydata()
    assert 10 <= len(points) <= 50
    np.testing.assert_allclose(points[0], results["loss"][:200].mean())
    assert not any(np.isfinite(p.vertices).all() for p in ax.collections[0].get_paths())
