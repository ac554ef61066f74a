"""Runs the studies that the README's claims rest on, and prints its tables.

In a study every model is trained at several learning rates, always on the same
sequences. A loss is the mean of a training's last 50 epochs, in nats. All are
saved in the folder as a repeat ends: started again, the program goes on where
it stopped. Ctrl-C ends the training, and reports what there is.

Example:
    python tests/claims.py --study past zeros --repeats 10 --folder small
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides much of TensorFlow's log
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from compare_directions import get_bi_lstm_model, get_lstm_model, train_repeats
from sequence import get_sequences, position_baseline


def get_aligned_lstm_model(n_timesteps, **options):
    """Returns an LSTM that reads backwards, but gives its outputs in forward order."""
    lstm = get_lstm_model(n_timesteps, backwards=True, **options)
    model = keras.Model(lstm.inputs[0], keras.ops.flip(lstm.outputs[0], axis=1))
    model.compile(loss=lstm.loss, optimizer=lstm.optimizer)
    return model


def get_double_lstm_model(n_timesteps, *, backwards=False, learning_rate=0.001):
    """Returns two LSTMs side by side that read in one direction, in forward order.

    It is a bidirectional LSTM that concatenates, but for the direction of one half.
    """
    inputs = keras.Input((n_timesteps, 1))
    options = {"return_sequences": True, "go_backwards": backwards}
    halves = [keras.layers.LSTM(20, **options)(inputs) for _ in range(2)]
    both = keras.layers.Concatenate()(halves)  # [samples, n_timesteps, 40]
    outputs = keras.layers.Dense(1, activation="sigmoid")(both)
    if backwards:
        outputs = keras.ops.flip(outputs, axis=1)
    model = keras.Model(inputs, outputs)
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam)
    return model


MODELS = {
    "LSTM": get_lstm_model,
    "LSTM, backwards": partial(get_lstm_model, backwards=True),
    "LSTM, backwards in order": get_aligned_lstm_model,
    "two LSTMs": get_double_lstm_model,
    "BiLSTM": get_bi_lstm_model,  # concat
    "BiLSTM, sum": partial(get_bi_lstm_model, mode="sum"),
    "BiLSTM, mul": partial(get_bi_lstm_model, mode="mul"),
    "BiLSTM, ave": partial(get_bi_lstm_model, mode="ave"),
    "two LSTMs, backwards": partial(get_double_lstm_model, backwards=True),
}
ALL = list(MODELS)[:-1]
DIRECTIONS = ["LSTM", "LSTM, backwards in order", "two LSTMs", "BiLSTM"]
ENDS = ["LSTM", "two LSTMs", "two LSTMs, backwards", "BiLSTM"]
RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]

# The problem, timesteps, epochs, learning rates, models, and how often all is repeated.
# In "past" a label depends on the values up to it, in "whole" on those to come as well;
# in "zeros" the values are hidden, and a model can learn the position alone.
STUDIES = {
    "past": ["length", 10, 250, RATES[1:], ALL, 200],
    "past-5000": ["length", 10, 5000, RATES[1:5], ALL, 60],
    "longer": ["length", 50, 250, RATES[:6], DIRECTIONS, 100],
    "longer-5000": ["length", 50, 5000, RATES[:5], DIRECTIONS, 40],
    "whole": ["total", 10, 250, RATES[1:], DIRECTIONS, 100],
    "whole-5000": ["total", 10, 5000, RATES[:5], DIRECTIONS, 60],
    "zeros": ["zeros", 10, 250, [0.001, 0.01, 0.03], ENDS, 60],
}


def get_data(seed, problem, n_timesteps, epochs):
    """Returns X and y of a repeat, `[epochs, n_timesteps, 1]`."""
    threshold = problem.replace("zeros", "length")
    X, y = get_sequences(epochs, n_timesteps, seed, threshold)
    return (np.zeros_like(X) if problem == "zeros" else X), y


def read_losses(folder, name):
    """Returns a study's losses: a row per seed, and columns (model, rate).

    Raises ValueError if they were made with other settings.
    """
    path = folder / f"{name}.csv"
    if not path.exists():
        return pd.DataFrame()
    with open(path, encoding="utf-8") as file:
        if json.loads(file.readline()) != STUDIES[name][:-1]:
            raise ValueError(f"{path} has other settings: name another folder")
        return pd.read_csv(file, header=[0, 1], index_col=0)


def run_study(folder, name, repeats, progress):
    """Trains the seeds that a study lacks, and saves the losses of each as it ends."""
    problem, n_timesteps, epochs, rates, models, _ = STUDIES[name]
    builders = {
        (model, str(rate)): partial(MODELS[model], n_timesteps, learning_rate=rate)
        for model in models
        for rate in rates
    }
    columns = pd.MultiIndex.from_tuples(builders, names=["model", "rate"])
    data = partial(get_data, problem=problem, n_timesteps=n_timesteps, epochs=epochs)
    losses = read_losses(folder, name)
    for repeat, _ in train_repeats(builders, data, range(len(losses) + 1, repeats + 1)):
        last = repeat.tail(50).groupby("seed").mean().set_axis(columns, axis="columns")
        losses = pd.concat([losses, last])
        unfinished = folder / f"{name}.unfinished"  # A kill leaves the old file whole.
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            print(json.dumps(STUDIES[name][:-1]), file=file)
            losses.to_csv(file, float_format="%.6f")
        unfinished.replace(folder / f"{name}.csv")
        progress.add(get_work(name))
        keras.utils.clear_session(free_memory=False)  # Keras keeps what it has named.


def get_work(name):
    """Returns what a repeat costs, in updates; a new model costs as much as a thousand."""
    _, n_timesteps, epochs, rates, models, _ = STUDIES[name]
    return len(rates) * len(models) * (1000 + epochs * n_timesteps // 10)


def at_best_rates(losses):
    """Returns each model's losses at its best learning rate, and these rates.

    Every other seed chooses, and those between report: if the same did both, a model of
    many lucky rates would win.
    """
    chooses = np.arange(len(losses)) % 2 == 0
    best = losses[chooses].mean(skipna=False).unstack().idxmin(axis="columns")
    return losses[~chooses][list(best.items())].droplevel(1, axis="columns"), best


def compare(loss, first, second):
    """Returns in words whether the first model's loss is lower, seed by seed."""
    above = loss[first] - loss[second]
    mean, error = above.mean(), 2 * above.sem()
    verdict = "no difference seen"
    if abs(mean) > error:
        verdict = "yes" if mean < 0 else "no, higher"
    means = f"{loss[first].mean():.3f}, {loss[second].mean():.3f}"
    return f"**{verdict}**: {means} ({mean:+.3f} ± {error:.3f})"


def print_table(title, rows):
    """Prints rows, each a dict of cells by column, as a table in Markdown."""
    print(f"\n{title}\n")
    for cells in [rows[0], ["---"] * len(rows[0]), *[row.values() for row in rows]]:
        print(f"|{'|'.join(cells)}|")


def print_verdicts(losses):
    """Prints whose loss is lower on the tutorial's problem, at its rate and at the best."""
    settings = {}
    if "past" in losses:
        at_tutorials = losses["past"].xs("0.001", axis="columns", level=1)
        settings["250 epochs, rate 0.001"] = at_tutorials
        settings["250 epochs, best rates"] = at_best_rates(losses["past"])[0]
    if "past-5000" in losses:
        settings["5,000 epochs, best rates"] = at_best_rates(losses["past-5000"])[0]
    pairs = [("BiLSTM", "LSTM"), ("BiLSTM", "two LSTMs"), ("LSTM", "LSTM, backwards")]
    pairs += [(f"BiLSTM{mode}", "BiLSTM") for mode in (", sum", ", ave", ", mul")]
    rows = []
    for first, second in pairs:
        cells = {s: compare(loss, first, second) for s, loss in settings.items()}
        rows.append({"lower log loss?": f"{first} than {second}", **cells})
    if settings:
        print_table("Labels that depend on the past, 10 timesteps", rows)


def print_when(losses):
    """Prints the losses at the best rates, for labels that depend on the past or on all."""
    rows = []
    for name in losses:
        problem, n_timesteps, epochs, rates, _, _ = STUDIES[name]
        if problem == "zeros":
            continue
        loss, best = at_best_rates(losses[name])
        lead = loss["BiLSTM"] - loss["two LSTMs"]
        best = best.replace({str(r): f"{r}*" for r in (rates[0], rates[-1])})
        models = ["LSTM", "two LSTMs", "BiLSTM"]
        cells = {m: f"{loss[m].mean():.3f} ({best[m]})" for m in models}
        row = {
            "labels depend on": {"length": "the past", "total": "the whole"}[problem],
            "timesteps": f"{n_timesteps}",
            "epochs": f"{epochs:,}",
            "position baseline": f"{position_baseline(n_timesteps, problem)[1]:.3f}",
            **cells,
            "BiLSTM minus two LSTMs": f"{lead.mean():+.3f} ± {2 * lead.sem():.3f}",
        }
        rows.append(row)
    if rows:
        print_table(
            "Each model at its best rate (*: the lowest or highest that was tried)",
            rows,
        )


def print_why(zeros):
    """Prints the losses of each rate where the values are hidden."""
    mean, error = zeros.mean(), 2 * zeros.sem()
    rows = []
    for rate in zeros.columns.unique(1):
        cells = {m: f"{mean[m, rate]:.3f} ± {error[m, rate]:.3f}" for m in ENDS}
        rows.append({"rate": rate, **cells})
    best = f"best possible: {position_baseline(10)[1]:.3f}"
    print_table(f"Values hidden: only the position can be learned, {best}", rows)


def plot_studies(losses, path):
    """Draws the loss against the learning rate, in a panel for each kind of labels."""
    titles = {
        "past": "Labels depend on the past\n10 timesteps",
        "longer": "Labels depend on the past\n50 timesteps",
        "whole": "Labels depend on the whole sequence\n10 timesteps",
    }
    names = [name for name in titles if name in losses]
    figure = plt.figure(figsize=(13, 5.5), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names):
        colors = ["#0072B2", "#D55E00", "#CC79A7", "#009E73"]
        ax.set_prop_cycle(color=colors, marker=["o", "s", "^", "D"])
        for model in DIRECTIONS:
            loss = losses[name][model]
            rates = loss.columns.astype(float)
            ax.errorbar(rates, loss.mean(), 2 * loss.sem(), capsize=3, label=model)
        problem, n_timesteps, *_ = STUDIES[name]
        baseline = position_baseline(n_timesteps, problem)[1]
        ax.axhline(baseline, color="0.3", linestyle=":", label="position baseline")
        ax.set(title=titles[name], xlabel="learning rate", xscale="log", ylim=(0, None))
        ax.set_xticks(rates, loss.columns)
        ax.minorticks_off()
    axes[0].set_ylabel("log loss (nats)")
    figure.suptitle("Mean of the last 50 of 250 epochs, 20 units, ± 2 standard errors")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)
    print("\nFigure saved as", path)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--study", nargs="+", choices=STUDIES, default=list(STUDIES), help="[all]")
    add("--repeats", type=int, default=200, help="at most, of each study [%(default)s]")
    add("--folder", type=Path, default="claims", help="of the losses [%(default)s]")
    args = parser.parse_args(argv)
    if args.repeats < 2:
        parser.error("--repeats must be at least 2: one chooses the rates, one reports")
    args.folder.mkdir(parents=True, exist_ok=True)
    repeats = {name: min(STUDIES[name][-1], args.repeats) for name in args.study}
    try:
        missing = {
            n: max(0, repeats[n] - len(read_losses(args.folder, n))) for n in repeats
        }
    except ValueError as error:
        parser.error(str(error))

    # Keras's LSTM for GPUs cannot be compiled by XLA.
    tf.config.set_visible_devices([], "GPU")
    work = sum(get_work(name) * n for name, n in missing.items())
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    progress = keras.utils.Progbar(work, verbose=bar, unit_name="update")
    status = 0
    try:
        for name in filter(missing.get, missing):
            start = time.perf_counter()
            run_study(args.folder, name, repeats[name], progress)
            minutes = (time.perf_counter() - start) / 60
            print(
                f"\n{name}: {missing[name]} repeats in {minutes:.1f} minutes",
                flush=True,
            )
    except KeyboardInterrupt:
        print("\nCtrl-C: reports the repeats that are done", file=sys.stderr)
        status = 130

    losses = {name: read_losses(args.folder, name) for name in args.study}
    losses = {name: table for name, table in losses.items() if len(table) > 1}
    print_verdicts(losses)
    print_when(losses)
    if "zeros" in losses:
        print_why(losses["zeros"])
    if losses.keys() & {"past", "longer", "whole"}:
        plot_studies(losses, args.folder / "learning_rates.png")
    return status


if __name__ == "__main__":
    sys.exit(main())
