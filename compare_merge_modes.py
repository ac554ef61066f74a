"""Compares the ways to merge the two directions of a bidirectional LSTM.

Every model is trained many times, all on the same sequences. You will see its
mean log loss with a 95% interval, how far it is above the best model's, and a
figure of the learning curves.

Example:
    python compare_merge_modes.py --repeats 100 --csv merge_modes.csv
"""

import argparse
import functools
import io
import math
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

from sequence import get_sequences, position_baseline

try:
    import keras
    import tensorflow as tf
except (ImportError, ValueError) as error:  # KERAS_BACKEND may name what is missing.
    if __name__ != "__main__":
        raise
    needs = "this script needs Keras with TensorFlow's backend"
    print(f"{Path(__file__).name}: error: {needs}: {error}", file=sys.stderr)
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


def train_model(model, X, y):
    """Trains the model with one update a sequence, and gives the loss of each update.

    It does what `fit` does with a batch of one, and no more than that: compiled, as
    `tf.function(train_model, jit_compile=True)`, it takes a hundredth of the time.

    Args:
        model: A compiled Keras model. Where one `tf.function` is to train several, call
            `model.optimizer.build(model.trainable_weights)` on each before.
        X: float array `[n_epochs, n_timesteps, n_features]`, a sequence an epoch.
        y: Labels, 0 or 1, `[n_epochs, n_timesteps, 1]`.

    Returns:
        float32 tensor `[n_epochs]`: each sequence's loss, in nats, before its update.
        The model has never seen that sequence, so this is an honest held-out loss.

    Raises:
        ValueError: If X and y hold different numbers of sequences, or none.
    """
    if len(X) != len(y) or len(X) == 0:
        numbers_held = f"but held {len(X)} and {len(y)}"
        raise ValueError(f"X and y must hold equally many sequences, {numbers_held}")
    losses = tf.TensorArray(tf.float32, size=len(X))
    for i in tf.range(len(X)):
        with tf.GradientTape() as tape:
            # X[i][None] is a batch of one sequence, [1, n_timesteps, n_features]. The
            # slice X[i : i + 1] is so too, but XLA cannot see that its length is 1,
            # and becomes far slower.
            yhat = model(X[i][None], training=True)
            loss = model.compute_loss(y=y[i][None], y_pred=yhat)
        gradients = tape.gradient(loss, model.trainable_weights)
        model.optimizer.apply(gradients, model.trainable_weights)
        losses = losses.write(i, loss)
    return losses.stack()


def restart(model, weights, optimizer_state):
    """Sets a model back to where a training starts.

    Args:
        model: A compiled Keras model.
        weights: List of arrays, what `get_weights` of a new model of its kind gives.
        optimizer_state: List of arrays, the values that the `optimizer.variables` of
            the model had once built: its learning rate, step and running averages.
    """
    model.set_weights(weights)
    for variable, value in zip(model.optimizer.variables, optimizer_state):
        variable.assign(value)


def until_ctrl_c(seeds):
    """Gives the seeds one by one, and no further one after Ctrl-C.

    While the first is in use, Ctrl-C does what it did before: nothing is to be kept.

    Args:
        seeds: Iterable of ints.
    """
    before, stopped = signal.getsignal(signal.SIGINT), []
    try:
        for i, seed in enumerate(seeds):
            if stopped:
                return
            if i == 1:
                signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
            yield seed
    finally:
        signal.signal(signal.SIGINT, before)


def train_repeats(builders, n_epochs, n_timesteps, seeds, jit=True):
    """Trains every model once a seed, all models on the same sequences.

    Ctrl-C ends it early, with the seeds that all models have been trained with.

    Args:
        builders: Dict from a model's name to a function without arguments that gives
            the model, compiled and with new random weights.
        n_epochs: Sequences to train on, one an epoch.
        n_timesteps: Length of a sequence.
        seeds: Sequence of ints, each of which seeds weights and sequences.
        jit: Whether XLA compiles the training.

    Returns:
        DataFrame of losses in nats, a column a model, indexed by "seed" and "epoch".
    """
    # XLA takes a second or two for each new model: the same ones serve all seeds.
    train = tf.function(train_model, jit_compile=jit)
    models = {name: build() for name, build in builders.items()}
    optimizer_states = {}
    for name, model in models.items():
        model.optimizer.build(model.trainable_weights)
        optimizer_states[name] = [value.numpy() for value in model.optimizer.variables]
    epochs = pd.RangeIndex(1, n_epochs + 1)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, Progbar's last line is enough.
    progress = keras.utils.Progbar(len(seeds), verbose=bar)
    results = {}
    for seed in until_ctrl_c(seeds):
        X, y = get_sequences(n_epochs, n_timesteps, rng=seed)
        losses = {}
        for name, build in builders.items():
            progress.unit_name = f"repeat, now {name}"
            progress.update(len(results) + len(losses) / len(builders))
            keras.utils.set_random_seed(seed)
            restart(models[name], build().get_weights(), optimizer_states[name])
            losses[name] = train(models[name], X, y).numpy()
        results[seed] = pd.DataFrame(losses, index=epochs)
    progress.unit_name = "repeat"
    progress.update(len(results), finalize=True)
    return pd.concat(results, names=["seed", "epoch"])


def get_t_quantile(n_repeats):
    """Gives the factor from a standard error to half of a 95% interval.

    It is the 97.5% quantile of Student's t distribution with n_repeats - 1 degrees of
    freedom, whose two tails beyond t hold the regularized incomplete beta function
    I_x(df / 2, 1 / 2) at x = df / (df + t**2) (Abramowitz & Stegun 1964, 26.7.1).

    Args:
        n_repeats: Number of values that the mean is of.

    Returns:
        float, nan for a single value.
    """
    df = n_repeats - 1
    if df < 1:
        return math.nan
    t = np.linspace(1.9, 12.8, 10_001)
    tails = tf.math.betainc(df / 2, np.float64(0.5), df / (df + t**2)).numpy()
    return float(np.interp(-0.05, -tails, t))


def summarize(results, n_last=50):
    """Gives each model's mean loss in the last epochs, and how far it is from the best.

    Args:
        results: DataFrame of losses, a column a model, indexed by "seed" and "epoch".
        n_last: Number of epochs to average over.

    Returns:
        DataFrame with a row a model. "loss", "loss low" and "loss high" are the mean
        over the seeds and the ends of its 95% interval (nan for a single seed);
        "above", "above low" and "above high" are those of the difference, seed by seed,
        from the model with the lowest mean.
    """
    last = results.astype("float64").groupby("seed").tail(n_last)
    last = last.groupby("seed").mean()  # a row a seed, a column a model
    above = last.sub(last[last.mean().idxmin()], axis="index")
    summary = pd.DataFrame(index=results.columns)
    for name, repeats in {"loss": last, "above": above}.items():
        half = get_t_quantile(len(repeats)) * repeats.sem()
        summary[name] = repeats.mean()
        summary[f"{name} low"] = repeats.mean() - half
        summary[f"{name} high"] = repeats.mean() + half
    return summary


def print_summary(results, baseline, n_last=50):
    """Prints the summary of the results, and below it the position baseline.

    Args:
        results: DataFrame of losses, a column a model, indexed by "seed" and "epoch".
        baseline: Log loss of the position baseline in nats.
        n_last: Number of epochs to average over.
    """
    n_repeats, n_epochs = (len(level) for level in results.index.levels)
    summary = summarize(results, n_last)
    cells = {}
    for name in ("loss", "above"):
        columns = summary[[name, f"{name} low", f"{name} high"]]
        cell = "{:.3f} ({:.3f} to {:.3f})" if n_repeats > 1 else "{:.3f} (no interval)"
        cells[name] = [cell.format(*row) for row in columns.to_numpy()]
    table = pd.DataFrame(cells, index=summary.index)
    table.loc[summary["loss"].idxmin(), "above"] = "the best"
    table.loc["position baseline"] = [f"{baseline:.3f}", ""]
    table.columns = ["log loss (95% interval)", "above the best (paired)"]
    n_last = min(n_last, n_epochs)
    repeats = f"{n_repeats} repeats" if n_repeats > 1 else "one repeat"
    print(f"Mean of the last {n_last} of {n_epochs} epochs, {repeats}")
    print(table.to_string())


def average_epochs(results, n_points=250):
    """Gives the means of neighbouring epochs, so that a long training stays readable.

    Args:
        results: DataFrame of losses, a column a model, indexed by "seed" and "epoch".
        n_points: Number of epochs up to which nothing is averaged.

    Returns:
        DataFrame like results, of at most n_points a seed, each at its middle epoch.
    """
    epoch = results.index.get_level_values("epoch")
    width = math.ceil(epoch.max() / n_points)
    middle = (epoch - 1) // width * width + (width + 1) / 2
    return results.groupby(["seed", middle.rename("epoch")]).mean()


def get_style(name):
    """Gives a model's colour and marker, the same in every figure.

    The colours are those that colour-blind readers can tell apart (Okabe & Ito 2008).

    Args:
        name: Name of the model.

    Returns:
        Dict of keyword arguments for `Axes.plot`. A model of another name gets the
        next of matplotlib's colours.
    """
    color, marker = {
        "lstm_forw": ("#0072B2", "o"),
        "lstm_back": ("#E69F00", "s"),
        "lstm_back_aligned": ("#000000", "D"),
        "bilstm_con": ("#009E73", "^"),
        "bilstm_sum": ("#56B4E9", "v"),
        "bilstm_ave": ("#CC79A7", "P"),
        "bilstm_mul": ("#D55E00", "X"),
    }.get(name, (None, "."))
    return {"color": color, "marker": marker}


def plot_results(results, baseline):
    """Draws each model's loss against the epoch: the seeds' mean in its 95% band.

    Args:
        results: DataFrame of losses, a column a model, indexed by "seed" and "epoch".
        baseline: Log loss of the position baseline in nats.

    Returns:
        A matplotlib `Figure`.
    """
    points = average_epochs(results.astype("float64")).groupby("epoch")
    mean, n_repeats = points.mean(), points.size().max()
    half = get_t_quantile(n_repeats) * points.sem()
    figure, ax = plt.subplots(figsize=(10, 5.4), layout="constrained")
    for i, name in enumerate(results):
        every = max(1, len(mean) // 10)
        some = slice(i * every // len(results.columns), None, every)
        [line] = ax.plot(mean[name], **get_style(name), markevery=some, label=name)
        low, high, color = mean - half, mean + half, line.get_color()
        ax.fill_between(
            mean.index, low[name], high[name], color=color, alpha=0.25, lw=0
        )
    ax.axhline(baseline, color="0.3", linestyle="--", label="position baseline")
    loss, n_epochs = summarize(results)["loss"], len(results.index.levels[1])
    last = f"{loss.min():.3f} in the last {min(50, n_epochs)} epochs"
    ax.set(title=f"{loss.idxmin()} ends lowest: {last}", ylim=(0, None))
    ax.set(xlabel="epoch (a new sequence each)", ylabel="log loss (nats)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    of = f"mean of {n_repeats} repeats\nand its 95% interval"
    of = of if n_repeats > 1 else "one repeat"
    if n_epochs > len(mean):
        of += f"\n({n_epochs} epochs in {len(mean)} means)"
    figure.legend(loc="outside right upper", title=of, frameon=False)
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


def get_comparison_args(parser, argv):
    """Gives the options of a comparison, those of the parser among them."""
    add = functools.partial(parser.add_argument, metavar="N", type=whole_number)
    add("--repeats", default=30, help="times to train a model (default: %(default)s)")
    add("--csv", metavar="FILE", type=writable_file, help="save every loss to FILE")
    parser.add_argument(
        "--no-jit", action="store_true", help="train without XLA, slower"
    )
    args = parser.parse_args(argv)
    last = args.seed + args.repeats - 1
    if last >= 2**32:
        parser.error(f"--seed + --repeats - 1 must be below {2**32}, but was {last}")
    backend = keras.config.backend()
    if backend != "tensorflow":
        parser.error(
            f"this script needs KERAS_BACKEND=tensorflow, but it was {backend}"
        )
    return args


def report(results, args):
    """Prints the summary, saves the losses and shows or saves the figure.

    Returns:
        The exit code: 130 if Ctrl-C has left repeats out.
    """
    baseline = position_baseline(args.timesteps)[1]
    print_summary(results, baseline)
    if args.csv:
        losses = results.melt(var_name="model", value_name="loss", ignore_index=False)
        losses = losses.reset_index()[["model", "seed", "epoch", "loss"]]
        losses.to_csv(args.csv, index=False)
        print(f"Losses saved as {args.csv}")
    show_or_save(plot_results(results, baseline), args.plot)
    n_repeats = len(results.index.levels[0])
    return 0 if n_repeats == args.repeats else 130


def main(argv=None):
    args = get_comparison_args(get_parser(epochs=250), argv)
    # On a GPU Keras takes the cuDNN LSTM, which XLA cannot compile, and networks this
    # small are faster on the CPU.
    tf.config.set_visible_devices([], "GPU")
    timesteps, units = args.timesteps, args.units
    builders = {
        "bilstm_sum": lambda: get_bi_lstm_model(timesteps, "sum", units),
        "bilstm_mul": lambda: get_bi_lstm_model(timesteps, "mul", units),
        "bilstm_ave": lambda: get_bi_lstm_model(timesteps, "ave", units),
        "bilstm_con": lambda: get_bi_lstm_model(timesteps, "concat", units),
    }
    seeds = range(args.seed, args.seed + args.repeats)
    results = train_repeats(builders, args.epochs, timesteps, seeds, not args.no_jit)
    return report(results, args)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `| head` ends this script quietly, as any tool.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
