"""A run of compare_directions.py and of compare_merge_modes.py: what its options reach,
what it prints, draws and writes, and the claims.

What comes of the options is seen with a stand-in for the training, which gives random
losses. The claims are tested on real runs at the defaults.
"""

import contextlib
import functools
import importlib
import io
import re
from collections import namedtuple
from types import SimpleNamespace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import COMPARISONS, assert_below, assert_is_picture, random_losses

from compare_directions import get_bi_lstm_model, get_lstm_model
from sequence import get_sequences, position_baseline

# What makes each model, and whether it reads backwards, or its merge mode.
MODELS = {
    "compare_directions": {
        "lstm_forw": (get_lstm_model, {}, False),
        "lstm_back": (get_lstm_model, {"backwards": True}, True),
        "bilstm_con": (get_bi_lstm_model, {"mode": "concat"}, "concat"),
    },
    "compare_merge_modes": {
        f"bilstm_{mode[:3]}": (get_bi_lstm_model, {"mode": mode}, mode)
        for mode in ("sum", "mul", "ave", "concat")
    },
}

FIELDS = "args timesteps threshold units rate epochs seeds jit scale"
Options = namedtuple("Options", FIELDS)
OTHER = ["--timesteps", "5", "--threshold", "total", "--units", "3", "--seed", "7"]
OTHER += ["--learning-rate", "0.02", "--epochs", "25", "--repeats", "2", "--no-jit"]
# No options but those of the files, one repeat, and all options. The last number scales
# the random losses, whose mean is below the position baseline's, or above.
OPTIONS = {
    "default": Options([], 10, "length", 20, 0.001, 250, range(1, 31), True, 0.2),
    "one": Options(["--repeats", "1"], 10, "length", 20, 0.001, 250, [1], True, 0.2),
    "other": Options(OTHER, 5, "total", 3, 0.02, 25, range(7, 9), False, 1.0),
}


def describe(model):
    """What its first layer does, and its sizes and learning rate."""
    layer = model.layers[0]
    lstm = getattr(layer, "forward_layer", layer)
    kind = getattr(layer, "merge_mode", lstm.go_backwards)
    rate = round(float(model.optimizer.learning_rate), 6)
    return kind, lstm.units, model.input_shape, rate


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """Runs a comparison with options, once for all tests, and gives what reached the
    stand-in for its training, and what came of it."""

    @functools.cache
    def run(name, of_options):
        options, folder = OPTIONS[of_options], tmp_path_factory.mktemp(name)
        run = SimpleNamespace(name=name, options=options, folder=folder, shown=[])
        csv = folder / "a.csv"
        csv.write_text("of a run before\n")

        def stand_in(builders, get_data, seeds, jit):
            run.models = {model: describe(build()) for model, build in builders.items()}
            run.data, run.seeds, run.jit = get_data(7), list(seeds), jit
            run.losses = random_losses(builders, seeds, options.epochs) * options.scale
            for seed in seeds:
                yield run.losses.loc[[seed]], {}
                # What a kill would leave, now that the repeat has ended.
                written = pd.read_csv(csv, index_col=["seed", "epoch"])
                pd.testing.assert_frame_equal(written, run.losses.loc[:seed])

        script = importlib.import_module(name)
        files = ["--csv", str(csv), "--plot", str(folder / "a.png")]
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(script, "train_repeats", stand_in)
            patch.setattr(plt, "show", lambda: run.shown.extend(folder.iterdir()))
            assert script.main([*options.args, *files]) == 0
        run.figure = plt.gcf()
        run.bar, _, *run.lines = printed.getvalue().splitlines()
        run.losses = pd.read_csv(csv, index_col=["seed", "epoch"])
        run.baseline = position_baseline(options.timesteps, options.threshold)[1]
        return run

    return run


BOTH = pytest.mark.parametrize("name", COMPARISONS)


@pytest.fixture(params=[(name, of) for name in COMPARISONS for of in OPTIONS], ids=str)
def run(request, run_of):
    return run_of(*request.param)


def read_table(run):
    """The rows of the printed table, each with its numbers."""
    rows = re.findall(r"(.*[a-z]) +([\d. ]+)\n", "\n".join(run.lines[3:]))
    return {name: [float(number) for number in row.split()] for name, row in rows}


def test_options_reach_the_models_the_data_and_the_training(run):
    options = run.options
    sizes = (options.units, (None, options.timesteps, 1), options.rate)
    kinds = {model: kind for model, (_, _, kind) in MODELS[run.name].items()}
    assert run.models == {model: (kind, *sizes) for model, kind in kinds.items()}
    expected = get_sequences(options.epochs, options.timesteps, 7, options.threshold)
    for given, array in zip(run.data, expected, strict=True):
        assert np.array_equal(given, array)
    assert run.seeds == list(options.seeds) and run.jit == options.jit
    rows = [(seed, e) for seed in options.seeds for e in range(1, options.epochs + 1)]
    assert run.losses.index.tolist() == rows and list(run.losses) == list(kinds)


def test_table_holds_the_statistics_of_the_csv(run):
    """Of one seed there is no error."""
    models, n_seeds = list(MODELS[run.name]), len(run.options.seeds)
    cube = run.losses.to_numpy().reshape(n_seeds, run.options.epochs, len(models))
    last = cube[:, -50:].mean(axis=1)  # [seeds, models]
    above = last - last[:, [last.mean(axis=0).argmin()]]
    expected = [last.mean(axis=0), above.mean(axis=0)]
    if n_seeds > 1:
        errors = [2 * x.std(axis=0, ddof=1) / np.sqrt(n_seeds) for x in (last, above)]
        expected = [expected[0], errors[0], expected[1], errors[1]]
    expected = dict(zip(models, np.transpose(expected)))
    expected["position baseline"] = [run.baseline]
    table = read_table(run)
    assert list(table) == list(expected)
    for row in table:
        assert table[row] == pytest.approx(expected[row], abs=6e-4)


def test_heading_and_setting_are_printed_above_the_table(run):
    options = run.options
    heading, setting, columns, *_, last = run.lines
    n_last, n_epochs = min(50, options.epochs), options.epochs
    assert heading == f"Log loss, mean of the last {n_last} of {n_epochs} epochs"
    expected = f"{options.timesteps} timesteps, threshold from {options.threshold}, "
    expected += f"{options.units} units, learning rate {options.rate}, "
    assert setting == f"{expected}repeats: {len(options.seeds)}"
    names = re.split(" {2,}", columns.strip())
    assert names == ["loss", "2 SE", "above the best", "2 SE, paired"]
    assert all(line.isascii() and len(line) <= 80 for line in run.lines[:-1])
    # In a file, the bar is a line at the end.
    assert run.bar.startswith("{0}/{0} - ".format(len(options.seeds)))
    # The figure is shown once all is saved.
    assert last == f"Figure saved as {run.folder / 'a.png'}"
    assert {path.name for path in run.shown} == {"a.csv", "a.png"}
    assert_is_picture(run.folder / "a.png")


def test_figure_carries_the_losses_of_the_table(run):
    [ax], options = run.figure.axes, run.options
    table, legend = read_table(run), ax.get_legend()
    losses = {name: numbers[0] for name, numbers in table.items()}
    assert legend.get_title().get_text() == run.lines[0]
    # The title says what the table shows.
    best, title = ax.get_title().split(" has the lowest mean log loss\n")
    assert losses[best] == min(losses.values()) and title == run.lines[1]
    assert (best == "position baseline") == (options is OPTIONS["other"])
    # A row of the legend has the loss of its model, and the look of its curve.
    starts = run.losses.query(f"epoch <= {options.epochs / 25}").mean()
    starts["position baseline"] = run.baseline
    rows = zip(legend.get_texts(), legend.legend_handles, table.items(), strict=True)
    for text, handle, (name, numbers) in rows:
        error = f" ± {numbers[1]:.3f}" if len(numbers) == 4 else ""
        assert text.get_text() == f"{name}: {numbers[0]:.3f}{error}"
        [line] = [x for x in ax.lines if np.isclose(x.get_ydata()[0], starts[name])]
        for look in ("get_color", "get_marker", "get_linestyle"):
            assert getattr(line, look)() == getattr(handle, look)()


def test_a_model_looks_the_same_in_both_comparisons_and_like_no_other(run_of):
    looks = {}
    for name in COMPARISONS:
        *lines, _ = run_of(name, "default").figure.axes[0].lines
        for line in lines:
            model = line.get_label().split(":")[0]
            look = line.get_color(), line.get_marker()
            assert looks.setdefault(model, look) == look
    assert len(looks) == 6
    for of_all in zip(*looks.values()):
        assert len(set(of_all)) == 6


@BOTH
def test_docstring_tells_the_losses_of_a_run_at_the_defaults(name, default_run):
    run = default_run(name)
    rows = [(seed, epoch) for seed in range(1, 31) for epoch in range(1, 251)]
    assert run.losses.index.tolist() == rows
    doc = importlib.import_module(name).__doc__
    told = {model: loss for loss, model in re.findall(r"(\d\.\d+)\s\((\w+)", doc)}
    [told["baseline"]] = re.findall(r"position\salone\shas\s(\d\.\d+)", doc)
    row = re.compile(r"^(?:position )?(\w+) +(\d\.\d+)", re.MULTILINE)
    printed = dict(row.findall(run.stdout))
    assert told.keys() == printed.keys() == {*MODELS[name], "baseline"}
    for model, loss in printed.items():
        assert float(told[model]) == pytest.approx(float(loss), abs=0.002)


@pytest.mark.parametrize(
    ("name", "model"), [(COMPARISONS[0], "lstm_back"), (COMPARISONS[1], "bilstm_mul")]
)
def test_losses_are_those_of_fit(name, model, default_run):
    """Of fit as in the tutorial, called once a sequence."""
    X, y = get_sequences(250, 10, rng=2)
    keras.utils.set_random_seed(2)
    build, arguments, _ = MODELS[name][model]
    fitted = build(10, **arguments)
    fitted.run_eagerly = True  # so few updates are done sooner than compiled
    fits = [fitted.fit(X[[i]], y[[i]], batch_size=1, verbose=0) for i in range(5)]
    expected = [fit.history["loss"][0] for fit in fits]
    losses = default_run(name).losses.loc[2, model].loc[1:5]
    np.testing.assert_allclose(losses, expected, atol=1e-4)


def test_claims_of_the_directions_hold_over_thirty_seeds(default_run):
    losses = default_run("compare_directions").losses
    last = losses.query("epoch > 200").groupby("seed").mean()
    assert_below(last["bilstm_con"], last["lstm_forw"])
    assert_below(last["lstm_forw"], last["lstm_back"])
    # After 250 updates the BiLSTM alone beats guessing from the position.
    baseline = np.full(30, position_baseline(10)[1])
    assert_below(last["bilstm_con"], baseline)
    assert_below(baseline, last["lstm_forw"])


def test_claims_of_the_merge_modes_hold_over_thirty_seeds(default_run):
    losses = default_run("compare_merge_modes").losses
    last = losses.query("epoch > 200").groupby("seed").mean()
    assert_below(last["bilstm_sum"], last["bilstm_ave"])
    assert_below(last["bilstm_con"], last["bilstm_ave"])
    assert_below(last["bilstm_ave"], last["bilstm_mul"])
