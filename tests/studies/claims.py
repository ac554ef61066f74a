"""Trains the models that the README's claims are about, and prints its tables.

A study trains every model at several learning rates, always on the same sequences, and
repeats this with new ones. A loss is the mean log loss of a training's last fifth of
epochs, in nats. For the same setting another table may show another loss: it is a mean
over fewer seeds, or not over the last fifth of the epochs.

Each study saves its losses in the folder when a repeat ends, and a new start trains
only the repeats that are missing. Ctrl-C finishes the current repeat, then reports.

Example:
    python tests/studies/claims.py --study past zeros --repeats 10 --folder small
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import compare_models  # before keras, as it sets the backend
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from compare_directions import get_bi_lstm_model, get_lstm_model, train_repeats
from sequence import get_sequences, position_baseline

FORWARDS, BACKWARDS = False, True  # values of an LSTM's go_backwards


def get_lstms_model(n_timesteps, directions, *, output="all", learning_rate=0.001):
    """Returns a compiled model of LSTMs side by side, one for each direction.

    With output="all" it predicts a label per timestep, `[samples, n_timesteps, 1]` in
    forward order. Otherwise it predicts a label per sequence, `[samples, 1]`, from the
    "last" output of each LSTM or from the "mean" of its outputs.
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
TUTORIAL = list(MODELS)[:7]  # its models, and two LSTMs with as many weights as BiLSTM
DIRECTIONS = ["LSTM", "LSTM, backwards", "two LSTMs", "BiLSTM"]
ENDS = ["LSTM", "two LSTMs", "two LSTMs, backwards", "BiLSTM"]

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
STAR = "*: the lowest or highest rate tried"


class Study(NamedTuple):
    """What is trained: every model at every learning rate, n_repeats times.

    The problem says what a label depends on: "length" on the values up to its timestep,
    "total" on all values. In "one label" a sequence has one label, which depends on the
    first half of its values. "zeros" hides the values: only the position is left.
    """

    problem: str
    n_timesteps: int
    n_epochs: int
    rates: list
    models: list
    n_repeats: int


STUDIES = {
    "past": Study("length", 10, 250, RATES[1:], [*TUTORIAL, "LSTM, backwards"], 200),
    "past-5000": Study("length", 10, 5000, RATES[1:5], TUTORIAL, 60),
    "longer": Study("length", 50, 250, RATES[:6], DIRECTIONS, 100),
    "longer-5000": Study("length", 50, 5000, RATES[:5], DIRECTIONS, 40),
    "whole": Study("total", 10, 250, RATES[1:], DIRECTIONS, 100),
    "whole-5000": Study("total", 10, 5000, RATES[:5], DIRECTIONS, 60),
    "one-label": Study("one label", 50, 5000, [0.0001, *RATES[:4]], ONE_LABEL, 20),
    "zeros": Study("zeros", 10, 250, [0.001, 0.01, 0.03], ENDS, 60),
}


def get_builders(study):
    """Returns functions that build the study's models, by model and learning rate."""
    build = ONE_LABEL_MODELS if study.problem == "one label" else MODELS
    return {
        (model, str(rate)): partial(build[model], study.n_timesteps, learning_rate=rate)
        for model in study.models
        for rate in study.rates
    }


def get_data(seed, study):
    """Returns X and y of a repeat, which has a sequence for each epoch.

    Both are `[n_epochs, n_timesteps, 1]`. For "one label" y is `[n_epochs, 1]`, the
    label of the middle timestep: half of these labels are 1.
    """
    threshold = "total" if study.problem == "total" else "length"
    X, y = get_sequences(study.n_epochs, study.n_timesteps, seed, threshold)
    if study.problem == "zeros":
        X = np.zeros_like(X)
    if study.problem == "one label":
        y = y[:, study.n_timesteps // 2 - 1]
    return X, y


def get_text(study, losses):
    """Returns the text of a study's file: its settings in one line, then its losses."""
    settings = json.dumps(study[:-1])  # all but n_repeats
    rows = losses.to_csv(float_format="%.6f", na_rep="nan", lineterminator="\n")
    return f"{settings}\n{rows}"


def read_losses(folder, name):
    """Returns a study's losses: a row per seed, from 1 on, and columns (model, rate).

    Raises ValueError if the file is damaged, or was made with other settings.
    """
    study, path = STUDIES[name], folder / f"{name}.csv"
    columns = pd.MultiIndex.from_tuples(get_builders(study), names=["model", "rate"])
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=float).rename_axis("seed")
    try:
        rows = pd.read_csv(path, skiprows=4, header=None, index_col=0)
        seeds = pd.RangeIndex(1, len(rows) + 1, name="seed")
        losses = pd.DataFrame(rows.to_numpy(float), seeds, columns)
        rewrites_equal = get_text(study, losses) == path.read_text(encoding="utf-8")
    except ValueError:  # also the error of pandas for what it cannot read
        rewrites_equal = False
    if not rewrites_equal:
        problem = "is damaged or has other settings"
        raise ValueError(f"{path} {problem}: delete it, or name another folder")
    return losses


def run_study(folder, name, n_repeats, pressed):
    """Trains the repeats that a study lacks, and saves the losses after each.

    It ends early when the Event `pressed` is set. A kill leaves the old file whole.
    """
    study, losses = STUDIES[name], read_losses(folder, name)
    builders, data = get_builders(study), partial(get_data, study=study)
    seeds = range(len(losses) + 1, n_repeats + 1)
    if seeds:
        print(f"\n{name}: {len(builders)} models, compiled first", flush=True)
    for repeat, models in train_repeats(builders, data, seeds):
        last_fifth = repeat.tail(study.n_epochs // 5).astype(float)
        losses.loc[len(losses) + 1] = last_fifth.mean(skipna=False).to_numpy()
        unfinished = folder / f"{name}.unfinished"
        unfinished.write_text(get_text(study, losses), encoding="utf-8")
        unfinished.replace(folder / f"{name}.csv")
        print(f"{name}: repeat {len(losses)} of {n_repeats}", flush=True)
        keras.utils.clear_session(free_memory=False)  # or the names of layers pile up
        if pressed.is_set():
            break


def at_best_rates(losses):
    """Returns each model's losses at its best learning rate, and these rates.

    Half of the seeds choose the rates, and only the other half report: if all did both,
    a model with many lucky rates would win.
    """
    chooses = np.arange(len(losses)) % 2 == 0
    best = losses[chooses].mean(skipna=False).unstack().idxmin(axis="columns")
    return losses[~chooses][list(best.items())].droplevel(1, axis="columns"), best


def show_mean(loss):
    """Returns a mean loss as text: "nan" if a training diverged."""
    return f"{loss.mean(skipna=False):.3f}"


def show_difference(above):
    """Returns the mean of paired differences, bold if more than 2 SE, and 2 SE."""
    mean, error = above.mean(skipna=False), 2 * above.sem()
    bold = "**" if abs(mean) > error else ""
    return f"{bold}{mean:+.3f}{bold}", error


def get_cells(losses, study):
    """Returns texts: each model's mean loss at its best rate, and the BiLSTM's lead.

    A star marks a rate that is the lowest or the highest of the study.
    """
    loss, best = at_best_rates(losses)
    edges = [str(study.rates[0]), str(study.rates[-1])]
    cells = {m: show_mean(loss[m]) + "*" * (best[m] in edges) for m in study.models}
    above, error = show_difference(loss["BiLSTM"] - loss["two LSTMs"])
    return cells | {"BiLSTM minus two LSTMs": f"{above} ± {error:.3f}"}


def get_table(title, rows, align="--:"):
    """Returns the lines of a title and of rows, each a dict of texts, in Markdown."""
    line = ["---"] + [align] * (len(rows[0]) - 1)
    cells = [rows[0], line, *[row.values() for row in rows]]
    return [title, "", *[f"|{'|'.join(texts)}|" for texts in cells]]


def get_when_table(losses):
    """Returns the lines of the table of labels per timestep, at the best rates."""
    labels, rows = {"length": "the past", "total": "the whole"}, []
    for name in [name for name in losses if STUDIES[name].problem in labels]:
        study, cells = STUDIES[name], get_cells(losses[name], STUDIES[name])
        row = {"labels depend on": labels[study.problem]}
        labels[study.problem] = ""  # in the rows below
        row |= {"timesteps": f"{study.n_timesteps}", "epochs": f"{study.n_epochs:,}"}
        columns = ["LSTM", "two LSTMs", "BiLSTM", "BiLSTM minus two LSTMs"]
        rows.append(row | {column: cells[column] for column in columns})
    return get_table(f"At each model's best learning rate ({STAR}):", rows)


def get_one_label_table(losses):
    """Returns the lines of the table of one label per sequence, at the best rates."""
    study = STUDIES["one-label"]
    cells = get_cells(losses["one-label"], study)
    rows = [{"model": model, "log loss": text} for model, text in cells.items()]
    setting = f"{study.n_timesteps} timesteps, {study.n_epochs:,} epochs"
    title = f"One label per sequence, {setting} (chance: {np.log(2):.3f}; {STAR}):"
    return get_table(title, rows)


def get_losses_table(losses):
    """Returns the lines of the table of the tutorial's problem and models."""
    best = {"250 epochs, best rates": at_best_rates(losses["past"])[0]}
    if "past-5000" in losses:
        best["5,000 epochs, best rates"] = at_best_rates(losses["past-5000"])[0]
    rows, errors = [], []
    for model in TUTORIAL:
        other = "LSTM" if model == "lstm_back" else "BiLSTM"
        row = {"model": "`lstm_back` (against the LSTM)" if other == "LSTM" else model}
        row["250 epochs, rate 0.001"] = show_mean(losses["past"][model, "0.001"])
        for column, loss in best.items():
            above, error = show_difference(loss[model] - loss[other])
            row[column] = show_mean(loss[model])
            row[column] += f" ({above})" if model != other else ""
            errors.append(error)
        rows.append(row)
    title = "Losses with 10 timesteps, and how far above the BiLSTM's"
    bold = f"bold: more than 2 SE, which are {max(errors):.3f} or less"
    return get_table(f"{title} ({bold}):", rows, align="---")


def get_why_table(losses):
    """Returns the lines of the table of hidden values: the losses at each rate."""
    zeros = losses["zeros"]
    rows = [
        {"rate": rate} | {model: show_mean(zeros[model, rate]) for model in ENDS}
        for rate in zeros.columns.unique("rate")
    ]
    best = f"best possible: {position_baseline(10)[1]:.3f}"
    title = f"Values hidden, so that only the position can be learned ({best})"
    return get_table(f"{title}, ± {2 * zeros.sem().max():.3f} or less:", rows)


TABLES = {  # each needs one of these studies
    get_when_table: STUDIES.keys() - {"one-label", "zeros"},
    get_one_label_table: {"one-label"},
    get_losses_table: {"past"},
    get_why_table: {"zeros"},
}


def plot_studies(losses):
    """Returns a figure of the loss at each learning rate, with a panel per problem."""
    titles = {"past": "the past", "whole": "the whole sequence"}
    names = [name for name in titles if name in losses]
    figure = plt.Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names):
        study = STUDIES[name]
        colors = ["#0072B2", "#D55E00", "#CC79A7", "#009E73"]
        ax.set_prop_cycle(color=colors, marker=["o", "s", "^", "D"])
        for model in DIRECTIONS:
            loss = losses[name][model]
            rates = loss.columns.astype(float)
            mean, error = loss.mean(skipna=False), 2 * loss.sem()
            ax.errorbar(rates, mean, error, capsize=3, label=model)
        baseline = position_baseline(study.n_timesteps, study.problem)[1]
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
    return figure


def report(folder, names):
    """Prints the tables of what is saved, and draws the figure."""
    losses = {name: read_losses(folder, name) for name in names}
    print("\nRepeats:", ", ".join(f"{name} {len(losses[name])}" for name in names))
    losses = {name: table for name, table in losses.items() if len(table) >= 4}
    if hasattr(sys.stdout, "reconfigure"):  # It is not in a notebook.
        sys.stdout.reconfigure(errors="replace")  # A terminal may have no ±.
    for get_lines, needed in TABLES.items():
        if losses.keys() & needed:
            print("", *get_lines(losses), sep="\n")
    if losses.keys() & {"past", "whole"}:
        path = folder / "learning_rates.png"
        plot_studies(losses).savefig(path, dpi=150)
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
    if args.repeats < 4:
        parser.error("--repeats must be at least 4: two choose the rates, two report")
    names = [name for name in STUDIES if name in args.study]
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.folder).close()  # Can it be written?
        for name in names:
            read_losses(args.folder, name)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    tf.config.set_visible_devices([], "GPU")  # XLA cannot compile Keras's LSTM for it.
    with compare_models.noted_ctrl_c() as pressed:
        for name in names:
            if not pressed.is_set():
                n_repeats = min(STUDIES[name].n_repeats, args.repeats)
                run_study(args.folder, name, n_repeats, pressed)
        report(args.folder, names)
    return 130 if pressed.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
