"""What is measured: models of the published sizes with random weights, and images like photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from talk2dino.models.config import SegmenterConfig
from talk2dino.models.loading import Parts, load_parts
from talk2dino.models.projection import Projection
from talk2dino.models.text import TextEncoder
from talk2dino.models.tokenizer import TextTokenizer
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import TextTransformer, VisionTransformer, clip_text, dinov2_registers, randomise
from talk2dino.segmenter import Segmenter

#: name -> (width, blocks, heads). Speed does not depend on the weights.
RANDOM_MODELS = {"random-vits": (384, 12, 6), "random-vitb": (768, 12, 12), "random-vitl": (1024, 24, 16)}

#: Class names of the prompts; further names are numbered.
NAMES = ("person", "dog", "car", "tree", "house", "road", "sky", "grass", "boat", "chair", "table", "bird", "horse",
         "train", "sofa", "bottle", "plant", "screen", "bicycle", "cup")  # fmt: skip
#: Different photographs; further files are links to them.
PHOTOGRAPHS = 32


def random_parts(name: str) -> Parts:
    """DINOv2 with registers (patch 14), the text tower of CLIP ViT-B/16 and a psi between them, with random weights."""
    width, blocks, heads = RANDOM_MODELS[name]
    backbone = VisionTransformer(dinov2_registers(width, blocks, heads, 4 * width))
    text = TextTransformer(clip_text(512, 12, 8, 2048, vocabulary=49408, context=77, output=512))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        randomise(backbone)
        randomise(text)
        projection = Projection(512, width)
    encoder = TextEncoder(text, TextTokenizer.clip(), disk_cache=False)
    return Parts(VisionModel(backbone), encoder, projection, SegmenterConfig(name))


def check_model(model: str) -> None:
    """Raise now, not after minutes, if a model cannot be loaded."""
    if model not in RANDOM_MODELS:
        load_parts(model)


def load(model: str, **options: Any) -> Segmenter:
    """A Segmenter of a random or a real model; ``options`` are the Segmenter's."""
    if model in RANDOM_MODELS:
        return Segmenter(random_parts(model), **options)
    return Segmenter.from_pretrained(model, **options)


def run_vision(segmenter: Segmenter, pixels: torch.Tensor, times: int = 1) -> None:
    """The bare vision model on normalised (B, 3, H, W) pixels."""
    with torch.inference_mode():
        for _ in range(times):
            segmenter.towers.run_vision(pixels)


def class_names(count: int) -> list[str]:
    """``count`` different names."""
    return [NAMES[i] if i < len(NAMES) else f"{NAMES[i % len(NAMES)]} {i // len(NAMES)}" for i in range(count)]


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth shapes and some noise, so that its JPEG is about as large as a photograph's."""
    rng = np.random.default_rng(seed)
    rows = np.arange(height, dtype=np.float32)[:, None] / height * 5
    columns = np.arange(width, dtype=np.float32)[None] / width * 7
    image = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        shade = np.full((height, width), 128, np.float32)
        for _ in range(3):
            a, b, phase = rng.uniform(0.2, 3), rng.uniform(0.2, 3), rng.uniform(0, 6)
            shade += 35 * np.sin(a * rows + b * columns + phase)
        shade += rng.standard_normal((height, width), np.float32) * 9
        image[..., channel] = shade.clip(0, 255)
    return image


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (480, 640)) -> list[Path]:
    """``count`` JPEGs of (height, width) ``size`` in a folder, which is created."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{n:05d}.jpg" for n in range(count)]
    for n, path in enumerate(paths):
        if n < PHOTOGRAPHS:
            Image.fromarray(photograph(*size, seed=n)).save(path, quality=90)
        else:
            path.hardlink_to(paths[n % PHOTOGRAPHS])
    return paths
