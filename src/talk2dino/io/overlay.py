"""Overlays: the classes painted over the image, lines between regions, names in them, and a legend of area shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from talk2dino.errors import InputError
from talk2dino.io.contours import draw_contours
from talk2dino.io.fonts import draw_text, ellipsise, text_width
from talk2dino.io.images import ImageSource, LoadedImage, read_image
from talk2dino.io.legend import Legend, add_legend, make_legend
from talk2dino.io.placement import best_spot, reduce_labels

if TYPE_CHECKING:
    from talk2dino.types import Segmentation

LEGIBLE = 640  # longer side, in pixels, to which smaller images are enlarged when a legend is drawn beside them
_SMALLEST_TEXT = 11  # pixels; names that need a smaller font are left to the legend
_NAMED_SHARE = 0.008  # classes with a smaller share of the area are named in the legend only
_GRID = 200  # geometric mean of the sides of the reduced label map in which places for names are sought
_BAND = 2**20  # pixels that are painted at once, to bound memory
_SAMPLED = 2**16  # pixels, at least, from which the mean colours in the legend are taken


def draw_overlay(
    image: ImageSource, seg: Segmentation, *, opacity: float = 0.55, legend: bool = True, contours: bool = True,
    max_size: int | None = None,
) -> Image.Image:  # fmt: skip
    """Paint a segmentation over its image.

    Each class has its colour from the palette and its name where its region has room; the background is dimmed. The
    legend lists names and area shares, largest first, below wide images and beside others, with the colours as drawn.
    With a legend, images whose longer side is below 640 pixels are enlarged, so that its text can be read.

    Args:
        image: anything that :func:`talk2dino.io.images.read_image` reads, of the same size as the segmentation.
        opacity: 0 (the image with lines and names) .. 1 (plain colours).
        legend: add the legend.
        contours: draw smooth lines between regions; specks get none.
        max_size: reduce an image whose longer side is larger. By default the overlay has the size of the image.

    Raises:
        InputError: sizes differ, or an option is out of range.
    """
    loaded = _checked(image, seg, opacity)
    if max_size is not None and max_size < 1:
        raise InputError(f"max_size must be at least 1 pixel; got {max_size}")
    drawn_pixels, labels = resize_for_overlay(loaded.array, seg.labels, LEGIBLE if legend else 0, max_size)
    canvas = Image.fromarray(paint(drawn_pixels, labels, seg.palette, opacity, seg.background))
    if contours:
        draw_contours(canvas, seg.labels)
    size = max(15, min(round(math.sqrt(canvas.width * canvas.height) / 37), round(min(canvas.size) / 8)))
    _name_regions(canvas, seg, size)
    return add_legend(canvas, overlay_legend(loaded, seg, opacity=opacity), size) if legend else canvas


def overlay_legend(image: ImageSource, seg: Segmentation, *, opacity: float = 0.55) -> Legend:
    """The legend of an overlay: a colour is the mean of what :func:`draw_overlay` paints for the class.

    Raises:
        InputError: sizes differ, or opacity is out of range.
    """
    pixels = _checked(image, seg, opacity).array
    colours = _mean_colours(seg.labels, pixels, len(seg.names))
    weights = overlay_weights(seg.palette, opacity, seg.background)
    drawn = (1 - weights) * colours + weights * seg.palette
    return make_legend(seg.labels, seg.names, drawn, background=seg.background)


def _mean_colours(labels: np.ndarray, pixels: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) mean of the pixels of each label, from an evenly spaced sample; of all pixels for labels missing there."""
    step = math.isqrt(max(1, labels.size // _SAMPLED))
    sampled, colours = labels[::step, ::step].ravel(), pixels[::step, ::step].reshape(-1, 3)
    counts = np.bincount(sampled, minlength=count)[:, None]
    sums = np.stack([np.bincount(sampled, colours[:, channel], count) for channel in range(3)], axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), colours.mean(axis=0))


def _checked(image: ImageSource, seg: Segmentation, opacity: float) -> LoadedImage:
    loaded = read_image(image)
    if loaded.size != seg.size:
        raise InputError(f"the image is {loaded.size}, the segmentation {seg.size} (height, width)")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity must be between 0 and 1; got {opacity}")
    return loaded


def resize_for_overlay(
    pixels: np.ndarray, labels: np.ndarray, smallest: int, largest: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge a small image and its labels to ``smallest`` pixels on the longer side, or reduce a large one to ``largest``."""
    height, width = labels.shape
    longer = max(height, width)
    smallest = min(smallest, largest or smallest)
    if longer < smallest:
        factor = smallest // longer if largest else math.ceil(smallest / longer)  # whole, so that labels stay exact
        size, resample = (width * factor, height * factor), Image.Resampling.BICUBIC
    elif largest is not None and longer > largest:
        size = (max(1, round(width * largest / longer)), max(1, round(height * largest / longer)))
        resample = Image.Resampling.BOX
    else:
        return pixels, labels
    rows, columns = np.arange(size[1]) * height // size[1], np.arange(size[0]) * width // size[0]
    return np.asarray(Image.fromarray(pixels).resize(size, resample)), labels[rows[:, None], columns]


def overlay_weights(palette: np.ndarray, opacity: float, background: int | None) -> np.ndarray:
    """(N, 1) opacity of each class: the background stays behind the rest."""
    weights = np.full((len(palette), 1), opacity)
    if background is not None:
        weights[background] *= 0.8
    return weights


def paint(
    pixels: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float, background: int | None
) -> np.ndarray:
    """image * (1 - opacity) + colour * opacity, in 1/256ths; (H, W, 3) uint8."""
    weights = np.rint(overlay_weights(palette, opacity, background) * 256)
    colours = (palette * weights).astype(np.uint16)
    keep = (256 - weights).astype(np.uint16)
    painted = np.empty_like(pixels)
    rows = max(1, _BAND // labels.shape[1])
    for top in range(0, len(labels), rows):
        band = labels[top : top + rows]
        mixed = pixels[top : top + rows] * keep[band]
        mixed += colours[band]
        painted[top : top + rows] = mixed >> 8
    return painted


def _name_regions(canvas: Image.Image, seg: Segmentation, size: int) -> None:
    """Write the name of each larger class where it fits, in a smaller font if need be, or not at all."""
    labels = seg.labels
    step = max(1, round(math.sqrt(labels.size) / _GRID))
    reduced = reduce_labels(labels, step)
    cell_y, cell_x = step * canvas.height / labels.shape[0], step * canvas.width / labels.shape[1]
    counts = np.bincount(reduced[reduced >= 0], minlength=len(seg.names))
    for index in np.argsort(-counts, kind="stable").tolist():
        if counts[index] < _NAMED_SHARE * reduced.size or index == seg.background:
            continue
        inside = reduced == index
        for points in (size, round(size * 0.8), round(size * 0.65)):
            if points < _SMALLEST_TEXT:
                break
            name = ellipsise(seg.names[index], points, 0.45 * canvas.width)
            width = text_width(name, points)
            spot = best_spot(inside, (1.35 * points / cell_y, (width + 0.7 * points) / cell_x))
            if spot is not None:
                position = (spot[1] * cell_x - width / 2, spot[0] * cell_y + 0.36 * points)
                halo = max(1, round(points / 8))
                draw_text(canvas, position, name, points, (255, 255, 255), halo=(20, 20, 24), halo_width=halo)
                break
