"""Compares LSTMs that read forwards, backwards and in both directions.

Every model is trained many times, all on the same sequences. You will see its
mean log loss with a 95% interval, how far it is above the best model's, and a
figure of the learning curves, beside the loss of guessing from the position
alone. The outputs of lstm_back are in reversed order, but scored as in the
tutorial; --controls adds it in forward order, and two forward LSTMs side by
side. Ctrl-C ends the training after the repeat at hand, and reports; a second
one ends the script as soon as the trainings that run return.

Example:
    python compare_directions.py --controls --repeats 100 --csv directions.csv
"""

import argparse
import math
import os
import random
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # which train_model is written for
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides much of TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

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


def get_bi_lstm_model(
    n_timesteps, mode="concat", *, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled bidirectional LSTM that predicts how likely each label is 1.

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
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam, metrics=["accuracy"])
    return model


def get_double_lstm_model(
    n_timesteps, *, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled model of two LSTMs that both read forwards, side by side.

    It has as many weights as a bidirectional LSTM that concatenates, and is one but for
    the direction of its second half.
    """
    inputs = keras.Input((n_timesteps, n_features))
    first = keras.layers.LSTM(n_units, return_sequences=True)(inputs)
    second = keras.layers.LSTM(n_units, return_sequences=True)(inputs)
    both = keras.layers.Concatenate()([first, second])  # [..., 2 * n_units]
    outputs = keras.layers.Dense(1, activation="sigmoid")(both)
    model = keras.Model(inputs, outputs)
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam, metrics=["accuracy"])
    return model


def get_aligned_lstm_model(
    n_timesteps, *, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled LSTM that reads backwards, with its outputs in forward order.

    So are those of a bidirectional LSTM's backward half. Behind the flip the mask of a
    Masking layer is lost: the loss would count padded timesteps.
    """
    inputs = keras.Input((n_timesteps, n_features))
    lstm = keras.layers.LSTM(n_units, return_sequences=True, go_backwards=True)
    in_order = keras.ops.flip(lstm(inputs), axis=1)  # [samples, n_timesteps, n_units]
    outputs = keras.layers.Dense(1, activation="sigmoid")(in_order)
    model = keras.Model(inputs, outputs)
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam, metrics=["accuracy"])
    return model


def train_model(model, X, y):
    """Trains the model with one update per batch, and returns the loss of each update.

    X and y are `[n_updates, batch_size, ...]`, the losses are `[n_updates]`. It is `fit`
    as one loop that `tf.function` can compile, when the model and its optimizer are
    built. Callbacks, metrics, `use_ema` and the memory of a stateful LSTM are left out.
    """

    def update(batch):
        X_batch, y_batch = batch  # [batch_size, ...]
        with tf.GradientTape() as tape:
            # Read the variables once an update. Left to itself, the LSTM reads its
            # weights at each timestep, and the gradient keeps as many copies of them.
            state = [(v, tf.convert_to_tensor(v)) for v in model.variables]
            with keras.StatelessScope(state, collect_losses=True) as scope:
                yhat = model(X_batch, training=True)
                loss = model.compute_loss(y=y_batch, y_pred=yhat)
            scaled_loss = model.optimizer.scale_loss(loss)  # of mixed precision
        gradients = tape.gradient(scaled_loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        for variable in model.non_trainable_variables:  # BatchNormalization's, say
            variable.assign(scope.get_current_value(variable))
        return loss

    floatx = keras.config.floatx()  # the type of the losses
    return tf.map_fn(update, (X, y), parallel_iterations=1, fn_output_signature=floatx)


def train_repeats(builders, get_data, seeds, batch_size=1, jit=True):
    """Trains every model once per seed, and yields each seed's losses and trained models.

    `builders` are functions without arguments, by name, that return a new compiled model;
    from seed to seed only its weights may differ. `get_data(seed)` returns two arrays, X
    and y, with a sequence and its labels per row: whole batches, in the order of training,
    and for several passes the rows several times. The losses are a DataFrame with the
    columns model, seed, epoch (one update each) and loss. The models, by name, are the
    same objects for all seeds: score or save them before the next. Layers that draw from
    `tf.random`, or from `keras.random` without a seed, are not reproducible. `jit`
    compiles with XLA, which draws other dropout than `fit`, and refuses an LSTM on a GPU.
    Raises ValueError if a builder returns a model again.
    """
    # Compiling takes a second or two, so each model is compiled once. For every later
    # seed it gets the weights of a fresh model, and its optimizer is reset.
    train = tf.function(train_model, jit_compile=jit)
    models, optimizers = {}, {}
    for seed in seeds:
        # [n_updates, batch_size, ...]; NumPy refuses what does not fill whole batches.
        X, y = [np.reshape(a, (-1, batch_size, *a.shape[1:])) for a in get_data(seed)]
        for name, build in builders.items():
            # Keras seeds its layers from Python's generator. Its `set_random_seed` would
            # also empty TensorFlow's caches, which takes longer than the training.
            random.seed(int(seed))
            np.random.seed(seed)
            fresh = build()
            if models.get(name) is fresh:
                raise ValueError(f"the builder of {name} must return a new model")
            if not fresh.built:  # A subclassed model gets weights when it is called.
                fresh(X[0])
            model = models.setdefault(name, fresh)
            if model is fresh:
                model.optimizer.build(model.trainable_variables)
                optimizers[name] = [v.numpy() for v in model.optimizer.variables]
            variables = model.variables + model.optimizer.variables
            values = fresh.variables + optimizers[name]
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            losses = list(pool.map(partial(train, X=X, y=y), models.values()))
        columns = {
            "model": np.repeat(list(models), len(X)),
            "seed": seed,
            "epoch": np.tile(np.arange(1, len(X) + 1), len(models)),
            "loss": np.concatenate(losses),
        }
        yield pd.DataFrame(columns), models


def half_interval(repeats):
    """Returns half of the 95% interval of each column's mean, nan for a single row."""
    degrees = max(1, len(repeats) - 1)  # of freedom
    # NumPy has no quantiles of Student's t: draws give them within half a percent.
    t = np.quantile(abs(np.random.default_rng(0).standard_t(degrees, 200_000)), 0.95)
    return t * repeats.sem()


def summarize(results, n_last=50):
    """Returns each model's mean loss in the last epochs, and its distance from the best.

    `results` has the columns model, seed, epoch and loss. The last epochs are n_last, or
    all of fewer. Only seeds that all models have count: the distance is taken seed by
    seed, which is sharper than comparing intervals. Its interval is of one pair; among
    many equal models some exclude 0. Raises ValueError if a loss is nan or infinite, or
    if a training has repeated rows or other epochs than most.
    """
    if not np.isfinite(results["loss"]).all():  # pandas would leave out nan.
        raise ValueError("a loss is nan or infinite: diverged, or a row is cut off")
    rows = pd.crosstab([results["model"], results["seed"]], results["epoch"])
    usual = np.ceil(rows.median()).clip(upper=1)  # 0 for an epoch that most do not have
    odd = rows.ne(usual)
    if odd.any(axis=None):
        model, seed = odd.any(axis="columns").idxmax()
        epoch = odd.loc[(model, seed)].idxmax()
        training = f"model {model}, seed {seed}: epoch {epoch}"
        raise ValueError(f"{training} is missing, repeated, or not in most others")
    last = results[results["epoch"] > results["epoch"].max() - n_last]
    loss = last.pivot_table("loss", index="seed", columns="model", sort=False)
    loss = loss.dropna().astype(float)
    above = loss.sub(loss[loss.mean().idxmin()], axis="index")
    columns = {
        "loss": loss.mean(),
        "± 95%": half_interval(loss),
        "above the best": above.mean(),
        "± 95%, paired": half_interval(above),
    }
    return pd.DataFrame(columns).rename_axis(None)


def plot_results(ax, results, n_last=50, n_points=25):
    """Draws each model's loss against the epoch: the seeds' mean in its 95% interval.

    `results` are as for `summarize`, whose numbers of the last epochs stand in the labels
    (`ax.legend()` shows them). Neighbouring epochs are averaged, to at most n_points. The
    limits of y are those of the means.
    """
    # Colours that colour-blind readers can tell apart, and markers for prints in grey.
    colors = plt.style.library["seaborn-v0_8-colorblind"]["axes.prop_cycle"]
    colors = colors[:4].concat(colors[5:])  # without yellow, which is pale on white
    markers = plt.cycler(marker="os^DP")
    ax.set_prop_cycle(plt.cycler(linestyle=["-", "--", ":"]) * (colors + markers))
    bins = pd.cut(results["epoch"], n_points)
    bin_epoch = results.groupby(bins, observed=True)["epoch"].transform("mean")
    curves = results.pivot_table("loss", index="seed", columns=["model", bin_epoch])
    curves = curves.dropna()  # seeds that a model lacks
    mean, error = curves.mean(), half_interval(curves)
    summary, lines = summarize(results, n_last), {}
    for name, (loss, _, above, above_error) in summary.iterrows():
        label = f"{name}  {loss:.3f}"
        if above > 0:
            label += f", +{above:.3f}"
        if above_error > 0:  # The best has no distance, and a single seed no interval.
            label += f" ± {above_error:.3f}"
        [lines[name]] = ax.plot(mean[name], label=label)
    ax.set_ylim(ax.get_ylim())  # of the means: the interval of two seeds is wide
    for name, line in lines.items():
        low, high = mean[name] - error[name], mean[name] + error[name]
        ax.fill_between(low.index, low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(xlabel="epoch", ylabel="loss")


def parse_args(argv):
    """Reads the options, and refuses bad ones before the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=250, help="one new sequence each [%(default)s]")
    add("--learning-rate", type=float, default=0.001, help="step size [%(default)s]")
    add("--repeats", type=int, default=30, help="trainings per model [%(default)s]")
    add("--seed", type=int, default=1, help="seed of the first repeat [%(default)s]")
    add("--controls", action="store_true", help="adds the two models named above")
    add("--no-jit", action="store_true", help="trains without XLA, often slower")
    add("--csv", type=Path, help="saves each repeat's losses in this file as it ends")
    figure = Path(__file__).with_suffix(".png").name
    add("--plot", type=Path, default=figure, help="figure to save [%(default)s]")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs, args.repeats) < 1:
        parser.error("--timesteps, --units, --epochs and --repeats must be at least 1")
    if not 0 < args.learning_rate < math.inf:
        parser.error("--learning-rate must be above 0 and finite")
    if not 0 <= args.seed <= 2**32 - args.repeats:
        parser.error(f"--seed must be from 0 to {2**32 - args.repeats}")
    endings = plt.Figure().canvas.get_supported_filetypes()
    if args.plot.suffix[1:].lower() not in endings:
        parser.error(f"--plot must end in one of {', '.join(endings)}")
    if args.csv and args.plot.resolve() == args.csv.resolve():
        parser.error("--plot and --csv must be two files")
    for path in filter(None, [args.plot, args.csv]):
        writable = os.access(path if os.path.exists(path) else path.parent, os.W_OK)
        if os.path.isdir(path) or not os.path.isdir(path.parent) or not writable:
            parser.error(f"cannot write {path}: not a file in a writable folder")
    return args


def main(argv=None):
    args = parse_args(argv)
    plt.close(plt.figure())  # A display that does not work fails before the training.
    # Keras's LSTM for GPUs cannot be compiled by XLA, and a CPU is faster for this size.
    tf.config.set_visible_devices([], "GPU")
    options = {"n_timesteps": args.timesteps, "n_units": args.units}
    options["learning_rate"] = args.learning_rate
    builders = {
        "lstm_forw": lambda: get_lstm_model(**options),
        # go_backwards=True gives the outputs in reversed order, and the tutorial scores
        # them against labels in forward order: the output for timestep t has seen the
        # last t values, while its label depends on the first t.
        "lstm_back": lambda: get_lstm_model(backwards=True, **options),
        "bilstm_con": lambda: get_bi_lstm_model(mode="concat", **options),
    }
    if args.controls:
        builders["lstm_back_aligned"] = lambda: get_aligned_lstm_model(**options)
        builders["lstm_forw_twice"] = lambda: get_double_lstm_model(**options)

    def get_data(seed):
        return get_sequences(args.epochs, args.timesteps, rng=seed)

    finished, stopped = [], False

    def stop(signum, frame):
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, old_handler)  # A second Ctrl-C ends the script.
        print("\nCtrl-C: ends after the repeat at hand, and reports", file=sys.stderr)

    seeds = range(args.seed, args.seed + args.repeats)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    total = args.repeats * len(builders)
    progress = keras.utils.Progbar(total, verbose=bar, unit_name="training")
    old_handler = signal.signal(signal.SIGINT, stop)
    try:
        for losses, _ in train_repeats(builders, get_data, seeds, jit=not args.no_jit):
            if args.csv:
                mode = "a" if finished else "w"
                losses.to_csv(args.csv, mode=mode, header=not finished, index=False)
            finished.append(losses)
            progress.add(len(builders))
            if stopped:
                break
    finally:
        signal.signal(signal.SIGINT, old_handler)

    results = pd.concat(finished)
    n_last = min(50, args.epochs)
    summary = summarize(results, n_last)
    best = summary["loss"].idxmin()
    baseline = position_baseline(args.timesteps)[1]
    summary.loc["position baseline", "loss"] = baseline
    averaged = f"mean of the last {n_last} of {args.epochs} epochs"
    setting = f"learning rate {args.learning_rate:g}, repeats: {len(finished)}"
    print(f"\nLog loss, {averaged}, {setting}")
    print(summary.to_string(float_format="%.3f", na_rep=""), flush=True)

    figure, ax = plt.subplots(figsize=(10, 6), layout="constrained")
    plot_results(ax, results, n_last)
    label = f"position baseline  {baseline:.3f}"
    ax.axhline(baseline, color="0.3", linestyle=":", label=label)
    ax.set_ylabel("log loss (nats)")
    ax.set_ylim(bottom=0)
    ax.set_title(f"{best} has the lowest log loss, {averaged}\n{setting}")
    legend = "log loss, and its distance from the best"
    if len(finished) > 1:
        legend += "; ± and bands: 95% intervals"
    figure.legend(loc="outside lower center", ncols=2, title=legend, frameon=False)
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot, flush=True)
    if figure.canvas.required_interactive_framework:  # There are windows.
        plt.show()
    return 130 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
