"""The engine that compares models: what it trains on, what it scores, and its table.

Most tests train nothing: the models of a repeat are random, and the seed tells which.
"""

import itertools
import random
import re
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests/studies"))
import compare_models  # before Keras, whose backend it sets
import keras
import tensorflow as tf

NAMES = ["None", "nan"]  # of models, which pandas would take for missing


def draw_parts(seed):
    """Rows of two values, 1 if their sum is above 0, with weights."""
    rng, parts = np.random.default_rng(seed), []
    for n_rows in (30, 10, 20):
        X = rng.normal(size=(n_rows, 2)).astype("float32")
        y = (X.sum(axis=1, keepdims=True) > 0).astype(int)
        parts.append((X, y, rng.random(n_rows)))
    return parts


class Eager(keras.Sequential):
    """A model that predicts without being compiled, which would take long."""

    def predict(self, X, batch_size, verbose):
        assert batch_size <= 100  # Memory does not grow with the part.
        return np.asarray(self(X))


def get_model(name, rate, kind=Eager, layers=(), activation="sigmoid", **options):
    model = kind([keras.Input((2,)), *layers, keras.layers.Dense(1, activation)])
    usual = {"loss": "binary_crossentropy", "weighted_metrics": ["accuracy"]}
    model.compile(keras.optimizers.Adam(rate), **usual | options)
    return model


@pytest.fixture
def runs(monkeypatch):
    """Lists the seed and models of each repeat, whose scores are random."""
    runs = []

    def train(builders, get_parts, seeds, n_updates):
        for seed in seeds:
            runs.append((seed, list(builders)))
            yield seed, {pair: f"{seed} {pair}" for pair in builders}

    def score_models(models, parts, metrics):
        rows, columns = [], [p + m for p in ("", "validation ") for m in metrics]
        for (name, rate), model in models.items():
            draw = random.Random(model).random
            row = {"model": name, "rate": rate, "new / training": 0.3}
            row |= {column: draw() for column in columns}
            rows.append(row | {f"no input {m}": 0.7 for m in metrics})
        return pd.DataFrame(rows)

    monkeypatch.setattr(compare_models, "train", train)
    monkeypatch.setattr(compare_models, "score_models", score_models)
    return runs


@pytest.fixture
def study(runs, in_tmp, capsys):
    """Runs a study of two models at two rates, and gives the table that it prints."""

    def study(argv, names=NAMES, rates=(0.1, 0.3), parts=draw_parts, model=get_model):
        pair, argv = names[:2], argv.split()
        study.status = compare_models.main(parts, model, names, rates, pair, argv)
        return capsys.readouterr().out.partition("\nNew data")[2]

    return study


def assert_refused(capsys, study, argv, **changes):
    """Runs what must be refused in one line, and returns the line."""
    with pytest.raises(SystemExit) as stopped:
        study(argv, **changes)
    error = capsys.readouterr().err.rstrip("\n").split(": error: ")[1]
    assert stopped.value.code == 2 and "\n" not in error
    return error


# What is trained


def test_rows_are_drawn_from_the_training_part_with_their_weights(monkeypatch):
    parts, seen = draw_parts(0), []

    def look(builders, get_data, seeds, batch_size):
        seen.extend(map(get_data, [3, 3, 4]))
        assert batch_size == 16 and list(seeds) == [3, 4]
        return iter([("losses", "models of 3"), ("losses", "models of 4")])

    monkeypatch.setattr(compare_models, "train_repeats", look)
    trained = compare_models.train({}, lambda seed: parts, [3, 4], 10)
    assert list(trained) == [(3, "models of 3"), (4, "models of 4")]
    known, *drawn = [[*map(str, zip(*d))] for d in [parts[0], *seen]]
    assert all(len(rows) == 160 and set(rows) <= set(known) for rows in drawn)
    # Each repeat draws rows of its own, and again the same ones.
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) > 20


def test_masked_timesteps_are_refused_without_weights(study, runs):
    def get_parts(n_arrays, seed):
        parts = draw_parts(seed)
        return [(X, np.stack([y, y], 1), np.c_[w, w])[:n_arrays] for X, y, w in parts]

    for mask in keras.layers.Embedding(2, 1, mask_zero=True), keras.layers.Masking():
        model = partial(get_model, layers=[keras.layers.Reshape((2, 1)), mask])
        with pytest.raises(ValueError, match="give padding a weight of 0"):
            study("", parts=partial(get_parts, 2), model=model)
    study("--repeats 2", parts=partial(get_parts, 3), model=model)
    assert len(runs) == 2


# What is scored


def test_scores_are_those_of_evaluate_in_one_batch_without_regularizers():
    def build(penalty):
        options = {"kernel_regularizer": penalty, "activity_regularizer": penalty}
        layers = [keras.Input((3, 2)), keras.layers.Dense(4, **options)]
        model = keras.Sequential([*layers, keras.layers.Dense(1, "sigmoid")])
        loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
        auc = keras.metrics.AUC(name="area")
        model.compile("adam", loss, metrics=["mae"], weighted_metrics=["accuracy", auc])
        return model

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 3, 2)), rng.integers(2, size=(120, 3, 1))
    weight = rng.random((120, 3)) * rng.integers(2, size=(120, 3))
    model, plain = build("l2"), build(None)
    plain.set_weights(model.get_weights())
    yhat = model.predict(X, batch_size=50, verbose=0)
    for guess in (1 - yhat, yhat):  # The second call forgets the first.
        scores = compare_models.score(model, (X, y, weight), guess)
    right = np.where(y == 1, yhat, 1 - yhat)[..., 0]
    loss = np.average(-np.log(right), weights=weight)
    accuracy = np.average(right > 0.5, weights=weight)
    expected = {"loss": loss, "accuracy": accuracy, "mae": 1 - right.mean()}
    assert {m: scores[m] for m in expected} == pytest.approx(expected, rel=1e-4)
    evaluated = plain.evaluate(X, y, 120, 0, weight, return_dict=True)
    assert scores == pytest.approx(evaluated, rel=1e-4)


CLASSES = np.array([[0, 2, 2], [2, 2, 1]])  # [n, T]
HALF = np.array([[1, 0, 1], [1, 0, 1]])  # weights


@pytest.mark.parametrize(
    ("y", "weight", "shape", "guess"),
    [
        ([0, 1, 1, 1], [3, 1, 0, 0], (2, 1), [0.25]),  # yes or no
        ([0, 2, 2, 1], None, (2, 3), [0.25, 0.25, 0.5]),  # one of three classes
        (CLASSES, [3, 1], (1, 3, 3), [3 / 12, 1 / 12, 8 / 12]),
        (CLASSES[..., None], HALF, (1, 3, 3), [0.25, 0.25, 0.5]),
        (np.eye(3)[CLASSES], HALF, (1, 3, 3), [0.25, 0.25, 0.5]),  # one-hot
        ([[1, 1, 0], [0, 1, 0]], [3, 1], (4, 3), [0.75, 1, 0]),  # several yes or no
        ([[1.5, 2.5], [8, 4]], [[1, 0], [0, 1]], (3, 2, 1), [2.75]),  # a number
    ],
)
def test_no_input_knows_the_shares_or_the_mean_of_the_labels(y, weight, shape, guess):
    training = ("X", np.array(y)) + (() if weight is None else (np.array(weight),))
    yhat = compare_models.guess(training, np.zeros(shape))
    assert yhat.shape == shape
    np.testing.assert_allclose(yhat, np.broadcast_to(guess, shape))


def test_each_score_is_of_the_part_that_its_name_tells():
    parts, pairs = draw_parts(0), [("a", 0.1), ("b", 0.3)]
    metrics = [["accuracy", keras.metrics.AUC()] for _ in pairs]  # auc and auc_1
    models = {p: get_model(*p, weighted_metrics=m) for p, m in zip(pairs, metrics)}
    names = list(compare_models.score(models["a", 0.1], parts[0], parts[0][1]))
    table = compare_models.score_models(models, parts, names)
    assert table.notna().all(axis=None)
    assert list(zip(table["model"], table["rate"])) == pairs
    assert (table["new / training"] == 20 / 30).all()  # without validation
    share = np.average(parts[0][1][:, 0], weights=parts[0][2])
    for (_, row), model in zip(table.iterrows(), models.values()):
        for prefix, part in zip(("validation ", "", "no input "), (1, 2, 2)):
            X, y, weight = parts[part]
            yhat = share if prefix == "no input " else np.asarray(model(X))
            right = np.where(y == 1, yhat, 1 - yhat)[:, 0]
            accuracy = np.average(right > 0.5, weights=weight)
            expected = [np.mean(-np.log(right) * weight), accuracy]
            scores = list(row[[f"{prefix}{m}" for m in ("loss", "accuracy")]])
            assert scores == pytest.approx(expected, rel=1e-4)


# The table


def draw_scores(n_repeats=6):
    """Random scores; validation prefers rate 0.03 for "slow", and 0.1 for "quick"."""
    levels = [range(n_repeats), ["slow", "quick"], [0.01, 0.03, 0.1]]
    index = pd.MultiIndex.from_product(levels, names=["seed", "model", "rate"])
    columns = ["validation loss", "loss", "validation AUC", "AUC"]
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(rng.random((len(index), 4)), index, columns).reset_index()
    chosen = scores["rate"] == scores["model"].map({"slow": 0.03, "quick": 0.1})
    scores.loc[chosen, "validation loss"] -= 1
    scores.loc[~chosen, "loss"] -= 1  # which must not be looked at
    scores["no input loss"] = np.cos(scores["seed"])
    scores["no input AUC"] = np.sin(scores["seed"])
    return scores.assign(**{"new / training": 0.25}), scores[chosen]


def two_se(values):
    """Two standard errors, widened as in Nadeau and Bengio (2003)."""
    n = len(values)
    return 2 * np.std(values, ddof=1) * np.sqrt(1 / n + 0.25)


def test_table_is_of_the_rates_that_are_best_for_validation():
    scores, chosen = draw_scores()
    table = compare_models.get_table(scores, ["slow", "quick"])
    assert table["rate"].to_dict() == {"slow": "0.03", "quick": "0.1*", "no input": ""}
    rows = {name: rows[["loss", "AUC"]] for name, rows in chosen.groupby("model")}
    rows["no input"] = scores[::6][["no input loss", "no input AUC"]]
    losses = {name: row.iloc[:, 0].to_numpy() for name, row in rows.items()}
    best = min((losses["slow"], losses["quick"]), key=np.mean)
    for name, loss in losses.items():
        row = [loss.mean(), two_se(loss), (loss - best).mean(), two_se(loss - best)]
        row.append(rows[name].iloc[:, 1].mean())
        assert list(table.loc[name])[1:] == pytest.approx(row)
    # A rate that diverged once is not chosen. The lowest one has a star, too.
    diverged = (scores["rate"] > 0.02) & (scores["seed"] == 2)
    scores.loc[diverged, ["validation loss", "loss"]] = np.nan
    table = compare_models.get_table(scores, ["slow", "quick"])
    assert list(table["rate"]) == ["0.01*", "0.01*", ""] and table["loss"].notna().all()


@pytest.mark.parametrize("n_repeats", [4, 5])
def test_fewer_than_five_repeats_have_no_errors_and_it_says_why(n_repeats, capsys):
    scores, chosen = draw_scores(n_repeats)
    compare_models.report(scores, ["slow", "quick"], pair=["quick", "slow"])
    printed = capsys.readouterr().out
    assert f"repeats: {n_repeats}\n" in printed and "nan" not in printed
    losses = chosen.pivot(index="seed", columns="model", values="loss")
    difference = losses["quick"] - losses["slow"]
    error = f" (2 SE: {two_se(difference):.3f})" if n_repeats == 5 else ""
    assert f"\nquick minus slow: {difference.mean():+.3f}{error}\n" in printed
    assert ("fewer than 5 repeats" in printed) == (n_repeats == 4)
    table = compare_models.get_table(scores, ["slow", "quick"])
    assert table[["2 SE", "2 SE, paired"]].isna().all(axis=None) == (n_repeats == 4)


# Files of scores


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": "--repeats 2 --csv a.csv --updates 999"},
        {"parts": lambda seed: draw_parts(seed + 1)},
        {"model": partial(get_model, loss="mse")},
        {"model": partial(get_model, activation="relu")},
    ],
)
def test_other_data_models_and_updates_are_refused(changes, study, runs, capsys):
    same = {"argv": "--repeats 2 --csv a.csv"}
    table, before = study(**same), Path("a.csv").read_bytes()
    error = assert_refused(capsys, study, **same | changes)
    assert error.startswith("a.csv ") and "delete the file" in error
    assert Path("a.csv").read_bytes() == before
    assert study(**same) == table and len(runs) == 2  # Nothing is trained again.


def test_rates_models_and_repeats_are_added_and_only_these_are_trained(study, runs):
    study("--repeats 2 --csv a.csv")
    old = list(itertools.product(NAMES, (0.1, 0.3)))
    more = {"names": [*NAMES, "c"], "rates": (0.1, 0.3, 0.003)}
    added = set(itertools.product(*more.values())) - set(old)
    table = study("--repeats 3 --csv a.csv", **more)
    pairs = [old, old, added, added, [*old, *added]]
    assert [seed for seed, _ in runs] == [0, 1, 0, 1, 2]
    assert [sorted(of_seed) for _, of_seed in runs] == [sorted(p) for p in pairs]
    assert table == study("--repeats 3 --csv new.csv", **more)
    assert "repeats: 3\n" in study("--repeats 3 --csv a.csv") and len(runs) == 8


def test_files_without_scores_and_bad_options_are_refused(study, runs, in_tmp, capsys):
    (in_tmp / "binary.csv").write_bytes(b"\xff\xfe\x00,\x01")
    (in_tmp / "other.csv").write_text("x,y\n1,2\n")
    for option, words in [
        ("--csv binary.csv", "is no file of scores"),
        ("--csv other.csv", "is no file of scores"),
        ("--repeats 0", "at least 1"),
        ("--seed -1", "at least 0"),
        ("--csv a.csv no/a.csv", "no/a.csv"),
    ]:
        assert words in assert_refused(capsys, study, option)
    assert runs == []


def test_killed_or_in_halves_it_prints_the_table_of_one_run(study, runs, monkeypatch):
    whole = study("--repeats 6")
    assert "repeats: 6\n" in whole and "\nNone minus nan: " in whole
    assert study.status == 0 and list(Path().iterdir()) == []
    to_csv = pd.DataFrame.to_csv

    def write(table, path, **options):
        if table["seed"].nunique() == 4:
            path.write_text("seed,mod")  # killed in the middle of writing
            raise SystemExit
        to_csv(table, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", write)
    with pytest.raises(SystemExit):
        study("--repeats 6 --csv a.csv")
    monkeypatch.setattr(pd.DataFrame, "to_csv", to_csv)
    assert "repeats: 3\n" in study("--seed 3 --repeats 3 --csv b.csv")
    before = Path("b.csv").read_bytes()
    assert [seed for seed, _ in runs] == [*range(6), *range(4), 3, 4, 5]
    assert study("--repeats 6 --csv a.csv b.csv") == whole and len(runs) == 13
    assert study("--repeats 6 --csv a.csv") == whole and len(runs) == 16
    assert "repeats: 7\n" in study("--repeats 7 --csv c.csv a.csv b.csv")
    assert len(runs) == 17 and set(pd.read_csv("c.csv")["seed"]) == set(range(7))
    assert Path("b.csv").read_bytes() == before


def test_a_class_of_ones_own_needs_no_get_config(study, runs, capsys, monkeypatch):
    class Own(Eager):
        def get_config(self):
            raise NotImplementedError  # as the newest Keras does

    same = {"argv": "--repeats 2 --csv a.csv", "model": partial(get_model, kind=Own)}
    assert study(**same) == study(**same) and len(runs) == 2
    deeper = partial(get_model, kind=Own, layers=[keras.layers.Dense(3)])
    assert "a.csv" in assert_refused(capsys, study, **same | {"model": deeper})
    monkeypatch.setattr(compare_models.inspect, "getsource", lambda _: "edited")
    assert "a.csv" in assert_refused(capsys, study, **same)


def test_ctrl_c_finishes_the_repeat_and_reports(study, runs):
    def press(seed):
        if seed == 1:
            signal.raise_signal(signal.SIGINT)
        return draw_parts(seed)

    assert "repeats: 2\n" in study("--repeats 4 --csv a.csv", parts=press)
    assert study.status == 130 and [seed for seed, _ in runs] == [0, 1]
    study("--repeats 2", parts=press)  # in the last repeat: nothing is missing
    assert study.status == 0


# Costs, and copies


def test_costs_are_the_milliseconds_of_one_update(monkeypatch):
    """Of the best of three passes, after one that compiles."""
    shapes, seconds = [], iter([[9, 4, 3, 5], [9, 0.7, 0.5, 0.6]])

    def train_model(model, data):
        shapes.append(data[0].shape)
        return tf.zeros(100)

    monkeypatch.setattr(compare_models, "train_model", train_model)
    monkeypatch.setattr(compare_models.tf, "function", lambda loop, **options: loop)
    repeat = lambda f, number, repeat: [f() for _ in range(repeat)] and next(seconds)
    monkeypatch.setattr(compare_models.timeit, "repeat", repeat)
    costs = compare_models.time_updates(get_model, "ab", 0.1, draw_parts(0)[0])
    assert costs == {"a": 30, "b": 5}
    assert shapes == [(100, 16, 2)] * 8


def test_of_the_files_here_it_imports_compare_directions_alone():
    """So a copy runs beside compare_directions.py and sequence.py."""
    path = Path(compare_models.__file__)
    source = path.read_text(encoding="utf-8")
    imported = re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
    here = {file.stem for folder in (ROOT, path.parent) for file in folder.glob("*.py")}
    assert here & set(imported) == {"compare_directions"}
