"""Trains an LSTM to label each timestep, and shows what it learned.

The label of a timestep is 1 once the cumulative sum of the values reaches a
threshold: a quarter of the sequence's length or, with "--threshold total", half
of its whole sum. You will see the loss during the training, and the labels
predicted for one new sequence. The accuracy and the log loss on 1,000 new
sequences follow, beside those of the best guess from the position alone (the
position baseline), and a figure shows it all. Ctrl-C ends the training early
and shows the results so far.

Example:
    python lstm_classify.py --epochs 2000 --save lstm.keras
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides some of TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sequence import get_limits, get_sequences, position_baseline


def get_lstm_model(
    n_timesteps, *, backwards=False, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled LSTM that predicts the probability of a 1 at each timestep.

    It maps `[samples, n_timesteps, n_features]` to `[samples, n_timesteps, 1]`; with
    n_timesteps=None it takes any length. Reading backwards, it returns the outputs in
    that order: the first belongs to the last timestep.
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


def plot_training(ax, losses, baseline):
    """Draws the loss of every epoch, their running mean and a baseline on Axes."""
    losses = pd.Series(losses)
    mean = losses.rolling(50, min_periods=1).mean()
    ax.plot(losses, ".", color="#56B4E9", alpha=0.6, ms=4, label="one epoch")
    ax.plot(mean, color="#0072B2", lw=2, label="mean of the last 50")
    ax.axhline(baseline, color="0.3", ls=":", label="position baseline")
    ax.set(title="Training", xlabel="epoch", ylabel="log loss (nats)", ylim=(0, None))
    ax.legend(markerscale=2)


def plot_sequence(upper, lower, X, y, yhat, limit):
    """Draws the values and their sum on one Axes, labels and predictions on another.

    X, y and the predicted probabilities yhat are `[n_timesteps]`. The labels flip where
    the sum reaches the limit.
    """
    timesteps = np.arange(1, len(X) + 1)
    wrong = (yhat > 0.5) != y
    upper.bar(timesteps, X, width=0.5, color="0.8", label="value")
    upper.plot(timesteps, X.cumsum(), ".:", color="#E69F00", label="cumulative sum")
    upper.axhline(limit, color="black", ls="--", lw=1, label="threshold")
    lower.bar(timesteps, wrong, width=1, color="#F5CFB8", label="wrong prediction")
    lower.step(timesteps, y, color="black", lw=2, where="mid", label="expected label")
    lower.plot(timesteps, yhat, ".-", color="#0072B2", label="predicted probability")
    lower.axhline(0.5, color="black", ls=":", lw=1, label="decision threshold")
    lower.set(xlabel="timestep", ylim=(-0.05, 1.05))
    for ax in (upper, lower):
        ax.set_xlim(0.5, len(X) + 0.5)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def parse_args(argv):
    """Reads the options, and refuses what would fail only after the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--threshold", choices=["length", "total"], default="length", help="see above")
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=1000, help="one new sequence each [%(default)s]")
    add("--learning-rate", type=float, default=0.001, help="of Adam [%(default)s]")
    add("--seed", type=int, default=1, help="of the weights and data [%(default)s]")
    add("--verbose", type=int, choices=[0, 1], default=1, help="0 prints no epochs")
    add("--save", type=Path, help="saves the trained model in this .keras file")
    figure = Path(__file__).with_suffix(".png").name
    add("--plot", type=Path, default=figure, help="figure to save [%(default)s]")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs) < 1:
        parser.error("--timesteps, --units and --epochs must be at least 1")
    if not 0 < args.learning_rate < np.inf:
        parser.error("--learning-rate must be above 0 and finite")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 2**32 - 1")
    figures = plt.Figure().canvas.get_supported_filetypes()
    endings = {args.plot: figures, args.save: ["keras"]}
    for path in filter(None, endings):
        if path.suffix[1:].lower() not in endings[path]:
            parser.error(f"{path} must end in one of: {', '.join(endings[path])}")
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            parser.error(f"cannot write {path}")
    return args


def main(argv=None):
    args = parse_args(argv)
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = get_lstm_model(
        args.timesteps, n_units=args.units, learning_rate=args.learning_rate
    )
    interrupted = threading.Event()

    def end_epoch(epoch, logs):
        if args.verbose and (epoch + 1) % max(100, args.epochs // 10) == 0:
            print(f"epoch {epoch + 1:,}: loss {logs['loss']:.3f}", flush=True)
        model.stop_training = interrupted.is_set()

    X, y = get_sequences(args.epochs, args.timesteps, rng, args.threshold)
    old_handler = signal.signal(signal.SIGINT, lambda *_: interrupted.set())  # Ctrl-C
    try:
        # Each epoch is one update with the next row of X, like the tutorial's loop, but
        # ten times as fast. With your own data: model.fit(X, y, epochs=10).
        history = model.fit(
            X,  # [epochs, timesteps, 1], as y
            y,
            batch_size=1,
            steps_per_epoch=1,
            epochs=args.epochs,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
        )
    finally:
        signal.signal(signal.SIGINT, old_handler)
    losses = history.history["loss"]

    X, y = get_sequences(1000, args.timesteps, rng, args.threshold)  # new sequences
    yhat = model.predict(X, batch_size=100, verbose=0)  # probabilities, shaped like y
    # The log loss of each sequence, [1000], and the number of the median one.
    new_losses = np.mean(keras.losses.binary_crossentropy(y, yhat), axis=1)
    typical = np.argsort(new_losses)[500]
    print("\nOf 1,000 new sequences, the one with the median log loss")
    for label, p in zip(y[typical], yhat[typical]):
        print("Expected:", label, "Predicted", (p > 0.5).astype(int))

    log_loss, accuracy = model.evaluate(X, y, verbose=0)
    baseline = position_baseline(args.timesteps, args.threshold)
    scores = {"LSTM": [accuracy, log_loss], "position baseline": baseline}
    scores = pd.DataFrame.from_dict(scores, "index", columns=["accuracy", "log loss"])
    setting = f"{args.timesteps} timesteps, threshold from {args.threshold}"
    setting += f", {args.units} units, learning rate {args.learning_rate:g}"
    setting += f", {len(losses):,} epochs"
    print(f"\nScores on the 1,000 new sequences\n{setting}")
    print(scores.to_string(float_format="%.3f"), flush=True)
    if args.save:
        model.save(args.save)
        print("Model saved as", args.save)

    figure = plt.figure(figsize=(12, 5.8), layout="constrained")
    axes = figure.subplot_mosaic([["training", "values"], ["training", "labels"]])
    title = f"LSTM: {accuracy:.1%} right, position alone: {baseline[0]:.1%}"
    figure.suptitle(f"{title}\n{setting}")
    plot_training(axes["training"], losses, baseline[1])
    one = X[typical, :, 0], y[typical, :, 0], yhat[typical, :, 0]  # [timesteps] each
    limit = get_limits(X, args.threshold)[typical, 0, 0]
    plot_sequence(axes["values"], axes["labels"], *one, limit)
    axes["values"].set_title("The new sequence with the median log loss")
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot)
    plt.show()
    return 130 if interrupted.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
