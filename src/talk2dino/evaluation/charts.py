"""Figures as horizontal bars: the IoU of each class, or the mIoU of each system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from talk2dino.evaluation.metrics import Metrics
from talk2dino.io.fonts import draw_text, ellipsise, text_width

_PAPER, _INK, _FAINT, _LINE = (255, 255, 255), (24, 24, 27), (113, 113, 122), (228, 228, 231)
_BLUE, _ORANGE = (0, 114, 178), (213, 94, 0)


class Bar(NamedTuple):
    """One bar: ``share`` from 0 to 1; ``marked`` gives it another colour."""

    name: str
    share: float
    marked: bool = False


def bar_chart(
    bars: Sequence[Bar], title: str, *, mean: float | None = None, remark: str = "", width: int = 900
) -> Image.Image:
    """Bars from top to bottom, with the mean as a line and a remark below."""
    size, row, head = 15, 26, 60
    bottom = head + row * len(bars)
    canvas = Image.new("RGB", (width, bottom + (34 if remark else 12)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_text(canvas, (16, 28), ellipsise(title, size + 1, width - 32), size + 1, _INK)
    left = 24 + min(width // 2.5, max((text_width(bar.name, size) for bar in bars), default=60))
    room = width - left - 70
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * room
        pen.line([(x, head - 4), (x, bottom)], fill=_LINE)
        draw_text(canvas, (x - 8, head - 8), f"{100 * share:.0f}", size - 4, _FAINT)
    for place, bar in enumerate(bars):
        top, end = head + place * row, left + float(np.nan_to_num(bar.share)) * room
        draw_text(canvas, (16, top + 18), ellipsise(bar.name, size, left - 22), size, _INK)
        pen.rectangle([left, top + 5, max(end, left + 1), top + row - 5], fill=_ORANGE if bar.marked else _BLUE)
        draw_text(canvas, (end + 6, top + 18), f"{100 * bar.share:.1f}", size - 1, _FAINT)
    if mean is not None:
        x = left + mean * room
        pen.line([(x, head - 4), (x, bottom)], fill=_ORANGE, width=2)
    if remark:
        draw_text(canvas, (16, bottom + 22), ellipsise(remark, size - 2, width - 32), size - 2, _FAINT)
    return canvas


def class_chart(metrics: Metrics, title: str) -> Image.Image:
    """The IoU of each class, best first, with the mIoU as a line; classes without a figure are named at the end."""
    figures = dict(zip(metrics.names, metrics.iou.tolist(), strict=True))
    absent = [name for name, iou in figures.items() if np.isnan(iou)]
    bars = sorted((Bar(name, iou) for name, iou in figures.items() if name not in absent), key=lambda bar: -bar.share)
    remark = f"in neither truth nor prediction: {', '.join(absent)}" if absent else ""
    return bar_chart(bars, title, mean=metrics.miou if bars else None, remark=remark)
