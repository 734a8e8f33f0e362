"""Split touching objects of one class at the peaks of a map that is high in the middle of objects.

Two maps: the distance to the edge of the connected part ("shape"), and the mean attention of the vision model ("attention").
Cells of the map are taken from the highest to the lowest; each joins the area of a higher neighbour in the same connected
part. Where two areas meet, they stay apart if both of their peaks stand out from that saddle, else they become one.

``benchmarks/formats.py --only split`` compares the two: shapes serve far better than attention.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

#: A peak stands out if the saddle is lower than it by this share of the range of the map within the part.
PROMINENCE = 0.1
#: Cells along the longer side of the map of distances, and the standard deviation with which it is smoothed.
_CELLS, _BLUR = 96, 1.8


def split_by_shape(parts: np.ndarray, prominence: float = PROMINENCE) -> np.ndarray:
    """Split connected parts at the peaks of the distance to their edge; arguments as in :func:`split_at_peaks`."""
    scale = max(1.0, max(parts.shape) / _CELLS)
    h, w = (max(1, round(side / scale)) for side in parts.shape)
    rows, columns = _middles(parts.shape[0], h), _middles(parts.shape[1], w)
    distances = edge_distance(parts[rows[:, None], columns])
    return split_at_peaks(parts, smooth(distances, min(_BLUR, 0.03 * max(h, w))), prominence)


def split_by_attention(parts: np.ndarray, attention: np.ndarray, prominence: float = PROMINENCE) -> np.ndarray:
    """Split connected parts at the peaks of (h, w) attention on the patch grid, which is smoothed by one patch."""
    return split_at_peaks(parts, smooth(attention, 1.0), prominence)


def edge_distance(parts: np.ndarray) -> np.ndarray:
    """(H, W) float64 distance of each cell's middle to that of the nearest cell of another part, or outside the image.

    Exact: distances along the columns, then the lowest parabola along each row. Takes H x W x W steps.
    """
    height, width = parts.shape
    framed = np.full((height + 2, width + 2), -1, dtype=parts.dtype)
    framed[1:-1, 1:-1] = parts
    down = np.ones(framed.shape)
    up = down.copy()
    for y in range(1, height + 2):
        down[y] = np.where(framed[y] == framed[y - 1], down[y - 1] + 1, 1)
        up[-1 - y] = np.where(framed[-1 - y] == framed[-y], up[-y] + 1, 1)
    along = np.minimum(down, up) ** 2
    columns = np.arange(width + 2)
    apart = (columns[:, None] - columns[None]) ** 2  # [W, W]
    result = np.empty(parts.shape)
    for y in range(1, height + 1):
        same = framed[y, :, None] == framed[y, None, :]
        result[y - 1] = (apart + np.where(same, along[y][None], 0)).min(1)[1:-1]
    return np.sqrt(result)


def smooth(values: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian blur of an (h, w) array, with the border repeated."""
    reach = max(1, round(4 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(deviation, 1e-6)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if one == axis else (0, 0) for one in (0, 1)], mode="edge")
        values = sum(
            weight * np.take(padded, range(at, at + values.shape[axis]), axis)
            for at, weight in enumerate(weights.tolist())
        )
    return values


def _middles(length: int, cells: int) -> np.ndarray:
    """The pixel at the middle of each of ``cells`` equal parts of ``length`` pixels."""
    return ((np.arange(cells) + 0.5) * length / cells).astype(int)


def split_at_peaks(parts: np.ndarray, heights: np.ndarray, prominence: float = PROMINENCE) -> np.ndarray:
    """Split connected parts.

    Args:
        parts: (H, W) int32 numbers of connected parts. heights: (h, w) float, a map of the same image.
        prominence: 0 splits at every peak, 1 at none.

    Returns:
        (H, W) int32 numbers from 0.
    """
    height, width = parts.shape
    h, w = heights.shape
    rows, columns = _middles(height, h), _middles(width, w)
    grid = parts[rows[:, None], columns]  # [h, w], the part at the middle of each cell
    basins = _basins(grid, heights.astype(np.float64), prominence)
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


def _basins(grid: np.ndarray, heights: np.ndarray, prominence: float) -> np.ndarray:
    """(h, w) the area of each cell, named by the cell of its peak."""
    h, w = grid.shape
    flat, values = grid.reshape(-1).tolist(), heights.reshape(-1).tolist()
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

    for cell in np.argsort(-heights.reshape(-1), kind="stable").tolist():
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
