"""The bundled images: scenes that were not used in training, drawn on first use."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from talk2dino.world.scene import render, sample_scene


@dataclass(frozen=True)
class Example:
    """A bundled image: the seed of its scene, and prompts that suit it."""

    name: str
    seed: int
    prompts: str
    width: int = 480
    height: int = 360


#: Chosen among forty scenes for varied backgrounds and objects; micro labels 90 to 95 % of their pixels right.
EXAMPLES = {
    one.name: one
    for one in (
        Example("beach", 20_000_026, "grass, sand, tree, car, mushroom"),
        Example("harbour", 20_000_034, "water, grass, boat, ball, mushroom"),
        Example("garden", 20_000_028, "grass, water, house, tree, mushroom"),
        Example("dunes", 20_000_010, "sand, boat, ball, mushroom"),
    )
}


@lru_cache(maxsize=8)
def example_png(name: str) -> bytes:
    """A bundled image as a PNG file."""
    one = EXAMPLES[name]
    scene = sample_scene(one.seed, aspect=one.width / one.height, things=3)
    content = io.BytesIO()
    Image.fromarray(render(scene, one.height).image).save(content, "PNG", optimize=True)
    return content.getvalue()
