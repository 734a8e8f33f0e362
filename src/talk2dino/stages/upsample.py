"""Bilinear upsampling and the label of every pixel, so that classes x full resolution is never held.

The plain version works in strips of rows and runs anywhere; kernels/labels.py does the same on a CPU pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import ShapeError
from talk2dino.stages.kernels import cpu_kernel, run_kernel
from talk2dino.stages.kernels.labels import axis_taps

#: Values of one strip; 4 million float32 are 16 MB, which larger caches hold.
STRIP_VALUES = 4_000_000
#: Largest maps, in places, that are resized by matrix products.
SMALL_MAP = 10_000


@dataclass(frozen=True)
class Resize:
    """One bilinear resize. ``align_corners`` as in torch.nn.functional.interpolate."""

    height: int
    width: int
    align_corners: bool


def upsample(maps: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """(B, N, h, w) to (B, N, height, width), bilinear; the published code aligns corners."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)


def resized_rows(maps: Tensor, resizes: Sequence[Resize], start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of what a chain of bilinear resizes gives, computing only the rows that they need.

    Args:
        maps: (N, h, w).
        resizes: applied in order; the rows are those of the last one's result.

    Returns:
        (N, stop - start, width of the last resize).
    """
    if not resizes:
        return maps[:, start:stop]
    *earlier, last = resizes
    height, width = (earlier[-1].height, earlier[-1].width) if earlier else maps.shape[1:]
    if (last.height, last.width) == (height, width):
        return resized_rows(maps, earlier, start, stop)
    rows = torch.arange(start, stop, device=maps.device, dtype=torch.float64)
    if last.align_corners:
        position = rows * ((height - 1) / (last.height - 1)) if last.height > 1 else rows * 0
    else:
        position = ((rows + 0.5) * (height / last.height) - 0.5).clamp(min=0)
    low = position.floor().long().clamp(max=height - 1)
    high = (low + 1).clamp(max=height - 1)
    first = int(low[0])
    source = resized_rows(maps, earlier, first, int(high[-1]) + 1)
    share = (position - low).to(maps.dtype)[:, None]
    mixed = torch.lerp(source[:, low - first], source[:, high - first], share)  # [N, rows, w]
    if mixed.shape[2] == last.width:
        return mixed
    return F.interpolate(mixed, last.width, mode="linear", align_corners=last.align_corners)


def strips(maps: Tensor, resizes: Sequence[Resize]) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, rows) of the resized maps, as many rows at a time as fit in a strip."""
    if maps.ndim != 3:
        raise ShapeError(f"maps must be (N, h, w); got {tuple(maps.shape)}")
    height, width = (resizes[-1].height, resizes[-1].width) if resizes else maps.shape[1:]
    step = max(1, STRIP_VALUES // max(1, maps.shape[0] * width))
    for start in range(0, height, step):
        stop = min(height, start + step)
        yield start, stop, resized_rows(maps, resizes, start, stop)


def label_pixels(
    maps: Tensor, resizes: Sequence[Resize], thresholds: Tensor | None = None, negative: int = 0
) -> Tensor:
    """The class of every pixel: argmax over classes, background where no class reaches its threshold.

    Args:
        maps: (N, h, w) scores; the last ``negative`` of them are negative prompts.
        resizes: how the maps get to the picture's size.
        thresholds: (N,) smallest score of each class, or None for no background.
        negative: pixels that one of the last ``negative`` maps wins become background.

    Returns:
        (H, W) int32. With a background (thresholds or negative given), 0 is the background and class j is j + 1.

    Source: published protocol: the background is a constant channel in front of the argmax, so a tie is background.
    """
    if maps.ndim != 3:
        raise ShapeError(f"maps must be (N, h, w); got {tuple(maps.shape)}")
    suits = maps.device.type == "cpu" and maps.dtype == torch.float32 and maps.numel()
    plainly = not resizes and thresholds is None  # nothing but a maximum, at which torch is faster
    kernel = cpu_kernel("labels", "label_cpu") if suits and not plainly else None
    if kernel is None:
        return label_pixels_plain(maps, resizes, thresholds, negative)
    arguments = (maps, resizes, thresholds, negative)
    return run_kernel(kernel, arguments, lambda: label_pixels_plain(*arguments), "labelling")


def label_pixels_plain(
    maps: Tensor, resizes: Sequence[Resize], thresholds: Tensor | None = None, negative: int = 0
) -> Tensor:
    """:func:`label_pixels` in plain torch, in strips, on any device."""
    height, width = (resizes[-1].height, resizes[-1].width) if resizes else maps.shape[1:]
    labels = torch.empty(height, width, dtype=torch.int32, device=maps.device)
    background = thresholds is not None or negative > 0
    for start, stop, rows in strips(maps, resizes):
        if thresholds is not None:
            rows = rows.masked_fill(~(rows > thresholds.to(rows)[:, None, None]), -torch.inf)
        best, winner = rows.max(0)  # four times as fast as argmax over the first axis
        winner += int(background)
        if thresholds is not None:
            winner.masked_fill_(best == -torch.inf, 0)
        if negative:
            winner.masked_fill_(winner > maps.shape[0] - negative, 0)
        labels[start:stop] = winner
    return labels


def label_margins(
    maps: Tensor, resizes: Sequence[Resize], thresholds: Tensor | None = None, negative: int = 0
) -> Tensor:
    """How far the class of each pixel is ahead of the next one; arguments as in :func:`label_pixels`.

    For a pixel of a class: its score minus the largest of its threshold and the next class that reaches its own. For a
    background pixel: how far below its threshold the nearest class is. With one class and no threshold: the score.

    Returns:
        (H, W) float32, at least 0 except in that last case.
    """
    if maps.ndim != 3:
        raise ShapeError(f"maps must be (N, h, w); got {tuple(maps.shape)}")
    return torch.cat([_margins(rows.float(), thresholds) for rows in _mixed_strips(maps, resizes)])


def _margins(rows: Tensor, thresholds: Tensor | None) -> Tensor:
    """(H, W) margins of (N, H, W) scores, in one pass over the classes."""
    floors = None if thresholds is None else thresholds.tolist()
    best = torch.full_like(rows[0], -torch.inf)
    following, own, below = best.clone(), torch.zeros_like(best), torch.full_like(best, torch.inf)
    for index, scores in enumerate(rows):
        if floors is not None:
            above = scores > floors[index]
            below = torch.minimum(below, floors[index] - scores)
            scores = scores.masked_fill(~above, -torch.inf)
            own.masked_fill_(scores > best, floors[index])
        following = torch.maximum(following, torch.minimum(best, scores))
        best = torch.maximum(best, scores)
    if floors is None:
        return best - following if len(rows) > 1 else best
    return torch.where(best == -torch.inf, below, best - torch.maximum(following, own))


def _mixed_strips(maps: Tensor, resizes: Sequence[Resize]) -> Iterator[Tensor]:
    """Rows of the resized maps; of small maps as two matrix products, which is faster than the chain of resizes."""
    _, h, w = maps.shape
    if not resizes or h * w > SMALL_MAP:
        yield from (rows for _, _, rows in strips(maps, resizes))
        return
    down = _mixing(h, tuple((one.height, one.align_corners) for one in resizes), maps)  # [H, h]
    across = _mixing(w, tuple((one.width, one.align_corners) for one in resizes), maps)  # [W, w]
    wide = maps.float() @ across.T  # [N, h, W]
    step = max(1, STRIP_VALUES // max(1, wide.shape[0] * wide.shape[2]))
    for start in range(0, len(down), step):
        yield down[start : start + step] @ wide


def _mixing(length: int, resizes: tuple[tuple[int, bool], ...], maps: Tensor) -> Tensor:
    """(L, length) shares that a chain of 1-D linear resizes takes from each of ``length`` values."""
    places, shares = axis_taps(length, resizes)
    matrix = torch.zeros(len(places), length)
    matrix.scatter_add_(1, torch.from_numpy(places), torch.from_numpy(shares))
    return matrix.to(maps.device)
