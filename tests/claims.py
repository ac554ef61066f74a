"""Runs the studies that the README's claims rest on, and prints its tables.

In a study every model is trained at several learning rates, always on the same
sequences. A loss is the mean of the last fifth of a training's epochs, in nats.
All are saved in the folder as a repeat ends: started again, the program goes on
where it stopped. Ctrl-C ends the training, and reports what there is.

Example:
    python tests/claims.py --study past zeros --repeats 10 --folder small
"""

import argparse
import json
import os
import sys
import tempfile
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

from compare_directions import (
    ctrl_c_waits,
    get_bi_lstm_model,
    get_lstm_model,
    train_repeats,
)
from sequence import get_sequences, position_baseline

FORWARDS, BACKWARDS = False, True  # what an LSTM's go_backwards says


def get_lstms_model(n_timesteps, directions, *, output="all", learning_rate=0.001):
    """Returns LSTMs side by side that read in these directions.

    Its output is "all", `[samples, n_timesteps, 1]` in forward order, or one for a
    sequence, `[samples, 1]`, from the "last" outputs of the LSTMs or from their "mean".
    """
    inputs = keras.Input((n_timesteps, 1))
    hidden = []
    for backwards in directions:
        sequences = output != "last"
        lstm = keras.layers.LSTM(20, return_sequences=sequences, go_backwards=backwards)
        h = lstm(inputs)  # [samples, n_timesteps, 20], of the last output [samples, 20]
        if output == "mean":
            h = keras.layers.GlobalAveragePooling1D()(h)
        elif output == "all" and backwards:
            h = keras.ops.flip(h, axis=1)
        hidden.append(h)
    hidden = keras.ops.concatenate(hidden, axis=-1)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(loss="binary_crossentropy", optimizer=adam)
    return model


MODELS = {
    "BiLSTM": get_bi_lstm_model,  # concat
    "LSTM": get_lstm_model,
    "two LSTMs": partial(get_lstms_model, directions=[FORWARDS, FORWARDS]),
    "BiLSTM, sum": partial(get_bi_lstm_model, mode="sum"),
    "BiLSTM, ave": partial(get_bi_lstm_model, mode="ave"),
    "BiLSTM, mul": partial(get_bi_lstm_model, mode="mul"),
    "lstm_back": partial(get_lstm_model, backwards=True),  # in reversed order
    "LSTM, backwards": partial(get_lstms_model, directions=[BACKWARDS]),
    "two LSTMs, backwards": partial(get_lstms_model, directions=[BACKWARDS, BACKWARDS]),
}
TUTORIALS = list(MODELS)[:7]  # and a control of as many weights as its BiLSTM
DIRECTIONS = ["LSTM", "LSTM, backwards", "two LSTMs", "BiLSTM"]
ENDS = ["LSTM", "two LSTMs", "two LSTMs, backwards", "BiLSTM"]

# Of the study "one-label", where these names stand for models of one output.
last_outputs = partial(get_lstms_model, output="last")
averaged = partial(get_lstms_model, output="mean")
ONE_LABEL_MODELS = {
    "LSTM": partial(last_outputs, directions=[FORWARDS]),
    "two LSTMs": partial(last_outputs, directions=[FORWARDS, FORWARDS]),
    "BiLSTM": partial(last_outputs, directions=[FORWARDS, BACKWARDS]),
    "LSTM, averaged": partial(averaged, directions=[FORWARDS]),
    "BiLSTM, averaged": partial(averaged, directions=[FORWARDS, BACKWARDS]),
    "LSTM, backwards": partial(last_outputs, directions=[BACKWARDS]),
}
ONE_LABEL = list(ONE_LABEL_MODELS)
RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]

# The problem, timesteps, epochs, learning rates, models, and how often all is repeated.
# In "past" a label depends on the values up to it, in "whole" on those to come as well;
# in "one-label" a sequence has one label, which depends on its first half; in "zeros"
# the values are hidden, and a model can learn the position alone.
STUDIES = {
    "past": ["length", 10, 250, RATES[1:], [*TUTORIALS, "LSTM, backwards"], 200],
    "past-5000": ["length", 10, 5000, RATES[1:5], TUTORIALS, 60],
    "longer": ["length", 50, 250, RATES[:6], DIRECTIONS, 100],
    "longer-5000": ["length", 50, 5000, RATES[:5], DIRECTIONS, 40],
    "whole": ["total", 10, 250, RATES[1:], DIRECTIONS, 100],
    "whole-5000": ["total", 10, 5000, RATES[:5], DIRECTIONS, 60],
    "one-label": ["one label", 50, 5000, [0.0001, *RATES[:4]], ONE_LABEL, 20],
    "zeros": ["zeros", 10, 250, [0.001, 0.01, 0.03], ENDS, 60],
}


def get_builders(name):
    """Returns a study's builders of models, by model and learning rate."""
    problem, n_timesteps, _, rates, models, _ = STUDIES[name]
    build = ONE_LABEL_MODELS if problem == "one label" else MODELS
    return {
        (model, str(rate)): partial(build[model], n_timesteps, learning_rate=rate)
        for model in models
        for rate in rates
    }


def get_data(seed, problem, n_timesteps, epochs):
    """Returns X and y of a repeat, a sequence an epoch, `[epochs, n_timesteps, 1]`.

    For one label y is that of the middle timestep, `[epochs, 1]`: does the sum of the
    first half reach a quarter of the length? Half of all do.
    """
    threshold = "total" if problem == "total" else "length"
    X, y = get_sequences(epochs, n_timesteps, seed, threshold)
    if problem == "zeros":
        X = np.zeros_like(X)
    if problem == "one label":
        y = y[:, n_timesteps // 2 - 1]
    return X, y


def get_text(name, losses):
    """Returns what a study's file holds: its settings, then its losses."""
    rows = losses.to_csv(float_format="%.6f", na_rep="nan", lineterminator="\n")
    return f"{json.dumps(STUDIES[name][:-1])}\n{rows}"


def read_losses(folder, name):
    """Returns a study's losses: a row for each seed from 1 on, and columns (model, rate).

    Raises ValueError if the file is damaged, or was made with other settings.
    """
    path = folder / f"{name}.csv"
    columns = pd.MultiIndex.from_tuples(get_builders(name), names=["model", "rate"])
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float).rename_axis("seed")
    try:
        rows = pd.read_csv(path, skiprows=4, header=None, index_col=0)
        seeds = pd.RangeIndex(1, len(rows) + 1, name="seed")
        losses = pd.DataFrame(rows.to_numpy(float), seeds, columns)
        # Written again, the losses of a good file make the same text.
        good = get_text(name, losses) == path.read_text(encoding="utf-8")
    except ValueError:  # as pandas raises, too, where it cannot read
        good = False
    if not good:
        raise ValueError(
            f"{path} is damaged or has other settings: delete it, or name another folder"
        )
    return losses


def run_study(folder, name, repeats):
    """Trains the seeds that a study lacks, and yields once the losses of each are saved."""
    problem, n_timesteps, epochs, *_ = STUDIES[name]
    data = partial(get_data, problem=problem, n_timesteps=n_timesteps, epochs=epochs)
    losses = read_losses(folder, name)
    seeds = range(len(losses) + 1, repeats + 1)
    for repeat, _ in train_repeats(get_builders(name), data, seeds):
        last = repeat.tail(epochs // 5).astype(float)
        losses.loc[len(losses) + 1] = last.mean().to_numpy()
        # A kill leaves the old file whole, and of two runs at once the longer one stays.
        if len(losses) > len(read_losses(folder, name)):
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                path = Path(unfinished, "losses.csv")
                path.write_text(get_text(name, losses), encoding="utf-8")
                path.replace(folder / f"{name}.csv")
        keras.utils.clear_session(free_memory=False)  # Keras keeps what it has named.
        yield


def get_work(name, repeats):
    """Returns what the repeats of a study cost, in updates for 10 timesteps.

    To compile a model takes as long as 50,000 of them, and new weights as long as 1,000.
    """
    _, n_timesteps, epochs, rates, models, _ = STUDIES[name]
    of_model = 50_000 + repeats * (1000 + epochs * n_timesteps // 10)
    return len(rates) * len(models) * of_model if repeats else 0


def at_best_rates(losses):
    """Returns each model's losses at its best learning rate, and these rates.

    Every other seed chooses, and those between report: if the same did both, a model of
    many lucky rates would win.
    """
    chooses = np.arange(len(losses)) % 2 == 0
    best = losses[chooses].mean(skipna=False).unstack().idxmin(axis="columns")
    return losses[~chooses][list(best.items())].droplevel(1, axis="columns"), best


def describe(above):
    """Returns the mean of paired differences, bold if it is more than 2 SE, and 2 SE."""
    mean, error = above.mean(), 2 * above.sem()
    bold = "**" if abs(mean) > error else ""
    return f"{bold}{mean:+.3f}{bold}", error


def print_table(title, rows, align="--:"):
    """Prints rows, each a dict of cells by column, as a table in Markdown."""
    print(f"\n{title}\n")
    line = ["---"] + [align] * (len(rows[0]) - 1)
    for cells in [rows[0], line, *[row.values() for row in rows]]:
        print(f"|{'|'.join(cells)}|")


def print_losses(losses):
    """Prints the losses on the tutorial's problem, at its rate and at the best ones."""
    columns = {}
    if "past" in losses:
        at_tutorials = losses["past"].xs("0.001", axis="columns", level="rate")
        columns["250 epochs, rate 0.001"] = at_tutorials
        columns["250 epochs, best rates"] = at_best_rates(losses["past"])[0]
    if "past-5000" in losses:
        columns["5,000 epochs, best rates"] = at_best_rates(losses["past-5000"])[0]
    rows, errors = [], [0]
    for model in TUTORIALS:
        other = "LSTM" if model == "lstm_back" else "BiLSTM"
        cells = {"model": "`lstm_back`, above the LSTM's" if other == "LSTM" else model}
        for column, loss in columns.items():
            cells[column] = f"{loss[model].mean():.3f}"
            if model != other:
                above, error = describe(loss[model] - loss[other])
                cells[column] += f" ({above})"
                errors.append(error)
        rows.append(cells)
    if columns:
        title = "Losses with 10 timesteps, and how far above the BiLSTM's"
        error = f"bold: more than 2 SE, which are {max(errors):.3f} or less"
        print_table(f"{title} ({error})", rows, align="---")


def print_when(losses):
    """Prints the losses at the best rates, for each kind of labels."""
    labels = {  # by problem, the rows and how the names of their models end
        "length": {"the past": ""},
        "total": {"the whole": ""},
        "one label": {
            f"the first half, one label (chance: {np.log(2):.3f})": "",
            "the same, outputs averaged": ", averaged",
            "the same, read backwards": ", backwards",
        },
    }
    rows, chosen, above = [], [], ""
    for name in [name for name in losses if name != "zeros"]:
        problem, n_timesteps, epochs, rates, _, _ = STUDIES[name]
        loss, best = at_best_rates(losses[name])
        lead = "{} ± {:.3f}".format(*describe(loss["BiLSTM"] - loss["two LSTMs"]))
        edges = [str(rates[0]), str(rates[-1])]
        cells = {m: f"{loss[m].mean():.3f}{'*' * (best[m] in edges)}" for m in loss}
        chosen += [float(rate) for rate in best]
        for label, end in labels[problem].items():
            row = {"labels depend on": "" if label == above else label}
            row |= {"timesteps": f"{n_timesteps}", "epochs": f"{epochs:,}"}
            row |= {m: cells.get(m + end, "") for m in ("LSTM", "two LSTMs", "BiLSTM")}
            row["BiLSTM minus two LSTMs"] = "" if end else lead
            rows.append(row)
            above = label
    if rows:
        rates = f"{min(chosen):g} to {max(chosen):g}"
        title = f"Each model at its best learning rate ({rates}; *: at the edge of the tried)"
        print_table(title, rows)


def print_why(zeros):
    """Prints the losses at each rate where the values are hidden."""
    mean, error = zeros.mean(), 2 * zeros.sem().max()
    rows = [
        {"rate": rate, **{model: f"{mean[model, rate]:.3f}" for model in ENDS}}
        for rate in zeros.columns.unique("rate")
    ]
    best = f"best possible: {position_baseline(10)[1]:.3f}"
    title = f"Values hidden, so that only the position can be learned ({best})"
    print_table(f"{title}, ± {error:.3f} or less", rows)


def plot_studies(losses, path):
    """Draws the loss against the learning rate, in a panel for each kind of labels."""
    titles = {"past": "the past", "whole": "the whole sequence"}
    names = [name for name in titles if name in losses]
    figure = plt.figure(figsize=(10, 5.5), layout="constrained")
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
        ax.set(title=f"Labels depend on {titles[name]}", xlabel="learning rate")
        ax.set(xscale="log", ylim=(0, None))
        ax.set_xticks(rates, loss.columns)
        ax.minorticks_off()
    axes[0].set_ylabel("log loss (nats)")
    setting = "10 timesteps, 20 units, last 50 of 250 epochs, mean ± 2 standard errors"
    figure.suptitle(f"Compare the models where each line is lowest\n{setting}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)
    print("\nFigure saved as", path)


def report(folder, names):
    """Prints the tables of what is saved, and draws the figure."""
    losses = {name: read_losses(folder, name) for name in names}
    print("\nRepeats:", ", ".join(f"{name} {len(losses[name])}" for name in names))
    losses = {name: table for name, table in losses.items() if len(table) >= 4}
    if hasattr(sys.stdout, "reconfigure"):  # It is not in a notebook.
        sys.stdout.reconfigure(errors="replace")  # A terminal may have no ±.
    print_losses(losses)
    print_when(losses)
    if "zeros" in losses:
        print_why(losses["zeros"])
    if losses.keys() & {"past", "whole"}:
        plot_studies(losses, folder / "learning_rates.png")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--study", nargs="+", choices=STUDIES, default=list(STUDIES), help="[all]")
    add("--repeats", type=int, default=200, help="at most, of each study [%(default)s]")
    add("--folder", type=Path, default="claims", help="of the losses [%(default)s]")
    args = parser.parse_args(argv)
    if args.repeats < 4:
        parser.error("--repeats must be at least 4: two choose the rates, two report")
    names = [name for name in STUDIES if name in args.study]
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.folder).close()  # Can it be written?
        done = {name: len(read_losses(args.folder, name)) for name in names}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    repeats = {name: min(STUDIES[name][-1], args.repeats) for name in names}
    missing = {name: max(0, repeats[name] - done[name]) for name in names}

    # Keras's LSTM for GPUs cannot be compiled by XLA.
    tf.config.set_visible_devices([], "GPU")
    work = sum(get_work(name, missing[name]) for name in names)
    bar = 1 if sys.stdout.isatty() else 2  # In a file, a line at the end is enough.
    progress = keras.utils.Progbar(work, verbose=bar, unit_name="update")
    with ctrl_c_waits() as presses:  # until all is reported
        for name in filter(missing.get, names):
            print(f"\n{name}: repeats to train: {missing[name]}", flush=True)
            for n, _ in enumerate(run_study(args.folder, name, repeats[name])):
                progress.add(get_work(name, n + 1) - get_work(name, n))
                if presses:
                    break
            if presses:
                break
        report(args.folder, names)
    return 130 if presses else 0


if __name__ == "__main__":
    sys.exit(main())
