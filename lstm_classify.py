"""Trains an LSTM to label each timestep, and shows what it learned.

The labels of a sequence are 0 until the cumulative sum of its values reaches
a quarter of its length, then 1. You will see the loss of each epoch, the
labels predicted for a new sequence, the scores on 1,000 more beside those of
guessing from the position alone, and a figure of it all. Ctrl-C ends the
training early and shows what there is; a second one ends the script.

Example:
    python lstm_classify.py --epochs 2000 --plot lstm.png
"""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sequence import get_sequence, get_sequences, position_baseline


def get_lstm_model(n_timesteps, backwards=False, n_units=20, n_features=1):
    """Gives a compiled LSTM that predicts how likely each label is 1.

    It maps `[samples, n_timesteps, n_features]` to probabilities
    `[samples, n_timesteps, 1]`; n_timesteps=None stands for any length. If it reads
    backwards, its outputs keep that order: the first belongs to the last timestep.
    """
    model = keras.Sequential()
    model.add(keras.Input((n_timesteps, n_features)))
    # An output for each timestep, not only the last: [samples, n_timesteps, n_units].
    model.add(keras.layers.LSTM(n_units, return_sequences=True, go_backwards=backwards))
    # Dense has the same weights at every timestep, as in the tutorial's
    # TimeDistributed, which Keras 3 unrolls: slow to start for long sequences.
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def plot_training(ax, losses, baseline=None):
    """Draws the loss of every epoch, its running mean and, if there is one, a baseline.

    `ax` is a matplotlib `Axes`, the losses are in nats, one an epoch.
    """
    losses = pd.Series(np.asarray(losses), index=range(1, len(losses) + 1))
    running_mean = losses.rolling(50, min_periods=1).mean()
    ax.plot(losses, ".", color="#56B4E9", alpha=0.4, markersize=4, label="one epoch")
    ax.plot(running_mean, color="#0072B2", linewidth=2, label="mean of the last 50")
    if baseline is not None:
        ax.axhline(baseline, color="0.3", linestyle="--", label="position baseline")
    ax.set(title="Training: log loss of each new sequence", ylim=(0, None))
    ax.set(xlabel="epoch (a new sequence each)", ylabel="log loss (nats)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def plot_sequence(ax, X, y, yhat):
    """Draws a sequence, its labels and the predictions, with wrong timesteps shaded.

    The values X, the labels y and the predicted probabilities of label 1, yhat, are
    arrays `[n_timesteps]`. The threshold is this problem's: a quarter of the timesteps.
    """
    timesteps = np.arange(1, len(X) + 1)
    scale = len(X) / 2  # puts the cumulative sum's threshold at the probability 0.5
    total = np.cumsum(X) / scale
    top = 1.08 * max(1, X.max(), total.max())
    wrong = (yhat > 0.5) != y
    size = min(6, 300 / len(X))  # of the markers, smaller in a long sequence
    ax.bar(timesteps, X, color="0.85", label="value")
    ax.bar(timesteps, top * wrong, 1, color="#D55E00", alpha=0.3, label="wrong")
    ax.axhline(0.5, color="black", linestyle="--", linewidth=1, label="threshold")
    ax.plot(
        timesteps, total, "s:", c="#E69F00", ms=size, label="cumulative sum (right)"
    )
    ax.step(timesteps, y, "black", where="mid", linewidth=2, label="expected label")
    ax.plot(timesteps, yhat, "o-", c="#0072B2", ms=size, label="predicted probability")
    ax.set(title=f"A new sequence: {sum(~wrong)} of {len(X)} timesteps right")
    ax.set(xlabel="timestep", ylabel="value, label, probability", ylim=(-0.05, top))
    ax.xaxis.get_major_locator().set_params(integer=True)
    sums = ax.secondary_yaxis(
        "right", functions=(lambda p: p * scale, lambda s: s / scale)
    )
    sums.set_ylabel("cumulative sum")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def parse_args(argv):
    """Reads the options, and refuses what would fail only after the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--units", type=int, default=20, help="LSTM units a direction [%(default)s]")
    add("--epochs", type=int, default=1000, help="a new sequence each [%(default)s]")
    add("--seed", type=int, default=1, help="of weights and data [%(default)s]")
    verbose = "print 0 nothing, 1 a bar, 2 a line each epoch [%(default)s]"
    add("--verbose", type=int, choices=[0, 1, 2], default=2, help=verbose)
    add("--plot", metavar="FILE", help="save the figure, instead of showing it")
    args = parser.parse_args(argv)
    for option in ("timesteps", "units", "epochs"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} must be at least 1")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")

    try:
        figure = plt.figure()
    except ImportError:  # MPLBACKEND asks for windows where there are none.
        plt.switch_backend("agg")
        figure = plt.figure()
    plt.close(figure)
    if args.plot is None and not figure.canvas.required_interactive_framework:
        args.plot = f"{Path(__file__).stem}.png"
    if args.plot:
        endings = figure.canvas.get_supported_filetypes()
        if Path(args.plot).suffix[1:].lower() not in endings:
            parser.error(f"--plot must end in one of {', '.join(endings)}")
        is_new = not os.path.lexists(args.plot)
        try:
            open(args.plot, "ab").close()  # leaves what is in it
        except OSError as error:
            parser.error(f"cannot write {args.plot}: {error.strerror}")
        if is_new:
            Path(args.plot).unlink(missing_ok=True)
    return args


def main(argv=None):
    args = parse_args(argv)
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = get_lstm_model(args.timesteps, n_units=args.units)
    X, y = get_sequences(args.epochs, args.timesteps, rng)  # [epochs, timesteps, 1]

    def stop(signum, frame):
        model.stop_training = True
        signal.signal(signal.SIGINT, before)  # A second one does what it did before.

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
    scores = pd.DataFrame([(accuracy, log_loss), baseline])
    scores.index = ["LSTM", "position baseline"]
    scores.columns = pd.Index(["accuracy", "log loss"], name="1,000 new sequences")
    print(scores.to_string(float_format="%.3f"))

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
    scored = f"LSTM: {accuracy:.1%} of new timesteps right"
    figure.suptitle(f"{scored}; position alone: {baseline[0]:.1%}")
    plot_training(left, history.history["loss"], baseline[1])
    plot_sequence(right, X[0, :, 0], y[0, :, 0], yhat[0, :, 0])
    if args.plot:
        figure.savefig(args.plot, dpi=150)
        print("Figure saved as", args.plot)
    else:
        plt.show()
    return 130 if model.stop_training else 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # The reader of a pipe, say `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
