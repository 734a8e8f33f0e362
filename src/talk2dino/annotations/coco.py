"""COCO: instances (one JSON), and panoptic (a JSON and one PNG of segment ids per image).

Source: cocodataset.org/#format-data; panopticapi (id = R + 256 G + 65536 B, 0 is unlabelled).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from talk2dino.annotations.checks import (
    Notes,
    box_polygon,
    class_list,
    image_name,
    image_size,
    number,
    polygon_object,
    read_json_file,
    ring_of,
    rle_object,
    score_of,
)
from talk2dino.annotations.outlines import bridge_holes, image_polygons
from talk2dino.annotations.png import read_ids
from talk2dino.annotations.streams import JsonStream, dumps
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations, Polygon
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError
from talk2dino.io.atomic import save_png
from talk2dino.io.palette import class_palette
from talk2dino.io.rle import run_box, runs_of_values


def _categories(data: DataSet) -> list[dict[str, Any]]:
    return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(data.classes, start=1)]


def _info(data: DataSet) -> dict[str, str]:
    return {
        "description": f"labels by talk2dino with {data.model}" if data.model else "converted by talk2dino",
        "version": "1.0",
    }


# --- instances ---------------------------------------------------------------------------------------------------------


def write(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """One JSON for the data set, with compressed run lengths, or with polygons (holes joined by edges of no width)."""
    ids = {name: i for i, name in enumerate(data.classes, start=1)}
    head = (
        f'{{"info": {dumps(_info(data))},\n"licenses": [],\n"categories": {dumps(_categories(data))},\n"annotations": ['
    )
    with tempfile.TemporaryFile("w+", encoding="utf-8") as listed, JsonStream(path, head, "") as document:
        for place, image in enumerate(images, start=1):
            height, width = image.size
            entry = {"id": place, "file_name": image.name, "height": height, "width": width}
            listed.write((",\n" if place > 1 else "\n") + dumps(entry))
            outlines = image_polygons(image, options.outline) if options.polygons else [None] * len(image.objects)
            for one, polygons in zip(image.objects, outlines, strict=True):
                annotation = _annotation(one, polygons, ids[one.name])
                document.add({"id": document.count + 1, "image_id": place, **annotation})
        document.write('\n],\n"images": [')
        listed.seek(0)
        while block := listed.read(2**20):
            document.write(block)
        document.tail = "]}"
    return ()


def _annotation(one: AnnotatedObject, polygons: Sequence[Polygon] | None, category: int) -> dict[str, Any]:
    segmentation: Any = {"size": list(one.size), "counts": one.compressed}
    if polygons is not None:
        segmentation = [np.round(bridge_holes(polygon), 4).reshape(-1).tolist() for polygon in polygons]
    score = {} if one.score is None else {"score": round(one.score, 6)}
    return {
        "category_id": category, "segmentation": segmentation, "area": one.area,
        "bbox": [float(side) for side in one.box], "iscrowd": 0, **score,
    }  # fmt: skip


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read an instances JSON; segmentations are polygons or run lengths; boxes without a segmentation become rectangles.

    Raises:
        DataError: not a COCO file; unknown images or classes; damaged segmentations.
    """
    document = _document(path, ("images", "annotations", "categories"))
    names = _category_names(document, path)
    listed: dict[Any, tuple[str, tuple[int, int]]] = {}
    objects: dict[Any, list[AnnotatedObject]] = {}
    for entry in document["images"]:
        name = image_name(entry.get("file_name"), str(path))
        if entry.get("id") in listed:
            raise DataError(f"{path}: two images have the id {entry.get('id')!r}")
        listed[entry.get("id")] = (name, image_size(entry.get("height"), entry.get("width"), f"{path}: {name}"))
        objects[entry.get("id")] = []
    notes = Notes()
    for entry in document["annotations"]:
        if entry.get("image_id") not in listed:
            raise DataError(
                f"{path}: annotation {entry.get('id')!r} is of image {entry.get('image_id')!r}, which is not listed"
            )
        if entry.get("category_id") not in names:
            raise DataError(
                f"{path}: annotation {entry.get('id')!r} is of category {entry.get('category_id')!r}, which is not listed"
            )
        name, size = listed[entry["image_id"]]
        one = _read_object(entry, names[entry["category_id"]], size, f"{path}: {name}", notes)
        if one is not None:
            objects[entry["image_id"]].append(one)
    found = (AnnotatedImage(name, size, tuple(objects[key])) for key, (name, size) in listed.items())
    return Annotations(tuple(names.values()), tuple(found), str(path), notes.sentences())


def _document(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    document = read_json_file(path)
    for key in keys:
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} is not a COCO file: it has no list '{key}'")
    return document


def _category_names(document: Mapping[str, Any], path: Path) -> dict[Any, str]:
    entries = document["categories"]
    class_list((entry.get("name") for entry in entries), str(path))
    return {entry.get("id"): str(entry["name"]) for entry in entries}


def _read_object(
    entry: Mapping[str, Any], name: str, size: tuple[int, int], where: str, notes: Notes
) -> AnnotatedObject | None:
    segmentation, score = entry.get("segmentation"), score_of(entry.get("score"))
    if isinstance(segmentation, dict):
        stated = segmentation.get("size")
        if list(stated or ()) != list(size):
            raise DataError(
                f"{where}: the run lengths are for a size of {stated}, the image has {list(size)} (height, width)"
            )
        made = rle_object(name, segmentation.get("counts") or "", size, where, score)
        return made if made.area else None
    if isinstance(segmentation, list) and segmentation:
        polygons: list[Polygon] = [(ring_of(ring, where),) for ring in segmentation]
        return polygon_object(name, polygons, size, where, notes, score)
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"{where}: annotation {entry.get('id')!r} has neither a segmentation nor a box of four numbers")
    notes.add("objects with a box only, read as rectangles", where)
    x, y, w, h = (number(value, "a side of a box", where) for value in box)
    return polygon_object(name, [box_polygon(x, y, w, h)], size, where, notes, score)


# --- panoptic ----------------------------------------------------------------------------------------------------------


def write_panoptic(
    path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions
) -> tuple[str, ...]:
    """The JSON, and a folder of the same name without ending with one PNG per image."""
    ids = {name: i for i, name in enumerate(data.classes, start=1)}
    colours = class_palette(data.classes).tolist()
    categories = [
        {**entry, "isthing": int(data.instances), "color": colours[entry["id"] - 1]} for entry in _categories(data)
    ]
    notes = Notes()
    folder = path.with_suffix("")
    listed: list[str] = []
    head = f'{{"info": {dumps(_info(data))},\n"licenses": [],\n"categories": {dumps(categories)},\n"annotations": ['
    with JsonStream(path, head, "") as document:
        for place, image in enumerate(images, start=1):
            file = str(Path(image.name).with_suffix(".png"))
            segments, segment_ids = _segments(image, ids, notes)
            channels = np.stack([segment_ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)
            save_png(Image.fromarray(channels), folder / file, compress_level=1)
            document.add({"image_id": place, "file_name": file, "segments_info": segments})
            height, width = image.size
            listed.append(dumps({"id": place, "file_name": image.name, "height": height, "width": width}))
        document.write('\n],\n"images": [\n' + ",\n".join(listed))
        document.tail = "]}"
    return notes.sentences()


def _segments(image: AnnotatedImage, ids: Mapping[str, int], notes: Notes) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The entries of an image, and (H, W) ids from 1; what lies below other objects is lost."""
    if image.overlap():
        notes.add("images with overlapping objects, whose pixels went to the later object", image.name)
    painted = np.maximum(image.paint(range(1, len(image.objects) + 1)), 0)
    segments = []
    for place, (starts, lengths) in runs_of_values(painted, range(1, len(image.objects) + 1)).items():
        if len(starts):
            box = [int(side) for side in run_box(starts, lengths, painted.shape[0])]
            entry = {"id": place, "category_id": ids[image.objects[place - 1].name], "area": int(lengths.sum())}
            segments.append({**entry, "bbox": box, "iscrowd": 0})
    return segments, painted


def read_panoptic(path: Path, images: Path | None = None) -> Annotations:
    """Read the JSON and the PNGs, which lie in the folder of the same name (or ending in it, or beside the JSON).

    Raises:
        DataError: not a panoptic file, a PNG that is missing or of another size, or ids that the JSON does not list.
    """
    document = _document(path, ("images", "annotations", "categories"))
    names = _category_names(document, path)
    listed = {entry.get("id"): entry for entry in document["images"]}
    found = []
    for entry in document["annotations"]:
        about = listed.get(entry.get("image_id"))
        segments = entry.get("segments_info")
        if (
            about is None
            or not isinstance(segments, list)
            or not all(isinstance(segment, dict) for segment in segments)
        ):
            raise DataError(f"{path} is not a panoptic file: an entry has no image or no 'segments_info'")
        name = image_name(about.get("file_name"), str(path))
        size = image_size(about.get("height"), about.get("width"), f"{path}: {name}")
        file = image_name(entry.get("file_name"), str(path))
        folder = next((f for f in (path.with_suffix(""), path.parent) if (f / file).is_file()), path.with_suffix(""))
        ids = read_ids(folder / file)
        if ids.shape != size:
            raise DataError(f"{folder / file} has {ids.shape} pixels, {path} says {size} (height, width)")
        classes = {segment.get("id"): segment.get("category_id") for segment in segments}
        unknown = sorted({*np.unique(ids).tolist()} - {0, *classes})
        if unknown or not {*classes.values()} <= {*names}:
            raise DataError(
                f"{folder / file}: segments that {path.name} does not describe: {unknown[:5] or 'unknown categories'}"
            )
        present = [segment for segment in classes if (ids == segment).any()]
        objects = (AnnotatedObject.of_mask(names[classes[segment]], ids == segment) for segment in present)
        found.append(AnnotatedImage(name, size, tuple(objects)))
    return Annotations(tuple(names.values()), tuple(found), str(path))
