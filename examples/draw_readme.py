"""Draw the README's picture: two demo scenes, what micro says with English words, Chinese words, and objects only.

python examples/draw_readme.py
"""

from pathlib import Path

from demo import CHINESE, ENGLISH, OBJECTS, PICTURES
from PIL import Image

from talk2dino import Segmenter
from talk2dino.io.legend import draw_grid

segmenter = Segmenter.from_pretrained("micro")
tiles = []
for name, prompts, options in (
    ("beach", ENGLISH, {}), ("harbour", CHINESE, {}), ("garden", ENGLISH, {}), ("dunes", OBJECTS, {"background": True}),
):  # fmt: skip
    picture = Image.open(PICTURES / f"{name}.png")
    result = segmenter.segment(picture, prompts, refine=True, **options)
    tiles += [
        (name, picture),
        ("16 prompts" if len(prompts) == 16 else "8 prompts and a background", result.overlay(picture)),
    ]
grid = draw_grid(tiles, columns=4)
grid.thumbnail((1600, 1600))
grid.convert("RGB").quantize(192).save(Path(__file__).parents[1] / "docs" / "demo.png", optimize=True)
