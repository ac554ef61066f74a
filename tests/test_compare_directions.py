import signal

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from compare_directions import (
    average_epochs,
    get_aligned_lstm_model,
    get_bi_lstm_model,
    get_lstm_model,
    get_t_quantile,
    main,
    plot_results,
    summarize,
    train_model,
    train_repeats,
)
from sequence import get_sequences, position_baseline

# The tutorial's models, and whether its labels are to be reversed in time.
MODELS = {
    "lstm_forw": (lambda: get_lstm_model(10, False), 1),
    "lstm_back": (lambda: get_lstm_model(10, True), 1),
    "bilstm_con": (lambda: get_bi_lstm_model(10, "concat"), 1),
    "lstm_back_aligned": (lambda: get_lstm_model(10, True), -1),
}


def fit_losses(build, seed, n_epochs, step=1):
    """The oracle: Keras's own fit, called once a sequence as in the tutorial."""
    X, y = get_sequences(250, 10, rng=seed)
    keras.utils.set_random_seed(seed)
    model, y = build(), y[:, ::step]
    fits = [
        model.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0)
        for i in range(n_epochs)
    ]
    return [fit.history["loss"][0] for fit in fits]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One run of the script that many tests look at: its CSV and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *args, **_: printed.append(args))
        args = ["--aligned", "--repeats", "8", "--seed", "40"]
        files = ["--csv", str(folder / "a.csv"), "--plot", str(folder / "a.png")]
        assert main(args + files) == 0
    lines = "\n".join(str(arg) for args in printed for arg in args).splitlines()
    return pd.read_csv(folder / "a.csv"), lines


def test_csv_is_tidy(study):
    losses, _ = study
    assert list(losses.columns) == ["model", "seed", "epoch", "loss"]
    assert set(losses["model"]) == set(MODELS)
    assert len(losses) == len(losses.drop_duplicates(["model", "seed", "epoch"]))
    assert sorted(losses["seed"].unique()) == list(range(40, 48))
    assert sorted(losses["epoch"].unique()) == list(range(1, 251))
    assert len(losses) == 4 * 8 * 250


@pytest.mark.parametrize("name", list(MODELS))
def test_losses_are_those_of_fit(name, study):
    build, step = MODELS[name]
    losses = study[0].query("model == @name and seed == 41")
    losses = losses.set_index("epoch")["loss"].loc[1:20]
    np.testing.assert_allclose(losses, fit_losses(build, 41, 20, step), atol=1e-4)


def test_no_jit_gives_the_same_losses_over_the_default_epochs(in_tmp, study):
    args = ["--no-jit", "--repeats", "1", "--seed", "40", "--aligned"]
    assert main([*args, "--csv", "b.csv", "--plot", "b.png"]) == 0
    keys = ["model", "seed", "epoch"]
    both = pd.read_csv("b.csv").merge(study[0], on=keys, validate="1:1")
    assert len(both) == 4 * 250
    np.testing.assert_allclose(both["loss_x"], both["loss_y"], atol=1e-4)


def test_runs_of_seeds_join_to_the_last_bit():
    build = {"lstm_forw": MODELS["lstm_forw"][0]}
    whole = train_repeats(build, 30, 10, range(4))
    halves = [train_repeats(build, 30, 10, seeds) for seeds in (range(2), range(2, 4))]
    pd.testing.assert_frame_equal(pd.concat(halves), whole, check_exact=True)


def press_ctrl_c_in_call(n):
    """A builder of models in whose nth call the user presses Ctrl-C."""
    calls = []

    def build():
        calls.append(None)
        if len(calls) == n:
            signal.raise_signal(signal.SIGINT)
        return get_lstm_model(5, n_units=2)

    return build


def test_ctrl_c_keeps_the_seeds_that_all_models_have_finished():
    build = press_ctrl_c_in_call(8)  # two at first, then two a seed: within the third
    results = train_repeats({"a": build, "b": build}, 6, 5, range(7, 20), jit=False)
    assert results.index.names == ["seed", "epoch"]
    assert results.index.levels[0].tolist() == [7, 8, 9] and results.shape == (18, 2)
    assert results.notna().all(axis=None)
    with pytest.raises(KeyboardInterrupt):  # as before
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_the_first_repeat_does_what_it_did_before():
    with pytest.raises(KeyboardInterrupt):
        train_repeats({"a": press_ctrl_c_in_call(2)}, 6, 5, range(3), jit=False)


def test_train_model_compiled_is_fit_on_several_features_too():
    rng = np.random.default_rng(0)
    X = rng.random((12, 6, 3), dtype=np.float32)
    y = rng.integers(0, 2, (12, 6, 1))
    model, other = (get_bi_lstm_model(6, n_units=4, n_features=3) for _ in range(2))
    other.set_weights(model.get_weights())
    losses = tf.function(train_model, jit_compile=True)(model, X, y)
    fit = other.fit(
        X, y, batch_size=1, steps_per_epoch=1, epochs=12, shuffle=False, verbose=0
    )
    np.testing.assert_allclose(losses, fit.history["loss"], atol=1e-5)
    for weight, expected in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_allclose(weight, expected, atol=1e-5)


def test_train_model_names_bad_input():
    with pytest.raises(ValueError, match="X and y .* equally many .* 3 and 2"):
        train_model(None, np.zeros((3, 5, 1)), np.zeros((2, 5, 1)))


def test_go_backwards_gives_its_outputs_in_reversed_order():
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, -1] += 0.5  # the last timestep only

    def moves(model):
        before, after = model.predict(X, verbose=0), model.predict(changed, verbose=0)
        return (np.abs(before - after)[0, :, 0] > 1e-6).tolist()

    assert moves(get_lstm_model(10, False)) == [False] * 9 + [True]
    assert moves(get_lstm_model(10, True)) == [True] * 10
    changed = X.copy()
    changed[0, 0] += 0.5  # the first timestep only
    assert moves(get_lstm_model(10, False)) == [True] * 10
    assert moves(get_lstm_model(10, True)) == [False] * 9 + [True]
    assert moves(get_aligned_lstm_model(10)) == [True] + [False] * 9


def mean_of_last(losses, n_last=50):
    last = losses[losses["epoch"] > losses["epoch"].max() - n_last]
    return {
        name: np.array([rows["loss"].mean() for _, rows in model.groupby("seed")])
        for name, model in last.groupby("model")
    }


def assert_below(lower, higher):
    """That the paired difference's 95% interval is below 0, with Student's t of 7."""
    difference = lower - higher
    half = 2.365 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert len(difference) == 8 and difference.mean() + half < 0


def test_claims_hold_over_several_seeds(study):
    last = mean_of_last(study[0])
    for lstm in ("lstm_forw", "lstm_back", "lstm_back_aligned"):
        assert_below(last["bilstm_con"], last[lstm])
    for forward in ("lstm_forw", "lstm_back_aligned"):
        assert_below(last[forward], last["lstm_back"])
    # After 250 updates neither LSTM beats guessing from the position.
    for lstm in ("lstm_forw", "lstm_back"):
        assert_below(np.full(8, position_baseline(10)[1]), last[lstm])


def test_table_holds_the_statistics_of_the_csv(study):
    losses, lines = study
    last = mean_of_last(losses)
    best = min(last, key=lambda name: last[name].mean())
    table = {line.split()[0]: line for line in lines if line.startswith(("lstm", "bi"))}
    assert list(table) == ["lstm_forw", "lstm_back", "bilstm_con", "lstm_back_aligned"]
    for name, values in last.items():
        cells = [interval(values)]
        cells += ["the best"] if name == best else [interval(values - last[best])]
        assert table[name].split(maxsplit=1)[1].split() == " ".join(cells).split()
    [baseline] = [line for line in lines if line.startswith("position baseline")]
    assert float(baseline.split()[2]) == pytest.approx(0.2387, abs=0.0005)
    assert "Mean of the last 50 of 250 epochs, 8 repeats" in lines


def interval(values):
    half = 2.3646 * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"


@pytest.mark.parametrize(
    # From a printed table of Student's t.
    ("n_repeats", "t"),
    [(2, 12.706), (3, 4.303), (8, 2.365), (30, 2.045), (101, 1.984), (100_001, 1.960)],
)
def test_t_quantile_is_that_of_a_printed_table(n_repeats, t):
    assert get_t_quantile(n_repeats) == pytest.approx(t, abs=6e-4)


def test_one_repeat_has_no_interval(in_tmp, capsys):
    args = ["--repeats", "1", "--epochs", "5", "--no-jit"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "nan" not in printed and "(no interval)" in printed
    assert "Mean of the last 5 of 5 epochs, one repeat" in printed


def test_average_epochs_keeps_short_and_averages_long_trainings():
    index = pd.MultiIndex.from_product([[3, 4], range(1, 11)], names=["seed", "epoch"])
    results = pd.DataFrame({"a": np.arange(20.0)}, index=index)
    assert np.array_equal(average_epochs(results, 10), results)
    averaged = average_epochs(results, 5)["a"]
    assert averaged.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5, 16.5, 18.5]
    assert averaged.index.tolist() == [
        (s, e) for s in (3, 4) for e in (1.5, 3.5, 5.5, 7.5, 9.5)
    ]


def test_figure_draws_a_mean_in_a_band_and_the_baseline(in_tmp):
    index = pd.MultiIndex.from_product(
        [range(3), range(1, 61)], names=["seed", "epoch"]
    )
    values = np.random.default_rng(0).random((180, 2))
    results = pd.DataFrame(values, index=index, columns=["lstm_forw", "mine"])
    figure = plot_results(results, baseline=0.25)
    [ax] = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["lstm_forw", "mine", "position baseline"]
    mean = values.reshape(3, 60, 2).mean(axis=0)
    np.testing.assert_allclose(lines["mine"].get_ydata(), mean[:, 1])
    assert set(lines["position baseline"].get_ydata()) == {0.25}
    half = 4.3027 * values.reshape(3, 60, 2).std(axis=0, ddof=1) / np.sqrt(3)
    band = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((mean + half)[:, 1].max(), abs=1e-3)
    assert band.min() == pytest.approx((mean - half)[:, 1].min(), abs=1e-3)
    best = summarize(results)["loss"].idxmin()
    assert ax.get_title().startswith(f"{best} ends lowest")


def test_the_bilstm_does_not_win_by_its_parameters(study):
    larger = get_lstm_model(10, n_units=31)
    assert larger.count_params() == 4124 > get_bi_lstm_model(10).count_params() == 3561
    builders = {"lstm_31": lambda: get_lstm_model(10, n_units=31)}
    losses = train_repeats(builders, 250, 10, range(40, 48))
    losses = losses.rename_axis(columns="model").stack().rename("loss").reset_index()
    last = mean_of_last(study[0])
    assert_below(last["bilstm_con"], mean_of_last(losses)["lstm_31"])


def test_in_the_long_run_only_the_forward_lstm_passes_the_baseline():
    builders = {name: MODELS[name][0] for name in ("lstm_forw", "lstm_back")}
    last = train_repeats(builders, 3000, 10, range(2)).groupby("seed").tail(500)
    baseline = position_baseline(10)[1]
    assert last["lstm_forw"].mean() < baseline / 2
    assert last["lstm_back"].mean() > 0.85 * baseline


def test_an_lstm_reaches_90_percent_after_1000_sequences():
    model = get_lstm_model(10)
    keras.utils.set_random_seed(1)
    model.set_weights(get_lstm_model(10).get_weights())
    tf.function(train_model, jit_compile=True)(model, *get_sequences(1000, 10, rng=1))
    X, y = get_sequences(1000, 10, rng=1001)
    accuracy = np.mean((model.predict(X, verbose=0) > 0.5) == y)
    assert position_baseline(10)[0] < 0.9 < accuracy < 1
