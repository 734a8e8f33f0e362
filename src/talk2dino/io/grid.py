"""Grids of titled images with one legend."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from talk2dino.errors import InputError
from talk2dino.io.fonts import draw_text, ellipsise
from talk2dino.io.legend import INK, PAPER, Legend, draw_legend


def draw_grid(
    tiles: Sequence[tuple[str, Image.Image]], columns: int | None = None, *, legend: Legend | None = None
) -> Image.Image:
    """Draw titled images in rows, all equally wide, with one legend for all of them.

    The legend fills the free places of the last row if it fits there, else it goes below the images. Without a legend, a
    last row with free places is centred. Titles stand above the images and are shortened to their width.

    Args:
        tiles: (title, image) pairs, row by row.
        columns: images per row; by default such that the grid is about as wide as high, at most six.
        legend: for all images, as from :func:`talk2dino.io.legend.merge_legends`.

    Raises:
        InputError: no tiles, or less than one column.
    """
    if not tiles:
        raise InputError("a grid needs at least one image")
    columns = min(len(tiles), columns if columns is not None else min(6, math.ceil(math.sqrt(len(tiles)))))
    if columns < 1:
        raise InputError(f"a grid needs at least one column; got {columns}")
    cell = min(1024, max(240, max(image.width for _, image in tiles)))
    size = max(14, round(cell / 28))
    gap, head = round(0.8 * size), round(1.9 * size)
    fitted = [(ellipsise(title, size, cell), _fit(image, cell)) for title, image in tiles]
    rows = [fitted[first : first + columns] for first in range(0, len(fitted), columns)]
    heights = [max(image.height for _, image in row) for row in rows]
    width, height = columns * (cell + gap) + gap, sum(heights) + len(rows) * (head + gap)

    free = columns - len(rows[-1])
    panel, corner = None, (0, 0)
    if legend is not None:
        room = free * (cell + gap) - gap
        panel = draw_legend(legend, size, width=room) if free else None
        corner = (width - gap - room, height - gap - heights[-1])
        if panel is None or panel.height > heights[-1] or panel.width > room:
            panel, corner = draw_legend(legend, size, width=width), (0, height)
            height += panel.height
    canvas = Image.new("RGB", (width, height), PAPER)
    y = 0
    for number, row in enumerate(rows):
        in_place = panel is not None and corner[1] < y + heights[number]
        x = gap if in_place else gap + (columns - len(row)) * (cell + gap) // 2
        for title, image in row:
            draw_text(canvas, (x, y + 0.75 * head), title, size, INK)
            canvas.paste(image, (x + (cell - image.width) // 2, y + head))
            x += cell + gap
        y += heights[number] + head + gap
    if panel is not None:
        canvas.paste(panel, corner)
    return canvas


def _fit(image: Image.Image, cell: int) -> Image.Image:
    """Scaled to the cell's width, or to 1.5 times that as height when the image is very high."""
    scale = min(cell / image.width, 1.5 * cell / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
