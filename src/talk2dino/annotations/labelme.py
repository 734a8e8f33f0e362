"""LabelMe and X-AnyLabeling: one JSON per image, with polygons in pixels.

The parts of one object share a ``group_id``; holes are joined to the outline by an edge of no width.
Source: labelme 5.5 (label_file.py); X-AnyLabeling, docs/en/user_guide.md (adds ``score`` to shapes).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from talk2dino.annotations.checks import (
    Notes,
    box_polygon,
    image_name,
    image_size,
    number,
    polygon_object,
    read_json_file,
    ring_of,
    score_of,
)
from talk2dino.annotations.outlines import OutlineOptions, bridge_holes, image_polygons
from talk2dino.annotations.streams import dumps
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations, Polygon
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically

VERSION = "5.5.0"
CLASS_LIST = "classes.txt"


def shapes(image: AnnotatedImage, outline: OutlineOptions) -> list[dict[str, Any]]:
    """The ``shapes`` of an image: one polygon per connected part."""
    found = []
    for group, (one, polygons) in enumerate(zip(image.objects, image_polygons(image, outline), strict=True), start=1):
        for polygon in polygons:
            found.append({
                "label": one.name, "points": np.round(bridge_holes(polygon), 4).tolist(),
                "group_id": group if len(polygons) > 1 else None, "description": "", "shape_type": "polygon", "flags": {},
                "mask": None, **({} if one.score is None else {"score": round(one.score, 6)}),
            })  # fmt: skip
    return found


def document(image: AnnotatedImage, outline: OutlineOptions, image_path: str) -> dict[str, Any]:
    """The content of one file."""
    height, width = image.size
    return {
        "version": VERSION, "flags": {}, "shapes": shapes(image, outline), "imagePath": image_path, "imageData": None,
        "imageHeight": height, "imageWidth": width,
    }  # fmt: skip


def write(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """One JSON per image in a folder, and ``classes.txt`` with the list of classes."""
    for image in images:
        target = path / PurePosixPath(image.name).with_suffix(".json")
        where = image.name.rpartition("/")[2]
        if data.images is not None:
            where = Path(os.path.relpath(data.images / image.name, target.parent)).as_posix()
        write_atomically(target, dumps(document(image, options.outline, where)) + "\n")
    write_atomically(path / CLASS_LIST, "".join(f"{name}\n" for name in data.classes))
    return ()


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read one JSON, or all of a folder (subfolders too): polygons and rectangles; other shapes are left out.

    Raises:
        DataError: no such file, or a file that LabelMe did not write.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    if not files:
        raise DataError(f"{path} has no .json file")
    root = path.parent if path.is_file() else path
    notes = Notes()
    found = tuple(_read_file(file, root, notes) for file in files)
    classes = dict.fromkeys(one.name for image in found for one in image.objects)
    if (root / CLASS_LIST).is_file():
        from talk2dino.io.settings import read_lines

        classes = dict.fromkeys([*read_lines(root / CLASS_LIST, "list of classes"), *classes])
    return Annotations(tuple(classes), found, str(path), notes.sentences())


def _read_file(file: Path, root: Path, notes: Notes) -> AnnotatedImage:
    content = read_json_file(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list) or "imagePath" not in content:
        raise DataError(f"{file} is not a file of LabelMe or X-AnyLabeling: expected 'shapes' and 'imagePath'")
    ending = PurePosixPath(str(content["imagePath"]).replace("\\", "/")).suffix
    name = image_name(file.relative_to(root).with_suffix(ending).as_posix(), str(file))
    size = image_size(content.get("imageHeight"), content.get("imageWidth"), str(file))
    groups: dict[tuple[str, object], list[Polygon]] = {}
    scores: dict[tuple[str, object], float | None] = {}
    for place, shape in enumerate(content["shapes"]):
        polygon = _read_shape(shape, str(file), notes)
        if polygon is not None:
            group = shape.get("group_id")
            key = (str(shape["label"]), f"alone {place}" if group is None else group)
            groups.setdefault(key, []).append(polygon)
            scores[key] = score_of(shape.get("score"))
    made = (polygon_object(key[0], polygons, size, str(file), notes, scores[key]) for key, polygons in groups.items())
    return AnnotatedImage(name, size, tuple(one for one in made if isinstance(one, AnnotatedObject)))


def _read_shape(shape: Mapping[str, Any], where: str, notes: Notes) -> Polygon | None:
    if not isinstance(shape, dict) or not shape.get("label") or not isinstance(shape.get("points"), list):
        raise DataError(f"{where}: a shape has no label or no points")
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = ([number(value, "a corner", where) for value in point] for point in points)
        return box_polygon(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))
    if kind in ("polygon", "rectangle"):
        return (ring_of(points, where),)
    notes.add("shapes of another kind than polygon or rectangle, left out", where)
    return None
