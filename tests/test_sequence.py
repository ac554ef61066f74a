import re
import subprocess
import sys
from fractions import Fraction
from itertools import accumulate
from math import comb, factorial

import numpy as np
import pytest
from conftest import ROOT

from sequence import (
    get_labels,
    get_sequence,
    get_sequences,
    main,
    position_baseline,
)

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


@pytest.mark.parametrize("n_timesteps", [1, 2, 7, 10, 333])
def test_labels_are_those_of_the_tutorials_listing(n_timesteps):
    X, y = get_sequences(20, n_timesteps, rng=n_timesteps)
    limit = n_timesteps / 4.0
    for values, labels in zip(X[:, :, 0], y[:, :, 0]):
        total = np.cumsum(values.astype(float))
        assert labels.tolist() == [0 if x < limit else 1 for x in total]
    assert np.array_equal(get_labels(X), y)


def test_label_is_1_when_the_sum_reaches_the_threshold_exactly():
    assert label([0.5, 0.5, 0.0, 0.0]) == [0, 1, 1, 1]
    assert label([0.5, 0.5, 0.5, 0.5], "total") == [0, 1, 1, 1]


def test_negative_values_take_labels_back_to_0():
    assert label([1.0, -0.5, 0.5, 0.0]) == [1, 0, 1, 1]
    assert label([3.0, -2.0, 1.0], "total") == [1, 1, 1]
    assert label([3.0, -2.5, 0.0, 1.5], "total") == [1, 0, 0, 1]


def test_from_a_nan_on_labels_are_0():
    assert label([1.0, 1.0, np.nan, 1.0]) == [1, 1, 0, 0]
    assert label([1.0, 1.0, np.nan, 1.0], "total") == [0, 0, 0, 0]


@pytest.mark.parametrize("n_timesteps", [1, 2, 7, 10, 333])
def test_labels_of_the_total_flip_at_half_of_the_own_sum(n_timesteps):
    X, y = get_sequences(20, n_timesteps, n_timesteps, "total")
    assert np.array_equal(X, get_sequences(20, n_timesteps, n_timesteps)[0])
    for values, labels in zip(X[:, :, 0], y[:, :, 0]):
        sums = list(accumulate(Fraction(float(x)) for x in values))  # exact
        assert labels.tolist() == [int(x >= sums[-1] / 2) for x in sums]
    assert np.array_equal(y[:1], get_sequence(n_timesteps, n_timesteps, "total")[1])


def test_only_labels_of_the_total_depend_on_values_to_come():
    X, _ = get_sequences(500, 10, rng=0)
    changed = X.copy()
    changed[:, -1] = 5
    same = [
        np.array_equal(get_labels(X, t)[:, :-1], get_labels(changed, t)[:, :-1])
        for t in ("length", "total")
    ]
    assert same == [True, False]


def test_sequences_have_their_shapes_types_and_distribution():
    X, y = get_sequences(2000, 10, rng=0)
    assert X.shape == y.shape == (2000, 10, 1)
    assert X.dtype == np.float32 and np.issubdtype(y.dtype, np.integer)
    assert X.min() >= 0 and X.max() < 1
    # The deciles of 20,000 uniform values, at five standard errors.
    counts = np.histogram(X, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)


def test_get_sequence_is_the_first_row_of_get_sequences():
    X, y = get_sequence(12, rng=3)
    X_all, y_all = get_sequences(5, 12, rng=3)
    assert np.array_equal(X, X_all[:1]) and np.array_equal(y, y_all[:1])


def test_rng_seeds_or_goes_on():
    assert np.array_equal(get_sequence(10, rng=5)[0], get_sequence(10, rng=5)[0])
    assert not np.array_equal(get_sequence(10, rng=5)[0], get_sequence(10, rng=6)[0])
    assert not np.array_equal(get_sequence(10)[0], get_sequence(10)[0])
    rng = np.random.default_rng(5)
    first, second = get_sequence(10, rng)[0], get_sequence(10, rng)[0]
    assert np.array_equal(first, get_sequence(10, rng=5)[0])
    assert not np.array_equal(first, second)


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
        below = {"length": (k, Fraction(n, 4)), "total": (n, Fraction(n - k))}[
            threshold
        ]
        p = 1 - irwin_hall(*below)
        accuracy += float(max(p, 1 - p))
        log_loss -= sum(float(q) * np.log(float(q)) for q in (p, 1 - p) if float(q) > 0)
    return accuracy / n, log_loss / n


@pytest.mark.parametrize("threshold", ["length", "total"])
@pytest.mark.parametrize("n_timesteps", [1, 2, 3, 4, 7, np.uint8(10), 37, 150])
def test_position_baseline_is_the_closed_form(n_timesteps, threshold):
    expected = exact_baseline(int(n_timesteps), threshold)
    baseline = position_baseline(n_timesteps, threshold)
    assert baseline == pytest.approx(expected, abs=1e-3)


def test_position_baseline_of_long_sequences_is_what_a_simulation_scores():
    y = get_sequences(4000, 1000, rng=0)[1].astype(bool)
    p = y[:2000].mean(axis=0)  # what is known of the positions from one half
    accuracy = ((p > 0.5) == y[2000:]).mean()
    assert position_baseline(1000)[0] == pytest.approx(accuracy, abs=0.002)


def test_bad_arguments_raise_the_errors_of_numpy_and_python():
    for function, *args in [
        (get_labels, np.ones((1, 3, 1))),
        (get_sequences, 2, 3, 0),
        (get_sequence, 3, 0),
        (position_baseline, 3),
    ]:
        with pytest.raises(KeyError, match="Total"):
            function(*args, "Total")
    with pytest.raises(ZeroDivisionError):
        position_baseline(0)
    for function in (get_sequence, position_baseline):
        with pytest.raises(ValueError, match="negative"):
            function(-3)


@pytest.mark.parametrize("threshold", ["length", "total"])
def test_script_prints_the_values_and_the_labels(threshold):
    command = [sys.executable, ROOT / "sequence.py", "--timesteps", "12", "--seed", "4"]
    if threshold == "total":
        command += ["--threshold", threshold]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values, labels, rest = printed.replace("[", "").split("]")
    X, y = get_sequence(12, 4, threshold)
    assert [float(x) for x in values.split()] == pytest.approx(X.ravel(), abs=1e-7)
    assert [int(label) for label in labels.split()] == y.ravel().tolist()
    assert rest.strip() == ""


def test_script_shows_both_thresholds_at_its_defaults(capsys):
    main([])
    main(["--threshold", "length"])
    main(["--threshold", "total"])
    default, length, total = re.findall(
        r"\[([^]]*)]\n\[([^]]*)]", capsys.readouterr().out
    )
    assert default == length and total[0] == length[0]
    assert total[1] != length[1]
    for _, labels in (length, total):
        assert len(labels.split()) == 10 and set(labels.split()) == {"0", "1"}


@pytest.mark.parametrize(
    "args",
    [
        ["--timesteps", "0"],
        ["--timesteps", "1.5"],
        ["--seed", "-1"],
        ["--threshold", "half"],
    ],
)
def test_script_refuses_in_one_line(args):
    command = [sys.executable, ROOT / "sequence.py", *args]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stdout == ""
    assert "sequence.py: error: " in result.stderr and args[0] in result.stderr
    assert "Traceback" not in result.stderr


def test_import_needs_numpy_alone():
    code = (
        "import sys, sequence; print(sorted({'tensorflow', 'keras', 'pandas', "
        "'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"
