"""Smooth lines between the regions of a label map."""

from __future__ import annotations

import itertools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from talk2dino.io.polygons import label_rings

_TRACED = 1_200_000  # pixels of the label map in which outlines are traced
_SPECK = 0.0002  # regions with a smaller share of the image get no line
_WINDOW = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
_SHARP = 20_000_000  # canvases with at most so many pixels are drawn at twice their size and reduced


def draw_contours(canvas: Image.Image, labels: np.ndarray) -> None:
    """Draw light lines with a dark seam, readable on any colour, between regions; fainter where lines are everywhere.

    Specks and the border of the image get no line. The lines are drawn at twice the size of the canvas and reduced.

    Args:
        canvas: RGB image, changed in place.
        labels: (H, W) integers; the canvas shows the same image and may have another size.
    """
    paths = contour_paths(labels)
    if not paths:
        return
    scale = np.array(canvas.size) / labels.shape[::-1]
    thickness = max(1, round(min(math.sqrt(canvas.width * canvas.height) / 600, min(canvas.size) / 40)))
    stride = max(1, round(thickness / 2 / scale.max()))  # segments much shorter than the line is wide would fray
    paths = [np.concatenate([path[:-1:stride], path[-1:]]) * scale for path in paths]
    line = _line_mask(canvas.size, paths, thickness)
    busy = np.asarray(line).mean() > 0.15 * 255
    if not busy:
        seam = _line_mask(canvas.size, paths, thickness + 2 * max(1, thickness // 2))
        canvas.paste((0, 0, 0), mask=seam.point(lambda value: round(0.45 * value)))
    strength = 0.35 if busy else 0.85
    canvas.paste((255, 255, 255), mask=line.point(lambda value: round(strength * value)))


def contour_paths(labels: np.ndarray) -> list[np.ndarray]:
    """Lines between the regions of (H, W) labels, without specks.

    Returns:
        lines of (x, y) points in pixels of ``labels``, (n, 2) each: the edges between pixels, after a majority filter and a
        moving average. Lines end where three regions meet and at the border of the image; others are closed.
    """
    step = math.ceil(math.sqrt(labels.size / _TRACED))
    traced = _majority(labels[step // 2 :: step, step // 2 :: step])
    scale = np.array(labels.shape[::-1]) / traced.shape[::-1]
    padded = np.pad(traced.astype(np.int64), 1, constant_values=-1)
    paths = []
    for owner, rings in label_rings(traced).items():
        for ring in map(np.array, rings):
            x, y = ring.T
            if abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2 < max(4.0, _SPECK * traced.size):
                continue
            corners = _unit_steps(ring)
            middles = (corners[:-1] + corners[1:]) / 2
            neighbours = _across(padded, middles, owner)
            changes = np.flatnonzero(neighbours != np.roll(neighbours, 1))
            if not len(changes):
                if neighbours[0] > owner:
                    paths.append(_smooth(middles, closed=True) * scale)
                continue
            corners = np.roll(corners[:-1], -changes[0], axis=0)
            middles, ends = np.roll(middles, -changes[0], axis=0), np.append(changes - changes[0], len(middles))
            for first, last in itertools.pairwise(ends):
                if neighbours[(first + changes[0]) % len(middles)] > owner:  # the same line bounds the neighbour
                    line = [corners[first : first + 1], middles[first:last], corners[last % len(middles)][None]]
                    paths.append(_smooth(np.concatenate(line), closed=False) * scale)
    return paths


def _majority(labels: np.ndarray) -> np.ndarray:
    """The most frequent label in a square around each pixel: removes specks and frays."""
    radius = 1 if min(labels.shape) < 200 else 2
    best, winners = np.zeros(labels.shape, dtype=np.uint8), labels.copy()
    for label in np.flatnonzero(np.bincount(labels.ravel())):
        mask = Image.fromarray(np.where(labels == label, np.uint8(255), np.uint8(0)))
        share = np.asarray(mask.filter(ImageFilter.BoxBlur(radius)))
        more = share > best
        winners[more] = label
        np.maximum(best, share, out=best)
    return winners


def _unit_steps(ring: np.ndarray) -> np.ndarray:
    """Corners (n + 1, 2) of a closed ring -> all pixel corners on it, (m + 1, 2)."""
    steps = np.diff(ring, axis=0)
    lengths = np.abs(steps).sum(axis=1).astype(int)
    along = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    directions = np.repeat(steps / lengths[:, None], lengths, axis=0)
    corners = np.repeat(ring[:-1], lengths, axis=0) + directions * along[:, None]
    return np.concatenate([corners, ring[:1]])


def _across(padded: np.ndarray, middles: np.ndarray, owner: int) -> np.ndarray:
    """The label on the other side of each pixel edge of a region; -1 outside the image (``padded`` has a frame of -1)."""
    x, y = middles.T
    upright = x == np.floor(x)
    rows, columns = np.floor(y).astype(int) + 1, np.floor(x).astype(int) + 1
    after = padded[rows, columns]
    before = padded[np.where(upright, rows, rows - 1), np.where(upright, columns - 1, columns)]
    return np.where(after == owner, before, after)


def _smooth(points: np.ndarray, *, closed: bool) -> np.ndarray:
    """Weighted average over nine points; the ends of an open line stay where they are."""
    if closed:
        padded = np.concatenate([points[-4:], points, points[:5]])  # one point more closes the line
    elif len(points) < 5:
        return points
    else:
        padded = np.concatenate([2 * points[0] - points[4:0:-1], points, 2 * points[-1] - points[-2:-6:-1]])
    return np.stack([np.convolve(axis, _WINDOW, "valid") for axis in padded.T], axis=1)


def _line_mask(size: tuple[int, int], lines: list[np.ndarray], thickness: int) -> Image.Image:
    factor = 2 if size[0] * size[1] <= _SHARP else 1
    mask = Image.new("L", (factor * size[0], factor * size[1]))
    draw = ImageDraw.Draw(mask)
    for line in lines:
        points = (factor * line - 0.5).ravel().tolist()
        draw.line(points, fill=255, width=factor * thickness, joint="curve" if thickness > 3 else None)
    return mask.reduce(factor)
