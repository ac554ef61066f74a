import re

import keras
import numpy as np
import pandas as pd
import pytest

from compare_directions import (
    get_aligned_lstm_model,
    get_bi_lstm_model,
    get_double_lstm_model,
    get_lstm_model,
    main,
    train_repeats,
)
from sequence import get_sequences, position_baseline

# The models, and whether the labels are to be reversed in time for the oracle.
MODELS = {
    "lstm_forw": (lambda: get_lstm_model(10), 1),
    "lstm_back": (lambda: get_lstm_model(10, backwards=True), 1),
    "bilstm_con": (lambda: get_bi_lstm_model(10, "concat"), 1),
    "lstm_back_aligned": (lambda: get_lstm_model(10, backwards=True), -1),
    "lstm_forw_twice": (lambda: get_double_lstm_model(10), 1),
}
SEEDS = range(40, 48)


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
        args = ["--controls", "--repeats", "8", "--seed", "40"]
        files = ["--csv", str(folder / "a.csv"), "--plot", str(folder / "a.png")]
        assert main(args + files) == 0
    lines = "\n".join(str(arg) for args in printed for arg in args).splitlines()
    return pd.read_csv(folder / "a.csv"), lines


def test_csv_is_tidy(study):
    losses, _ = study
    assert list(losses.columns) == ["model", "seed", "epoch", "loss"]
    assert set(losses["model"]) == set(MODELS)
    assert len(losses) == len(losses.drop_duplicates(["model", "seed", "epoch"]))
    assert losses["seed"].unique().tolist() == list(SEEDS)
    assert sorted(losses["epoch"].unique()) == list(range(1, 251))
    assert len(losses) == 5 * 8 * 250


@pytest.mark.parametrize("name", ["bilstm_con", "lstm_back_aligned", "lstm_forw_twice"])
def test_losses_are_those_of_fit(name, study):
    build, step = MODELS[name]
    losses = study[0].query("model == @name and seed == 41")
    losses = losses.set_index("epoch")["loss"].loc[1:10]
    np.testing.assert_allclose(losses, fit_losses(build, 41, 10, step), atol=1e-4)


def test_no_jit_gives_the_same_losses_and_one_repeat_no_interval(in_tmp, study, capsys):
    args = ["--no-jit", "--repeats", "1", "--seed", "40", "--controls"]
    assert main([*args, "--csv", "b.csv", "--plot", "b.png"]) == 0
    printed = capsys.readouterr().out
    assert (
        "learning rate 0.001, repeats: 1\n" in printed and "nan" not in printed.lower()
    )
    [row] = re.findall(r"lstm_forw +(.*)", printed)
    assert len(row.split()) == 2
    keys = ["model", "seed", "epoch"]
    both = pd.read_csv("b.csv").merge(study[0], on=keys, validate="1:1")
    assert len(both) == 5 * 250
    np.testing.assert_allclose(both["loss_x"], both["loss_y"], atol=1e-4)


def test_go_backwards_gives_its_outputs_in_reversed_order():
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, -1] += 0.5  # the last timestep only

    def moves(model):
        before, after = model.predict(X, verbose=0), model.predict(changed, verbose=0)
        return (np.abs(before - after)[0, :, 0] > 1e-6).tolist()

    assert moves(get_lstm_model(10)) == [False] * 9 + [True]
    assert moves(get_lstm_model(10, backwards=True)) == [True] * 10
    changed = X.copy()
    changed[0, 0] += 0.5  # the first timestep only
    assert moves(get_lstm_model(10)) == [True] * 10
    assert moves(get_lstm_model(10, backwards=True)) == [False] * 9 + [True]
    assert moves(get_aligned_lstm_model(10)) == [True] + [False] * 9


def test_aligned_model_is_saved_and_loaded(in_tmp):
    X, _ = get_sequences(3, 10, rng=0)
    model = get_aligned_lstm_model(10)
    model.save("aligned.keras")
    loaded = keras.saving.load_model("aligned.keras")
    assert np.array_equal(model.predict(X, verbose=0), loaded.predict(X, verbose=0))


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
    for lstm in ("lstm_forw", "lstm_back", "lstm_back_aligned", "lstm_forw_twice"):
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
    assert list(table) == list(MODELS)
    for name, values in last.items():
        expected = [*interval(values), *interval(values - last[best])]
        printed = [float(number) for number in table[name].split()[1:]]
        assert printed == pytest.approx(expected, abs=6e-4)
    [baseline] = [line for line in lines if line.startswith("position baseline")]
    assert float(baseline.split()[2]) == pytest.approx(0.2387, abs=0.001)
    setting = "mean of the last 50 of 250 epochs, learning rate 0.001, repeats: 8"
    assert f"Log loss, {setting}" in lines
    assert max(map(len, lines)) <= 80


def interval(values):
    return values.mean(), 2.3646 * values.std(ddof=1) / np.sqrt(len(values))


def get_data(seed, n_epochs=250):
    return get_sequences(n_epochs, 10, rng=seed)


def test_the_control_has_the_weights_of_the_bilstm_and_reads_forwards():
    control = get_double_lstm_model(10)
    assert control.count_params() == get_bi_lstm_model(10).count_params() == 3561
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, 5] += 0.5
    moved = control.predict(X, verbose=0) != control.predict(changed, verbose=0)
    assert not moved[0, :5].any() and moved[0, 5:].all()


def train(names, n_epochs, seeds, **options):
    builders = {
        "lstm_forw": lambda: get_lstm_model(10, **options),
        "lstm_back": lambda: get_lstm_model(10, backwards=True, **options),
        "bilstm_con": lambda: get_bi_lstm_model(10, **options),
    }

    def get_data(seed):
        return get_sequences(n_epochs, 10, rng=seed)

    repeats = train_repeats({name: builders[name] for name in names}, get_data, seeds)
    return pd.concat(losses for losses, _ in repeats)


def test_a_higher_learning_rate_takes_most_of_the_lead(study):
    default = mean_of_last(study[0])
    losses = train(["lstm_forw", "bilstm_con"], 250, SEEDS, learning_rate=0.01)
    higher = mean_of_last(losses)
    lead = higher["lstm_forw"] - higher["bilstm_con"]
    assert_below(2 * lead, default["lstm_forw"] - default["bilstm_con"])


def test_in_the_long_run_only_the_forward_lstm_passes_the_baseline():
    losses = train(["lstm_forw", "lstm_back"], 3000, range(2))
    last = mean_of_last(losses, 500)
    baseline = position_baseline(10)[1]
    assert last["lstm_forw"].mean() < baseline / 2
    assert last["lstm_back"].mean() > 0.85 * baseline
