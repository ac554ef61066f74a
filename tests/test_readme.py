"""Everything that the README shows runs, exists or holds."""

import ast
import importlib
import itertools
import re
import runpy
import shlex

import keras
import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

import compare_directions

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.match(r"python \w+\.py", c)]
)
def test_command_is_accepted(command, in_tmp):
    """Reads the options as the script does; other tests run them."""
    _, file, *args = shlex.split(command)
    assert (ROOT / file).is_file()
    if args:
        options = importlib.import_module(file[:-3]).parse_args(args)
        names = {arg[2:].replace("-", "_") for arg in args if arg.startswith("--")}
        assert names <= set(vars(options))  # none of them an abbreviation
    assert list(in_tmp.iterdir()) == []


def test_commands_of_the_tests_folder_exist():
    commands = [c.split()[1] for c in COMMANDS if c.startswith("python tests/")]
    assert "tests/claims.py" in commands
    assert all((ROOT / file).is_file() for file in commands)


def run_here(source, run_name="snippet"):
    """Runs the source in this process, and gives its names."""
    with open("snippet.py", "w", encoding="utf-8") as file:
        file.write(source)
    with matplotlib.rc_context():  # A style that it chooses is not for other tests.
        return runpy.run_path("snippet.py", run_name=run_name)


def test_snippet_puts_the_outputs_of_go_backwards_in_order(in_tmp):
    [snippet] = [block for block in blocks("python") if "flip" in block]
    assert len(snippet.splitlines()) == 3
    imports = "import keras\nfrom lstm_classify import get_lstm_model\n"
    names = run_here(imports + snippet)
    X = np.random.default_rng(0).random((4, 10, 1))
    reversed_order = np.asarray(names["lstm"](X))
    model = names["in_order"]
    assert np.array_equal(np.asarray(model(X)), reversed_order[:, ::-1])
    assert model.fit(X, X > 0.5, verbose=0).history["loss"][0] < 1
    model.save("in_order.keras")
    loaded = keras.saving.load_model("in_order.keras")
    expected = np.asarray(model(X))
    assert np.array_equal(np.asarray(loaded(X)), expected)


def table_of_changes():
    """The rows of "for ..., instead of ..., say ...", by what they are for."""
    section = README.split("\n|for|instead of|say|\n")[1].split("\n\n")[0]
    changes, what = {}, ""
    for row in section.splitlines()[1:]:
        name, old, new = [cell.strip() for cell in row[1:-1].split("|")]
        what = name or what  # A row without a name goes on with the one above.
        [old] = re.findall("`(.+)`", old)
        code = "\n    ".join(re.findall("`(.+?)`", new))  # "then": on the next line
        same = f"{old}\n    " if new.startswith("the same, then") else ""
        changes.setdefault(what, []).append((old, same + code))
    return changes


CHANGES = table_of_changes()
LENGTHS, TEXT, PER_SEQUENCE, CLASSES, NUMBER, TWO_LAYERS, GRU = CHANGES
COMBINATIONS = [
    tuple(filter(None, choice))
    for choice in itertools.product(
        [None, LENGTHS, TEXT],
        [None, PER_SEQUENCE],
        [None, CLASSES, NUMBER],
        [None, TWO_LAYERS],
        [None, GRU],
    )
]


def build_changed(choice):
    """The function of the script with the lines of the table, called."""
    source = (ROOT / "bilstm_classify.py").read_text(encoding="utf-8")
    docstring = r'    """Returns.*?"""\n'
    source = re.sub(docstring, "", source, flags=re.DOTALL)
    source = source.split("\ndef get_bi_lstm_model")[1].split("\n\n\n")[0]
    for what in choice:
        for old, new in CHANGES[what]:
            assert source.count(old) == 1 or what == GRU, old
            source = source.replace(old, new)
    names = {"keras": keras, "n_classes": 3, "n_words": 9}
    exec(f"def get_bi_lstm_model{source}", names)  # noqa: S102
    return names["get_bi_lstm_model"](4, n_units=4, n_features=2)


def data_for(choice):
    """32 sequences, half of them padded after two of the four timesteps."""
    rng = np.random.default_rng(0)
    padding = np.repeat([0, 1], 16)[:, None] * (np.arange(4) >= 2)
    if TEXT in choice:
        X = np.where(padding, 0, rng.integers(1, 10, (32, 4)))  # with n_words
    else:
        X = rng.random((32, 4, 2), dtype=np.float32)
        X[padding == 1] = -99
    y = rng.integers(3 if CLASSES in choice else 2, size=(32, 4, 1))
    return X, y[:, 0, 0] if PER_SEQUENCE in choice else y


@pytest.mark.parametrize("choice", COMBINATIONS, ids=lambda c: ", ".join(c) or "none")
def test_changes_for_ones_own_data_work_in_all_combinations(choice):
    model, (X, y) = build_changed(choice), data_for(choice)
    n_outputs = 3 if CLASSES in choice else 1
    per_step = () if PER_SEQUENCE in choice else (4,)
    assert model.output_shape == (None, *per_step, n_outputs)
    rnn = model.layers[-2].forward_layer
    cells = rnn.cell.cells if TWO_LAYERS in choice else [rnn.cell]
    kind = keras.layers.GRUCell if GRU in choice else keras.layers.LSTMCell
    assert [type(cell) for cell in cells] == [kind] * (1 + (TWO_LAYERS in choice))
    assert rnn.return_sequences == (PER_SEQUENCE not in choice)
    if GRU in choice:  # Called, it does nothing that the LSTM's combination does not.
        return
    yhat = model(X, training=False)
    assert yhat.shape == (32, *per_step, n_outputs)
    assert np.isfinite(float(model.compute_loss(X, y, yhat)))
    if CLASSES in choice:
        assert np.asarray(yhat).sum(axis=-1) == pytest.approx(1, abs=1e-5)
    if NUMBER in choice:  # not squeezed into (0, 1)
        model.layers[-1].set_weights([np.zeros((8, 1)), np.array([7.0])])
        assert np.asarray(model(X)) == pytest.approx(7)
    if {LENGTHS, TEXT} & set(choice):  # The padding changes no prediction.
        part = (slice(None), slice(2)) if per_step else slice(None)
        alone = np.asarray(model(X[16:, :2]))
        assert np.asarray(model(X))[16:][part] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    "choice", [(TEXT, CLASSES, TWO_LAYERS), (LENGTHS, PER_SEQUENCE)]
)
def test_changed_model_is_trained_saved_and_loaded(choice, in_tmp):
    model, (X, y) = build_changed(choice), data_for(choice)
    model.run_eagerly = True
    assert np.isfinite(model.fit(X, y, verbose=0).history["loss"][0])
    model.save("changed.keras")
    loaded = keras.saving.load_model("changed.keras")
    expected = np.asarray(model(X))
    assert np.asarray(loaded(X)) == pytest.approx(expected, abs=1e-6)


[OWN_DATA] = [block for block in blocks("python") if "pad_sequences" in block]


def test_snippet_goes_from_a_table_to_a_saved_model(in_tmp, capsys):
    names = run_here(OWN_DATA.replace("epochs=100", "epochs=6"))
    printed = capsys.readouterr().out
    assert "Epoch 6/6" in printed
    # The table comes out of its padded form again, an id in one part alone.
    table, counts = names["table"], []
    assert len(table) == sum(weight.sum() for *_, weight in names["parts"].values())
    for X, y, weight in names["parts"].values():
        assert X.shape[2] == 2 and y.shape == (*weight.shape, 1)
        assert weight.sum(axis=1).max() == X.shape[1]  # padded, and not cut
        assert (weight == (X[:, :, 1] != -99)).all() and abs(X[weight == 1]).max() < 9
        of_ids = table.groupby("id")["a"].agg(list)
        valid = [x[w == 1, 0].tolist() for x, w in zip(X, weight)]
        assert all(
            any(np.allclose(v, a) for a in of_ids if len(a) == len(v)) for v in valid
        )
        counts.append(len(X))
    assert counts == [300, 100, 100]
    # It learns, and what is printed is of the timesteps that are there.
    X, y, weight = names["X"], names["y"], names["weight"]
    model = keras.saving.load_model("model.keras")
    yhat = np.asarray(model(X))
    right = ((yhat > 0.5) == y)[weight == 1].mean()
    assert right > 0.85
    scores = ast.literal_eval(printed.splitlines()[-1])
    assert scores["accuracy"] == pytest.approx(right, abs=1e-4)
    assert scores["Precision"] == pytest.approx(
        y[(weight == 1) & (yhat[:, :, 0] > 0.5)].mean(), abs=1e-4
    )
    assert model.predict(X[0][None], verbose=0).shape == (1, *y.shape[1:])


@pytest.fixture(params=[True, False], ids=["masks", "no masks"])
def masks(request, monkeypatch):
    """Keras as it is, and as it will be when LSTMs do not pass masks on."""
    if not request.param:
        for layer in (keras.layers.RNN, keras.layers.Bidirectional):
            monkeypatch.setattr(layer, "compute_mask", lambda self, *args: None)
    return request.param


def padded(label_at_padding):
    """X, y and weight of sequences of two to four of six timesteps."""
    rng = np.random.default_rng(0)
    X = rng.random((64, 6, 2), dtype="float32")
    y = (X[:, :, :1] > 0.5).astype("float32")
    padding = np.arange(6) >= rng.integers(2, 5, 64)[:, None]
    X[padding], y[padding] = -99, label_at_padding
    return X, y, (~padding).astype("float32")


def true_scores(model, X, y, weight):
    """Log loss, accuracy and precision of the timesteps that are there."""
    yhat = np.asarray(model(X))[weight == 1]
    y = y[weight == 1]
    return {
        "loss": -np.log(np.where(y == 1, yhat, 1 - yhat)).mean(),
        "accuracy": np.mean((yhat > 0.5) == y),
        "Precision": np.mean(y[yhat > 0.5]),
    }


def get_recipe():
    """The model of the snippet, compiled as there."""
    lines = OWN_DATA.split("\nmodel = ")[1].split("\n# How many")[0]
    names = {"keras": keras}
    keras.utils.set_random_seed(3)
    exec(f"model = {lines}", names)  # noqa: S102
    return names["model"]


def get_layers_of_both_directions():
    """The page's line for layers that see both directions, twice."""
    [mask, layer] = re.findall(r"functional API: `(.*?)` and `(.*?)`", README)[0]
    keras.utils.set_random_seed(3)
    inputs = keras.Input((None, 2))
    names = {"keras": keras, "inputs": inputs, "h": inputs}
    exec(mask, names)  # noqa: S102
    for _ in range(2):
        lstm = keras.layers.LSTM(8, return_sequences=True)
        names["layer"] = keras.layers.Bidirectional(lstm)
        exec(layer, names)  # noqa: S102
    outputs = keras.layers.Dense(1, activation="sigmoid")(names["h"])
    model = keras.Model(inputs, outputs)
    recipe = get_recipe()
    metrics = ["accuracy", "Precision"]
    model.compile("adam", recipe.loss, weighted_metrics=metrics)
    return model


@pytest.mark.parametrize("build", [get_recipe, get_layers_of_both_directions])
def test_recipe_for_padded_labels_is_right_with_and_without_masks(build, masks):
    model = build()
    model.run_eagerly = True  # so few updates are done sooner than compiled
    model.optimizer.learning_rate = 0.03
    X, y, weight = padded(0)
    model.fit(X, y, sample_weight=weight, epochs=2, verbose=0)
    for label in (0, 1):
        X, y, weight = padded(label)
        scores = model.evaluate(
            X, y, 64, sample_weight=weight, verbose=0, return_dict=True
        )
        for name, true in true_scores(model, X, y, weight).items():
            assert scores[name] == pytest.approx(true, abs=1e-4), name
    # A padded sequence is predicted as it is alone.
    n_timesteps = int(weight[0].sum())
    alone = np.asarray(model(X[:1, :n_timesteps]))
    in_padding = np.asarray(model(X[:1]))[:, :n_timesteps]
    assert in_padding == pytest.approx(alone, abs=1e-6)


def test_recipe_for_padded_classes_is_right_with_and_without_masks(masks):
    lines = OWN_DATA.split("\nmodel = ")[1].split("\n# How many")[0]
    for old, new in [
        ('Dense(1, activation="sigmoid")', 'Dense(3, activation="softmax")'),
        ("BinaryCrossentropy", "SparseCategoricalCrossentropy"),
        (', "Precision"', ""),
    ]:
        assert lines.count(old) == 1
        lines = lines.replace(old, new)
    names = {"keras": keras}
    exec(f"model = {lines}", names)  # noqa: S102
    names["model"].run_eagerly = True
    for label in (0, 2):
        X, y, weight = padded(label)
        yhat = np.asarray(names["model"](X))
        assert "`yhat.argmax(-1)[..., None]`" in README
        assert yhat.argmax(-1)[..., None].shape == y.shape
        losses = -np.log(np.take_along_axis(yhat, y.astype(int), axis=2))
        options = {"batch_size": 64, "verbose": 0, "return_dict": True}
        scores = names["model"].evaluate(X, y, sample_weight=weight, **options)
        assert scores["loss"] == pytest.approx(losses[weight == 1].mean(), abs=1e-5)


def test_what_the_page_warns_of_is_wrong_without_an_error():
    """When one of these fails, Keras has become better than the page says."""
    model, options = get_recipe(), {"batch_size": 64, "verbose": 0}
    kernel, _ = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, np.array([2.0])])  # predicts many a 1
    model.compile("sgd", "binary_crossentropy", metrics=["Precision"])
    precision = [model.evaluate(*padded(label)[:2], **options)[1] for label in (0, 1)]
    assert precision[0] != pytest.approx(precision[1], abs=0.1)  # counts the padding
    model.compile("sgd", "binary_crossentropy")
    X, y, weight = padded(0)
    # Without the last axis of y:
    loss = model.evaluate(X[:1], y[:1, :, 0], return_dict=True, **options)["loss"]
    true = true_scores(model, X[:1], y[:1], weight[:1])["loss"]
    assert loss != pytest.approx(true, abs=1e-3)


def test_rare_labels_are_weighted_as_the_page_says():
    keras.utils.set_random_seed(1)
    X = np.random.default_rng(1).random((32, 4, 2), dtype="float32")
    y = (X[:, :, :1] > 0.9).astype(int)
    [of_page] = re.findall(r"Rare labels\*\*: `(.*?)`", README)
    for labels in (y, y == 1):
        weight = eval(of_page, {"np": np, "y": labels, "weight": np.ones((32, 4))})
        assert (weight == 1 + 8 * y[:, :, 0]).all()
    model = build_changed(())
    start, yhat = model.get_weights(), np.asarray(model(X))
    losses = -np.log(np.where(y == 1, yhat, 1 - yhat))[:, :, 0]
    options = {"batch_size": 32, "verbose": 0}
    [loss] = model.fit(X, y, sample_weight=weight, **options).history["loss"]
    assert loss == pytest.approx((weight * losses).mean(), abs=1e-5)
    model = build_changed(())
    model.set_weights(start)
    try:
        fitted = model.fit(X, y, class_weight={0: 1, 1: 9}, **options)
    except Exception:  # noqa: BLE001
        return
    expected = (weight * losses).mean()
    assert fitted.history["loss"][0] != pytest.approx(expected, abs=1e-3)


def test_snippet_compares_models_of_ones_own(in_tmp, capsys, monkeypatch):
    [snippet] = [block for block in blocks("python") if "study.csv" in block]
    for number, smaller in [
        ("[0.003, 0.01, 0.03]", "[0.01]"),
        ('["lstm", "two_lstms", "bilstm"]', '["two_lstms", "bilstm"]'),
        ("300", "100"),
    ]:
        assert snippet.count(number) >= 1
        snippet = snippet.replace(number, smaller)
    assert "range(10)" in snippet
    names = run_here(snippet.replace("range(10)", "range(2)"))
    scores = pd.read_csv("study.csv")
    assert len(scores) == 2 * 2 and set(scores["epoch"]) == {100}
    # The models of the last seed score the held-out rows as in the file.
    X, y = names["held_out"]["x"], names["held_out"]["y"]
    assert len(X) == 100
    for name, model in names["models"].items():
        yhat = np.asarray(model(X))
        [row] = scores.query("model == @name and seed == 1").to_dict("records")
        loss = -np.log(np.where(y == 1, yhat, 1 - yhat)).mean()
        assert row["loss"] == pytest.approx(loss, abs=1e-4)
        assert row["accuracy"] == pytest.approx(np.mean((yhat > 0.5) == y), abs=1e-4)

    # Started again, it goes on with the seeds that it lacks, and repeats none.
    def train_nothing(builders, get_data, seeds, batch_size):
        for seed in seeds:
            index = pd.MultiIndex.from_tuples([(seed, 100)], names=["seed", "epoch"])
            yield pd.DataFrame(index=index), names["models"]

    monkeypatch.setattr(compare_directions, "train_repeats", train_nothing)
    capsys.readouterr()
    run_here(snippet.replace("range(10)", "range(3)"))
    again = pd.read_csv("study.csv")
    assert again[:4].equals(scores)
    assert again.groupby("seed").size().to_dict() == {0: 2, 1: 2, 2: 2}
    printed = capsys.readouterr().out
    for name, mean in again.groupby("model")["loss"].mean().items():
        [loss] = re.findall(rf"^{name} +(\S+) +\S", printed, re.MULTILINE)
        assert float(loss) == pytest.approx(mean, abs=1e-5)


def test_benchmark_measures(in_tmp):
    source = (ROOT / "tests/benchmark.py").read_text(encoding="utf-8")
    for number, smaller in [
        (', "BiLSTM": get_bi_lstm_model', ""),
        ("get_sequences(50,", "get_sequences(3,"),
        ("get_sequences(2000,", "get_sequences(5,"),
        ("4000 // timesteps", "5"),
        ("in range(4):", "in range(2):"),
    ]:
        assert number in source
        source = source.replace(number, smaller)
    names = run_here(source)
    table = names["compare_loops"]()
    assert table["LSTM times faster"].iloc[0] == "1" and len(table) == 4
    timesteps, units, ms, _, gigabytes = names["measure_size"](4, 2)
    assert (timesteps, units) == (4, 2) and ms > 0 and 0.1 < gigabytes < 8


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [t for t in targets if "://" not in t and not t.startswith("#")]
    assert len(local) >= 3
    for target in local:
        assert (ROOT / target).is_file(), target
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert {t[1:] for t in targets if t.startswith("#")} <= anchors
    pictures = list((ROOT / ".github/images").iterdir())
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    assert {f".github/images/{picture.name}" for picture in pictures} == set(local)
