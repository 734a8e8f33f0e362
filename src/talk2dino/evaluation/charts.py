"""Pictures of an evaluation: IoU of each class as bars, and the worst and best cases as a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from talk2dino.evaluation.datasets import Benchmark, Sample
from talk2dino.evaluation.journal import PictureRecord
from talk2dino.evaluation.metrics import IGNORE, Metrics
from talk2dino.io.fonts import draw_text, ellipsise, text_width
from talk2dino.io.legend import draw_grid

_PAPER, _INK, _FAINT, _LINE = (255, 255, 255), (24, 24, 27), (113, 113, 122), (228, 228, 231)
_BAR, _MEAN = (0, 114, 178), (213, 94, 0)
_IGNORED = (232, 232, 232)


def class_chart(metrics: Metrics, title: str, *, width: int = 900) -> Image.Image:
    """Horizontal bars, best class first, the mean as a line; classes without a figure are named at the end."""
    size, row, head = 15, 24, 58
    order = [int(i) for i in np.argsort(-np.nan_to_num(metrics.iou, nan=-1), kind="stable")]
    present = [i for i in order if not np.isnan(metrics.iou[i])]
    absent = [metrics.names[i] for i in order if np.isnan(metrics.iou[i])]
    canvas = Image.new("RGB", (width, head + row * len(present) + (34 if absent else 12)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_text(canvas, (16, 28), ellipsise(title, size + 1, width - 32), size + 1, _INK)
    left = 24 + min(230, max((text_width(metrics.names[i], size) for i in present), default=60))
    room = width - left - 70
    bottom = head + row * len(present)
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * room
        pen.line([(x, head - 4), (x, bottom)], fill=_LINE)
        draw_text(canvas, (x - 8, head - 8), f"{100 * share:.0f}", size - 4, _FAINT)
    for place, i in enumerate(present):
        top = head + place * row
        draw_text(canvas, (16, top + 17), ellipsise(metrics.names[i], size, left - 22), size, _INK)
        end = left + float(metrics.iou[i]) * room
        pen.rectangle([left, top + 4, max(end, left + 1), top + row - 5], fill=_BAR)
        draw_text(canvas, (end + 6, top + 17), f"{100 * metrics.iou[i]:.1f}", size - 1, _FAINT)
    if present:
        x = left + metrics.miou * room
        pen.line([(x, head - 4), (x, bottom)], fill=_MEAN, width=2)
    if absent:
        text = f"in neither truth nor prediction: {', '.join(absent)}"
        draw_text(canvas, (16, bottom + 22), ellipsise(text, size - 2, width - 32), size - 2, _FAINT)
    return canvas


def comparison_chart(bars: Sequence[tuple[str, float, bool]], title: str, *, width: int = 900) -> Image.Image:
    """Horizontal bars of (name, share, ours) in the order given; ours stands out."""
    size, row, head = 16, 34, 64
    canvas = Image.new("RGB", (width, head + row * len(bars) + 14), _PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_text(canvas, (16, 30), ellipsise(title, size + 1, width - 32), size + 1, _INK)
    left = 30 + max(text_width(name, size) for name, _, _ in bars)
    room = width - left - 80
    for share in (0, 0.25, 0.5, 0.75, 1):
        pen.line([(left + share * room, head - 4), (left + share * room, head + row * len(bars))], fill=_LINE)
        draw_text(canvas, (left + share * room - 8, head - 8), f"{100 * share:.0f}", size - 4, _FAINT)
    for place, (name, share, ours) in enumerate(bars):
        top, end = head + place * row, left + np.nan_to_num(share) * room
        draw_text(canvas, (16, top + 22), name, size, _INK)
        pen.rectangle([left, top + 5, max(end, left + 1), top + row - 7], fill=_MEAN if ours else _BAR)
        draw_text(canvas, (end + 8, top + 22), f"{100 * share:.1f}", size, _INK)
    return canvas


def paint_labels(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """(H, W) class indices in the benchmark's colours; ignored and unmatched pixels are light grey."""
    colours = np.array([*palette, _IGNORED], dtype=np.uint8)
    nothing = (labels == IGNORE) | (labels < 0)
    return Image.fromarray(colours[np.where(nothing, len(palette), labels)])


def extreme_cases(records: Sequence[PictureRecord], count: int = 3) -> list[tuple[str, PictureRecord]]:
    """The pictures with the lowest and the highest mIoU of their own: ("worst" or "best", record)."""
    scored = sorted((r for r in records if r.miou is not None), key=lambda r: (r.miou, r.name))
    low = min(count, len(scored) // 2)  # of a few pictures the better half is not "worst"
    worst, best = scored[:low], scored[max(low, len(scored) - count) :][::-1]
    return [("worst", r) for r in worst] + [("best", r) for r in best]


def case_grid(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    records: Sequence[PictureRecord],
    predict: Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], list[np.ndarray]],
    *,
    count: int = 3,
) -> Image.Image | None:
    """Picture, truth and prediction of the worst and the best cases; None when no picture has a figure."""
    by_name = {sample.name: sample for sample in samples}
    tiles = []
    for kind, record in extreme_cases(records, count):
        if record.name not in by_name:
            continue
        picture, truth = by_name[record.name].load()
        (labels,) = predict([(picture, truth)])
        tiles += [
            (f"{kind}: {record.name}", enlarge(Image.fromarray(picture))),
            ("truth", enlarge(paint_labels(truth, benchmark.palette), smooth=False)),
            (
                f"prediction, mIoU {100 * (record.miou or 0):.1f}",
                enlarge(paint_labels(labels, benchmark.palette), smooth=False),
            ),
            ("classes", class_key([truth, labels], benchmark)),
        ]
    return draw_grid(tiles, columns=4) if tiles else None


def enlarge(picture: Image.Image, smooth: bool = True) -> Image.Image:
    factor = max(1, round(320 / max(picture.size)))
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return picture.resize((picture.width * factor, picture.height * factor), resample)


def class_key(labels: Sequence[np.ndarray], benchmark: Benchmark, *, width: int = 200, size: int = 15) -> Image.Image:
    """The names of the classes that occur in some label maps, each beside its colour."""
    counts = sum(np.bincount(one[(one != IGNORE) & (one >= 0)].reshape(-1), minlength=256) for one in labels)
    present = [int(i) for i in np.argsort(-np.asarray(counts), kind="stable") if np.asarray(counts)[i]]
    canvas = Image.new("RGB", (width, max(1, len(present) * (size + 9)) + 8), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for place, i in enumerate(present):
        top = 6 + place * (size + 9)
        pen.rectangle([4, top, 4 + size, top + size], fill=benchmark.palette[i], outline=_LINE)
        draw_text(
            canvas, (12 + size, top + size - 2), ellipsise(benchmark.names[i], size, width - size - 16), size, _INK
        )
    return canvas
