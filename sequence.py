"""Makes the cumulative-sum threshold problem that the four scripts beside it learn.

A sequence holds random values in [0, 1). Its labels are 0 until the cumulative
sum of the values reaches a quarter of the sequence's length, then 1. You will
see the values and the labels of one sequence.

Example:
    python sequence.py --timesteps 10 --seed 1
"""

import argparse
import functools
import numbers
import signal
import sys

import numpy as np


def check_counts(**counts):
    """Raises an error that names an argument which is no whole number above 0."""
    for name, count in counts.items():
        message = f"{name} must be a whole number of at least 1, but was {count!r}"
        if not isinstance(count, numbers.Integral) or isinstance(count, bool):
            raise TypeError(message)
        if count < 1:
            raise ValueError(message)


def get_labels(X):
    """Gives labels: 0 until the cumulative sum of values reaches a threshold, then 1.

    The threshold is a quarter of the number of timesteps.

    Args:
        X: Finite numbers, `[n_timesteps]` or `[samples, timesteps, features]`. Every
            feature of every sample is labelled on its own.

    Returns:
        int64 array of the shape of X.

    Raises:
        TypeError: If X holds something other than real numbers.
        ValueError: If X has another shape, no values, or one that is not finite.
    """
    X = np.asarray(X)
    if X.dtype.kind not in "iuf":
        raise TypeError(f"X must hold real numbers, but held {X.dtype}")
    if X.ndim not in (1, 3) or X.size == 0:
        shapes = (
            "[n_timesteps] or [samples, timesteps, features] with at least one value"
        )
        raise ValueError(f"X must be {shapes}, but its shape was {X.shape}")
    if not np.isfinite(X).all():
        raise ValueError("X must hold finite numbers only, but held nan or infinity")
    time = 0 if X.ndim == 1 else 1  # the axis of the timesteps
    reached = np.cumsum(X, axis=time, dtype=np.float64) >= X.shape[time] / 4
    # Labels stay 1, even if a negative value among your own takes the sum back.
    return np.maximum.accumulate(reached, axis=time).astype(np.int64)


def get_sequences(n_sequences, n_timesteps, rng=None):
    """Gives random sequences and their labels.

    Args:
        n_sequences: Number of sequences.
        n_timesteps: Length of each sequence.
        rng: None for new sequences each call, an int as a seed, or a
            `numpy.random.Generator`.

    Returns:
        X: float32 array `[n_sequences, n_timesteps, 1]`, uniform in [0, 1).
        y: int64 array of the same shape, 0 until the cumulative sum of X reaches
            `n_timesteps / 4`, then 1.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is below 1 or a seed below 0.
    """
    check_counts(n_sequences=n_sequences, n_timesteps=n_timesteps)
    try:
        rng = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        kinds = "None, an int of at least 0 or a numpy.random.Generator"
        raise type(error)(f"rng must be {kinds}, but was {rng!r}") from None
    X = rng.random((n_sequences, n_timesteps, 1), dtype=np.float32)
    return X, get_labels(X)


def get_sequence(n_timesteps, rng=None):
    """Gives one random sequence and its labels: the first row of `get_sequences`.

    Args:
        n_timesteps: Length of the sequence.
        rng: None for a new sequence each call, an int as a seed, or a
            `numpy.random.Generator`.

    Returns:
        X: float32 array `[1, n_timesteps, 1]`, uniform in [0, 1).
        y: int64 array of the same shape, 0 until the cumulative sum of X reaches
            `n_timesteps / 4`, then 1.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If n_timesteps is below 1 or a seed below 0.
    """
    return get_sequences(1, n_timesteps, rng)


def position_baseline(n_timesteps):
    """Gives the scores of the best predictor that knows the position and no value.

    P(y_t = 1) is the probability that t + 1 uniform values add up to `n_timesteps / 4`
    or more: one minus the Irwin-Hall distribution function (Irwin 1927 and Hall 1927,
    both in Biometrika 19). Its closed form loses all digits for long sums, so it is
    integrated here numerically, a value at a time.

    Args:
        n_timesteps: Length of the sequences.

    Returns:
        accuracy: float, the expected share of timesteps labelled right.
        log_loss: float, the expected binary cross-entropy a timestep, in nats.

    Raises:
        TypeError: If n_timesteps is not a whole number.
        ValueError: If n_timesteps is below 1.
    """
    check_counts(n_timesteps=n_timesteps)
    steps = 100  # a unit of the sum; the error is below 0.0001
    total = np.arange(n_timesteps * steps // 4 + 1) / steps  # from 0 to the threshold
    cdf = np.minimum(total, 1)  # of the sum of one value
    p = np.empty(n_timesteps)
    for t in range(n_timesteps):
        p[t] = 1 - cdf[-1]
        # With one value more, the distribution function at a total is the average of
        # the old one over the unit below: its area up to there, less that 1 before.
        area = (np.cumsum(cdf) - cdf / 2) / steps
        cdf = area.copy()
        cdf[steps:] -= area[:-steps]
    p = np.clip(p, 1e-12, 1 - 1e-12)  # keeps the logarithms finite
    accuracy = np.maximum(p, 1 - p).mean()
    log_loss = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    return float(accuracy), float(log_loss)


def whole_number(text, low=1, high=2**31 - 1):
    """Reads a whole number from low to high from the command line."""
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {low} to {high}, but was {text!r}"
        )
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    seed = functools.partial(whole_number, low=0, high=2**32 - 1)
    add = functools.partial(parser.add_argument, metavar="N", type=whole_number)
    add("--timesteps", default=10, help="length of the sequence (default: %(default)s)")
    add("--seed", type=seed, default=0, help="of the values (default: %(default)s)")
    args = parser.parse_args(argv)
    X, y = get_sequence(args.timesteps, rng=args.seed)
    print(X[0, :, 0])
    print(y[0, :, 0])


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `| head` ends this script quietly, as any tool.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
