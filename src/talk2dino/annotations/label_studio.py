"""Label Studio: tasks with predictions (pre-annotations) or annotations, as brush masks or polygons.

Corners and boxes are in percent of the image. The names of the controls must be those of the project's labelling
configuration; :func:`label_config` writes one that fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from talk2dino.annotations.brush_rle import decode_brush, encode_brush_crop
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
from talk2dino.annotations.outlines import EXACT, OutlineOptions, bridge_holes, image_polygons
from talk2dino.annotations.streams import JsonStream
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.palette import class_palette

FROM_NAME, TO_NAME = "label", "image"


def label_config(classes: Sequence[str], *, polygons: bool = False) -> str:
    """The labelling configuration (XML) of a project for these classes, with brushes or polygons."""
    kind = "PolygonLabels" if polygons else "BrushLabels"
    colours = class_palette(classes)
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>'
        for name, (r, g, b) in zip(classes, colours.tolist(), strict=True)
    )
    return (
        f'<View>\n  <Image name="{TO_NAME}" value="$image" zoom="true"/>\n'
        f'  <{kind} name="{FROM_NAME}" toName="{TO_NAME}">\n{labels}\n  </{kind}>\n</View>\n'
    )


def regions(
    image: AnnotatedImage, *, polygons: bool = False, outline: OutlineOptions = EXACT,
    from_name: str = FROM_NAME, to_name: str = TO_NAME,
) -> list[dict[str, Any]]:  # fmt: skip
    """The ``result`` list of a prediction: one region per object (brush), or one per connected part (polygons).

    Args:
        from_name, to_name: names of the labels control and of the image in the labelling configuration.
    """
    height, width = image.size
    shared = {"from_name": from_name, "to_name": to_name, "original_width": width, "original_height": height,
              "image_rotation": 0, "origin": "prediction"}  # fmt: skip
    found: list[dict[str, Any]] = []
    outlines = image_polygons(image, outline) if polygons else [()] * len(image.objects)
    for place, (one, parts) in enumerate(zip(image.objects, outlines, strict=True), start=1):
        score = {} if one.score is None else {"score": round(one.score, 6)}
        if not polygons:
            value: dict[str, Any] = {
                "format": "rle",
                "rle": encode_brush_crop(one.crop, one.box[:2], image.size),
                "brushlabels": [one.name],
            }
            found.append({"id": f"r{place}", "type": "brushlabels", "value": value, **shared, **score})
            continue
        for part, polygon in enumerate(parts, start=1):
            points = bridge_holes(polygon) * (100 / width, 100 / height)
            value = {"points": np.round(points, 10).tolist(), "closed": True, "polygonlabels": [one.name]}
            found.append({"id": f"r{place}-{part}", "type": "polygonlabels", "value": value, **shared, **score})
    return found


def prediction(image: AnnotatedImage, model: str = "talk2dino", **options: Any) -> dict[str, Any]:
    """One entry of a task's ``predictions``; options as in :func:`regions`. Its score is the lowest of its objects."""
    scores = [one.score for one in image.objects if one.score is not None]
    known = {"score": round(min(scores), 6)} if scores else {}
    return {"model_version": model or "talk2dino", **known, "result": regions(image, **options)}


def write(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """Write importable tasks with predictions, and the labelling configuration beside them (``.xml``)."""
    with JsonStream(path, "[", "]") as tasks:
        for image in images:
            made = prediction(image, data.model, polygons=options.polygons, outline=options.outline)
            tasks.add({"data": {"image": options.image_prefix + image.name}, "predictions": [made]})
    write_atomically(path.with_suffix(".xml"), label_config(data.classes, polygons=options.polygons))
    return ()


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read exported tasks (JSON): the latest annotation of each, or the latest prediction where there is none.

    Raises:
        DataError: not a list of tasks, or damaged regions.
    """
    tasks = read_json_file(path)
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise DataError(f"{path} is not an export of Label Studio: expected a list of tasks with 'data'")
    notes = Notes()
    found = [_read_task(task, str(path), images, notes) for task in tasks]
    classes = dict.fromkeys(one.name for image in found for one in image.objects)
    config = path.with_suffix(".xml")
    if config.is_file():
        listed = re.findall(r"<Label\b[^>]*\bvalue=(\"[^\"]*\"|'[^']*')", config.read_text(encoding="utf-8"))
        classes = dict.fromkeys([*(_unquoted(value) for value in listed), *classes])
    return Annotations(tuple(classes), tuple(found), str(path), notes.sentences())


def _unquoted(value: str) -> str:
    from html import unescape

    return unescape(value[1:-1])


def _read_task(task: Mapping[str, Any], source: str, images: Path | None, notes: Notes) -> AnnotatedImage:
    reference = next((value for value in task["data"].values() if isinstance(value, str)), None)
    name = task_image(reference, source)
    results = _latest(task, f"{source}: {name}")
    sizes = [(r.get("original_height"), r.get("original_width")) for r in results if "original_width" in r]
    if not sizes:
        from talk2dino.annotations.sizes import size_of

        return AnnotatedImage(name, size_of(name, images, source), ())
    size = image_size(*sizes[0], f"{source}: {name}")
    objects = (_read_region(result, size, f"{source}: {name}", notes) for result in results if "value" in result)
    return AnnotatedImage(name, size, tuple(one for one in objects if one is not None))


def task_image(reference: str | None, source: str) -> str:
    """The file name in a task's reference: an upload (``/data/upload/1/0123abcd-name``), a local file, or an address."""
    if reference is None:
        raise DataError(f"{source}: a task has no image in its 'data'")
    parts = urlsplit(reference)
    if "d" in (query := parse_qs(parts.query)) and "local-files" in parts.path:
        return image_name(query["d"][0], source)
    if parts.scheme in ("http", "https") or "/data/upload/" in reference:
        last = unquote(parts.path).rpartition("/")[2]
        return image_name(re.sub(r"^[0-9a-f]{8}-", "", last), source)
    return image_name(reference, source)


def _latest(task: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    for kind in ("annotations", "predictions"):
        given = [one for one in task.get(kind) or [] if isinstance(one, dict) and not one.get("was_cancelled")]
        if given:
            latest = max(given, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
            results = latest.get("result") or []
            if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
                raise DataError(f"{where}: the 'result' of its {kind} is not a list of regions")
            return results
    return []


def _read_region(result: Mapping[str, Any], size: tuple[int, int], where: str, notes: Notes) -> AnnotatedObject | None:
    kind, value = str(result.get("type", "")), result["value"]
    if not isinstance(value, dict):
        raise DataError(f"{where}: the 'value' of a region is a {type(value).__name__}, expected an object")
    height, width = size
    names = value.get(kind) or value.get("labels") or []
    if kind not in ("brushlabels", "polygonlabels", "rectanglelabels") or not names:
        notes.add("regions of another kind than brush, polygon or rectangle, left out", where)
        return None
    score = score_of(result.get("score"))
    if kind == "brushlabels":
        made = AnnotatedObject.of_mask(str(names[0]), decode_brush(value.get("rle", ()), size), score)
        return made if made.area else None
    if kind == "polygonlabels":
        ring = ring_of(value.get("points"), where) * (width / 100, height / 100)
        return polygon_object(str(names[0]), [(ring,)], size, where, notes, score)
    if number(value.get("rotation", 0), "the rotation of a rectangle", where):
        notes.add("rotated rectangles, left out", where)
        return None
    x, y, w, h = (number(value.get(key), f"{key} of a rectangle", where) for key in ("x", "y", "width", "height"))
    box = box_polygon(x * width / 100, y * height / 100, w * width / 100, h * height / 100)
    return polygon_object(str(names[0]), [box], size, where, notes, score)
