"""Compares models on your own data, over several splits, at their best learning rates.

Write a file of your own beside this one, with two functions and a call:

    from compare_models import main

    def get_parts(seed):
        ...  # returns training, validation and new data
    def get_model(name, learning_rate):
        ...  # returns a new compiled model

    main(get_parts, get_model, ["LSTM", "BiLSTM"], rates=[0.003, 0.01, 0.03])

In each repeat the data are split anew, and every model is trained on the first part at
each learning rate. The second parts choose each model's rate: that with the lowest mean
loss. The third parts are scored. The row "no input" is for predictions that are always
the shares of the labels in the training part. on_text.py and on_table.py are studies.
"""

import argparse
import contextlib
import functools
import hashlib
import inspect
import itertools
import os
import re
import signal
import sys
import threading
import timeit
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides some of TensorFlow's log
if Path(__file__).resolve().parent.name == "studies":  # else the scripts are beside it
    sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from compare_directions import train_model, train_repeats


class StaleScores(ValueError):
    """A CSV holds the scores of other data, other models or another training."""


@contextlib.contextmanager
def noted_ctrl_c():
    """Yields an Event that Ctrl-C sets, instead of ending the program."""
    pressed = threading.Event()

    def note(signum, frame):
        pressed.set()
        print("\nCtrl-C: stops soon, and reports what is done", file=sys.stderr)

    old_handler = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, old_handler)


def train(builders, get_parts, seeds, n_updates):
    """Yields each seed and its models, trained with batches of 16 random samples."""

    def get_data(seed):
        training, _, _ = get_parts(seed)
        n_rows = 16 * n_updates
        rows = np.random.default_rng(seed).integers(len(training[0]), size=n_rows)
        return [array[rows] for array in training]

    repeats = train_repeats(builders, get_data, seeds, batch_size=16)
    for seed, (_, models) in zip(seeds, repeats):
        yield seed, models


def predict(model, X):
    """Returns `model.predict` of X in batches, so that memory does not grow with X.

    All batches are whole, as TensorFlow would trace the model anew for a shorter one.
    """
    rows = np.arange(-(-len(X) // 100) * 100) % len(X)
    return model.predict(X[rows], batch_size=100, verbose=0)[: len(X)]


def score(model, part, yhat):
    """Returns the loss and the metrics of predictions yhat, by their names.

    They are computed on the whole part at once, as means over batches would weigh all
    batches the same. What regularizers add to the loss is left out.
    """
    X, y, weight = keras.utils.unpack_x_y_sample_weight(part)
    model(X[:1])  # forgets what activity regularizers added during `predict`
    model.reset_metrics()
    metrics = model.compute_metrics(X, y, yhat, weight)
    loss = model.compute_loss(X, y, yhat, weight) - sum(model.losses)
    return {name: float(value) for name, value in (metrics | {"loss": loss}).items()}


def guess(training, yhat):
    """Returns predictions in the shape of yhat that know the training labels alone.

    They are the share of each label (y may be class numbers), or the mean of numbers.
    """
    _, y, weight = keras.utils.unpack_x_y_sample_weight(training)
    n_outputs = yhat.shape[-1]
    if n_outputs > 1 and (y.ndim < yhat.ndim or y.shape[-1] != n_outputs):
        y = keras.utils.to_categorical(np.reshape(y, -1), n_outputs)
    y = np.reshape(y, (-1, n_outputs))
    if weight is not None:  # [samples] or [samples, n_timesteps]
        weight = np.repeat(np.reshape(weight, -1), len(y) // np.size(weight))
    return np.broadcast_to(np.average(y, axis=0, weights=weight), yhat.shape)


def score_models(models, parts, metrics):
    """Returns a table of the models' scores on validation and new data, and of a guess.

    `metrics` names the scores, as Keras numbers metrics without a name: auc_1, auc_2.
    """
    training, validation, new = parts
    rows = []
    for (name, rate), model in models.items():
        row = {"model": name, "rate": rate}
        row["new / training"] = len(new[0]) / len(training[0])
        for prefix, part in [("validation ", validation), ("", new)]:
            yhat = predict(model, part[0])
            scores = score(model, part, yhat).values()
            row |= {prefix + m: s for m, s in zip(metrics, scores, strict=True)}
        guessed = score(model, new, guess(training, yhat)).values()
        row |= {f"no input {m}": s for m, s in zip(metrics, guessed, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def describe_model(model):
    """Returns a model's layers, the shapes of its weights and how it is compiled."""
    layers, shapes = "", [weight.shape for weight in model.weights]
    with contextlib.suppress(NotImplementedError):  # of a class without get_config
        layers = model.to_json()
    text = f"{layers} {shapes} {model.get_compile_config()}"
    kinds = {type(layer) for layer in [model, *model.layers]}
    own = [kind for kind in kinds if not kind.__module__.startswith("keras.")]
    with contextlib.suppress(OSError, TypeError):  # of classes defined in a notebook
        text += "".join(sorted(map(inspect.getsource, own)))
    return re.sub(r"_\d+", "", text)  # Keras numbers the names of layers.


def get_settings(get_parts, get_model, pairs, n_updates):
    """Returns what the scores of each model and rate depend on, as short texts.

    They change with the arrays of seed 0, with the layers and with `compile`.
    """
    data = hashlib.sha256()
    for array in itertools.chain.from_iterable(get_parts(0)):
        data.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    settings = {}
    for name, rate in pairs:
        text = describe_model(get_model(name, rate))
        of_model = hashlib.sha256(text.encode()).hexdigest()[:8]
        setting = f"{n_updates} updates, data {data.hexdigest()[:8]}, model {of_model}"
        settings[name, rate] = setting
    return settings


def read_scores(paths, settings):
    """Returns the scores in those of the CSV files that exist.

    Raises StaleScores if a score was made with another setting than the one here.
    """
    tables = [pd.DataFrame(columns=["seed", "model", "rate", "setting"])]
    for path in filter(Path.exists, paths):
        try:  # A model may be called "None", which pandas would take for missing.
            options = {"keep_default_na": False, "na_values": [""]}
            table = pd.read_csv(path, dtype={"model": str}, **options)
            made = set(zip(table["model"], table["rate"], table["setting"]))
        except (KeyError, ValueError) as error:
            raise StaleScores(f"{path} is no file of scores ({error})") from error
        for name, rate, setting in made:
            now = settings.get((name, rate), setting)
            if setting != now:
                raise StaleScores(
                    f"{path} holds scores of {name} with {setting}, but now it is "
                    f"{now}: delete the file, or name another"
                )
        tables.append(table)
    scores = pd.concat([table for table in tables if len(table)] or tables)
    return scores.drop_duplicates(["seed", "model", "rate"], ignore_index=True)


def save_scores(scores, path):
    """Writes the scores so that a kill leaves the old file whole."""
    unfinished = path.with_suffix(".unfinished")
    scores.to_csv(unfinished, index=False)
    unfinished.replace(path)


def check_padding(model, part):
    """Raises ValueError if timesteps are masked in training, but not in the scores."""
    masks = [
        isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
        for layer in model.layers
    ]
    if any(masks) and len(model.output_shape) > 2 and len(part) == 2:
        raise ValueError("masks do not reach the scores: give padding a weight of 0")


def get_missing(scores, pairs, seeds):
    """Returns the seeds that lack scores, by the models and rates that they lack."""
    done = set(zip(scores["seed"], scores["model"], scores["rate"]))
    missing = {}
    for seed in seeds:
        lacks = tuple(pair for pair in pairs if (seed, *pair) not in done)
        if lacks:
            missing.setdefault(lacks, []).append(seed)
    return missing


def compare(
    get_parts, get_model, names, rates, updates=1000, repeats=10, seed=0, csv=()
):
    """Trains what is missing, and returns the scores: a row per repeat, model and rate.

    `get_parts(seed)` returns training, validation and new data: each X and y, or X, y
    and sample_weight, as arrays. What belongs together (a person, a document) goes to
    one part alone. Padded timesteps need weights of 0, as masks do not reach the
    scores. `get_model(name, learning_rate)` returns a new compiled model whose outputs
    are probabilities or numbers. `csv` lists files of scores: all are read, and the
    first is written after each repeat. Before any training it raises StaleScores, and
    ValueError for labels per timestep that have a mask but no weights.
    """
    tf.config.set_visible_devices([], "GPU")  # XLA cannot compile Keras's LSTM for it.
    tf.get_logger().setLevel("ERROR")  # Many models are no reason for a warning.
    get_parts = functools.lru_cache(maxsize=1)(get_parts)
    first, new = get_model(names[0], rates[0]), [a[:1] for a in get_parts(0)[2]]
    check_padding(first, new)
    metrics = list(score(first, new, first(new[0])))
    pairs = list(itertools.product(names, rates))
    settings = get_settings(get_parts, get_model, pairs, updates)
    scores = read_scores(csv, settings)
    missing = get_missing(scores, pairs, range(seed, seed + repeats))
    for lacks, seeds in missing.items():
        what = f"{len(seeds)} repeats; the first compiles {len(lacks)} models"
        print(f"{what}, which takes a while", flush=True)
    builders = {pair: partial(get_model, *pair) for pair in pairs}
    runs = (
        run
        for lacks, seeds in missing.items()
        for run in train({p: builders[p] for p in lacks}, get_parts, seeds, updates)
    )
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    n_repeats = sum(map(len, missing.values()))
    progress = keras.utils.Progbar(n_repeats, verbose=bar, unit_name="repeat")
    with noted_ctrl_c() as pressed:
        for number, models in runs:
            new = score_models(models, get_parts(number), metrics)
            new["seed"], new["setting"] = number, [settings[pair] for pair in models]
            scores = pd.concat([scores, new] if len(scores) else [new])
            if csv:
                save_scores(scores, csv[0])
            progress.add(1)
            if pressed.is_set():
                break
    scores = scores[pd.MultiIndex.from_frame(scores[["model", "rate"]]).isin(pairs)]
    complete = scores.groupby("seed")["model"].transform("size") == len(pairs)
    return scores[complete]


def get_error(values, share):
    """Returns two standard errors (SE) of the mean of repeats; nan for fewer than five.

    Repeats that train on the same data in part differ less than others would: `share`,
    new over training data, widens the error as in Nadeau and Bengio (2003,
    doi.org/10.1023/A:1024068626366).
    """
    n_repeats = len(values)
    wider = np.sqrt(1 + n_repeats * share) if n_repeats >= 5 else np.nan
    return 2 * values.sem() * wider


def get_losses(scores, names):
    """Returns the models' losses at their best rates, a row per repeat, and the rates.

    The best rate has the lowest mean loss on the validation data. The last column is
    "no input".
    """
    validation = scores.groupby(["model", "rate"])["validation loss"]
    validation = validation.agg(lambda losses: losses.mean(skipna=False)).unstack()
    # A rate at which a training diverged is not the best.
    best = validation.loc[names].fillna(np.inf).idxmin(axis="columns")
    at_best = scores[scores["rate"] == scores["model"].map(best)]
    losses = at_best.pivot(index="seed", columns="model", values="loss")[names]
    no_input = at_best.groupby("seed")["no input loss"].first()
    return losses.assign(**{"no input": no_input}), best


def get_table(scores, names):
    """Returns the models' mean scores on new data, each at its best rate.

    The distance from the best model is taken repeat by repeat. A star marks the lowest
    and the highest rate: try a lower or a higher one.
    """
    losses, best = get_losses(scores, names)
    share = scores["new / training"].mean()
    above = losses.sub(losses[losses[names].mean().idxmin()], axis="index")
    stars = best.isin([scores["rate"].min(), scores["rate"].max()])
    table = pd.DataFrame({"rate": best.astype(str) + stars.map({True: "*", False: ""})})
    table = table.reindex(losses.columns, fill_value="")
    table["loss"], table["2 SE"] = losses.mean(), get_error(losses, share)
    table["above the best"] = above.mean()
    table["2 SE, paired"] = get_error(above, share)
    at_best = scores[scores["rate"] == scores["model"].map(best)]
    for metric in [name for name in scores if f"validation {name}" in scores]:
        if metric != "loss":
            table[metric] = at_best.groupby("model")[metric].mean()
            table.loc["no input", metric] = at_best[f"no input {metric}"].mean()
    return table.rename_axis(None)


def report(scores, names, pair=None):
    """Prints the table, and the difference between the pair of models."""
    n_repeats = scores["seed"].nunique()
    print(f"\nNew data, each model at its best rate, repeats: {n_repeats}")
    print(get_table(scores, names).to_string(float_format="%.3f", na_rep=""))
    print("2 SE: two standard errors; paired: those of the distance from the best")
    print("*: the lowest or highest rate tried; one beyond it may be better")
    if pair:
        losses, share = get_losses(scores, names)[0], scores["new / training"].mean()
        difference = losses[pair[0]] - losses[pair[1]]
        error = f" (2 SE: {get_error(difference, share):.3f})" if n_repeats >= 5 else ""
        print(f"{pair[0]} minus {pair[1]}: {difference.mean():+.3f}{error}")
    if n_repeats < 5:
        print("No SE: fewer than 5 repeats say too little about how much they differ.")


def time_updates(get_model, names, rate, part):
    """Returns what a compiled update of each model costs, in milliseconds.

    It is the best of three passes over 100 updates, after one that compiles.
    """
    rows = np.arange(100 * 16) % len(part[0])
    data = [array[rows].reshape(100, 16, *array.shape[1:]) for array in part]
    costs = {}
    for name in names:
        model = get_model(name, rate)
        model.optimizer.build(model.trainable_variables)
        loop = partial(train_model, model)
        loop = partial(tf.function(loop, jit_compile=True, autograph=False), data)
        seconds = timeit.repeat(loop, number=1, repeat=4)
        costs[name] = 10 * min(seconds)
    return costs


def add_options(parser, updates=1000, repeats=10, figure=None):
    """Adds the options of `compare`, and that of a figure, to a command line."""
    add = parser.add_argument
    each = "training steps, with 16 sequences each [%(default)s]"
    add("--updates", type=int, default=updates, help=each)
    add("--repeats", type=int, default=repeats, help="splits of the data [%(default)s]")
    add("--seed", type=int, default=0, help="of the first repeat [%(default)s]")
    csv = "files of scores: all are read, the first is written after each repeat"
    add("--csv", type=Path, nargs="+", default=[], metavar="FILE", help=csv)
    if figure:
        add("--plot", type=Path, default=figure, help="figure to save [%(default)s]")


def check_options(parser, args, **endings):
    """Refuses bad options in one line. `endings` are those of files, by option."""
    if min(args.updates, args.repeats) < 1 or args.seed < 0:
        parser.error("--updates and --repeats must be at least 1, --seed at least 0")
    files = [(path, ["csv"]) for path in args.csv]
    files += [(vars(args)[option], ends) for option, ends in endings.items()]
    for path, ends in files:
        if path and path.suffix[1:].lower() not in ends:
            parser.error(f"{path} must end in one of: {', '.join(ends)}")
        if path and (path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK)):
            parser.error(f"cannot write {path}")


def main(get_parts, get_model, names, rates, pair=None, argv=None):
    """Compares the models as the command line says, and prints the table."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(get_parts))
    add_options(parser)
    args = parser.parse_args(argv)
    check_options(parser, args)
    try:
        scores = compare(get_parts, get_model, names, rates, **vars(args))
    except StaleScores as error:
        parser.error(str(error))
    report(scores, names, pair)
    return 0 if args.repeats <= scores["seed"].nunique() else 130
