"""YOLO segmentation, as ultralytics documents it: ``data.yaml`` and one text file per image.

    data.yaml               names: {0: sky, ...}, train: images, val: images
    labels/NAME.txt         class x1 y1 x2 y2 ..., one polygon per line, in shares (0..1) of the width and height

Every connected part is a line; holes are joined to the outline by an edge of no width. Text files do not hold the size of
the image, so reading needs the images.
Source: docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from talk2dino.annotations.checks import Notes, box_polygon, class_list, polygon_object, ring_of
from talk2dino.annotations.outlines import bridge_holes, image_polygons
from talk2dino.annotations.sizes import size_of, with_ending
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.names import readable
from talk2dino.io.settings import read_document

YAML, LABELS, IMAGES = "data.yaml", "labels", "images"


def write(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """A folder with ``data.yaml`` and ``labels/``; the images belong into ``images/`` beside it."""
    ids = {name: i for i, name in enumerate(data.classes)}
    for image in images:
        height, width = image.size
        lines = []
        for one, polygons in zip(image.objects, image_polygons(image, options.outline), strict=True):
            for polygon in polygons:
                shares = bridge_holes(polygon) / (width, height)
                corners = " ".join(f"{value:.8g}" for value in np.clip(shares, 0, 1).reshape(-1))
                lines.append(f"{ids[one.name]} {corners}\n")
        write_atomically(path / LABELS / PurePosixPath(image.name).with_suffix(".txt"), "".join(lines))
    write_atomically(path / YAML, _yaml(data))
    return ()


def _yaml(data: DataSet) -> str:
    import json

    folder = IMAGES if data.images is None else Path(os.path.abspath(data.images)).as_posix()
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(data.classes))
    return f"# ultralytics looks for labels/ beside images/: put or link the images there\nimages: {json.dumps(folder)}\n" \
           f"train: {IMAGES}\nval: {IMAGES}\nnames:\n{names}"  # fmt: skip


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read ``data.yaml`` (or the folder with it) and the label files; lines of five numbers are boxes.

    Args:
        images: folder of the images; by default ``images/`` beside ``labels/``, or where ``data.yaml`` says.

    Raises:
        DataError: a list of classes that contradicts itself, a class or a line that does not fit, missing images.
    """
    document_path = path / YAML if path.is_dir() else path
    if not document_path.is_file():
        raise DataError(f"no {YAML} in {readable(path)}")
    document = read_document(document_path, "data.yaml")
    if not isinstance(document, dict):
        raise DataError(f"{readable(document_path)} does not hold 'name: value' lines")
    classes = read_names(document, str(document_path))
    root = document_path.parent
    labels = root / LABELS
    files = sorted(labels.rglob("*.txt"))
    if not files:
        raise DataError(f"{readable(labels)} has no label file (.txt)")
    folder = images or next((f for f in _image_folders(document, root) if f.is_dir()), None)
    notes = Notes()
    found = tuple(_read_file(file, labels, folder, classes, notes) for file in files)
    return Annotations(classes, found, str(path), notes.sentences())


def _image_folders(document: Mapping[str, Any], root: Path) -> Iterable[Path]:
    given = [document.get(key) for key in ("images", "train", "val")]
    yield root / IMAGES
    for value in given:
        if isinstance(value, str):
            yield root / str(document.get("path") or "") / value


def read_names(document: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The classes of ``data.yaml``: a list, or a mapping from 0, 1, ... to names.

    Raises:
        DataError: no names, numbers with gaps, or a count (``nc``) that disagrees.
    """
    names = document.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(
                f"{where}: the classes are numbered {sorted(names, key=str)[:10]}; expected 0 to {len(names) - 1}"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{where} lists no classes under 'names'")
    if "nc" in document and document["nc"] != len(names):
        raise DataError(f"{where} disagrees with itself: nc is {document['nc']!r}, but there are {len(names)} names")
    return class_list(names, where)


def _read_file(file: Path, labels: Path, images: Path | None, classes: Sequence[str], notes: Notes) -> AnnotatedImage:
    stem = file.relative_to(labels).with_suffix("").as_posix()
    name = with_ending(stem, images)
    if name == stem:
        where = (
            "the folder of the images is not known"
            if images is None
            else f"{readable(images)} has no image of this name"
        )
        raise DataError(f"{readable(file)} does not say how large its image is, and {where}: give it with --images")
    size = size_of(name, images, str(file))
    objects = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {readable(file)}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            objects.append(_read_line(line.split(), size, f"{readable(file)}, line {number}", classes, notes))
    return AnnotatedImage(name, size, tuple(one for one in objects if one is not None))


def _read_line(
    fields: Sequence[str], size: tuple[int, int], where: str, classes: Sequence[str], notes: Notes
) -> AnnotatedObject | None:
    try:
        index, values = int(fields[0]), [float(field) for field in fields[1:]]
    except ValueError:
        raise DataError(
            f"{where}: expected a class number and numbers from 0 to 1, got {' '.join(fields)[:60]!r}"
        ) from None
    if not 0 <= index < len(classes):
        raise DataError(f"{where}: class {index}, but data.yaml lists {len(classes)} classes (0 to {len(classes) - 1})")
    height, width = size
    if len(values) == 4:
        notes.add("objects with a box only, read as rectangles", where)
        x, y, w, h = (value * side for value, side in zip(values, (width, height) * 2, strict=True))
        return polygon_object(classes[index], [box_polygon(x - w / 2, y - h / 2, w, h)], size, where, notes)
    return polygon_object(classes[index], [(ring_of(values, where) * (width, height),)], size, where, notes)
