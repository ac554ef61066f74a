"""Compares the merge modes of bidirectional LSTMs: sum, mul, ave and concat.

Each model is trained many times, all on the same sequences. The label of a
timestep is 1 once the cumulative sum of the values reaches a threshold: a
quarter of the sequence's length or, with "--threshold total", half of its whole
sum. You will see each model's mean log loss of the last 50 epochs, how far it
is above the best model's, both with two standard errors (SE), and the learning
curves, beside the best guess from the position alone. Ctrl-C finishes the
current repeat, then reports.

Default losses are 0.196 (bilstm_sum), 0.358 (bilstm_mul), 0.218 (bilstm_ave)
and 0.204 (bilstm_con). The best guess from the position alone has 0.239.

Example:
    python compare_merge_modes.py --threshold total --repeats 99 --csv total.csv
"""

import argparse
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # which train_model is written for
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides some of TensorFlow's log

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from sequence import get_sequences, position_baseline


def get_bi_lstm_model(
    n_timesteps, mode="concat", *, n_units=20, n_features=1, learning_rate=0.001
):
    """Returns a compiled BiLSTM that predicts the probability of a 1 at each timestep.

    It maps `[samples, n_timesteps, n_features]` to `[samples, n_timesteps, 1]`; with
    n_timesteps=None it takes any length. The mode is how the outputs of the two
    directions are merged: "concat", "sum", "mul" or "ave".
    """
    model = keras.Sequential()
    model.add(keras.Input((n_timesteps, n_features)))
    # A copy of the LSTM reads backwards. Its outputs are put in forward order and
    # merged: [samples, n_timesteps, n_units], or 2 * n_units for concat.
    lstm = keras.layers.LSTM(n_units, return_sequences=True)
    model.add(keras.layers.Bidirectional(lstm, merge_mode=mode))
    # Dense has the same weights at every timestep, without a TimeDistributed wrapper.
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam, metrics=["accuracy"])
    return model


def train_model(model, data):
    """Trains a model with one update per batch, and returns the loss of each update.

    `data` is `(X, y)` or `(X, y, sample_weight)`, each `[n_updates, batch_size, ...]`.
    This is `fit`, without callbacks and metrics, as one loop that `tf.function` can
    compile. The model and its optimizer must be built. Raises ValueError if the model
    has its own `train_step`, which would not be called.
    """
    if type(model).train_step is not keras.Model.train_step:
        raise ValueError("the model has its own train_step: override compute_loss")

    def update(batch):
        X, y, weight = keras.utils.unpack_x_y_sample_weight(batch)  # [batch_size, ...]
        with tf.GradientTape() as tape:
            # Read the variables once per update: an LSTM would read them again at each
            # timestep, and the gradient would store a copy for each.
            state = [(v, tf.convert_to_tensor(v)) for v in model.variables]
            with keras.StatelessScope(state, collect_losses=True) as scope:
                yhat = model(X, training=True)
                loss = model.compute_loss(X, y, yhat, weight)
            scaled_loss = model.optimizer.scale_loss(loss)  # for mixed precision
        # The layers may have changed variables: BatchNormalization its means, say.
        values = [scope.get_current_value(v) for v in model.trainable_variables]
        gradients = tape.gradient(scaled_loss, values)
        for variable in model.variables:
            variable.assign(scope.get_current_value(variable))
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    floatx = keras.config.floatx()  # the type of the losses
    return tf.map_fn(update, data, parallel_iterations=1, fn_output_signature=floatx)


def train_repeats(builders, get_data, seeds, batch_size=1, jit=True):
    """Trains every model once per seed, and yields each seed's losses and models.

    `builders` maps names to functions that return a newly built and compiled model.
    `get_data(seed)` returns X, y and optionally sample weights; every batch_size rows
    make one update. The losses are a DataFrame with a column per model, and a row per
    seed and epoch (here one update). The next seed overwrites the models: score or save
    them first. `jit` compiles with XLA, which cannot compile an LSTM for a GPU.
    Raises ValueError if a builder reuses a layer, as that is trained already.
    """
    # Compiling takes seconds, so it is done once: the first seed's models are used for
    # all seeds, with the weights of a fresh model and a reset optimizer each time.
    models, loops, optimizers, known = {}, {}, {}, set()
    for seed in seeds:
        for name, build in builders.items():
            # Keras draws its initializers' seeds from Python's generator. Its own
            # `set_random_seed` would empty TensorFlow's caches, which is slow.
            random.seed(int(seed))
            fresh = build()
            if not known.isdisjoint(map(id, fresh.trainable_variables)):
                raise ValueError(f"the builder of {name} must create new layers")
            if name not in models:
                models[name] = fresh
                loop = partial(train_model, fresh)
                loops[name] = tf.function(loop, jit_compile=jit, autograph=False)
                known.update(map(id, fresh.trainable_variables))
                fresh.optimizer.build(fresh.trainable_variables)
                optimizers[name] = [v.numpy() for v in fresh.optimizer.variables]
            variables = models[name].variables + models[name].optimizer.variables
            values = fresh.variables + optimizers[name]
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        data = [np.reshape(a, (-1, batch_size, *a.shape[1:])) for a in get_data(seed)]
        # The models train side by side, as TensorFlow needs no Python while it runs.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tasks = {name: pool.submit(loop, data) for name, loop in loops.items()}
        losses = {name: task.result().numpy() for name, task in tasks.items()}
        epochs = pd.RangeIndex(1, len(data[0]) + 1, name="epoch")
        yield pd.concat({seed: pd.DataFrame(losses, epochs)}, names=["seed"]), models


def summarize(results, n_last=50):
    """Returns each model's mean loss in the last epochs, and its distance to the best.

    `results` holds the losses of `train_repeats`, joined by `pd.concat` or read from a
    CSV with `index_col=["seed", "epoch"]`. Distances are taken seed by seed, which is
    sharper than comparing means. With 20 seeds or more, ± two standard errors (SE) are
    a 95% interval. Raises ValueError for missing, repeated or infinite losses.
    """
    complete = np.isfinite(results.unstack("epoch")).all(axis="columns")  # by seed
    if not complete.all():
        seeds = list(complete.index[~complete])
        raise ValueError(f"seeds {seeds}: losses are missing or not finite (diverged?)")
    loss = results.sort_index().groupby("seed").tail(n_last).groupby("seed").mean()
    above = loss.sub(loss[loss.mean().idxmin()], axis="index")
    columns = {
        "loss": loss.mean(),
        "2 SE": 2 * loss.sem(),
        "above the best": above.mean(),
        "2 SE, paired": 2 * above.sem(),
    }
    return pd.DataFrame(columns)


def plot_results(ax, results, n_bins=25):
    """Draws each model's learning curve: the mean over seeds, in a band of ± 2 SE.

    `results` is as for `summarize`. Its epochs are averaged into n_bins points.
    """
    losses = results.reset_index("epoch")  # as a column, it is averaged like the losses
    bins = pd.cut(losses["epoch"], n_bins, labels=False).to_numpy()
    binned = losses.groupby(["seed", bins]).mean().groupby(level=1)
    mean, error = binned.mean(), 2 * binned.sem()
    epoch = mean.pop("epoch")
    for name in mean:
        [line] = ax.plot(epoch, mean[name], label=name)
        low, high = mean[name] - error[name], mean[name] + error[name]
        ax.fill_between(epoch, low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.set(xlabel="epoch", ylabel="loss, mean ± 2 SE", ylim=(0, None))


def parse_args(argv):
    """Reads the options, and refuses what would fail only after the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    add("--threshold", choices=["length", "total"], default="length", help="see above")
    add("--units", type=int, default=20, help="LSTM units per direction [%(default)s]")
    add("--epochs", type=int, default=250, help="one new sequence each [%(default)s]")
    add("--learning-rate", type=float, default=0.001, help="of Adam [%(default)s]")
    add("--repeats", type=int, default=30, help="trainings per model [%(default)s]")
    add("--seed", type=int, default=1, help="of the first repeat [%(default)s]")
    add("--no-jit", action="store_true", help="trains without XLA, often slower")
    add("--csv", type=Path, help="saves the losses here, after each repeat")
    figure = Path(__file__).with_suffix(".png").name
    add("--plot", type=Path, default=figure, help="figure to save [%(default)s]")
    args = parser.parse_args(argv)
    if min(args.timesteps, args.units, args.epochs, args.repeats) < 1:
        parser.error("--timesteps, --units, --epochs and --repeats must be at least 1")
    if not 0 < args.learning_rate < np.inf or args.seed < 0:
        parser.error("--learning-rate must be above 0 and finite, --seed at least 0")
    figures = plt.Figure().canvas.get_supported_filetypes()
    endings = {args.plot: figures, args.csv: ["csv"]}
    for path in filter(None, endings):
        if path.suffix[1:].lower() not in endings[path]:
            parser.error(f"{path} must end in one of: {', '.join(endings[path])}")
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            parser.error(f"cannot write {path}")
    return args


def main(argv=None):
    args = parse_args(argv)
    # XLA cannot compile Keras's LSTM for GPUs, and a CPU is faster at this size.
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
    bar = 1 if sys.stdout.isatty() else 2  # In a file: one line, at the end.
    progress = keras.utils.Progbar(args.repeats, verbose=bar, unit_name="repeat")
    finished, interrupted = [], threading.Event()
    old_handler = signal.signal(signal.SIGINT, lambda *_: interrupted.set())  # Ctrl-C
    try:
        for losses, _ in train_repeats(builders, get_data, seeds, jit=not args.no_jit):
            if args.csv:
                mode = "a" if finished else "w"
                losses.to_csv(args.csv, mode=mode, header=not finished)
            finished.append(losses)
            progress.add(1)
            if interrupted.is_set():
                break
    finally:
        signal.signal(signal.SIGINT, old_handler)

    results = pd.concat(finished).astype(float)
    summary = summarize(results)
    baseline = position_baseline(args.timesteps, args.threshold)[1]
    summary.loc["position baseline", "loss"] = baseline
    n_last = min(50, args.epochs)
    heading = f"Log loss, mean of the last {n_last} of {args.epochs} epochs"
    setting = f"{args.timesteps} timesteps, threshold from {args.threshold}"
    setting += f", {args.units} units, learning rate {args.learning_rate:g}"
    setting += f", repeats: {len(finished)}"
    print(f"\n{heading}\n{setting}")
    print(summary.to_string(float_format="%.3f", na_rep=""), flush=True)

    figure, ax = plt.subplots(figsize=(10, 6), layout="constrained")
    # Colours for colour-blind readers; bilstm_con looks as in compare_directions.py.
    colors = ["#CC79A7", "#E69F00", "#56B4E9", "#009E73"]
    ax.set_prop_cycle(color=colors, marker=["^", "v", "P", "D"])
    labels = [
        f"{name}: {loss:.3f} ± {error:.3f}".removesuffix(" ± nan")
        for name, loss, error in summary[["loss", "2 SE"]].itertuples()
    ]
    plot_results(ax, results.set_axis(labels[:-1], axis="columns"))
    ax.axhline(baseline, color="0.3", ls=":", label=labels[-1])
    ax.set_title(f"{summary['loss'].idxmin()} has the lowest mean log loss\n{setting}")
    ax.legend(title=heading)
    figure.savefig(args.plot, dpi=150)
    print("Figure saved as", args.plot)
    plt.show()
    return 130 if interrupted.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
