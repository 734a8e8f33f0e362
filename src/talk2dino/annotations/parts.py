"""Connected parts of a label map, without SciPy.

Runs down the columns are joined where they touch sideways, by a union of all pairs at once (numpy), so that the time goes
with the number of pixels and not with that of the parts.
"""

from __future__ import annotations

import numpy as np


def connected_parts(labels: np.ndarray) -> np.ndarray:
    """Number the 4-connected areas of equal value in (H, W) integer labels.

    Returns:
        (H, W) int32, from 0, in the order of the first pixel of each part column by column.
    """
    height, width = labels.shape
    columns = np.ascontiguousarray(labels.T)  # [W, H]
    begins = np.ones((width, height), dtype=bool)
    begins[:, 1:] = columns[:, 1:] != columns[:, :-1]
    runs = np.cumsum(begins.reshape(-1), dtype=np.int32).reshape(width, height) - 1
    touching = (columns[1:] == columns[:-1]) & (begins[1:] | begins[:-1])  # once per pair of runs
    roots = join_pairs(int(runs[-1, -1]) + 1, runs[:-1][touching], runs[1:][touching])
    _, numbers = np.unique(roots, return_inverse=True)
    return numbers.astype(np.int32)[runs].T


def join_pairs(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(count,) the smallest member of each one's group, when the pairs (first[i], second[i]) belong together."""
    parent = np.arange(count)
    while True:
        a, b = parent[first], parent[second]
        apart = a != b
        if not apart.any():
            return parent
        np.minimum.at(parent, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while not np.array_equal(parent, grand := parent[parent]):
            parent = grand
