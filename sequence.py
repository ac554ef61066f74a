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
    """Returns labels y: 0 until the cumulative sum of X reaches a threshold, then 1.

    Both are `[n_sequences, n_timesteps, 1]`. The threshold "length" is a quarter of the
    number of timesteps, "total" is half of the sequence's own sum. Values below 0 can turn
    a label back to 0, and a nan makes the rest 0 (with "total" the whole sequence).
    """
    sums = np.cumsum(X, axis=1, dtype=np.float64)
    limits = {"length": X.shape[1] / 4, "total": sums[:, -1:] / 2}
    return (sums >= limits[threshold]).astype(np.int64)


def get_sequences(n_sequences, n_timesteps, rng=None, threshold="length"):
    """Returns random sequences X and their labels y.

    Both are `[n_sequences, n_timesteps, 1]`, X float32 in [0, 1), y int64. With a seed
    as `rng` they are always the same, a numpy Generator goes on from where it is, and
    None gives new ones each call. The threshold is that of `get_labels`, and does not
    change X.
    """
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
    """
    n_sequences = max(1, int(4e6 / n_timesteps))
    _, y = get_sequences(n_sequences, n_timesteps, rng=0, threshold=threshold)
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
    add("--seed", type=int, default=0, help="seeds the values [%(default)s]")
    args = parser.parse_args(argv)
    if args.timesteps < 1 or args.seed < 0:
        parser.error("--timesteps must be at least 1, --seed at least 0")

    X, y = get_sequence(args.timesteps, args.seed, args.threshold)
    print(X[0, :, 0])
    print(y[0, :, 0])


if __name__ == "__main__":
    main()
