"""Compares LSTMs with a bidirectional LSTM on real text: which letters begin a word?

The text is the English of Python's own help, without its spaces. Each repeat
splits it anew: a model is trained on the first part at several learning rates,
the second part chooses the best rate, and the third is new to all and scored.
You will see the scores, and a line of new text, letter by letter. Ctrl-C ends
the training, and reports the repeats that are done.

For data of your own, copy this file beside compare_directions.py and
sequence.py, and replace get_parts and get_model (with NAMES and RATES).

Example:
    python tests/compare_on_text.py --text novel.txt --csv novel.csv
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides much of TensorFlow's log
if Path(__file__).resolve().parent.name == "tests":  # else the scripts are beside it
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from compare_directions import ctrl_c_waits, summarize, train_repeats

TEXT = {}  # the letters, X and y of the text, once it is read


def read_text(path=None):
    """Cuts a UTF-8 text without its spaces into sequences of 50 letters.

    They become TEXT: X is `[n_sequences, 50, n_letters]`, one-hot, y is
    `[n_sequences, 50, 1]`, 1 where a word begins. Raises ValueError if they are too few.
    """
    text = path.read_text("utf-8") if path else "\n\n".join(topics.values())
    paragraphs = {}
    for paragraph in text.lower().split("\n\n"):
        words = "".join(c if c.isalpha() else " " for c in paragraph).split()
        # Python's help repeats many paragraphs. Each is taken once, or a part of the new
        # text would have been trained on. Look for repetitions in any data.
        paragraphs["".join(words)] = words
    words = [word for words in paragraphs.values() for word in words]
    begins = np.array([i == 0 for word in words for i in range(len(word))])
    letters, numbers = np.unique(list("".join(words)), return_inverse=True)
    n_sequences = len(begins) // 50
    if n_sequences < 50:
        raise ValueError(f"{path} has {len(begins)} letters, but needs 2,500")
    numbers = numbers[: 50 * n_sequences].reshape(n_sequences, 50)
    TEXT["letters"] = letters
    TEXT["X"] = np.eye(len(letters), dtype="float32")[numbers]
    TEXT["y"] = begins[: 50 * n_sequences].reshape(n_sequences, 50, 1)


def get_parts(seed):
    """Returns training, validation and new data: each X and y, or X, y and sample_weight.

    What belongs together (a document, a person, a series) goes to one part alone. Here
    50 blocks of neighbouring sequences are dealt out.
    """
    if not TEXT:
        read_text()
    X, y = TEXT["X"], TEXT["y"]
    block = np.arange(len(X)) * 50 // len(X)  # 0 to 49
    dealt = np.random.default_rng(seed).permutation(50)
    parts = [np.isin(block, blocks) for blocks in np.split(dealt, [30, 40])]
    return [(X[part], y[part]) for part in parts]


NAMES = ["LSTM", "two LSTMs", "two LSTMs, two letters late", "BiLSTM"]
RATES = [0.01, 0.03, 0.1]


def get_model(name, learning_rate):
    """Returns a new compiled model. All but the LSTM have the same number of weights.

    Padding is for the sample weights to leave out, as these layers lose a mask.
    """
    inputs = keras.Input((None, len(TEXT["letters"])))
    # Two timesteps more at the end, and two outputs fewer at the start: the answer for a
    # letter waits until the next two have been read.
    late = 2 if "late" in name else 0
    hidden = keras.layers.ZeroPadding1D((0, late))(inputs)
    n_lstms = 2 if name.startswith("two") else 1
    layers = [keras.layers.LSTM(20, return_sequences=True) for _ in range(n_lstms)]
    if name == "BiLSTM":
        layers = [keras.layers.Bidirectional(layers[0])]
    hidden = keras.ops.concatenate([layer(hidden) for layer in layers], axis=-1)
    hidden = keras.layers.Cropping1D((late, 0))(hidden)  # [samples, 50, 20 or 40]
    outputs = keras.layers.Dense(1, activation="sigmoid")(hidden)
    model = keras.Model(inputs, outputs)
    # If there are sample weights, these are means over what has weight.
    loss = keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss=loss, optimizer=adam, weighted_metrics=["accuracy"])
    return model


def train(builders, seeds, n_updates):
    """Yields each seed and its models by name, trained with batches of 16 random rows."""

    def get_data(seed):
        training, _, _ = get_parts(seed)
        n_rows = 16 * n_updates
        rows = np.random.default_rng(seed).integers(len(training[0]), size=n_rows)
        return [array[rows] for array in training]

    for losses, models in train_repeats(builders, get_data, seeds, batch_size=16):
        yield int(losses.index[0][0]), models


def score(models, seed):
    """Returns a table of the models' scores on the validation and the new data of a seed."""
    training, validation, new = get_parts(seed)
    rows = []
    for (name, rate), model in models.items():
        row = {"seed": seed, "model": name, "rate": rate}
        row["new / training"] = len(new[0]) / len(training[0])
        for prefix, part in [("validation ", validation), ("", new)]:
            X, y, weight = keras.utils.unpack_x_y_sample_weight(part)
            # In one batch, as Keras averages over batches, whatever they weigh.
            options = {"batch_size": len(X), "verbose": 0, "return_dict": True}
            scores = model.evaluate(X, y, sample_weight=weight, **options)
            row |= {prefix + metric: value for metric, value in scores.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def get_table(scores):
    """Returns the models' mean scores on new data, each at its best rate for validation.

    "2 SE" are two standard errors, those of Nadeau and Bengio (2003,
    doi.org/10.1023/A:1024068626366): repeats that train on the same data in part differ
    less than others would. A star marks the lowest and the highest rate.
    """
    by_rate = scores.groupby(["model", "rate"])["validation loss"]
    validation = by_rate.agg(lambda losses: losses.mean(skipna=False)).unstack()
    best = validation.loc[NAMES].idxmin(axis="columns")  # the rates, by model
    at_best = scores[scores["rate"] == scores["model"].map(best)].assign(epoch=1)
    loss = at_best.pivot(index=["seed", "epoch"], columns="model", values="loss")
    table = summarize(loss[NAMES])
    n_repeats, share = len(loss), scores["new / training"].mean()
    table[["2 SE", "2 SE, paired"]] *= np.sqrt(1 + n_repeats * share)
    stars = best.isin([min(RATES), max(RATES)]).map({True: "*", False: ""})
    table.insert(0, "rate", best.astype(str) + stars)
    metrics = [name for name in scores if f"validation {name}" in scores]
    means = at_best.groupby("model")[metrics].mean().drop(columns="loss")
    return table.join(means).rename_axis(None)


def plot_letters(ax, letters, y, yhat):
    """Draws how likely each letter begins a word, and where words begin, on Axes.

    The labels y and the probabilities yhat are `[n_letters]`.
    """
    timesteps = np.arange(len(letters))
    wrong = (yhat > 0.5) != y
    ax.bar(timesteps, yhat, 0.9, color=np.where(wrong, "#D55E00", "#56B4E9"))
    ax.vlines(timesteps[y == 1] - 0.5, 0, 1, color="black", lw=2)
    ax.axhline(0.5, color="0.3", linestyle=":", lw=1)
    ax.set(xlim=(-0.5, len(letters) - 0.5), ylim=(0, 1), yticks=[0, 0.5, 1])
    ax.set_xticks(timesteps, letters, family="monospace", size=14)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("a word begins")


def plot_text(figure, table, n_updates):
    """Draws a line of new text with the predictions of two models of the first repeat.

    It is the line whose log losses are nearest to the means of both, not the nicest.
    """
    know = {"two LSTMs": "know the letters so far"}
    know["BiLSTM"] = "knows the letters to come as well"
    rates = table["rate"].str.rstrip("*").astype(float)
    builders = {name: partial(get_model, name, rates[name]) for name in know}
    _, models = next(train(builders, [0], n_updates))
    X, y = get_parts(0)[2]
    yhat = [model.predict(X, verbose=0) for model in models.values()]
    losses = np.stack([keras.losses.binary_crossentropy(y, p) for p in yhat]).mean(2)
    line = np.abs(losses - losses.mean(1, keepdims=True)).sum(0).argmin()
    letters = TEXT["letters"][X[line].argmax(axis=-1)]
    for ax, p, name in zip(figure.subplots(2), yhat, know):
        plot_letters(ax, letters, y[line, :, 0], p[line, :, 0])
        loss, error, accuracy = table.loc[name, ["loss", "2 SE", "accuracy"]]
        scores = (
            f"{accuracy:.1%} of new letters right, log loss {loss:.3f} ± {error:.3f}"
        )
        ax.set_title(f"{name} {know[name]}: {scores}", loc="left")
    figure.suptitle(
        "Which letters begin a word? (black: these, orange: wrong)", size=15
    )


def read_scores(path, setting):
    """Returns the scores in a CSV. Raises ValueError if their models or setting differ."""
    scores = pd.read_csv(path)
    columns = scores.reindex(columns=["seed", "model", "rate", "setting"])
    seeds = columns["seed"].unique()
    expected = pd.MultiIndex.from_product([seeds, NAMES, RATES, [setting]])
    if not pd.MultiIndex.from_frame(columns).equals(expected):
        raise ValueError(f"{path} has other models, or another setting than {setting}")
    return scores


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, help="UTF-8 text, of any alphabet [Python's own help]")
    add("--updates", type=int, default=1000, help="with 16 rows each [%(default)s]")
    add("--repeats", type=int, default=10, help="trainings per model [%(default)s]")
    add("--csv", type=Path, help="keeps each repeat's scores, to go on from them")
    figure = Path(__file__).with_suffix(".png").name
    add("--plot", type=Path, default=figure, help="figure of the text [%(default)s]")
    args = parser.parse_args(argv)
    if min(args.updates, args.repeats) < 1:
        parser.error("--updates and --repeats must be at least 1")
    if args.csv and args.csv.suffix != ".csv":
        parser.error("--csv must end in .csv")
    endings = plt.Figure().canvas.get_supported_filetypes()
    if args.plot.suffix[1:].lower() not in endings:
        parser.error(f"--plot must end in one of {', '.join(endings)}")
    for path in filter(None, [args.plot, args.csv]):
        if os.path.isdir(path) or not os.access(path.parent, os.W_OK | os.X_OK):
            parser.error(f"cannot write {path}: not a file in a writable folder")
    try:
        if args.text:
            read_text(args.text)
        training, _, new = [part[0].shape for part in get_parts(seed=0)]
        setting = f"{args.updates} updates, training data {training}, new data {new}"
        finished = []
        if args.csv and args.csv.exists():
            finished = [read_scores(args.csv, setting)]
    except (OSError, ValueError) as error:
        parser.error(error)

    # Keras's LSTM for GPUs cannot be compiled by XLA.
    tf.config.set_visible_devices([], "GPU")
    builders = {(n, r): partial(get_model, n, r) for n in NAMES for r in RATES}
    done = {seed for scores in finished for seed in scores["seed"]}
    seeds = [seed for seed in range(args.repeats) if seed not in done]
    print(f"{setting}\nThe first repeat compiles {len(builders)} models.", flush=True)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    progress = keras.utils.Progbar(len(seeds), verbose=bar, unit_name="repeat")
    with ctrl_c_waits() as presses:  # until all is saved
        for seed, models in train(builders, seeds, args.updates):
            finished.append(score(models, seed).assign(setting=setting))
            if args.csv:  # A kill leaves the old file whole.
                unfinished = args.csv.with_suffix(".unfinished")
                pd.concat(finished).to_csv(unfinished, index=False)
                unfinished.replace(args.csv)
            progress.add(1)
            if presses:
                break

        scores = pd.concat(finished)
        n_repeats = scores["seed"].nunique()
        table = get_table(scores)
        print(f"\nNew data, each model at its best rate, repeats: {n_repeats}")
        print(table.to_string(float_format="%.3f", na_rep=""))
        print(
            "2 SE: for new data like these. *: the lowest or highest rate", flush=True
        )
        if TEXT:
            print("Trains the two models of the figure again.", flush=True)
            figure = plt.figure(figsize=(13, 5), layout="constrained")
            plot_text(figure, table, args.updates)
            figure.savefig(args.plot, dpi=150)
            print("Figure saved as", args.plot, flush=True)
    plt.show()
    return 130 if n_repeats < args.repeats else 0


if __name__ == "__main__":
    sys.exit(main())
