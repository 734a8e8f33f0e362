"""Split touching objects of one class at peaks of the attention.

The attention maps of the vision model are often brightest in the middle of objects. Cells of the patch grid are taken from
the brightest to the darkest; each joins the area of a brighter neighbour in the same connected part. Where two areas meet,
they stay apart if both of their peaks stand out from that saddle, else they become one.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

#: A peak stands out if the saddle is lower than it by this share of the range of the attention within the part.
PROMINENCE = 0.35


def split_at_peaks(parts: np.ndarray, attention: np.ndarray, prominence: float = PROMINENCE) -> np.ndarray:
    """Split connected parts.

    Args:
        parts: (H, W) int32 numbers of connected parts. attention: (h, w) float, on the patch grid.
        prominence: 0 splits at every peak, 1 at none.

    Returns:
        (H, W) int32 numbers from 0.
    """
    height, width = parts.shape
    h, w = attention.shape
    rows, columns = ((np.arange(h) + 0.5) * height / h).astype(int), ((np.arange(w) + 0.5) * width / w).astype(int)
    grid = parts[rows[:, None], columns]  # [h, w], the part at the middle of each cell
    basins = _basins(grid, attention.astype(np.float64), prominence)
    divided = [part for part in np.unique(grid).tolist() if len(np.unique(basins[grid == part])) > 1]
    result, following = parts.copy(), int(parts.max()) + 1
    for part in divided:
        inside = parts == part
        ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        nearest = None
        for number, basin in enumerate(np.unique(basins[grid == part]).tolist()):
            cells = Image.fromarray(((basins == basin) & (grid == part)).astype(np.float32))
            cover = np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR))[box]
            if nearest is None:
                nearest, owner = cover.copy(), np.zeros(cover.shape, dtype=np.int32)
            else:
                owner[cover > nearest] = number
                np.maximum(nearest, cover, out=nearest)
        numbers = np.where(owner > 0, following + owner - 1, part)
        result[box] = np.where(inside[box], numbers, result[box])
        following += int(owner.max())
    return result


def _basins(grid: np.ndarray, attention: np.ndarray, prominence: float) -> np.ndarray:
    """(h, w) the area of each cell, named by the cell of its peak."""
    h, w = grid.shape
    flat, values = grid.reshape(-1).tolist(), attention.reshape(-1).tolist()
    low = dict.fromkeys(flat, np.inf)
    high = dict.fromkeys(flat, -np.inf)
    for part, value in zip(flat, values, strict=True):
        low[part], high[part] = min(low[part], value), max(high[part], value)
    owner = list(range(h * w))
    done = bytearray(h * w)

    def peak(cell: int) -> int:
        while owner[cell] != cell:
            owner[cell] = owner[owner[cell]]
            cell = owner[cell]
        return cell

    for cell in np.argsort(-attention.reshape(-1), kind="stable").tolist():
        done[cell] = 1
        y, x = divmod(cell, w)
        near = [cell - w] * (y > 0) + [cell + w] * (y < h - 1) + [cell - 1] * (x > 0) + [cell + 1] * (x < w - 1)
        peaks = sorted({peak(n) for n in near if done[n] and flat[n] == flat[cell]}, key=lambda p: -values[p])
        if not peaks:
            continue
        owner[cell] = peaks[0]
        needed = prominence * (high[flat[cell]] - low[flat[cell]])
        for other in peaks[1:]:
            if values[other] - values[cell] <= needed:
                owner[other] = peaks[0]
    return np.array([peak(cell) for cell in range(h * w)]).reshape(h, w)
