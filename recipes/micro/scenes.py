"""Step 1 of the embedded model: draw the training scenes and write their captions.

    python recipes/micro/scenes.py --work build/micro --count 16000

Writes images.npy (N, 96, 96, 3) uint8, labels.npy and regions.npy (N, 96, 96) uint8 and captions.json (N lists).
Labels and regions are only for measuring: training does not read them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path

import numpy as np

from talk2dino.world import render, sample_scene, write_captions


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    scene = sample_scene(seed)
    rendered = render(scene)
    return rendered.image, rendered.labels, rendered.regions, write_captions(scene, rendered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/micro"))
    parser.add_argument("--count", type=int, default=16000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    images = np.empty((options.count, 96, 96, 3), dtype=np.uint8)
    labels = np.empty((options.count, 96, 96), dtype=np.uint8)
    regions = np.empty_like(labels)
    captions: list[list[str]] = []
    with multiprocessing.Pool(options.processes) as pool:
        for i, (image, label, region, lines) in enumerate(pool.imap(draw, range(options.count), chunksize=50)):
            images[i], labels[i], regions[i] = image, label, region
            captions.append(lines)
    np.save(options.work / "images.npy", images)
    np.save(options.work / "labels.npy", labels)
    np.save(options.work / "regions.npy", regions)
    (options.work / "captions.json").write_text(json.dumps(captions, ensure_ascii=False), encoding="utf-8")
    print(f"{options.count} scenes in {options.work}")


if __name__ == "__main__":
    main()
