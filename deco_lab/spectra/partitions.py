"""Two labellings of the same places: how to match their labels, and how far they agree.

Labels are numbers from 0 to K - 1 without a meaning of their own, as k-means gives them.

References
----------
[1] Hubert, Arabie, "Comparing partitions", Journal of Classification 2, 1985, equation 5.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def matched(before: Labels, now: Labels, clusters: int) -> Labels:
    """Return for each label of `now` the one of `before` that it continues, (K,)."""
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((clusters, clusters), np.int64)
    np.add.at(table, (before, now), 1)
    old, new = linear_sum_assignment(table, maximize=True)
    return old[np.argsort(new)]


def adjusted_rand(table: Array) -> Array:
    """Return the adjusted Rand index [1] of contingency tables (..., K, K): (...,).

    1 where both label all alike, as in scikit-learn.
    """

    def pairs(count: Array) -> Array:
        return count * (count - 1) / 2

    both = pairs(table).sum((-2, -1))
    rows, columns = (pairs(table.sum(axis)).sum(-1) for axis in (-1, -2))
    chance = rows * columns / pairs(table.sum((-2, -1)))
    most = (rows + columns) / 2
    flat = most == chance
    return np.where(flat, 1, (both - chance) / np.where(flat, 1, most - chance))


def neighbours(maps: Labels, clusters: int) -> Array:
    """Return how often adjacent tokens, and any two, share a label, (M, T, 2), of (T, M, h, w)."""
    down, right = maps[:, :, 1:] == maps[:, :, :-1], maps[..., 1:] == maps[..., :-1]
    same = down.sum((2, 3)) + right.sum((2, 3))
    N = maps.shape[2] * maps.shape[3]
    sizes = (maps[..., None] == np.arange(clusters)).sum((2, 3))
    chance = (sizes * (sizes - 1)).sum(-1) / (N * (N - 1))
    return np.stack([same / (down[0, 0].size + right[0, 0].size), chance], -1).swapaxes(0, 1)
