"""What every reader checks: names, sizes, corners, classes; and notes about what was changed on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from talk2dino.annotations.fill import fill_polygons
from talk2dino.annotations.types import AnnotatedObject, Polygon, Ring
from talk2dino.errors import DataError, InputError
from talk2dino.io.images import MAX_PIXELS
from talk2dino.io.names import readable
from talk2dino.io.rle import compress, decompress


class Notes:
    """Counts what was changed on the way; each kind becomes one sentence, whatever the number of images."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str) -> None:
        """Count one case of ``what``, a noun with what happened to it, found first in ``where``."""
        count, first = self._found.get(what, (0, where))
        self._found[what] = (count + 1, first)

    def sentences(self) -> tuple[str, ...]:
        """One line per kind, with the number of cases and the first place."""
        return tuple(f"{what}: {n:,} (first: {first})" for what, (n, first) in self._found.items())


def image_name(given: object, source: str) -> str:
    """A file name below the folder of images, with "/" between folders; of an absolute path, the last part.

    Raises:
        DataError: not a name, or one that leads out of the folder.
    """
    if not isinstance(given, str) or not given.strip():
        raise DataError(f"{source}: an image has the name {given!r}; expected the name of a file")
    name = given.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or name[1:3] == ":/":
        path = PurePosixPath(path.name)
    if ".." in path.parts or not path.name or "\0" in name:
        raise DataError(
            f"{source}: the image name {readable(given)!r} leads out of the folder of images; names must not contain '..'"
        )
    return str(path)


def image_size(height: object, width: object, where: str) -> tuple[int, int]:
    """(height, width) of an image.

    Raises:
        DataError: not whole positive numbers, or more pixels than an image may have.
    """
    try:
        size = int(cast("Any", height)), int(cast("Any", width))
        whole = size == (float(cast("Any", height)), float(cast("Any", width)))
    except (TypeError, ValueError, OverflowError):
        whole, size = False, (0, 0)
    if not whole or min(size) < 1:
        raise DataError(f"{where}: the size {height!r} x {width!r} (height x width) is not two whole positive numbers")
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: the size {size[0]} x {size[1]} has more than {MAX_PIXELS:,} pixels, the largest that is read"
        )
    return size


def ring_of(numbers: object, where: str) -> Ring:
    """(K, 2) corners from pairs, or from a flat list x, y, x, y, ...

    Raises:
        DataError: fewer than three corners, an odd number of values, or a value that is not a finite number.
    """
    try:
        values = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: the corners of a polygon are not all numbers") from None
    if values.size % 2 or values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 2):
        raise DataError(f"{where}: a polygon has {values.size} values; expected pairs x, y")
    ring = values.reshape(-1, 2)
    if len(ring) > 1 and np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    if len(ring) < 3:
        raise DataError(f"{where}: a polygon has {len(ring)} corners; it needs at least 3")
    if not np.isfinite(ring).all():
        raise DataError(f"{where}: a corner of a polygon is not a finite number")
    return ring


def polygon_object(
    name: str, polygons: Iterable[Polygon], size: tuple[int, int], where: str, notes: Notes, score: float | None = None
) -> AnnotatedObject | None:
    """An object of polygons, cut at the border of the image; None, with a note, if no pixel is left."""
    height, width = size
    kept = tuple(polygons)
    outside = any(
        bool((ring < -0.5).any() or (ring[:, 0] > width + 0.5).any() or (ring[:, 1] > height + 0.5).any())
        for polygon in kept
        for ring in polygon
    )
    if outside:
        notes.add("polygons that reach outside their image, cut at its border", where)
        made = AnnotatedObject.of_mask(name, fill_polygons(kept, size), score)
    else:
        made = AnnotatedObject(name, size, polygons=kept, score=score)
    if made.area == 0:
        notes.add("objects without a pixel inside their image, left out", where)
        return None
    return made


def rle_object(
    name: str, counts: str | Sequence[int], size: tuple[int, int], where: str, score: float | None = None
) -> AnnotatedObject:
    """An object of COCO's run lengths.

    Raises:
        DataError: damaged run lengths, or those of another size.
    """
    try:
        runs = decompress(counts) if isinstance(counts, str) else np.asarray(counts, dtype=np.int64).reshape(-1)
    except (InputError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: damaged run lengths ({error})") from None
    if runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise DataError(
            f"{where}: the run lengths of an object of class {name!r} add up to {int(runs.sum()):,}, expected "
            f"{size[0]} x {size[1]} = {size[0] * size[1]:,}"
        )
    return AnnotatedObject(name, size, compress(runs), score=score)


def box_polygon(x: float, y: float, width: float, height: float) -> Polygon:
    """A rectangle as a polygon."""
    return (np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], dtype=np.float64),)


def number(value: object, what: str, where: str) -> float:
    """A finite number.

    Raises:
        DataError: anything else.
    """
    try:
        found = float(cast("Any", value))
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{where}: {what} is {value!r}; expected a number")
    return found


def score_of(value: object) -> float | None:
    """A score if there is a usable one; files from elsewhere put anything there."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def class_list(names: Iterable[object], source: str) -> tuple[str, ...]:
    """Class names, each once.

    Raises:
        DataError: a name that is not text or is empty, or one that occurs twice.
    """
    found: list[str] = []
    for name in names:
        if not isinstance(name, str | int) or not str(name).strip():
            raise DataError(f"{source}: a class has the name {name!r}; expected text")
        if str(name) in found:
            raise DataError(f"{source}: the class {name!r} is listed twice")
        found.append(str(name))
    return tuple(found)


def read_json_file(path: Path, largest: int = 4 * 2**30) -> Any:
    """Any JSON document.

    Raises:
        DataError: the file cannot be read, is too large, or is not JSON.
    """
    try:
        if path.stat().st_size > largest:
            raise DataError(f"{readable(path)} is larger than {largest // 2**20:,} MiB")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {readable(path)}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{readable(path)} is not JSON: {' '.join(str(error).split())}") from None
