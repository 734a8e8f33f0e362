"""Legends (names, colours and area shares of classes), and grids of titled images that share one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from talk2dino.errors import InputError
from talk2dino.io.fonts import draw_text, ellipsise, fit_names, text_width
from talk2dino.io.palette import Colour

LISTED = 20
"""Classes in a legend; the others are counted in its last row."""

_PAPER: Colour = (250, 250, 248)
_INK: Colour = (34, 36, 40)
_FAINT: Colour = (112, 116, 122)


@dataclass(frozen=True)
class LegendRow:
    """One class: its name, colour (RGB 0..255) and share of the area (0..1, or None to leave it out)."""

    name: str
    colour: Colour
    share: float | None = None


@dataclass(frozen=True)
class Legend:
    """Classes that were found, in the order in which they are listed, and the names of those that were not."""

    rows: tuple[LegendRow, ...]
    absent: tuple[str, ...] = ()


def make_legend(
    labels: np.ndarray, names: Sequence[str], colours: np.ndarray, *, background: int | None = None
) -> Legend:
    """List the classes of a label map by their area, largest first.

    Args:
        labels: integers of any shape; values that stand for no name are ignored.
        names: N class names.
        colours: (N, 3) RGB 0..255.
        background: index of the background, which is not listed as absent.
    """
    if labels.min(initial=0) < 0:
        labels = np.where(labels < 0, len(names), labels)
    counts = np.bincount(labels.ravel(), minlength=len(names))[: len(names)]
    found = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
    drawn = np.rint(colours).astype(int).tolist()
    rows = (LegendRow(names[i], tuple(drawn[i]), float(counts[i] / labels.size)) for i in found)
    return Legend(tuple(rows), tuple(name for i, name in enumerate(names) if not counts[i] and i != background))


def merge_legends(legends: Sequence[Legend]) -> Legend:
    """One legend for several label maps, without shares: each name once, with its first colour."""
    rows: dict[str, LegendRow] = {}
    area: dict[str, float] = {}
    for row in (row for legend in legends for row in legend.rows):
        rows.setdefault(row.name, replace(row, share=None))
        area[row.name] = area.get(row.name, 0.0) - (row.share or 0.0)
    absent = dict.fromkeys(name for legend in legends for name in legend.absent if name not in rows)
    return Legend(tuple(rows[name] for name in sorted(rows, key=area.__getitem__)), tuple(absent))


def format_share(share: float | None) -> str:
    """A share (0..1) in per cent: 42.3 %, < 0.1 %, 100 %; nothing for None."""
    if share is None:
        return ""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def add_legend(image: Image.Image, legend: Legend, size: int) -> Image.Image:
    """The image with its legend in a font of ``size`` pixels: below if it is clearly wider than high, else to the right."""
    if image.width > 1.25 * image.height:
        panel = draw_legend(legend, size, width=image.width)
        width, height = max(image.width, panel.width), image.height + panel.height
        corners = ((width - image.width) // 2, 0), (0, image.height)
    else:
        panel = draw_legend(legend, size, height=image.height)
        width, height = image.width + panel.width, max(image.height, panel.height)
        corners = (0, (height - image.height) // 2), (image.width, (height - panel.height) // 2)
    canvas = Image.new("RGB", (width, height), _PAPER)
    canvas.paste(image, corners[0])
    canvas.paste(panel, corners[1])
    return canvas


def draw_legend(legend: Legend, size: int, *, width: int | None = None, height: int | None = None) -> Image.Image:
    """The legend as an image that fills a width, or else a height, with as many columns as suit it (in pixels)."""
    cells: list[tuple[str, str, Colour | None]] = [
        (row.name, format_share(row.share), row.colour) for row in legend.rows[:LISTED]
    ]
    if more := legend.rows[LISTED:]:
        shares = [row.share for row in more if row.share is not None]
        cells.append((f"and {len(more)} more", format_share(sum(shares) if shares else None), None))
    row_height, margin, gap = round(1.75 * size), size, round(2.4 * size)
    widest_name = max((text_width(name, size) for name, *_ in cells), default=0)
    widest_share = max((text_width(share, size) for _, share, _ in cells), default=0)
    column = round(2.9 * size + max(min(widest_name, 17 * size), 4 * size) + widest_share)
    if width is None:
        usable = max((height or 0) - 2 * margin, 8 * row_height)
        columns = max(1, math.ceil(len(cells) * row_height / usable))
        column = max(column, 12 * size) if legend.absent else column
    else:
        columns = max(1, min(len(cells), (width - 2 * margin + gap) // (column + gap)))
        column = min(column, max(width - 2 * margin, 10 * size))
    down = math.ceil(len(cells) / columns)
    total = max(columns * (column + gap) - gap + 2 * margin, width or 0)
    remark = fit_names("not found", legend.absent, size, total - 2 * margin, 4 if width is None else 2)
    bottom = round(0.7 * margin) + down * row_height
    remark_height = (1.5 * len(remark) + 0.3 * bool(remark)) * size
    panel = Image.new("RGB", (total, round(bottom + remark_height + 0.7 * margin)), _PAPER)
    for number, cell in enumerate(cells):
        corner = margin + number // down * (column + gap), round(0.7 * margin) + number % down * row_height
        _draw_row(panel, cell, corner, column, size)
    for number, line in enumerate(remark):
        draw_text(panel, (margin, bottom + (1.3 + 1.5 * number) * size), line, size, _FAINT)
    return panel


def _draw_row(
    panel: Image.Image, cell: tuple[str, str, Colour | None], corner: tuple[int, int], width: int, size: int
) -> None:
    name, share, colour = cell
    (x, y), swatch, height = corner, round(1.15 * size), round(1.75 * size)
    base = y + height / 2 + 0.36 * size
    left, right = x + swatch + round(0.6 * size), x + width - text_width(share, size)
    if colour is not None:
        top = y + (height - swatch) // 2
        edge = tuple(int(0.7 * value) for value in colour)
        ImageDraw.Draw(panel).rounded_rectangle(
            (x, top, x + swatch, top + swatch), radius=max(2, size // 5), fill=colour, outline=edge,
            width=max(1, size // 16),
        )  # fmt: skip
    room = right - round(0.5 * size) - left
    draw_text(panel, (left, base), ellipsise(name, size, room), size, _INK if colour else _FAINT)
    draw_text(panel, (right, base), share, size, _FAINT)


def draw_grid(
    tiles: Sequence[tuple[str, Image.Image]], columns: int | None = None, *, legend: Legend | None = None
) -> Image.Image:
    """Draw titled images in rows, all equally wide, with one legend for all of them.

    The legend fills the free places of the last row if it fits there, else it goes below the images. Without a legend, a
    last row with free places is centred. Titles stand above the images and are shortened to their width.

    Args:
        tiles: (title, image) pairs, row by row.
        columns: images per row; by default such that the grid is about as wide as high, at most six.
        legend: for all images, as from :func:`merge_legends`.

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
    canvas = Image.new("RGB", (width, height), _PAPER)
    y = 0
    for number, row in enumerate(rows):
        in_place = panel is not None and corner[1] < y + heights[number]
        x = gap if in_place else gap + (columns - len(row)) * (cell + gap) // 2
        for title, image in row:
            draw_text(canvas, (x, y + 0.75 * head), title, size, _INK)
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
