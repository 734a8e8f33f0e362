"""Outlines of the world's objects, as layers that are painted in order.

Outlines are functions of x (to the right) and y (down), both in radii of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

Array = np.ndarray
Outline: TypeAlias = Callable[[Array, Array], Array]  # from x and y, (H, W) each, to (H, W) bool: inside or not


class Layer:
    """The union of some outlines, and its paint: the object's "own" colour, a "dark" or "pale" companion, or RGB.

    Half of the scenes draw the ``alternative`` instead of the outlines, if there is one.
    """

    def __init__(
        self, paint: str | tuple[float, float, float], *outlines: Outline, alternative: Sequence[Outline] = ()
    ) -> None:
        self.paint, self.outlines, self.alternative = paint, outlines, alternative


def polygon(*corners: tuple[float, float]) -> Outline:
    """A convex polygon whose corners are given clockwise (y downwards)."""
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    return lambda x, y: np.all(
        [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0 for (x0, y0), (x1, y1) in edges], axis=0
    )


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return lambda x, y: (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def ellipse(cx: float, cy: float, rx: float, ry: float, *, bottom: float = np.inf) -> Outline:
    """An ellipse, cut off below ``bottom``."""
    return lambda x, y: (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1) & (y <= bottom)


_FIR = (
    polygon((0, -0.98), (0.50, -0.35), (-0.50, -0.35)),
    polygon((0, -0.65), (0.68, 0.08), (-0.68, 0.08)),
    polygon((0, -0.25), (0.85, 0.55), (-0.85, 0.55)),
)
_CROWN = (ellipse(-0.35, -0.1, 0.55, 0.5), ellipse(0.35, -0.1, 0.55, 0.5), ellipse(0, -0.45, 0.55, 0.5))

SHAPES: dict[str, tuple[Layer, ...]] = {
    "ball": (Layer("own", ellipse(0, 0, 0.95, 0.95)), Layer((0.95, 0.95, 0.95), ellipse(0, 0, 0.13, 0.13))),
    "box": (
        Layer("own", rectangle(-0.85, -0.5, 0.7, 0.85)),
        Layer("dark", polygon((-0.5, -0.9), (0.95, -0.9), (0.7, -0.5), (-0.85, -0.5))),
    ),
    "tree": (Layer((0.38, 0.23, 0.12), rectangle(-0.14, 0.35, 0.14, 0.98)), Layer("own", *_FIR, alternative=_CROWN)),
    "house": (
        Layer("own", rectangle(-0.75, -0.15, 0.75, 0.9)),
        Layer("dark", polygon((0, -0.95), (0.98, -0.12), (-0.98, -0.12))),
        Layer((0.25, 0.14, 0.09), rectangle(-0.45, 0.35, -0.12, 0.9)),
        Layer((0.98, 0.93, 0.55), rectangle(0.22, 0.10, 0.52, 0.38)),
    ),
    "fish": (
        Layer("own", polygon((0.5, 0), (0.98, -0.48), (0.98, 0.48))),
        Layer("own", polygon((-0.25, -0.42), (0.25, -0.75), (0.3, -0.3))),
        Layer("own", ellipse(-0.2, 0, 0.78, 0.52)),
        Layer((1, 1, 1), ellipse(-0.66, -0.12, 0.13, 0.13)),
        Layer((0, 0, 0), ellipse(-0.68, -0.12, 0.06, 0.06)),
    ),
    "mushroom": (
        Layer("pale", polygon((-0.2, 0.0), (0.2, 0.0), (0.3, 0.95), (-0.3, 0.95))),
        Layer("own", ellipse(0, 0.1, 0.98, 0.95, bottom=0.15)),
    ),
    "car": (
        Layer("own", polygon((-0.4, -0.62), (0.35, -0.62), (0.6, 0.0), (-0.62, 0.0))),
        Layer("own", rectangle(-0.98, -0.12, 0.98, 0.45)),
        Layer((0.75, 0.90, 0.97), polygon((-0.32, -0.50), (-0.06, -0.50), (-0.06, -0.1), (-0.46, -0.1))),
        Layer((0.75, 0.90, 0.97), polygon((0.06, -0.50), (0.28, -0.50), (0.42, -0.1), (0.06, -0.1))),
        Layer((0.08, 0.08, 0.08), ellipse(-0.55, 0.45, 0.24, 0.24), ellipse(0.55, 0.45, 0.24, 0.24)),
        Layer((0.75, 0.75, 0.75), ellipse(-0.55, 0.45, 0.09, 0.09), ellipse(0.55, 0.45, 0.09, 0.09)),
    ),
    "boat": (
        Layer((0.30, 0.18, 0.10), rectangle(-0.06, -0.95, 0.02, 0.3)),
        Layer("pale", polygon((0.05, -0.9), (0.85, 0.15), (0.05, 0.15))),
        Layer("pale", polygon((-0.09, -0.75), (-0.09, 0.15), (-0.7, 0.15))),
        Layer("own", polygon((-0.98, 0.25), (0.98, 0.25), (0.65, 0.85), (-0.65, 0.85))),
    ),
}
