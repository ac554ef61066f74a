"""The comparison on text: a small run, what it splits and scores, and data of one's own."""

import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_is_picture

sys.path.insert(0, str(ROOT / "tests"))
import compare_on_text

WORDS = ["и", "в", "начале", "было", "слово", "а", "потом", "ещё", "о", "всём"]


def write_text(path, n_words=1200):
    """Random words of another alphabet, each paragraph twice."""
    words = np.random.default_rng(0).choice(WORDS, n_words).reshape(-1, 30)
    paragraphs = [" ".join(row).capitalize() + "!" for row in words]
    path.write_text("\n\n".join(paragraphs + paragraphs), encoding="utf-8")
    return [word for row in words for word in row]


@pytest.fixture(autouse=True)
def few_models(monkeypatch):
    """Two models at one rate, compiled without XLA; no text is read yet."""
    monkeypatch.setattr(compare_on_text, "TEXT", {})
    monkeypatch.setattr(compare_on_text, "NAMES", ["two LSTMs", "BiLSTM"])
    monkeypatch.setattr(compare_on_text, "RATES", [0.03])
    without_xla = partial(compare_on_text.train_repeats, jit=False)
    monkeypatch.setattr(compare_on_text, "train_repeats", without_xla)


def get_rows(printed):
    """The numbers of each row of the printed table, by the name of its model."""
    rows = re.findall(r"^(two LSTMs|BiLSTM) +(\d.*)$", printed, re.MULTILINE)
    return {name: numbers.split() for name, numbers in rows}


def test_text_in_another_alphabet_is_compared_and_gone_on_with(
    in_tmp, capsys, monkeypatch
):
    write_text(in_tmp / "text.txt")
    args = ["--text", "text.txt", "--updates", "4", "--csv", "scores.csv"]
    assert compare_on_text.main([*args, "--repeats", "3"]) == 0
    whole = capsys.readouterr().out
    scores = pd.read_csv("scores.csv")
    assert scores.groupby("seed").size().to_dict() == {0: 2, 1: 2, 2: 2}
    assert scores["new / training"].between(0.2, 0.5).all()
    rows = get_rows(whole)
    for name in compare_on_text.NAMES:
        _, loss, *_, accuracy = rows[name]
        means = scores.query("model == @name")[["loss", "accuracy"]].mean()
        assert [float(loss), float(accuracy)] == pytest.approx(list(means), abs=6e-4)
    assert "repeats: 3\n" in whole
    assert_is_picture(in_tmp / "compare_on_text.png")
    # What a kill after the second repeat leaves is gone on with.
    scores[scores["seed"] < 2].to_csv("scores.csv", index=False)
    monkeypatch.setattr(compare_on_text, "plot_text", lambda *args: None)
    assert compare_on_text.main([*args, "--repeats", "3"]) == 0
    assert get_rows(capsys.readouterr().out) == get_rows(whole)
    pd.testing.assert_frame_equal(pd.read_csv("scores.csv"), scores)
    made = {"text.txt", "scores.csv", "compare_on_text.png"}
    assert {path.name for path in in_tmp.iterdir()} == made
    # Scores of other settings or models are not.
    pd.DataFrame({"a": [1]}).to_csv("other.csv")
    for other, words in [
        (["--updates", "5", "--csv", "scores.csv"], ["scores.csv", "5 updates"]),
        (["--csv", "other.csv"], ["other.csv", "other models"]),
    ]:
        assert_refused(["--text", "text.txt", *other], words, capsys)
    compare_on_text.NAMES.reverse()
    assert_refused(args, ["scores.csv", "other models"], capsys)
    pd.testing.assert_frame_equal(pd.read_csv("scores.csv"), scores)


def test_table_is_of_the_best_rates_for_validation_and_its_errors_are_corrected(
    monkeypatch,
):
    monkeypatch.setattr(compare_on_text, "RATES", [0.01, 0.03, 0.1])
    draw = np.random.default_rng(0).random
    rows = [
        {"seed": s, "model": m, "rate": r, "new / training": 0.25}
        for s in range(6)
        for m in ("two LSTMs", "BiLSTM")
        for r in (0.01, 0.03, 0.1)
    ]
    scores = pd.DataFrame(rows)
    for column in ("validation loss", "loss", "validation accuracy", "accuracy"):
        scores[column] = draw(len(scores))
    chosen = {"two LSTMs": 0.03, "BiLSTM": 0.1}
    for name, rate in chosen.items():
        best = (scores["model"] == name) & (scores["rate"] == rate)
        scores.loc[best, "validation loss"] -= 1
    table = compare_on_text.get_table(scores)
    assert table["rate"].to_dict() == {"two LSTMs": "0.03", "BiLSTM": "0.1*"}
    at_best = {
        name: scores[(scores["model"] == name) & (scores["rate"] == rate)]
        for name, rate in chosen.items()
    }
    losses = {name: rows["loss"].to_numpy() for name, rows in at_best.items()}
    lowest = min(losses.values(), key=np.mean)
    wider = np.sqrt(1 + 6 * 0.25)
    for name, loss in losses.items():
        pairs = loss, loss - lowest
        expected = [f(x) for x in pairs for f in (np.mean, partial(two_se, by=wider))]
        expected.append(at_best[name]["accuracy"].mean())
        assert table.loc[name].iloc[1:].tolist() == pytest.approx(expected)


def two_se(values, by):
    """Two standard errors of the mean, times a factor."""
    return by * 2 * values.std(ddof=1) / np.sqrt(len(values))


def assert_refused(args, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare_on_text.main(args)
    error = capsys.readouterr().err.rstrip("\n").split(": error: ")[1]
    assert stopped.value.code == 2 and "\n" not in error
    assert all(word in error for word in words), error


def test_copied_beside_the_scripts_it_runs_and_imports_nothing_from_elsewhere(tmp_path):
    (tmp_path / "compare_directions").mkdir()  # a folder of somebody's, above the copy
    (tmp_path / "jax").mkdir()
    copy = tmp_path / "mine"
    copy.mkdir()
    for file in ("tests/compare_on_text.py", "compare_directions.py", "sequence.py"):
        shutil.copy(ROOT / file, copy)
    command = [sys.executable, copy / "compare_on_text.py", "--updates", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "--updates and --repeats must be at least 1" in result.stderr


def test_refusals_are_a_line_each(in_tmp, capsys):
    (in_tmp / "short.txt").write_text("too short", encoding="utf-8")
    (in_tmp / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (in_tmp / "empty.csv").touch()
    for args, words in [
        (["--text", "short.txt"], ["short.txt", "8 letters", "2,500"]),
        (["--text", "missing.txt"], ["missing.txt"]),
        (["--text", "binary.txt"], ["utf-8"]),
        (["--repeats", "0"], ["--repeats", "at least 1"]),
        (["--updates", "0"], ["--updates", "at least 1"]),
        (["--csv", "a.zip"], ["--csv", ".csv"]),
        (["--csv", "missing/a.csv"], ["missing/a.csv"]),
        (["--csv", "empty.csv"], ["columns"]),
        (["--plot", "a.txt"], ["--plot", "png"]),
        (["--plot", "missing/a.png"], ["missing/a.png"]),
    ]:
        assert_refused(args, words, capsys)
    assert len(list(in_tmp.iterdir())) == 3


def test_sequences_are_the_letters_of_the_words_and_where_they_begin(in_tmp):
    words = write_text(in_tmp / "text.txt")
    compare_on_text.read_text(in_tmp / "text.txt")
    X, y = compare_on_text.TEXT["X"], compare_on_text.TEXT["y"][..., 0]
    letters = compare_on_text.TEXT["letters"][X.argmax(axis=-1)].ravel()
    assert (
        X.shape == (*y.shape, len(set("".join(WORDS)))) and (X.sum(axis=-1) == 1).all()
    )
    spaced = "".join(" " * int(begins) + x for x, begins in zip(letters, y.ravel()))
    # Each paragraph once, though the file has them twice; the rest of 50 is left out.
    assert " ".join(words).startswith(spaced[1:])
    assert len("".join(words)) - len(letters) < 50


def test_new_text_was_not_trained_on():
    """As Python's help is, with its repetitions, up to a half of it was."""
    texts = set()
    for seed in (0, 1):
        parts = [X.argmax(axis=-1) for X, _ in compare_on_text.get_parts(seed)]
        assert len(parts[0]) > 1500 and 0.3 < len(parts[2]) / len(parts[0]) < 0.37
        training, _, new = ["".join(map(chr, part.ravel())) for part in parts]
        trained = {training[i : i + 50] for i in range(len(training) - 49)}
        seen = [new[i : i + 50] in trained for i in range(0, len(new), 50)]
        assert np.mean(seen) < 0.01
        texts.add(new)
    assert len(texts) == 2  # Each repeat splits the text anew.


def test_models_differ_in_what_they_have_read():
    compare_on_text.TEXT["letters"] = list("abc")
    X = np.random.default_rng(0).random((1, 12, 3)).astype("float32")
    changed = X.copy()
    changed[0, 6] += 0.5
    moved = {}
    for name in ["LSTM", "two LSTMs", "two LSTMs, two letters late", "BiLSTM"]:
        model = compare_on_text.get_model(name, 0.02)
        difference = np.abs(np.asarray(model(X)) - np.asarray(model(changed)))
        moved[name] = (
            np.flatnonzero(difference[0, :, 0] > 1e-7)[0],
            model.count_params(),
        )
        assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    first, n_weights = zip(*moved.values())
    assert first == (6, 6, 4, 0)
    assert n_weights[0] < n_weights[1] == n_weights[2] == n_weights[3]


def get_padded_classes(seed):
    """Sequences of 3 to 8 timesteps of nine classes, sorted by class, and a label each."""
    rng = np.random.default_rng(7)
    y = np.repeat(np.arange(9), 20)
    X = rng.normal(y[:, None, None], 1, (180, 8, 2)).astype("float32")
    X[np.arange(8) >= rng.integers(3, 9, 180)[:, None]] = -99
    order = np.random.default_rng(seed).permutation(180)
    return [(X[rows], y[rows]) for rows in np.split(order, [100, 140])]


def get_class_model(name, learning_rate):
    layer = keras.layers.LSTM(5)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Masking(-99)])
    model.add(keras.layers.Bidirectional(layer) if name == "BiLSTM" else layer)
    model.add(keras.layers.Dense(9, activation="softmax"))
    loss, adam = "sparse_categorical_crossentropy", keras.optimizers.Adam(learning_rate)
    model.compile(loss=loss, optimizer=adam, weighted_metrics=["accuracy"])
    return model


def get_persons(seed):
    """A table of persons, a weighted yes or no a timestep: a person is in one part alone."""
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"person": np.repeat(np.arange(60), rng.integers(2, 7, 60))})
    table["a"] = rng.normal(size=len(table))
    table["label"], table["weight"] = table["a"] > 1, rng.random(len(table))
    parts = []
    for persons in np.split(np.random.default_rng(seed).permutation(60), [36, 48]):
        rows = [table[table["person"] == person] for person in persons]
        X, y, weight = (
            keras.utils.pad_sequences([r[c] for r in rows], 6, "float32", "post")
            for c in (["a"], ["label"], "weight")
        )
        parts.append((X, y, weight))  # weighted 0 at the padding
    return parts


def get_person_model(name, learning_rate):
    layer = keras.layers.LSTM(5, return_sequences=True)
    model = keras.Sequential([keras.Input((None, 1))])
    model.add(keras.layers.Bidirectional(layer) if name == "BiLSTM" else layer)
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss=loss, optimizer=adam, weighted_metrics=["accuracy"])
    return model


@pytest.mark.parametrize(
    ("get_parts", "get_model"),
    [(get_padded_classes, get_class_model), (get_persons, get_person_model)],
)
def test_two_functions_replaced_it_compares_data_of_ones_own(
    get_parts, get_model, in_tmp, monkeypatch, capsys
):
    monkeypatch.setattr(compare_on_text, "get_parts", get_parts)
    monkeypatch.setattr(compare_on_text, "get_model", get_model)
    kept = {}
    score = compare_on_text.score

    def score_and_keep(models, seed):
        kept[seed] = {name: model.get_weights() for name, model in models.items()}
        return score(models, seed)

    monkeypatch.setattr(compare_on_text, "score", score_and_keep)
    args = ["--updates", "20", "--repeats", "2", "--csv", "scores.csv"]
    assert compare_on_text.main(args) == 0
    assert set(get_rows(capsys.readouterr().out)) == {"two LSTMs", "BiLSTM"}
    assert [path.name for path in in_tmp.iterdir()] == ["scores.csv"]  # no text to draw
    for row in pd.read_csv("scores.csv").to_dict("records"):
        model = get_model(row["model"], 0.03)
        model.set_weights(kept[row["seed"]][row["model"], 0.03])
        _, validation, new = get_parts(row["seed"])
        for part, prefix in [(validation, "validation "), (new, "")]:
            X, y, *weight = part
            yhat = np.asarray(model(X))
            if yhat.ndim == 2:
                p, right = yhat[np.arange(len(y)), y], yhat.argmax(axis=1) == y
            else:
                p, right = np.where(y == 1, yhat, 1 - yhat)[..., 0], (yhat > 0.5) == y
                right = right[..., 0]
            weights = weight[0] if weight else np.ones(len(y))
            loss = np.average(-np.log(p), weights=weights)
            assert row[f"{prefix}loss"] == pytest.approx(loss, abs=1e-4)
            accuracy = np.average(right, weights=weights)
            assert row[f"{prefix}accuracy"] == pytest.approx(accuracy, abs=1e-4)


def test_training_rows_bring_their_weights(monkeypatch):
    monkeypatch.setattr(compare_on_text, "get_parts", get_persons)
    seen = []

    def look(builders, get_data, seeds, batch_size):
        seen.append((get_data(3), batch_size))
        return iter([])

    monkeypatch.setattr(compare_on_text, "train_repeats", look)
    assert list(compare_on_text.train({}, [3], 10)) == []
    [((X, y, weight), batch_size)] = seen
    assert len(X) == len(y) == len(weight) == 160 and batch_size == 16
    whole = [tuple(map(bytes, row)) for row in zip(*get_persons(3)[0])]
    drawn = [tuple(map(bytes, row)) for row in zip(X, y, weight)]
    assert set(drawn) <= set(whole) and len(set(drawn)) > 20


def test_diverged_rate_is_not_chosen(monkeypatch):
    monkeypatch.setattr(compare_on_text, "RATES", [0.01, 0.03])
    rows = [
        {"seed": s, "model": m, "rate": r, "validation loss": v, "loss": (5 + s) / 10}
        for s in (0, 1)
        for m in ("two LSTMs", "BiLSTM")
        for r, v in ((0.01, 0.9), (0.03, np.nan if s else 0.1))
    ]
    scores = pd.DataFrame(rows).assign(**{"new / training": 0.5})
    table = compare_on_text.get_table(scores)
    assert table["rate"].tolist() == ["0.01*", "0.01*"]
    assert table["loss"].tolist() == pytest.approx([0.55, 0.55])


def test_ctrl_c_reports_the_repeats_that_are_done(in_tmp, monkeypatch, capsys):
    write_text(in_tmp / "text.txt")

    def press(builders, seeds, n_updates):
        for seed in seeds:
            if seed == 1:
                signal.raise_signal(signal.SIGINT)
            yield seed, {}

    def draw(models, seed):
        index = [(seed, n, r) for n in compare_on_text.NAMES for r in (0.03,)]
        scores = pd.DataFrame(index, columns=["seed", "model", "rate"])
        loss = np.random.default_rng(seed).random(len(index))
        return scores.assign(
            **{"new / training": 0.3, "validation loss": loss, "loss": loss}
        )

    monkeypatch.setattr(compare_on_text, "train", press)
    monkeypatch.setattr(compare_on_text, "score", draw)
    monkeypatch.setattr(compare_on_text, "plot_text", lambda *args: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    args = ["--text", "text.txt", "--csv", "scores.csv", "--plot", "a.svg"]
    assert compare_on_text.main(args) == 130
    assert signal.signal(signal.SIGINT, before) == signal.default_int_handler
    printed = capsys.readouterr()
    assert "repeats: 2\n" in printed.out and "Ctrl-C" in printed.err
    assert set(pd.read_csv("scores.csv")["seed"]) == {0, 1}


def test_picture_marks_where_words_begin_and_what_is_wrong():
    ax = plt.figure().subplots()
    y, yhat = np.array([1, 0, 0, 1]), np.array([0.9, 0.2, 0.6, 0.3])
    compare_on_text.plot_letters(ax, list("isit"), y, yhat)
    assert [bar.get_height() for bar in ax.patches] == yhat.tolist()
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("isit")
    [lines] = ax.collections
    assert [segment[0, 0] for segment in lines.get_segments()] == [-0.5, 2.5]


def test_picture_draws_the_line_whose_losses_are_nearest_to_the_means(monkeypatch):
    rng = np.random.default_rng(1)
    y = rng.integers(2, size=(30, 5, 1))
    predictions = [rng.random((30, 5, 1)) for _ in range(2)]
    X = np.eye(5, dtype="float32")[rng.permuted(np.tile(np.arange(5), (30, 1)), axis=1)]

    class Model:
        def __init__(self, yhat):
            self.predict = lambda X, verbose: yhat

    def stand_in(builders, seeds, n_updates):
        assert [build.args for build in builders.values()] == [
            ("two LSTMs", 0.01),
            ("BiLSTM", 0.03),
        ]
        yield 0, dict(zip(builders, map(Model, predictions)))

    monkeypatch.setattr(compare_on_text, "train", stand_in)
    monkeypatch.setattr(compare_on_text, "get_parts", lambda seed: [0, 0, (X, y)])
    compare_on_text.TEXT["letters"] = np.array(list("abcde"))
    columns = ["rate", "loss", "2 SE", "above the best", "2 SE, paired", "accuracy"]
    rows = [["0.01*", 0.2, 0.01, 0.1, 0.02, 0.923], ["0.03", 0.1, 0.02, 0, 0, 0.961]]
    table = pd.DataFrame(rows, ["two LSTMs", "BiLSTM"], columns)
    figure = plt.figure()
    compare_on_text.plot_text(figure, table, 1)
    losses = [-np.log(np.where(y == 1, p, 1 - p)).mean((1, 2)) for p in predictions]
    line = sum(abs(loss - loss.mean()) for loss in losses).argmin()
    for ax, p in zip(figure.axes, predictions):
        heights = [bar.get_height() for bar in ax.patches]
        assert heights == pytest.approx(p[line, :, 0])
        letters = "".join(tick.get_text() for tick in ax.get_xticklabels())
        assert letters == "".join("abcde"[i] for i in X[line].argmax(-1))
    titles = [ax.get_title("left") for ax in figure.axes]
    assert "92.3% of new letters right, log loss 0.200 ± 0.010" in titles[0]
    assert "96.1% of new letters right, log loss 0.100 ± 0.020" in titles[1]
