"""What both classifiers print, against the tutorial's own loop of fit calls."""

import re

import keras
import numpy as np
import pytest

import bilstm_classify
import lstm_classify
from sequence import get_sequence, get_sequences, position_baseline

BUILDERS = {
    lstm_classify: lstm_classify.get_lstm_model,
    bilstm_classify: bilstm_classify.get_bi_lstm_model,
}


@pytest.mark.parametrize("script", BUILDERS)
def test_script_trains_and_scores_as_the_tutorials_loop(script, in_tmp, capsys):
    path = in_tmp / "ein Bild für dich.PDF"
    args = ["--epochs", "10", "--seed", "3", "--timesteps", "7", "--plot", str(path)]
    assert script.main(args) == 0
    printed = capsys.readouterr().out
    assert path.read_bytes().startswith(b"%PDF")
    assert printed.splitlines()[-1] == f"Figure saved as {path}"
    # The same seeds, and a fit call a sequence.
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    model = BUILDERS[script](7)
    losses = []
    for X, y in zip(*get_sequences(10, 7, rng)):
        fit = model.fit(X[None], y[None], batch_size=1, verbose=0)
        losses += fit.history["loss"]
    of_script = [float(loss) for loss in re.findall(r"- loss: (\S+)", printed)]
    assert of_script == pytest.approx(losses, abs=1e-4)
    X, y = get_sequence(7, rng)
    right = np.ravel(model.predict(X, verbose=0) > 0.5).astype(int)
    lines = [line for line in printed.splitlines() if line.startswith("Expected")]
    assert lines == [
        f"Expected: [{label}] Predicted [{predicted}]"
        for label, predicted in zip(y.ravel(), right)
    ]
    X, y = get_sequences(1000, 7, rng)
    yhat = model.predict(X, verbose=0)
    accuracy = np.mean((yhat > 0.5) == y)
    log_loss = -np.mean(np.log(np.where(y == 1, yhat, 1 - yhat)))
    table = [
        [float(x) for x in re.findall(r"\d\.\d{3}", row)]
        for row in printed.splitlines()[-3:-1]
    ]
    assert table[0] == pytest.approx([accuracy, log_loss], abs=6e-4)
    assert table[1] == pytest.approx(position_baseline(7), abs=6e-4)


def test_default_run_beats_the_position_baseline(in_tmp, capsys):
    assert lstm_classify.main(["--verbose", "0"]) == 0
    table = capsys.readouterr().out.splitlines()[-3:-1]
    (accuracy, log_loss), (guessed, log_loss_of_guess) = (
        [float(x) for x in row.split()[-2:]] for row in table
    )
    assert 0.9 < accuracy < 1 and accuracy > guessed
    assert log_loss < log_loss_of_guess
