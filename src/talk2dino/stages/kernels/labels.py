"""Labels of low-resolution maps on a CPU: resize, compare and keep the winner, one pixel after the other.

A chain of bilinear resizes is linear and separable: a row of the result is a mix of a few rows of the map, and a pixel of
it a mix of a few columns of that row ("taps"). So a pixel's scores of all classes exist for a moment in the first-level
cache, and classes x full resolution exists nowhere. Classes are innermost, so that the mixing is vector code.

Most pixels need no mixing at all. The shares of a mix are positive and add up to one; so a class that is ahead of all
others (and above its threshold) wherever the mix takes from, is ahead in the mix too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from talk2dino.stages.kernels.compiled import compiled
from talk2dino.stages.kernels.pamr import FLOAT

if TYPE_CHECKING:
    from talk2dino.stages.upsample import Resize

LANES = 8  # classes are padded to a multiple of this, so that the mixing of classes is whole vectors

#: One axis of a resize: (places (L, taps) int64, shares (L, taps) float32), L the length of the result.
Taps = tuple[np.ndarray, np.ndarray]


#: What :func:`winners` says of a place besides the number of a class.
NOTHING, UNDECIDED = -1, -2


@compiled
def winners(won, maps, floors, classes):
    """Fill won (h, w): the class that is ahead and above its floor; NOTHING if none is above its own; else UNDECIDED."""
    for y in range(maps.shape[0]):
        for x in range(maps.shape[1]):
            best, winner, reached = FLOAT(-np.inf), NOTHING, 0
            for lane in range(classes):
                value = maps[y, x, lane]
                if value > best:
                    best, winner = value, lane
                if value > floors[lane]:
                    reached += 1
            if reached == 0:
                won[y, x] = NOTHING
            elif winner >= 0 and best > floors[winner]:
                won[y, x] = winner
            else:
                won[y, x] = UNDECIDED


@compiled
def label_rows(
    labels, maps, won, row_places, row_shares, places, shares, floors, classes, negative, background, first, last
):
    """Fill labels (H, W) for rows first..last - 1 from maps (h, w, lanes) and their :func:`winners` (h, w).

    ``floors`` (lanes,): a class counts only above its own; ``background``: 1 where 0 stands for no class, else 0.
    """
    width, taps = places.shape
    columns, lanes = maps.shape[1], maps.shape[2]
    row = np.empty((columns, lanes), FLOAT)
    mixed = np.empty(columns, np.bool_)  # which columns of the row are there
    agreed = np.empty(columns, np.int32)  # the winner of a column wherever the row takes from
    values = np.empty(lanes, FLOAT)
    for y in range(first, last):
        for column in range(columns):
            mixed[column] = False
            agreed[column] = won[row_places[y, 0], column]
            for tap in range(1, row_places.shape[1]):
                if row_shares[y, tap] != 0 and won[row_places[y, tap], column] != agreed[column]:
                    agreed[column] = UNDECIDED
        for x in range(width):
            winner = agreed[places[x, 0]]
            for tap in range(1, taps):
                if shares[x, tap] != 0 and agreed[places[x, tap]] != winner:
                    winner = UNDECIDED
            if winner == UNDECIDED:
                for lane in range(lanes):
                    values[lane] = 0
                for tap in range(taps):
                    share, column = shares[x, tap], places[x, tap]
                    if share != 0:
                        if not mixed[column]:
                            mix_rows(row, maps, column, row_places, row_shares, y)
                            mixed[column] = True
                        for lane in range(lanes):
                            values[lane] += share * row[column, lane]
                best, winner = FLOAT(-np.inf), NOTHING
                for lane in range(classes):
                    if values[lane] > best and values[lane] > floors[lane]:
                        best, winner = values[lane], lane
            labels[y, x] = 0 if winner >= classes - negative else max(winner + background, 0)  # nothing wins over NaN


@compiled
def mix_rows(row, maps, column, places, shares, y):
    """row[column] = sum over taps of shares[y, tap] maps[places[y, tap], column]."""
    for lane in range(maps.shape[2]):
        row[column, lane] = 0
    for tap in range(places.shape[1]):
        share, source = shares[y, tap], places[y, tap]
        if share != 0:
            for lane in range(maps.shape[2]):
                row[column, lane] += share * maps[source, column, lane]


@lru_cache(maxsize=64)
def axis_taps(length: int, resizes: tuple[tuple[int, bool], ...]) -> Taps:
    """What a chain of 1-D linear resizes of ``length`` values takes from where; memory goes with the result's length.

    Args:
        length: of the source.
        resizes: (new length, align_corners) of each, in order.
    """
    places, shares = np.arange(length)[:, None], np.ones((length, 1))
    for target, align_corners in resizes:
        if target != len(places):
            rows, weights = linear_taps(len(places), target, align_corners)  # (target, 2) each
            places = places[rows].reshape(target, -1)
            shares = (weights[:, :, None] * shares[rows]).reshape(target, -1)
            places, shares = _merged(places, shares)
    return np.ascontiguousarray(places, np.int64), np.ascontiguousarray(shares, FLOAT)


def linear_taps(source: int, target: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """(target, 2) places and shares of one linear resize, as torch.nn.functional.interpolate takes them."""
    index = np.arange(target, dtype=np.float64)
    if align_corners:
        position = index * ((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        position = np.maximum((index + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(position.astype(np.int64), source - 1)
    share = position - low
    return np.stack([low, np.minimum(low + 1, source - 1)], 1), np.stack([1 - share, share], 1)


def _merged(places: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(L, K) taps with those of one place added up, those without a share dropped, in the order of their places."""
    order = np.argsort(places, axis=1, kind="stable")
    places, shares = np.take_along_axis(places, order, 1), np.take_along_axis(shares, order, 1)
    for tap in range(1, places.shape[1]):
        same = places[:, tap] == places[:, tap - 1]
        shares[:, tap] += np.where(same, shares[:, tap - 1], 0)
        shares[:, tap - 1] = np.where(same, 0, shares[:, tap - 1])
    kept = max(1, int((shares != 0).sum(1).max()))
    order = np.argsort(shares == 0, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(places, order, 1), np.take_along_axis(shares, order, 1)


def label_cpu(maps: Tensor, resizes: Sequence[Resize], thresholds: Tensor | None, negative: int) -> Tensor:
    """(H, W) int32 labels of (N, h, w) float32 maps on the CPU; as :func:`talk2dino.stages.upsample.label_pixels`."""
    rows = axis_taps(maps.shape[1], tuple((r.height, r.align_corners) for r in resizes))
    columns = axis_taps(maps.shape[2], tuple((r.width, r.align_corners) for r in resizes))
    classes = maps.shape[0]
    lanes = -(-classes // LANES) * LANES
    packed = np.zeros((*maps.shape[1:], lanes), FLOAT)
    packed[:, :, :classes] = maps.detach().permute(1, 2, 0).numpy()
    floors = np.full(lanes, -np.inf, FLOAT)
    if thresholds is not None:
        floors[:classes] = thresholds.detach().numpy()
    background = int(thresholds is not None or negative > 0)
    height = len(rows[0])
    labels = np.empty((height, len(columns[0])), np.int32)
    won = np.empty(packed.shape[:2], np.int32)
    winners(won, packed, floors, classes)

    def fill(first: int, last: int) -> None:
        label_rows(labels, packed, won, *rows, *columns, floors, classes, negative, background, first, last)

    share_rows(fill, height)
    return torch.from_numpy(labels)


def share_rows(work: Callable[[int, int], None], height: int) -> None:
    """Call work(first row, last row + 1) on bands of rows, two a thread of torch's, and wait."""
    threads = min(torch.get_num_threads(), height)
    if threads == 1:
        work(0, height)
        return
    cuts = np.linspace(0, height, min(2 * threads, height) + 1).astype(np.int64).tolist()
    with ThreadPoolExecutor(threads, thread_name_prefix="labels") as pool:
        list(pool.map(work, cuts[:-1], cuts[1:]))
