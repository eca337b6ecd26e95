"""Estimates pi by throwing darts: no packages, and the same answer for the same seed."""

import random


def estimate(darts=100_000, seed=0):
    """Return an estimate of pi from `darts` random points in the unit square."""
    generator = random.Random(seed)
    hits = sum(
        generator.random() ** 2 + generator.random() ** 2 <= 1 for _ in range(darts)
    )
    return 4 * hits / darts
