"""From a user's CSV to a verdict, a saved model and predictions, with dirty tables."""

import signal
import sys
import zipfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_is_picture

sys.path.insert(0, str(ROOT / "tests/studies"))
import compare_models  # before Keras, whose backend it sets
import keras
import on_table

OPTIONS = ["--id", "id", "--time", "time", "--label", "label"]


def make_table(n_sequences=30):
    """Sequences of 3 to 8 rows, labelled 1 where `a` is high or `kind` is "y"."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": np.repeat(np.arange(n_sequences), 8)})
    table["time"] = table.groupby("id").cumcount()
    table = table[table["time"] < rng.integers(3, 9, n_sequences)[table["id"]]]
    table["a"] = rng.normal(5, 2, len(table)).round(3)
    table["kind"] = rng.choice(["x", "y"], len(table), p=[0.7, 0.3])
    table["label"] = ((table["a"] > 5.5) | (table["kind"] == "y")).astype(int)
    return table


def read(table, *options):
    """What the program reads and understands, and what it says of it."""
    table.to_csv("t.csv", index=False)
    _, args = on_table.parse_args(["t.csv", *OPTIONS, *options])
    table = on_table.read_table(args.table)
    rows, columns = on_table.understand(table, args)
    return rows, columns, "\n".join(on_table.describe(table, rows, columns)) + "\n"


def shuffle(table, time):
    return table.assign(time=time).sample(frac=1, random_state=0)


def zoned(table):
    times = pd.to_datetime("2026-01-05") + pd.to_timedelta(table["time"] + 7, "h")
    return times.astype(str) + (table["id"] % 2).map({0: "+01:00", 1: "+02:00"})


FORMS = {
    "text labels": lambda t: t.assign(label=t["label"].map({0: "no", 1: "yes"})),
    "None": lambda t: t.assign(label=t["label"].map({0: "None", 1: "yes"})),
    "fractions of a second": lambda t: shuffle(t, t["time"] * 0.02),
    "hours as text": lambda t: shuffle(t, "5/1/2026 " + t["time"].astype(str) + ":00"),
    "two zones": lambda t: shuffle(t, zoned(t)),
    "numbered columns": lambda t: t.rename(columns={"a": "0", "kind": "1"}),
    "spaces": lambda t: t.assign(kind=t["kind"] + " "),
    "constants": lambda t: t.assign(version=0.1, site="north", empty=np.nan),
    "repeated rows": lambda t: pd.concat([t, t[::50]]),
}


@pytest.mark.parametrize("fault", FORMS)
def test_faults_of_form_change_no_array(fault, in_tmp):
    clean = on_table.get_parts(*read(make_table())[:2], 0)
    rows, columns, said = read(FORMS[fault](make_table()))
    for part, dirty in zip(clean, on_table.get_parts(rows, columns, 0)):
        for array, expected in zip(dirty, part):
            np.testing.assert_allclose(array, expected, atol=1e-3)
    share = make_table()["label"].mean()
    names = {"text labels": ["no", "yes"], "None": ["None", "yes"]}
    no, yes = names.get(fault, "01")
    assert f"label, one per timestep: {no} {1 - share:.1%}, {yes} {share:.1%}\n" in said
    constant = "Constant, left out: version, site, empty\n" in said
    repeated = f"Repeated rows, left out: {len(make_table()[::50])}\n" in said
    assert (constant, repeated) == (fault == "constants", fault == "repeated rows")
    assert f"Rows: {len(make_table())}\nSequences: 30 of 3 to 8 rows\n" in said


def test_infinite_and_missing_values_are_counted_and_taken_as_the_mean(in_tmp):
    table = make_table()
    table.iloc[7, 2], table.iloc[9, 2] = np.inf, -np.inf
    rows, columns, said = read(table)
    assert "Infinite, taken as missing: 2\n" in said
    infinite = on_table.get_parts(rows, columns, 0)
    table["a"] = table["a"].astype(object).replace({np.inf: "None", -np.inf: "NA"})
    table.iloc[3, 3] = np.nan
    rows, columns, said = read(table)
    shares = f"a ({2 / len(table):.1%} missing)\nTexts: kind ({1 / len(table):.1%} miss"
    assert shares in said and columns.n_features == 1 + 4  # "", x, y, and new ones
    parts = on_table.get_parts(rows, columns, 0)
    assert all((x[0][..., 0] == y[0][..., 0]).all() for x, y in zip(infinite, parts))
    assert sum((X[..., 0] == 0).sum() for X, _, _ in parts) == 2


def test_unknown_labels_and_padding_weigh_nothing(in_tmp):
    table = make_table()
    table["label"] = table["label"].where(np.arange(len(table)) % 9 > 0)
    table.loc[table["id"] == 4, "label"] = np.nan
    known = table[table["id"] != 4]["label"].notna()
    rows, columns, said = read(table)
    assert f"rows without a label: {(~known).sum()}\n" in said
    assert "Sequences without a label, left out: 1\n" in said
    assert columns.classes == ["0", "1"]  # though pandas reads 0.0 and 1.0
    weight = np.concatenate([w for _, _, w in on_table.get_parts(rows, columns, 0)])
    assert weight.shape == (29, 8) and weight.sum() == known.sum()


def test_one_label_per_sequence_is_known_for_all_of_its_rows(in_tmp):
    table = make_table()
    table["label"] = table["id"].map(lambda i: [10, 9, 100][i % 3])
    table.loc[table["time"] > 0, "label"] = np.nan
    rows, columns, said = read(table, "--timesteps", "5")
    assert "per sequence: 9 33.3%, 10 33.3%, 100 33.3%; rows without a label: " in said
    assert columns.per_sequence and f"{len(table) - 30}, which get that of" in said
    assert "(pieces are scored; predictions are means over pieces)" in said
    assert columns.classes == ["9", "10", "100"]  # sorted as numbers
    pieces = -(-table.groupby("id").size() // 5)
    _, y, weight = zip(*on_table.get_parts(rows, columns, 0))
    assert np.concatenate(weight).sum() == pytest.approx(30)  # 1 for each sequence
    assert sum(map(len, y)) == pieces.sum() and y[0].shape[1:] == (1,)
    assert (np.concatenate(y) == 2).sum() == pieces[pieces.index % 3 == 2].sum()


def test_long_sequences_are_cut_and_an_id_is_in_one_part_alone(in_tmp):
    table = make_table()
    long = table.iloc[[0] * 50].assign(id=99, time=range(50), a=np.arange(50.0) / 50)
    rows, columns, said = read(pd.concat([table, long]), "--timesteps", "8")
    assert "Cut into pieces of 8 rows, sequences: 1\n" in said
    parts = on_table.split_rows(rows, columns, 0)
    assert [part["id"].nunique() for part in parts] == [18, 6, 7]
    assert sum(len(part) for part in parts) == len(rows)
    [long] = [p[p["id"] == "99"] for p in parts if "99" in set(p["id"])]
    space = on_table.get_space(rows, columns)
    X, _, weight = on_table.get_part(long, columns, space)
    assert X.shape[:2] == (7, 8) and weight.sum() == 50
    there = X[X[..., 0] != on_table.PADDING][:, 0]
    expected = (np.arange(50) / 50 - rows["a"].mean()) / rows["a"].std(ddof=0)
    np.testing.assert_allclose(there, expected, atol=1e-3)


def test_scaling_and_levels_come_from_the_training_part_alone(in_tmp):
    rows, columns, _ = read(make_table())
    training, _, new = on_table.split_rows(rows, columns, 0)
    changed = rows.copy()
    changed.loc[new.index, "a"] *= 1000
    changed.loc[new.index, "kind"] = "z"  # a level that training lacks
    columns.n_features += 1
    parts = [on_table.get_parts(table, columns, 0) for table in (rows, changed)]
    assert (parts[0][0][0] == parts[1][0][0]).all()
    mean, std = training["a"].mean(), training["a"].std(ddof=0)
    for (X, _, weight), part in zip(parts[0], on_table.split_rows(rows, columns, 0)):
        scaled = ((part["a"] - mean) / std).to_numpy()
        np.testing.assert_allclose(X[weight > 0][:, 0], scaled, atol=1e-3)
    X = parts[1][2][0][parts[1][2][2] > 0]
    assert X[:, 0].max() == 10 and (X[:, 1:] == [1, 0, 0, 0]).all()


def test_without_time_the_order_of_the_file_and_repeated_rows_are_kept(in_tmp):
    table = pd.concat([make_table(), make_table()[:6]]).drop(columns="time")
    table = table.sample(frac=1, random_state=0)
    rows, _, said = read(table, "--time", "")
    assert "Order: the file, as there is no --time" in said and "Repeated" not in said
    for name, sequence in rows.groupby("id"):
        assert list(sequence["a"]) == list(table.loc[table["id"] == int(name), "a"])


def commas(table):
    return table.assign(a=table["a"].astype(str).where(table.index != 5, "4,25"))


def blank(name):
    return lambda table: table.assign(**{name: table[name].where(table[name] > 0)})


def month_or_day(table):
    return table["time"].map(lambda time: f"{time + 1}/{9 - time}/2026")


REFUSED = [
    (commas, "", "a: '4,25' in line 7 is no number|points"),
    (lambda t: t, "--features b", "no column 'b'|id, time, a, kind, label"),
    (blank("id"), "", "id is empty|line 2"),
    (blank("time"), "", "time is empty in 30 rows"),
    (lambda t: t.assign(time="noon"), "", "time: 'noon' in line 2 is no"),
    (lambda t: t.assign(time=[*t["time"][1:], "x"]), "", "time: 'x' in line|no number"),
    (
        lambda t: t.assign(time="26.01.05 9:00"),
        "",
        "in line 2 lacks a full year",
    ),
    (lambda t: t.assign(time=month_or_day(t)), "", "'1/9/2026' in line 2 can mean two"),
    (lambda t: t.assign(label=1), "", "label has 1 classes, not 2 to 20"),
    (lambda t: t.assign(label=np.arange(len(t)) % 21), "", "21 classes"),
    (lambda t: t.assign(b=[f"n{i}" for i in t.index]), "", "b has|--features"),
    (lambda t: t[t["id"] < 9], "", "9 sequences|10 are needed"),
    (lambda t: t.assign(**{on_table.Y: 1}), "", "number of the class"),
    (lambda t: t.assign(a=1, kind="x"), "", "no feature that is not constant"),
    (lambda t: t, "--timesteps 0", "--timesteps must be at least 1"),
    (lambda t: t, "--predict missing.csv", "missing.csv"),
    (lambda t: t, "--id=", "needs --id and --label"),
    (None, "--label state", "need a table"),
    (None, "--predict t.csv", "--save"),
    (None, "--predict t.csv --save m", "m.keras"),
]


@pytest.mark.parametrize(("change", "options", "words"), REFUSED)
def test_refusals_are_one_line_before_any_training(
    change, options, words, in_tmp, capsys, monkeypatch
):
    monkeypatch.setattr(compare_models, "compare", None)  # cannot be called
    argv = options.split()
    if change:  # else nothing is read
        change(make_table().reset_index(drop=True)).to_csv("t.csv", index=False)
        argv = ["t.csv", *OPTIONS, *argv]
    with pytest.raises(SystemExit) as stopped:
        on_table.main(argv)
    error = capsys.readouterr().err.rstrip("\n").split(": error: ")[1]
    assert stopped.value.code == 2 and "\n" not in error
    assert all(word in error for word in words.split("|")), error


def test_help_explains_the_program_in_short_ascii_lines(capsys):
    with pytest.raises(SystemExit):
        on_table.main(["--help"])
    printed = capsys.readouterr().out
    assert printed.isascii() and max(map(len, printed.splitlines())) <= 80
    options = "id time label features categories timesteps rates save predict csv plot"
    assert all(f"\n  --{option} " in printed for option in options.split())


def test_without_a_table_it_says_that_it_makes_one_up(capsys, monkeypatch):
    monkeypatch.setattr(compare_models, "compare", None)
    with pytest.raises(TypeError, match="not callable"):
        on_table.main([])
    assert capsys.readouterr().out.startswith("This table is made up")


def get_columns(classes):
    _, args = on_table.parse_args(["t.csv", *OPTIONS, "--timesteps", "5"])
    _, columns = on_table.understand(make_table(), args)  # of 4 features
    columns.classes = list(classes)
    return columns


@pytest.mark.parametrize("name", [*on_table.MODELS[False], *on_table.MODELS[True]])
def test_padding_changes_no_prediction(name):
    X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    longer = np.pad(X, [(0, 0), (0, 2), (0, 0)], constant_values=on_table.PADDING)
    columns = get_columns("abc")
    model = on_table.get_model(columns, 0, name, 0.02)
    columns.n_timesteps = 7
    padded = on_table.get_model(columns, 0, name, 0.02)
    padded.set_weights(model.get_weights())
    lstms = [20 * 4 * (4 + 20 + 1) + 20 * 3] * (2 if name[:4] != "LSTM" else 1)
    assert model.count_params() == sum(lstms) + 3
    yhat, again = np.asarray(model(X)), np.asarray(padded(longer))
    np.testing.assert_allclose(again[:, :5], yhat, atol=1e-6)
    np.testing.assert_allclose(yhat.sum(axis=-1), 1, atol=1e-6)
    assert yhat.shape == ((2, 3) if "," in name else (2, 5, 3))


@pytest.mark.parametrize("rarer", [0, 1])
def test_scores_are_the_weighted_mean_and_the_area_of_the_rarer_class(rarer):
    rng = np.random.default_rng(0)
    y, weight = rng.integers(2, size=(40, 5, 1)), rng.integers(2, size=(40, 5))
    yhat = rng.dirichlet([1, 1], (40, 5)).astype("float32")
    X = rng.normal(size=(40, 5, 4)).astype("float32")
    columns = get_columns(["no", "yes"])
    model = on_table.get_model(columns, rarer, "LSTM", 0.01)
    scores = compare_models.score(model, (X, y, weight), yhat)
    right = np.take_along_axis(yhat, y, axis=-1)[..., 0]
    area = keras.metrics.AUC(curve="PR")
    area.update_state(y[..., 0] == rarer, yhat[..., rarer], sample_weight=weight)
    expected = {"loss": -np.average(np.log(right), weights=weight)}
    expected["accuracy"] = np.average(right > 0.5, weights=weight)
    expected["PR area"] = float(area.result())
    assert scores == pytest.approx(expected, rel=1e-4)
    found, there = (yhat.argmax(-1) == rarer) * weight, (y[..., 0] == rarer) * weight
    hits = (found * there).sum()
    said = on_table.describe_scores(model, (X, y, weight), yhat, columns, rarer)
    precision = f"precision of {['no', 'yes'][rarer]} {hits / found.sum():.3f}"
    assert said.endswith(f"{precision}, recall {hits / there.sum():.3f}")
    absent = X, np.full_like(y, 1 - rarer), weight  # The class is in no label.
    assert np.isnan(compare_models.score(model, absent, yhat)["PR area"])
    said = on_table.describe_scores(model, absent, yhat, columns, rarer)
    assert said.endswith("0.000, recall nan")


def get_losses(means, names=("LSTM", "two LSTMs", "BiLSTM", "no input")):
    """Losses of repeats that differ little: two standard errors are about 0.01."""
    noise = np.random.default_rng(0).normal(0, 0.005, (6, len(means)))
    return pd.DataFrame(noise + means, columns=names)


@pytest.mark.parametrize(
    ("means", "words", "chosen"),
    [
        ((0.2, 0.19, 0.1, 0.3), "BiLSTM is ahead of two LSTMs by 0.09|2500", "BiLSTM"),
        ((0.2, 0.2, 0.199, 0.3), "No difference that|use LSTM, which", "LSTM"),
        ((0.2, 0.2, 0.25, 0.3), "BiLSTM is behind LSTM by 0.0|use LSTM, which", "LSTM"),
        ((0.2, 0.1, 0.15, 0.3), "two LSTMs by 0.0|use two LSTMs, which", "two LSTMs"),
        ((0.2, 0.1, 0.099, 0.3), "No difference|use two LSTMs, which", "two LSTMs"),
        ((0.31, 0.31, 0.31, 0.3), "No model is better than no input", "LSTM"),
        ((0.4, 0.5, 0.35, 0.3), "No model|BiLSTM is behind no input by 0.0", "BiLSTM"),
    ],
)
def test_verdict_and_choice_claim_what_the_errors_allow(means, words, chosen):
    losses = get_losses(means)
    verdict = on_table.get_verdict(losses, 0.3, 500)
    assert all(word in verdict for word in words.split("|")), verdict
    assert on_table.choose_model(losses, 0.3) == chosen
    verdict = on_table.get_verdict(losses[:4], 0.3, 500)
    lowest = losses.columns[np.argmin(losses[:4].to_numpy().mean(axis=0))]
    assert verdict.startswith(f"{lowest} has the lowest loss, but fewer than 5 repeats")


def test_figure_shows_two_standard_errors_and_the_line_of_no_input():
    losses = get_losses((0.3, 0.1, 0.5), ["LSTM", "BiLSTM", "no input"])
    ax = plt.figure().subplots()
    on_table.plot_losses(ax, losses, 0.3)
    [bars] = [c for c in ax.collections if len(c.get_segments()) == 2]
    half = [np.ptp(segment[:, 0]) / 2 for segment in bars.get_segments()]
    wider = np.sqrt(1 / 6 + 0.3)
    assert half == pytest.approx(list(2 * losses.std()[:2] * wider))
    assert ax.containers[0].lines[0].get_xdata() == pytest.approx(losses.mean()[:2])
    [line] = [line for line in ax.lines if line.get_label() == "no input"]
    assert line.get_xdata()[0] == pytest.approx(losses["no input"].mean())
    assert [name.get_text() for name in ax.get_yticklabels()] == ["LSTM", "BiLSTM"]


def test_figure_shows_the_sequence_of_the_median_loss():
    rng = np.random.default_rng(3)
    X, yhat = rng.normal(size=(9, 5, 2)), rng.dirichlet([1, 1, 1], (9, 5))
    y, weight = rng.integers(3, size=(9, 5, 1)), np.ones((9, 5))
    X[:, 4:], weight[:, [0, 4]] = on_table.PADDING, 0
    losses = -np.log(np.take_along_axis(yhat, y, -1)[..., 0]) * weight
    typical = np.argsort(losses.sum(axis=1))[4]
    ax = plt.figure().subplots()
    on_table.plot_sequence(ax, (X, y, weight), yhat, get_columns("abc"))
    for code, (line, squares) in enumerate(zip(ax.lines[::2], ax.lines[1::2])):
        assert line.get_ydata() == pytest.approx(yhat[typical, :4, code])
        labelled = np.flatnonzero(y[typical, 1:4, 0] == code) + 2
        assert list(squares.get_xdata()) == list(labelled)
        assert line.get_label() == f"P({'abc'[code]})"


def test_ctrl_c_ends_the_last_training_after_a_batch():
    class Model:
        stop_training, ended = False, []

        def fit(self, X, y, *, sample_weight, validation_data, callbacks, **options):
            self.sizes = callbacks[0].patience, options["epochs"]
            for batch in range(3):
                if batch == 1:
                    signal.raise_signal(signal.SIGINT)
                callbacks[1].on_train_batch_end(batch, {})
                self.ended.append(self.stop_training)

    on_table.train_best(model := Model(), (range(33), "y", "weight"), "validation", 40)
    assert model.ended == [False, True, True]
    assert model.sizes == (14, 280)  # Three batches an epoch: 14 have 42 updates.


@pytest.mark.filterwarnings("error:The structure of")  # of an input
@pytest.mark.parametrize("label", ["state", "result"])
def test_from_a_csv_to_a_verdict_a_model_and_predictions(
    label, eagerly, in_tmp, monkeypatch, capsys
):
    """The labels are one per timestep, and one per sequence of up to two pieces."""
    per_sequence = label == "result"
    names = ["LSTM, last", "BiLSTM, mean"] if per_sequence else ["LSTM", "BiLSTM"]
    monkeypatch.setitem(on_table.MODELS, per_sequence, names)
    monkeypatch.setitem(on_table.PAIR, per_sequence, names[::-1])
    early, patience = keras.callbacks.EarlyStopping, []

    def stop_soon(**options):
        patience.append(options["patience"])
        return early(**options | {"patience": 1, "min_delta": 9})

    monkeypatch.setattr(keras.callbacks, "EarlyStopping", stop_soon)
    table = make_table()
    table["kind"] = table["kind"].map({"x": 1, "y": 2})
    new = table.drop(columns="label").assign(note="007").astype({"kind": float})
    if per_sequence:
        high = table.groupby("id")["a"].transform("mean") > 5
        table["label"] = np.where(high, "high", "low")
    table.rename(columns={"label": label}).to_csv("t.csv", index=False)
    new = pd.concat([new, new[::20]]).sample(frac=1, random_state=0)
    new.iloc[2, 2], new.iloc[5:7, 3] = np.nan, [7, np.nan]  # Kind 1 is now 1.0.
    sep = "\t" if per_sequence else ";"
    new.to_csv("new.csv", index=False, sep=sep)
    options = f"t.csv --id id --time time --label {label} --timesteps 6 --rates 0.01"
    options += " --updates 2 --repeats 1 --csv a.csv --plot a.png --save m"
    options += " --categories kind --predict new.csv"
    assert on_table.main(options.split()) == 0
    printed = capsys.readouterr().out
    classes = ["high", "low"] if per_sequence else ["0", "1"]
    said = [f"\n{names[1]} minus {names[0]}: ", "no input ", "fewer than 5", "recall "]
    said.append(f"one per {'sequence' if per_sequence else 'timestep'}: ")
    said += [f"precision of {classes[0]} ", f"of the rarer class, {classes[0]}"]
    said += ["kind: 2 rows with a text that is new", "a: 1 rows without a number"]
    assert all(text in printed for text in said), printed
    assert printed.count("Cut into pieces of 6 rows, sequences: ") == 2
    assert patience == [5] and "new piece" in plt.gcf().axes[1].get_title()
    assert_is_picture(in_tmp / "a.png")
    # A column per class is added; the rest is text as it was.
    predicted = pd.read_csv("new.predicted.csv", sep=sep, dtype=str)
    expected = pd.read_csv("new.csv", sep=sep, dtype=str)
    columns = [f"{label}={name}" for name in classes]
    pd.testing.assert_frame_equal(predicted.drop(columns=columns), expected)
    yhat = predicted[columns].astype(float)
    same = ["id"] if per_sequence else ["id", "time", "a", "kind"]
    repeated = yhat.groupby([expected[name] for name in same], dropna=False)
    assert (repeated.nunique() == 1).all(axis=None)
    # Each row has the prediction of its own timestep.
    model, space, known = on_table.load_model(in_tmp / "m")
    one = on_table.read_table(in_tmp / "new.csv").drop_duplicates().astype({"id": str})
    groups = one.sort_values("time", kind="stable").groupby("id")
    one = next(rows for _, rows in groups if len(rows) == 8)  # of two pieces
    X = on_table.get_X(one, known, space)
    alone = np.asarray(model(X))
    if per_sequence:
        alone = np.tile(np.average(alone, axis=0, weights=[6, 2]), (8, 1))
    else:
        alone = alone[X[..., 0] != on_table.PADDING]
    np.testing.assert_allclose(yhat.loc[one.index - 2], alone, atol=1e-5)
    # Predicted later, from the files alone, they are exactly the same.
    before = (in_tmp / "new.predicted.csv").read_bytes()
    (in_tmp / "new.predicted.csv").unlink()
    monkeypatch.setattr(compare_models, "compare", None)  # cannot be called
    assert on_table.main(["--save", "m", "--predict", "new.csv"]) == 0
    assert (in_tmp / "new.predicted.csv").read_bytes() == before
    made = "a.csv a.png m.columns.keras m.json m.keras new.csv new.predicted.csv t.csv"
    assert sorted(path.name for path in in_tmp.iterdir()) == made.split()
    # The model loads where this program is not.
    assert b"on_table" not in zipfile.ZipFile("m.keras").read("config.json")
