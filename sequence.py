"""Makes the cumulative-sum threshold problems that the four scripts beside it learn.

A sequence holds random values in [0, 1). Its labels are 0 until the cumulative
sum of the values reaches a threshold, then 1. The threshold is the tutorial's,
a quarter of the sequence's length, so that a label depends on the values up to
it; or with "--threshold total" half of the sequence's own sum, so that it
depends on the values to come, too. You will see the values and the labels of
one sequence.

Example:
    python sequence.py --timesteps 10 --threshold total
"""

import argparse

import numpy as np


def get_labels(X, threshold="length"):
    """Returns labels: 0 until the cumulative sum of X reaches a threshold, then 1.

    The threshold "length" is a quarter of the number of timesteps, "total" is half of the
    sequence's own sum. X is `[n_timesteps]` or `[samples, n_timesteps, features]`, where
    every feature is labelled on its own; the int64 labels have its shape. Raises
    ValueError if X holds nan, or the threshold is another.
    """
    X = np.asarray(X)
    time = 0 if X.ndim == 1 else 1  # the axis of the timesteps
    sums = np.cumsum(X, axis=time, dtype=np.float64)
    total = sums.take([-1], axis=time)  # the last sum is that of all values
    if np.isnan(total).any():  # It would be below every threshold: 0 to the end.
        raise ValueError("X must hold numbers, but held nan")
    limits = {"length": X.shape[time] / 4, "total": total / 2}
    if threshold not in limits:
        raise ValueError(
            f"threshold must be 'length' or 'total', but was {threshold!r}"
        )
    reached = sums >= limits[threshold]
    # Labels stay 1, even if a negative value among your own takes the sum back.
    return np.maximum.accumulate(reached, axis=time).astype(np.int64)


def get_sequences(n_sequences, n_timesteps, rng=None, threshold="length"):
    """Returns random sequences X and their labels y.

    Both are `[n_sequences, n_timesteps, 1]`, X float32 in [0, 1), y int64. With a seed
    as `rng` they are always the same, a numpy Generator goes on from where it is, and
    None gives new ones each call. The threshold is that of `get_labels`, and does not
    change X. Raises ValueError if n_timesteps is below 1.
    """
    if n_timesteps < 1:
        raise ValueError(f"n_timesteps must be at least 1, but was {n_timesteps}")
    rng = np.random.default_rng(rng)
    X = rng.random((n_sequences, n_timesteps, 1), dtype=np.float32)
    return X, get_labels(X, threshold)


def get_sequence(n_timesteps, rng=None, threshold="length"):
    """Returns one random sequence X and its labels y, both `[1, n_timesteps, 1]`.

    They are the first of those that `get_sequences` returns with this `rng`.
    """
    return get_sequences(1, n_timesteps, rng, threshold)


def position_baseline(n_timesteps, threshold="length"):
    """Returns the scores of the best guess that knows the position and no value.

    They are `(accuracy, log_loss)`: the share of timesteps labelled right, and the
    binary cross-entropy of a timestep in nats. It counts how often each position is
    labelled 1 among four million values of a fixed seed; the error is below 0.001.
    Raises ValueError if n_timesteps is below 1.
    """
    n_sequences = max(1, int(4e6 / max(1, n_timesteps)))
    _, y = get_sequences(n_sequences, n_timesteps, 0, threshold)
    p = y.mean(axis=0)  # how likely each position is labelled 1, [n_timesteps, 1]
    accuracy = np.maximum(p, 1 - p).mean()
    p = p.clip(1e-12, 1 - 1e-12)  # keeps the logarithms finite
    log_loss = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    return float(accuracy), float(log_loss)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--timesteps", type=int, default=10, help="length of a sequence [%(default)s]")
    flip = "labels flip at 1/4 of the length or 1/2 of the total [%(default)s]"
    add("--threshold", choices=["length", "total"], default="length", help=flip)
    add("--seed", type=int, default=1, help="seeds the values [%(default)s]")
    args = parser.parse_args(argv)
    if args.timesteps < 1:
        parser.error(f"--timesteps must be at least 1, but was {args.timesteps}")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed must be from 0 to 2**32 - 1, but was {args.seed}")

    X, y = get_sequence(args.timesteps, args.seed, args.threshold)
    print(X[0, :, 0])
    print(y[0, :, 0])


if __name__ == "__main__":
    main()
