"""Tells whether a bidirectional LSTM (BiLSTM) is worth it on your own table.

The table is a CSV with a row per timestep. --id names the column that tells
which sequence a row belongs to, --time the column to sort a sequence by, and
--label the column to predict: a label for each timestep, or one for each
sequence if all labels of an id are the same. All other columns are features:
numbers or texts.

You will see what was understood, then the scores of LSTMs and a BiLSTM on
sequences that they were not trained on, and a verdict. "no input" always
predicts the shares of the labels. A missing number is taken as the mean. If
whole machines, persons or days will be new, --id must name these: what shares
an id is never both trained on and scored.

The recommended model is trained once more, on 60% of the ids. --save READINGS
keeps it, and --predict adds its predictions to a copy of another CSV, now or in
a later call. Ctrl-C finishes the current repeat, then reports.

Without a CSV, a table is made up.

Examples:
    python tests/studies/on_table.py
    python tests/studies/on_table.py readings.csv --id machine --time time
        --label state --save readings
    python tests/studies/on_table.py --save readings --predict new.csv
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import compare_models  # before Keras, whose backend it sets
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

PADDING = -99  # Features are clipped to the range from -10 to 10.
Y = "number of the class"  # a column that is added to the rows


# Read


def make_table():
    """Returns a table: a machine fails while its load is above its own mean."""
    rng = np.random.default_rng(1)
    machine = np.repeat(np.arange(300), rng.integers(5, 25, 300))
    table = pd.DataFrame({"machine": machine})
    table["time"] = table.groupby("machine").cumcount()
    table["load"] = rng.normal(5, 2, len(table)).round(2)
    table["kind"] = rng.choice(["old", "new"], len(table))
    high = table["load"] > table.groupby("machine")["load"].transform("mean")
    table["state"] = np.where(high, "fail", "ok")
    table.loc[::9, ["load", "state"]] = np.nan
    return table


def read_csv(path, **options):
    """Returns a CSV, separated by commas, semicolons or tabs, as `attrs` tells.

    Raises ValueError if it is not in UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
        sep = max(",;\t", key=header.count)
        options |= {"sep": sep, "encoding": "utf-8-sig", "index_col": False}
        table = pd.read_csv(path, **options)
        table.attrs["sep"] = sep
        return table
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as a CSV in UTF-8") from None
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None


def read_table(path):
    """Returns a CSV, with the numbers of its lines as index. "None" is a text."""
    missing = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "null", "NULL"]
    options = {"keep_default_na": False, "na_values": missing, "low_memory": False}
    table = read_csv(path, **options)
    table.index += 2  # The names of the columns are in the first line.
    return table


def as_text(column):
    """Returns a column as text, "" where it is missing; 1 and 1.0 are the same."""
    return column.convert_dtypes().astype("string").str.strip().fillna("")


def as_number(column):
    """Returns a column as floats, nan where it is missing or infinite.

    Raises ValueError for a text, with its line.
    """
    texts = as_text(column).replace("None", "")
    numbers = pd.to_numeric(texts, errors="coerce").astype("float64")
    for line, text in texts[numbers.isna() & (texts != "")].items():
        hint = "; write decimal points" if "," in text else ""
        raise ValueError(f"{column.name}: {text!r} in line {line} is no number{hint}")
    return numbers.replace([np.inf, -np.inf], np.nan)


def as_time(column):
    """Returns a column that can be sorted: numbers, or else dates.

    Raises ValueError for what is neither, for years of two digits, and if the order of
    the rows depends on whether day or month comes first.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column
    text = column.astype("string").str.strip()
    if pd.to_numeric(text, errors="coerce").notna().mean() > 0.5:
        return as_number(column)
    year_first = text.dropna().str.match(r"\d{4}\D").all()
    short = text.str.match(r"\d\d?[./-]\d\d?[./-]\d\d(?!\d)").fillna(False).astype(bool)
    for line, bad in text[short].items():
        raise ValueError(f"{column.name}: {bad!r} in line {line} lacks a full year")
    dates = []
    for options in [{"format": "mixed"}] if year_first else [{}, {"dayfirst": True}]:
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")  # of formats that pandas cannot guess
            dates.append(pd.to_datetime(text, utc=True, **options))
    if not dates:
        parse = partial(pd.to_datetime, text, utc=True, format="mixed", errors="coerce")
        dates = [parse(), parse(dayfirst=True)]
    for line, bad in text[dates[0].isna() & text.notna()].items():
        raise ValueError(f"{column.name}: {bad!r} in line {line} is no number or date")
    if not dates[0].rank().equals(dates[-1].rank()):
        bad = text[(dates[0] != dates[-1]) & text.notna()]
        where = f"{column.name}: {bad.iloc[0]!r} in line {bad.index[0]}"
        raise ValueError(f"{where} can mean two dates: write them like 2026-01-31")
    return dates[0]


# Understand


@dataclasses.dataclass
class Columns:
    """What is known of a table, and saved with a model."""

    id: str
    time: str | None
    label: str
    classes: list  # their names, in the order of the model's outputs
    numbers: list
    means: dict  # of the numbers
    texts: list
    left_out: list  # constant columns
    per_sequence: bool  # Is there one label per sequence?
    n_timesteps: int  # of the longest piece
    n_features: int  # of X
    levels: dict | None = None  # the levels of each text in the training data


def check_columns(table, names, what="the table"):
    """Raises ValueError if the table lacks a column."""
    for name in names:
        if name not in table:
            raise ValueError(f"no column {name!r} in {what}: {', '.join(table)}")


def sort_rows(table, id_column, time_column):
    """Returns the rows by id and time; rows of equal time stay in the file's order.

    The id becomes text. Raises ValueError if an id or a time is missing.
    """
    ids = as_text(table[id_column])
    keys = pd.DataFrame({id_column: ids.replace("", pd.NA)})
    if time_column:
        keys[time_column] = as_time(table[time_column])
    for name in keys:
        missing = keys.index[keys[name].isna()]
        if len(missing):
            first = f"{len(missing)} rows, first in line {missing[0]}"
            raise ValueError(f"{name} is empty in {first}")
    order = keys.sort_values(list(keys), kind="stable").index
    return table.assign(**{id_column: ids}).loc[order]


def find_kinds(table, features, categories, max_levels=50):
    """Returns which features are numbers and which are texts; constants are neither.

    Raises ValueError for a column that is neither.
    """
    numbers, texts = [], []
    for name in features:
        text = as_text(table[name])
        points = text[text != ""].str.replace(",", ".")  # maybe decimal commas
        is_number = pd.to_numeric(points, errors="coerce").notna().mean() > 0.5
        if is_number and name not in categories:
            if as_number(table[name]).nunique() > 1:
                numbers.append(name)
        elif text.nunique() > max_levels:
            raise ValueError(
                f"{name} has {text.nunique()} different texts: group them, or name the "
                "columns to take with --features"
            )
        elif text.nunique() > 1:
            texts.append(name)
    if not numbers + texts:
        raise ValueError("there is no feature that is not constant")
    return numbers, texts


def get_codes(labels):
    """Returns the names of the classes in order, and each row's number of its class.

    The number is nan where there is no label. Raises ValueError unless there are 2 to
    20 classes.
    """
    text = as_text(labels).replace("", pd.NA)
    names = sorted(text.dropna().unique())
    values = pd.to_numeric(pd.Series(names, names, dtype=object), errors="coerce")
    classes = list(values.sort_values(kind="stable").index)  # 10 comes after 9
    if not 2 <= len(classes) <= 20:
        raise ValueError(
            f"{labels.name} has {len(classes)} classes, not 2 to 20 (for a number to "
            "predict, see README.md)"
        )
    return classes, text.map({name: code for code, name in enumerate(classes)})


def get_rows(table, args):
    """Returns the rows to use, in order, with their class, and the classes' names.

    Raises ValueError for fewer than ten sequences with a label.
    """
    rows = sort_rows(table, args.id, args.time)
    if args.time:  # Without it, equal rows can be two timesteps.
        rows = rows.drop_duplicates()
    classes, codes = get_codes(rows[args.label])
    rows = rows.assign(**{Y: codes.astype(float)})
    of_sequence = rows.groupby(args.id)[Y]
    if of_sequence.nunique().max() == 1:  # one label per sequence
        rows = rows.assign(**{Y: of_sequence.transform("max")})
    rows = rows[of_sequence.transform("count") > 0]
    n_sequences = rows[args.id].nunique()
    if n_sequences < 10:
        raise ValueError(f"{n_sequences} sequences have a label, but 10 are needed")
    return rows, classes


def understand(table, args):
    """Returns the rows to use, in order, and what is known of them.

    Raises ValueError if the table cannot mean what the options say.
    """
    special = [args.id, args.label] + ([args.time] if args.time else [])
    if table.empty:
        raise ValueError("the table has no rows")
    if Y in table:
        raise ValueError(f"rename the column {Y!r}: its name is needed here")
    check_columns(table, special + args.categories + (args.features or []))
    features = args.features or [name for name in table if name not in special]
    for name in set(special) & set(features):
        raise ValueError(f"{name} cannot be a feature, too")
    rows, classes = get_rows(table, args)
    numbers, texts = find_kinds(rows, features, args.categories)
    groups = rows.groupby(args.id)
    # A text has a column for each of its levels, and one for those that are new.
    n_features = len(numbers) + sum(as_text(rows[text]).nunique() + 1 for text in texts)
    return rows, Columns(
        id=args.id,
        time=args.time,
        label=args.label,
        classes=classes,
        numbers=numbers,
        means={name: float(as_number(rows[name]).mean()) for name in numbers},
        texts=texts,
        left_out=[name for name in features if name not in numbers + texts],
        per_sequence=bool(groups[Y].nunique().max() == 1),
        n_timesteps=int(min(args.timesteps, groups.size().max())),
        n_features=n_features,
    )


def describe(table, rows, columns):
    """Returns lines that say how a table was understood."""
    lengths, ids = rows.groupby(columns.id).size(), as_text(table[columns.id])
    n_repeated = table.assign(**{columns.id: ids}).duplicated().sum()
    order = "the file, as there is no --time"
    if columns.time:
        times = as_time(rows[columns.time])
        order = f"{columns.time}, from {times.min()} to {times.max()}"
    numbers = rows[columns.numbers].apply(pd.to_numeric, errors="coerce")
    infinite = np.isinf(numbers.to_numpy(float)).sum()
    n_cut = (lengths > columns.n_timesteps).sum()
    scored = " (pieces are scored; predictions are means over pieces)"
    scored = scored if columns.per_sequence else ""
    lines = {
        "Rows": f"{len(rows):,}",
        "Sequences": f"{len(lengths):,} of {lengths.min()} to {lengths.max()} rows",
        "Order": order,
        "Label": describe_label(rows, columns),
        "Numbers": describe_missing(rows[columns.numbers].apply(as_number).isna()),
        "Texts": describe_missing(rows[columns.texts].apply(as_text) == ""),
        "Infinite, taken as missing": infinite,
        "Constant, left out": ", ".join(columns.left_out),
        "Repeated rows, left out": n_repeated if columns.time else 0,
        "Sequences without a label, left out": ids.nunique() - len(lengths),
        f"Cut into pieces of {columns.n_timesteps} rows, sequences": (
            f"{n_cut}{scored}" if n_cut else 0
        ),
    }
    return [f"{what}: {text}" for what, text in lines.items() if text]


def get_shares(rows, columns):
    """Returns the share of each class, by its number: of the timesteps that have a
    label, or of the sequences."""
    y = rows.groupby(columns.id)[Y].first() if columns.per_sequence else rows[Y]
    return y.value_counts(normalize=True)


def describe_label(rows, columns):
    """Returns the shares of the classes, and how many rows have no label, as text."""
    per = "sequence" if columns.per_sequence else "timestep"
    shares = get_shares(rows, columns)
    classes = [f"{name} {shares[i]:.1%}" for i, name in enumerate(columns.classes)]
    text = f"{columns.label}, one per {per}: {', '.join(classes)}"
    without = (as_text(rows[columns.label]) == "").sum()
    if without:
        text += f"; rows without a label: {without:,}"
        text += ", which get that of their sequence" if columns.per_sequence else ""
    return text


def describe_missing(missing):
    """Returns the names of columns, with the shares of missing values, as text."""
    texts = []
    for name, share in missing.mean().items():
        amount = f"{share:.1%}" if share >= 0.0005 else "<0.1%"
        texts.append(f"{name} ({amount} missing)" if share else name)
    return ", ".join(texts)


# Split and scale


def get_inputs(rows, columns):
    """Returns the features by name, as arrays `[n_rows]` that TensorFlow takes.

    Their names are feature_0, feature_1, ..., as a column may have any name.
    """
    numbers = [  # near 0, so that float32 keeps small differences of large numbers
        (as_number(rows[name]) - columns.means[name]).to_numpy("float32")
        for name in columns.numbers
    ]
    texts = [as_text(rows[name]).to_numpy(object) for name in columns.texts]
    return {f"feature_{i}": array for i, array in enumerate(numbers + texts)}


def get_space(rows, columns):
    """Returns a FeatureSpace that scales numbers, and makes columns of texts.

    It learns the means, the standard deviations and the texts' levels of these rows.
    """
    kinds = ["float_normalized"] * len(columns.numbers)
    kinds += ["string_categorical"] * len(columns.texts)
    inputs = get_inputs(rows, columns)
    space = keras.utils.FeatureSpace(dict(zip(inputs, kinds)), output_mode="concat")
    for name, kind in zip(inputs, kinds):
        if kind == "float_normalized":  # A missing number is replaced by the mean.
            mean = pd.Series(inputs[name]).mean()
            inputs[name] = np.nan_to_num(inputs[name], nan=mean)
    space.adapt(tf.data.Dataset.from_tensor_slices(inputs).batch(10_000))
    return space


def get_pieces(rows, columns):
    """Returns the number of the piece of its sequence that each row belongs to."""
    position = rows.groupby(columns.id, sort=False).cumcount()
    piece = [rows[columns.id], position // columns.n_timesteps]
    return rows.groupby(piece, sort=False).ngroup().to_numpy()


def pad(values, pieces, n_timesteps, padding=0.0):
    """Returns `[n_pieces, n_timesteps, ...]` of values `[n_rows, ...]`, float32."""
    starts = np.flatnonzero(np.diff(pieces)) + 1
    options = {"dtype": "float32", "padding": "post", "value": padding}
    return keras.utils.pad_sequences(np.split(values, starts), n_timesteps, **options)


def get_X(rows, columns, space):
    """Returns the inputs of a model, `[n_pieces, n_timesteps, n_features]`."""
    X = np.nan_to_num(space(get_inputs(rows, columns)))  # missing numbers: 0, the mean
    X = X.clip(-10, 10)  # A nearly constant number would explode on new data.
    # The columns of levels that the training data lack are 0.
    X = np.pad(X, [(0, 0), (0, columns.n_features - X.shape[1])])
    return pad(X, get_pieces(rows, columns), columns.n_timesteps, PADDING)


def get_part(rows, columns, space):
    """Returns X, y and weight of the rows; the weight of unknown labels is 0.

    y is `[n_pieces, n_timesteps, 1]`. For a label per sequence it is `[n_pieces, 1]`,
    and a sequence's pieces have a weight of 1 together.
    """
    pieces, n_timesteps = get_pieces(rows, columns), columns.n_timesteps
    y = pad(rows[Y].fillna(0).to_numpy(), pieces, n_timesteps)[..., None]
    weight = pad(rows[Y].notna().to_numpy(), pieces, n_timesteps)
    if columns.per_sequence:
        n_rows = rows.groupby(columns.id)[Y].transform("size").to_numpy()
        y, weight = y[:, 0], pad(1 / n_rows, pieces, n_timesteps).sum(axis=1)
    return get_X(rows, columns, space), y, weight


def split_rows(rows, columns, seed):
    """Returns rows for training, validation and new data; an id is in one of them."""
    ids = np.random.default_rng(seed).permutation(rows[columns.id].unique())
    splits = np.split(ids, [len(ids) * 3 // 5, len(ids) * 4 // 5])
    return [rows[rows[columns.id].isin(split)] for split in splits]


def get_parts(rows, columns, seed):
    """Returns training, validation and new data, scaled by the training data alone."""
    parts = split_rows(rows, columns, seed)
    space = get_space(parts[0], columns)
    return [get_part(part, columns, space) for part in parts]


# Models


class PRArea(keras.metrics.AUC):
    """The area under the precision-recall curve of one of two classes."""

    def __init__(self, code):
        super().__init__(curve="PR", name="PR area")
        self.code = code  # the number of the class

    def update_state(self, y, yhat, sample_weight=None):
        y = keras.ops.equal(y[..., 0], self.code)
        return super().update_state(y, yhat[..., self.code], sample_weight)

    def result(self):
        there = self.true_positives[0] + self.false_negatives[0] > 0
        return keras.ops.where(there, super().result(), float("nan"))


# The models by whether there is one label per sequence, and the pair to compare.
MODELS = {
    False: ["LSTM", "two LSTMs", "BiLSTM"],
    True: [
        "LSTM, last",
        "LSTM, mean",
        "two LSTMs, mean",
        "BiLSTM, last",
        "BiLSTM, mean",
    ],
}
PAIR = {False: ["BiLSTM", "two LSTMs"], True: ["BiLSTM, mean", "two LSTMs, mean"]}


def get_model(columns, rarer, name, learning_rate):
    """Returns a new compiled model, whose outputs are the probabilities of the classes.

    Of two classes, the rarer one's area under the precision-recall curve is scored.
    """
    inputs = keras.Input((columns.n_timesteps, columns.n_features))
    # The padding's mask is passed by hand, as not all layers pass it on.
    mask = keras.ops.any(inputs != PADDING, axis=-1)
    sequences = not name.endswith("last")
    n_lstms = 2 if name.startswith("two LSTMs") else 1
    lstms = [keras.layers.LSTM(20, return_sequences=sequences) for _ in range(n_lstms)]
    if name.startswith("BiLSTM"):
        lstms = [keras.layers.Bidirectional(lstms[0])]
    h = keras.ops.concatenate([lstm(inputs, mask=mask) for lstm in lstms], axis=-1)
    if name.endswith("mean"):
        h = keras.layers.GlobalAveragePooling1D()(h, mask=mask)
    outputs = keras.layers.Dense(len(columns.classes), activation="softmax")(h)
    model = keras.Model(inputs, outputs)
    reduction = "mean_with_sample_weight"  # over the timesteps that have a label
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
    metrics = ["accuracy"]
    if len(columns.classes) == 2:  # Accuracy says little if one class is rare.
        metrics.append(PRArea(rarer))
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(adam, loss, weighted_metrics=metrics)
    return model


# Verdict


def compare_two(losses, share, first, second):
    """Returns how far a model is ahead of another as text, and whether it is.

    -1 is ahead, 1 is behind, and 0 a difference of less than two standard errors.
    """
    difference = losses[first] - losses[second]
    mean, error = difference.mean(), compare_models.get_error(difference, share)
    side = "ahead of" if mean < 0 else "behind"
    text = f"{first} is {side} {second} by {abs(mean):.3f} (2 SE: {error:.3f})"
    return text, int(np.sign(mean)) * int(abs(mean) > error)


def rank_models(losses):
    """Returns the model with the lowest loss: of all, of the LSTMs, of the BiLSTMs."""
    models = losses.drop(columns="no input").mean().sort_values().index
    bidirectional = models.str.startswith("BiLSTM")
    return models[0], models[~bidirectional][0], models[bidirectional][0]


def choose_model(losses, share):
    """Returns the best model if it is a BiLSTM that is ahead of all LSTMs.

    Else it is the first model, or the best LSTM if the first one is behind any other.
    """
    best, lstm, bilstm = rank_models(losses)
    if len(losses) < 5 or compare_two(losses, share, bilstm, lstm)[1] < 0:
        return best
    first = losses.columns[0]
    behind = [compare_two(losses, share, first, other)[1] for other in (lstm, bilstm)]
    return lstm if max(behind) > 0 else first


def get_verdict(losses, share, updates):
    """Returns what the losses say, in one or two sentences.

    `losses` has a row per repeat, a column per model and "no input". A difference
    counts if it is more than two standard errors.
    """
    best, lstm, bilstm = rank_models(losses)
    if len(losses) < 5:
        lowest = losses.mean().idxmin()  # maybe "no input"
        return f"{lowest} has the lowest loss, but fewer than 5 repeats decide nothing."
    text, side = compare_two(losses, share, best, "no input")
    if side >= 0:
        return (
            f"No model is better than no input: {text}. Try more --updates, other "
            "--rates, or other features."
        )
    text, side = compare_two(losses, share, bilstm, lstm)
    if side < 0:
        return (
            f"{text}. Use it if whole sequences are there when you predict. Its lead "
            f"may be a head start: check with --updates {5 * updates}."
        )
    why = text if side > 0 else "No difference that this table can show"
    return f"{why}: use {choose_model(losses, share)}, which only looks back."


# Figure


def plot_losses(ax, losses, share):
    """Draws each model's mean loss with two standard errors, and that of no input."""
    models = losses.drop(columns="no input")
    error = compare_models.get_error(models, share)
    ax.errorbar(models.mean(), models.columns, xerr=error, fmt="o", capsize=4)
    ax.axvline(losses["no input"].mean(), color="0.3", ls=":", label="no input")
    ax.set(xlabel="log loss on new sequences, mean ± 2 SE (lower is better)")
    ax.set_xlim(0, None)
    ax.set_ylim(len(models.columns) - 0.5, -0.5)
    ax.legend()


def plot_timesteps(ax, y, yhat, classes):
    """Draws the probabilities of the classes at each timestep, and the labels.

    y is `[n_timesteps]`, nan where there is no label; yhat `[n_timesteps, n_classes]`.
    """
    timesteps = np.arange(1, len(y) + 1)
    # Of two classes, the probability of the second one tells all.
    codes = [1] if len(classes) == 2 else range(len(classes))
    for code in codes:
        color, label = f"C{code % 10}", f"P({classes[code]})"
        ax.plot(timesteps, yhat[:, code], ".-", color=color, label=label)
        ax.plot(timesteps[y == code], 0 * y[y == code] + 1.05, "s", color=color)
    if len(classes) == 2:
        ax.plot(timesteps[y == 0], 0 * y[y == 0] - 0.05, "s", color=color)
    ax.set(xlabel="timestep (squares: the labels)", ylim=(-0.1, 1.1))
    ax.set_ylabel("probability")
    ax.locator_params(axis="x", integer=True)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def plot_classes(ax, y, yhat, classes):
    """Draws the probabilities of a sequence's classes; the right one is green."""
    colors = np.where(np.arange(len(classes)) == y, "#009E73", "0.7")
    ax.bar(classes, yhat, color=colors)
    ax.set(ylabel="probability", ylim=(0, 1), xlabel="class (green: the right one)")


def plot_sequence(ax, new, yhat, columns):
    """Draws the predictions for the new sequence whose log loss is the median."""
    X, y, weight = new
    right = np.take_along_axis(yhat, y.astype(int), axis=-1)[..., 0]
    losses = pd.DataFrame(-np.log(right)).where(pd.DataFrame(weight) > 0)
    ranked = losses.mean(axis="columns").dropna().sort_values()
    typical = ranked.index[len(ranked) // 2]
    if columns.per_sequence:
        return plot_classes(ax, y[typical, 0], yhat[typical], columns.classes)
    there = X[typical, :, 0] != PADDING
    labels = np.where(weight[typical] > 0, y[typical, :, 0], np.nan)
    plot_timesteps(ax, labels[there], yhat[typical][there], columns.classes)


# Keep


def train_best(model, training, validation, n_updates):
    """Trains a model until its validation loss has not fallen for n_updates updates,
    or for five epochs if these have more."""
    X, y, weight = training
    patience = max(5, -(-n_updates // -(-len(X) // 16)))  # in epochs
    stop = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
    with compare_models.noted_ctrl_c() as pressed:

        def end_batch(batch, logs):
            model.stop_training = model.stop_training or pressed.is_set()

        ctrl_c = keras.callbacks.LambdaCallback(on_train_batch_end=end_batch)
        options = {"batch_size": 16, "epochs": 20 * patience, "verbose": 0}
        options |= {"validation_data": validation, "callbacks": [stop, ctrl_c]}
        model.fit(X, y, sample_weight=weight, **options)


def describe_scores(model, new, yhat, columns, rarer):
    """Returns the kept model's scores on new data, as text."""
    scores = compare_models.score(model, new, yhat)
    texts = [f"{name} {value:.3f}" for name, value in scores.items()]
    if len(columns.classes) == 2:
        weight = new[2]
        is_rarer = (new[1][..., 0] == rarer) * weight
        found = (yhat.argmax(axis=-1) == rarer) * weight
        hits = (is_rarer * found).sum()
        with np.errstate(invalid="ignore"):  # of 0 / 0, which is nan
            precision, recall = hits / found.sum(), hits / is_rarer.sum()
        texts.append(f"precision of {columns.classes[rarer]} {precision:.3f}")
        texts.append(f"recall {recall:.3f}")
    return ", ".join(texts)


def save_model(path, model, space, columns):
    """Saves what predictions need: PATH.keras, PATH.columns.keras and PATH.json."""
    model = keras.Model(model.input, model.output)  # needs no metric of this file
    model.save(path.with_name(f"{path.name}.keras"))
    space.save(path.with_name(f"{path.name}.columns.keras"))
    text = json.dumps(dataclasses.asdict(columns), indent=1)
    path.with_name(f"{path.name}.json").write_text(text, encoding="utf-8")


def load_model(path):
    """Returns what `save_model` saved: the model, its FeatureSpace and its columns."""
    if not path.with_name(f"{path.name}.keras").exists():
        raise ValueError(f"nothing is saved as {path}: {path}.keras is missing")
    model = keras.saving.load_model(path.with_name(f"{path.name}.keras"))
    space = keras.saving.load_model(path.with_name(f"{path.name}.columns.keras"))
    text = path.with_name(f"{path.name}.json").read_text(encoding="utf-8")
    return model, space, Columns(**json.loads(text))


def sort_new_rows(table, columns):
    """Returns the rows in order. Raises ValueError if they do not fit the columns."""
    names = [columns.id, *columns.numbers, *columns.texts]
    names += [columns.time] if columns.time else []
    check_columns(table, names, "the file to predict")
    for name in columns.numbers:
        as_number(table[name])
    return sort_rows(table, columns.id, columns.time)


def predict_rows(model, space, columns, table):
    """Returns the probabilities of the classes, a row for each row of the table.

    A repeated row has the probabilities of the first one. If there is one label per
    sequence, they are the means of the sequence's rows.
    """
    rows = sort_new_rows(table, columns)
    same = np.arange(len(rows))
    if columns.time:
        same = rows.groupby(list(rows), dropna=False, sort=False).ngroup().to_numpy()
    first = ~pd.Series(same).duplicated().to_numpy()
    X, ids = get_X(rows[first], columns, space), rows.loc[first, columns.id].to_numpy()
    yhat = compare_models.predict(model, X)
    if columns.per_sequence:
        yhat = pd.DataFrame(yhat[get_pieces(rows[first], columns)])
        yhat = yhat.groupby(ids).transform("mean").to_numpy()
    else:
        yhat = yhat[X[:, :, 0] != PADDING]  # [n_rows, n_classes]
    names = [f"{columns.label}={name}" for name in columns.classes]
    yhat = pd.DataFrame(yhat, same[first], names).loc[same]
    return yhat.set_index(rows.index).loc[table.index]


def add_predictions(path, model, space, columns):
    """Writes a copy of a CSV with a column per class, and returns its path.

    Prints what the training did not know. The other columns stay as they are.
    """
    table = read_table(path)
    yhat = predict_rows(model, space, columns, table)
    n_cut = (as_text(table[columns.id]).value_counts() > columns.n_timesteps).sum()
    if n_cut:
        print(f"Cut into pieces of {columns.n_timesteps} rows, sequences: {n_cut}")
    for name in columns.texts:
        known = as_text(table[name]).isin(columns.levels[name])
        if not known.all():
            print(
                f"{name}: {(~known).sum():,} rows with a text that is new to the model"
            )
    for name in columns.numbers:
        missing = as_number(table[name]).isna().sum()
        if missing:
            print(f"{name}: {missing:,} rows without a number, taken as the mean")
    copy = read_csv(path, dtype=str, keep_default_na=False)  # every cell as it is
    copy[list(yhat)] = yhat.to_numpy()
    path = path.with_name(f"{path.stem}.predicted.csv")
    copy.to_csv(path, sep=copy.attrs["sep"], index=False)
    return path


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "table",
        nargs="?",
        type=Path,
        help="CSV in UTF-8, with commas, semicolons or tabs",
    )
    add("--id", help="column: the sequence that a row belongs to")
    add("--time", help="column: numbers or dates to sort by [the order of the file]")
    add("--label", help="column: the class to predict")
    add("--features", nargs="+", metavar="NAME", help="columns to use [all others]")
    numbers = "columns of numbers that stand for categories"
    add("--categories", nargs="+", metavar="NAME", default=[], help=numbers)
    longer = "longer sequences are cut into pieces of this length [%(default)s]"
    add("--timesteps", type=int, default=200, help=longer)
    rates = [0.001, 0.003, 0.01, 0.03]
    tried = "learning rates to try %(default)s"
    add("--rates", type=float, nargs="+", default=rates, help=tried)
    add("--save", type=Path, metavar="NAME", help="keeps the model as NAME.keras")
    predict = "adds predictions to a copy: NEW.predicted.csv"
    add("--predict", type=Path, metavar="NEW.csv", help=predict)
    figure = Path(__file__).with_suffix(".png").name
    compare_models.add_options(parser, updates=500, repeats=5, figure=figure)
    args = parser.parse_args(argv)
    endings = plt.Figure().canvas.get_supported_filetypes()
    compare_models.check_options(parser, args, plot=endings)
    if args.timesteps < 1 or not all(0 < rate < np.inf for rate in args.rates):
        parser.error("--timesteps must be at least 1, --rates above 0 and finite")
    for path in filter(None, [args.save, args.predict]):
        if not os.access(path.parent, os.W_OK | os.X_OK):
            parser.error(f"cannot write in the folder of {path}")
    if args.table and not (args.id and args.label):
        parser.error("a table needs --id and --label")
    if args.predict and not args.table and not args.save:
        parser.error("--predict needs a table to learn from, or what --save kept")
    if not args.table:
        if args.id or args.time or args.label or args.features or args.categories:
            parser.error("--id, --time, --label and the like need a table")
        args.id, args.time, args.label = "machine", "time", "state"  # of make_table
    return parser, args


def keep_best(rows, columns, build, args):
    """Trains a model once more on the first split, and returns what belongs to it.

    That is the model, its FeatureSpace, and the new part with its predictions.
    """
    parts = split_rows(rows, columns, args.seed)
    space = get_space(parts[0], columns)
    columns.levels = {
        name: sorted(as_text(parts[0][name]).unique()) for name in columns.texts
    }
    training, validation, new = [get_part(part, columns, space) for part in parts]
    model = build()
    train_best(model, training, validation, args.updates)
    return model, space, new, compare_models.predict(model, new[0])


def main(argv=None):
    parser, args = parse_args(argv)
    try:
        if args.predict and not args.table:
            path = add_predictions(args.predict, *load_model(args.save))
            print("Predictions saved as", path)
            return 0
        table = read_table(args.table) if args.table else make_table()
        rows, columns = understand(table, args)
        if args.predict:
            sort_new_rows(read_table(args.predict), columns)
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    if not args.table:
        print("This table is made up, as no CSV is given.")
    print("\n".join(describe(table, rows, columns)))

    names, rarer = MODELS[columns.per_sequence], int(get_shares(rows, columns).idxmin())
    build, split = partial(get_model, columns, rarer), partial(get_parts, rows, columns)
    options = [args.updates, args.repeats, args.seed, args.csv]
    try:
        scores = compare_models.compare(split, build, names, args.rates, *options)
    except compare_models.StaleScores as error:
        parser.error(str(error))
    compare_models.report(scores, names, PAIR[columns.per_sequence])
    if len(columns.classes) == 2:
        area = "PR area: that under the precision-recall curve of the rarer class,"
        print(area, columns.classes[rarer])
    losses, rates = compare_models.get_losses(scores, names)
    share = scores["new / training"].mean()
    verdict = get_verdict(losses, share, args.updates)
    print(f"\n{verdict}\n", flush=True)

    best = choose_model(losses, share)
    again = partial(build, best, rates[best])
    model, space, new, yhat = keep_best(rows, columns, again, args)
    print(f"{best}, trained once more, on the first split (the table: means of all):")
    print(describe_scores(model, new, yhat, columns, rarer), flush=True)
    if args.save:
        save_model(args.save, model, space, columns)
        print(
            f"Model saved as {args.save}.keras, with {args.save}.columns.keras "
            f"and {args.save}.json"
        )
    if args.predict:
        path = add_predictions(args.predict, model, space, columns)
        print("Predictions saved as", path, flush=True)
    figure = plt.figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(verdict.split(". ")[0])
    upper, lower = figure.subplots(2)
    plot_losses(upper, losses, share)
    plot_sequence(lower, new, yhat, columns)
    cut = rows.groupby(columns.id).size().max() > columns.n_timesteps
    shown = "piece of a sequence" if cut else "sequence"
    lower.set_title(f"{best}: the new {shown} with the median log loss")
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot)
    plt.show()
    return 130 if scores["seed"].nunique() < args.repeats else 0


if __name__ == "__main__":
    sys.exit(main())
