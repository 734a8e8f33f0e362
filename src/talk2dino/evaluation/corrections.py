"""What people changed: our annotations beside the corrected ones.

Corrected annotations are the truth: IoU and accuracy per class come from one confusion matrix over all images. Pixels without a
class count as one more class, "(none)". An image's disagreement is the share of its pixels whose class was changed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from talk2dino.annotations.types import UNLABELLED, AnnotatedImage, Annotations
from talk2dino.errors import DataError
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics, percent
from talk2dino.io.atomic import save_png, write_atomically
from talk2dino.io.images import read_image
from talk2dino.io.legend import draw_grid, merge_legends
from talk2dino.io.markdown import markdown_table
from talk2dino.io.overlay import overlay_legend
from talk2dino.io.palette import class_palette
from talk2dino.progress import ProgressCallback
from talk2dino.types import Segmentation

NONE = "(none)"
_NO_TRUTH = -2  # no pixel has it: nothing is ignored


@dataclass(frozen=True)
class ImageChange:
    """One image: the share of its pixels whose class was changed, and the change that took most of them."""

    name: str
    changed: float
    most: str


@dataclass(frozen=True)
class Change:
    """Pixels that were of one class and became another; share of all changed pixels."""

    before: str
    after: str
    pixels: int
    share: float


@dataclass(frozen=True)
class CorrectionReport:
    """What people changed.

    Attributes:
        metrics: per class, with the corrected annotations as the truth; the last class is "(none)".
        changes: from the most frequent to the rarest. images: from the most to the least changed.
        objects: (ours, corrected) number of objects per class. notes: images that only one side has.
    """

    metrics: Metrics
    changes: tuple[Change, ...]
    images: tuple[ImageChange, ...]
    objects: dict[str, tuple[int, int]]
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> float:
        """Share of all pixels that were changed."""
        return 1 - self.metrics.overall_accuracy

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; figures in percent."""
        figures = self.metrics.as_dict()
        for entry in figures["classes"]:
            entry["objects"], entry["corrected_objects"] = self.objects.get(entry["name"], (0, 0))
        changes = [
            {"from": c.before, "to": c.after, "pixels": c.pixels, "share": percent(c.share)} for c in self.changes
        ]
        images = [{"image": i.name, "changed": percent(i.changed), "most": i.most} for i in self.images]
        return {
            **figures,
            "changed": percent(self.changed),
            "changes": changes,
            "images": images,
            "notes": list(self.notes),
        }

    def markdown(self, most: int = 10) -> str:
        """Three tables: classes, changes and images; ``most`` rows of the latter two."""
        classes = [
            (entry["name"], _shown(entry["iou"]), _shown(entry["accuracy"]), f"{entry['pixels']:,}",
             f"{entry['objects']:,}", f"{entry['corrected_objects']:,}")
            for entry in self.as_dict()["classes"] if entry["iou"] is not None
        ]  # fmt: skip
        heads = ("class", "IoU", "kept", "pixels (corrected)", "objects (ours)", "objects (corrected)")
        rows = [(c.before, c.after, f"{c.pixels:,}", _shown(percent(c.share))) for c in self.changes[:most]]
        images = [(i.name, _shown(percent(i.changed)), i.most) for i in self.images[:most]]
        mean = percent(self.metrics.miou)
        return "\n\n".join([
            f"images: {len(self.images):,}, changed pixels: {_shown(percent(self.changed))} %, mIoU: {_shown(mean)}",
            markdown_table(heads, classes, align="lrrrrr"),
            markdown_table(("from", "to", "pixels", "% of the changes"), rows, align="llrr"),
            markdown_table(("image", "% changed", "most frequent change"), images, align="lrl"),
        ])  # fmt: skip


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def compare_annotations(
    ours: Annotations, corrected: Annotations, *, progress: ProgressCallback | None = None
) -> CorrectionReport:
    """Compare image by image.

    Images are matched by name; see :func:`match_images`.

    Raises:
        DataError: no image in common, or an image of two sizes.
    """
    classes = tuple(dict.fromkeys([*ours.classes, *corrected.classes]))
    names = (*classes, NONE)
    pairs, notes = match_images(ours, corrected)
    matrix = ConfusionMatrix(names, ignore_index=_NO_TRUTH)
    images = []
    for done, (one, other) in enumerate(pairs, start=1):
        if one.size != other.size:
            raise DataError(
                f"{one.name} is {one.size} in {ours.source}, but {other.size} in {corrected.source} (height, width)"
            )
        single = ConfusionMatrix(names, ignore_index=_NO_TRUTH)
        single.update(
            *(np.where(i.labels(classes) == UNLABELLED, len(classes), i.labels(classes)) for i in (one, other))
        )
        matrix = matrix.merge(single)
        wrong = _changes(single)
        most = f"{wrong[0].before} -> {wrong[0].after}" if wrong else ""
        images.append(ImageChange(one.name, 1 - single.metrics().overall_accuracy, most))
        if progress is not None:
            progress(done, len(pairs))
    images.sort(key=lambda image: (-image.changed, image.name))
    objects = {name: (_count(ours, name), _count(corrected, name)) for name in classes}
    return CorrectionReport(matrix.metrics(), _changes(matrix), tuple(images), objects, notes)


def _count(annotations: Annotations, name: str) -> int:
    return sum(one.name == name for image in annotations.images for one in image.objects)


def _changes(matrix: ConfusionMatrix) -> tuple[Change, ...]:
    """The confusions, from the most frequent to the rarest; rows of the matrix are the corrected classes."""
    counts = matrix.counts[:, :-1].copy()
    np.fill_diagonal(counts, 0)
    total = int(counts.sum())
    order = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]
    places = (divmod(int(place), counts.shape[1]) for place in order)
    return tuple(
        Change(matrix.names[before], matrix.names[after], int(counts[after, before]), counts[after, before] / total)
        for after, before in places
    )


#: What images are matched by, from the strictest: the name, without ending, without folders and ending.
_KEYS: tuple[Callable[[str], tuple[str, ...]], ...] = (
    lambda name: ("name", name),
    lambda name: ("stem", str(PurePosixPath(name).with_suffix(""))),
    lambda name: ("last", PurePosixPath(name).stem),
)


def _unique(annotations: Annotations, find: Callable[[str], tuple[str, ...]]) -> dict[tuple[str, ...], AnnotatedImage]:
    """The images by a key, without keys that several images share."""
    shared = Counter(find(image.name) for image in annotations.images)
    return {find(image.name): image for image in annotations.images if shared[find(image.name)] == 1}


def match_images(
    ours: Annotations, corrected: Annotations
) -> tuple[list[tuple[AnnotatedImage, AnnotatedImage]], tuple[str, ...]]:
    """Pairs of images of one name, and notes about those that only one side has.

    Names may differ in their ending and, if the rest is unique, in their folders, which some formats do not keep.

    Raises:
        DataError: there is no pair.
    """
    theirs = {key: image for find in _KEYS for key, image in _unique(corrected, find).items()}
    ours_by = [_unique(ours, find) for find in _KEYS]
    pairs, missing = [], []
    for image in ours.images:
        keys = [find(image.name) for find, own in zip(_KEYS, ours_by, strict=True) if find(image.name) in own]
        other = next((theirs[key] for key in keys if key in theirs), None)
        if other is None:
            missing.append(image.name)
        else:
            pairs.append((image, other))
    if not pairs:
        some = (
            ", ".join(image.name for image in ours.images[:3]),
            ", ".join(image.name for image in corrected.images[:3]),
        )
        raise DataError(f"the two have no image in common: {some[0]} ... on one side, {some[1]} ... on the other")
    matched = {other.name for _, other in pairs}
    added = [image.name for image in corrected.images if image.name not in matched]
    notes = [
        f"images that are only in {source}, not compared: {len(names):,} (first: {names[0]})"
        for names, source in ((missing, ours.source or "ours"), (added, corrected.source or "the corrected"))
        if names
    ]
    return pairs, tuple(notes)


# --- files -------------------------------------------------------------------------------------------------------------


def write_report(report: CorrectionReport, folder: Path) -> list[Path]:
    """``corrections.json`` and ``corrections.md``, with all rows."""
    content = json.dumps(report.as_dict(), ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace")
    table = report.markdown(most=len(report.images) + len(report.changes)) + "\n"
    return [
        write_atomically(folder / "corrections.json", content + b"\n"),
        write_atomically(folder / "corrections.md", table.encode("utf-8", "backslashreplace")),
    ]


def draw_worst(
    report: CorrectionReport, ours: Annotations, corrected: Annotations, path: Path, *, images: Path | None = None,
    count: int = 6,
) -> Path:  # fmt: skip
    """A sheet of the images that were changed most: ours, the corrected, and the changed pixels, side by side.

    Args:
        images: folder of the images; without it, the labels are painted on grey.

    Raises:
        ImageError: an image is missing or damaged. InputError: an image has another size than its annotations.
    """
    classes = tuple(dict.fromkeys([*ours.classes, *corrected.classes]))
    pairs = {one.name: (one, other) for one, other in match_images(ours, corrected)[0]}
    tiles, legends = [], []
    for entry in report.images[:count]:
        one, other = pairs[entry.name]
        pixels = np.full((*one.size, 3), 128, dtype=np.uint8) if images is None else read_image(images / one.name).array
        painted = [_segmentation(image, classes) for image in (one, other)]
        legends += [overlay_legend(pixels, seg) for seg in painted]
        overlays = [seg.overlay(pixels, legend=False) for seg in painted]
        changed = painted[0].labels != painted[1].labels
        tiles += [
            (f"{entry.name}: ours", overlays[0]), ("corrected", overlays[1]),
            (f"{100 * entry.changed:.1f} % changed, most {entry.most}", _marked(pixels, changed)),
        ]  # fmt: skip
    return save_png(draw_grid(tiles, columns=3, legend=merge_legends(legends)), path)


def _segmentation(image: AnnotatedImage, classes: Sequence[str]) -> Segmentation:
    names = ("background", *classes)
    return Segmentation(image.labels(classes) + 1, names, class_palette(names, 0), 0)


def _marked(pixels: np.ndarray, changed: np.ndarray) -> Image.Image:
    """The image in grey, with changed pixels in red."""
    grey = (pixels.mean(axis=2, keepdims=True) * 0.6 + 80).astype(np.uint8)
    return Image.fromarray(
        np.where(changed[:, :, None], np.array([220, 20, 60], dtype=np.uint8), np.repeat(grey, 3, axis=2))
    )
