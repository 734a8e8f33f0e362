"""Labels as shapes of X-AnyLabeling: one polygon per connected area."""

from __future__ import annotations

from typing import Any

import numpy as np

from talk2dino.annotations.objects import ObjectOptions, find_objects
from talk2dino.annotations.outlines import bridge_holes, object_polygons, simplify_polygon
from talk2dino.annotations.types import Polygon
from talk2dino.types import Segmentation

#: Connected areas smaller than this share of the image are left out: specks that an annotator would have to delete.
SMALLEST_SHARE = 0.0005


def polygon_shapes(done: Segmentation, fineness: float) -> list[dict[str, Any]]:
    """The areas of each class as polygons.

    Args:
        fineness: largest distance between the outline and the polygon, as a share of the outline's length
            (X-AnyLabeling's slider "mask fineness").

    Returns:
        Dictionaries with the keys that X-AnyLabeling's client reads. Points are (x, y) in pixels, the first one repeated at
        the end. A hole is joined to its outline by an edge without width, since the program has no holes.
    """
    smallest = max(1, round(SMALLEST_SHARE * done.labels.size))
    options = ObjectOptions(instances=True, smallest_area=smallest)
    shapes: list[dict[str, Any]] = []
    for one in find_objects(done.labels, done.names, done.background, options):
        for polygon in object_polygons(one):
            ring = bridge_holes(simplify_polygon(polygon, fineness * _length(polygon)))
            shapes.append({
                "label": one.name, "shape_type": "polygon", "points": [*ring.tolist(), ring[0].tolist()], "score": None,
                "attributes": {}, "description": None, "difficult": False, "direction": 0, "flags": None, "group_id": None,
                "kie_linking": [],
            })  # fmt: skip
    return shapes


def _length(polygon: Polygon) -> float:
    """Length of the outer ring in pixels."""
    outer = polygon[0]
    return float(np.hypot(*(outer - np.roll(outer, -1, axis=0)).T).sum())
