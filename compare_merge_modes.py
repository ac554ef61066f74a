"""Compares the ways to merge the two directions of a bidirectional LSTM.

Every model is trained many times, all on the same sequences. You will see its
mean log loss with a 95% interval, how far it is above the best model's, and a
figure of the learning curves, beside the loss of guessing from the position
alone. Ctrl-C ends the training after the repeat at hand, and reports.

Example:
    python compare_merge_modes.py --repeats 100 --csv merge_modes.csv
"""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # which train_model is written for
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides most of TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from sequence import get_sequences, position_baseline


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


def train_model(model, X, y):
    """Trains the model with one update a sequence, and gives the loss of each update.

    It is `fit` with a batch of one, in float32, to be compiled with `tf.function` after
    `model.optimizer.build(model.trainable_variables)`. X is `[n_epochs, n_timesteps,
    n_features]`, y is `[n_epochs, n_timesteps, 1]`, the losses are `[n_epochs]`.
    """

    def update(sequence):
        X, y = sequence  # [n_timesteps, n_features], [n_timesteps, 1]
        with tf.GradientTape() as tape:
            # Read the variables once an update. Left to itself, the LSTM reads its
            # weights at each timestep, and the gradient keeps as many copies of them.
            state = [(v, tf.convert_to_tensor(v)) for v in model.variables]
            with keras.StatelessScope(state, collect_losses=True) as scope:
                yhat = model(X[None], training=True)  # a batch of one sequence
                loss = model.compute_loss(y=y[None], y_pred=yhat)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        for variable in model.non_trainable_variables:  # BatchNormalization's, say
            variable.assign(scope.get_current_value(variable))
        return loss

    floatx = keras.config.floatx()  # the type of the losses
    return tf.map_fn(update, (X, y), parallel_iterations=1, fn_output_signature=floatx)


def train_repeats(models, get_data, seeds, jit=True):
    """Trains every model once a seed, and yields the losses of each seed when it ends.

    `models` are compiled models by name: all their weights are drawn anew for each seed.
    `get_data(seed)` gives X and y, drawn from that seed, as `train_model` takes them. The
    losses are DataFrames with the columns model, seed, epoch and loss. `jit` compiles
    with XLA, which refuses an LSTM on a GPU.
    """
    # Compiling takes a second or two a model, so the same models serve all seeds: each
    # time with new weights, and with their optimizers as they are at the beginning.
    train = tf.function(train_model, jit_compile=jit)
    bare, optimizers = {}, {}
    for name, model in models.items():
        bare[name] = keras.Model(model.inputs, model.outputs)  # is not compiled
        optimizers[name] = model.optimizer.from_config(model.optimizer.get_config())
        optimizers[name].build(model.trainable_variables)
        model.optimizer.build(model.trainable_variables)
    for seed in seeds:
        X, y = get_data(seed)
        losses = []
        for name, model in models.items():
            keras.utils.set_random_seed(seed)
            clone = keras.models.clone_model(bare[name])
            old = bare[name].variables + model.optimizer.variables
            new = clone.variables + optimizers[name].variables
            for variable, value in zip(old, new, strict=True):
                variable.assign(value)
            columns = {"model": name, "seed": seed, "epoch": range(1, len(X) + 1)}
            columns["loss"] = train(model, X, y).numpy()
            losses.append(pd.DataFrame(columns))
        yield pd.concat(losses, ignore_index=True)


def half_interval(repeats):
    """Gives half of the 95% interval of each column's mean, nan for a single row."""
    df = max(1, len(repeats) - 1)
    # NumPy has no quantiles of Student's t: draws give them within half a percent.
    t = np.quantile(abs(np.random.default_rng(0).standard_t(df, 200_000)), 0.95)
    return t * repeats.sem()


def summarize(results, n_last=50):
    """Gives each model's mean loss in the last epochs, and its distance from the best.

    `results` has the columns model, seed, epoch and loss; seeds that a model lacks are
    left out. The distance is taken seed by seed, which is sharper than comparing
    intervals. Raises ValueError if a loss is nan or infinite.
    """
    if not np.isfinite(results["loss"]).all():  # pandas would leave out nan.
        raise ValueError("a loss is nan or infinite: a training has diverged")
    last = results[results["epoch"] > results["epoch"].max() - n_last]
    loss = last.pivot_table("loss", index="seed", columns="model", sort=False)
    loss = loss.dropna().astype(float)
    above = loss.sub(loss[loss.mean().idxmin()], axis="index")
    columns = {
        "log loss": loss.mean(),
        "± 95%": half_interval(loss),
        "above the best": above.mean(),
        "± 95%, paired": half_interval(above),
    }
    return pd.DataFrame(columns).rename_axis(None)


def plot_results(ax, results, n_points=25):
    """Draws each model's loss against the epoch: the seeds' mean in its 95% interval.

    `results` has the columns model, seed, epoch and loss. Neighbouring epochs are
    averaged, to at most n_points. The raw losses of a single seed are drawn faintly.
    """
    # Colours that colour-blind readers can tell apart, and markers for prints in grey.
    colors = plt.style.library["seaborn-v0_8-colorblind"]["axes.prop_cycle"]
    ax.set_prop_cycle(colors + plt.cycler(marker="os^DvP"))
    width = math.ceil(results["epoch"].nunique() / n_points)
    middle = results.groupby((results["epoch"] - 1) // width)["epoch"].transform("mean")
    for name, losses in results.assign(middle=middle).groupby("model", sort=False):
        repeats = losses.pivot_table("loss", index="seed", columns="middle")
        mean, half = repeats.mean(), half_interval(repeats)
        [line] = ax.plot(mean, label=name)
        faint = {"color": line.get_color(), "alpha": 0.25}
        ax.fill_between(mean.index, mean - half, mean + half, **faint)
        if len(repeats) == 1:
            ax.plot(losses.set_index("epoch")["loss"].sort_index(), marker="", **faint)
    ax.set(xlabel="epoch", ylabel="log loss (nats)")


def parse_args(argv):
    """Reads the options, and refuses bad ones before the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=250, help="a new sequence each [%(default)s]")
    add("--repeats", type=int, default=30, help="trainings of a model [%(default)s]")
    add("--seed", type=int, default=1, help="the first repeat's [%(default)s]")
    add("--no-jit", action="store_true", help="train without XLA, often slower")
    add("--csv", type=Path, help="save every loss in this file, as each repeat ends")
    add("--plot", type=Path, help="save the figure in this file, instead of showing it")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs, args.repeats) < 1:
        parser.error("--timesteps, --units, --epochs and --repeats must be at least 1")
    if not 0 <= args.seed <= 2**32 - args.repeats:
        parser.error(f"--seed must be from 0 to {2**32 - args.repeats}")
    canvas = plt.figure().canvas
    plt.close()
    if not canvas.required_interactive_framework:  # There are no windows.
        args.plot = args.plot or Path(f"{Path(__file__).stem}.png")
    endings = canvas.get_supported_filetypes()
    if args.plot and args.plot.suffix[1:].lower() not in endings:
        parser.error(f"--plot must end in one of {', '.join(endings)}")
    if args.plot and args.csv and args.plot.resolve() == args.csv.resolve():
        parser.error("--plot and --csv must be two files")
    for path in filter(None, [args.plot, args.csv]):
        is_new = not os.path.lexists(path)
        try:
            path.open("ab").close()  # leaves what is in it
        except OSError as error:
            parser.error(f"cannot write {path}: {error.strerror}")
        if is_new:
            path.unlink()
    return args


def main(argv=None):
    args = parse_args(argv)
    # Keras's LSTM for GPUs cannot be compiled by XLA, and a CPU is faster for this size.
    tf.config.set_visible_devices([], "GPU")
    timesteps, units = args.timesteps, args.units
    models = {
        "bilstm_sum": get_bi_lstm_model(timesteps, mode="sum", n_units=units),
        "bilstm_mul": get_bi_lstm_model(timesteps, mode="mul", n_units=units),
        "bilstm_ave": get_bi_lstm_model(timesteps, mode="ave", n_units=units),
        "bilstm_con": get_bi_lstm_model(timesteps, mode="concat", n_units=units),
    }

    def get_data(seed):
        return get_sequences(args.epochs, timesteps, rng=seed)

    finished, stopped = [], False

    def stop(signum, frame):
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, before)  # A second Ctrl-C is not caught.

    seeds = range(args.seed, args.seed + args.repeats)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    total = args.repeats * len(models)
    progress = keras.utils.Progbar(total, verbose=bar, unit_name="training")
    before = signal.signal(signal.SIGINT, stop)
    try:
        for losses in train_repeats(models, get_data, seeds, jit=not args.no_jit):
            if args.csv:
                mode = "a" if finished else "w"
                losses.to_csv(args.csv, mode=mode, header=not finished, index=False)
            finished.append(losses)
            progress.add(len(models))
            if stopped:
                break
    finally:
        signal.signal(signal.SIGINT, before)

    results = pd.concat(finished)
    n_last = min(50, args.epochs)
    summary = summarize(results, n_last)
    loss = summary["log loss"]
    baseline = position_baseline(timesteps)[1]
    summary.loc["position baseline", "log loss"] = baseline
    repeats = f"repeats: {len(finished)}"
    print(f"\nMean of the last {n_last} of {args.epochs} epochs, {repeats}")
    print(summary.to_string(float_format="%.3f", na_rep=""), flush=True)

    figure, ax = plt.subplots(figsize=(10, 5.4), layout="constrained")
    plot_results(ax, results)
    ax.axhline(baseline, color="0.3", linestyle="--", label="position baseline")
    ax.set_ylim(bottom=0)
    ended = f"{loss.min():.3f}, position baseline {baseline:.3f}"
    ax.set_title(f"{loss.idxmin()} ends lowest: {ended}")
    legend = f"mean, 95% interval\n{repeats}"
    figure.legend(loc="outside right upper", title=legend, frameon=False)
    if args.plot:
        figure.savefig(args.plot, dpi=150)
        print("Figure saved as", args.plot, flush=True)
    else:
        plt.show()
    return 130 if stopped else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # The reader of a pipe, say `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
