"""Where in a label map the name of a class can be read: inside its region, with room around it."""

from __future__ import annotations

import numpy as np

_ROOM = (4.0, 3.0, 2.0, 1.5, 1.2, 1.0)  # factors by which the free space around a name is sought, best first


def reduce_labels(labels: np.ndarray, step: int) -> np.ndarray:
    """Reduce blocks of step x step pixels to their label, or to -1 where they hold several, so thin regions count."""
    if step == 1:
        return labels
    height, width = labels.shape
    padded = np.pad(labels, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    low, high = blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))
    return np.where(low == high, low.astype(np.int64), -1)


def best_spot(inside: np.ndarray, box: tuple[float, float]) -> tuple[float, float] | None:
    """Centre (row, column) for a box (height, width) inside a region (H, W) bool, or None if it fits nowhere.

    It has as much room around it as there is, and of such places is nearest to the centre of the region. Up to 3 % of the
    box may lie outside: specks do not matter.
    """
    sums = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1), dtype=np.int32)
    sums[1:, 1:] = inside.cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
    for room in _ROOM:
        height, width = max(1, int(np.ceil(room * box[0]))), max(1, int(np.ceil(box[1] + (room - 1) * box[0])))
        if height > inside.shape[0] or width > inside.shape[1]:
            continue
        filled = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
        fits = filled >= 0.97 * height * width
        if fits.any():
            middle = np.argwhere(inside).mean(axis=0) + 0.5
            centres = np.argwhere(fits) + np.array([height / 2, width / 2])
            row, column = centres[np.hypot(*(centres - middle).T).argmin()].tolist()
            return row, column
    return None
