"""Compares LSTMs, a BiLSTM and a convolution on text: which letters begin a word?

The text is the English of Python's own help, without its spaces. In each repeat
it is split anew, and the models are trained on one part at several learning
rates. Second parts choose each model's rate, and third parts are scored. You
will see the scores, what an update of each model costs, and a line of new text,
letter by letter. Ctrl-C finishes the current repeat, then reports.

Example:
    python tests/studies/on_text.py --text novel.txt --csv novel.csv
"""

import argparse
import sys
import unicodedata
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import compare_models  # before Keras, whose backend it sets
import keras
import matplotlib.pyplot as plt
import numpy as np

MODELS = {
    "LSTM": {"n_lstms": 1},
    "two LSTMs": {"n_lstms": 2},
    "two LSTMs, two letters late": {"n_lstms": 2, "late": 2},
    "BiLSTM": {"bidirectional": True},
    "convolution": {"n_filters": 28},
}
RATES = [0.01, 0.03, 0.1]


def split_words(line):
    """Returns the words of a line: runs of letters, with the marks that belong to them.

    Devanagari, Tamil and others write vowels as marks (Unicode's category M). Joiners
    and soft hyphens (category Cf) are left out.
    """
    letters = ""
    for c in unicodedata.normalize("NFC", line.lower()):
        category = unicodedata.category(c)
        mark = category[0] == "M" and letters[-1:].strip()
        if category != "Cf":
            letters += c if c.isalpha() or mark else " "
    return letters.split()


def read_words(text):
    """Returns the words of a text, each paragraph once.

    Paragraphs end at empty lines, and at lines of a single sign (% in fortunes).
    Python's help repeats many of them, so that a part of the new text would have been
    trained on. Look for repetitions in any data.
    """
    paragraphs, words = {}, []
    for line in [*text.splitlines(), ""]:
        words += split_words(line)
        if len(line.strip()) < 2 and not line.strip().isalpha():
            paragraphs["".join(words)] = words
            words = []
    return [word for words in paragraphs.values() for word in words]


def get_sequences(words):
    """Returns the letters of the alphabet, and sequences X and y of 50 letters.

    X is `[n_sequences, 50, n_letters]`, one-hot. y is `[n_sequences, 50, 1]`, 1 where a
    word begins.
    """
    begins = np.array([i == 0 for word in words for i in range(len(word))], dtype=int)
    letters, numbers = np.unique(list("".join(words)), return_inverse=True)
    n_sequences = len(begins) // 50
    numbers = numbers[: 50 * n_sequences].reshape(n_sequences, 50)
    y = begins[: 50 * n_sequences].reshape(n_sequences, 50, 1)
    return letters, np.eye(len(letters), dtype="float32")[numbers], y


def get_parts(X, y, seed):
    """Returns training, validation and new data: 50 blocks of neighbours, dealt out."""
    block = np.arange(len(X)) * 50 // len(X)  # 0 to 49
    dealt = np.random.default_rng(seed).permutation(50)
    parts = [np.isin(block, blocks) for blocks in np.split(dealt, [30, 40])]
    return [(X[part], y[part]) for part in parts]


def read_outputs(inputs, n_lstms=0, late=0, bidirectional=False, n_filters=0):
    """Returns the outputs of a model's hidden layers, `[samples, 50, n]`."""
    if n_filters:  # two convolutions over 5 letters: each output sees 9 of them
        options = {"padding": "same", "activation": "relu"}
        hidden = keras.layers.Conv1D(n_filters, 5, **options)(inputs)
        return keras.layers.Conv1D(n_filters, 5, **options)(hidden)
    if bidirectional:
        lstm = keras.layers.LSTM(20, return_sequences=True)
        return keras.layers.Bidirectional(lstm)(inputs)
    # Two timesteps more at the end, and two outputs fewer at the start: the answer for
    # a letter waits until the next two have been read.
    padded = keras.layers.ZeroPadding1D((0, late))(inputs)
    lstms = [keras.layers.LSTM(20, return_sequences=True) for _ in range(n_lstms)]
    hidden = keras.ops.concatenate([lstm(padded) for lstm in lstms], axis=-1)
    return keras.layers.Cropping1D((late, 0))(hidden)


def get_model(n_letters, name, learning_rate):
    """Returns a new compiled model. All but the LSTM have about as many weights."""
    inputs = keras.Input((50, n_letters))
    hidden = read_outputs(inputs, **MODELS[name])
    outputs = keras.layers.Dense(1, activation="sigmoid")(hidden)
    model = keras.Model(inputs, outputs)
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(
        loss="binary_crossentropy",
        optimizer=adam,
        metrics=["accuracy"],
        jit_compile=False,  # of `predict`, which XLA would compile for each length
    )
    return model


def plot_letters(ax, letters, y, yhat):
    """Draws the probability that each letter begins a word, and where words begin.

    The labels y and the probabilities yhat are `[n_letters]`.
    """
    timesteps = np.arange(len(letters))
    wrong = (yhat > 0.5) != y
    ax.bar(timesteps, yhat, 0.9, color=np.where(wrong, "#D55E00", "#56B4E9"))
    ax.vlines(timesteps[y == 1] - 0.5, 0, 1, color="black", lw=2)
    ax.axhline(0.5, color="0.3", ls=":", lw=1)
    ax.set(xlim=(-0.5, len(letters) - 0.5), ylim=(0, 1), yticks=[0, 0.5, 1])
    ax.set_xticks(timesteps, letters, family="monospace", size=14)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("a word begins")


def plot_text(figure, table, models, letters, new):
    """Draws a line of new text with the predictions of two models.

    It is the line whose log losses are nearest to the means of both, not the nicest.
    `table` has the scores of all repeats.
    """
    X, y = new
    knows = ["know the letters so far", "knows the letters to come as well"]
    yhat = [compare_models.predict(model, X) for model in models.values()]
    losses = np.stack([keras.losses.binary_crossentropy(y, p) for p in yhat]).mean(2)
    line = np.abs(losses - losses.mean(1, keepdims=True)).sum(0).argmin()
    text = letters[X[line].argmax(axis=-1)]
    for ax, p, name, what in zip(figure.subplots(2), yhat, models, knows):
        plot_letters(ax, text, y[line, :, 0], p[line, :, 0])
        loss, error, accuracy = table.loc[name, ["loss", "2 SE", "accuracy"]]
        scores = f"log loss {loss:.3f} ± {error:.3f}".removesuffix(" ± nan")
        title = f"{name} {what}: {accuracy:.1%} of new letters right, {scores}"
        ax.set_title(title, loc="left")
    title = "Which letters begin a word? (black lines: these, orange bars: wrong)"
    figure.suptitle(title, size=15)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="UTF-8 text [Python's own help]")
    compare_models.add_options(parser, figure=Path(__file__).with_suffix(".png").name)
    args = parser.parse_args(argv)
    endings = plt.Figure().canvas.get_supported_filetypes()
    compare_models.check_options(parser, args, plot=endings)
    return parser, args


def main(argv=None):
    parser, args = parse_args(argv)
    text = "\n\n".join(topics.values())
    try:
        if args.text:
            text = args.text.read_text("utf-8")
    except OSError as error:
        parser.error(str(error))
    except UnicodeDecodeError:
        parser.error(f"{args.text} is not UTF-8: save it as UTF-8 in a text editor")
    letters, X, y = get_sequences(read_words(text))
    if len(X) < 50:
        parser.error(f"{args.text} has {50 * len(X)} letters, but needs 2,500")

    split, build = partial(get_parts, X, y), partial(get_model, len(letters))
    options = [args.updates, args.repeats, args.seed, args.csv]
    try:
        scores = compare_models.compare(split, build, list(MODELS), RATES, *options)
    except compare_models.StaleScores as error:
        parser.error(str(error))
    compare_models.report(scores, list(MODELS), pair=("BiLSTM", "two LSTMs"))
    costs = compare_models.time_updates(build, list(MODELS), RATES[0], split(0)[0])
    costs = ", ".join(f"{name} {ms:.1f}" for name, ms in costs.items())
    print(f"Milliseconds for an update with 16 sequences: {costs}", flush=True)

    print("Trains the two models of the figure again.", flush=True)
    table = compare_models.get_table(scores, list(MODELS))
    rates = table["rate"].str.rstrip("*")
    builders = {n: partial(build, n, float(rates[n])) for n in ["two LSTMs", "BiLSTM"]}
    runs = compare_models.train(builders, split, [args.seed], args.updates)
    seed, models = next(runs)
    figure = plt.figure(figsize=(13, 5), layout="constrained")
    plot_text(figure, table, models, letters, split(seed)[2])
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot)
    plt.show()
    return 130 if scores["seed"].nunique() < args.repeats else 0


if __name__ == "__main__":
    sys.exit(main())
