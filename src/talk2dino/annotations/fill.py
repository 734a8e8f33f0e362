"""Polygons to masks: a pixel belongs to a polygon if its centre lies inside.

Outlines along the edges of pixels therefore give back exactly their pixels. pycocotools and OpenCV round the corners to a
grid and paint the border, which moves the outline by up to half a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np


def fill_polygons(polygons: Iterable[Sequence[np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """The union of polygons with holes.

    Args:
        polygons: each a sequence of (K, 2) rings of (x, y): the outer one and its holes.
        size: (height, width) of the image; what lies outside is cut off.

    Returns:
        (height, width) bool.
    """
    height, width = size
    mask = np.zeros(size, dtype=bool)
    for rings in polygons:
        corners = np.concatenate(list(rings))
        left, top = (max(0, math.floor(low)) for low in corners.min(0))
        right, bottom = (min(side, math.ceil(high)) for side, high in zip((width, height), corners.max(0), strict=True))
        if right > left and bottom > top:
            moved = [ring - (left, top) for ring in rings]
            mask[top:bottom, left:right] |= fill_rings(moved, (bottom - top, right - left))
    return mask


def fill_rings(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: pixels whose centre is inside an odd number of rings."""
    height, width = size
    crossings = np.zeros((height, width + 1), dtype=np.int32)
    for ring in rings:
        x0, y0 = np.asarray(ring, dtype=np.float64).T
        x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
        # A row is crossed if its centre lies in [upper end, lower end) of the edge.
        upper, lower = np.minimum(y0, y1), np.maximum(y0, y1)
        first = np.clip(np.ceil(upper - 0.5), 0, height).astype(np.int64)
        count = np.clip(np.ceil(lower - 0.5), 0, height).astype(np.int64) - first
        edge = np.repeat(np.arange(len(x0)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        share = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
        x = x0[edge] + share * (x1 - x0)[edge]
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        np.add.at(crossings, (row, column), 1)
    return (np.cumsum(crossings, axis=1)[:, :-1] & 1).astype(bool)
