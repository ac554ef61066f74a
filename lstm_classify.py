"""Trains an LSTM to label each timestep, and shows what it learned.

The labels of a sequence are 0 until the cumulative sum of its values reaches a
threshold, then 1: a quarter of its length or, with "--threshold total", half of
its own sum. You will see the loss of each epoch, the labels predicted for a
typical new sequence, the scores on 1,000 of them beside those of the best guess
that knows the position alone (the position baseline), and a figure of it all.
Ctrl-C ends the training early and shows what there is.

Example:
    python lstm_classify.py --epochs 2000 --save lstm.keras
"""

import argparse
import contextlib
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

    It maps `[samples, n_timesteps, n_features]` to `[samples, n_timesteps, 1]`, where
    n_timesteps=None stands for any length. If it reads backwards, its outputs keep that
    order: the first belongs to the last timestep.
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


def get_bar(n_epochs):
    """Returns a callback that draws one bar over all epochs, where `fit` draws one each.

    In a file it is a line at the end. The scores are those of the last epoch.
    """
    bar = keras.utils.Progbar(
        n_epochs,
        verbose=1 if sys.stdout.isatty() else 2,
        stateful_metrics=["accuracy", "loss"],
        unit_name="epoch",
    )
    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: bar.update(epoch + 1, [*logs.items()])
    )


@contextlib.contextmanager
def ctrl_c_stops(model):
    """Lets Ctrl-C inside end the `fit` after the batch at hand, and nothing else."""

    def stop(signum, frame):
        model.stop_training = True

    old_handler = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old_handler)


def plot_training(ax, losses, baseline):
    """Draws the loss of every epoch, their running mean and a baseline on Axes."""
    losses = pd.Series(list(losses), index=range(1, len(losses) + 1))
    window = min(50, len(losses))
    mean = losses.rolling(window, min_periods=1).mean()
    ax.plot(losses, ".", c="#56B4E9", alpha=0.6, ms=4, label="one epoch")
    ax.plot(mean, c="#0072B2", lw=2, label=f"mean of the last {window}")
    ax.axhline(baseline, c="0.3", ls=":", label="position baseline")
    ax.set(xlabel="epoch", ylabel="log loss (nats)", ylim=(0, None))
    ax.locator_params(axis="x", integer=True, min_n_ticks=1)
    ax.legend(markerscale=2)


def plot_sequence(upper, lower, X, y, yhat, limit):
    """Draws values and their sum on the upper Axes, labels and predictions on the lower.

    X, y and the probabilities yhat of label 1 are NumPy arrays `[n_timesteps]`. The limit
    is the sum at which the labels flip.
    """
    timesteps = np.arange(1, len(X) + 1)
    wrong = (yhat > 0.5) != y
    upper.bar(timesteps, X, width=0.5, color="0.8", label="value")
    upper.plot(timesteps, X.cumsum(), ".:", c="#E69F00", label="sum so far")
    upper.axhline(limit, c="black", ls="--", lw=1, label="threshold")
    lower.bar(timesteps, wrong, width=1, color="#F5CFB8", label="wrong prediction")
    lower.step(timesteps, y, c="black", lw=2, where="mid", label="expected label")
    lower.plot(timesteps, yhat, ".-", c="#0072B2", label="probability of 1")
    lower.axhline(0.5, c="black", ls=":", lw=1, label="predicts 1 above")
    lower.set(xlabel="timestep", ylim=(-0.05, 1.05))
    for ax in (upper, lower):
        ax.set_xlim(0.5, len(X) + 0.5)
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def parse_args(argv):
    """Reads the options, and refuses bad ones before the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    flip = "labels flip at 1/4 of the length or 1/2 of the total [%(default)s]"
    add("--threshold", choices=["length", "total"], default="length", help=flip)
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=1000, help="one new sequence each [%(default)s]")
    add("--learning-rate", type=float, default=0.001, help="step size [%(default)s]")
    add("--seed", type=int, default=1, help="seeds weights and data [%(default)s]")
    verbosity = "0 hides the epochs, 1 is a bar, 2 a line each [%(default)s]"
    add("--verbose", type=int, choices=[0, 1, 2], default=1, help=verbosity)
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
        if os.path.isdir(path) or not os.access(path.parent, os.W_OK | os.X_OK):
            parser.error(f"cannot write {path}: not a file in a writable folder")
    return args


def main(argv=None):
    args = parse_args(argv)
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = get_lstm_model(
        args.timesteps, n_units=args.units, learning_rate=args.learning_rate
    )

    X, y = get_sequences(args.epochs, args.timesteps, rng, args.threshold)
    with ctrl_c_stops(model):  # A second Ctrl-C does not end the report either.
        # With one step of one sequence an epoch, each epoch takes the next row of X, so
        # that this is the tutorial's fit for each new sequence, ten times as fast. A
        # finite data set wants fit(X, y, epochs=..., batch_size=32) instead.
        history = model.fit(
            X,  # [epochs, timesteps, 1], as y
            y,
            batch_size=1,
            steps_per_epoch=1,
            epochs=args.epochs,
            shuffle=False,
            verbose=2 if args.verbose == 2 else 0,
            callbacks=[get_bar(args.epochs)] if args.verbose == 1 else [],
        )
        losses = history.history["loss"]

        X, y = get_sequences(1000, args.timesteps, rng, args.threshold)  # new sequences
        yhat = model.predict(X, batch_size=100, verbose=0)  # probabilities of 1, as y
        # The mean over the timesteps of each sequence, [1000], and the one in the middle.
        new_losses = keras.ops.mean(keras.losses.binary_crossentropy(y, yhat), axis=1)
        typical = int(keras.ops.argsort(new_losses)[500])
        print("\nOf 1,000 new sequences, the one with the median log loss")
        for label, p in zip(y[typical], yhat[typical]):
            print("Expected:", label, "Predicted", (p > 0.5).astype(int))

        log_loss, accuracy = model.evaluate(X, y, verbose=0)
        guessed, guessed_loss = position_baseline(args.timesteps, args.threshold)
        scores = pd.DataFrame(columns=["accuracy", "log loss"], dtype=float)
        scores.loc["LSTM"] = accuracy, log_loss
        scores.loc["position baseline"] = guessed, guessed_loss
        setting = (
            f"{args.timesteps} timesteps, threshold {args.threshold}, {args.units} units, "
            f"learning rate {args.learning_rate:g}, {len(losses):,} epochs"
        )
        print(f"\nScores on the 1,000 new sequences\n{setting}")
        print(scores.to_string(float_format="%.3f"), flush=True)
        if args.save:
            model.save(args.save)
            print("Model saved as", args.save, flush=True)

        figure = plt.figure(figsize=(12, 5.8), layout="constrained")
        left, upper, lower = figure.subplot_mosaic("LU;LD").values()
        title = f"LSTM: {accuracy:.1%} right, position alone: {guessed:.1%}"
        figure.suptitle(f"{title}\n{setting}")
        plot_training(left, losses, guessed_loss)
        left.set_title("Training: a new sequence each epoch")
        x = X[typical, :, 0]
        limit = {"length": len(x) / 4, "total": x.sum() / 2}[args.threshold]
        plot_sequence(upper, lower, x, y[typical, :, 0], yhat[typical, :, 0], limit)
        upper.set_title("The new sequence with the median log loss")
        figure.savefig(args.plot, dpi=150)
        print("Figure saved as", args.plot, flush=True)
    plt.show()
    return 130 if len(losses) < args.epochs else 0


if __name__ == "__main__":
    sys.exit(main())
