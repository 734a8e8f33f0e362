"""Write the bundled images as files: scenes of the procedural world that were not used in training.

python examples/draw_pictures.py
"""

from pathlib import Path

from talk2dino.world.examples import EXAMPLES, example_png

for name in EXAMPLES:
    (Path(__file__).parent / "pictures" / f"{name}.png").write_bytes(example_png(name))
