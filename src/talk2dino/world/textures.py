"""Textures of the procedural world: functions of continuous coordinates, so that scenes can be drawn at any size.

Coordinates are in scene units (a scene is 96 units high) for backgrounds and in radii of the object for objects.
Colours are float arrays in 0..1, RGB last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Texture = Callable[[Array, Array, np.random.Generator], Array]


def value_noise(x: Array, y: Array, cell: float, rng: np.random.Generator) -> Array:
    """Smooth noise in 0..1: random values on a lattice of ``cell`` units, interpolated with a smoothstep."""
    lattice = rng.random((67, 61)).astype(np.float32)
    u, v = x / cell, y / cell
    column, row = np.floor(u), np.floor(v)
    fu, fv = (u - column).astype(np.float32), (v - row).astype(np.float32)
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    c0, r0 = column.astype(np.int64) % 61, row.astype(np.int64) % 67
    c1, r1 = (c0 + 1) % 61, (r0 + 1) % 67
    top = lattice[r0, c0] * (1 - fu) + lattice[r0, c1] * fu
    bottom = lattice[r1, c0] * (1 - fu) + lattice[r1, c1] * fu
    return top * (1 - fv) + bottom * fv


def mix(a: Array | tuple, b: Array | tuple, share: Array) -> Array:
    """``a`` where share is 0, ``b`` where it is 1."""
    share = np.asarray(share, dtype=np.float32)[..., None]
    return np.asarray(a, dtype=np.float32) * (1 - share) + np.asarray(b, dtype=np.float32) * share


def stripes(position: Array, share: float) -> Array:
    """Stripes of period 1: bool, whether a position lies in the first ``share`` of its period."""
    return position - np.floor(position) < share


def _tint(colour: tuple[float, float, float], rng: np.random.Generator) -> Array:
    return np.clip(np.asarray(colour) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.03, 3), 0, 1)


# --- backgrounds: f(x, y, rng) -> (H, W, 3), x and y in scene units -----------------------------------------------


def sky(x: Array, y: Array, rng: np.random.Generator) -> Array:
    top = _tint((0.42, 0.66, 0.95), rng)
    base = mix(top, np.clip(top + 0.25, 0, 1), np.clip(y / 96, 0, 1))
    clouds = np.clip(value_noise(x, y * 2.0, rng.uniform(16, 24), rng) * 2.6 - 1.6, 0, 1)
    return mix(base, (0.98, 0.98, 1.0), clouds * 0.8)


def grass(x: Array, y: Array, rng: np.random.Generator) -> Array:
    dark, light = _tint((0.10, 0.36, 0.08), rng), _tint((0.36, 0.68, 0.16), rng)
    return mix(dark, light, np.clip(value_noise(x, y / 6, 1.4, rng) * 1.6 - 0.3, 0, 1))


def water(x: Array, y: Array, rng: np.random.Generator) -> Array:
    deep, crest = _tint((0.05, 0.34, 0.58), rng), _tint((0.22, 0.62, 0.74), rng)
    bend = 2.4 * np.sin(x / rng.uniform(6, 9) + rng.uniform(0, 6)) + 5 * value_noise(x, y, 14, rng)
    return mix(deep, crest, 0.5 + 0.5 * np.sin((y + bend) * 2 * np.pi / rng.uniform(6.5, 8.5)))


def sand(x: Array, y: Array, rng: np.random.Generator) -> Array:
    grain = value_noise(x, y, 0.9, rng)
    dunes = value_noise(x, y * 2, 20, rng)
    return mix(_tint((0.80, 0.66, 0.40), rng), _tint((0.98, 0.90, 0.66), rng), 0.75 * grain + 0.25 * dunes)


def brick_wall(x: Array, y: Array, rng: np.random.Generator) -> Array:
    height = rng.uniform(6.0, 8.5)
    row = np.floor(y / height)
    shifted = x / (2.2 * height) + 0.5 * (row % 2)
    mortar = stripes(y / height, 0.16) | stripes(shifted, 0.07)
    shade = value_noise(np.floor(shifted) * 7.3, row * 5.1, 1.7, rng)
    bricks = mix(_tint((0.55, 0.20, 0.14), rng), _tint((0.74, 0.36, 0.24), rng), shade)
    return mix(bricks, _tint((0.82, 0.78, 0.72), rng), mortar)


def wood_floor(x: Array, y: Array, rng: np.random.Generator) -> Array:
    height = rng.uniform(8.0, 11.0)
    row = np.floor(y / height)
    along = x / 44 + 0.37 * row
    seam = stripes(y / height, 0.10) | stripes(along, 0.025)
    grain = value_noise(x / 9 + row * 11, y, 1.3, rng)
    planks = mix(_tint((0.46, 0.28, 0.13), rng), _tint((0.76, 0.54, 0.30), rng), 0.25 + 0.6 * grain)
    return mix(planks, (0.22, 0.12, 0.05), seam)


def night_sky(x: Array, y: Array, rng: np.random.Generator) -> Array:
    base = mix(_tint((0.03, 0.03, 0.12), rng), _tint((0.11, 0.09, 0.26), rng), np.clip(y / 96, 0, 1))
    cell = 8.0
    column, row = np.floor(x / cell), np.floor(y / cell)
    pick = (column.astype(np.int64) * 37 + row.astype(np.int64) * 91) % 256
    jitter = rng.random((3, 256)).astype(np.float32)
    distance = np.hypot(x / cell - column - 0.15 - 0.7 * jitter[0][pick], y / cell - row - 0.15 - 0.7 * jitter[1][pick])
    stars = np.clip(1.6 - distance * cell / (0.55 + 0.55 * jitter[2][pick]), 0, 1) * (jitter[2][pick] > 0.3)
    return mix(base, (1.0, 0.98, 0.85), stars)


def road(x: Array, y: Array, rng: np.random.Generator) -> Array:
    asphalt = mix(_tint((0.20, 0.20, 0.21), rng), _tint((0.44, 0.44, 0.45), rng), value_noise(x, y, 1.1, rng))
    line = rng.uniform(20, 80)
    dashes = (np.abs((y - line + 48) % 60 - 48) < 1.8) & ((x + rng.uniform(0, 30)) % 28 < 16)
    return mix(asphalt, (0.95, 0.90, 0.70), dashes)


BACKGROUND_TEXTURES: tuple[Texture, ...] = (sky, grass, water, sand, brick_wall, wood_floor, night_sky, road)


# --- objects: f(x, y, rng) -> share of the second colour (0 or 1), x and y in radii --------------------------------


def scales(x: Array, y: Array, rng: np.random.Generator) -> Array:
    row = np.floor(x / 0.17)
    v = y / 0.26 + 0.5 * (row % 2)
    arc = np.hypot((x / 0.17 - row) * 0.65, v - np.floor(v) - 0.5)
    return (arc > 0.40) & (arc < 0.62)


def polka_dots(x: Array, y: Array, rng: np.random.Generator) -> Array:
    row = np.floor(y / 0.30)
    u = x / 0.34 + 0.5 * (row % 2)
    return np.hypot((u - np.floor(u) - 0.5) * 0.34, (y / 0.30 - row - 0.5) * 0.30) < 0.105


OBJECT_TEXTURES: dict[str, Texture] = {
    "ball": lambda x, y, rng: np.floor(np.arctan2(y, x) / (np.pi / 5) + rng.uniform(0, 1)) % 2,  # wedges
    "box": lambda x, y, rng: stripes((x + y) / 0.34, 0.24) | stripes((x - y) / 0.34, 0.24),  # crossed lines
    "tree": lambda x, y, rng: value_noise(x + 9, y + 9, 0.19, rng) > 0.52,  # blotches
    "house": lambda x, y, rng: stripes(y / 0.20, 0.32),  # boards
    "fish": scales,
    "mushroom": polka_dots,
    "car": lambda x, y, rng: stripes(x / 0.30 + 0.9 * np.abs(((y / 0.42) % 1) - 0.5), 0.40),  # zigzags
    "boat": lambda x, y, rng: stripes((x * 0.8 + y) / 0.28, 0.42),  # diagonal lines
}
