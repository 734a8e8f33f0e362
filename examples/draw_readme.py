"""Draw the README's image: four demo scenes, segmented by micro with English words, Chinese words, and objects only.

python examples/draw_readme.py
"""

from pathlib import Path

from demo import CHINESE, ENGLISH, IMAGES, OBJECTS
from PIL import Image

from talk2dino import Segmenter
from talk2dino.io.legend import draw_grid

segmenter = Segmenter.from_pretrained("micro")
tiles = []
for name, prompts, options in (
    ("beach", ENGLISH, {}), ("harbour", CHINESE, {}), ("garden", ENGLISH, {}), ("dunes", OBJECTS, {"background": True}),
):  # fmt: skip
    image = Image.open(IMAGES / f"{name}.png")
    result = segmenter.segment(image, prompts, refine=True, **options)
    tiles += [
        (name, image),
        ("16 prompts" if len(prompts) == 16 else "8 prompts and a background", result.overlay(image)),
    ]
grid = draw_grid(tiles, columns=4)
grid.thumbnail((1600, 1600))
grid.convert("RGB").quantize(192).save(Path(__file__).parents[1] / "docs" / "demo.png", optimize=True)
