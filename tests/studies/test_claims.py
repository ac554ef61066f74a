"""The studies behind the README's claims, made small enough for a test."""

import contextlib
import re
import signal
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_is_picture

from sequence import get_sequences, position_baseline

sys.path.insert(0, str(ROOT / "tests/studies"))
import claims
import keras


def draw_repeats(builders, get_data, seeds):
    """Stands in for train_repeats: losses depend on the seed and the study alone."""
    for seed in seeds:
        X, _ = get_data(seed)
        rng = np.random.default_rng([seed, int(X.sum())])
        index = pd.MultiIndex.from_product([[seed], range(1, 61)])
        yield pd.DataFrame(rng.random((60, len(builders))), index, list(builders)), {}


@pytest.fixture
def drawn(monkeypatch, in_tmp):
    """Studies with the models of the real ones, whose losses are drawn, not trained."""
    changes = {
        "past": ("length", [0.001]),
        "past-5000": ("length", [0.003]),
        "whole": ("total", [0.001, 0.01]),
        "one-label": ("one label", [0.001, 0.01, 0.03]),
        "zeros": ("zeros", [0.01, 0.03]),
    }
    studies = {
        name: claims.Study(problem, 4, 60, rates, claims.STUDIES[name].models, 9)
        for name, (problem, rates) in changes.items()
    }
    monkeypatch.setattr(claims, "STUDIES", studies)
    monkeypatch.setattr(claims, "train_repeats", draw_repeats)


def test_best_rates_are_chosen_on_one_half_and_reported_on_the_other():
    columns = pd.MultiIndex.from_product([["a", "b"], ["0.001", "0.01"]])
    rows = [[1, 2, 9, 5], [7, 3, 1, 2], [1, 2, 9, 5], [9, 4, 1, 4], [1, 2, 9, 5]]
    seeds = [100, 101, 102, 107, 110]  # of which the first, third and fifth choose
    losses = pd.DataFrame(rows, seeds, columns, dtype=float)
    loss, best = claims.at_best_rates(losses)
    assert best.to_dict() == {"a": "0.001", "b": "0.01"}
    assert loss.to_dict() == {"a": {101: 7, 107: 9}, "b": {101: 2, 107: 4}}
    losses.loc[102, ("a", "0.001")] = np.nan  # A rate that diverged is not chosen.
    assert claims.at_best_rates(losses)[1]["a"] == "0.01"


def press_in_seed_3(builders, get_data, seeds):
    """Presses Ctrl-C in a repeat of "one-label", where an exception would be lost."""
    for seed, repeat in zip(seeds, draw_repeats(builders, get_data, seeds)):
        if get_data(seed)[1].ndim == 2 and seed == 3:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        yield repeat


def test_started_again_it_gives_the_same_tables(drawn, in_tmp, monkeypatch, capsys):
    def start(*args, train=draw_repeats):
        """Returns the exit code and the report, which names the folder."""
        monkeypatch.setattr(claims, "train_repeats", train)
        code = claims.main([*args, "--folder", "a"])
        return code, capsys.readouterr().out.partition("\nRepeats: ")[2]

    code, whole = start("--repeats", "7")
    assert code == 0 and whole.count(":\n\n|") == 4  # tables
    (in_tmp / "a").rename(in_tmp / "whole")
    assert start("--repeats", "4", "--study", "whole", "past")[0] == 0
    code, report = start("--repeats", "7", train=press_in_seed_3)
    assert code == 130 and report.count(":\n\n|") == 2  # Three repeats are too few.
    assert report.startswith("past 7, past-5000 7, whole 7, one-label 3, zeros 0\n")
    assert start("--repeats", "7") == (0, whole)
    files = {path.name for path in (in_tmp / "a").iterdir()}
    assert files == {"learning_rates.png", *[f"{name}.csv" for name in claims.STUDIES]}
    for file in files:
        parts, one = [in_tmp / folder / file for folder in ("a", "whole")]
        assert parts.read_bytes() == one.read_bytes()
    assert_is_picture(in_tmp / "a/learning_rates.png")
    assert start("--repeats", "5") == (0, whole)  # Nothing is left to train.


def test_a_kill_leaves_a_whole_file(drawn, in_tmp, monkeypatch):
    assert claims.main(["--study", "zeros", "--repeats", "4"]) == 0
    whole = (in_tmp / "claims/zeros.csv").read_text()

    def write_half(path, text, **options):
        path.write_bytes(text[: len(text) // 2].encode())
        raise InterruptedError

    monkeypatch.setattr(claims.Path, "write_text", write_half)
    with pytest.raises(InterruptedError):
        claims.main(["--study", "zeros", "--repeats", "5"])
    assert (in_tmp / "claims/zeros.csv").read_text() == whole


def test_refusals_come_before_the_training_and_name_the_file(drawn, in_tmp, capsys):
    def get_refusal(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            claims.main(list(args))
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err.splitlines()[-1]

    assert "--repeats must be at least 4" in get_refusal("--repeats", "3")
    assert "/proc" in get_refusal("--folder", "/proc")  # root cannot write, too
    assert claims.main(["--study", "zeros", "--repeats", "4"]) == 0
    path = in_tmp / "claims/zeros.csv"
    text = path.read_text()
    longer = re.sub(r"\n2,0\.(\d+)", r"\n2,0.\g<1>1", text)  # by a digit
    for damaged in [text[:40], text[:-40], text.replace('"zeros"', '"length"'), longer]:
        path.write_text(damaged)
        assert "claims/zeros.csv is damaged or has other settings" in get_refusal()


def test_a_training_that_diverged_is_kept(drawn, in_tmp, monkeypatch, capsys):
    def diverge(builders, get_data, seeds):
        for repeat, models in draw_repeats(builders, get_data, seeds):
            if (2, 60) in repeat.index:
                repeat.loc[(2, 60)] = np.nan  # in the last epoch alone
            yield repeat, models

    monkeypatch.setattr(claims, "train_repeats", diverge)
    assert claims.main(["--study", "past", "--repeats", "4"]) == 0
    # No mean is that of the other trainings alone.
    assert "|the past|4|60|nan*|nan*|nan*|" in capsys.readouterr().out


def test_losses_are_those_of_fit(eagerly, in_tmp, monkeypatch):
    study = claims.Study("one label", 4, 10, [0.01], ["BiLSTM"], 4)
    monkeypatch.setattr(claims, "STUDIES", {"one-label": study})
    claims.run_study(in_tmp, "one-label", 1, threading.Event())
    X, y = get_sequences(10, 4, 1)
    keras.utils.set_random_seed(1)
    model = claims.ONE_LABEL_MODELS["BiLSTM"](4, learning_rate=0.01)
    options = {"batch_size": 1, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    loss = model.fit(X, y[:, 1], epochs=10, **options).history["loss"]
    last_fifth = pytest.approx(np.mean(loss[8:]), abs=1e-5)
    assert claims.read_losses(in_tmp, "one-label").loc[1].item() == last_fifth


@pytest.fixture
def losses(drawn, in_tmp):
    """The losses of six repeats of each study."""
    for name in claims.STUDIES:
        claims.run_study(in_tmp, name, 6, threading.Event())
    return {name: claims.read_losses(in_tmp, name) for name in claims.STUDIES}


def get_rows(lines):
    """Returns the rows of a table below its title and heading, by their first cell."""
    rows = [line[1:-1].split("|") for line in lines[4:]]
    return {first: cells for first, *cells in rows}


def at_best(losses, model):
    """Returns the losses that report, and the text of their mean, by NumPy alone."""
    table = losses[model].to_numpy()
    best = np.argmin(table[0::2].mean(axis=0))
    reports = table[1::2, best]
    star = "*" if best in (0, table.shape[1] - 1) else ""
    return reports, f"{reports.mean():.3f}", star


def get_difference(minuend, subtrahend):
    """Returns the text of the mean of paired differences, and that of two errors."""
    above = minuend - subtrahend
    mean, error = above.mean(), 2 * np.std(above, ddof=1) / np.sqrt(len(above))
    return f"**{mean:+.3f}**" if abs(mean) > error else f"{mean:+.3f}", f"{error:.3f}"


def test_tables_of_the_best_rates_hold_the_statistics(losses):
    names, cells = {"the past": "past", "": "past-5000", "the whole": "whole"}, {}
    for name in [*names.values(), "one-label"]:
        best = {m: at_best(losses[name], m) for m in claims.STUDIES[name].models}
        cells[name] = {model: mean + star for model, (_, mean, star) in best.items()}
        lead = get_difference(best["BiLSTM"][0], best["two LSTMs"][0])
        cells[name]["BiLSTM minus two LSTMs"] = " ± ".join(lead)
    columns = ["LSTM", "two LSTMs", "BiLSTM", "BiLSTM minus two LSTMs"]
    assert get_rows(claims.get_when_table(losses)) == {
        label: ["4", "60", *[cells[name][column] for column in columns]]
        for label, name in names.items()
    }
    rows = get_rows(claims.get_one_label_table(losses))
    assert rows == {first: [text] for first, text in cells["one-label"].items()}


def test_losses_table_holds_the_statistics(losses):
    title, *_ = lines = claims.get_losses_table(losses)
    rows, errors = get_rows(lines), []
    for model in claims.TUTORIAL:
        other = "LSTM" if model == "lstm_back" else "BiLSTM"
        cells = [f"{losses['past'][model, '0.001'].mean():.3f}"]
        for name in ("past", "past-5000"):
            loss, mean, _ = at_best(losses[name], model)
            above, error = get_difference(loss, at_best(losses[name], other)[0])
            cells.append(f"{mean} ({above})" if model != other else mean)
            errors.append(error)
        label = "`lstm_back` (against the LSTM)" if other == "LSTM" else model
        assert rows[label] == cells
    assert all(f"({sign}0." in str(rows) for sign in ["**+", "**-", "-"])
    assert len(rows) == 7 and f"more than 2 SE, which are {max(errors)} or" in title


def test_why_table_holds_the_statistics(losses):
    title, *_ = lines = claims.get_why_table(losses)
    zeros = losses["zeros"]
    error = 2 * np.std(zeros.to_numpy(), axis=0, ddof=1).max() / np.sqrt(6)
    assert f"(best possible: 0.239), ± {error:.3f} or less" in title
    assert get_rows(lines) == {
        rate: [f"{zeros[m, rate].mean():.3f}" for m in claims.ENDS]
        for rate in ["0.01", "0.03"]
    }


def test_figure_shows_each_problem_with_its_errors_and_baseline(losses):
    problems = {"the past": "past", "the whole sequence": "whole"}
    axes = claims.plot_studies(losses).axes
    for ax, (labels, name) in zip(axes, problems.items(), strict=True):
        assert ax.get_title() == f"Labels depend on {labels}"
        for bars, model in zip(ax.containers, claims.DIRECTIONS, strict=True):
            table = losses[name][model].to_numpy()
            line, _, [segments] = bars.lines
            assert bars.get_label() == model
            assert line.get_ydata() == pytest.approx(table.mean(axis=0))
            half = 2 * np.std(table, axis=0, ddof=1) / np.sqrt(len(table))
            ends = np.array(segments.get_segments())[:, :, 1]
            assert (ends[:, 1] - ends[:, 0]) / 2 == pytest.approx(half)
        [baseline] = [x for x in ax.lines if x.get_label() == "position baseline"]
        best_guess = position_baseline(4, claims.STUDIES[name].problem)[1]
        assert baseline.get_ydata()[0] == pytest.approx(best_guess)
    assert position_baseline(4, "length")[1] != pytest.approx(best_guess, abs=0.01)


def test_controls_change_one_thing():
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, 4] += 0.5
    up_to, from_there_on = [True] * 5 + [False] * 5, [False] * 4 + [True] * 6
    for name, moved in {
        "LSTM": from_there_on,
        "two LSTMs": from_there_on,
        "LSTM, backwards": up_to,
        "two LSTMs, backwards": up_to,
        "lstm_back": [False] * 5 + [True] * 5,  # in reversed order
        "BiLSTM": [True] * 10,
    }.items():
        model = claims.MODELS[name](10)
        difference = np.abs(np.asarray(model(X)) - np.asarray(model(changed)))
        assert (difference.ravel() > 1e-6).tolist() == moved, name
        n_lstms = 2 if "two" in name or "Bi" in name else 1
        assert model.count_params() == (1760 + 20) * n_lstms + 1


def test_models_of_one_label_have_the_directions_of_their_names():
    X, _ = get_sequences(3, 10, rng=0)
    for name, build in claims.ONE_LABEL_MODELS.items():
        averaged, directions = "averaged" in name, ["backwards" in name]
        if "two" in name or "Bi" in name:
            directions = [False, "Bi" in name]
        model = build(10)
        *weights, kernel, bias = model.get_weights()
        hidden = []
        for n, backwards in enumerate(directions):  # Keras's layer, of equal weights
            layer = keras.layers.LSTM(20, return_sequences=True, go_backwards=backwards)
            layer.build(X.shape)
            layer.set_weights(weights[3 * n : 3 * n + 3])
            h = np.asarray(layer(X))
            hidden.append(h.mean(axis=1) if averaged else h[:, -1])
        logits = np.concatenate(hidden, axis=-1) @ kernel + bias
        expected = 1 / (1 + np.exp(-logits))
        assert np.asarray(model(X)) == pytest.approx(expected, abs=1e-6)


def test_data_are_those_of_the_problem():
    X, y = get_sequences(250, 10, rng=5)
    for name, data in {
        "past": (X, y),
        "whole": get_sequences(250, 10, 5, "total"),
        "zeros": (0 * X, y),  # the values are hidden, and nothing else
    }.items():
        assert np.array_equal(claims.get_data(5, claims.STUDIES[name]), data), name
    X, y = claims.get_data(3, claims.STUDIES["one-label"])
    reached = X[:, :25, 0].sum(axis=1, dtype=float) >= 50 / 4  # in the first half
    assert X.shape == (5000, 50, 1) and np.array_equal(y[:, 0], reached)
