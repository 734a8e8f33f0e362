"""What `make demo` runs: segment bundled pictures with words, with and without background and refinement.

python examples/demo.py --out demo_out [--model micro]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from talk2dino import Segmenter
from talk2dino.io.images import read_image

PICTURES = Path(__file__).parent / "pictures"
ENGLISH = [
    "sky", "grass", "water", "sand", "brick wall", "wood floor", "night sky", "road",
    "ball", "box", "tree", "house", "fish", "mushroom", "car", "boat",
]  # fmt: skip
CHINESE = [
    "天空",
    "草地",
    "水面",
    "沙地",
    "砖墙",
    "木地板",
    "夜空",
    "马路",
    "球",
    "箱子",
    "树",
    "房子",
    "鱼",
    "蘑菇",
    "汽车",
    "船",
]
OBJECTS = ENGLISH[8:]

#: title of the run -> prompts and options of Segmenter.segment
RUNS = {
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
    print(
        "micro is a stand-in trained on drawings, so that everything runs offline; it knows nothing of photographs.\n"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(PICTURES.glob("*.png")):
        picture = read_image(path)
        features = segmenter.encode_image(picture)  # encode once ...
        for title, (prompts, settings) in RUNS.items():  # ... ask often
            [result] = segmenter.decode(features, segmenter.encode_text(prompts), **settings)
            target = options.out / f"{path.stem}.{title}.png"
            result.overlay(picture.array).save(target)
            shares = ", ".join(
                f"{name} {100 * share:.1f} %" for name, share in result.shares().items() if share >= 0.005
            )
            print(f"{target}\n    {shares}")
    print(f"\noverlays are in {options.out}/ ({time.perf_counter() - started:.1f} s in all)")


if __name__ == "__main__":
    main()
