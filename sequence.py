"""Makes the sequences and labels that the four other scripts learn.

A sequence holds random values in [0, 1). Its labels are 0 until the cumulative
sum of the values reaches a threshold, then 1. The threshold is a quarter of the
sequence's length, as in the tutorial, or with "--threshold total" half of the
sequence's own sum, so that a label also depends on the values to come. You will
see the values and the labels of one sequence.

Example:
    python sequence.py --timesteps 10 --threshold total
"""

import argparse

import numpy as np


def get_limits(X, threshold="length"):
    """Returns the cumulative sum at which each sequence's labels flip.

    X is `[n_sequences, n_timesteps, 1]`, the result `[n_sequences, 1, 1]`: a quarter of
    the number of timesteps ("length"), or half of the sequence's own sum ("total").
    """
    sums = np.sum(X, axis=1, keepdims=True, dtype=np.float64)
    limits = {"length": np.full_like(sums, X.shape[1] / 4), "total": sums / 2}
    return limits[threshold]


def get_labels(X, threshold="length"):
    """Returns labels y: 0 until the cumulative sum of X reaches its limit, then 1.

    X and y are `[n_sequences, n_timesteps, 1]`. The threshold is that of `get_limits`.
    """
    sums = np.cumsum(X, axis=1, dtype=np.float64)
    return (sums >= get_limits(X, threshold)).astype(np.int64)


def get_sequences(n_sequences, n_timesteps, rng=None, threshold="length"):
    """Returns random sequences X and their labels y.

    Both are `[n_sequences, n_timesteps, 1]`, X float32 in [0, 1), y int64. `rng` is a
    seed, a NumPy Generator, or None for new sequences at each call.
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
    """Returns the accuracy and the log loss of the best guess from the position alone.

    The log loss is the mean binary cross-entropy of a timestep in nats. Both come from
    four million random values, and are off by less than 0.001.
    """
    n_sequences = max(1, int(4e6 / n_timesteps))
    _, y = get_sequences(n_sequences, n_timesteps, rng=0, threshold=threshold)
    p = y.mean(axis=0)  # the share of ones at each position, [n_timesteps, 1]
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
    add("--threshold", choices=["length", "total"], default="length", help="see above")
    add("--seed", type=int, default=0, help="of the random values [%(default)s]")
    args = parser.parse_args(argv)
    if args.timesteps < 1 or args.seed < 0:
        parser.error("--timesteps must be at least 1, --seed at least 0")

    X, y = get_sequence(args.timesteps, args.seed, args.threshold)
    print(X[0, :, 0])
    print(y[0, :, 0])


if __name__ == "__main__":
    main()
