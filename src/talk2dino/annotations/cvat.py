"""CVAT for images 1.1: one XML with masks or polygons.

A mask is given as run lengths along the rows of its box, first outside, then inside, and so on.
Source: docs.cvat.ai, "XML annotation format", version 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from talk2dino.annotations.archives import Archive, read_elements
from talk2dino.annotations.checks import (
    Notes,
    box_polygon,
    image_name,
    image_size,
    number,
    polygon_object,
    ring_of,
    score_of,
)
from talk2dino.annotations.outlines import bridge_holes, image_polygons
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations, Polygon
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError
from talk2dino.io.atomic import atomic_path
from talk2dino.io.palette import class_palette

XML = "annotations.xml"


def write(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """One XML for the data set; one shape per object (masks), or per connected part, grouped by object (polygons)."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
        )
        file.write("      <mode>annotation</mode>\n      <labels>\n")
        for name, (r, g, b) in zip(data.classes, class_palette(data.classes).tolist(), strict=True):
            colour = f"#{r:02x}{g:02x}{b:02x}"
            file.write(
                f"        <label><name>{escape(name)}</name><color>{colour}</color><attributes></attributes></label>\n"
            )
        file.write("      </labels>\n    </task>\n  </meta>\n")
        for place, image in enumerate(images):
            height, width = image.size
            file.write(f'  <image id="{place}" name={quoteattr(image.name)} width="{width}" height="{height}">\n')
            outlines = image_polygons(image, options.outline) if options.polygons else [None] * len(image.objects)
            for group, (one, polygons) in enumerate(zip(image.objects, outlines, strict=True), start=1):
                file.writelines(f"    {shape}\n" for shape in _shapes(one, polygons, group))
            file.write("  </image>\n")
        file.write("</annotations>\n")
    return ()


def _shapes(one: AnnotatedObject, polygons: Sequence[Polygon] | None, group: int) -> Iterable[str]:
    shared = f'label={quoteattr(one.name)} source="auto" occluded="0"'
    if polygons is None:
        x, y, width, height = one.box
        counts = ", ".join(map(str, row_counts(one.crop)))
        yield f'<mask {shared} rle="{counts}" left="{x}" top="{y}" width="{width}" height="{height}" z_order="{group}"></mask>'
        return
    together = f' group_id="{group}"' if len(polygons) > 1 else ""
    for polygon in polygons:
        points = ";".join(f"{_plain(x)},{_plain(y)}" for x, y in bridge_holes(polygon).tolist())
        yield f'<polygon {shared} points="{points}" z_order="{group}"{together}></polygon>'


def _plain(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def row_counts(mask: np.ndarray) -> list[int]:
    """Lengths of runs along the rows of an (H, W) bool mask, alternately outside and inside."""
    flat = np.concatenate([[False], mask.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist() if mask.size else []


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read an XML, or a ZIP or folder with ``annotations.xml``: masks, polygons and boxes; other shapes are left out.

    Raises:
        DataError: not a CVAT file, a video's, a class that the file does not list, damaged shapes.
    """
    notes, labels, found = Notes(), dict[str, None](), []
    with Archive(path.parent if path.suffix.lower() == ".xml" else path) as archive:
        name = path.name if path.suffix.lower() == ".xml" else XML
        with archive.open(name) as file:
            for element in read_elements(file, ("label", "image", "track"), str(path), root="annotations"):
                if element.tag == "track":
                    raise DataError(f"{path} is an export of a video; export the task as 'CVAT for images 1.1'")
                if element.tag == "label":
                    labels[(element.findtext("name") or "").strip()] = None
                    continue
                found.append(_read_image(element, str(path), labels, notes))
    if not labels and not found:
        raise DataError(f"{path} has neither labels nor images")
    return Annotations(tuple(labels), tuple(found), str(path), notes.sentences())


def _read_image(element: Element, source: str, labels: dict[str, None], notes: Notes) -> AnnotatedImage:
    name = image_name(element.get("name"), source)
    where = f"{source}: {name}"
    size = image_size(element.get("height"), element.get("width"), where)
    shapes = sorted(element, key=lambda shape: int(number(shape.get("z_order", 0), "z_order", where)))
    groups: dict[tuple[str, str], list[np.ndarray]] = {}
    objects: list[AnnotatedObject | None] = []
    for place, shape in enumerate(shapes):
        label = shape.get("label", "")
        if shape.tag in ("mask", "polygon", "box") and label not in labels:
            raise DataError(
                f"{where}: a {shape.tag} of the class {label!r}, which the file does not list: {', '.join(labels)}"
            )
        if shape.tag == "mask":
            objects.append(_read_mask(shape, label, size, where))
        elif shape.tag == "polygon":
            points = [pair.split(",") for pair in shape.get("points", "").split(";")]
            group = shape.get("group_id", "0")
            groups.setdefault((label, group if group != "0" else f"alone {place}"), []).append(ring_of(points, where))
        elif shape.tag == "box":
            left, top, right, bottom = (number(shape.get(side), side, where) for side in ("xtl", "ytl", "xbr", "ybr"))
            box = box_polygon(left, top, right - left, bottom - top)
            objects.append(polygon_object(label, [box], size, where, notes))
        elif shape.tag != "tag":
            notes.add("shapes of another kind than mask, polygon or box, left out", where)
    objects += [
        polygon_object(label, [(ring,) for ring in rings], size, where, notes) for (label, _), rings in groups.items()
    ]
    return AnnotatedImage(name, size, tuple(one for one in objects if one is not None))


def _read_mask(shape: Element, label: str, size: tuple[int, int], where: str) -> AnnotatedObject | None:
    x, y, width, height = (int(number(shape.get(side), side, where)) for side in ("left", "top", "width", "height"))
    try:
        counts = np.array([int(count) for count in shape.get("rle", "").split(",")], dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError(f"{where}: the run lengths of a mask are not whole numbers") from None
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0] or width < 1 or height < 1:
        raise DataError(
            f"{where}: a mask with the box {x}, {y}, {width}, {height} (left, top, width, height) lies outside the image"
        )
    if (counts < 0).any() or counts.sum() != width * height:
        raise DataError(
            f"{where}: the run lengths of a mask add up to {int(counts.sum()):,}, expected {width} x {height} = {width * height:,}"
        )
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    made = AnnotatedObject.of_mask(label, mask, score_of(None))
    return made if made.area else None
