"""Compares LSTMs that read forwards, backwards and in both directions.

Every model is trained many times, all on the same sequences, whose labels flip
where the cumulative sum reaches a quarter of the length or, with "--threshold
total", half of the sequence's own sum. You will see each model's mean log loss
and how far it is above the best model's, with two standard errors (SE), and the
learning curves, beside the best guess that knows the position alone. Ctrl-C
ends the training, and reports the repeats that are done. The outputs of
lstm_back are in reversed order, and scored as in the tutorial.

Example:
    python compare_directions.py --threshold total --repeats 99 --csv total.csv
"""

import argparse
import math
import os
import random
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

    It maps `[samples, n_timesteps, n_features]` to probabilities of the shape of y,
    `[samples, n_timesteps, 1]`; n_timesteps=None stands for any length. If it reads
    backwards, its outputs keep that order: the first belongs to the last timestep.
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

    It maps `[samples, n_timesteps, n_features]` to probabilities of the shape of y,
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


def train_model(model, data):
    """Trains the model with one update per batch, and returns the loss of each update.

    The data are X, y and, if you have them, sample weights, `[n_updates, batch_size, ...]`
    each. It is `fit` as one loop that `tf.function` can compile, once the model and its
    optimizer are built; callbacks, metrics, `use_ema` and the memory of a stateful LSTM
    are left out. Raises ValueError if the model has a `train_step` of its own, or if y
    has not the axes of an output of one value.
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
                axes = len(y.shape), len(yhat.shape)
                if yhat.shape[-1] == 1 and axes[0] != axes[1] and axes != (1, 2):
                    raise ValueError(
                        f"y is {y.shape}, but the outputs are {yhat.shape}"
                    )
                loss = model.compute_loss(x=X, y=y, y_pred=yhat, sample_weight=weight)
            scaled_loss = model.optimizer.scale_loss(loss)  # of mixed precision
        gradients = tape.gradient(scaled_loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        for variable in model.non_trainable_variables:  # BatchNormalization's, say
            variable.assign(scope.get_current_value(variable))
        return loss

    floatx = keras.config.floatx()  # the type of the losses
    return tf.map_fn(update, data, parallel_iterations=1, fn_output_signature=floatx)


def train_repeats(builders, get_data, seeds, batch_size=1, jit=True):
    """Trains every model once per seed, and yields each seed's losses and trained models.

    `builders` are functions without arguments, by name, that return a new compiled model;
    only its initial weights may differ between seeds. `get_data(seed)` returns the arrays
    X and y, or X, y and sample_weight, with a sequence per row. The rows are used in
    order, must fill whole batches, and are repeated for several passes. The losses are a
    DataFrame with a column per model, and a row per seed and epoch (here one update). All
    seeds use the same model objects, by name: score or save them before the next seed.
    `jit` compiles with XLA, which refuses an LSTM or GRU on a GPU. Keras keeps half a MiB
    per model and seed: `keras.utils.clear_session(free_memory=False)` in your loop frees
    it, but resets the dtype policy. Raises ValueError if a builder returns a model again,
    and RuntimeError if Keras is on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError("set KERAS_BACKEND=tensorflow before keras is imported")
    # Compiling takes a second or two, so each model is compiled once. For every later
    # seed it gets the weights of a fresh model, and its optimizer is reset.
    train = tf.function(train_model, jit_compile=jit, autograph=False)
    models, optimizers = {}, {}
    for seed in seeds:
        # [n_updates, batch_size, ...]; NumPy refuses what does not fill whole batches.
        data = [np.reshape(a, (-1, batch_size, *a.shape[1:])) for a in get_data(seed)]
        for name, build in builders.items():
            # Keras seeds its layers from Python's generator. Its `set_random_seed` would
            # also empty TensorFlow's caches, which takes longer than the training.
            random.seed(int(seed))
            fresh = build()
            if models.get(name) is fresh:
                raise ValueError(f"the builder of {name} must return a new model")
            if not fresh.built:  # A subclassed model gets weights when it is called.
                fresh(data[0][0])
            model = models.setdefault(name, fresh)
            if model is fresh:
                model.optimizer.build(model.trainable_variables)
                optimizers[name] = [v.numpy() for v in model.optimizer.variables]
            variables = model.variables + model.optimizer.variables
            values = fresh.variables + optimizers[name]
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        # The models train side by side, as TensorFlow needs no Python while it runs.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            losses = list(pool.map(partial(train, data=data), models.values()))
        losses = pd.DataFrame(np.stack(losses, axis=1), columns=list(models))
        losses.index = pd.RangeIndex(1, len(losses) + 1, name="epoch")
        yield pd.concat({seed: losses}, names=["seed"]), models


def summarize(results, n_last=50):
    """Returns each model's mean loss in the last epochs, and its distance from the best.

    `results` are losses of `train_repeats`, joined by `pd.concat`, or a CSV of them read
    with `index_col=["seed", "epoch"]`: a column per model. It averages the last n_last
    epochs, or all if there are fewer, so choose it where the curves are flat.
    The distance is taken seed by seed, which is sharper than comparing means. From about
    20 seeds on, two standard errors (SE) are half of a 95% interval. Raises ValueError
    if a loss is missing, repeated, nan or infinite.
    """
    # Each model must have one finite loss for each seed and epoch.
    finite = np.isfinite(results).groupby(level=["seed", "epoch"]).sum()
    wrong = finite.unstack("epoch", fill_value=0).unstack() != 1  # (model, epoch, seed)
    if wrong.any():
        model, epoch, seed = wrong.idxmax()
        loss = f"model {model}, seed {seed}: the loss of epoch {epoch}"
        why = "diverged, a label outside 0 to n_classes - 1, or a row cut off"
        raise ValueError(f"{loss} is missing, repeated, nan or infinite ({why})")
    loss = results.sort_index().groupby("seed").tail(n_last).groupby("seed").mean()
    above = loss.sub(loss[loss.mean().idxmin()], axis="index")
    columns = {
        "loss": loss.mean(),
        "± 2 SE": 2 * loss.sem(),
        "above the best": above.mean(),
        "± 2 SE, paired": 2 * above.sem(),
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
    ax.set_xlabel("epoch")
    ax.locator_params(axis="x", integer=True, min_n_ticks=1)


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
    add("--csv", type=Path, help="saves each repeat's losses in this file as it ends")
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
        "lstm_forw": lambda: get_lstm_model(**options),
        # go_backwards=True gives the outputs in reversed order, and the tutorial scores
        # them against labels in forward order: the output for timestep t has seen the
        # last t values, while its label depends on the first t.
        "lstm_back": lambda: get_lstm_model(backwards=True, **options),
        "bilstm_con": lambda: get_bi_lstm_model(mode="concat", **options),
    }

    def get_data(seed):
        return get_sequences(args.epochs, args.timesteps, seed, args.threshold)

    seeds = range(args.seed, args.seed + args.repeats)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    progress = keras.utils.Progbar(args.repeats, verbose=bar, unit_name="repeat")
    repeats = train_repeats(builders, get_data, seeds, jit=not args.no_jit)
    finished = []
    try:
        # Ctrl-C comes to this thread, where a bare `except` of TensorFlow could swallow
        # it. So this thread only waits, and another one builds and trains.
        with ThreadPoolExecutor(1) as worker:
            for _ in seeds:
                losses, _ = worker.submit(next, repeats).result()
                if args.csv:
                    first = not finished
                    losses.to_csv(args.csv, mode="w" if first else "a", header=first)
                finished.append(losses)
                progress.add(1)
    except KeyboardInterrupt:
        print(f"\nCtrl-C: {len(finished)} repeats are done", file=sys.stderr)
        if not finished:
            return 130

    results, n_last = pd.concat(finished).astype(float), min(50, args.epochs)
    summary = summarize(results, n_last)
    baseline = position_baseline(args.timesteps, args.threshold)[1]
    summary.loc["position baseline", "loss"] = baseline
    table = summary.to_string(float_format="%.3f", na_rep="")
    heading = (
        f"Log loss of new sequences, mean of the last {n_last} of {args.epochs} epochs"
    )
    problem = {"length": "", "total": "threshold at half the total, "}[args.threshold]
    setting = f"{problem}{args.timesteps} timesteps, {args.units} units, "
    setting += f"learning rate {args.learning_rate:g}, repeats: {len(finished)}"
    print(f"\n{heading}\n{setting}\n{table}", flush=True)

    figure, ax = plt.subplots(figsize=(10, 7), layout="constrained")
    # Colours for colour-blind readers, and markers for prints in grey: those of
    # bilstm_con are the same in compare_directions.py and compare_merge_modes.py.
    ax.set_prop_cycle(color=["#0072B2", "#D55E00", "#009E73"], marker=["o", "s", "D"])
    plot_results(ax, results)
    ax.axhline(baseline, color="0.3", linestyle=":")
    ax.set(title=setting, ylabel="log loss (nats)", ylim=(0, None))
    # The legend is the printed table, with the line of each model before its row.
    lines = [plt.Line2D([], [], linestyle=""), *ax.lines]
    legend = figure.legend(lines, table.splitlines(), loc="outside lower center")
    legend.set_title(f"{heading}; bands: ± 2 SE")
    plt.setp(legend.get_texts(), family="monospace")
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot, flush=True)
    plt.show()
    return 130 if len(finished) < args.repeats else 0


if __name__ == "__main__":
    sys.exit(main())
