"""Outlines of the world's objects. Each function returns layers (mask, tone, plain), painted in order.

``x`` runs right and ``y`` down, both in radii of the object. ``tone`` is 0 for the object's own colour, 1 for a darker
one (roof, trunk) and 2 for a paler one (stem, sail). ``plain`` layers have a fixed colour and no texture (windows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from talk2dino.world import textures

Array = np.ndarray


@dataclass(frozen=True)
class Layer:
    mask: Array  # (H, W) bool
    tone: int = 0  # 0 own colour, 1 dark companion, 2 pale companion
    plain: tuple[float, float, float] | None = None  # a fixed colour without texture


@dataclass(frozen=True)
class Shape:
    layers: Callable[[Array, Array, np.random.Generator], list[Layer]]
    texture: Callable[[Array, Array, np.random.Generator], Array]


def polygon(x: Array, y: Array, *corners: tuple[float, float]) -> Array:
    """Inside of a convex polygon whose corners are given clockwise (y downwards)."""
    inside = np.ones(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    return inside


def rectangle(x: Array, y: Array, left: float, top: float, right: float, bottom: float) -> Array:
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def ellipse(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float) -> Array:
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1


def ball(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    return [Layer(ellipse(x, y, 0, 0, 0.95, 0.95)), Layer(ellipse(x, y, 0, 0, 0.13, 0.13), plain=(0.95, 0.95, 0.95))]


def box(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    lid = polygon(x, y, (-0.5, -0.9), (0.95, -0.9), (0.7, -0.5), (-0.85, -0.5))
    return [Layer(rectangle(x, y, -0.85, -0.5, 0.7, 0.85)), Layer(lid, tone=1)]


def tree(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    trunk = rectangle(x, y, -0.14, 0.35, 0.14, 0.98)
    if rng.random() < 0.5:
        tiers = ((-0.98, 0.50, -0.35), (-0.65, 0.68, 0.08), (-0.25, 0.85, 0.55))
        crown = np.zeros(x.shape, dtype=bool)
        for top, half, bottom in tiers:
            crown |= polygon(x, y, (0, top), (half, bottom), (-half, bottom))
    else:
        crown = ellipse(x, y, -0.35, -0.1, 0.55, 0.5) | ellipse(x, y, 0.35, -0.1, 0.55, 0.5)
        crown |= ellipse(x, y, 0, -0.45, 0.55, 0.5)
    return [Layer(trunk, plain=(0.38, 0.23, 0.12)), Layer(crown)]


def house(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    window = rectangle(x, y, 0.22, 0.10, 0.52, 0.38)
    return [
        Layer(rectangle(x, y, -0.75, -0.15, 0.75, 0.9)),
        Layer(polygon(x, y, (0, -0.95), (0.98, -0.12), (-0.98, -0.12)), tone=1),
        Layer(rectangle(x, y, -0.45, 0.35, -0.12, 0.9), plain=(0.25, 0.14, 0.09)),
        Layer(window, plain=(0.98, 0.93, 0.55)),
    ]


def fish(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    tail = polygon(x, y, (0.5, 0), (0.98, -0.48), (0.98, 0.48))
    fin = polygon(x, y, (-0.25, -0.42), (0.25, -0.75), (0.3, -0.3))
    body = ellipse(x, y, -0.2, 0, 0.78, 0.52)
    return [
        Layer(tail | fin),
        Layer(body),
        Layer(ellipse(x, y, -0.66, -0.12, 0.13, 0.13), plain=(1, 1, 1)),
        Layer(ellipse(x, y, -0.68, -0.12, 0.06, 0.06), plain=(0, 0, 0)),
    ]


def mushroom(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    stem = polygon(x, y, (-0.2, 0.0), (0.2, 0.0), (0.3, 0.95), (-0.3, 0.95))
    cap = ellipse(x, y, 0, 0.1, 0.98, 0.95) & (y <= 0.15)
    return [Layer(stem, tone=2), Layer(cap)]


def car(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    cabin = polygon(x, y, (-0.4, -0.62), (0.35, -0.62), (0.6, 0.0), (-0.62, 0.0))
    glass = polygon(x, y, (-0.32, -0.50), (-0.06, -0.50), (-0.06, -0.1), (-0.46, -0.1))
    glass |= polygon(x, y, (0.06, -0.50), (0.28, -0.50), (0.42, -0.1), (0.06, -0.1))
    body = rectangle(x, y, -0.98, -0.12, 0.98, 0.45)
    wheels = ellipse(x, y, -0.55, 0.45, 0.24, 0.24) | ellipse(x, y, 0.55, 0.45, 0.24, 0.24)
    hubs = ellipse(x, y, -0.55, 0.45, 0.09, 0.09) | ellipse(x, y, 0.55, 0.45, 0.09, 0.09)
    return [
        Layer(cabin | body),
        Layer(glass, plain=(0.75, 0.90, 0.97)),
        Layer(wheels, plain=(0.08, 0.08, 0.08)),
        Layer(hubs, plain=(0.75, 0.75, 0.75)),
    ]


def boat(x: Array, y: Array, rng: np.random.Generator) -> list[Layer]:
    mast = rectangle(x, y, -0.06, -0.95, 0.02, 0.3)
    sails = polygon(x, y, (0.05, -0.9), (0.85, 0.15), (0.05, 0.15))
    sails |= polygon(x, y, (-0.09, -0.75), (-0.09, 0.15), (-0.7, 0.15))
    hull = polygon(x, y, (-0.98, 0.25), (0.98, 0.25), (0.65, 0.85), (-0.65, 0.85))
    return [Layer(mast, plain=(0.30, 0.18, 0.10)), Layer(sails, tone=2), Layer(hull)]


SHAPES: dict[str, Shape] = {
    "ball": Shape(ball, textures.wedges),
    "box": Shape(box, textures.cross_hatch),
    "tree": Shape(tree, textures.blotches),
    "house": Shape(house, textures.siding),
    "fish": Shape(fish, textures.scales),
    "mushroom": Shape(mushroom, textures.polka_dots),
    "car": Shape(car, textures.chevrons),
    "boat": Shape(boat, textures.diagonals),
}
