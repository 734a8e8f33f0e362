"""Draw the demo's pictures again: scenes of the procedural world that no training used.

python examples/draw_pictures.py
"""

from pathlib import Path

from PIL import Image

from talk2dino.world import render, sample_scene

SCENES = {
    "beach": (20_000_026, 3),
    "harbour": (20_000_034, 3),
    "garden": (20_000_028, 3),
    "dunes": (20_000_010, 3),
}  # seed, things

# Picked among forty scenes so that backgrounds and objects vary; micro gets 90 to 95 % of their pixels right.
for name, (seed, things) in SCENES.items():
    scene = sample_scene(seed, aspect=4 / 3, things=things)
    Image.fromarray(render(scene, 360).image).save(Path(__file__).parent / "pictures" / f"{name}.png", optimize=True)
