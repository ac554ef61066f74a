"""Compares the merge modes of bidirectional LSTMs: sum, mul, ave and concat.

Every model is trained many times, all on the same sequences, whose labels flip
where the cumulative sum reaches a quarter of the length or, with "--threshold
total", half of the sequence's own sum. You will see each model's mean log loss
and how far it is above the best model's, with two standard errors (SE), and the
learning curves, beside the best guess that knows the position alone. Ctrl-C
ends the training, and reports the repeats that are done.

At its defaults the losses are 0.196 (bilstm_sum), 0.358 (bilstm_mul), 0.218
(bilstm_ave) and 0.204 (bilstm_con, side by side); the best guess from the
position alone has 0.239.

Example:
    python compare_merge_modes.py --threshold total --repeats 99 --csv total.csv
"""

import argparse
import contextlib
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


def get_bi_lstm_model(
    n_timesteps, mode="concat", *, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled bidirectional LSTM that predicts how likely each label is 1.

    It maps `[samples, n_timesteps, n_features]` to `[samples, n_timesteps, 1]`, where
    n_timesteps=None stands for any length. The mode is how the outputs of the two
    directions are merged: "concat", "sum", "mul" or "ave".
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


def train_model(model, data):
    """Trains a model of one output, and returns the loss of each update, one per batch.

    The data are X, y and, if you have them, sample weights, `[n_updates, batch_size, ...]`
    each. It is `fit` as one loop that `tf.function` can compile, once the model and its
    optimizer are built; callbacks, metrics, `use_ema` and the memory of a stateful LSTM
    are left out. Raises ValueError if the model has a `train_step` of its own, or if y
    or the weights have not the axes of the outputs.
    """
    if type(model).train_step is not keras.Model.train_step:
        raise ValueError("train_step would not be called: override compute_loss")

    def update(batch):
        X, y, weight = keras.utils.unpack_x_y_sample_weight(batch)  # [batch_size, ...]
        with tf.GradientTape() as tape:
            # Read the variables once an update. Left to itself, the LSTM reads its
            # weights at each timestep, and the gradient keeps as many copies of them.
            state = [(v, tf.convert_to_tensor(v)) for v in model.variables]
            with keras.StatelessScope(state, collect_losses=True) as scope:
                yhat = model(X, training=True)
                # For outputs [batch_size, n_timesteps, 1] Keras accepts y without the last
                # axis, but averages over the timesteps before it masks and weights them.
                n_axes = len(y.shape), len(yhat.shape)
                if yhat.shape[-1] == 1 and n_axes[0] != n_axes[1] and n_axes != (1, 2):
                    raise ValueError(f"y is {y.shape}, the outputs are {yhat.shape}")
                # It would take weights [batch_size] for those of as many timesteps.
                if weight is not None and len(weight.shape) == 1 and n_axes[1] > 2:
                    raise ValueError("weights must be [samples, n_timesteps]")
                loss = model.compute_loss(x=X, y=y, y_pred=yhat, sample_weight=weight)
            scaled_loss = model.optimizer.scale_loss(loss)  # of mixed precision
        # What layers assigned as they were called (BatchNormalization, say) is written
        # back first, and the gradient is that of the values that the loss was made of.
        trained = [scope.get_current_value(v) for v in model.trainable_variables]
        gradients = tape.gradient(scaled_loss, trained)
        for variable in model.variables:
            variable.assign(scope.get_current_value(variable))
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    floatx = keras.config.floatx()  # the type of the losses
    return tf.map_fn(update, data, parallel_iterations=1, fn_output_signature=floatx)


def train_repeats(builders, get_data, seeds, batch_size=1, jit=True):
    """Trains every model once per seed, and yields each seed's losses and trained models.

    `builders` are functions without arguments, by name, that return a new compiled model
    with its weights (call a subclassed one on data first). Only the weights may differ
    from call to call. `get_data(seed)` returns X, y and, if you have them, sample
    weights, with a sequence per row. The rows are used in order, must fill whole
    batches, and are repeated for several passes. The losses are a DataFrame with a
    column per model, and a row per seed and epoch (here one update). All seeds use the
    same model objects: score or save them before the next seed. `jit` compiles with
    XLA, which cannot compile an LSTM for a GPU, and does not report word ids that are
    too high. Keras keeps half a MiB per model and seed; in your loop
    `keras.utils.clear_session(free_memory=False)` frees it, but resets the dtype
    policy. Raises ValueError if a builder reuses a layer that is not frozen, and
    RuntimeError if Keras is on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError("set KERAS_BACKEND=tensorflow before keras is imported")
    # Compiling takes a second or two, so each model is compiled once. For every seed it
    # gets the weights of a fresh model, and its optimizer the variables it began with.
    models = {name: build() for name, build in builders.items()}
    known = {id(v) for model in models.values() for v in model.trainable_variables}
    compiled, optimizers = [], {}
    for name, model in models.items():
        loop = partial(train_model, model)
        compiled.append(tf.function(loop, jit_compile=jit, autograph=False))
        model.optimizer.build(model.trainable_variables)
        optimizers[name] = [v.numpy() for v in model.optimizer.variables]
    for seed in seeds:
        # [n_updates, batch_size, ...]; NumPy refuses what does not fill whole batches.
        data = [np.reshape(a, (-1, batch_size, *a.shape[1:])) for a in get_data(seed)]
        for name, model in models.items():
            # Keras seeds its layers from Python's generator. Its `set_random_seed` would
            # also empty TensorFlow's caches, which takes longer than the training.
            random.seed(int(seed))
            fresh = builders[name]()
            if known & {id(v) for v in fresh.trainable_variables}:
                raise ValueError(f"the builder of {name} must make its layers anew")
            variables = model.variables + model.optimizer.variables
            values = fresh.variables + optimizers[name]
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        # The models train side by side, as TensorFlow needs no Python while it runs.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            trainings = [pool.submit(train, data) for train in compiled]
        losses = np.stack([training.result() for training in trainings], axis=1)
        losses = pd.DataFrame(losses, columns=list(models))
        losses.index = pd.RangeIndex(1, len(losses) + 1, name="epoch")
        yield pd.concat({seed: losses}, names=["seed"]), models


def summarize(results, n_last=50):
    """Returns each model's mean loss in the last epochs, and its distance from the best.

    `results` are losses of `train_repeats`, joined by `pd.concat`, or a CSV of them read
    with `index_col=["seed", "epoch"]`: a column per model. It averages the last n_last
    epochs, or all if there are fewer, so choose it where the curves are flat.
    The distance is taken seed by seed, which is sharper than comparing means. From about
    20 seeds on, two standard errors (SE) are half of a 95% interval. Raises ValueError
    if a loss is missing, repeated, nan or infinite, or n_last is below 1.
    """
    if n_last < 1:
        raise ValueError(f"n_last must be at least 1, but was {n_last}")
    # Each model must have one finite loss for each seed and epoch.
    finite = np.isfinite(results).groupby(level=["seed", "epoch"]).sum()
    wrong = finite.unstack("epoch", fill_value=0).unstack() != 1  # (model, epoch, seed)
    if wrong.any():
        model, epoch, seed = wrong.idxmax()
        why = "nan in the data, a label outside 0 to n_classes - 1, a row cut off"
        raise ValueError(
            f"model {model}, seed {seed}: the loss of epoch {epoch} is missing, "
            f"repeated, nan or infinite (diverged, {why})"
        )
    loss = results.sort_index().groupby("seed").tail(n_last).groupby("seed").mean()
    above = loss.sub(loss[loss.mean().idxmin()], axis="index")
    columns = {
        "loss": loss.mean(),
        "2 SE": 2 * loss.sem(),
        "above the best": above.mean(),
        "2 SE, paired": 2 * above.sem(),
    }
    return pd.DataFrame(columns)


def plot_results(ax, results, n_points=25):
    """Draws each model's loss against the epoch: the seeds' mean, in a band of ± 2 SE.

    `results` are as for `summarize`. Neighbouring epochs are averaged, to at most n_points.
    """
    summarize(results)  # refuses what would mislead
    losses = results.reset_index("epoch")  # as a column, it is averaged like the losses
    points = pd.cut(losses["epoch"], n_points, labels=False).to_numpy()
    by_point = losses.groupby(["seed", points]).mean().groupby(level=1)
    mean, error = by_point.mean(), 2 * by_point.sem()
    epoch = mean.pop("epoch")
    for name in mean:
        [line] = ax.plot(epoch, mean[name], label=name)
        low, high = mean[name] - error[name], mean[name] + error[name]
        ax.fill_between(epoch, low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(xlabel="epoch", ylabel="loss, ± 2 SE", ylim=(0, None))
    ax.locator_params(axis="x", integer=True, min_n_ticks=1)


@contextlib.contextmanager
def ctrl_c_waits():
    """Yields a list that each Ctrl-C inside is added to, instead of ending anything."""
    presses = []

    def wait(signum, frame):
        presses.append(signum)
        print("\nCtrl-C: finishes the repeat at hand, then reports", file=sys.stderr)

    old_handler = signal.signal(signal.SIGINT, wait)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, old_handler)


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
    add("--epochs", type=int, default=250, help="one new sequence each [%(default)s]")
    add("--learning-rate", type=float, default=0.001, help="step size [%(default)s]")
    add("--repeats", type=int, default=30, help="trainings per model [%(default)s]")
    add("--seed", type=int, default=1, help="seed of the first repeat [%(default)s]")
    add("--no-jit", action="store_true", help="trains without XLA, often slower")
    add("--csv", type=Path, help="writes each repeat's losses to this file as it ends")
    figure = Path(__file__).with_suffix(".png").name
    add("--plot", type=Path, default=figure, help="figure to save [%(default)s]")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs, args.repeats) < 1:
        parser.error("--timesteps, --units, --epochs and --repeats must be at least 1")
    if not 0 < args.learning_rate < math.inf:
        parser.error("--learning-rate must be above 0 and finite")
    if args.seed < 0:
        parser.error("--seed must be at least 0")
    endings = plt.Figure().canvas.get_supported_filetypes()
    if args.plot.suffix[1:].lower() not in endings:
        parser.error(f"--plot must end in one of {', '.join(endings)}")
    if args.csv and args.csv.suffix != ".csv":
        parser.error("--csv must end in .csv")
    for path in filter(None, [args.plot, args.csv]):
        if os.path.isdir(path) or not os.access(path.parent, os.W_OK | os.X_OK):
            parser.error(f"cannot write {path}: not a file in a writable folder")
    return args


def main(argv=None):
    args = parse_args(argv)
    # Keras's LSTM for GPUs cannot be compiled by XLA, and a CPU is faster for this size.
    tf.config.set_visible_devices([], "GPU")
    options = {"n_timesteps": args.timesteps, "n_units": args.units}
    options["learning_rate"] = args.learning_rate
    builders = {
        "bilstm_sum": lambda: get_bi_lstm_model(mode="sum", **options),
        "bilstm_mul": lambda: get_bi_lstm_model(mode="mul", **options),
        "bilstm_ave": lambda: get_bi_lstm_model(mode="ave", **options),
        "bilstm_con": lambda: get_bi_lstm_model(mode="concat", **options),
    }

    def get_data(seed):
        return get_sequences(args.epochs, args.timesteps, seed, args.threshold)

    seeds = range(args.seed, args.seed + args.repeats)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    progress = keras.utils.Progbar(args.repeats, verbose=bar, unit_name="repeat")
    finished = []
    with ctrl_c_waits() as presses:  # until all is saved
        for losses, _ in train_repeats(builders, get_data, seeds, jit=not args.no_jit):
            if args.csv:
                first = not finished
                losses.to_csv(args.csv, mode="w" if first else "a", header=first)
            finished.append(losses)
            progress.add(1)
            if presses:
                break

        results, n_last = pd.concat(finished).astype(float), min(50, args.epochs)
        summary = summarize(results, n_last)
        baseline = position_baseline(args.timesteps, args.threshold)[1]
        summary.loc["position baseline", "loss"] = baseline
        table = summary.to_string(float_format="%.3f", na_rep="")
        heading = f"Log loss, mean of the last {n_last} of {args.epochs} epochs"
        setting = (
            f"{args.timesteps} timesteps, threshold {args.threshold}, {args.units} units, "
            f"learning rate {args.learning_rate:g}, repeats: {len(finished)}"
        )
        print(f"\n{heading}\n{setting}\n{table}", flush=True)

        figure, ax = plt.subplots(figsize=(10, 7), layout="constrained")
        # Colours for colour-blind readers, and markers for prints in grey: those of
        # bilstm_con are the same in compare_directions.py and compare_merge_modes.py.
        colors = ["#CC79A7", "#E69F00", "#56B4E9", "#009E73"]
        ax.set_prop_cycle(color=colors, marker=["^", "v", "P", "D"])
        plot_results(ax, results)
        ax.axhline(baseline, color="0.3", linestyle=":")
        ax.set_title(
            f"{summary['loss'].idxmin()} has the lowest mean log loss\n{setting}"
        )
        # The legend is the printed table, with the line of each model before its row.
        lines = [plt.Line2D([], [], linestyle=""), *ax.lines]
        legend = figure.legend(lines, table.splitlines(), loc="outside lower center")
        legend.set_title(heading)
        plt.setp(legend.get_texts(), family="monospace")
        figure.savefig(args.plot, dpi=150)
        print("Figure saved as", args.plot, flush=True)
    plt.show()
    return 130 if len(finished) < args.repeats else 0


if __name__ == "__main__":
    sys.exit(main())
