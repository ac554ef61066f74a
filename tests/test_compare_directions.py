import re

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import compare_directions
from compare_directions import get_bi_lstm_model, get_lstm_model, main, train_repeats
from sequence import get_sequences, position_baseline

MODELS = {
    "lstm_forw": lambda: get_lstm_model(10),
    "lstm_back": lambda: get_lstm_model(10, backwards=True),
    "bilstm_con": lambda: get_bi_lstm_model(10, "concat"),
}
SEEDS = range(40, 48)


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


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One run of the script that many tests look at: its CSV and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *args, **_: printed.append(args))
        args = ["--repeats", "8", "--seed", "40"]
        files = ["--csv", str(folder / "a.csv"), "--plot", str(folder / "a.png")]
        assert main(args + files) == 0
    lines = "\n".join(str(arg) for args in printed for arg in args).splitlines()
    return pd.read_csv(folder / "a.csv", index_col=["seed", "epoch"]), lines


def test_csv_has_a_row_per_epoch_and_a_column_per_model(study):
    losses, _ = study
    assert list(losses.columns) == list(MODELS)
    rows = [(seed, epoch) for seed in SEEDS for epoch in range(1, 251)]
    assert losses.index.tolist() == rows


@pytest.mark.parametrize("name", ["lstm_back", "bilstm_con"])
def test_losses_are_those_of_fit(name, study):
    losses = study[0].loc[41, name].loc[1:5]
    np.testing.assert_allclose(losses, fit_losses(MODELS[name], 41, 5), atol=1e-4)


def test_no_jit_gives_the_same_losses_and_one_repeat_no_error(in_tmp, study, capsys):
    args = ["--no-jit", "--repeats", "1", "--seed", "40"]
    assert main([*args, "--csv", "b.csv", "--plot", "b.png"]) == 0
    printed = capsys.readouterr().out
    assert "repeats: 1\n" in printed and "nan" not in printed.lower()
    [row] = re.findall(r"lstm_forw +(.*)", printed)
    assert len(row.split()) == 2
    losses = pd.read_csv("b.csv", index_col=["seed", "epoch"])
    assert losses.shape == (250, 3)
    np.testing.assert_allclose(losses, study[0].loc[[40]], atol=1e-4)


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
    """That the paired difference's 95% interval is below 0, with Student's t of 7."""
    difference = lower - higher
    half = 2.365 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert len(difference) == 8 and difference.mean() + half < 0


def test_claims_hold_over_several_seeds(study):
    last = mean_of_last(study[0])
    assert_below(last["bilstm_con"], last["lstm_forw"])
    assert_below(last["lstm_forw"], last["lstm_back"])
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
        expected = [*statistics(values), *statistics(values - last[best])]
        printed = [float(number) for number in table[name].split()[1:]]
        assert printed == pytest.approx(expected, abs=6e-4)
    [baseline] = [line for line in lines if line.startswith("position baseline")]
    assert float(baseline.split()[2]) == pytest.approx(0.2387, abs=0.001)
    assert "Log loss of new sequences, mean of the last 50 of 250 epochs" in lines
    assert "10 timesteps, 20 units, learning rate 0.001, repeats: 8" in lines
    assert max(map(len, lines)) <= 80


def statistics(values):
    """The mean, and two standard errors of it."""
    return values.mean(), 2 * values.std(ddof=1) / np.sqrt(len(values))


def test_figure_carries_the_printed_table(in_tmp, capsys, monkeypatch):
    def draw_losses(builders, get_data, seeds, jit):
        """Stands in for train_repeats, and looks at what it is given."""
        draw = np.random.default_rng(0).random
        assert not jit and list(seeds) == [1, 2]
        bilstm = builders["bilstm_con"]()
        assert bilstm.input_shape == (None, 5, 1)
        assert bilstm.layers[0].forward_layer.units == 3
        for seed in seeds:
            for given, expected in zip(
                get_data(seed), get_sequences(30, 5, seed, "total")
            ):
                assert np.array_equal(given, expected)
            index = pd.MultiIndex.from_product(
                [[seed], range(1, 31)], names=["seed", "epoch"]
            )
            yield pd.DataFrame(draw((30, 3)), index, list(builders)), {}

    monkeypatch.setattr(compare_directions, "train_repeats", draw_losses)
    args = ["--repeats", "2", "--epochs", "30", "--threshold", "total", "--no-jit"]
    assert main([*args, "--timesteps", "5", "--units", "3"]) == 0
    printed = capsys.readouterr().out
    figure = plt.gcf()
    [legend] = figure.legends
    table = "\n".join(text.get_text() for text in legend.get_texts())
    assert table in printed and len(legend.get_texts()) == 5
    [ax] = figure.axes
    setting = "threshold at half the total, 5 timesteps, 3 units, learning rate 0.001"
    assert ax.get_title() == f"{setting}, repeats: 2" and ax.get_title() in printed
    # A row of the legend has the colour and marker of the line that its model has.
    for name, line, handle in zip(MODELS, ax.lines, legend.legend_handles[1:]):
        assert line.get_label() == name
        assert line.get_color() == handle.get_color()
        assert line.get_marker() == handle.get_marker()
    baseline = position_baseline(5, "total")[1]
    assert f"position baseline {baseline:.3f}" in table
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(baseline)


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
    seeds = [*SEEDS, *range(100, 108)]
    return train(["lstm_forw", "bilstm_con"], 250, seeds, learning_rate=0.01)


def test_where_labels_depend_on_the_future_only_the_bilstm_passes_the_baseline(
    at_higher_rate,
):
    last = mean_of_last(at_higher_rate.loc[100:])
    baseline = np.full(8, position_baseline(10, "total")[1])
    assert_below(last["bilstm_con"], baseline)
    assert_below(baseline, last["lstm_forw"])


def test_a_higher_learning_rate_takes_most_of_the_lead(study, at_higher_rate):
    default, higher = mean_of_last(study[0]), mean_of_last(at_higher_rate.loc[:99])
    lead = higher["lstm_forw"] - higher["bilstm_con"]
    assert_below(2 * lead, default["lstm_forw"] - default["bilstm_con"])


def test_in_the_long_run_only_the_forward_lstm_passes_the_baseline():
    losses = train(["lstm_forw", "lstm_back"], 3000, range(2))
    last = mean_of_last(losses, 500)
    baseline = position_baseline(10)[1]
    assert last["lstm_forw"].mean() < baseline / 2
    assert last["lstm_back"].mean() > 0.85 * baseline
