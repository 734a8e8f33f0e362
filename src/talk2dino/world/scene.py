"""Random scenes with exact masks. The embedded model is trained on them, and most tests use them.

A :class:`Scene` is a small description that depends only on its seed; :func:`render` draws it at any size. In scene
units a scene is 96 high and ``96 * aspect`` wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from talk2dino.world.shapes import SHAPES
from talk2dino.world.textures import BACKGROUND_TEXTURES, OBJECT_TEXTURES, Array, mix
from talk2dino.world.vocabulary import BACKGROUNDS, COLOURS, OBJECTS, Concept

UNITS = 96.0


@dataclass(frozen=True)
class Thing:
    """One object: ``kind`` indexes ``OBJECTS``; position, radius in scene units; angle in radians."""

    kind: int
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool

    @property
    def concept(self) -> Concept:
        return OBJECTS[self.kind]

    @property
    def size(self) -> Literal["big", "small"] | None:
        return "big" if self.radius > 26 else "small" if self.radius < 17 else None


@dataclass(frozen=True)
class Scene:
    """The contents of a scene. ``backgrounds`` index ``BACKGROUNDS``; the first lies above (or left of) the second."""

    seed: int
    aspect: float
    backgrounds: tuple[int, ...]
    vertical: bool  # the boundary between two backgrounds runs from top to bottom
    boundary: float  # where, as a share of the height (width)
    things: tuple[Thing, ...]  # painted in this order


@dataclass(frozen=True)
class Rendered:
    """A drawn scene."""

    image: Array  # (H, W, 3) uint8, RGB
    labels: Array  # (H, W) uint8, index into ``CLASSES``
    regions: Array  # (H, W) uint8, 0 and 1 for the backgrounds, 2 + i for thing i


def sample_scene(
    seed: int, *, aspect: float = 1.0, held_out: bool | Literal["all"] = False, things: int | None = None
) -> Scene:
    """Sample a scene from a seed.

    Args:
        seed: any non-negative integer; the same seed gives the same scene.
        aspect: width / height.
        held_out: True paints one object in a colour that no training scene gives it; "all" paints every object so.
        things: number of objects; None draws 1 to 4.
    """
    rng = np.random.default_rng([seed, 11])
    count = 1 if rng.random() < 0.2 else 2
    backgrounds = tuple(int(i) for i in rng.choice(len(BACKGROUNDS), count, replace=False))
    number = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15])) if things is None else things
    placed: list[Thing] = []
    for _ in range(number):
        kind = int(rng.integers(len(OBJECTS)))
        radius = float(rng.uniform(18, 34) if number < 3 else rng.uniform(16, 27))
        best, place = -math.inf, (0.0, 0.0)
        for _ in range(12):  # take the position that overlaps the others least
            x = float(rng.uniform(radius * 0.6, UNITS * aspect - radius * 0.6))
            y = float(rng.uniform(radius * 0.6, UNITS - radius * 0.6))
            gap = min((math.hypot(x - o.x, y - o.y) - radius - o.radius for o in placed), default=1.0)
            if gap > best:
                best, place = gap, (x, y)
            if gap > 0:
                break
        unseen = held_out == "all" or (held_out and not placed)
        colour = str(rng.choice(OBJECTS[kind].held_out_colours if unseen else OBJECTS[kind].colours))
        angle = float(rng.normal(0, 0.16))
        placed.append(Thing(kind, colour, *place, radius, angle, bool(rng.random() < 0.5)))
    return Scene(seed, aspect, backgrounds, bool(rng.random() < 0.3), float(rng.uniform(0.3, 0.7)), tuple(placed))


def render(
    scene: Scene, height: int = 96, *, supersample: int = 2, noise: float = 0.015,
    camera: tuple[float, float] = (0.0, 0.0), grain: int | None = None,
) -> Rendered:  # fmt: skip
    """Draw a scene ``height`` pixels high and ``round(height * aspect)`` wide.

    Args:
        supersample: samples per pixel and axis. The image is their mean, the labels are the middle sample.
        noise: standard deviation of the pixel noise, on the 0..1 scale.
        camera: (x, y) of the upper left corner of what is seen, in scene units.
        grain: seed of the pixel noise, for the frames of a film; None: the noise of the still.
    """
    width = round(height * scene.aspect)
    rng = np.random.default_rng([scene.seed, 12])
    unit = UNITS / (height * supersample)
    rows, columns = (np.arange(size * supersample, dtype=np.float32) for size in (height, width))
    y, x = np.meshgrid((rows + 0.5) * unit, (columns + 0.5) * unit, indexing="ij")
    canvas, regions = _paint_backgrounds(scene, x + np.float32(camera[0]), y + np.float32(camera[1]), rng)
    for region, thing in enumerate(scene.things, start=2):
        seen = replace(thing, x=thing.x - camera[0], y=thing.y - camera[1])
        _paint_thing(seen, canvas, regions, region, unit, rng)

    canvas = canvas.reshape(height, supersample, width, supersample, 3).mean(axis=(1, 3))
    canvas = (canvas - 0.5) * rng.uniform(0.9, 1.1) + 0.5 + rng.uniform(-0.05, 0.05)
    grains = rng if grain is None else np.random.default_rng([scene.seed, 14, grain])
    canvas = canvas + grains.normal(0, noise, canvas.shape)
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    middle = slice(supersample // 2, None, supersample)
    regions = regions[middle, middle].copy()
    objects = [len(BACKGROUNDS) + thing.kind for thing in scene.things]
    classes = [scene.backgrounds[0], scene.backgrounds[-1], *objects]  # of each region
    return Rendered(image, np.asarray(classes, dtype=np.uint8)[regions], regions)


def _paint_backgrounds(scene: Scene, x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    canvas = BACKGROUND_TEXTURES[scene.backgrounds[0]](x, y, rng)
    regions = np.zeros(x.shape, dtype=np.uint8)
    if len(scene.backgrounds) == 2:
        along, across = (y, x / scene.aspect) if scene.vertical else (x, y)
        phase, wave = rng.uniform(0, 6, 2), rng.uniform([20, 8], [40, 15])
        curve = 2.5 * np.sin(along / wave[0] + phase[0]) + 1.0 * np.sin(along / wave[1] + phase[1])
        second = across > scene.boundary * UNITS + curve
        regions[second] = 1
        canvas = np.where(second[..., None], BACKGROUND_TEXTURES[scene.backgrounds[1]](x, y, rng), canvas)
    return canvas.astype(np.float32), regions


def _paint_thing(
    thing: Thing, canvas: Array, regions: Array, region: int, unit: float, rng: np.random.Generator
) -> None:
    rows, columns = regions.shape
    reach = thing.radius * 1.5
    top, bottom = max(0, int((thing.y - reach) / unit)), min(rows, int((thing.y + reach) / unit) + 1)
    left, right = max(0, int((thing.x - reach) / unit)), min(columns, int((thing.x + reach) / unit) + 1)
    dy = ((np.arange(top, bottom) + 0.5) * unit - thing.y)[:, None] / thing.radius
    dx = ((np.arange(left, right) + 0.5) * unit - thing.x) / thing.radius
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    if thing.mirrored:
        x = -x

    own = np.clip(np.asarray(COLOURS[thing.colour]) * rng.uniform(0.9, 1.1) + rng.normal(0, 0.02, 3), 0, 1)
    pale = 0.25 * own + 0.75 * np.array([0.96, 0.94, 0.88])
    dark = own * 0.55
    bright = own.mean() > 0.7
    pairs = {  # the two colours of the texture
        "own": (own, own * 0.45 if bright else 0.2 * own + 0.8),
        "dark": (dark, dark * 0.4 if bright else 0.5 * dark + 0.4),
        "pale": (pale, 0.5 * own + 0.2),
    }
    texture = OBJECT_TEXTURES[thing.concept.name](x, y, rng)
    window = (slice(top, bottom), slice(left, right))
    whole = np.zeros(x.shape, dtype=bool)
    for layer in SHAPES[thing.concept.name]:
        outlines = layer.alternative if layer.alternative and rng.random() >= 0.5 else layer.outlines
        mask = np.any([inside(x, y) for inside in outlines], axis=0)
        first, second = pairs[layer.paint] if isinstance(layer.paint, str) else (layer.paint, layer.paint)
        canvas[window][mask] = mix(first, second, texture)[mask]
        whole |= mask
    if not whole.any():
        return
    thickness = max(3, 2 * round(0.5 / unit) + 1)
    inner = np.asarray(Image.fromarray(whole).convert("L").filter(ImageFilter.MinFilter(thickness))) > 0
    canvas[window][whole & ~inner] = (0.07, 0.06, 0.07)
    regions[window][whole] = region
