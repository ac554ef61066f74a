"""Trains a bidirectional LSTM to label each timestep, and shows what it learned.

The labels of a sequence are 0 until the cumulative sum of its values reaches
a quarter of its length, then 1. You will see the loss of each epoch, the
labels predicted for a new sequence, the scores on 1,000 more beside those of
guessing from the position alone, and a figure of it all. Ctrl-C ends the
training early and shows what there is; a second one ends the script.

Example:
    python bilstm_classify.py --epochs 2000 --plot bilstm.png
"""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides most of TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sequence import get_sequence, get_sequences, position_baseline


def get_bi_lstm_model(n_timesteps, mode="concat", n_units=20, n_features=1):
    """Gives a compiled bidirectional LSTM that predicts how likely each label is 1.

    It maps `[samples, n_timesteps, n_features]` to probabilities
    `[samples, n_timesteps, 1]`; n_timesteps=None stands for any length. The mode is how
    the outputs of the two directions are merged: "concat", "sum", "mul" or "ave".
    """
    model = keras.Sequential()
    model.add(keras.Input((n_timesteps, n_features)))
    # A copy of the LSTM reads backwards, its outputs are put in forward order and
    # merged: [samples, n_timesteps, n_units], for concat 2 * n_units.
    lstm = keras.layers.LSTM(n_units, return_sequences=True)
    model.add(keras.layers.Bidirectional(lstm, merge_mode=mode))
    # Dense has the same weights at every timestep, without a TimeDistributed wrapper.
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def plot_training(ax, losses):
    """Draws the loss of every epoch, in nats, and its running mean, on matplotlib Axes."""
    losses = pd.Series(np.asarray(losses), index=range(1, len(losses) + 1))
    running_mean = losses.rolling(50, min_periods=1).mean()
    ax.plot(losses, ".", color="#56B4E9", alpha=0.4, markersize=4, label="one epoch")
    ax.plot(running_mean, color="#0072B2", linewidth=2, label="mean of the last 50")
    ax.set_title("Training: log loss of each new sequence")
    ax.set(xlabel="epoch (a new sequence each)", ylabel="log loss (nats)")


def plot_sequence(ax, X, y, yhat):
    """Draws a sequence, its labels and the predictions, with wrong timesteps shaded.

    The values X, the labels y and the predicted probabilities of label 1, yhat, are
    arrays `[n_timesteps]`. The threshold is this problem's: a quarter of the timesteps.
    """
    timesteps = np.arange(1, len(X) + 1)
    wrong = (yhat > 0.5) != y
    scale = len(X) / 2  # puts the cumulative sum's threshold at the probability 0.5
    total = f"cumulative sum / {scale:g}"
    size = min(6, 300 / len(X))  # of the markers, smaller in a long sequence
    ax.bar(timesteps, wrong, width=1, color="#F5CFB8", label="wrong")
    ax.bar(timesteps, X, color="0.8", label="value")
    ax.axhline(0.5, color="black", linestyle="--", linewidth=1, label="threshold")
    ax.plot(timesteps, X.cumsum() / scale, "s:", c="#E69F00", ms=size, label=total)
    ax.step(timesteps, y, "black", where="mid", linewidth=2, label="expected label")
    ax.plot(timesteps, yhat, "o-", c="#0072B2", ms=size, label="predicted probability")
    ax.set(title=f"A new sequence: {sum(~wrong)} of {len(X)} timesteps right")
    ax.set(xlabel="timestep", ylabel="value, label, probability", ylim=(-0.05, None))
    ax.xaxis.get_major_locator().set_params(integer=True)


def parse_args(argv):
    """Reads the options, and refuses bad ones before the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=1000, help="a new sequence each [%(default)s]")
    add("--seed", type=int, default=1, help="of weights and data [%(default)s]")
    verbose = "of each epoch print 0 nothing, 1 a bar, 2 a line [%(default)s]"
    add("--verbose", type=int, choices=[0, 1, 2], default=2, help=verbose)
    add("--plot", type=Path, help="save the figure in this file, instead of showing it")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs) < 1:
        parser.error("--timesteps, --units and --epochs must be at least 1")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")
    canvas = plt.figure().canvas
    plt.close()
    if not canvas.required_interactive_framework:  # There are no windows.
        args.plot = args.plot or Path(f"{Path(__file__).stem}.png")
    if args.plot:
        endings = canvas.get_supported_filetypes()
        if args.plot.suffix[1:].lower() not in endings:
            parser.error(f"--plot must end in one of {', '.join(endings)}")
        is_new = not os.path.lexists(args.plot)
        try:
            args.plot.open("ab").close()  # leaves what is in it
        except OSError as error:
            parser.error(f"cannot write {args.plot}: {error.strerror}")
        if is_new:
            args.plot.unlink()
    return args


def main(argv=None):
    args = parse_args(argv)
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = get_bi_lstm_model(args.timesteps, n_units=args.units)
    X, y = get_sequences(args.epochs, args.timesteps, rng)  # [epochs, timesteps, 1]

    def stop(signum, frame):
        model.stop_training = True
        signal.signal(signal.SIGINT, before)  # A second Ctrl-C is not caught.

    before = signal.signal(signal.SIGINT, stop)
    try:
        # One step of one sequence an epoch, in order, walks through all of X in a
        # single call. The tutorial's fit for each sequence takes ten times as long.
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
        signal.signal(signal.SIGINT, before)

    X, y = get_sequence(args.timesteps, rng)
    yhat = model.predict(X, verbose=0)  # probabilities of label 1, [1, timesteps, 1]
    for expected, predicted in zip(y[0], (yhat[0] > 0.5).astype(int)):
        print("Expected:", expected, "Predicted", predicted)

    new = get_sequences(1000, args.timesteps, rng)
    log_loss, accuracy = model.evaluate(*new, verbose=0)
    baseline = position_baseline(args.timesteps)
    scores = {"BiLSTM": (accuracy, log_loss), "position baseline": baseline}
    scores = pd.DataFrame(scores, index=["accuracy", "log loss"]).T
    print("\nOn 1,000 new sequences")
    print(scores.to_string(float_format="%.3f"), flush=True)

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
    scored = f"BiLSTM: {accuracy:.1%} of new timesteps right"
    figure.suptitle(f"{scored}; position alone: {baseline[0]:.1%}")
    plot_training(left, history.history["loss"])
    left.axhline(baseline[1], color="0.3", linestyle="--", label="position baseline")
    left.set_ylim(bottom=0)
    plot_sequence(right, X[0, :, 0], y[0, :, 0], yhat[0, :, 0])
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 3}
    left.legend(**below, frameon=False)
    right.legend(**below, frameon=False)
    if args.plot:
        figure.savefig(args.plot, dpi=150)
        print("Figure saved as", args.plot, flush=True)
    else:
        plt.show()
    return 130 if model.stop_training else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # The reader of a pipe, say `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
