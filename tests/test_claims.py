"""The evidence program, on studies small enough for a test."""

import contextlib
import io
import re
import signal
import sys
from functools import partial

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_is_picture

from sequence import get_sequences

sys.path.insert(0, str(ROOT / "tests"))
import claims


def draw_repeats(builders, data, seeds):
    """Stands in for train_repeats: losses that depend on the seed and the study alone."""
    for seed in seeds:
        X, _ = data(seed)
        losses = np.random.default_rng([seed, int(X.sum())]).random((60, len(builders)))
        index = pd.MultiIndex.from_product(
            [[seed], range(1, 61)], names=["seed", "epoch"]
        )
        yield pd.DataFrame(losses, index, columns=list(builders)), {}


@pytest.fixture
def drawn(monkeypatch, in_tmp):
    """Studies of few rates and repeats, with the names of the real ones, not trained."""
    studies = {
        "past": ["length", 4, 60, [0.001], claims.STUDIES["past"][4], 9],
        "past-5000": ["length", 4, 60, [0.003], claims.TUTORIALS, 9],
        "whole": ["total", 4, 60, [0.001, 0.01], claims.DIRECTIONS, 9],
        "one-label": ["one label", 4, 60, [0.001, 0.01, 0.03], claims.ONE_LABEL, 9],
        "zeros": ["zeros", 4, 60, [0.01, 0.03], claims.ENDS, 9],
    }
    monkeypatch.setattr(claims, "STUDIES", studies)
    monkeypatch.setattr(claims, "train_repeats", draw_repeats)


def get_tables(printed):
    """The tables by the titles above them, up to a bracket, each a list of rows, the
    first the columns."""
    tables = re.findall(r"^(\S[^(\n]*).*\n\n((?:\|.*\n)+)", printed, re.MULTILINE)
    return {
        title: [row[1:-1].split("|") for row in rows.splitlines()]
        for title, rows in tables
    }


LOSSES = "Losses with 10 timesteps, and how far above the BiLSTM's "
WHEN = "Each model at its best learning rate "


def test_best_rates_are_chosen_on_one_half_and_reported_on_the_other():
    columns = pd.MultiIndex.from_product([["a", "b"], ["0.001", "0.01"]])
    rows = {  # of any seeds; the first, third and fifth choose
        100: [1, 2, 9, 5],
        101: [7, 3, 1, 2],
        102: [1, 2, 9, 5],
        107: [9, 4, 1, 4],
        110: [1, 2, 9, 5],
    }
    losses = pd.DataFrame.from_dict(rows, "index", columns=columns, dtype=float)
    loss, best = claims.at_best_rates(losses)
    assert best.to_dict() == {"a": "0.001", "b": "0.01"}
    assert loss.to_dict() == {"a": {101: 7, 107: 9}, "b": {101: 2, 107: 4}}
    # Of a rate at which a training diverged nothing is chosen.
    losses.loc[102, ("a", "0.001")] = np.nan
    assert claims.at_best_rates(losses)[1]["a"] == "0.01"


@pytest.mark.parametrize(
    ("above", "described"),
    [
        ([1, 2, 3], "**+2.000**"),
        ([-1, -2, -3], "**-2.000**"),
        ([2, 1, 0], "+1.000"),
        ([0, -1, -2], "-1.000"),
    ],
)
def test_differences_are_bold_where_they_are_more_than_two_errors(above, described):
    assert claims.describe(pd.Series(above)) == (described, pytest.approx(2 / 3**0.5))


def press_in(seed_to_press):
    """Stands in for train_repeats, and presses Ctrl-C twice in a seed of "one-label",
    where an exception would be lost, as it can be in TensorFlow."""

    def train_repeats(builders, data, seeds):
        drawn = draw_repeats(builders, data, seeds)
        for seed, repeat in zip(seeds, drawn, strict=True):
            if data.keywords["problem"] == "one label" and seed == seed_to_press:
                with contextlib.suppress(BaseException):
                    signal.raise_signal(signal.SIGINT)
                with contextlib.suppress(BaseException):
                    signal.raise_signal(signal.SIGINT)
            yield repeat

    return train_repeats


def test_interrupted_and_started_again_it_gives_the_same_tables(
    drawn, in_tmp, monkeypatch, capsys
):
    assert claims.main(["--folder", "whole", "--repeats", "7"]) == 0
    whole = capsys.readouterr().out
    assert len(get_tables(whole)) == 3
    args = ["--folder", "parts", "--repeats"]
    # Killed after four repeats of two studies, and stopped in the fifth of another one.
    assert claims.main([*args, "4", "--study", "whole", "past"]) == 0
    assert "\nRepeats: past 4, whole 4\n" in capsys.readouterr().out
    monkeypatch.setattr(claims, "train_repeats", press_in(5))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert claims.main([*args, "7"]) == 130
    signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr()
    assert "Ctrl-C: " in printed.err and "repeat at hand" in printed.err
    done = "\nRepeats: past 7, past-5000 7, whole 7, one-label 5, zeros 0\n"
    assert done in printed.out
    assert list(get_tables(printed.out)) == [LOSSES, WHEN]
    monkeypatch.setattr(claims, "train_repeats", draw_repeats)
    assert claims.main([*args, "7"]) == 0
    parts = capsys.readouterr().out
    assert get_tables(parts) == get_tables(whole) != get_tables(printed.out)
    for study in claims.STUDIES:
        file = f"{study}.csv"
        assert (in_tmp / "parts" / file).read_text() == (
            in_tmp / "whole" / file
        ).read_text()
    assert {p.name for p in (in_tmp / "parts").iterdir()} == {
        *[f"{name}.csv" for name in claims.STUDIES],
        "learning_rates.png",
    }
    assert_is_picture(in_tmp / "parts" / "learning_rates.png")
    # Nothing is trained where all is done.
    monkeypatch.setattr(claims, "train_repeats", None)
    assert claims.main([*args, "5"]) == 0
    assert get_tables(capsys.readouterr().out) == get_tables(whole)


def test_a_study_of_three_repeats_is_counted_and_not_judged(drawn, monkeypatch, capsys):
    monkeypatch.setattr(claims, "train_repeats", press_in(3))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert claims.main(["--study", "one-label"]) == 130
    signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr().out
    assert "\nRepeats: one-label 3\n" in printed and get_tables(printed) == {}


def test_models_are_forgotten_after_each_repeat(drawn, monkeypatch):
    cleared = []
    monkeypatch.setattr(keras.utils, "clear_session", lambda **kw: cleared.append(kw))
    assert claims.main(["--study", "zeros", "--repeats", "5"]) == 0
    assert cleared == [{"free_memory": False}] * 5


def test_two_runs_at_once_leave_all_repeats(drawn, in_tmp, monkeypatch, capsys):
    def run_another(builders, data, seeds):
        """While the first run is in its fourth repeat, another one does nine."""
        for repeat in draw_repeats(builders, data, seeds):
            if repeat[0].index[0][0] == 4:
                monkeypatch.setattr(claims, "train_repeats", draw_repeats)
                assert claims.main(["--study", "whole"]) == 0
            yield repeat

    monkeypatch.setattr(claims, "train_repeats", run_another)
    assert claims.main(["--study", "whole", "--repeats", "5"]) == 0
    assert capsys.readouterr().out.count("\nRepeats: whole 9\n") == 2
    files = {path.name for path in (in_tmp / "claims").iterdir()}
    assert files == {"whole.csv", "learning_rates.png"}


def test_unfinished_files_are_of_one_run_alone(drawn, in_tmp, monkeypatch):
    moved, replace = [], claims.Path.replace

    def move(path, target):
        assert path.read_text().startswith('["zeros", ')
        moved.append(path.relative_to(target.parent))
        return replace(path, target)

    monkeypatch.setattr(claims.Path, "replace", move)
    assert claims.main(["--study", "zeros", "--repeats", "4"]) == 0
    assert len(set(moved)) == 4
    # Of a disk that is full nothing is left, and the old file is whole.
    monkeypatch.setattr(claims.Path, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        claims.main(["--study", "zeros", "--repeats", "5"])
    assert [path.name for path in (in_tmp / "claims").iterdir()] == ["zeros.csv"]
    assert len(claims.read_losses(in_tmp / "claims", "zeros")) == 4


def get_refusal(capsys, *args):
    """The last line of what is said before all training."""
    with pytest.raises(SystemExit) as stopped:
        claims.main(list(args))
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def cut(column, row):
    """What cuts a file's text after a part of a row."""

    def damage(text):
        lines = text.splitlines(keepends=True)
        return "".join(lines[:row]) + lines[row][:column]

    return damage


def with_rows(order):
    """What puts a file's lines in this order."""

    def damage(text):
        lines = text.splitlines(keepends=True)
        return "".join(lines[n] for n in order)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "\n" * 6,
        lambda text: "\0" * len(text),
        cut(20, 0),
        cut(20, 1),
        cut(None, 3),  # without a row
        cut(1, 7),  # only the seed of the last row
        cut(-1, 7),  # only without its last line break
        cut(-2, 7),  # only without its last digit
        with_rows([0, 1, 2, 3, 4, 5, 6, 6, 7]),
        with_rows([0, 1, 2, 3, 4, 5, 7]),
        with_rows([0, 1, 2, 3, 5, 6, 7]),
        with_rows([0, 1, 2, 3, 4, 6, 5, 7]),
        with_rows([0, 1, 2, 4, 5, 6, 7]),
        lambda text: text + text,
        lambda text: text.replace("LSTM,LSTM,", "LSTM,BiLSTM,", 1),
        lambda text: text.replace('"zeros"', '"length"'),
        lambda text: text.replace("60", "61", 1),
        lambda text: text.replace("\n2,0.", "\n2,?.", 1),
        lambda text: re.sub(r"\n2,[\d.]*,", "\n2,,", text),  # a number is missing
        lambda text: re.sub(r"\n2,[\d.]*,", "\n2,", text),  # so that others move
        lambda text: re.sub(r"\n2,", "\n2,0.500000,", text),
    ],
)
def test_damaged_files_are_refused_by_name(damage, drawn, in_tmp, capsys):
    assert claims.main(["--study", "zeros", "--repeats", "4"]) == 0
    path = in_tmp / "claims" / "zeros.csv"
    text = path.read_text()
    assert damage(text) != text and len(text.splitlines()) == 8
    path.write_text(damage(text))
    capsys.readouterr()
    refusal = get_refusal(capsys, "--repeats", "5")
    assert f"{path.relative_to(in_tmp)} is damaged or has other settings" in refusal


def test_a_training_that_diverged_is_kept(drawn, in_tmp, monkeypatch):
    def diverge(builders, data, seeds):
        for repeat, models in draw_repeats(builders, data, seeds):
            yield repeat * (np.nan if (2, 1) in repeat.index else 1), models

    monkeypatch.setattr(claims, "train_repeats", diverge)
    assert claims.main(["--study", "zeros", "--repeats", "4"]) == 0
    losses = claims.read_losses(in_tmp / "claims", "zeros")
    assert losses.isna().all(axis="columns").tolist() == [False, True, False, False]
    assert claims.main(["--study", "zeros", "--repeats", "5"]) == 0


def test_what_cannot_be_done_is_refused_before_the_training(drawn, in_tmp, capsys):
    assert "--repeats must be at least 4" in get_refusal(capsys, "--repeats", "3")
    (in_tmp / "a file").touch()
    assert "a file" in get_refusal(capsys, "--folder", "a file")
    assert "a file" in get_refusal(capsys, "--folder", "a file/folder")
    (in_tmp / "claims/past.csv").mkdir(parents=True)
    assert "past.csv" in get_refusal(capsys)


def test_folder_without_permission_to_write_is_refused(drawn, in_tmp, capsys):
    (in_tmp / "claims").mkdir(mode=0o500)
    folder = "claims"
    with contextlib.suppress(OSError):
        (in_tmp / "claims/file").touch()
        folder = "/proc"  # where root cannot write, either
    assert folder in get_refusal(capsys, "--folder", folder)


def test_a_terminal_that_has_no_plus_minus_gets_the_tables(drawn, monkeypatch):
    for encoding in ("ascii", "cp866"):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", terminal)
        assert claims.main(["--repeats", "4"]) == 0
        terminal.flush()
        printed = terminal.buffer.getvalue().decode(encoding)
        assert [len(rows) for rows in get_tables(printed).values()] == [9, 8, 4]
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # like that of a notebook
    assert claims.main(["--repeats", "4"]) == 0
    assert "±" in sys.stdout.getvalue()


def test_compiling_is_part_of_the_work(drawn, capsys):
    """The bar ends at the sum of its steps, of which the first one compiles."""
    assert claims.main(["--study", "zeros", "--repeats", "4"]) == 0
    work = claims.get_work("zeros", 4)
    assert f"{work}/{work} - " in capsys.readouterr().out
    done = [claims.get_work("zeros", n) for n in range(5)]
    first, *others = np.diff(done)
    assert first > 10 * max(others)  # 60 epochs of 4 timesteps take milliseconds
    assert len(set(others)) == 1 and sum(others) + first == work
    assert claims.get_work("zeros", 0) == 0


def test_losses_are_those_of_fit(in_tmp, monkeypatch):
    studies = {
        "longer": ["total", 4, 10, [0.01], ["BiLSTM", "LSTM, backwards"], 9],
        "one-label": ["one label", 4, 10, [0.01], ["BiLSTM"], 9],
    }
    monkeypatch.setattr(claims, "STUDIES", studies)
    monkeypatch.setattr(
        claims, "train_repeats", partial(claims.train_repeats, jit=False)
    )
    monkeypatch.setattr(claims, "print_when", lambda losses: None)
    assert claims.main(["--folder", ".", "--repeats", "4"]) == 0
    X, y = get_sequences(10, 4, 2, "total")
    middle = get_sequences(10, 4, 2)[1][:, 1]
    losses = {name: claims.read_losses(in_tmp, name) for name in studies}
    options = {"batch_size": 1, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    for study, builders, name, labels in [
        ("longer", claims.MODELS, "BiLSTM", y),
        ("longer", claims.MODELS, "LSTM, backwards", y),
        ("one-label", claims.ONE_LABEL_MODELS, "BiLSTM", middle),
    ]:
        keras.utils.set_random_seed(2)
        model = builders[name](4, learning_rate=0.01)
        model.run_eagerly = True  # so few updates are done sooner than compiled
        loss = model.fit(X, labels, epochs=10, **options).history["loss"]
        last_fifth = pytest.approx(np.mean(loss[8:]), abs=1e-5)
        assert losses[study].loc[2, (name, "0.01")] == last_fifth


def get_error(differences):
    return 2 * np.std(differences, ddof=1) / np.sqrt(len(differences))


def get_cell(above):
    mean, error = np.mean(above), get_error(above)
    return f"**{mean:+.3f}**" if abs(mean) > error else f"{mean:+.3f}", f"{error:.3f}"


def test_losses_table_holds_the_statistics(drawn, in_tmp, capsys):
    assert claims.main(["--folder", ".", "--repeats", "9"]) == 0
    printed = capsys.readouterr().out
    table = get_tables(printed)[LOSSES]
    past = claims.read_losses(in_tmp, "past").droplevel(1, axis="columns")
    later = claims.read_losses(in_tmp, "past-5000").droplevel(1, axis="columns")
    reported = [2, 4, 6, 8]  # There is one rate, which the other seeds choose.
    assert table[1] == ["---"] * 4 and len(table) == 2 + 7
    rows = {row[0]: row[1:] for row in table[2:]}
    labels = {name: name for name in claims.TUTORIALS}
    labels["lstm_back"] = "`lstm_back`, above the LSTM's"
    bold, errors = 0, []
    for name, label in labels.items():
        other = "LSTM" if name == "lstm_back" else "BiLSTM"
        expected = []
        for loss in (past, past.loc[reported], later.loc[reported]):
            cell = f"{loss[name].mean():.3f}"
            mean, error = get_cell(loss[name] - loss[other])
            bold += "*" in mean
            errors.append(error)
            expected.append(cell if name == "BiLSTM" else f"{cell} ({mean})")
        assert rows[label] == expected
    assert 0 < bold < 18
    assert f"(bold: more than 2 SE, which are {max(errors)} or less)\n" in printed


def test_when_table_holds_the_statistics(drawn, in_tmp, capsys):
    assert claims.main(["--folder", ".", "--repeats", "6"]) == 0
    printed = capsys.readouterr().out
    columns, line, *rows = get_tables(printed)[WHEN]
    assert line == ["---"] + ["--:"] * 6
    labels = ["the past", "", "the whole", "the first half, one label (chance: 0.693)"]
    labels += ["the same, outputs averaged", "the same, read backwards"]
    assert [row[0] for row in rows] == labels
    assert {(row[1], row[2]) for row in rows} == {("4", "60")}
    whole, one_label = [dict(zip(columns, row)) for row in rows[2:4]]
    averaged, backwards = [dict(zip(columns, row)) for row in rows[4:]]

    def at_best(study, model):
        losses = claims.read_losses(in_tmp, study)[model]
        best = losses.loc[[1, 3, 5]].mean().idxmin()
        edge = "" if best == "0.01" and study == "one-label" else "*"
        loss = losses.loc[[2, 4, 6], best].to_numpy()
        return f"{loss.mean():.3f}{edge}", loss

    seen = []
    for row, study in [(whole, "whole"), (one_label, "one-label")]:
        for model in ("LSTM", "two LSTMs", "BiLSTM"):
            assert row[model] == at_best(study, model)[0]
            seen.append(row[model][-1])
        mean, error = get_cell(
            at_best(study, "BiLSTM")[1] - at_best(study, "two LSTMs")[1]
        )
        assert row["BiLSTM minus two LSTMs"] == f"{mean} ± {error}"
    for model in ("LSTM", "BiLSTM"):
        assert averaged[model] == at_best("one-label", f"{model}, averaged")[0]
        seen.append(averaged[model][-1])
    assert "*" in seen and len(set(seen)) > 1
    rates = [
        float(losses.loc[[1, 3, 5], model].mean().idxmin())
        for losses in map(partial(claims.read_losses, in_tmp), claims.STUDIES)
        for model in losses.columns.unique("model")
        if "two LSTMs, backwards" not in losses  # that is "zeros"
    ]
    title = f"({min(rates):g} to {max(rates):g}; *: at the edge of the tried)\n"
    assert title in printed
    assert backwards["LSTM"] == at_best("one-label", "LSTM, backwards")[0]
    assert averaged["two LSTMs"] == averaged["BiLSTM minus two LSTMs"] == ""
    assert list(backwards.values())[4:] == ["", "", ""]


def test_why_table_holds_the_statistics(drawn, in_tmp, capsys):
    assert claims.main(["--folder", ".", "--repeats", "6", "--study", "zeros"]) == 0
    printed = capsys.readouterr().out
    [table] = get_tables(printed).values()
    losses = claims.read_losses(in_tmp, "zeros")
    error = max(get_error(losses[column]) for column in losses)
    assert f"(best possible: 0.239), ± {error:.3f} or less\n" in printed
    assert table[:2] == [["rate", *claims.ENDS], ["---"] + ["--:"] * 4]
    for rate, *means in table[2:]:
        assert means == [f"{losses[m, rate].mean():.3f}" for m in claims.ENDS]
    assert [row[0] for row in table[2:]] == ["0.01", "0.03"]


def moves(model, position=4):
    """Which outputs change with the value at a position of ten."""
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, position] += 0.5
    before, after = np.asarray(model(X)), np.asarray(model(changed))
    return (np.abs(before - after).ravel() > 1e-6).tolist()


def test_controls_change_one_thing():
    up_to, from_there_on = [True] * 5 + [False] * 5, [False] * 4 + [True] * 6
    for name, moved in {
        "LSTM": from_there_on,
        "two LSTMs": from_there_on,
        "LSTM, backwards": up_to,
        "two LSTMs, backwards": up_to,
        "lstm_back": [False] * 5 + [True] * 5,  # in reversed order
        "BiLSTM": [True] * 10,
    }.items():
        model = claims.MODELS[name](10, learning_rate=0.02)
        assert moves(model) == moved, name
        assert np.asarray(model.optimizer.learning_rate) == pytest.approx(0.02)
        assert model.loss == "binary_crossentropy"
        halves = 2 if "two" in name or "Bi" in name else 1
        assert model.count_params() == 1760 * halves + 20 * halves + 1


def test_models_of_one_label_are_their_namesakes():
    X, _ = get_sequences(3, 10, rng=0)
    for name, build in claims.ONE_LABEL_MODELS.items():
        model = build(10, learning_rate=0.02)
        assert np.asarray(model.optimizer.learning_rate) == pytest.approx(0.02)
        assert model.loss == "binary_crossentropy"
        halves = 2 if "two" in name or "Bi" in name else 1
        assert model.count_params() == 1760 * halves + 20 * halves + 1
        # Keras's own layer, with the same weights.
        averaged = "averaged" in name
        *weights, kernel, bias = model.get_weights()
        if "two" in name:
            layers = [keras.layers.LSTM(20) for _ in range(2)]
        else:
            options = {"return_sequences": averaged, "go_backwards": "backw" in name}
            layers = [keras.layers.LSTM(20, **options)]
        if "Bi" in name:
            layers = [keras.layers.Bidirectional(layers[0])]
        outputs = []
        for layer in layers:
            layer.build(X.shape)
            n_weights = len(layer.weights)
            layer.set_weights(weights[:n_weights])
            weights = weights[n_weights:]
            outputs.append(np.asarray(layer(X)))
        hidden = np.concatenate(outputs, axis=-1)
        if averaged:
            hidden = hidden.mean(axis=1)
        expected = 1 / (1 + np.exp(-(hidden @ kernel + bias)))
        assert np.asarray(model(X)) == pytest.approx(expected, abs=1e-6)
        assert moves(model, 0) == moves(model, 9) == [True]


def test_one_label_is_that_of_the_first_half():
    X, y = claims.get_data(3, "one label", 50, 4000)
    assert X.shape == (4000, 50, 1) and y.shape == (4000, 1)
    reached = np.cumsum(X[:, :, 0], axis=1, dtype=float)[:, 24] >= 50 / 4
    assert np.array_equal(y[:, 0], reached)
    assert y.mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(4000))


def test_zeros_hide_the_values_and_nothing_else():
    X, y = claims.get_data(5, "zeros", 10, 20)
    assert X.shape == (20, 10, 1) and not X.any()
    assert np.array_equal(y, get_sequences(20, 10, rng=5)[1])


def test_every_study_has_its_models():
    for name, (_, n_timesteps, _, rates, models, _) in claims.STUDIES.items():
        builders = claims.get_builders(name)
        assert len(builders) == len(rates) * len(models)
        for model, rate in list(builders)[:: len(rates)]:
            built = builders[model, rate]()
            assert built.input_shape == (None, n_timesteps, 1)
            shape = (None, 1) if name == "one-label" else (None, n_timesteps, 1)
            assert built.output_shape == shape
