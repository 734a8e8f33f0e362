"""Smooth lines between the regions of a label map."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

_DRAWN = 4_000_000  # lines are drawn at twice the size of the canvas, or in so many pixels if that is less
_TRACED = 1_200_000  # pixels of the label map that decide where lines run


def draw_contours(canvas: Image.Image, labels: np.ndarray) -> None:
    """Draw light lines with a dark seam, readable on any colour, between regions; fainter where lines are everywhere.

    Specks and the border of the image get no line.

    Args:
        canvas: RGB image, changed in place.
        labels: (H, W) integers; the canvas shows the same image and may have another size.
    """
    thickness = max(1, round(min(math.sqrt(canvas.width * canvas.height) / 600, min(canvas.size) / 40)))
    factor = min(2.0, math.sqrt(_DRAWN / (canvas.width * canvas.height)))
    edges = smooth_edges(labels, (max(1, round(factor * canvas.width)), max(1, round(factor * canvas.height))))
    if not edges.any():
        return

    def mask(width: float) -> Image.Image:
        radius = max(0, round((factor * width - 2) / 2))
        grown = Image.fromarray(edges).filter(ImageFilter.BoxBlur(radius)).point(lambda value: 255 if value else 0)
        return grown.resize(canvas.size, Image.Resampling.BOX if factor > 1 else Image.Resampling.BILINEAR)

    line = mask(thickness)
    busy = np.asarray(line).mean() > 0.15 * 255
    if not busy:
        seam = mask(thickness + 2 * max(1, thickness // 2))
        canvas.paste((0, 0, 0), mask=seam.point(lambda value: round(0.45 * value)))
    strength = 0.35 if busy else 0.85
    canvas.paste((255, 255, 255), mask=line.point(lambda value: round(strength * value)))


def smooth_edges(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where neighbouring pixels differ, once the label map is smoothed and scaled.

    Each class is blurred and enlarged on its own, and the strongest one wins: that straightens stairs of pixels and drops
    specks.

    Args:
        labels: (H, W) integers.
        size: (width, height) of the result.

    Returns:
        (height, width) uint8, 255 for the two pixels on both sides of an edge, else 0.
    """
    step = math.ceil(math.sqrt(labels.size / _TRACED))
    labels = labels[step // 2 :: step, step // 2 :: step]
    blur = ImageFilter.GaussianBlur(1 if min(labels.shape) < 200 else 2)
    best, winners = np.zeros(size[::-1], dtype=np.uint8), np.zeros(size[::-1], dtype=np.int32)
    for label in np.flatnonzero(np.bincount(labels.ravel())):
        mask = Image.fromarray(np.where(labels == label, np.uint8(255), np.uint8(0)))
        share = np.asarray(mask.filter(blur).resize(size, Image.Resampling.BILINEAR))
        np.copyto(winners, label, where=share > best)
        np.maximum(best, share, out=best)
    edges = np.zeros(winners.shape, dtype=bool)
    for axis in (0, 1):
        ahead, behind = (np.moveaxis(array, axis, 0) for array in (edges, winners))
        change = behind[1:] != behind[:-1]
        ahead[1:] |= change
        ahead[:-1] |= change
    return np.where(edges, np.uint8(255), np.uint8(0))
