"""Outlines of the world's objects, as layers that are painted in order.

Outlines are functions of x (to the right) and y (down), both in radii of the object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Outline:
    """``contains`` maps x and y, (H, W) each, to (H, W) bool."""

    contains: Callable[[Array, Array], Array]

    def __or__(self, other: Outline) -> Outline:
        return Outline(lambda x, y: self.contains(x, y) | other.contains(x, y))

    def __and__(self, other: Outline) -> Outline:
        return Outline(lambda x, y: self.contains(x, y) & other.contains(x, y))


@dataclass(frozen=True)
class Layer:
    """An outline and its paint: the object's "own" colour, a "dark" or a "pale" companion of it, or RGB in 0..1.

    Half of the scenes draw the ``alternative`` instead of the outline, if there is one.
    """

    outline: Outline
    paint: str | tuple[float, float, float] = "own"
    alternative: Outline | None = None


def polygon(*corners: tuple[float, float]) -> Outline:
    """A convex polygon whose corners are given clockwise (y downwards)."""
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    return Outline(
        lambda x, y: np.all([(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0 for (x0, y0), (x1, y1) in edges], axis=0)
    )


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return Outline(lambda x, y: (x >= left) & (x <= right) & (y >= top) & (y <= bottom))


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Outline:
    return Outline(lambda x, y: ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1)


_FIR = polygon((0, -0.98), (0.50, -0.35), (-0.50, -0.35)) | polygon((0, -0.65), (0.68, 0.08), (-0.68, 0.08))
_FIR |= polygon((0, -0.25), (0.85, 0.55), (-0.85, 0.55))
_CROWN = ellipse(-0.35, -0.1, 0.55, 0.5) | ellipse(0.35, -0.1, 0.55, 0.5) | ellipse(0, -0.45, 0.55, 0.5)
_CABIN = polygon((-0.4, -0.62), (0.35, -0.62), (0.6, 0.0), (-0.62, 0.0))
_FRONT_WINDOW = polygon((-0.32, -0.50), (-0.06, -0.50), (-0.06, -0.1), (-0.46, -0.1))
_REAR_WINDOW = polygon((0.06, -0.50), (0.28, -0.50), (0.42, -0.1), (0.06, -0.1))
_SAILS = polygon((0.05, -0.9), (0.85, 0.15), (0.05, 0.15)) | polygon((-0.09, -0.75), (-0.09, 0.15), (-0.7, 0.15))

SHAPES: dict[str, tuple[Layer, ...]] = {
    "ball": (Layer(ellipse(0, 0, 0.95, 0.95)), Layer(ellipse(0, 0, 0.13, 0.13), (0.95, 0.95, 0.95))),
    "box": (
        Layer(rectangle(-0.85, -0.5, 0.7, 0.85)),
        Layer(polygon((-0.5, -0.9), (0.95, -0.9), (0.7, -0.5), (-0.85, -0.5)), "dark"),
    ),
    "tree": (
        Layer(rectangle(-0.14, 0.35, 0.14, 0.98), (0.38, 0.23, 0.12)),
        Layer(_FIR, alternative=_CROWN),
    ),
    "house": (
        Layer(rectangle(-0.75, -0.15, 0.75, 0.9)),
        Layer(polygon((0, -0.95), (0.98, -0.12), (-0.98, -0.12)), "dark"),
        Layer(rectangle(-0.45, 0.35, -0.12, 0.9), (0.25, 0.14, 0.09)),
        Layer(rectangle(0.22, 0.10, 0.52, 0.38), (0.98, 0.93, 0.55)),
    ),
    "fish": (
        Layer(polygon((0.5, 0), (0.98, -0.48), (0.98, 0.48)) | polygon((-0.25, -0.42), (0.25, -0.75), (0.3, -0.3))),
        Layer(ellipse(-0.2, 0, 0.78, 0.52)),
        Layer(ellipse(-0.66, -0.12, 0.13, 0.13), (1, 1, 1)),
        Layer(ellipse(-0.68, -0.12, 0.06, 0.06), (0, 0, 0)),
    ),
    "mushroom": (
        Layer(polygon((-0.2, 0.0), (0.2, 0.0), (0.3, 0.95), (-0.3, 0.95)), "pale"),
        Layer(ellipse(0, 0.1, 0.98, 0.95) & rectangle(-1, -1, 1, 0.15)),
    ),
    "car": (
        Layer(_CABIN | rectangle(-0.98, -0.12, 0.98, 0.45)),
        Layer(_FRONT_WINDOW | _REAR_WINDOW, (0.75, 0.90, 0.97)),
        Layer(ellipse(-0.55, 0.45, 0.24, 0.24) | ellipse(0.55, 0.45, 0.24, 0.24), (0.08, 0.08, 0.08)),
        Layer(ellipse(-0.55, 0.45, 0.09, 0.09) | ellipse(0.55, 0.45, 0.09, 0.09), (0.75, 0.75, 0.75)),
    ),
    "boat": (
        Layer(rectangle(-0.06, -0.95, 0.02, 0.3), (0.30, 0.18, 0.10)),
        Layer(_SAILS, "pale"),
        Layer(polygon((-0.98, 0.25), (0.98, 0.25), (0.65, 0.85), (-0.65, 0.85))),
    ),
}
