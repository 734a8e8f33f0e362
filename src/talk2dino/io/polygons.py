"""Exact outlines of label regions along the edges of pixels.

Written here because no dependency does it: pycocotools only fills polygons, contour functions (OpenCV, scikit-image) run
through pixel centres and lose half a pixel, and an exact tracer (GDAL's polygonize) is a large package.
"""

from __future__ import annotations

import numpy as np

# Directed edges of a pixel, its inside to the right (y points down): top, right, bottom, left.
_FORWARD = ((0, 1), (1, 0), (0, -1), (-1, 0))  # the pixel ahead (row, column)
_OUTSIDE = ((-1, 0), (0, 1), (1, 0), (0, -1))  # the pixel across the edge
_START = ((0, 0), (0, 1), (1, 1), (1, 0))  # the edge's first corner (row, column)


def label_rings(labels: np.ndarray) -> dict[int, list[list[tuple[float, float]]]]:
    """Outline every value of (H, W) integer labels.

    Returns:
        value -> closed rings (first corner repeated at the end) of (x, y) pixel corners, only corners where the ring
        turns. Outer rings run clockwise on the screen, holes counter-clockwise. Pixels that touch only at a corner are
        separate (4-connected), so no ring crosses itself. Filling all rings of a value with the even-odd or the non-zero
        rule restores its pixels. Time grows with the length of the outlines.
    """
    height, width = labels.shape
    stride = width + 2
    padded = np.full((height + 2, stride), -1, dtype=np.int64)
    padded[1:-1, 1:-1] = labels
    flat = padded.ravel()
    ahead = [row * stride + column for row, column in _FORWARD]
    across = [row * stride + column for row, column in _OUTSIDE]

    # An edge is a pair (direction, pixel). The edges are sorted by it, so that each can be found by bisection.
    pixels = [np.flatnonzero((flat != -1) & (flat != np.roll(flat, -offset))) for offset in across]
    firsts = np.cumsum([0, *map(len, pixels)])
    following, turns, corners = [], [], []
    for d in range(4):
        here = pixels[d]
        value = flat[here]
        straight = here + ahead[d]
        left = straight + across[d]
        goes_right = flat[straight] != value
        goes_left = flat[left] == value  # unless it goes right
        next_right = firsts[(d + 1) % 4] + np.searchsorted(pixels[(d + 1) % 4], here)
        next_straight = firsts[d] + np.searchsorted(here, straight)
        next_left = firsts[(d - 1) % 4] + np.searchsorted(pixels[(d - 1) % 4], left)
        following.append(np.where(goes_right, next_right, np.where(goes_left, next_left, next_straight)))
        turns.append(goes_right | goes_left)
        row, column = here // stride - 1 + _START[d][0], here % stride - 1 + _START[d][1]
        corners.append(np.stack([column, row], axis=1))

    # Follow the table of next edges ring by ring; keep the corners after a turn.
    follow, turned = np.concatenate(following), np.concatenate(turns)
    behind_turn = np.zeros(len(follow), dtype=bool)
    behind_turn[follow[turned]] = True
    owners, follow, keep = flat[np.concatenate(pixels)].tolist(), follow.tolist(), behind_turn.tolist()
    points = list(map(tuple, np.concatenate(corners).astype(float).tolist()))
    done = bytearray(len(follow))
    rings: dict[int, list[list[tuple[float, float]]]] = {}
    for edge in np.flatnonzero(behind_turn).tolist():
        if done[edge]:
            continue
        ring, owner = [], owners[edge]
        while not done[edge]:
            done[edge] = 1
            if keep[edge]:
                ring.append(points[edge])
            edge = follow[edge]
        rings.setdefault(owner, []).append([*ring, ring[0]])
    return rings
