"""A run of lstm_classify.py and of bilstm_classify.py: what reaches the model and the
data, what is printed, drawn and saved, against the tutorial's own loop of fit calls."""

import re

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import train_nothing

import bilstm_classify
import lstm_classify
from sequence import get_sequences, position_baseline

LSTM = lstm_classify, lstm_classify.get_lstm_model, "LSTM"
BILSTM = bilstm_classify, bilstm_classify.get_bi_lstm_model, "BiLSTM"
BOTH = pytest.mark.parametrize(("classifier", "build", "name"), [LSTM, BILSTM])


def get_scores(y, yhat):
    """Accuracy and log loss, by their definitions."""
    log_loss = -np.mean(np.log(np.where(y == 1, yhat, 1 - yhat)))
    return [np.mean((yhat > 0.5) == y), log_loss]


def get_table(printed):
    """The rows of the scores by their names, each with its numbers."""
    rows = re.findall(r"^(.*\S) +(\d\.\d{3}) +(\d\.\d{3})$", printed, re.MULTILINE)
    return {name: [float(x), float(y)] for name, x, y in rows}


def get_data(ax):
    """What the lines of Axes show, by their labels."""
    return {line.get_label(): np.array(line.get_ydata()) for line in ax.lines}


@BOTH
def test_script_trains_and_scores_as_the_tutorials_loop(
    classifier, build, name, in_tmp, monkeypatch, capsys
):
    """All options but --verbose are given. As the loop has the same seeds, the command
    prints the same numbers whenever it is run."""
    shown = []
    plot, model_file = in_tmp / "ein Bild für dich.PDF", in_tmp / "model.keras"
    args = ["--timesteps", "7", "--threshold", "total", "--units", "5"]
    args += ["--epochs", "3", "--learning-rate", "0.02", "--seed", "3"]
    args += ["--save", str(model_file), "--plot", str(plot)]
    monkeypatch.setattr(plt, "show", lambda: shown.extend(in_tmp.iterdir()))
    assert classifier.main(args) == 0
    printed = capsys.readouterr().out
    assert set(shown) == {plot, model_file}  # All is saved before the figure is shown.
    assert plot.read_bytes().startswith(b"%PDF")
    assert printed.endswith(f"\nModel saved as {model_file}\nFigure saved as {plot}\n")

    # The same seeds, and a fit call a sequence.
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    model = build(7, learning_rate=0.02, n_units=5)
    model.run_eagerly = True  # so few updates are done sooner than compiled
    losses = []
    for X, y in zip(*get_sequences(3, 7, rng, "total")):
        fit = model.fit(X[None], y[None], batch_size=1, verbose=0)
        losses += fit.history["loss"]
    # The saved model, loaded, scores new sequences as printed, and so does that of fit.
    X, y = get_sequences(1000, 7, rng, "total")
    baseline = position_baseline(7, "total")
    for scorer in (model, keras.saving.load_model(model_file)):
        yhat = np.asarray(scorer(X))
        assert get_table(printed) == {
            name: pytest.approx(get_scores(y, yhat), abs=6e-4),
            "position baseline": pytest.approx(baseline, abs=6e-4),
        }
    setting = "7 timesteps, threshold from total, 5 units, learning rate 0.02, 3 epochs"
    assert f"\nScores on the 1,000 new sequences\n{setting}\n" in printed

    # The figure has the losses, and names the accuracies.
    title, below = plt.gcf().get_suptitle().split("\n")
    accuracy, guessed = map(float, re.findall(r"\d\d\.\d", title))
    assert title == f"{name}: {accuracy}% right, position alone: {guessed}%"
    assert accuracy == pytest.approx(100 * get_scores(y, yhat)[0], abs=0.11)
    assert guessed == pytest.approx(100 * baseline[0], abs=0.06)
    assert below == setting
    left, upper, lower = plt.gcf().axes
    data = get_data(left)
    assert data["one epoch"] == pytest.approx(losses, abs=1e-4)
    assert data["mean of the last 50"][-1] == pytest.approx(np.mean(losses), abs=1e-4)
    assert data["position baseline"] == pytest.approx([baseline[1]] * 2)

    # It shows the sequence that is printed, whose log loss is the median of the 1,000.
    assert "\nOf 1,000 new sequences, the one with the median log loss\n" in printed
    assert upper.get_title() == "The new sequence with the median log loss"
    values = [bar.get_height() for bar in upper.patches]
    [i] = np.flatnonzero(np.isclose(X[:, :, 0], values).all(axis=1))
    log_losses = -np.log(np.where(y == 1, yhat, 1 - yhat)).mean(axis=(1, 2))
    below, above = np.sort(log_losses)[[498, 501]]
    assert below - 1e-6 <= log_losses[i] <= above + 1e-6
    lines = re.findall(r"\nExpected: \[(\d)\] Predicted \[(\d)\]", printed)
    expected, predicted = np.array(lines, dtype=int).T
    assert expected.tolist() == y[i, :, 0].tolist()
    data = get_data(upper) | get_data(lower)
    assert data["expected label"].tolist() == expected.tolist()
    probability = data["predicted probability"]
    assert probability == pytest.approx(yhat[i, :, 0], abs=1e-5)
    assert ((probability > 0.5) == predicted).all()
    wrong = [bar.get_height() for bar in lower.patches]
    assert (wrong == (predicted != expected)).all()
    # The labels flip where the sum crosses the threshold that is drawn.
    sums = data["cumulative sum"]
    assert data["threshold"] == pytest.approx([sums[-1] / 2] * 2)
    assert ((sums >= data["threshold"][0]) == expected).all()


@BOTH
@pytest.mark.parametrize(
    ("args", "epochs", "steps"),
    [
        ([], "1,000", range(100, 1001, 100)),
        (["--epochs", "2150"], "2,150", range(215, 2151, 215)),
        (["--epochs", "250", "--verbose", "0"], "250", []),
    ],
)
def test_every_hundredth_epoch_is_printed_or_every_tenth_of_many(
    args, epochs, steps, classifier, build, name, in_tmp, monkeypatch, capsys
):
    """Without a training, at the defaults else. All that is predicted is 0.5."""
    train_nothing(monkeypatch)
    assert classifier.main(args) == 0
    lines, report = capsys.readouterr().out.split("\nOf 1,000")
    assert lines.splitlines() == [f"epoch {e:,}: loss {1 / e:.3f}" for e in steps]
    setting = "10 timesteps, threshold from length, 20 units, learning rate 0.001"
    assert f"\n{setting}, {epochs} epochs\n" in report
    assert get_table(report)[name] == [0.4, 0.6]
    assert get_data(plt.gcf().axes[1])["threshold"].tolist() == [2.5, 2.5]
    assert (in_tmp / f"{classifier.__name__}.png").exists()
    # A probability of exactly 0.5 predicts 0.
    assert re.findall(r"Predicted (\S+)$", report, re.MULTILINE) == ["[0]"] * 10
