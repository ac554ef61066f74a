"""What both classifiers print, against the tutorial's own loop of fit calls."""

import functools
import re
import sys
from types import SimpleNamespace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest

import bilstm_classify
import lstm_classify
from sequence import get_sequences, position_baseline

BUILDERS = {
    lstm_classify: lstm_classify.get_lstm_model,
    bilstm_classify: bilstm_classify.get_bi_lstm_model,
}


def get_table(printed):
    """The rows of the scores by their names, each with its numbers."""
    rows = re.findall(r"^(.*\S) +(\d\.\d{3}) +(\d\.\d{3})$", printed, re.MULTILINE)
    return {name: [float(x), float(y)] for name, x, y in rows}


def get_scores(y, yhat):
    """Accuracy and log loss, by their definitions."""
    return [
        np.mean((yhat > 0.5) == y),
        -np.mean(np.log(np.where(y == 1, yhat, 1 - yhat))),
    ]


def test_script_trains_and_scores_as_the_tutorials_loop(classifier, in_tmp, capsys):
    """All options are given; test_command_line.py has runs without."""
    path = in_tmp / "ein Bild für dich.PDF"
    args = ["--epochs", "10", "--seed", "3", "--timesteps", "7", "--plot", str(path)]
    args += ["--learning-rate", "0.02", "--save", "model.keras", "--units", "5"]
    args += ["--threshold", "total", "--verbose", "2"]
    assert classifier.main(args) == 0
    printed = capsys.readouterr().out
    assert path.read_bytes().startswith(b"%PDF")
    assert printed.splitlines()[-2] == "Model saved as model.keras"
    assert printed.splitlines()[-1] == f"Figure saved as {path}"
    assert re.findall(r"^Epoch .*$", printed, re.MULTILINE) == [
        f"Epoch {epoch}/10" for epoch in range(1, 11)
    ]
    # The same seeds, and a fit call a sequence.
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    model = BUILDERS[classifier](7, learning_rate=0.02, n_units=5)
    model.run_eagerly = True  # so few updates are done sooner than compiled
    losses = []
    for X, y in zip(*get_sequences(10, 7, rng, "total")):
        fit = model.fit(X[None], y[None], batch_size=1, verbose=0)
        losses += fit.history["loss"]
    of_script = [float(loss) for loss in re.findall(r"- loss: (\S+)", printed)]
    assert of_script == pytest.approx(losses, abs=1e-4)
    name = {lstm_classify: "LSTM", bilstm_classify: "BiLSTM"}[classifier]
    baseline = position_baseline(7, "total")
    # The saved model, loaded, scores new sequences as printed, and so does that of fit.
    X, y = get_sequences(1000, 7, rng, "total")
    for scorer in (model, keras.saving.load_model("model.keras")):
        yhat = np.asarray(scorer(X))
        assert yhat.shape == y.shape
        assert get_table(printed) == {
            name: pytest.approx(get_scores(y, yhat), abs=6e-4),
            "position baseline": pytest.approx(baseline, abs=6e-4),
        }
    # The example is as good as the median of the 1,000.
    lines = re.findall(
        r"^Expected: \[(\d)\] Predicted \[(\d)\]$", printed, re.MULTILINE
    )
    expected, predicted = np.array(lines, dtype=int).T
    log_losses = -np.log(np.where(y == 1, yhat, 1 - yhat)).mean(axis=(1, 2))
    at_the_median = np.argsort(log_losses)[[499, 500]]
    assert any(
        (y[i, :, 0] == expected).all() and ((yhat[i, :, 0] > 0.5) == predicted).all()
        for i in at_the_median
    )
    setting = "7 timesteps, threshold total, 5 units, learning rate 0.02, 10 epochs"
    assert f"\n{setting}\n" in printed
    accuracy = get_scores(y, yhat)[0]
    title = f"{name}: {accuracy:.1%} right, position alone: {baseline[0]:.1%}"
    assert plt.gcf().get_suptitle() == f"{title}\n{setting}"
    # The figure has the losses, the baseline and the sum at which the labels flip.
    left, upper, lower = plt.gcf().axes
    assert all(ax.get_title() for ax in (left, upper))
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    assert lines["one epoch"] == pytest.approx(losses, abs=1e-4)
    assert lines["mean of the last 10"][-1] == pytest.approx(np.mean(losses), abs=1e-4)
    assert lines["position baseline"] == pytest.approx([baseline[1]] * 2)
    sums, limit = [line.get_ydata() for line in upper.lines[:2]]
    labels = lower.lines[0].get_ydata()
    assert limit[0] == pytest.approx(sums[-1] / 2)
    assert ((sums >= limit[0]) == labels).all() and (labels == expected).all()


def test_bar_shows_the_loss_of_each_epoch(classifier, in_tmp, monkeypatch, capsys):
    """On a terminal, where Keras would show the mean of all so far, but at the end."""
    losses = [0.7, 0.5, 0.3]

    def fit(model, *data, callbacks, **options):
        for epoch, loss in enumerate(losses):
            callbacks[0].on_epoch_end(epoch, {"accuracy": loss / 2, "loss": loss})
        return SimpleNamespace(history={"loss": losses})

    monkeypatch.setattr(keras.Sequential, "fit", fit)
    at_once = functools.partial(keras.utils.Progbar, interval=0)
    monkeypatch.setattr(keras.utils, "Progbar", at_once)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert classifier.main(["--epochs", "3"]) == 0
    bar = capsys.readouterr().out.split("\nOf 1,000")[0]
    assert re.findall(r" - loss: ([\d.]+)", bar) == ["0.7000", "0.5000", "0.3000"]
    assert re.findall(r"accuracy: ([\d.]+)", bar) == ["0.3500", "0.2500", "0.1500"]
