"""What holds for the models of compare_directions.py, and for no other."""

import re

import keras
import numpy as np
import pandas as pd
import pytest

from compare_directions import get_bi_lstm_model, get_lstm_model, main, train_repeats
from sequence import get_sequences, position_baseline

MODELS = {
    "lstm_forw": lambda: get_lstm_model(10),
    "lstm_back": lambda: get_lstm_model(10, backwards=True),
    "bilstm_con": lambda: get_bi_lstm_model(10, "concat"),
}
# Student's t of so many seeds, for a 95% interval.
STUDENTS_T = {8: 2.365, 30: 2.045}


def fit_losses(build, seed, n_epochs):
    """The oracle: Keras's own fit, called once a sequence as in the tutorial."""
    X, y = get_sequences(250, 10, rng=seed)
    keras.utils.set_random_seed(seed)
    model = build()
    model.run_eagerly = True  # so few updates are done sooner than compiled
    fits = [
        model.fit(X[i : i + 1], y[i : i + 1], batch_size=1, verbose=0)
        for i in range(n_epochs)
    ]
    return [fit.history["loss"][0] for fit in fits]


@pytest.fixture
def study(default_run):
    """The losses of a run at the defaults."""
    return default_run("compare_directions")[0]


@pytest.mark.parametrize("name", ["lstm_back", "bilstm_con"])
def test_losses_are_those_of_fit(name, study):
    losses = study.loc[2, name].loc[1:5]
    np.testing.assert_allclose(losses, fit_losses(MODELS[name], 2, 5), atol=1e-4)


def test_no_jit_gives_the_same_losses_and_one_repeat_no_error(in_tmp, study, capsys):
    args = ["--no-jit", "--repeats", "1", "--seed", "8", "--epochs", "20"]
    assert main([*args, "--csv", "b.csv", "--plot", "b.png"]) == 0
    printed = capsys.readouterr().out
    assert "repeats: 1\n" in printed and "nan" not in printed.lower()
    [row] = re.findall(r"lstm_forw +(.*)", printed)
    assert len(row.split()) == 2
    losses = pd.read_csv("b.csv", index_col=["seed", "epoch"])
    assert losses.shape == (20, 3)
    np.testing.assert_allclose(losses, study.loc[8].loc[:20], atol=1e-4)


def test_go_backwards_gives_its_outputs_in_reversed_order():
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, -1] += 0.5  # the last timestep only

    def moves(model):
        before, after = np.asarray(model(X)), np.asarray(model(changed))
        return (np.abs(before - after)[0, :, 0] > 1e-6).tolist()

    assert moves(get_lstm_model(10)) == [False] * 9 + [True]
    assert moves(get_lstm_model(10, backwards=True)) == [True] * 10
    changed = X.copy()
    changed[0, 0] += 0.5  # the first timestep only
    assert moves(get_lstm_model(10)) == [True] * 10
    assert moves(get_lstm_model(10, backwards=True)) == [False] * 9 + [True]


def mean_of_last(losses, n_last=50):
    n_epochs = losses.index.get_level_values("epoch").max()
    seeds = losses.index.get_level_values("seed").unique()
    return {
        name: np.array(
            [losses.loc[s, name].loc[n_epochs - n_last + 1 :].mean() for s in seeds]
        )
        for name in losses
    }


def assert_below(lower, higher):
    """That the 95% interval of the paired difference is below 0."""
    difference = lower - higher
    n = len(difference)
    half = STUDENTS_T[n] * difference.std(ddof=1) / np.sqrt(n)
    assert difference.mean() + half < 0


def test_claims_hold_over_several_seeds(study):
    last = mean_of_last(study)
    assert_below(last["bilstm_con"], last["lstm_forw"])
    assert_below(last["lstm_forw"], last["lstm_back"])
    # After 250 updates neither LSTM beats guessing from the position.
    for lstm in ("lstm_forw", "lstm_back"):
        assert_below(np.full(30, position_baseline(10)[1]), last[lstm])


def train(names, n_epochs, seeds, **options):
    """The losses of some models; of seeds from 100 on, labels depend on values to come."""
    builders = {
        "lstm_forw": lambda: get_lstm_model(10, **options),
        "lstm_back": lambda: get_lstm_model(10, backwards=True, **options),
        "bilstm_con": lambda: get_bi_lstm_model(10, **options),
    }

    def get_data(seed):
        return get_sequences(n_epochs, 10, seed, "length" if seed < 100 else "total")

    repeats = train_repeats({name: builders[name] for name in names}, get_data, seeds)
    return pd.concat(losses for losses, _ in repeats)


@pytest.fixture(scope="module")
def at_higher_rate():
    """The losses of the LSTM and the BiLSTM at a higher rate, on both kinds of labels."""
    seeds = [*range(1, 9), *range(100, 108)]
    return train(["lstm_forw", "bilstm_con"], 250, seeds, learning_rate=0.01)


def test_where_labels_depend_on_the_future_only_the_bilstm_passes_the_baseline(
    at_higher_rate,
):
    last = mean_of_last(at_higher_rate.loc[100:])
    baseline = np.full(8, position_baseline(10, "total")[1])
    assert_below(last["bilstm_con"], baseline)
    assert_below(baseline, last["lstm_forw"])


def test_a_higher_learning_rate_takes_most_of_the_lead(study, at_higher_rate):
    default, higher = mean_of_last(study.loc[:8]), mean_of_last(at_higher_rate.loc[:8])
    lead = higher["lstm_forw"] - higher["bilstm_con"]
    assert_below(2 * lead, default["lstm_forw"] - default["bilstm_con"])


def test_in_the_long_run_only_the_forward_lstm_passes_the_baseline():
    losses = train(["lstm_forw", "lstm_back"], 3000, range(2))
    last = mean_of_last(losses, 500)
    baseline = position_baseline(10)[1]
    assert last["lstm_forw"].mean() < baseline / 2
    assert last["lstm_back"].mean() > 0.85 * baseline
