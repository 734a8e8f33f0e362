"""Where in a label map a class's name is read best: inside its region, as far from its edges as can be."""

from __future__ import annotations

import numpy as np


def edge_distance(labels: np.ndarray) -> np.ndarray:
    """Euclidean distance of every pixel's centre to the nearest pixel of another label; beyond the border is another.

    All labels at once: first along rows, then d(y, x)^2 = min over rows y' of (y - y')^2 + r(y', x)^2, where r is 0 in
    a row whose pixel at x has another label.

    Args:
        labels: (H, W) integers, small (time grows with H^2 W).
    """
    height = labels.shape[0]
    along = _row_distance(labels) ** 2
    rows = np.arange(height, dtype=np.float32)
    to_border = np.minimum(rows + 1, height - rows) ** 2
    best = np.minimum(along, to_border[:, None])
    for step in range(1, height):
        if step**2 >= best.max():
            break
        same = labels[step:] == labels[:-step]
        best[step:] = np.minimum(best[step:], np.where(same, along[:-step], 0) + step**2)
        best[:-step] = np.minimum(best[:-step], np.where(same, along[step:], 0) + step**2)
    return np.sqrt(best)


def _row_distance(labels: np.ndarray) -> np.ndarray:
    """Distance to the nearest pixel of another label in the same row."""
    height, width = labels.shape
    columns = np.broadcast_to(np.arange(width), (height, width))
    changes = np.ones((height, width + 1), dtype=bool)
    changes[:, 1:-1] = labels[:, 1:] != labels[:, :-1]
    start = np.maximum.accumulate(np.where(changes[:, :-1], columns, 0), axis=1)
    end = np.minimum.accumulate(np.where(changes[:, 1:], columns, width)[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(columns - start, end - columns).astype(np.float32) + 1


def reduce_labels(labels: np.ndarray, step: int) -> np.ndarray:
    """Blocks of step x step pixels -> their label, or -1 where they hold several: nothing thin is overlooked."""
    if step == 1:
        return labels
    height, width = labels.shape
    padded = np.pad(labels, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    low, high = blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))
    return np.where(low == high, low.astype(np.int64), -1)


def best_spot(inside: np.ndarray, distance: np.ndarray, box: tuple[int, int]) -> tuple[int, int] | None:
    """Centre (row, column) of a box (height, width) that lies inside, where the distance is largest.

    Inside is all but 3 % of the box: specks do not matter. Of places about as far from the edges (as
    along a band) the one nearest to the class's centre of gravity is taken.

    Args:
        inside: (H, W) bool, the class's pixels.
        distance: (H, W) as from :func:`edge_distance`.

    Returns:
        None when the box fits nowhere.
    """
    height, width = max(1, box[0]), max(1, box[1])
    if height > inside.shape[0] or width > inside.shape[1]:
        return None
    sums = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1), dtype=np.int32)
    sums[1:, 1:] = inside.cumsum(axis=0, dtype=np.int32).cumsum(axis=1)
    filled = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    fits = filled >= 0.97 * height * width
    if not fits.any():
        return None
    centre = distance[height // 2 :, width // 2 :][: fits.shape[0], : fits.shape[1]]
    rows, columns = np.arange(fits.shape[0]) + height // 2, np.arange(fits.shape[1]) + width // 2
    middle = np.array(np.nonzero(inside)).mean(axis=1)
    off_centre = np.hypot(rows[:, None] - middle[0], columns - middle[1])
    row, column = np.unravel_index(int(np.where(fits, centre - 0.15 * off_centre, -np.inf).argmax()), fits.shape)
    return int(row) + height // 2, int(column) + width // 2
