"""A segmentation for people's eyes: classes painted over the picture, names in their regions, a legend of shares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from talk2dino.errors import InputError
from talk2dino.io.fonts import draw_text, ellipsise, text_width
from talk2dino.io.images import read_image
from talk2dino.io.legend import add_legend, draw_grid
from talk2dino.io.placement import best_spot, edge_distance, reduce_labels
from talk2dino.types import Segmentation

__all__ = ["draw_grid", "draw_overlay"]

_COMFORTABLE = 640  # longer side, in pixels, that pictures with a legend are brought to at least
_LARGEST = 4096  # and at most
_GRID = 256  # longer side of the reduced label map in which places for names are sought
_NAMED_SHARE = 0.008  # classes with a smaller share are named in the legend alone


def draw_overlay(image: Any, seg: Segmentation, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
    """Paint a segmentation over its picture.

    Each class has its colour from the palette, thin light-on-dark lines between regions, and its name where its region
    has room; the background is dimmed. The legend lists names and area shares, largest first, below wide pictures and
    beside others.

    Args:
        image: anything that :func:`read_image` reads; the same size as the segmentation.
        opacity: 0 (the picture alone, with lines) .. 1 (colours alone).
        legend: with it, small pictures are enlarged and very large ones reduced, so that text can be read; without it,
            the result has exactly the picture's size.

    Raises:
        InputError: sizes differ, or opacity is out of range.
    """
    pixels = read_image(image).array
    if pixels.shape[:2] != seg.size:
        raise InputError(f"the picture is {pixels.shape[:2]}, the segmentation {seg.size} (height, width)")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity must be between 0 and 1; got {opacity}")
    labels = seg.labels
    if legend:
        pixels, labels = _to_comfortable_size(pixels, labels)
    height, width = labels.shape
    painted = _paint(pixels, labels, seg.palette, opacity, seg.background)
    _draw_boundaries(painted, labels)
    canvas = Image.fromarray(painted)
    size = text_size(height, width)
    _name_regions(canvas, labels, seg, size)
    return add_legend(canvas, seg, size) if legend else canvas


def text_size(height: int, width: int) -> int:
    """Font size in pixels that suits a picture of this size."""
    return max(15, min(round(math.sqrt(height * width) / 37), round(min(height, width) / 8) or 15))


def _to_comfortable_size(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = labels.shape
    longer = max(height, width)
    if _COMFORTABLE <= longer <= _LARGEST:
        return pixels, labels
    if longer < _COMFORTABLE:
        factor = math.ceil(_COMFORTABLE / longer)  # whole, so that labels stay exact
        size = (width * factor, height * factor)
        smooth = Image.Resampling.BICUBIC
    else:
        size = (max(1, round(width * _LARGEST / longer)), max(1, round(height * _LARGEST / longer)))
        smooth = Image.Resampling.BOX
    rows = np.arange(size[1]) * height // size[1]
    columns = np.arange(size[0]) * width // size[0]
    return np.asarray(Image.fromarray(pixels).resize(size, smooth)), labels[rows[:, None], columns]


def _paint(
    pixels: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float, background: int | None
) -> np.ndarray:
    """picture * (1 - opacity) + colour * opacity, in 1/256ths; (H, W, 3) uint8."""
    weights = np.full(len(palette), opacity)
    if background is not None:
        weights[background] *= 0.8  # recognisable, yet behind the rest
    weights = np.rint(weights * 256)
    colours = (palette * weights[:, None]).astype(np.uint16)
    keep = (256 - weights).astype(np.uint16)
    mixed = pixels * keep[labels][..., None]
    mixed += colours[labels]
    mixed >>= 8
    return mixed.astype(np.uint8)


def _draw_boundaries(painted: np.ndarray, labels: np.ndarray) -> None:
    """Light lines with a dark seam, readable on any colour; on maps that are all edges, fainter and without seam."""
    height, width = labels.shape
    line = np.zeros((height, width), dtype=bool)
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    line[1:] |= labels[1:] != labels[:-1]
    if not line.any():
        return
    busy = line.mean() > 0.12
    thickness = max(1, round(max(height, width) / 700))
    line = _thicken(line, thickness - 1)
    if not busy:
        seam = _thicken(line, max(1, thickness // 2)) & ~line
        painted[seam] = (painted[seam] * 0.55).astype(np.uint8)
    light = 0.35 if busy else 0.85
    painted[line] = (painted[line] * (1 - light) + 255 * light).astype(np.uint8)


def _thicken(mask: np.ndarray, steps: int) -> np.ndarray:
    """Grow by one pixel a step, to all sides in turn with left-up and right-down so that lines stay centred."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _name_regions(canvas: Image.Image, labels: np.ndarray, seg: Segmentation, size: int) -> None:
    """Write each larger class's name where it fits, in a smaller size if need be, or not at all."""
    step = max(1, math.ceil(max(labels.shape) / _GRID))
    reduced = reduce_labels(labels, step)
    distance = edge_distance(reduced)
    counts = np.bincount(reduced[reduced >= 0], minlength=len(seg.names))
    for index in np.argsort(-counts, kind="stable").tolist():
        if counts[index] < _NAMED_SHARE * reduced.size:
            break
        if index == seg.background:
            continue
        inside = reduced == index
        for points in (size, round(size * 0.8), round(size * 0.65)):
            name = ellipsise(seg.names[index], points, 0.45 * canvas.width)
            width = text_width(name, points)
            box = (math.ceil(1.35 * points / step), math.ceil((width + 0.7 * points) / step))
            spot = best_spot(inside, distance, box) if points >= 10 else None
            if spot is not None:
                row, column = (place * step + step // 2 for place in spot)
                position = (column - width / 2, row + 0.36 * points)
                halo = max(1, round(points / 8))
                draw_text(canvas, position, name, points, (255, 255, 255), halo=(20, 20, 24), halo_width=halo)
                break
