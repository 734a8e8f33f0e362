"""Sliding windows: where they lie, and the average of their maps where they overlap.

Source: mmsegmentation's 'slide' inference, as the published evaluation uses it: the last window of a row or column is
shifted back to the border.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from talk2dino.errors import InputError, ShapeError

Box = tuple[int, int, int, int]  # top, left, bottom, right


def window_boxes(height: int, width: int, window: int = 448, stride: int = 224) -> list[Box]:
    """Windows that cover a picture, row by row; smaller than ``window`` only where the picture is."""
    if min(height, width, window, stride) < 1 or stride > window:
        raise InputError(
            f"windows need positive sizes and a stride of at most the window; got picture {height} x {width}, "
            f"window {window}, stride {stride}"
        )
    return [
        (top, left, min(top + window, height), min(left + window, width))
        for top in _starts(height, window, stride)
        for left in _starts(width, window, stride)
    ]


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


def full_batches(windows: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Windows of one size, of whatever pictures, stacked to batches: all but the last hold ``size``."""
    windows = iter(windows)
    while batch := list(islice(windows, size)):
        yield torch.stack(batch)


def average_windows(maps: Iterable[Tensor], boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Average the maps of overlapping windows, accumulated in place.

    Args:
        maps: one (N, bottom - top, right - left) map a box, in order; may be a generator, so that only one is held.
        boxes: (top, left, bottom, right) of each window.
        size: (height, width) of the whole.

    Returns:
        (N, height, width) float32.

    Raises:
        ShapeError: if a map does not have its box's size, or the boxes leave a pixel uncovered.
    """
    total: Tensor | None = None
    count = torch.zeros(size)
    for (top, left, bottom, right), part in zip(boxes, maps, strict=True):
        if part.shape[1:] != (bottom - top, right - left):
            raise ShapeError(f"the map of window {(top, left, bottom, right)} is {tuple(part.shape[1:])}")
        if total is None:
            total = part.new_zeros(part.shape[0], *size, dtype=torch.float32)
        total[:, top:bottom, left:right] += part
        count[top:bottom, left:right] += 1
    if total is None or not count.all():
        raise ShapeError(f"the windows do not cover the picture of {size[0]} x {size[1]}")
    return total.div_(count.to(total.device))
