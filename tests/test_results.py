"""What is made of losses and predictions: the summary, and what the figures show.

The tables and sequences are the tests' own. What the scripts put into their figures is
in test_classifiers.py and test_comparisons.py.
"""

import numpy as np
import pandas as pd
import pytest
from conftest import random_losses
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from compare_directions import plot_results, summarize
from lstm_classify import plot_sequence, plot_training


@pytest.fixture
def results():
    """Random losses of two models, three seeds and sixty epochs."""
    return random_losses(["lstm_forw", "mine"], [3, 4, 8], 60)


def shuffled(results):
    return results.sample(frac=1, random_state=1)


def texts(ax):
    """What stands in the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("args", "n_last"), [([], 50), ([7], 7), ([99], 60)])
def test_summary_holds_the_statistics_of_the_last_epochs(args, n_last, results):
    loss = results.to_numpy().reshape(3, 60, 2)[:, -n_last:].mean(axis=1).T
    best = loss.mean(axis=1).argmin()
    summary = summarize(shuffled(results), *args)
    assert list(summary) == ["loss", "2 SE", "above the best", "2 SE, paired"]
    for i, name in enumerate(["lstm_forw", "mine"]):
        above = loss[i] - loss[best]
        errors = [2 * x.std(ddof=1) / np.sqrt(3) for x in (loss[i], above)]
        expected = [loss[i].mean(), errors[0], above.mean(), errors[1]]
        assert summary.loc[name].to_numpy() == pytest.approx(expected)


SPOILT = {
    r"\[8\]: losses .*diverged": lambda r: r.mask(r == r.loc[8].min().min()),
    r"\[4\]: losses .*diverged": lambda r: r.mask(r == r.loc[4].min().min(), np.inf),
    r"\[8\]: losses are missing": lambda r: r.iloc[:-1],
    "duplicate": lambda r: pd.concat([r, r.iloc[-1:]]),
}


@pytest.mark.parametrize(("message", "spoil"), list(SPOILT.items()))
def test_results_that_would_mislead_are_refused(spoil, message, results):
    with pytest.raises(ValueError, match=message):
        summarize(shuffled(spoil(results)))


@pytest.mark.parametrize("n_bins", [60, 20, 6])
def test_curves_are_means_over_seeds_in_bands_of_two_errors(n_bins, results):
    ax = Figure().subplots()
    ax.plot([1, 60], [0.3, 0.3])  # The axes may hold more.
    plot_results(ax, shuffled(results), n_bins)
    _, *lines = ax.lines
    assert [line.get_label() for line in lines] == ["lstm_forw", "mine"]
    epochs = np.arange(1, 61).reshape(n_bins, -1).mean(axis=1)
    for i, (line, band) in enumerate(zip(lines, ax.collections, strict=True)):
        assert to_rgb(band.get_facecolor()[0, :3]) == to_rgb(line.get_color())
        losses = results.iloc[:, i].to_numpy().reshape(3, n_bins, -1).mean(axis=2)
        mean, error = losses.mean(axis=0), 2 * losses.std(axis=0, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(line.get_xydata(), np.transpose([epochs, mean]))
        edge = band.get_paths()[0].vertices
        for epoch, low, high in zip(epochs, mean - error, mean + error):
            there = edge[np.isclose(edge[:, 0], epoch), 1]
            assert (there.min(), there.max()) == pytest.approx((low, high))
    assert len({line.get_color() for line in ax.lines}) == 3
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss, mean ± 2 SE")
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_training_is_drawn_with_its_running_mean_and_the_baseline(kind):
    ax, losses = Figure().subplots(), np.linspace(0.9, 0.3, 80) ** 2
    plot_training(ax, kind(losses), 0.25)
    epochs, mean, baseline = ax.lines
    assert np.diff(epochs.get_xdata()).tolist() == [1] * 79
    assert epochs.get_ydata() == pytest.approx(losses)
    assert epochs.get_linestyle() == "None" and epochs.get_marker() == "."
    expected = [losses[max(0, i - 49) : i + 1].mean() for i in range(80)]
    assert mean.get_ydata() == pytest.approx(expected)
    assert mean.get_xdata().tolist() == epochs.get_xdata().tolist()
    assert list(baseline.get_ydata()) == [0.25, 0.25]
    assert texts(ax) == ["one epoch", "mean of the last 50", "position baseline"]
    assert texts(ax) == [line.get_label() for line in ax.lines]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "log loss (nats)")
    assert ax.get_title() == "Training" and ax.get_ylim()[0] == 0


def test_values_sums_and_threshold_stand_above_labels_and_probabilities():
    upper, lower = Figure().subplots(2)
    X, yhat = np.array([0.5, 0.25, 0.75]), np.array([0.1, 0.4, 0.7])
    plot_sequence(upper, lower, X, np.array([0, 0, 1]), yhat, 0.9)
    lines = {line.get_label(): line for line in [*upper.lines, *lower.lines]}
    data = {label: list(line.get_ydata()) for label, line in lines.items()}
    assert data == {
        "cumulative sum": [0.5, 0.75, 1.5],
        "threshold": [0.9, 0.9],
        "expected label": [0, 0, 1],
        "predicted probability": [0.1, 0.4, 0.7],
        "decision threshold": [0.5, 0.5],
    }
    assert [bar.get_height() for bar in upper.patches] == X.tolist()
    for ax in (upper, lower):
        assert ax.get_xlim() == (0.5, 3.5)
        centres = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
        assert centres == pytest.approx([1, 2, 3])
        assert all(list(x.get_xdata()) in ([1, 2, 3], [0, 1]) for x in ax.lines)
    assert lower.get_xlabel() == "timestep"
    # A label is drawn over its own timestep: half before it, half after.
    assert lines["expected label"].get_drawstyle() == "steps-mid"
    assert set(texts(upper)) == {"value", "cumulative sum", "threshold"}
    assert set(texts(upper) + texts(lower)) == {*lines, "value", "wrong prediction"}


def test_wrong_timesteps_are_shaded_in_the_colour_of_the_legend():
    """A probability of exactly 0.5 predicts 0."""
    upper, lower = Figure().subplots(2)
    y = np.array([0, 1, 1, 1, 0, 1])
    yhat = np.array([0.1, 0.9, 0.2, 0.4, 0.5, 0.5])
    plot_sequence(upper, lower, np.full(6, 0.5), y, yhat, 1)
    shaded = [bar for bar in lower.patches if bar.get_height()]
    assert [bar.get_x() for bar in shaded] == [2.5, 3.5, 5.5]
    assert all(bar.get_width() == bar.get_height() == 1 for bar in shaded)
    swatch = lower.get_legend().legend_handles[texts(lower).index("wrong prediction")]
    assert all(bar.get_facecolor() == swatch.get_facecolor() for bar in shaded)
