"""Masks to polygons: exact along the edges of pixels, or simplified to a tolerance, with a bound on the IoU if asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from talk2dino.annotations.fill import fill_rings
from talk2dino.annotations.parts import connected_parts
from talk2dino.annotations.types import AnnotatedObject, Polygon, Ring
from talk2dino.io.polygons import label_rings

#: Tolerances in pixels that a bound on the IoU tries, from the coarsest.
_TOLERANCES = (8.0, 5.6, 4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5)


class OutlineOptions(BaseModel):
    """How masks become polygons."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tolerance: float | None = Field(
        default=None, ge=0, le=1000, description="largest distance in pixels between the exact outline and the polygon"
    )
    iou: float | None = Field(
        default=None, gt=0, le=1, description="smallest IoU between the mask and the polygon of each object"
    )


EXACT = OutlineOptions()


def object_polygons(one: AnnotatedObject, options: OutlineOptions = EXACT) -> tuple[Polygon, ...]:
    """The polygons of an object, one per connected part; those that it was given as are kept if nothing else is asked for."""
    if one.polygons is not None and options == EXACT:
        return one.polygons
    if not one.area:
        return ()
    corner = np.array(one.box[:2])
    polygons = mask_polygons(one.crop, options)
    return tuple(tuple(ring + corner for ring in polygon) for polygon in polygons)


def mask_polygons(mask: np.ndarray, options: OutlineOptions = EXACT) -> list[Polygon]:
    """Outline an (H, W) bool mask.

    Returns:
        One polygon per 4-connected part: its outer ring, clockwise on the screen, and its holes. Without options the corners
        lie on the edges of pixels, and filling restores the mask exactly.
    """
    mask = np.asarray(mask, dtype=bool)
    parts = connected_parts(mask)
    inside = np.flatnonzero(np.bincount(parts.reshape(-1), mask.reshape(-1)))
    rings = label_rings(np.where(mask, parts, -1))
    exact = []
    for part in inside.tolist():
        own = sorted((np.array(ring[:-1]) for ring in rings[part]), key=lambda ring: -signed_area(ring))
        exact.append(tuple(own))  # the outer ring is the one with a positive area
    if options.iou is not None:
        return _within_iou(mask, exact, options.iou, options.tolerance)
    return [simplify_polygon(polygon, options.tolerance or 0.0) for polygon in exact]


def _within_iou(mask: np.ndarray, exact: list[Polygon], bound: float, tolerance: float | None) -> list[Polygon]:
    """The coarsest of the tolerances, not above the one given, at which the whole object keeps the IoU."""
    for one in _TOLERANCES:
        if tolerance is not None and one > tolerance:
            continue
        polygons = [simplify_polygon(polygon, one) for polygon in exact]
        if polygon_iou(mask, polygons) >= bound:
            return polygons
    return exact


def polygon_iou(mask: np.ndarray, polygons: Sequence[Polygon]) -> float:
    """IoU of an (H, W) bool mask and the union of polygons; 1 if both are empty."""
    filled = np.zeros(mask.shape, dtype=bool)
    for polygon in polygons:
        filled |= fill_rings(polygon, (mask.shape[0], mask.shape[1]))
    union = np.count_nonzero(mask | filled)
    return float(np.count_nonzero(mask & filled) / union) if union else 1.0


def simplify_polygon(polygon: Polygon, tolerance: float) -> Polygon:
    """Simplify each ring; holes that have no area left are dropped, the outer ring keeps at least three corners."""
    if tolerance <= 0:
        return polygon
    outer, *holes = (simplify_ring(ring, tolerance) for ring in polygon)
    if len(outer) < 3 or signed_area(outer) <= 0:
        outer = polygon[0]
    return (outer, *(hole for hole in holes if len(hole) >= 3 and signed_area(hole) < 0))


def simplify_ring(ring: Ring, tolerance: float) -> Ring:
    """Drop corners of a closed ring that lie within ``tolerance`` pixels of the line between those that stay.

    Source: Douglas and Peucker, "Algorithms for the reduction of the number of points required to represent a digitized
    line or its caricature" (1973). A closed ring is cut at its first corner and at the one farthest from it.
    """
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    if far == 0:
        return ring
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    waiting = [(0, far), (far, len(ring))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            waiting += [(first, middle), (middle, last)]
    return ring[keep[:-1]]


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(K,) distances of (K, 2) points from the segment between two points."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - start - share[:, None] * along).T)


def signed_area(ring: Ring) -> float:
    """Area of a ring in pixels, positive if it runs clockwise on the screen (y points down)."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def bridge_holes(polygon: Polygon) -> Ring:
    """One ring for a polygon with holes, for formats without them.

    Each hole is joined by an edge there and back, between the two nearest corners. The edge has no width, so filling the
    ring gives the same pixels as filling the polygon.
    """
    outer, *holes = polygon
    for hole in holes:
        distances = ((outer[:, None] - hole[None]) ** 2).sum(2)
        at, start = np.unravel_index(int(np.argmin(distances)), distances.shape)
        turned = np.concatenate([hole[start:], hole[: start + 1]])
        outer = np.concatenate([outer[: at + 1], turned, outer[at:]])
    return outer
