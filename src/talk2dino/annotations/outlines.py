"""Masks to polygons: exact along the edges of pixels, or simplified to a tolerance, with a bound on the IoU if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from talk2dino.annotations.fill import fill_rings
from talk2dino.annotations.parts import connected_parts
from talk2dino.annotations.types import UNLABELLED, AnnotatedImage, AnnotatedObject, Polygon, Ring
from talk2dino.io.polygons import label_rings

#: Tolerances in pixels that a bound on the IoU tries, from the finest.
_TOLERANCES = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0)
#: Spans of an outline up to this many corners are searched in plain Python, which is faster than NumPy there.
_SHORT = 40


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


def image_polygons(image: AnnotatedImage, options: OutlineOptions = EXACT) -> list[tuple[Polygon, ...]]:
    """The polygons of each object of an image, one per connected part, as :func:`object_polygons` gives them.

    Objects that do not overlap are outlined together, which is several times as fast.
    """
    objects = image.objects
    if len(objects) < 2 or any(one.polygons is not None for one in objects) or image.overlap():
        return [object_polygons(one, options) for one in objects]
    found: list[list[Polygon]] = [[] for _ in objects]
    for owner, polygon in _outlined(image.paint(range(len(objects)))):
        found[owner].append(_simplified(polygon, options))
    return [tuple(polygons) for polygons in found]


def object_polygons(one: AnnotatedObject, options: OutlineOptions = EXACT) -> tuple[Polygon, ...]:
    """The polygons of an object, one per connected part; those that it was given as are kept if nothing else is asked for."""
    if one.polygons is not None and options == EXACT:
        return one.polygons
    if not one.area:
        return ()
    corner = np.array(one.box[:2])
    return tuple(tuple(ring + corner for ring in polygon) for polygon in mask_polygons(one.crop, options))


def mask_polygons(mask: np.ndarray, options: OutlineOptions = EXACT) -> list[Polygon]:
    """Outline an (H, W) bool mask.

    Returns:
        One polygon per 4-connected part: its outer ring, clockwise on the screen, and its holes. Without options the corners
        lie on the edges of pixels, and filling restores the mask exactly.
    """
    labels = np.where(np.asarray(mask, dtype=bool), 0, UNLABELLED)
    return [_simplified(polygon, options) for _, polygon in _outlined(labels)]


def _outlined(labels: np.ndarray) -> Iterator[tuple[int, Polygon]]:
    """(value, exact polygon) of each connected part of (H, W) labels, except of UNLABELLED."""
    parts = connected_parts(labels)
    rings = label_rings(np.where(labels == UNLABELLED, -1, parts))
    owners = np.zeros(int(parts.max()) + 1, dtype=np.int64)
    owners[parts.reshape(-1)] = labels.reshape(-1)
    for part, own in sorted(rings.items()):
        if part >= 0:
            arrays = sorted((np.array(ring[:-1]) for ring in own), key=lambda ring: -signed_area(ring))
            yield int(owners[part]), tuple(arrays)  # the outer ring is the one with a positive area


def _simplified(polygon: Polygon, options: OutlineOptions) -> Polygon:
    """An exact polygon as the options ask for it: within a tolerance, or as coarse as a bound on its IoU permits.

    If each part of an object keeps the bound, so does the object.
    """
    if options.iou is None:
        return simplify_polygon(polygon, options.tolerance or 0.0)
    tried = [one for one in _TOLERANCES if options.tolerance is None or one <= options.tolerance]
    if not tried or options.iou >= 1:
        return polygon
    corner = np.floor(polygon[0].min(0))
    moved = tuple(ring - corner for ring in polygon)
    width, height = (int(side) for side in np.ceil(moved[0].max(0)))
    mask = fill_rings(moved, (height, width))
    significances = [_significance(ring, tried[0]) for ring in polygon]
    kept, low, high = polygon, 0, len(tried)
    while low < high:  # bisection: what is returned was measured, also where the IoU does not fall steadily
        middle = (low + high) // 2
        candidate = _thinned(moved, significances, tried[middle])
        if polygon_iou(mask, [candidate]) >= options.iou:
            kept, low = tuple(ring + corner for ring in candidate), middle + 1
        else:
            high = middle
    return kept


def simplify_polygon(polygon: Polygon, tolerance: float) -> Polygon:
    """Simplify each ring; holes that have no area left are dropped, the outer ring keeps at least three corners."""
    if tolerance <= 0:
        return polygon
    return _thinned(polygon, [_significance(ring, tolerance) for ring in polygon], tolerance)


def _thinned(polygon: Polygon, significances: Sequence[np.ndarray], tolerance: float) -> Polygon:
    """Holes that have no area left are dropped; an outer ring that has none is kept as it is."""
    outer, *holes = (ring[own > tolerance] for ring, own in zip(polygon, significances, strict=True))
    if len(outer) < 3 or signed_area(outer) <= 0:
        outer = polygon[0]
    return (outer, *(hole for hole in holes if len(hole) >= 3 and signed_area(hole) < 0))


def polygon_iou(mask: np.ndarray, polygons: Sequence[Polygon]) -> float:
    """IoU of an (H, W) bool mask and the union of polygons; 1 if both are empty."""
    filled = np.zeros(mask.shape, dtype=bool)
    for polygon in polygons:
        filled |= fill_rings(polygon, (mask.shape[0], mask.shape[1]))
    union = np.count_nonzero(mask | filled)
    return float(np.count_nonzero(mask & filled) / union) if union else 1.0


def simplify_ring(ring: Ring, tolerance: float) -> Ring:
    """Drop corners of a closed ring that lie within ``tolerance`` pixels of the line between those that stay.

    Source: Douglas and Peucker, "Algorithms for the reduction of the number of points required to represent a digitized
    line or its caricature" (1973). A closed ring is cut at its first corner and at the one farthest from it.
    """
    return ring[_significance(ring, tolerance) > tolerance]


def _significance(ring: Ring, floor: float) -> np.ndarray:
    """(K,) the tolerance up to which Douglas and Peucker's method keeps each corner; 0 for those not kept above ``floor``."""
    count = len(ring)
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    found = np.zeros(count)
    found[[0, far]] = np.inf
    closed = np.concatenate([ring, ring[:1]])
    xs, ys = closed.T.tolist()
    waiting = [(0, far, np.inf), (far, count, np.inf)]
    while waiting:
        first, last, limit = waiting.pop()
        if last - first < 2:
            continue
        if last - first <= _SHORT:
            middle, distance = _farthest(xs, ys, first, last)
        else:
            distances = _distances(closed[first + 1 : last], closed[first], closed[last])
            middle = first + 1 + int(np.argmax(distances))
            distance = float(distances[middle - first - 1])
        if distance > floor:
            found[middle] = limit = min(limit, distance)
            waiting += [(first, middle, limit), (middle, last, limit)]
    return found


def _farthest(xs: list[float], ys: list[float], first: int, last: int) -> tuple[int, float]:
    """The corner between two others that is farthest from the segment between these, and its distance."""
    x0, y0 = xs[first], ys[first]
    dx, dy = xs[last] - x0, ys[last] - y0
    length = dx * dx + dy * dy
    best, where = -1.0, first + 1
    for i in range(first + 1, last):
        px, py = xs[i] - x0, ys[i] - y0
        along = px * dx + py * dy
        if along <= 0:
            squared = px * px + py * py
        elif along >= length:
            squared = (px - dx) ** 2 + (py - dy) ** 2
        else:
            squared = (px * dy - py * dx) ** 2 / length
        if squared > best:
            best, where = squared, i
    return where, best**0.5


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
