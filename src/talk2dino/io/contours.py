"""Smooth lines between the regions of a label map.

Each bit of the labels, as an image of zeros and ones, is blurred. It then crosses one half along a smooth curve where
regions with different bits meet, but not at specks. The blurred value tells the distance to that curve, so a line of any
width has no stairs at any size, and N classes take log2(N) blurred images.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageFilter

from talk2dino.io.palette import Colour

_DRAWN = 4_000_000  # pixels; lines on larger images are drawn at this size and enlarged
_TRACED = 160_000  # pixels of the reduced label map that decides where lines run


def draw_contours(canvas: Image.Image, labels: np.ndarray) -> None:
    """Draw light lines with a dark seam, readable on any colour, between regions; fainter where lines are everywhere.

    Specks and the border of the image get no line.

    Args:
        canvas: RGB image, changed in place.
        labels: (H, W) non-negative integers; the canvas shows the same image and may have another size.
    """
    pixels = canvas.width * canvas.height
    shrink = min(1.0, math.sqrt(_DRAWN / pixels))
    steps, distances = smooth_edges(labels, (math.ceil(shrink * canvas.width), math.ceil(shrink * canvas.height)))
    thickness = max(1, round(min(math.sqrt(pixels) / 600, min(canvas.size) / 40)))

    def paint(colour: Colour, width: float, opacity: float) -> None:
        cover = np.zeros(256)
        cover[:128] = np.clip(shrink * width / 2 + 0.75 - distances, 0, 1)
        mask = drawn.point(np.rint(255 * opacity * cover).astype(int).tolist())
        canvas.paste(colour, mask=mask.resize(canvas.size, Image.Resampling.BILINEAR) if shrink < 1 else mask)

    drawn = Image.fromarray(steps)
    near = np.searchsorted(distances, shrink * thickness / 2)  # steps below are on a line
    busy = np.count_nonzero(steps < near) > 0.15 * steps.size
    if not busy:
        paint((0, 0, 0), thickness + 2 * max(1, thickness // 2), 0.45)
    paint((255, 255, 255), thickness, 0.35 if busy else 0.85)


def smooth_edges(labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel is from the smoothed lines between regions.

    Args:
        labels: (H, W) non-negative integers.
        size: (width, height) of the result.

    Returns:
        steps: (height, width) uint8, 0 on a line to 127 far from all lines.
        distances: (128,) the distance of each step, in pixels of the result; infinite for the last.
    """
    codes = np.cumsum(np.bincount(labels.ravel()) > 0) - 1  # present labels, numbered from 0
    coded = np.take(codes.astype(np.uint8 if codes[-1] < 256 else np.uint16), labels)
    reduction = math.ceil(math.sqrt(labels.size / _TRACED))
    sigma = 1.0 if reduction > 1 or min(labels.shape) < 200 else 2.0
    steps = np.full(size[::-1], 127, dtype=np.uint8)
    for bit in range(int(codes[-1]).bit_length()):
        plane = Image.fromarray((coded >> bit & 1).astype(np.uint8) * np.uint8(255)).reduce(reduction)
        value = np.asarray(plane.filter(ImageFilter.GaussianBlur(sigma)).resize(size, Image.Resampling.BILINEAR))
        np.minimum(steps, np.minimum(value ^ 128, value ^ 127), out=steps)  # value - 128, or 127 - value below one half
    scale = reduction * math.sqrt(size[0] * size[1] / labels.size)
    straight = NormalDist(sigma=max(0.5, scale * math.hypot(sigma, 0.3)))  # 0.3: pixels blur a little, too
    return steps, np.array([*(straight.inv_cdf((step + 128) / 255) for step in range(127)), math.inf])
