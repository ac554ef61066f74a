"""Compares the ways to merge the two directions of a bidirectional LSTM.

Every model is trained many times, all on the same sequences. You will see its
mean log loss with a 95% interval, how far it is above the best model's, and a
figure of the learning curves. Ctrl-C ends the training after the repeat at
hand, and shows what there is.

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
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's log

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
    # Dense has the same weights at every timestep, as in the tutorial's
    # TimeDistributed, which Keras 3 unrolls: slow to start for long sequences.
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def train_model(model, X, y):
    """Trains the model with one update a sequence, and gives the loss of each update.

    It does what `fit` does with a batch of one, compiled as
    `tf.function(train_model, jit_compile=True)`; if that is to train several models,
    build their optimizers first. X is `[n_epochs, n_timesteps, n_features]`, y
    `[n_epochs, n_timesteps, 1]`, the losses are `[n_epochs]`. Each is taken before the
    update, so it is a held-out loss as long as no sequence comes twice. Raises
    ValueError if X and y differ in length.
    """
    if len(X) != len(y):  # XLA would go on with the last label.
        raise ValueError(f"X and y must be of equal length, not {len(X)} and {len(y)}")
    losses = tf.TensorArray(keras.config.floatx(), size=len(X))
    for i in tf.range(len(X)):
        with tf.GradientTape() as tape:
            # Reads the variables once an update. Left to itself, the LSTM reads its
            # weights at each timestep, and the gradient keeps as many copies of them.
            values = [tf.convert_to_tensor(variable) for variable in model.variables]
            state = zip(model.variables, values)
            with keras.StatelessScope(state, collect_losses=True) as scope:
                # X[i][None] is a batch of one sequence, [1, n_timesteps, n_features].
                # The slice X[i : i + 1] is so too, but XLA cannot see that its length
                # is 1, and becomes far slower.
                yhat = model(X[i][None], training=True)
                loss = model.compute_loss(y=y[i][None], y_pred=yhat)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        for variable in model.non_trainable_variables:  # BatchNormalization's, say
            variable.assign(scope.get_current_value(variable))
        losses = losses.write(i, loss)
    return losses.stack()


def draw_weights(model):
    """Gives new random weights for a model, in the order of its variables.

    They are those of `keras.models.clone_model`, which would compile its copy, too.
    """
    variables = []
    for layer in model.layers:
        new = layer.from_config(layer.get_config())
        new.build_from_config(layer.get_build_config())
        variables += new.variables
    return variables


def train_repeats(models, get_data, seeds, jit=True):
    """Trains every model once a seed, and yields the losses of each seed when it ends.

    `models` are compiled models by name, and `get_data(seed)` gives the X and y of
    `train_model`, the same for all models. The losses are DataFrames with the columns
    model, seed, epoch and loss. `jit` compiles with XLA, which fails for an LSTM on a
    GPU: call `tf.config.set_visible_devices([], "GPU")` before.
    """
    # Compiling takes a second or two a model, so the same models serve all seeds: each
    # time with new weights, and with their optimizers as they are at the beginning.
    train = tf.function(train_model, jit_compile=jit)
    optimizers = {}
    for name, model in models.items():
        optimizers[name] = model.optimizer.from_config(model.optimizer.get_config())
        optimizers[name].build(model.trainable_variables)
        model.optimizer.build(model.trainable_variables)
    for seed in seeds:
        X, y = get_data(seed)
        losses = []
        for name, model in models.items():
            keras.utils.set_random_seed(seed)
            old = model.variables + model.optimizer.variables
            new = draw_weights(model) + optimizers[name].variables
            for variable, value in zip(old, new, strict=True):
                variable.assign(value)
            loss = train(model, X, y).numpy()
            epoch = range(1, len(loss) + 1)
            columns = {"model": name, "seed": seed, "epoch": epoch, "loss": loss}
            losses.append(pd.DataFrame(columns))
        yield pd.concat(losses, ignore_index=True)


def half_interval(repeats):
    """Gives half of the 95% interval of each column's mean, nan for a single row.

    It is the standard error times the 97.5% quantile of Student's t distribution. The
    columns must hold no nan.
    """
    df = len(repeats) - 1
    # With t = sqrt(df) * tan(angle), the density of t is that of cos(angle)**(df - 1).
    step = np.pi / 200_000
    angle = step * (np.arange(100_000) + 0.5)
    mass = np.cumsum(np.cos(angle) ** (df - 1))  # of |t| up to angle + step / 2
    t = np.sqrt(df) * np.tan(np.interp(0.95 * mass[-1], mass, angle + step / 2))
    return t * repeats.sem()


def summarize(results, n_last=50):
    """Gives each model's mean loss in the last epochs, and its distance from the best.

    `results` has the columns model, seed, epoch and loss. The means are over the seeds
    that all models have, with half of their 95% intervals. The distance is taken seed
    by seed, which is sharper than comparing the intervals of the losses. Raises
    ValueError if a loss is nan.
    """
    if results["loss"].isna().any():  # pandas would leave it out.
        raise ValueError("the losses hold nan: a training has diverged")
    last = results[results["epoch"] > results["epoch"].max() - n_last]
    loss = last.pivot_table("loss", index="seed", columns="model", sort=False)
    loss = loss.dropna().astype("float64")
    above = loss.sub(loss[loss.mean().idxmin()], axis="index")
    tables = {
        name: pd.DataFrame({"mean": repeats.mean(), "± 95%": half_interval(repeats)})
        for name, repeats in [("log loss", loss), ("above the best, paired", above)]
    }
    return pd.concat(tables, axis="columns").rename_axis(index=None)


def plot_results(ax, results, baseline=None, n_points=25):
    """Draws each model's loss against the epoch: the seeds' mean in its 95% interval.

    `ax` is a matplotlib `Axes`, which gets no legend yet; `results` has the columns
    model, seed, epoch and loss. Neighbouring epochs are averaged, to at most n_points.
    A single seed has no interval: its raw losses are drawn, faintly.
    """
    # Colours that colour-blind readers can tell apart, and markers for those without.
    colors = plt.style.library["seaborn-v0_8-colorblind"]["axes.prop_cycle"]
    ax.set_prop_cycle(colors + plt.cycler(marker="os^DvP"))
    width = math.ceil(results["epoch"].max() / n_points)
    middle = results.groupby((results["epoch"] - 1) // width)["epoch"].transform("mean")
    models = results.assign(middle=middle).groupby("model", sort=False)
    for i, (name, losses) in enumerate(models):
        repeats = losses.pivot_table("loss", index="seed", columns="middle")
        mean, half = repeats.mean(), half_interval(repeats)
        some = (i % len(mean), len(models))  # in turn, so that no bar hides another
        bars = {"errorevery": some, "markevery": some, "capsize": 3}
        line, *_ = ax.errorbar(mean.index, mean, half, **bars, label=name)
        faint = {"color": line.get_color(), "alpha": 0.25}
        ax.fill_between(mean.index, mean - half, mean + half, **faint)
        if len(repeats) == 1:
            raw = losses.sort_values("epoch")
            ax.plot(raw["epoch"], raw["loss"], marker="", **faint)
    if baseline is not None:
        ax.axhline(baseline, color="0.3", linestyle="--", label="position baseline")
    ax.set(xlabel="epoch (a new sequence each)", ylabel="log loss (nats)")
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)


def parse_args(argv):
    """Reads the options, and refuses what would fail only after the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--units", type=int, default=20, help="LSTM units a direction [%(default)s]")
    add("--epochs", type=int, default=250, help="a new sequence each [%(default)s]")
    add("--repeats", type=int, default=30, help="trainings of a model [%(default)s]")
    add("--seed", type=int, default=1, help="the first repeat's [%(default)s]")
    add("--no-jit", action="store_true", help="train without XLA, slower")
    add("--csv", metavar="FILE", help="save every loss, as each repeat ends")
    add("--plot", metavar="FILE", help="save the figure, instead of showing it")
    args = parser.parse_args(argv)
    for option in ("timesteps", "units", "epochs", "repeats"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} must be at least 1")
    if not 0 <= args.seed <= 2**32 - args.repeats:
        parser.error("--seed to --seed + --repeats - 1 must be from 0 to 2**32 - 1")

    try:
        figure = plt.figure()
    except ImportError:  # MPLBACKEND asks for windows where there are none.
        plt.switch_backend("agg")
        figure = plt.figure()
    plt.close(figure)
    if args.plot is None and not figure.canvas.required_interactive_framework:
        args.plot = f"{Path(__file__).stem}.png"
    endings = figure.canvas.get_supported_filetypes()
    if args.plot and Path(args.plot).suffix[1:].lower() not in endings:
        parser.error(f"--plot must end in one of {', '.join(endings)}")
    if args.plot and args.csv and Path(args.plot).resolve() == Path(args.csv).resolve():
        parser.error("--plot and --csv must be two files")
    for path in filter(None, [args.plot, args.csv]):
        is_new = not os.path.lexists(path)
        try:
            open(path, "ab").close()  # leaves what is in it
        except OSError as error:
            parser.error(f"cannot write {path}: {error.strerror}")
        if is_new:
            Path(path).unlink(missing_ok=True)
    return args


def main(argv=None):
    args = parse_args(argv)
    # On a GPU Keras takes the cuDNN LSTM, which XLA cannot compile, and networks this
    # small are faster on the CPU.
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

    def stop(signum, frame):
        stopped.append(signum)
        signal.signal(signal.SIGINT, before)  # A second one does what it did before.

    seeds = range(args.seed, args.seed + args.repeats)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, its last line is enough.
    # The first repeat compiles: Keras leaves it out of the mean that it prints.
    unit = "repeat after the first" if args.repeats > 1 else "repeat"
    progress = keras.utils.Progbar(args.repeats, verbose=bar, unit_name=unit)
    progress.update(0)
    finished, stopped = [], []
    before = signal.signal(signal.SIGINT, stop)
    try:
        for losses in train_repeats(models, get_data, seeds, jit=not args.no_jit):
            if args.csv:
                mode = "a" if finished else "w"
                losses.to_csv(args.csv, mode=mode, header=not finished, index=False)
            finished.append(losses)
            progress.update(len(finished), finalize=bool(stopped) or None)
            if stopped:
                break
    finally:
        signal.signal(signal.SIGINT, before)

    results = pd.concat(finished, ignore_index=True)
    n_last = min(50, args.epochs)
    summary = summarize(results, n_last)
    loss = summary["log loss", "mean"]
    baseline = position_baseline(timesteps)[1]
    summary.loc["position baseline", ("log loss", "mean")] = baseline
    summary = summary.dropna(axis="columns", how="all")  # the intervals of one repeat
    repeats = f"{len(finished)} repeats" if len(finished) > 1 else "one repeat"
    print(f"Mean of the last {n_last} of {args.epochs} epochs, {repeats}")
    print(summary.to_string(float_format="%.3f", na_rep=""))

    figure, ax = plt.subplots(figsize=(10, 5.4), layout="constrained")
    plot_results(ax, results, baseline)
    ended = f"{loss.min():.3f} in the last {n_last} epochs"
    ax.set_title(f"{loss.idxmin()} ends lowest: {ended}")
    if len(finished) > 1:
        repeats = f"mean of {repeats}\nand its 95% interval"
    figure.legend(loc="outside right upper", title=repeats, frameon=False)
    if args.plot:
        figure.savefig(args.plot, dpi=150)
        print("Figure saved as", args.plot)
    else:
        plt.show()
    return 130 if stopped else 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # The reader of a pipe, say `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
