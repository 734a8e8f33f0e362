"""Step 4 of the embedded model: train psi on captions with the project's own alignment code, then tune the threshold.

    python recipes/micro/projection.py --work build/micro --strategy pairwise-max

Reads the two frozen towers and trains on captions, never on masks. Only the background threshold is tuned with masks, on
150 validation scenes (seeds from 5,000,000) that neither training nor the test uses.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from package import load_towers

from talk2dino import Segmenter
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.features.store import FeatureStore
from talk2dino.models.preprocess import normalise, resize_image, to_pixels
from talk2dino.models.projection import load_projection
from talk2dino.stages.pooling import pooled_features
from talk2dino.training.fit import train
from talk2dino.training.options import TrainOptions
from talk2dino.world import BACKGROUNDS, CLASS_NAMES, OBJECTS, render, sample_scene

VALIDATION_SEEDS = range(5_000_000, 5_000_150)


def extract(parts, work: Path, count: int, size: int) -> FeatureStore:
    """Head embeddings of ``count`` training scenes and raw embeddings of their captions, in memory."""
    images = np.load(work / "images.npy", mmap_mode="r")[:count]
    captions = json.loads((work / "captions.json").read_text(encoding="utf-8"))[: len(images)]
    vision = parts.vision.to(torch.bfloat16)
    pooled: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(images), 50):
        pixels = torch.stack([to_pixels(resize_image(image, (size, size))) for image in images[start : start + 50]])
        out = vision(normalise(pixels))
        features = pooled_features(out.patches.float(), out.attention.float(), out.cls.float())
        pooled.append({name: value.half() for name, value in features.items()})
    texts = [line for lines in captions for line in lines]
    owners = torch.tensor([i for i, lines in enumerate(captions) for _ in lines])
    embeddings = parts.text.embed(texts, truncate=True)
    vision.to(torch.float32)
    return FeatureStore.from_tensors({k: torch.cat([p[k] for p in pooled]) for k in pooled[0]}, embeddings, owners)


def tune_threshold(segmenter: Segmenter) -> tuple[float, float]:
    """The best (threshold, mIoU) when only objects are prompts and everything else is background."""
    names = ["background", *CLASS_NAMES[len(BACKGROUNDS) :]]
    objects = [concept.name for concept in OBJECTS]
    grid = np.round(np.arange(0.50, 0.70, 0.005), 3)
    matrices = {float(t): ConfusionMatrix(names) for t in grid}
    text = segmenter.encode_text(objects)
    for seed in VALIDATION_SEEDS:
        drawn = render(sample_scene(seed))
        truth = np.maximum(drawn.labels.astype(int) - (len(BACKGROUNDS) - 1), 0).astype(np.uint8)
        features = segmenter.encode_image(drawn.image)
        for threshold, matrix in matrices.items():
            matrix.update(segmenter.decode(features, text, background=threshold)[0].labels, truth)
    figures = {threshold: matrix.metrics().miou for threshold, matrix in matrices.items()}
    best = max(figures, key=figures.__getitem__)
    return best, figures[best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/micro"))
    parser.add_argument("--strategy", default="pairwise-max")
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", default="projection", help="folder of this psi below --work")
    options = parser.parse_args()

    started = time.time()
    parts = load_towers(options.work)
    store = extract(parts, options.work, options.count, options.size)
    print(f"features of {options.count} scenes: {time.time() - started:.0f} s", flush=True)
    config = TrainOptions(
        strategy=options.strategy, optimizer="adam", lr=1e-3, schedule="cosine", batch_size=128, max_steps=options.steps,
    )  # fmt: skip
    result = train(store, config, options.work / options.out, device="cpu")
    print(f"psi: {result.steps} steps, {result.metrics}", flush=True)
    parts.projection = load_projection(options.work / options.out)
    threshold, miou = tune_threshold(Segmenter(parts, device="cpu", dtype="float32"))
    print(f"background threshold {threshold} (objects and background on validation scenes: {100 * miou:.1f} mIoU)")
    source = {"embedded": "recipes/micro", "psi": options.strategy}
    settings = {"threshold": threshold, "size": options.size, "source": source}
    (options.work / "settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main()
