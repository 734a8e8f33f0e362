"""The one value between a segmentation and every labelling format: an image with its objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from talk2dino.annotations.fill import fill_polygons
from talk2dino.errors import DataError, InputError
from talk2dino.io.rle import column_runs, compress, decompress, run_box, run_counts

#: A ring of (K, 2) float64 (x, y) corners, open: the last corner joins the first. (0, 0) is the image's upper left corner.
Ring = np.ndarray
#: The outer ring of one connected area, then its holes.
Polygon = tuple[Ring, ...]

#: Value of pixels without a class in label maps.
UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class AnnotatedObject:
    """The pixels of one object, or of one class, in one image.

    Attributes:
        name: its class.
        size: (height, width) of the image.
        rle: COCO's compressed run lengths; empty if the object was given as polygons.
        polygons: the area as it was given by a format of polygons; their union counts. None for masks.
        score: mean margin of its class over the next one, if it is known; low values are doubtful.
    """

    name: str
    size: tuple[int, int]
    rle: str = ""
    polygons: tuple[Polygon, ...] | None = None
    score: float | None = None

    @classmethod
    def of_mask(cls, name: str, mask: np.ndarray, score: float | None = None) -> AnnotatedObject:
        """From an (H, W) bool mask."""
        starts, lengths, values = column_runs(mask.astype(bool))
        height, width = mask.shape
        counts = run_counts(starts[values], lengths[values], height * width) if values.any() else [height * width]
        return cls(name, (height, width), compress(counts), score=score)

    @cached_property
    def counts(self) -> np.ndarray:
        """Lengths of runs down the columns, alternately outside and inside."""
        if self.polygons is None:
            return decompress(self.rle)
        return decompress(AnnotatedObject.of_mask(self.name, fill_polygons(self.polygons, self.size)).rle)

    @property
    def compressed(self) -> str:
        """COCO's compressed run lengths."""
        return self.rle if self.polygons is None else compress(self.counts)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        counts, (height, width) = self.counts, self.size
        if counts.sum() != height * width or (counts < 0).any():
            raise DataError(
                f"the run lengths of an object of class {self.name!r} add up to {int(counts.sum()):,}, expected "
                f"{height} x {width} = {height * width:,}"
            )
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T

    @cached_property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.counts[1::2].sum())

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels; all 0 for an empty object."""
        if not self.area:
            return 0, 0, 0, 0
        lengths = self.counts[1::2]
        starts = np.cumsum(self.counts)[::2][: len(lengths)]
        x, y, width, height = run_box(starts[lengths > 0], lengths[lengths > 0], self.size[0])
        return int(x), int(y), int(width), int(height)

    @property
    def crop(self) -> np.ndarray:
        """(height, width) bool: the mask within its box."""
        x, y, width, height = self.box
        rows = self.size[0]
        ends = np.clip(np.cumsum(self.counts), x * rows, (x + width) * rows)
        columns = np.repeat(np.arange(len(ends)) % 2 == 1, np.diff(ends, prepend=x * rows))  # only those of the box
        return columns.reshape(width, rows).T[y : y + height]


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image of a data set with its objects; where objects overlap, the later one lies on top.

    Attributes:
        name: file name, with "/" between folders; relative to the folder of the images.
        size: (height, width).
        objects: from the bottom to the top.
        world: the six numbers of the image's world file (A, D, B, E, C, F), if it has one.
    """

    name: str
    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...] = ()
    world: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for one in self.objects:
            if one.size != self.size:
                raise InputError(f"{self.name}: an object of {one.size} in an image of {self.size} (height, width)")

    def labels(self, classes: Sequence[str]) -> np.ndarray:
        """(H, W) int32: the index in ``classes`` of the topmost object; UNLABELLED where there is none.

        Raises:
            DataError: an object of a class that is not in the list.
        """
        index = {name: number for number, name in enumerate(classes)}
        return self.paint([_known(one.name, index, self.name) for one in self.objects])

    def paint(self, values: Sequence[int]) -> np.ndarray:
        """(H, W) int32: one value per object; UNLABELLED where there is none."""
        painted = np.full(self.size[::-1], UNLABELLED, dtype=np.int32)  # transposed, so that runs are contiguous
        flat = painted.reshape(-1)
        for one, value in zip(self.objects, values, strict=True):
            if one.counts.sum() != flat.size:
                _ = one.mask  # raises the error that says so
            ends = np.cumsum(one.counts)
            for start, end in zip(ends[:-1:2].tolist(), ends[1::2].tolist(), strict=True):
                flat[start:end] = value
        return painted.T

    def overlap(self) -> int:
        """Number of pixels that lie under another object."""
        return sum(one.area for one in self.objects) - int(np.count_nonzero(self.paint([0] * len(self.objects)) == 0))

    def as_record(self) -> dict[str, Any]:
        """One JSON object; :func:`from_record` reads it."""
        objects = [{"class": one.name, "rle": one.compressed, "score": one.score} for one in self.objects]
        return {"name": self.name, "size": list(self.size), "world": self.world, "objects": objects}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> AnnotatedImage:
        """What :meth:`as_record` wrote."""
        height, width = record["size"]
        objects = (AnnotatedObject(o["class"], (height, width), o["rle"], score=o["score"]) for o in record["objects"])
        world = record.get("world")
        return cls(record["name"], (height, width), tuple(objects), None if world is None else tuple(world))


def _known(name: str, index: Mapping[str, int], image: str) -> int:
    if name not in index:
        raise DataError(f"{image}: an object of the class {name!r}, which is not in the list of classes")
    return index[name]


@dataclass(frozen=True, eq=False)
class Annotations:
    """A data set: its classes, and its images with their objects.

    Attributes:
        classes: names, without a background.
        images: in the order of the file.
        source: the path that it was read from, for messages.
        notes: what was changed on the way in, such as a polygon that was cut at the border of its image.
    """

    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    source: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def with_classes(self, classes: Iterable[str]) -> Annotations:
        """The same images with this list of classes.

        Raises:
            DataError: an object is of a class that is not in the list.
        """
        names = tuple(classes)
        for image in self.images:
            for one in image.objects:
                _known(one.name, dict.fromkeys(names, 0), f"{self.source}: {image.name}" if self.source else image.name)
        return replace(self, classes=names)
