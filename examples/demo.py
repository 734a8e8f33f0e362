"""The demo of `make demo`: segment bundled images with words, with and without background and refinement.

python examples/demo.py --out demo_out [--model micro]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from talk2dino import Segmenter
from talk2dino.io.images import read_image

IMAGES = Path(__file__).parent / "pictures"
ENGLISH = [
    "sky", "grass", "water", "sand", "brick wall", "wood floor", "night sky", "road",
    "ball", "box", "tree", "house", "fish", "mushroom", "car", "boat",
]  # fmt: skip
CHINESE = [
    "天空", "草地", "水面", "沙地", "砖墙", "木地板", "夜空", "马路",
    "球", "箱子", "树", "房子", "鱼", "蘑菇", "汽车", "船",
]  # fmt: skip
OBJECTS = ENGLISH[8:]

#: Title of a run -> prompts, and arguments of Segmenter.decode.
RUNS: dict[str, tuple[list[str], dict[str, bool]]] = {
    "english": (ENGLISH, {}),
    "english-refined": (ENGLISH, {"refine": True}),
    "chinese-refined": (CHINESE, {"refine": True}),
    "objects-background": (OBJECTS, {"background": True}),
    "objects-background-refined": (OBJECTS, {"background": True, "refine": True}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo_out"))
    parser.add_argument("--model", default="micro")
    options = parser.parse_args()

    started = time.perf_counter()
    segmenter = Segmenter.from_pretrained(options.model)
    print(f"model {segmenter.name}: {segmenter.config.source} ({time.perf_counter() - started:.1f} s to load)")
    if segmenter.name == "micro":
        print("micro was trained on drawn scenes, so that everything runs offline; it does not know photographs.")
    options.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(IMAGES.glob("*.png")):
        image = read_image(path)
        features = segmenter.encode_image(image)  # encode once ...
        for title, (prompts, settings) in RUNS.items():  # ... ask often
            [result] = segmenter.decode(features, segmenter.encode_text(prompts), **settings)
            target = options.out / f"{path.stem}.{title}.png"
            result.overlay(image.array).save(target)
            shares = [f"{name} {100 * share:.1f} %" for name, share in result.shares().items() if share >= 0.005]
            print(f"{target}\n    {', '.join(shares)}")
    print(f"overlays are in {options.out}/ ({time.perf_counter() - started:.1f} s in total)")


if __name__ == "__main__":
    main()
