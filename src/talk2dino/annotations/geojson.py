"""GeoJSON: polygons in the coordinates of the world file beside each image.

A world file maps the centre of pixel (column, row) to (A column + B row + C, D column + E row + F). GeoJSON readers take
coordinates for longitude and latitude unless the system is named otherwise (RFC 7946, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from talk2dino.annotations.checks import (
    Notes,
    image_name,
    image_size,
    number,
    polygon_object,
    read_json_file,
    ring_of,
    score_of,
)
from talk2dino.annotations.outlines import image_polygons, signed_area
from talk2dino.annotations.streams import dumps
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations, Polygon, Ring
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError
from talk2dino.io.atomic import write_atomically

_MEMBER = "talk2dino:image"  # what is needed to come back to pixels


def write(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """One ``.geojson`` per image that has a world file, in a folder.

    Raises:
        DataError: no image has a world file.
    """
    notes, written, first = Notes(), 0, ""
    for image in images:
        first = first or image.name
        if image.world is None:
            notes.add("images without a world file, left out of the GeoJSON", image.name)
            continue
        written += 1
        target = path / PurePosixPath(image.name).with_suffix(".geojson")
        write_atomically(target, dumps(_collection(image, image.world, data, options)) + "\n")
    if not written and first:
        raise DataError(
            f"no image has a world file, which GeoJSON needs: expected, for example, "
            f"{PurePosixPath(first).with_suffix('.pgw')} or {PurePosixPath(first).with_suffix('.wld')} beside {first}"
        )
    return notes.sentences()


def _collection(
    image: AnnotatedImage, world: tuple[float, ...], data: DataSet, options: WriteOptions
) -> dict[str, Any]:
    features = []
    for one, parts in zip(image.objects, image_polygons(image, options.outline), strict=True):
        polygons = [[_to_world(ring, world, k == 0) for k, ring in enumerate(polygon)] for polygon in parts]
        score = {} if one.score is None else {"score": round(one.score, 6)}
        shape = {"type": "Polygon", "coordinates": polygons[0]} if len(polygons) == 1 else \
                {"type": "MultiPolygon", "coordinates": polygons}  # fmt: skip
        features.append({"type": "Feature", "properties": {"class": one.name, **score}, "geometry": shape})
    height, width = image.size
    about = {"name": image.name, "width": width, "height": height, "world": list(world), "classes": list(data.classes)}
    return {"type": "FeatureCollection", _MEMBER: about, "features": features}


def _to_world(ring: Ring, world: tuple[float, ...], outer: bool) -> list[list[float]]:
    """A closed ring; outer rings run counter-clockwise, holes clockwise, as RFC 7946 asks."""
    a, d, b, e, c, f = world
    x, y = (ring - 0.5).T
    moved = np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)
    if (signed_area(moved) > 0) != outer:  # in coordinates whose y points up, a positive area is counter-clockwise
        moved = moved[::-1]
    return [*moved.tolist(), moved[0].tolist()]


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read one file, or all of a folder, that :func:`write` made; features may have been moved, added or deleted since.

    Raises:
        DataError: not such a file, or geometries that are not polygons.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.geojson"))
    if not files:
        raise DataError(f"{path} has no .geojson file")
    notes, classes, found = Notes(), dict[str, None](), []
    for file in files:
        content = read_json_file(file)
        about = content.get(_MEMBER) if isinstance(content, dict) else None
        if not isinstance(about, dict) or not isinstance(content.get("features"), list):
            raise DataError(
                f"{file} lacks the member {_MEMBER!r}, which says how its coordinates map to the pixels of an image"
            )
        classes |= dict.fromkeys(map(str, about.get("classes") or ()))
        found.append(_read_file(content, about, str(file), notes))
    classes |= dict.fromkeys(one.name for image in found for one in image.objects)
    return Annotations(tuple(classes), tuple(found), str(path), notes.sentences())


def _read_file(content: Mapping[str, Any], about: Mapping[str, Any], where: str, notes: Notes) -> AnnotatedImage:
    name = image_name(about.get("name"), where)
    size = image_size(about.get("height"), about.get("width"), where)
    world = tuple(number(value, "a value of the world file", where) for value in about.get("world") or ())
    if len(world) != 6 or world[0] * world[3] == world[1] * world[2]:
        raise DataError(f"{where}: 'world' must hold six numbers that map pixels to coordinates; got {list(world)}")
    objects: list[AnnotatedObject | None] = []
    for feature in content["features"]:
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if not isinstance(geometry, dict) or kind not in ("Polygon", "MultiPolygon"):
            raise DataError(f"{where}: a feature has the geometry {kind!r}; expected Polygon or MultiPolygon")
        parts = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        polygons: list[Polygon] = [tuple(_to_pixels(ring_of(ring, where), world) for ring in rings) for rings in parts]
        about_one = feature.get("properties") or {}
        if not about_one.get("class"):
            raise DataError(f"{where}: a feature has no property 'class'")
        objects.append(
            polygon_object(str(about_one["class"]), polygons, size, where, notes, score_of(about_one.get("score")))
        )
    return AnnotatedImage(name, size, tuple(one for one in objects if one is not None), world)


def _to_pixels(ring: Ring, world: tuple[float, ...]) -> Ring:
    a, d, b, e, c, f = world
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    pixels = (ring - (c, f)) @ inverse.T + 0.5
    return np.round(pixels, 6)  # so that edges of pixels stay edges of pixels
