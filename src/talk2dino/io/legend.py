"""The panel of names and area shares beside or below a picture, and grids of titled pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from talk2dino.errors import InputError
from talk2dino.io.fonts import Colour, draw_text, ellipsise, text_width, wrap
from talk2dino.types import Segmentation

LISTED = 20
"""Classes in a legend; the rest are counted in its last line."""

_PAPER: Colour = (250, 250, 248)
_INK: Colour = (34, 36, 40)
_FAINT: Colour = (112, 116, 122)


@dataclass(frozen=True)
class Row:
    """A line of the legend: ``colour`` None for the line that sums up the classes beyond the listed ones."""

    name: str
    share: str
    colour: Colour | None


@dataclass(frozen=True)
class _Layout:
    """Sizes of a legend in pixels, for a font of ``size``."""

    size: int
    columns: int
    down: int
    column_width: int
    remark: list[str]

    @property
    def row_height(self) -> int:
        return round(1.75 * self.size)

    @property
    def margin(self) -> int:
        return self.size

    @property
    def gap(self) -> int:
        return round(2.4 * self.size)

    @property
    def panel(self) -> tuple[int, int]:
        width = self.columns * self.column_width + (self.columns - 1) * self.gap + 2 * self.margin
        remark = round(1.5 * self.size * len(self.remark) + 0.3 * self.size * bool(self.remark))
        return width, self.down * self.row_height + remark + round(1.4 * self.margin)


def legend_rows(seg: Segmentation) -> tuple[list[Row], str]:
    """Classes with pixels, largest first, and how many more there are; a remark on those that were not found."""
    counts = np.bincount(seg.labels.ravel(), minlength=len(seg.names))
    present = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    rows = []
    for index in present[:LISTED]:
        red, green, blue = seg.palette[index].tolist()
        rows.append(Row(seg.names[index], percent(counts[index] / seg.labels.size), (red, green, blue)))
    more = present[LISTED:]
    if more:
        rows.append(Row(f"and {len(more)} more", percent(counts[more].sum() / seg.labels.size), None))
    absent = [name for index, name in enumerate(seg.names) if not counts[index] and index != seg.background]
    return rows, f"not found: {', '.join(absent[: 2 * LISTED])}" if absent else ""


def percent(share: float) -> str:
    """A share as people write it: 42.3 %, < 0.1 %, 100 %."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def add_legend(picture: Image.Image, seg: Segmentation, size: int) -> Image.Image:
    """The picture with its legend: below when it is clearly wider than high, else to the right."""
    rows, remark = legend_rows(seg)
    below = picture.width > 1.25 * picture.height
    layout = _lay_out(rows, remark, size, picture.width if below else None, picture.height)
    width, height = layout.panel
    if below:
        canvas = Image.new("RGB", (max(picture.width, width), picture.height + height), _PAPER)
        canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
        left, top = layout.margin, picture.height + round(0.7 * layout.margin)
    else:
        canvas = Image.new("RGB", (picture.width + width, max(picture.height, height)), _PAPER)
        canvas.paste(picture, (0, (canvas.height - picture.height) // 2))
        left, top = picture.width + layout.margin, (canvas.height - height) // 2 + round(0.7 * layout.margin)
    for number, row in enumerate(rows):
        x = left + (number // layout.down) * (layout.column_width + layout.gap)
        _draw_row(canvas, row, (x, top + (number % layout.down) * layout.row_height), layout)
    base = top + layout.down * layout.row_height + 1.3 * size
    for number, line in enumerate(layout.remark):
        draw_text(canvas, (left, base + 1.5 * size * number), line, size, _FAINT)
    return canvas


def _lay_out(rows: list[Row], remark: str, size: int, room: int | None, height: int) -> _Layout:
    """Columns that fill the width ``room`` below a picture, or, when it is None, the height beside it."""
    names = max(text_width(row.name, size) for row in rows)
    shares = max(text_width(row.share, size) for row in rows)
    column = round(2.9 * size + max(min(names, 17 * size), 4 * size) + shares)
    draft = _Layout(size, 1, len(rows), column, [])
    if room is None:
        usable = max(height - 2 * draft.margin, 8 * draft.row_height)
        columns = math.ceil(len(rows) * draft.row_height / usable)
        column = max(column, 12 * size) if remark else column
    else:
        columns = max(1, min(len(rows), (room - 2 * draft.margin + draft.gap) // (column + draft.gap)))
        column = min(column, max(room - 2 * draft.margin, 10 * size))
    filled = _Layout(size, columns, math.ceil(len(rows) / columns), column, [])
    remark_width = max(filled.panel[0], room or 0) - 2 * draft.margin
    lines = wrap(remark, size, remark_width, 4 if room is None else 2) if remark else []
    return _Layout(size, columns, filled.down, column, lines)


def _draw_row(canvas: Image.Image, row: Row, corner: tuple[int, int], layout: _Layout) -> None:
    size = layout.size
    x, y = corner
    base = y + layout.row_height / 2 + 0.36 * size
    swatch = round(1.15 * size)
    name_left = x + swatch + round(0.6 * size)
    share_left = x + layout.column_width - text_width(row.share, size)
    if row.colour is not None:
        top = y + (layout.row_height - swatch) // 2
        edge = tuple(int(0.7 * value) for value in row.colour)
        ImageDraw.Draw(canvas).rounded_rectangle(
            (x, top, x + swatch, top + swatch), radius=max(2, size // 5), fill=row.colour, outline=edge,
            width=max(1, size // 16),
        )  # fmt: skip
    room = share_left - round(0.5 * size) - name_left
    draw_text(canvas, (name_left, base), ellipsise(row.name, size, room), size, _INK if row.colour else _FAINT)
    draw_text(canvas, (share_left, base), row.share, size, _FAINT)


def draw_grid(tiles: Sequence[tuple[str, Image.Image]], columns: int | None = None) -> Image.Image:
    """Titled pictures in rows, all equally wide; titles above, shortened where they do not fit.

    Args:
        tiles: (title, picture) pairs, row by row.
        columns: pictures in a row; by default as many as make the grid about as wide as high, at most six.

    Raises:
        InputError: no tiles, or less than one column.
    """
    if not tiles:
        raise InputError("a grid needs at least one picture")
    columns = min(len(tiles), columns if columns is not None else min(6, math.ceil(math.sqrt(len(tiles)))))
    if columns < 1:
        raise InputError(f"a grid needs at least one column; got {columns}")
    cell = min(1024, max(240, max(picture.width for _, picture in tiles)))
    size = max(14, round(cell / 28))
    gap, head = round(0.8 * size), round(1.9 * size)
    fitted = [_fit(picture, cell) for _, picture in tiles]
    lines = [range(first, min(first + columns, len(tiles))) for first in range(0, len(tiles), columns)]
    heights = [max(fitted[number].height for number in line) for line in lines]
    canvas = Image.new("RGB", (columns * (cell + gap) + gap, sum(heights) + len(lines) * (head + gap)), _PAPER)
    y = 0
    for line, height in zip(lines, heights, strict=True):
        for column, number in enumerate(line):
            x = gap + column * (cell + gap)
            draw_text(canvas, (x, y + 0.75 * head), ellipsise(tiles[number][0], size, cell), size, _INK)
            canvas.paste(fitted[number], (x + (cell - fitted[number].width) // 2, y + head))
        y += height + head + gap
    return canvas


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    """Scaled to the cell's width, or to 1.5 times that as height when it is very high."""
    scale = min(cell / picture.width, 1.5 * cell / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
