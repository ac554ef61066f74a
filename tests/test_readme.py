"""The README: its commands, links, code and numbers, and what it says of Keras.

Code is taken from the page by its fences and by the rows of its table, never by the
words around it.
"""

import importlib
import inspect
import itertools
import re
import shlex
import sys
import textwrap

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT

from bilstm_classify import get_bi_lstm_model
from lstm_classify import get_lstm_model

sys.path.insert(0, str(ROOT / "tests/studies"))
import claims
import compare_models
import on_table
import on_text

README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = ROOT / "tests/studies"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table_under(header):
    """The rows of the table that begins with this row, each a list of cells."""
    rows = README.split(f"\n{header}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]


def test_page_is_short_and_in_order():
    assert len(README.split()) <= 1300
    assert all(len(block.splitlines()) <= 30 for block in blocks(r"\w+"))
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    order = "When to use one, Run it, Which claims hold, Your own data, Credit"
    assert ", ".join(headings) == order


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README.replace("\n", " "))
    local = [t for t in targets if "://" not in t and not t.startswith("#")]
    assert len(local) >= 3
    for target in local:
        assert (ROOT / target).is_file(), target
    pictures = list((ROOT / ".github/images").iterdir())
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    shown = {target for target in local if target.startswith(".github")}
    assert {f".github/images/{picture.name}" for picture in pictures} == shown


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
PROGRAMS = [c for c in COMMANDS if re.search(r"python [\w/]+\.py", c)]


@pytest.mark.parametrize("command", PROGRAMS)
def test_options_of_a_command_exist(command, in_tmp):
    """Other tests run them."""
    _, file, *args = shlex.split(command)
    assert (ROOT / file).is_file()
    module = importlib.import_module(file.split("/")[-1].removesuffix(".py"))
    names = {arg[2:].replace("-", "_") for arg in args if arg.startswith("--")}
    if names:  # none of them an abbreviation
        parsed = module.parse_args(args)
        options = parsed[1] if isinstance(parsed, tuple) else parsed
        assert names <= set(vars(options))
    assert list(in_tmp.iterdir()) == []


def test_set_up_on_windows_is_the_same():
    [windows], [first, *_] = blocks("bat"), blocks("bash")
    windows = windows.replace("py -m", "python3 -m").replace("\\Scripts\\", "/bin/")
    assert windows == first


def losses_of_page(script):
    """The losses in the script's row of "Run it", by the names on the page."""
    header = "|script|tutorial part|time on 2 cores|"
    header += "log loss after 1,000 epochs (parts 5 and 6: 250, mean of 30 runs)|"
    [cell] = [row[3] for row in table_under(header) if f"({script}.py)" in row[0]]
    return dict(re.findall(r"`?(\w+)`? (\d\.\d+)", cell)) or cell


NAMES = {"LSTM": "lstm_forw", "lstm_back": "lstm_back", "BiLSTM": "bilstm_con"}
NAMES |= {"concat": "bilstm_con"}
NAMES |= {mode: f"bilstm_{mode}" for mode in ("sum", "ave", "mul")}


@pytest.mark.parametrize("script", COMPARISONS)
def test_losses_of_a_comparison_are_those_of_a_default_run(script, default_run):
    losses = default_run(script).losses.query("epoch > 200").mean()
    page = losses_of_page(script)
    assert len(page) == losses.size
    for name, loss in page.items():
        assert float(loss) == pytest.approx(losses[NAMES[name]], abs=1e-3), name


@pytest.mark.parametrize("script", CLASSIFIERS)
def test_scores_of_a_classifier_are_those_of_a_default_run(script, default_run):
    lines = default_run(script).stdout.splitlines()
    [scores] = [line.split() for line in lines if re.match(r"(Bi)?LSTM +\d", line)]
    loss, accuracy = re.findall(r"\d+\.\d+", losses_of_page(script))
    assert float(loss) == pytest.approx(float(scores[2]), abs=1e-3)
    assert float(accuracy) == pytest.approx(100 * float(scores[1]), abs=0.1)
    baseline = [line.split() for line in lines if "position baseline  " in line]
    accuracy, loss = baseline[0][-2:]
    assert f"{float(accuracy):.1%}" in README and loss in README


@pytest.fixture(scope="module")
def kept():
    """The losses that claims.py wrote for the page, of all repeats."""
    folder = STUDIES / "claims"
    kept = {name: claims.read_losses(folder, name) for name in claims.STUDIES}
    for name, study in claims.STUDIES.items():
        assert len(kept[name]) == study.n_repeats, name
    return kept


def test_tables_of_losses_are_those_of_the_kept_losses(kept):
    title, *losses_table = claims.get_losses_table(kept)
    for table in (losses_table, claims.get_when_table(kept)[1:]):
        assert "\n".join([*table, "\n"]) in README
    [error] = re.findall(r"2 SE, which are (\S+) or less", title)
    assert f"at most {error})" in README


def test_losses_in_sentences_are_those_of_the_kept_losses(kept):
    one_label, _ = claims.at_best_rates(kept["one-label"])
    losses = [one_label[model] for model in ("LSTM", "LSTM, averaged", "BiLSTM")]
    zeros = kept["zeros"]
    losses += [zeros[model, "0.001"] for model in ("BiLSTM", "two LSTMs")]
    assert all(f"{loss.mean():.3f}" in README for loss in losses)
    assert (zeros["BiLSTM", "0.03"] - zeros["two LSTMs", "0.03"]).mean() > 0
    assert f"near chance ({np.log(2):.3f})" in README


def test_scores_on_text_are_made_of_the_kept_scores():
    scores = pd.read_csv(STUDIES / "on_text.csv")
    table = compare_models.get_table(scores, list(on_text.MODELS))
    for name, loss in table["loss"].drop(["LSTM", "no input"]).items():
        assert f"{loss:.3f}" in README, name


def test_verdict_of_on_table_is_made_of_the_kept_scores():
    scores = pd.read_csv(STUDIES / "on_table.csv")
    losses, _ = compare_models.get_losses(scores, on_table.MODELS[False])
    share = scores["new / training"].mean()
    [shown] = [block for block in blocks("text") if "ahead of" in block]
    assert " ".join(shown.split()) == on_table.get_verdict(losses, share, updates=500)


[LINES] = [block for block in blocks("python") if "merge_mode=mode" in block]


def test_lines_of_the_model_are_those_of_the_script():
    source = inspect.getsource(get_bi_lstm_model)
    body = textwrap.dedent(source.split('"""')[2]).strip().splitlines()
    body = [line for line in body if not line.startswith("#")]
    assert [*LINES.splitlines(), "return model"] == body


def codes_of(row):
    """The code of a row of the table of changes, by the words in bold."""
    cells = dict(table_under("|for|write|"))
    [cell] = [cell for what, cell in cells.items() if what.startswith(f"**{row}**")]
    return re.findall("`(.+?)`", cell)


INPUT = "model.add(keras.Input((n_timesteps, n_features)))"
WRAPPED = "model.add(keras.layers.Bidirectional(lstm, merge_mode=mode))"
DENSE = 'keras.layers.Dense(1, activation="sigmoid")'
LOSS, METRICS = 'loss="binary_crossentropy"', 'metrics=["accuracy"]'


def change(row, lines):
    """The lines with a row of the table applied, as the page says in words."""
    codes = codes_of(row)
    if row == "different lengths":
        changes = [(INPUT, f"{INPUT}\n{codes[1]}")]
    elif row == "word ids":
        changes = [(INPUT, "\n".join(codes[1:]))]
    elif row == "a label per short sequence":
        changes = [(codes[0], "")]
    elif row == "a label per long sequence":
        changes = [(WRAPPED, f"{WRAPPED}\n{codes[1]}")]
    elif row == "several classes":
        changes = zip([DENSE, LOSS], codes, strict=True)
    elif row == "several yes/no labels":
        changes = zip([DENSE, METRICS], codes, strict=True)
    elif row == "a number":
        changes = zip([DENSE, LOSS, f", {METRICS}"], [*codes[:2], ""], strict=True)
    elif row == "two layers":
        changes = [(codes[1], codes[0])]
    else:
        assert row == "GRU"
        return lines.replace(codes[1], codes[0])
    for old, new in changes:
        assert lines.count(old) == 1, old
        lines = lines.replace(old, new)
    return lines


LENGTHS, IDS = "different lengths", "word ids"
PER_SEQUENCE, MEAN = "a label per short sequence", "a label per long sequence"
CLASSES, LABELS, NUMBER = "several classes", "several yes/no labels", "a number"
TWO_LAYERS, GRU = "two layers", "GRU"
KINDS = [[LENGTHS, IDS], [PER_SEQUENCE, MEAN], [CLASSES, LABELS, NUMBER]]
KINDS += [[TWO_LAYERS], [GRU]]
PAIRS = [
    pair
    for first, second in itertools.combinations(KINDS, 2)
    for pair in itertools.product(first, second)
    if pair != (LENGTHS, MEAN)  # MEAN is for sequences without padding
]
CHOICES = [(), *[(row,) for kind in KINDS for row in kind], *PAIRS]


def build_changed(choice):
    """The model of the page's lines with rows of the table applied."""
    lines = LINES
    for row in choice:
        lines = change(row, lines)
    names = {"keras": keras, "n_timesteps": 4, "n_features": 2, "n_units": 4}
    names |= {"n_classes": 3, "n_labels": 3, "n_words": 9, "mode": "concat"}
    names["learning_rate"] = 0.001
    exec(lines, names)  # noqa: S102
    return names["model"]


def data_for(choice):
    """32 sequences, half of them padded after two of four timesteps, where the table
    has a way to say so."""
    rng = np.random.default_rng(0)
    padding = np.repeat([0, 1], 16)[:, None] * (np.arange(4) >= 2)
    if IDS in choice:
        X = np.where(padding, 0, rng.integers(1, 10, (32, 4)))  # with n_words
    else:
        X = rng.random((32, 4, 2), dtype=np.float32)
        X[padding == 1] = -99
    n_labels = 3 if LABELS in choice else 1
    y = rng.integers(3 if CLASSES in choice else 2, size=(32, 4, n_labels))
    if {PER_SEQUENCE, MEAN} & set(choice):
        return X, y[:, 0] if LABELS in choice else y[:, 0, 0]
    return X, y


def test_every_row_of_the_table_is_tried():
    assert len(table_under("|for|write|")) == sum(map(len, KINDS))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: ", ".join(c) or "none")
def test_rows_for_ones_own_data_work_alone_and_in_pairs(choice):
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


def test_outputs_of_go_backwards_are_put_in_order():
    [line] = [code for code in re.findall("`(.+?)`", README) if "ops.flip" in code]
    lstm = get_lstm_model(10, backwards=True)
    outputs = eval(line, {"keras": keras, "outputs": lstm.outputs[0]})
    in_order = keras.Model(lstm.inputs[0], outputs)
    # A forward LSTM of the same weights, given the sequences backwards.
    forwards = get_lstm_model(10)
    forwards.set_weights(lstm.get_weights())
    X = np.random.default_rng(0).random((4, 10, 1))
    expected = np.asarray(forwards(X[:, ::-1]))[:, ::-1]
    assert np.asarray(in_order(X)) == pytest.approx(expected, abs=1e-6)


def test_study_of_ones_own_arrays_runs(eagerly, in_tmp, monkeypatch, capsys):
    [study] = [block for block in blocks("python") if "compare_models" in block]
    rng = np.random.default_rng(0)
    np.save("X.npy", rng.random((40, 5, 2), dtype="float32"))
    np.save("y.npy", rng.integers(2, size=(40, 5, 1)))
    args = ["study.py", "--repeats", "1", "--updates", "1", "--csv", "mine.csv"]
    monkeypatch.setattr(sys, "argv", args)
    exec(study, {})  # noqa: S102
    printed = capsys.readouterr().out
    assert re.findall(r"^(LSTM|BiLSTM|no input) ", printed, re.MULTILINE) == [
        *["LSTM", "BiLSTM", "no input"]
    ]
    assert len(pd.read_csv("mine.csv")) == 6


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


def build_masked(*metrics):
    keras.utils.set_random_seed(3)
    layers = build_changed((LENGTHS,)).layers
    model = keras.Sequential([keras.Input((None, 2)), *layers])  # any length
    kernel, _ = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, np.array([2.0])])  # predicts many a 1
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    model.compile("sgd", loss, weighted_metrics=list(metrics), run_eagerly=True)
    return model


def test_precision_counts_the_padding_unless_its_weight_is_0():
    model, options = build_masked("Precision"), {"batch_size": 64, "verbose": 0}
    precision = [model.evaluate(*padded(label)[:2], **options)[1] for label in (0, 1)]
    assert precision[0] != pytest.approx(precision[1], abs=0.1)
    for label in (0, 1):
        X, y, weight = padded(label)
        yhat = np.asarray(model(X))[weight == 1]
        expected = y[weight == 1][yhat > 0.5].mean()
        scores = model.evaluate(X, y, sample_weight=weight, **options)
        assert scores[1] == pytest.approx(expected, abs=1e-5)


def test_y_without_its_last_axis_gives_another_loss_without_an_error():
    model = build_masked()
    X, y, weight = padded(0)
    model.compile("sgd", "binary_crossentropy", run_eagerly=True)
    yhat = np.asarray(model(X))[:1][weight[:1] == 1]
    true = -np.log(np.where(y[:1][weight[:1] == 1] == 1, yhat, 1 - yhat)).mean()
    options = {"batch_size": 1, "verbose": 0}
    assert model.evaluate(X[:1], y[:1], **options) == pytest.approx(true, abs=1e-4)
    assert model.evaluate(X[:1], y[:1, :, 0], **options) != pytest.approx(
        true, abs=1e-3
    )


def apply_the_mask(inputs, layers, word_ids=False):
    """The page's line for layers that need the mask by hand, for each of the layers."""
    codes = re.findall("`(.+?)`", README)
    [line] = [code for code in codes if "mask=mask" in code]
    [mask] = [code.removeprefix("mask = ") for code in codes if "keras.ops.any" in code]
    [of_ids] = [code for code in codes if code.startswith("inputs !=")]
    names = {"keras": keras, "inputs": inputs, "h": inputs}
    names["mask"] = eval(of_ids if word_ids else mask, names)
    if word_ids:
        names["h"] = keras.layers.Embedding(10, 4)(inputs)
    for layer in layers:
        names["layer"] = layer
        exec(line, names)  # noqa: S102
    return names["h"]


@pytest.mark.parametrize("word_ids", [False, True])
def test_layers_that_are_given_the_mask_leave_the_padding_out(masks, word_ids, in_tmp):
    """Of a stack of two layers and a mean, which would read it without the mask."""
    keras.utils.set_random_seed(3)
    lstms = [keras.layers.LSTM(8, return_sequences=True) for _ in range(2)]
    layers = [keras.layers.Bidirectional(lstm) for lstm in lstms]
    layers.append(keras.layers.GlobalAveragePooling1D())
    inputs = keras.Input((None,) if word_ids else (None, 2))
    model = keras.Model(inputs, apply_the_mask(inputs, layers, word_ids))
    X, _, weight = padded(0)
    if word_ids:
        X = np.where(weight == 1, 1 + (9 * X[:, :, 0]) // 1, 0)
    model.save("masked.keras")
    in_padding = np.asarray(keras.saving.load_model("masked.keras")(X))
    for i in range(4):
        alone = np.asarray(model(X[i : i + 1, : int(weight[i].sum())]))
        assert in_padding[i : i + 1] == pytest.approx(alone, abs=1e-6)


def test_probabilities_of_rare_labels_are_put_right():
    """Of a model that knows nothing but a label's share, trained with the weight."""
    y = np.repeat([1.0, 0.0], [20, 480])[:, None, None]
    weight = 1 + 8 * y[:, :, 0]
    grid = np.linspace(0.01, 0.99, 99)
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    losses = [float(loss(y, np.full_like(y, p), sample_weight=weight)) for p in grid]
    best = grid[np.argmin(losses)]
    assert best == pytest.approx(0.27, abs=0.011)  # too high
    [line] = [code for code in re.findall("`(.+?)`", README) if "yhat / " in code]
    assert eval(line, {"yhat": best}) == pytest.approx(20 / 500, abs=0.003)
