"""The experiment on text: its words and sequences, what its models read, its figure."""

import sys
import unicodedata

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_is_picture
from matplotlib.colors import to_hex

sys.path.insert(0, str(ROOT / "tests/studies"))
import compare_models  # before Keras, whose backend it sets
import on_text

WORDS = ["и", "в", "начале", "было", "слово", "а", "потом", "ещё", "о", "всём"]


def draw_text(n_words=1200):
    """Random words of another alphabet, each paragraph twice, and their words."""
    words = np.random.default_rng(0).choice(WORDS, n_words).reshape(-1, 30)
    paragraphs = [" ".join(row).capitalize() + "!" for row in words]
    return "\n\n".join(paragraphs * 2), [str(word) for row in words for word in row]


def test_words_are_letters_with_their_marks():
    for line, words in {
        "नमस्ते दुनिया, हिन्दी!": ["नमस्ते", "दुनिया", "हिन्दी"],
        "தமிழ் மொழி": ["தமிழ்", "மொழி"],
        unicodedata.normalize("NFD", "L'Été français"): ["l", "été", "français"],
        "İZMİR İçin": ["i̇zmi̇r", "i̇çin"],
        "a1b\u0301 \u0301c_d": ["a", "b\u0301", "c", "d"],  # a mark needs a letter
    }.items():
        assert on_text.split_words(line) == words


def test_paragraphs_end_at_empty_lines_and_at_single_signs_and_count_once():
    text = "one\ntwo\n%\none two\n \none\nI\ntwo\n%\nThree\n\nONE, two!\n-\n七\nfour"
    words = on_text.read_words(text)
    assert " ".join(words) == "one two one i two three 七 four"


def test_sequences_are_the_letters_of_the_words_and_where_they_begin():
    text, words = draw_text()
    letters, X, y = on_text.get_sequences(on_text.read_words(text))
    assert X.shape == (len("".join(words)) // 50, 50, len(set("".join(WORDS))))
    assert y.shape == (*X.shape[:2], 1) and (X.sum(axis=-1) == 1).all()
    read = letters[X.argmax(axis=-1)].ravel()
    spaced = "".join(" " * begins + x for x, begins in zip(read, y.ravel()))
    assert " ".join(words).startswith(spaced[1:])


def test_parts_are_all_blocks_of_neighbours_and_none_is_in_two():
    rows, dealt = np.arange(1003), []
    for seed in (0, 0, 1):
        X, y = zip(*on_text.get_parts(rows, -rows, seed))
        assert sorted(np.concatenate(X)) == list(rows)
        assert [len(x) for x in X] == pytest.approx([602, 200, 200], abs=5)
        assert sum((np.diff(x) > 1).sum() for x in X) < 50
        assert (np.concatenate(X) == -np.concatenate(y)).all()
        dealt.append(X[2].tolist())
    assert dealt[0] == dealt[1] != dealt[2]


def test_new_text_was_not_trained_on():
    """As Python's help is, with its repetitions, up to a half of it was."""
    words = on_text.read_words("\n\n".join(on_text.topics.values()))
    _, X, y = on_text.get_sequences(words)
    parts = [X.argmax(axis=-1).ravel() for X, _ in on_text.get_parts(X, y, 0)]
    training, _, new = ["".join(map(chr, part)) for part in parts]
    trained = {training[i : i + 50] for i in range(len(training) - 49)}
    seen = [new[i : i + 50] in trained for i in range(0, len(new), 50)]
    assert len(training) > 75_000 and np.mean(seen) < 0.01


def test_models_differ_in_what_their_outputs_have_read():
    X = np.random.default_rng(0).normal(size=(1, 50, 28)).astype("float32")
    changed, moved, n_weights = X.copy(), {}, {}
    changed[0, 25] += 5
    for name in on_text.MODELS:
        model = on_text.get_model(28, name, 0.02)
        yhat = np.asarray(model(np.concatenate([X, changed])))
        assert model.loss == "binary_crossentropy"
        assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
        timesteps = np.flatnonzero(np.abs(yhat[0] - yhat[1]).ravel() > 1e-6)
        moved[name] = timesteps[0], timesteps[-1]
        n_weights[name] = model.count_params()
    first, last = moved.pop("BiLSTM")
    assert first < 20 and last > 30
    assert [first for first, _ in moved.values()] == [25, 25, 23, 21]
    assert moved["convolution"] == (21, 29)
    assert n_weights.pop("LSTM") < 0.6 * min(n_weights.values())
    assert max(n_weights.values()) < 1.05 * min(n_weights.values())


def test_refusals_are_a_line_each_and_say_what_to_do(in_tmp, capsys):
    (in_tmp / "short.txt").write_text("too short", encoding="utf-8")
    (in_tmp / "latin.txt").write_bytes("café".encode("latin-1"))
    for option, words in {
        "--text short.txt": ["short.txt", " 0 letters", "2,500"],
        "--text missing.txt": ["missing.txt"],
        "--text latin.txt": ["latin.txt", "not UTF-8", "save it as UTF-8"],
    }.items():
        with pytest.raises(SystemExit):
            on_text.main(option.split())
        error = capsys.readouterr().err.rstrip("\n").split(": error: ")[1]
        assert all(word in error for word in words) and "\n" not in error, error


def test_figure_draws_the_line_nearest_to_both_means_wrong_bars_orange(monkeypatch):
    rng = np.random.default_rng(1)
    y = rng.integers(2, size=(100, 5, 1))
    numbers = rng.permuted(np.tile(np.arange(5), (100, 1)), axis=1)
    letters, X = np.array(list("abcde")), np.eye(5, dtype="float32")[numbers]
    yhat = rng.random((2, 100, 5, 1))
    models = dict(zip(["two LSTMs", "BiLSTM"], yhat))  # stand-ins, their predictions
    monkeypatch.setattr(compare_models, "predict", lambda model, X: model)
    rows = [[0.2, 0.01, 0.923], [0.1, np.nan, 0.961]]
    table = pd.DataFrame(rows, list(models), columns=["loss", "2 SE", "accuracy"])
    figure = plt.figure()
    on_text.plot_text(figure, table, models, letters, (X, y))
    losses = -np.log(np.where(y == 1, yhat, 1 - yhat)).mean((2, 3))
    line = np.abs(losses - losses.mean(axis=1, keepdims=True)).sum(axis=0).argmin()
    starts = y[line, :, 0]
    for ax, p in zip(figure.axes, yhat[:, line, :, 0]):
        colors = np.where((p > 0.5) == starts, "#56b4e9", "#d55e00")  # blue, orange
        bars = [(bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches]
        assert bars == list(zip(p, colors))
        shown = [tick.get_text() for tick in ax.get_xticklabels()]
        assert shown == letters[numbers[line]].tolist()
        begins = [segment[0, 0] + 0.5 for segment in ax.collections[0].get_segments()]
        assert begins == np.flatnonzero(starts).tolist()
    past, both = [ax.get_title("left") for ax in figure.axes]
    assert "LSTMs know the letters so far: 92.3%" in past and "0.200 ± 0.010" in past
    assert "knows the letters to come as well: 96.1%" in both and both[-5:] == "0.100"


def test_figure_is_of_new_data_of_the_seed_it_was_trained_with(in_tmp, monkeypatch):
    text, words = draw_text()
    (in_tmp / "text.txt").write_text(text, encoding="utf-8")
    trained, drawn, build, plot = [], [], on_text.get_model, on_text.plot_text

    def train(builders, get_parts, seeds, n_updates):
        trained.append((list(seeds), n_updates, [b.args for b in builders.values()]))
        for seed in seeds:
            yield seed, {name: build() for name, build in builders.items()}

    monkeypatch.setattr(on_text, "RATES", [0.03])
    monkeypatch.setattr(
        on_text, "get_model", lambda n, _, r: build(n, "convolution", r)
    )
    monkeypatch.setattr(on_text, "plot_text", lambda *a: drawn.append(a) or plot(*a))
    monkeypatch.setattr(compare_models, "train", train)
    monkeypatch.setattr(compare_models, "predict", lambda f, X: np.asarray(f(X)))
    monkeypatch.setattr(compare_models, "time_updates", lambda *args: {})
    options = "--text text.txt --seed 3 --repeats 1 --updates 7 --plot a.png"
    assert on_text.main(options.split()) == 0
    [(_, _, models, letters, (X, y))] = drawn
    assert list(models) == ["two LSTMs", "BiLSTM"]
    built = [[(len(letters), m, 0.03) for m in ms] for ms in (on_text.MODELS, models)]
    assert trained == [([3], 7, args) for args in built]
    new = on_text.get_parts(*on_text.get_sequences(words)[1:], seed=3)[2]
    assert (X == new[0]).all() and (y == new[1]).all()
    assert_is_picture(in_tmp / "a.png")
