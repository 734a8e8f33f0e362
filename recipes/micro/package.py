"""Step 5 of the embedded model: write the towers and psi to one folder, in float16, in the published layout.

python recipes/micro/package.py --work build/micro --out src/talk2dino/assets/micro
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from talk2dino import Segmenter
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.hub_towers import clip_image_from_hub, clip_text_from_hub, vision_from_hub
from talk2dino.models.loading import Parts
from talk2dino.models.projection import load_projection
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vision import VisionModel

#: The bare name: on validation scenes, averaging over sentences gained nothing, and sentences unseen in training cost accuracy.
TEMPLATES = ("{}",)


def load_towers(work: Path) -> Parts:
    """The trained towers with their tokenizer, without psi."""
    text = clip_text_from_hub("clip", (work / "clip").joinpath)
    image = clip_image_from_hub("clip", (work / "clip").joinpath)
    vision = VisionModel(vision_from_hub("vision", (work / "vision").joinpath))
    config = SegmenterConfig(
        "micro", size=128, threshold=None, templates=TEMPLATES, heads=6, text_heads=3, clip_vision_heads=5,
        text_activation="gelu", tokenizer="tokenizer.json", source={"embedded": "trained by recipes/micro on procedural scenes"},
    )  # fmt: skip
    tokenizer = TextTokenizer.from_file(work / "tokenizer.json", text.config.context)
    return Parts(vision, TextEncoder(text, tokenizer, TEMPLATES), None, config, image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/micro"))
    parser.add_argument("--out", type=Path, default=Path("src/talk2dino/assets/micro"))
    options = parser.parse_args()

    parts = load_towers(options.work)
    parts.projection = load_projection(options.work / "projection")
    settings = options.work / "settings.json"  # tuned by projection.py on validation scenes: threshold, size
    if settings.is_file():
        parts.config = replace(parts.config, **json.loads(settings.read_text()))
    segmenter = Segmenter(parts, device="cpu", dtype="float32")
    for module in (segmenter.vision, segmenter.text, segmenter.projection, segmenter.clip_vision):
        module.to(torch.float16)
    segmenter.save_pretrained(options.out)
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
