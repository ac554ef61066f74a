"""Trains an LSTM to label each timestep, and shows what it learned.

The labels of a sequence are 0 until the cumulative sum of its values reaches
a quarter of its length, then 1. You will see the loss of each epoch, the
labels predicted for a typical new sequence, the scores on 1,000 of them, and a
figure of it all. Beside the scores stand those of its position part (its mean
prediction at each timestep, whatever the values) and of the best such guess,
the position baseline. Ctrl-C ends the training early and shows what there is.

Example:
    python lstm_classify.py --epochs 2000 --save lstm.keras
"""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides much of TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sequence import get_sequences, position_baseline


def get_lstm_model(
    n_timesteps, *, backwards=False, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled LSTM that predicts how likely each label is 1.

    It maps `[samples, n_timesteps, n_features]` to probabilities
    `[samples, n_timesteps, 1]`; n_timesteps=None stands for any length. If it reads
    backwards, its outputs keep that order: the first belongs to the last timestep. The
    mask of padded timesteps does not: it is then wrong.
    """
    model = keras.Sequential()
    model.add(keras.Input((n_timesteps, n_features)))
    # An output for each timestep, not only the last: [samples, n_timesteps, n_units].
    model.add(keras.layers.LSTM(n_units, return_sequences=True, go_backwards=backwards))
    # Dense has the same weights at every timestep, without a TimeDistributed wrapper.
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam, metrics=["accuracy"])
    return model


def get_scores(y, yhat):
    """Returns the accuracy and the log loss, in nats, of the probabilities yhat of label 1.

    The labels y, 0 or 1, and yhat are `[samples, n_timesteps, 1]`; every timestep counts,
    padded ones too.
    """
    accuracy = keras.ops.mean(keras.metrics.binary_accuracy(y, yhat))
    log_loss = keras.ops.mean(keras.losses.binary_crossentropy(y, yhat))
    return float(accuracy), float(log_loss)


def plot_training(ax, losses):
    """Draws the loss of every epoch and its running mean on matplotlib Axes."""
    losses = pd.Series(np.asarray(losses), index=range(1, len(losses) + 1))
    window = min(50, len(losses))
    running_mean = losses.rolling(window, min_periods=1).mean()
    ax.plot(losses, ".", color="#56B4E9", alpha=0.6, markersize=4, label="one epoch")
    ax.plot(running_mean, color="#0072B2", lw=2, label=f"mean of the last {window}")
    ax.set(xlabel="epoch", ylabel="loss")
    whole = plt.MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    ax.xaxis.set_major_locator(whole)
    ax.set_xlim(left=0.5)


def plot_sequence(ax, X, y, yhat):
    """Draws a sequence, its labels and the predictions, with wrong timesteps shaded.

    The values X, the labels y and the predicted probabilities of label 1, yhat, are
    NumPy arrays `[n_timesteps]`. The threshold is this problem's: a quarter of the timesteps.
    """
    timesteps = np.arange(1, len(X) + 1)
    edges = np.arange(len(X) + 1) + 0.5
    wrong = (yhat > 0.5) != y
    scale = len(X) / 2  # puts the cumulative sum's threshold at the probability 0.5
    total = f"cumulative sum / {scale:g}"
    size = min(6, 200 / len(X))  # of the markers, smaller in a long sequence
    ax.stairs(wrong, edges, fill=True, color="#F5CFB8", label="wrong prediction")
    ax.bar(timesteps, X, width=0.5, color="0.8", label="value")
    ax.axhline(0.5, c="black", ls="--", lw=1, label="the sum's threshold: labels flip")
    ax.plot(timesteps, X.cumsum() / scale, "s:", c="#E69F00", ms=size, label=total)
    ax.step(timesteps, y, "black", where="mid", lw=2, label="expected label")
    ax.plot(timesteps, yhat, "o-", c="#0072B2", ms=size, label="predicted probability")
    ax.set_title(f"A typical new sequence: {sum(~wrong)} of {len(X)} timesteps right")
    ax.set(xlabel="timestep", ylabel=f"value, label, probability, sum / {scale:g}")
    ax.use_sticky_edges = False  # keeps the markers at 0 off the edge
    ax.set_xticks(timesteps[:: math.ceil(len(X) / 10)])


def parse_args(argv):
    """Reads the options, and refuses bad ones before the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=1000, help="one new sequence each [%(default)s]")
    add("--learning-rate", type=float, default=0.001, help="step size [%(default)s]")
    add("--seed", type=int, default=1, help="seeds weights and data [%(default)s]")
    verbosity = "0 hides the epochs, 1 is a bar, 2 a line each [%(default)s]"
    add("--verbose", type=int, choices=[0, 1, 2], default=2, help=verbosity)
    add("--save", type=Path, help="saves the trained model in this .keras file")
    figure = Path(__file__).with_suffix(".png").name
    add("--plot", type=Path, default=figure, help="figure to save [%(default)s]")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs) < 1:
        parser.error("--timesteps, --units and --epochs must be at least 1")
    if not 0 < args.learning_rate < math.inf:
        parser.error("--learning-rate must be above 0 and finite")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")
    endings = plt.Figure().canvas.get_supported_filetypes()
    if args.plot.suffix[1:].lower() not in endings:
        parser.error(f"--plot must end in one of {', '.join(endings)}")
    if args.save and args.save.suffix != ".keras":
        parser.error("--save must end in .keras")
    for path in filter(None, [args.plot, args.save]):
        writable = os.access(path if os.path.exists(path) else path.parent, os.W_OK)
        if os.path.isdir(path) or not os.path.isdir(path.parent) or not writable:
            parser.error(f"cannot write {path}: not a file in a writable folder")
    return args


def main(argv=None):
    args = parse_args(argv)
    plt.close(plt.figure())  # A display that does not work fails before the training.
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = get_lstm_model(
        args.timesteps, n_units=args.units, learning_rate=args.learning_rate
    )

    def stop(signum, frame):
        model.stop_training = True

    X, y = get_sequences(args.epochs, args.timesteps, rng)  # [epochs, timesteps, 1]
    old_handler = signal.signal(signal.SIGINT, stop)  # of Ctrl-C
    try:
        # With one step of one sequence an epoch, each epoch takes the next row of X, so
        # that this is the tutorial's fit for each new sequence, ten times as fast. A
        # finite data set wants fit(X, y, epochs=..., batch_size=32) instead.
        history = model.fit(
            X,
            y,
            batch_size=1,
            steps_per_epoch=1,
            epochs=args.epochs,
            shuffle=False,
            verbose=args.verbose,
        )
    finally:
        signal.signal(signal.SIGINT, old_handler)
    losses = history.history["loss"]

    X_new, y_new = get_sequences(1000, args.timesteps, rng)  # [1000, timesteps, 1]
    yhat = model.predict(X_new, verbose=0)  # probabilities of label 1, of this shape
    new_losses = keras.ops.mean(keras.losses.binary_crossentropy(y_new, yhat), axis=1)
    typical = int(keras.ops.argsort(new_losses)[500])
    print("\nOf 1,000 new sequences, the one with the median log loss")
    for label, p in zip(y_new[typical], yhat[typical]):
        print("Expected:", label, "Predicted", (p > 0.5).astype(int))

    # What it knows of the position alone: its mean prediction at each timestep.
    of_position = np.broadcast_to(yhat.mean(axis=0), yhat.shape)
    guessed, guessed_loss = position_baseline(args.timesteps)
    scores = {
        "LSTM": get_scores(y_new, yhat),
        "its position part": get_scores(y_new, of_position),
        "position baseline": (guessed, guessed_loss),
    }
    scores = pd.DataFrame(scores, index=["accuracy", "log loss"]).T
    setting = f"after {len(losses):,} epochs at learning rate {args.learning_rate:g}"
    print(f"\nScores on the 1,000 new sequences, {setting}")
    print(scores.to_string(float_format="%.3f"), flush=True)
    if args.save:
        model.save(args.save)
        print("Model saved as", args.save, flush=True)

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.8), layout="constrained")
    title = f"LSTM: {scores.loc['LSTM', 'accuracy']:.1%} right {setting}"
    figure.suptitle(f"{title}; position alone: {guessed:.1%}")
    plot_training(left, losses)
    left.axhline(guessed_loss, color="0.3", linestyle=":", label="position baseline")
    left.set(title="Training: log loss of each new sequence", ylim=(0, None))
    left.set(xlabel="epoch (a new sequence each)", ylabel="log loss (nats)")
    plot_sequence(
        right, X_new[typical, :, 0], y_new[typical, :, 0], yhat[typical, :, 0]
    )
    left.legend(markerscale=2)
    right.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False
    )
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot, flush=True)
    if figure.canvas.required_interactive_framework:  # There are windows.
        plt.show()
    return 130 if model.stop_training else 0


if __name__ == "__main__":
    sys.exit(main())
