"""Everything that the README shows runs, exists or holds."""

import importlib
import inspect
import itertools
import re
import runpy
import shlex
import textwrap

import keras
import matplotlib
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import CLASSIFIERS, COMPARISONS, ROOT

from bilstm_classify import get_bi_lstm_model
from lstm_classify import get_lstm_model

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.search(r"python \w+\.py", c)]
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


def test_set_up_on_windows_is_the_same():
    [windows], [first, *_] = blocks("bat"), blocks("bash")
    assert (
        windows.replace("py -m", "python3 -m").replace("\\Scripts\\", "/bin/") == first
    )


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


def test_outputs_of_go_backwards_are_put_in_order_as_the_page_says():
    [line] = re.findall(r"`(keras\.ops\.flip.*?)` puts\s+them in order", README)
    lstm = get_lstm_model(10, backwards=True)
    outputs = eval(line, {"keras": keras, "outputs": lstm.outputs[0]})
    in_order = keras.Model(lstm.inputs[0], outputs)
    # A forward LSTM of the same weights, given the sequences backwards.
    forwards = get_lstm_model(10)
    forwards.set_weights(lstm.get_weights())
    X = np.random.default_rng(0).random((4, 10, 1))
    expected = np.asarray(forwards(X[:, ::-1]))[:, ::-1]
    assert np.asarray(in_order(X)) == pytest.approx(expected, abs=1e-6)


def test_lines_of_the_model_are_those_of_the_script():
    [lines] = [block for block in blocks("python") if "merge_mode=mode" in block]
    source = inspect.getsource(get_bi_lstm_model)
    body = textwrap.dedent(source.split('"""')[2]).strip().splitlines()
    body = [line for line in body if not line.startswith("#")]
    assert [*lines.splitlines(), "return model"] == body


def table_of_changes():
    """The rows of "for ..., instead of ..., write ...", by what they are for."""
    section = README.split("\n|for|instead of|write|\n")[1].split("\n\n")[0]
    changes = {}
    for row in section.splitlines()[1:]:
        what, old, new = [cell.strip() for cell in row[1:-1].split("|")]
        [old] = re.findall("`(.+)`", old)
        code = "\n    ".join(re.findall("`(.+?)`", new))  # "then": on the next line
        same = f"{old}\n    " if new.startswith("the same, then") else ""
        changes.setdefault(what.replace("**", ""), []).append((old, same + code))
    return changes


CHANGES = table_of_changes()
LENGTHS, IDS, PER_SEQUENCE, MEAN, CLASSES, LABELS, NUMBER, TWO_LAYERS, GRU = CHANGES
COMBINATIONS = [
    tuple(filter(None, choice))
    for choice in itertools.product(
        [None, LENGTHS, IDS],
        [None, PER_SEQUENCE, MEAN],
        [None, CLASSES, LABELS, NUMBER],
        [None, TWO_LAYERS],
        [None, GRU],
    )
    if not {LENGTHS, MEAN} <= set(choice)  # MEAN is for sequences without padding.
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
    names = {"keras": keras, "n_classes": 3, "n_labels": 3, "n_words": 9}
    exec(f"def get_bi_lstm_model{source}", names)  # noqa: S102
    return names["get_bi_lstm_model"](4, n_units=4, n_features=2)


def data_for(choice):
    """32 sequences, half of them padded after two of the four timesteps, where the table
    has a way to say so."""
    rng = np.random.default_rng(0)
    padding = np.repeat([0, 1], 16)[:, None] * (np.arange(4) >= 2)
    if IDS in choice:
        X = np.where(padding, 0, rng.integers(1, 10, (32, 4)))  # with n_words
        assert "their mask is `X != 0`" in README
        assert np.array_equal(X != 0, 1 - padding)
    else:
        X = rng.random((32, 4, 2), dtype=np.float32)
        X[padding == 1] = -99
    n_labels = 3 if LABELS in choice else 1
    y = rng.integers(3 if CLASSES in choice else 2, size=(32, 4, n_labels))
    if {PER_SEQUENCE, MEAN} & set(choice):
        return X, y[:, 0] if LABELS in choice else y[:, 0, 0]
    return X, y


@pytest.mark.parametrize("choice", COMBINATIONS, ids=lambda c: ", ".join(c) or "none")
def test_changes_for_ones_own_data_work_in_all_combinations(choice):
    model, (X, y) = build_changed(choice), data_for(choice)
    n_outputs = 3 if {CLASSES, LABELS} & set(choice) else 1
    per_step = () if {PER_SEQUENCE, MEAN} & set(choice) else (4,)
    assert model.output_shape == (None, *per_step, n_outputs)
    [rnn] = [layer for layer in model.layers if "Bidirectional" in str(type(layer))]
    rnn = rnn.forward_layer
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
    if {LENGTHS, IDS} & set(choice) and MEAN not in choice:
        # The padding changes no prediction.
        part = (slice(None), slice(2)) if per_step else slice(None)
        alone = np.asarray(model(X[16:, :2]))
        assert np.asarray(model(X))[16:][part] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    "choice", [(IDS, CLASSES, TWO_LAYERS), (LENGTHS, PER_SEQUENCE), (MEAN, LABELS)]
)
def test_changed_model_is_trained_saved_and_loaded(choice, in_tmp):
    model, (X, y) = build_changed(choice), data_for(choice)
    model.run_eagerly = True
    assert np.isfinite(model.fit(X, y, verbose=0).history["loss"][0])
    model.save("changed.keras")
    loaded = keras.saving.load_model("changed.keras")
    expected = np.asarray(model(X))
    assert np.asarray(loaded(X)) == pytest.approx(expected, abs=1e-6)


def test_mean_is_that_of_all_outputs():
    model, (X, _) = build_changed((MEAN,)), data_for(())
    outputs = np.asarray(model.layers[0](X))
    kernel, bias = model.layers[-1].get_weights()
    expected = 1 / (1 + np.exp(-(outputs.mean(axis=1) @ kernel + bias)))
    assert np.asarray(model(X)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("choice", [(LABELS,), (LABELS, MEAN)])
def test_accuracy_of_several_labels_is_that_of_each(choice):
    keras.utils.set_random_seed(1)
    model, (X, _) = build_changed(choice), data_for(choice)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + 2])  # predicts many a 1
    y = np.asarray(model(X)) > 0.5
    y[:8] = ~y[:8]  # A quarter of the labels is predicted wrong.
    model.run_eagerly = True
    scores = model.evaluate(X, y, verbose=0, return_dict=True)
    assert scores["binary_accuracy"] == pytest.approx(0.75, abs=1e-6)
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"], run_eagerly=True)
    scores = model.evaluate(X, y, verbose=0, return_dict=True)
    assert scores["accuracy"] < 0.6  # what the line of the table is there for


def test_number_is_learned_where_it_is_scaled():
    assert "**A number** as y is scaled like X" in README
    keras.utils.set_random_seed(1)
    X = np.random.default_rng(1).random((256, 4, 2), dtype="float32")
    y = 125 * X[:, ::-1, :1].cumsum(axis=1)[:, ::-1] / 4  # 0 to 125
    model = build_changed((NUMBER,))
    model.optimizer.learning_rate = 0.01
    start, explained = model.get_weights(), []
    for scaled in (y, (y - y.mean()) / y.std()):
        model.set_weights(start)
        for variable in model.optimizer.variables[2:]:  # its means start anew
            variable.assign(np.zeros(variable.shape))
        model.fit(X, scaled, batch_size=32, epochs=15, verbose=0)
        rest = scaled - np.asarray(model(X))
        explained.append(1 - rest.var() / scaled.var())
    assert explained[0] < 0.5 and explained[1] > 0.9, explained


def test_word_ids_above_n_words_raise_no_error_in_xla():
    assert "XLA takes ids above n_words silently" in README
    embedding = build_changed((IDS,)).layers[0]
    of_xla = tf.function(embedding, jit_compile=True)(tf.constant([[9, 10, 99]]))
    assert np.isfinite(of_xla).all()


[OWN_DATA] = [block for block in blocks("python") if "pad_sequences" in block]
PARTS = ["train", "validation", "new"]


def prepare(table="", features='numbers, texts = ["a"], ["kind"]'):
    """Runs the snippet up to its model, with lines that change its table, and features,
    and gives its names."""
    lines = OWN_DATA.split("\nmodel = keras.Sequential()")[0]
    old = '\nnumbers, texts = ["a"], ["kind"]'
    assert lines.count(old) == 1
    return run_here(lines.replace(old, f"\n{table}\n{features}"))


def rows_of(names, part):
    """The part's rows, its X, y and weight where there is no padding, by NumPy."""
    table = names["table"]
    X, y, weight = names["parts"][part]
    there = np.any(X != -99, axis=2)
    rows = table[table["id"].isin(np.unique(table["id"])) & in_part(names, part)]
    return rows, X[there], y[there][:, 0], weight[there]


def in_part(names, part):
    slices = {
        "train": slice(300),
        "validation": slice(300, 400),
        "new": slice(400, 500),
    }
    return names["table"]["id"].isin(names["ids"][slices[part]])


def test_snippet_goes_from_a_table_to_a_saved_model(in_tmp, capsys):
    """The snippet as it is printed: what it says is what the page says, and true."""
    names = run_here(OWN_DATA)
    printed = capsys.readouterr().out
    [shown] = [block for block in blocks("text") if "Precision" in block]
    shown = shown.split("...\n")[1].splitlines()
    assert len(shown) == 5
    said = printed.splitlines()[-len(shown) :]
    for here, there in zip(said, shown):
        *here, a = here.split()
        *there, b = there.split()
        assert here == there  # the names, and the table up to its predictions
        assert a == b if a == "yhat" else float(a) == pytest.approx(float(b), abs=0.07)
    # What is printed is of the timesteps that have a label, by NumPy.
    model = keras.saving.load_model("model.keras")
    losses = {}
    for part in PARTS:
        X, y, weight = names["parts"][part]
        yhat, label = np.asarray(model(X))[weight == 1], y[weight == 1]
        losses[part] = -np.log(np.where(label == 1, yhat, 1 - yhat)).mean()
    scores = {line.split()[0]: float(line.split()[1]) for line in said[:3]}
    # Keras takes the mean of the batches' means, which differ a little in labels.
    assert scores["loss"] == pytest.approx(losses["new"], rel=0.01)
    right = np.mean((yhat > 0.5) == label)
    assert scores["accuracy"] == pytest.approx(right, abs=6e-4) and right > 0.9
    assert scores["Precision"] == pytest.approx(label[yhat > 0.5].mean(), abs=6e-4)
    # The weights kept are those of the lowest loss on held-out labels.
    assert names["stop"].best == pytest.approx(losses["validation"], rel=0.01)
    assert 3 < len(re.findall("Epoch", printed)) < 100


def test_snippet_predicts_each_row_as_its_sequence_alone(in_tmp):
    """The lines at the end, in a model that was not trained, on unsorted ids."""
    table = 'table["id"] = 1000 - 7 * table["id"]'
    changes = [
        ('\nnumbers, texts = ["a"]', f'\n{table}\nnumbers, texts = ["a"]'),
        ("\nmodel.fit(", "\n0 and model.fit("),
    ]
    snippet = OWN_DATA
    for old, new in changes:
        assert snippet.count(old) == 1
        snippet = snippet.replace(old, new)
    names = run_here(snippet)
    rows, model = names["rows"], names["model"]
    assert names["yhat"].shape == (len(rows), 1)
    of_file = names["table"].sort_index()
    scaled = (of_file["a"] - names["scale"]["a"]["mean"]) / names["scale"]["a"]["std"]
    checked = 0
    for number in rows["id"].unique()[:5]:
        index = of_file.index[of_file["id"] == number]
        kinds = [
            (of_file["kind"] == kind) - names["scale"][f"kind_{kind}"]["mean"]
            for kind in "xy"
        ]
        kinds = [k / names["scale"][f"kind_{v}"]["std"] for k, v in zip(kinds, "xy")]
        X = np.stack([scaled.fillna(0), *kinds], axis=1)[index]
        alone = np.asarray(model(X[None].astype("float32")))[0]
        joined = names["yhat"][rows.index.isin(index)]
        assert joined == pytest.approx(alone, abs=1e-5)
        checked += len(index)
    assert checked > 25


def test_snippet_keeps_parts_apart_and_scales_by_the_training_alone(in_tmp):
    names = prepare()
    table, scale = names["table"], pd.read_csv("scale.csv", index_col=0)
    assert list(scale.columns) == ["a", "kind_x", "kind_y"]
    ids = [set(table["id"][in_part(names, part)]) for part in PARTS]
    assert [len(of_part) for of_part in ids] == [300, 100, 100]
    assert len(set.union(*ids)) == 500
    train = table[in_part(names, "train")]
    of_columns = [train["a"], train["kind"] == "x", train["kind"] == "y"]
    for name, column in zip(scale, of_columns):
        column = column.dropna().astype(float)
        assert scale[name]["mean"] == pytest.approx(np.mean(column))
        assert scale[name]["std"] == pytest.approx(np.std(column, ddof=1))
    for part in PARTS:
        X, y, weight = names["parts"][part]
        rows, of_rows, labels, weights = rows_of(names, part)
        assert len(rows) == len(of_rows)  # padded, and not cut
        lengths = rows.groupby("id").size()
        assert X.shape == (len(lengths), lengths.max(), 3)
        assert y.shape == (*weight.shape, 1) == (*X.shape[:2], 1)
        there = np.arange(lengths.max()) < lengths.to_numpy()[:, None]  # to the end
        assert np.array_equal(np.any(X != -99, axis=2), there)
        a = (rows["a"] - np.mean(train["a"].dropna())) / scale["a"]["std"]
        assert of_rows[:, 0] == pytest.approx(a.fillna(0).to_numpy(), abs=1e-4)
        assert (np.sign(of_rows[:, 1]) == np.where(rows["kind"] == "x", 1, -1)).all()
        assert (weights == rows["label"].notna()).all() and not weights.all()
        assert (labels[weights == 1] == rows["label"].dropna()).all()
        assert not weight[~there].any()


@pytest.mark.parametrize("per_time", [2, 5])
def test_snippet_keeps_the_order_of_equal_times_and_of_times_as_text(per_time, in_tmp):
    """The file's order is right; 10:00 is after 9:00."""
    names = prepare(
        f'hour = table.groupby("id").cumcount() // {per_time}\n'
        'table["time"] = "2026-01-05 " + (hour + 7).astype(str) + ":00"\n'
        'table["a"] = table.groupby("id").cumcount()\n'
        "table = pd.concat([table[hour % 2 == 1], table[hour % 2 == 0]])\n"
    )
    for part in PARTS:
        X, *_ = names["parts"][part]
        for x in X[:, :, 0]:
            assert (np.diff(x[x != -99]) > 0).all()


def test_snippet_splits_few_ids_too(in_tmp):
    names = prepare('table = table[table["id"] < 11]')
    assert [len(X) for X, _, _ in names["parts"].values()] == [6, 2, 3]


def test_snippet_with_a_label_per_sequence_as_the_page_says(in_tmp):
    [first, second] = re.findall(r"no `return_sequences`: `(.*?)`,\s+`(.*?)`", README)[
        0
    ]
    lines = OWN_DATA.replace(", return_sequences=True", "").replace("=100,", "=1,")
    old = lines[lines.index("    known = ") : lines.index("    parts[part] = ")]
    lines = lines.replace(old, f"    {first}\n    {second}\n")
    table = 'table["label"] = (table["id"] % 3 == 0) * 1.0'
    table += '\ntable.loc[table["id"] == 7, "label"] = np.nan'
    names = run_here(
        lines.split("X = get_X(rows, scale)")[0].replace(
            "\nnumbers, texts", f"\n{table}\nnumbers, texts"
        )
    )
    for part in PARTS:
        ids = np.unique(names["table"]["id"][in_part(names, part)])
        X, y, weight = names["parts"][part]
        assert len(X) == len(ids)
        assert y.tolist() == ((ids % 3 == 0) & (ids != 7)).tolist()
        assert weight.tolist() == (ids != 7).tolist()
    yhat = np.asarray(names["model"](X))[:, 0]
    loss = -np.log(np.where(y == 1, yhat, 1 - yhat))[weight].mean()
    assert names["scores"]["loss"] == pytest.approx(loss, rel=0.01)


@pytest.mark.parametrize("missing", ["np.nan", "None", "pd.NA", "-1"])
def test_snippet_gives_no_weight_to_unknown_labels(missing, in_tmp):
    names = prepare(
        'table["label"] = table["label"].fillna(0).astype(int)\n'
        f'table["label"] = table["label"].astype(object).where(table.index % 9 > 1, {missing})'
    )
    for part in PARTS:
        _, y, weight = names["parts"][part]
        rows, _, labels, weights = rows_of(names, part)
        known = (rows.index % 9 > 1).astype(int)
        assert (weights == known).all()
        assert set(np.unique(y)) == {0, 1}  # neither nan nor -1
        assert (labels[known == 1] == rows["label"][known == 1].astype(float)).all()
    model, X = get_recipe(), names["parts"]["new"][0]
    yhat = np.asarray(model(X))[weight == 1]
    losses = -np.log(np.where(y[weight == 1] == 1, yhat, 1 - yhat))
    loss = model.evaluate(X, y, 100, sample_weight=weight, verbose=0, return_dict=True)
    assert loss["loss"] == pytest.approx(losses.mean(), abs=1e-5)


def test_snippet_takes_missing_and_constant_values(in_tmp):
    """Of a constant such as 0.1 the standard deviation is not 0 but 1e-17."""
    names = prepare(
        'table[["b", "c", "d"]] = 0.1, 100, np.nan\n'
        'table.loc[7, "kind"] = None\n'
        'table["e"] = (table.index == 3).astype(float)\n',
        'numbers, texts = ["a", "b", "c", "d", "e"], ["kind"]',
    )
    scale = names["scale"]
    assert set(scale) - {"e"} == {"a", "kind_x", "kind_y"}
    for X, *_ in names["parts"].values():
        assert np.isfinite(X).all()
    rows = names["rows"].head(1)  # with values that the training never had
    new = rows.assign(a=np.nan, b=7.0, c=7.0, d=7.0, e=0.0, kind="z")
    kinds = [-scale[name]["mean"] / scale[name]["std"] for name in list(scale)[-2:]]
    X = names["get_X"](new, scale)[0, 0]
    assert X[0] == 0 and X[-2:] == pytest.approx(kinds, abs=1e-5)
    assert np.abs(X).max() < 2


def test_snippet_takes_numbers_alone_and_texts_alone(in_tmp):
    for features, n_features in [('["a"], []', 1), ('[], ["kind"]', 2)]:
        names = prepare(features=f"numbers, texts = {features}")
        assert names["parts"]["new"][0].shape[2] == n_features


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


def lines_of_the_recipe():
    """The model of the snippet, compiled as there."""
    lines = OWN_DATA.split("\nmodel = ")[1].split("\n# Train until")[0]
    return f"model = {lines}"


def get_recipe(n_features=3):
    """The model of the snippet, for two features or those of its table."""
    names = {"keras": keras, "scale": np.zeros((2, n_features))}
    keras.utils.set_random_seed(3)
    exec(lines_of_the_recipe(), names)  # noqa: S102
    names["model"].run_eagerly = True  # so few updates are done sooner than compiled
    return names["model"]


def apply_the_mask(inputs, layers):
    """The page's lines for layers that need the mask itself, for each of the layers."""
    [lines] = re.findall(r"functional API:\s*`(.*?)`, then `(.*?)`", README)
    names = {"keras": keras, "inputs": inputs, "h": inputs}
    exec(lines[0], names)  # noqa: S102
    for layer in layers:
        names["layer"] = layer
        exec(lines[1], names)  # noqa: S102
    return names["h"]


def get_stacked(n_features):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((None, n_features))
    lstms = [keras.layers.LSTM(8, return_sequences=True) for _ in range(2)]
    layers = [keras.layers.Bidirectional(lstm) for lstm in lstms]
    h = apply_the_mask(inputs, layers)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(h))
    metrics = ["accuracy", "Precision"]
    model.compile("adam", get_recipe().loss, weighted_metrics=metrics, run_eagerly=True)
    return model


@pytest.mark.parametrize("build", [get_recipe, get_stacked])
def test_recipe_for_padded_labels_is_right_with_and_without_masks(build, masks):
    model = build(2)
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
    lines = lines_of_the_recipe()
    [loss] = re.findall(r"In the snippet write `(\w+)`", README)
    for old, new in [
        CHANGES[CLASSES][0],
        ("BinaryCrossentropy", loss),
        (', "Precision"', ""),
    ]:
        assert lines.count(old) == 1
        lines = lines.replace(old, new)
    names = {"keras": keras, "n_classes": 3, "scale": np.zeros((2, 2))}
    exec(lines, names)  # noqa: S102
    names["model"].run_eagerly = True
    for label in (0, 2):
        X, y, weight = padded(label)
        yhat = np.asarray(names["model"](X))
        losses = -np.log(np.take_along_axis(yhat, y.astype(int), axis=2))
        options = {"batch_size": 64, "verbose": 0, "return_dict": True}
        scores = names["model"].evaluate(X, y, sample_weight=weight, **options)
        assert scores["loss"] == pytest.approx(losses[weight == 1].mean(), abs=1e-5)
        classes = eval(re.findall(r"`(yhat\.argmax.*?)`", README)[0], {"yhat": yhat})
        right = (classes == y[..., 0])[weight == 1].mean()
        assert scores["accuracy"] == pytest.approx(right, abs=1e-6)


def test_mean_over_padded_outputs_leaves_the_padding_out(masks, in_tmp):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((None, 2))
    lstm = keras.layers.LSTM(8, return_sequences=True)
    layers = [keras.layers.Bidirectional(lstm), keras.layers.GlobalAveragePooling1D()]
    model = keras.Model(inputs, apply_the_mask(inputs, layers))
    X, _, weight = padded(0)
    in_padding = np.asarray(model(X))
    for i in range(8):
        n_timesteps = int(weight[i].sum())
        alone = np.asarray(layers[0](X[i : i + 1, :n_timesteps])).mean(axis=1)
        assert in_padding[i : i + 1] == pytest.approx(alone, abs=1e-6)
    model.save("mean.keras")
    loaded = keras.saving.load_model("mean.keras")
    assert np.asarray(loaded(X)) == pytest.approx(in_padding, abs=1e-6)


def test_mask_of_word_ids_is_that_of_the_page(masks):
    [mask] = re.findall(r"their mask is `X (.*?)`", README)
    inputs = keras.Input((None,))
    mask = eval(f"inputs {mask}", {"inputs": inputs})
    h = keras.layers.Embedding(10, 4)(inputs)
    lstm = keras.layers.LSTM(4, return_sequences=True)
    h = keras.layers.Bidirectional(lstm)(h, mask=mask)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(h, mask=mask))
    alone = np.asarray(model(np.array([[3, 9, 1]])))
    in_padding = np.asarray(model(np.array([[3, 9, 1, 0, 0]])))
    assert in_padding == pytest.approx(alone, abs=1e-6)


def test_what_the_page_warns_of_is_wrong_without_an_error():
    """When one of these fails, Keras has become better than the page says."""
    model, options = get_recipe(2), {"batch_size": 64, "verbose": 0}
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


def rare_weight(y, weight):
    """The page's weights for rare labels."""
    [of_page] = re.findall(r"Rare labels\*\*: train and validate with `(.*?)`", README)
    return eval(of_page, {"np": np, "y": y, "weight": weight})


def test_rare_labels_are_weighted_as_the_page_says():
    keras.utils.set_random_seed(1)
    X = np.random.default_rng(1).random((32, 4, 2), dtype="float32")
    y = (X[:, :, :1] > 0.9).astype(int)
    for labels in (y, y == 1):
        weight = rare_weight(labels, np.ones((32, 4)))
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


def test_rare_labels_are_counted_nine_times_until_scored_with_the_padding_alone():
    model, (X, y, weight) = get_recipe(2), padded(0)
    y = ((X[:, :, :1] > 0.9) * 1.0).astype("float32")
    yhat = np.asarray(model(X))[weight == 1]
    kernel, bias = model.layers[-1].get_weights()
    middle = np.median(np.log(yhat / (1 - yhat)))  # of which one half is above
    model.layers[-1].set_weights([kernel, bias - middle])
    options = {"batch_size": 64, "verbose": 0, "return_dict": True}
    yhat = np.asarray(model(X))
    true = true_scores(model, X, y, weight)
    hits = ((yhat > 0.5) & (y == 1))[weight == 1].sum()
    misses = ((yhat > 0.5) & (y == 0))[weight == 1].sum()
    assert hits > 0 and misses > 0
    nine_times = model.evaluate(X, y, sample_weight=rare_weight(y, weight), **options)
    expected = 9 * hits / (9 * hits + misses)
    assert nine_times["Precision"] == pytest.approx(expected, abs=1e-5)
    alone = model.evaluate(X, y, sample_weight=weight, **options)
    for name, value in true.items():
        assert alone[name] == pytest.approx(value, abs=1e-5), name


def test_probabilities_of_rare_labels_are_put_right_as_the_page_says():
    """A model that knows nothing but the share of a label, trained with the weights."""
    y = np.repeat([1.0, 0.0], [20, 480])[:, None, None]
    weight = rare_weight(y, np.ones((500, 1)))
    grid = np.linspace(0.01, 0.99, 99)
    loss = get_recipe().loss
    losses = [float(loss(y, np.full_like(y, p), sample_weight=weight)) for p in grid]
    best = grid[np.argmin(losses)]
    assert best == pytest.approx(0.27, abs=0.011)  # too high
    [line] = re.findall(r"correct the probabilities,\s+`(yhat / .*?)`", README)
    assert eval(line, {"yhat": best}) == pytest.approx(20 / 500, abs=0.003)


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
    shown = {target for target in local if target.startswith(".github")}
    assert {f".github/images/{picture.name}" for picture in pictures} == shown
