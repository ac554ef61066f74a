"""Trains a bidirectional LSTM to label each timestep, and shows what it learned.

The labels of a sequence are 0 until the cumulative sum of its values reaches
a quarter of its length, then 1. You will see the loss of each epoch, the
labels predicted for a new sequence, the scores on 1,000 more beside those of
guessing from the position alone, and a figure of it all.

Example:
    python bilstm_classify.py --epochs 2000 --plot bilstm.png
"""

import argparse
import contextlib
import functools
import io
import numbers
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":

    def quit_at_once(signum, frame):
        print("interrupted", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)

    # Set before the slow imports, and no KeyboardInterrupt: it can crash TensorFlow.
    signal.signal(signal.SIGINT, quit_at_once)

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sequence import get_sequence, get_sequences, position_baseline

try:
    import keras
except (ImportError, ValueError) as error:  # KERAS_BACKEND may name what is missing.
    if __name__ != "__main__":
        raise
    print(f"{Path(__file__).name}: error: Keras cannot start: {error}", file=sys.stderr)
    sys.exit(2)


def check_counts(**counts):
    """Raises an error that names an argument which is no whole number above 0."""
    for name, count in counts.items():
        message = f"{name} must be a whole number of at least 1, but was {count!r}"
        if not isinstance(count, numbers.Integral) or isinstance(count, bool):
            raise TypeError(message)
        if count < 1:
            raise ValueError(message)


def get_bi_lstm_model(n_timesteps, mode="concat", n_units=20, n_features=1):
    """Gives a compiled bidirectional LSTM that predicts how likely each label is 1.

    Args:
        n_timesteps: Length of a sequence.
        mode: How the outputs of the two directions are merged: "concat", "sum", "mul"
            or "ave".
        n_units: LSTM units in each direction.
        n_features: Values a timestep.

    Returns:
        A `keras.Sequential` from `[samples, n_timesteps, n_features]` to probabilities
        `[samples, n_timesteps, 1]`.

    Raises:
        TypeError: If a size is not a whole number.
        ValueError: If a size is below 1 or the mode is another.
    """
    check_counts(n_timesteps=n_timesteps, n_units=n_units, n_features=n_features)
    if mode not in ("concat", "sum", "mul", "ave"):
        raise ValueError(f"mode must be concat, sum, mul or ave, but was {mode!r}")
    lstm = keras.layers.LSTM(n_units, return_sequences=True)
    model = keras.Sequential(
        [
            keras.Input((n_timesteps, n_features)),
            # A copy of the LSTM reads backwards, its outputs are put in forward order
            # and merged: [samples, n_timesteps, n_units], for concat 2 * n_units.
            keras.layers.Bidirectional(lstm, merge_mode=mode),
            # Dense has the same weights at every timestep, as in the tutorial's
            # TimeDistributed, which Keras 3 unrolls: slow to start if there are many.
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def train_model(model, X, y, verbose=2):
    """Trains the model with one update a sequence, and a new sequence each epoch.

    Args:
        model: A compiled Keras model.
        X: float array `[n_epochs, n_timesteps, n_features]`.
        y: Labels, 0 or 1, `[n_epochs, n_timesteps, 1]`.
        verbose: 0 prints nothing, 1 a progress bar, 2 a line each epoch.

    Returns:
        Keras's `History`, with the loss and the metrics of each epoch. The model has
        not seen an epoch's sequence before, so they are held-out scores.

    Raises:
        ValueError: If X and y hold different numbers of sequences, or none.
    """
    if len(X) != len(y) or len(X) == 0:
        numbers_held = f"but held {len(X)} and {len(y)}"
        raise ValueError(f"X and y must hold equally many sequences, {numbers_held}")
    # One step of one sequence an epoch, in order, walks through all of X in a single
    # call. The tutorial calls fit for each sequence, which takes ten times as long.
    return model.fit(
        X,
        y,
        batch_size=1,
        steps_per_epoch=1,
        epochs=len(X),
        shuffle=False,
        verbose=verbose,
    )


@contextlib.contextmanager
def stop_at_ctrl_c(model):
    """Makes Ctrl-C end the training after this epoch, if one has ended before.

    Args:
        model: The Keras model that is trained in the `with` block.
    """
    before = signal.getsignal(signal.SIGINT)

    def stop(signum, frame):
        history = getattr(model, "history", None)  # Keras fills it as epochs end.
        if history is None or not history.history:
            before(signum, frame)
        model.stop_training = True

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def evaluate_model(model, X, y, name):
    """Gives the model's scores beside those of guessing from the position alone.

    Args:
        model: A compiled Keras model with the metric accuracy.
        X: float array `[samples, n_timesteps, 1]`.
        y: Labels, 0 or 1, of the same shape.
        name: What to call the model.

    Returns:
        DataFrame with the columns "accuracy" (share of the timesteps) and "log loss"
        (nats a timestep), and the rows `name` and "position baseline".
    """
    scores = model.evaluate(X, y, verbose=0, return_dict=True)
    return pd.DataFrame(
        [[scores["accuracy"], scores["loss"]], position_baseline(X.shape[1])],
        index=[name, "position baseline"],
        columns=["accuracy", "log loss"],
    ).rename_axis(columns=f"{len(X):,} new sequences")


def plot_training(ax, losses, baseline):
    """Draws the log loss of every epoch, its running mean and the position baseline.

    Args:
        ax: A matplotlib `Axes`.
        losses: Log loss of each epoch in nats, `[n_epochs]`.
        baseline: Log loss of the position baseline in nats.
    """
    losses = pd.Series(losses, index=range(1, len(losses) + 1))
    running_mean = losses.rolling(50, min_periods=1).mean()
    ax.plot(losses, ".", color="#56B4E9", alpha=0.4, markersize=4, label="one epoch")
    ax.plot(running_mean, color="#0072B2", linewidth=2, label="mean of the last 50")
    ax.axhline(baseline, color="0.3", linestyle="--", label="position baseline")
    ax.set(title="Training: log loss of each new sequence", ylim=(0, None))
    ax.set(xlabel="epoch (a new sequence each)", ylabel="log loss (nats)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def plot_sequence(ax, X, y, yhat):
    """Draws a sequence, its labels and the predictions, with wrong timesteps shaded.

    Args:
        ax: A matplotlib `Axes`.
        X: The values, `[n_timesteps]`.
        y: The expected labels, 0 or 1, `[n_timesteps]`.
        yhat: The predicted probabilities of label 1, `[n_timesteps]`.
    """
    timesteps = np.arange(1, len(X) + 1)
    # Scaled so that the threshold, a quarter of the length, meets the probability 0.5.
    scale = len(X) / 2
    total = np.cumsum(X) / scale
    top = 1.08 * max(1, total[-1])
    wrong = timesteps[(yhat > 0.5) != y]
    ax.bar(timesteps, X, width=0.8, color="0.85", label="value")
    ax.bar(wrong, top, width=1, color="#D55E00", alpha=0.3, label="wrong")
    ax.axhline(0.5, color="black", linestyle="--", linewidth=1, label="threshold")
    size = min(6, 300 / len(X))  # of the markers, smaller in a long sequence
    ax.plot(
        timesteps, total, "s:", c="#E69F00", ms=size, label="cumulative sum (right)"
    )
    ax.step(timesteps, y, "k", where="mid", linewidth=2, label="expected label")
    ax.plot(timesteps, yhat, "o-", c="#0072B2", ms=size, label="predicted probability")
    n_right = len(X) - len(wrong)
    ax.set(title=f"A new sequence: {n_right} of {len(X)} timesteps right")
    ax.set(xlabel="timestep", ylabel="value, label, probability", ylim=(-0.05, top))
    ax.xaxis.get_major_locator().set_params(integer=True)
    to_sum, from_sum = (lambda height: height * scale), (lambda total: total / scale)
    sum_axis = ax.secondary_yaxis("right", functions=(to_sum, from_sum))
    sum_axis.set_ylabel("cumulative sum")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def plot_classifier(history, scores, X, y, yhat):
    """Draws how a model was trained beside what it predicts for a new sequence.

    Args:
        history: What `train_model` gives.
        scores: What `evaluate_model` gives.
        X, y, yhat: Values, labels and predicted probabilities, `[n_timesteps, 1]`.

    Returns:
        A matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
    (name, trained), (_, guessed) = scores["accuracy"].items()
    figure.suptitle(
        f"{name}: {trained:.1%} of new timesteps right; position alone: {guessed:.1%}"
    )
    baseline = scores.loc["position baseline", "log loss"]
    plot_training(left, history.history["loss"], baseline)
    plot_sequence(right, X[:, 0], y[:, 0], yhat[:, 0])
    return figure


def whole_number(text, low=1, high=2**31 - 1):
    """Reads a whole number from low to high from the command line."""
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {low} to {high}, but was {text!r}"
        )
    return int(text)


def writable_file(text):
    """Reads a file's name from the command line, and tries now if it can be written."""
    try:
        try:
            open(text, "xb").close()
            os.remove(text)
        except FileExistsError:
            open(text, "ab").close()  # leaves what is in it
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"must be a file that can be written, but was {text!r}: {error.strerror}"
        )
    return text


def figure_file(text):
    """Reads the name of a writable file in a format that matplotlib can write."""
    figure = Figure()
    figure.text(0, 0, "Some formats need a program of their own for text.")
    try:
        figure.savefig(io.BytesIO(), format=Path(text).suffix[1:])
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"must end as a format matplotlib can write, but was {text!r}: {error}"
        )
    return writable_file(text)


def get_default_plot():
    """Gives None where matplotlib can open a window, elsewhere a PNG file's name."""
    try:
        canvas = plt.figure().canvas
        plt.close()
        if canvas.required_interactive_framework:
            return None
    except ImportError:  # MPLBACKEND asks for windows where there are none.
        plt.switch_backend("agg")
    return f"{Path(__file__).stem}.png"


def get_parser(epochs):
    """Gives the parser of the options that all four scripts have."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    seed = functools.partial(whole_number, low=0, high=2**32 - 1)
    add = functools.partial(parser.add_argument, metavar="N", type=whole_number)
    add("--timesteps", default=10, help="length of a sequence (default: %(default)s)")
    add("--units", default=20, help="LSTM units a direction (default: %(default)s)")
    add("--epochs", default=epochs, help="one new sequence each (default: %(default)s)")
    add(
        "--seed",
        type=seed,
        default=0,
        help="of weights and data (default: %(default)s)",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=figure_file,
        default=get_default_plot(),
        help="save the figure to FILE instead of showing it (without a display: "
        f"{Path(__file__).stem}.png)",
    )
    return parser


def show_or_save(figure, path):
    """Shows the figure in a window if path is None, else saves it to path."""
    if path is None:
        plt.show()
    else:
        figure.savefig(path, dpi=150)
        print(f"Figure saved as {path}")
    plt.close(figure)


def main(argv=None):
    parser = get_parser(epochs=1000)
    parser.add_argument(
        "--verbose",
        type=int,
        choices=[0, 1, 2],
        default=2,
        help="print 0 nothing, 1 a bar, 2 a line each epoch (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    backend = keras.config.backend()
    if backend not in ("tensorflow", "jax", "torch"):
        parser.error(f"KERAS_BACKEND must be one that trains, but was {backend}")

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = get_bi_lstm_model(args.timesteps, n_units=args.units)
    X, y = get_sequences(args.epochs, args.timesteps, rng)
    with stop_at_ctrl_c(model):
        history = train_model(model, X, y, args.verbose)

    X, y = get_sequence(args.timesteps, rng)
    yhat = model.predict(X, verbose=0)
    for expected, predicted in zip(y[0], (yhat[0] > 0.5).astype(int)):
        print("Expected:", expected, "Predicted", predicted)
    scores = evaluate_model(model, *get_sequences(1000, args.timesteps, rng), "BiLSTM")
    print(scores.to_string(float_format="%.3f"))

    show_or_save(plot_classifier(history, scores, X[0], y[0], yhat[0]), args.plot)
    return 0 if len(history.epoch) == args.epochs else 130


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `| head` ends this script quietly, as any tool.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
