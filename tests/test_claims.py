"""The evidence program, on studies small enough for a test."""

import json
import re
import signal
import sys
from functools import partial

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_is_picture

from bilstm_classify import get_bi_lstm_model
from sequence import get_sequences, position_baseline

sys.path.insert(0, str(ROOT / "tests"))
import claims


def draw_repeats(builders, data, seeds):
    """Stands in for train_repeats: losses that depend on the seed and the study alone."""
    for seed in seeds:
        X, _ = data(seed)
        losses = np.random.default_rng([seed, int(X.sum())]).random((60, len(builders)))
        index = pd.MultiIndex.from_product(
            [[seed], range(1, 61)], names=["seed", "epoch"]
        )
        yield pd.DataFrame(losses, index, columns=list(builders)), {}


@pytest.fixture
def drawn(monkeypatch, in_tmp):
    """Studies of few rates and repeats, with the names of the real ones, not trained."""
    studies = {
        "past": ["length", 4, 60, [0.001], claims.ALL, 9],
        "whole": ["total", 4, 60, [0.001, 0.01], claims.DIRECTIONS, 9],
        "zeros": ["zeros", 4, 60, [0.01], claims.ENDS, 9],
    }
    monkeypatch.setattr(claims, "STUDIES", studies)
    monkeypatch.setattr(claims, "train_repeats", draw_repeats)


def get_tables(printed):
    """The tables by the titles above them, each a list of rows, the first the columns."""
    tables = re.findall(r"^(\S.*)\n\n((?:\|.*\n)+)", printed, re.MULTILINE)
    return {
        title: [
            [c.strip() for c in row.strip("|").split("|")] for row in rows.splitlines()
        ]
        for title, rows in tables
    }


WHEN = "Each model at its best rate (*: the lowest or highest that was tried)"


def test_best_rates_are_chosen_on_one_half_and_reported_on_the_other():
    columns = pd.MultiIndex.from_product([["a", "b"], ["0.001", "0.01"]])
    rows = {  # of any seeds; the first, third and fifth choose
        100: [1, 2, 9, 5],
        101: [7, 3, 1, 2],
        102: [1, 2, 9, 5],
        107: [9, 4, 1, 4],
        110: [1, 2, 9, 5],
    }
    losses = pd.DataFrame.from_dict(rows, "index", columns=columns, dtype=float)
    loss, best = claims.at_best_rates(losses)
    assert best.to_dict() == {"a": "0.001", "b": "0.01"}
    assert loss.to_dict() == {"a": {101: 7, 107: 9}, "b": {101: 2, 107: 4}}
    # Of a rate at which a training diverged nothing is chosen.
    losses.loc[102, ("a", "0.001")] = np.nan
    assert claims.at_best_rates(losses)[1]["a"] == "0.01"


@pytest.mark.parametrize(
    ("above", "verdict"),
    [
        ([1, 2, 3], r"\*\*no, higher\*\*: 12.000, 10.000 \(\+2.000 ± 1.155\)"),
        ([-1, -2, -3], r"\*\*yes\*\*: 8.000, 10.000 \(-2.000 ± 1.155\)"),
        (
            [-1, 0, 1],
            r"\*\*no difference seen\*\*: 10.000, 10.000 \(.0.000 ± 1.155\)",
        ),
    ],
)
def test_verdicts_are_of_paired_differences(above, verdict):
    loss = pd.DataFrame({"a": above, "b": [0, 10, 20]})
    loss["a"] += loss["b"]
    assert re.fullmatch(verdict, claims.compare(loss, "a", "b"))


def test_interrupted_and_started_again_it_gives_the_same_tables(
    drawn, in_tmp, monkeypatch, capsys
):
    assert claims.main(["--folder", "whole", "--repeats", "4"]) == 0
    whole = capsys.readouterr().out
    # Killed after three repeats of the second study, and with Ctrl-C in the third.
    assert (
        claims.main(["--folder", "parts", "--repeats", "3", "--study", "past", "whole"])
        == 0
    )

    def press_in_zeros(builders, data, seeds):
        for seed, repeat in zip(
            seeds, draw_repeats(builders, data, seeds), strict=True
        ):
            if data.keywords["problem"] == "zeros" and seed == 4:
                signal.raise_signal(signal.SIGINT)
            yield repeat

    monkeypatch.setattr(claims, "train_repeats", press_in_zeros)
    capsys.readouterr()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert claims.main(["--folder", "parts", "--repeats", "4"]) == 130
    signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr()
    assert printed.err.endswith("\nCtrl-C: reports the repeats that are done\n")
    assert len(get_tables(printed.out)) == 3
    monkeypatch.setattr(claims, "train_repeats", draw_repeats)
    assert claims.main(["--folder", "parts", "--repeats", "4"]) == 0
    parts = capsys.readouterr().out
    assert get_tables(parts) == get_tables(whole) != get_tables(printed.out)
    assert {p.name for p in (in_tmp / "parts").iterdir()} == {
        *[f"{name}.csv" for name in claims.STUDIES],
        "learning_rates.png",
    }
    assert_is_picture(in_tmp / "parts" / "learning_rates.png")
    assert "repeats in" not in claims_again(capsys)
    # Nothing is trained where all is done, and no file of other settings is gone on with.
    claims.STUDIES["zeros"] = ["zeros", 4, 61, [0.01], claims.ENDS, 9]
    with pytest.raises(SystemExit) as stopped:
        claims.main(["--folder", "parts", "--repeats", "5"])
    assert stopped.value.code == 2
    assert "zeros.csv has other settings" in capsys.readouterr().err.splitlines()[-1]


def claims_again(capsys):
    assert claims.main(["--folder", "parts", "--repeats", "2"]) == 0
    return capsys.readouterr().out


def test_losses_are_those_of_fit(in_tmp, monkeypatch, capsys):
    studies = {"whole": ["total", 4, 10, [0.01], claims.DIRECTIONS, 9]}
    monkeypatch.setattr(claims, "STUDIES", studies)
    monkeypatch.setattr(
        claims, "train_repeats", partial(claims.train_repeats, jit=False)
    )
    assert claims.main(["--folder", ".", "--repeats", "2"]) == 0
    X, y = get_sequences(10, 4, 2, "total")
    losses = claims.read_losses(in_tmp, "whole")
    options = {"batch_size": 1, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    for name in ("BiLSTM", "LSTM, backwards in order"):
        keras.utils.set_random_seed(2)
        model = claims.MODELS[name](4, learning_rate=0.01)
        model.run_eagerly = True  # so few updates are done sooner than compiled
        loss = model.fit(X, y, epochs=10, **options).history["loss"]
        assert losses.loc[2, (name, "0.01")] == pytest.approx(np.mean(loss), abs=1e-5)
    assert list(get_tables(capsys.readouterr().out)) == [WHEN]
    assert_is_picture(in_tmp / "learning_rates.png")


def test_tables_hold_the_statistics_of_the_losses(drawn, in_tmp, capsys):
    assert claims.main(["--folder", ".", "--repeats", "6"]) == 0
    verdicts, when, why = get_tables(capsys.readouterr().out).values()
    past = claims.read_losses(in_tmp, "past").droplevel(1, axis="columns")
    lead = past["BiLSTM"] - past["LSTM"]
    mean, error = lead.mean(), 2 * lead.std() / np.sqrt(6)
    assert verdicts[2][0] == "BiLSTM than LSTM" and len(verdicts) == 2 + 6
    assert verdicts[2][1].endswith(f"({mean:+.3f} ± {error:.3f})")
    whole = claims.read_losses(in_tmp, "whole")
    row = dict(zip(when[0], when[3]))
    assert row["labels depend on"] == "the whole" and row["epochs"] == "60"
    assert row["position baseline"] == f"{position_baseline(4, 'total')[1]:.3f}"
    best = whole["BiLSTM"].loc[[1, 3, 5]].mean().idxmin()
    reported = whole.loc[[2, 4, 6], ("BiLSTM", best)].mean()
    assert row["BiLSTM"] == f"{reported:.3f} ({best}*)"  # Both rates are at the edges.
    zeros = claims.read_losses(in_tmp, "zeros")["LSTM", "0.01"]
    error = 2 * zeros.std() / np.sqrt(6)
    assert dict(zip(why[0], why[2]))["LSTM"] == f"{zeros.mean():.3f} ± {error:.3f}"


def test_controls_change_one_thing():
    X, _ = get_sequences(1, 10, rng=0)
    changed = X.copy()
    changed[0, 4] += 0.5

    def moves(model):
        before, after = np.asarray(model(X)), np.asarray(model(changed))
        return (np.abs(before - after)[0, :, 0] > 1e-6).tolist()

    up_to, from_there_on = [True] * 5 + [False] * 5, [False] * 4 + [True] * 6
    assert moves(claims.get_aligned_lstm_model(10)) == up_to
    assert moves(claims.get_double_lstm_model(10)) == from_there_on
    assert moves(claims.get_double_lstm_model(10, backwards=True)) == up_to
    assert moves(get_bi_lstm_model(10)) == [True] * 10
    bilstm = get_bi_lstm_model(10)
    for build in (claims.get_aligned_lstm_model, claims.get_double_lstm_model):
        model = build(10, learning_rate=0.02)
        assert np.asarray(model.optimizer.learning_rate) == pytest.approx(0.02)
        assert model.loss == bilstm.loss
    assert model.count_params() == bilstm.count_params() == 3561


def test_zeros_hide_the_values_and_nothing_else():
    X, y = claims.get_data(5, "zeros", 10, 20)
    assert X.shape == (20, 10, 1) and not X.any()
    assert np.array_equal(y, get_sequences(20, 10, rng=5)[1])


def test_real_settings_survive_their_file():
    for *settings, _ in claims.STUDIES.values():
        assert json.loads(json.dumps(settings)) == settings
