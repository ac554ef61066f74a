"""sequence.py: its sequences and labels, its baseline, and what the script prints.

The oracles are the tutorial's printed sequences, exact fractions, and a closed form of
the position baseline. Refused options are in test_command_line.py.
"""

import subprocess
import sys
from fractions import Fraction
from itertools import accumulate
from math import comb, factorial

import numpy as np
import pytest
from conftest import ROOT

import sequence
from sequence import get_labels, get_limits, get_sequence, get_sequences

# The sequences that the tutorial prints, with the labels that it prints.
TUTORIAL = {
    """0.63144003 0.29414551 0.91587952 0.95189228 0.32195638
    0.60742236 0.83895793 0.18023048 0.84762691 0.29165514""": "0 0 0 1 1 1 1 1 1 1",
    """0.22228819 0.26882207 0.069623 0.91477783 0.02095862
    0.71322527 0.90159654 0.65000306 0.88845226 0.4037031""": "0 0 0 0 0 0 1 1 1 1",
}


def label(values, threshold="length"):
    """The labels of one sequence, from and to lists."""
    y = get_labels(np.reshape(values, (1, -1, 1)), threshold)
    assert y.shape == (1, len(values), 1) and np.issubdtype(y.dtype, np.integer)
    return y.ravel().tolist()


@pytest.mark.parametrize(("values", "labels"), TUTORIAL.items())
def test_labels_are_those_printed_in_the_tutorial(values, labels):
    values, labels = values.split(), labels.split()
    assert label([float(x) for x in values]) == [int(y) for y in labels]


def test_label_is_1_when_the_sum_reaches_the_threshold_exactly():
    assert label([0.5, 0.5, 0.0, 0.0]) == [0, 1, 1, 1]
    assert label([0.5, 0.5, 0.5, 0.5], "total") == [0, 1, 1, 1]


@pytest.mark.parametrize("n_timesteps", [1, 2, 7, 10, 333])
@pytest.mark.parametrize("threshold", ["length", "total"])
def test_labels_flip_where_the_exact_sum_reaches_the_limit(threshold, n_timesteps):
    X, y = get_sequences(20, n_timesteps, n_timesteps, threshold)
    limits = get_limits(X, threshold)
    assert limits.shape == (20, 1, 1)
    for values, labels, limit in zip(X[:, :, 0], y[:, :, 0], limits.ravel()):
        sums = list(accumulate(Fraction(float(x)) for x in values))
        half = {"length": Fraction(n_timesteps, 4), "total": sums[-1] / 2}[threshold]
        assert Fraction(float(limit)) == half
        assert labels.tolist() == [int(x >= half) for x in sums]
    # The threshold changes the labels alone, and is a quarter of the length by default.
    assert np.array_equal(X, get_sequences(20, n_timesteps, n_timesteps)[0])
    assert np.array_equal(get_limits(X), get_limits(X, "length"))


def test_sequences_have_their_shapes_types_and_distribution():
    X, y = get_sequences(2000, 10, rng=0)
    assert X.shape == y.shape == (2000, 10, 1)
    assert X.dtype == np.float32 and np.issubdtype(y.dtype, np.integer)
    assert X.min() >= 0 and X.max() < 1
    # The deciles of 20,000 uniform values, at five standard errors.
    counts = np.histogram(X, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)


def test_get_sequence_is_the_first_row_of_get_sequences():
    X, y = get_sequence(12, 3, "total")
    X_all, y_all = get_sequences(5, 12, 3, "total")
    assert np.array_equal(X, X_all[:1]) and np.array_equal(y, y_all[:1])


def test_rng_seeds_or_goes_on():
    rng = np.random.default_rng(5)
    rngs = [5, rng, rng, 6, None, None]
    first, again, *others = (get_sequence(10, rng)[0].tolist() for rng in rngs)
    assert first == again and all([first, *others].count(x) == 1 for x in others)


def irwin_hall(n, x):
    """How likely the sum of n uniform values is below x: a closed form, exactly."""
    terms = ((-1) ** j * comb(n, j) * (x - j) ** n for j in range(int(x) + 1))
    return sum(terms) / factorial(n) if x < n else Fraction(1)


def exact_baseline(n, threshold):
    """The position baseline, from how likely each label is 1, in exact fractions.

    A sum of k values reaches n / 4. Or it reaches the sum of the n - k others: taken as
    1 - x, which are as likely, they and the k values have a sum of at least n - k.
    """
    accuracy, log_loss = 0, 0
    for k in range(1, n + 1):
        below = {"length": (k, Fraction(n, 4)), "total": (n, Fraction(n - k))}
        p = 1 - irwin_hall(*below[threshold])
        accuracy += float(max(p, 1 - p))
        log_loss -= sum(float(q) * np.log(float(q)) for q in (p, 1 - p) if float(q) > 0)
    return accuracy / n, log_loss / n


@pytest.mark.parametrize("threshold", ["length", "total"])
@pytest.mark.parametrize("n_timesteps", [1, 2, 3, 4, 7, 10, 37, 150])
def test_position_baseline_is_the_closed_form(n_timesteps, threshold):
    expected = exact_baseline(n_timesteps, threshold)
    baseline = sequence.position_baseline(n_timesteps, threshold)
    assert baseline == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("threshold", ["length", "total"])
def test_script_prints_the_values_and_the_labels(threshold):
    args = ["--timesteps", "12", "--seed", "4", "--threshold", threshold]
    command = [sys.executable, ROOT / "sequence.py", *args]
    printed = subprocess.check_output(command, text=True)
    values, labels, rest = printed.replace("[", "").split("]")
    X, y = get_sequence(12, 4, threshold)
    assert [float(x) for x in values.split()] == pytest.approx(X.ravel(), abs=1e-7)
    assert [int(label) for label in labels.split()] == y.ravel().tolist()
    assert rest.strip() == ""


def test_script_shows_ten_timesteps_of_the_tutorials_threshold_by_default(capsys):
    for args in ([], ["--timesteps", "10", "--threshold", "length"]):
        sequence.main(args)
    printed = capsys.readouterr().out
    assert printed == printed[: len(printed) // 2] * 2
