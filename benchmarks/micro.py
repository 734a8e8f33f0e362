"""The embedded model on 300 held-out scenes: every figure of its model card, from one command.

    python benchmarks/micro.py [--scenes 300] [--json figures.json]

All 16 class names are prompted at once, per-pixel argmax, no refinement, float32. Scene seeds start at 10,000,000;
training used seeds below 16,000.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from talk2dino import Segmenter
from talk2dino.evaluation.world import PROMPT_VARIANTS, WorldFigures, evaluate_world, held_out_seeds, world_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    seeds = held_out_seeds(options.scenes)
    segmenter = Segmenter.from_pretrained(options.model, device="cpu", dtype="float32")
    rows: dict[str, WorldFigures] = {}

    def measure(title: str, run: Callable[[], WorldFigures]) -> None:
        rows[title] = figures = run()
        values = (figures.miou, figures.backgrounds, figures.objects)
        print(f"{title:<34}" + "".join(f"{100 * value:>10.1f}" for value in values), flush=True)

    print(
        f"{options.scenes} scenes, model {segmenter.name}\n{'mIoU in %':<34}{'all':>10}{'grounds':>10}{'objects':>10}"
    )
    measure("class names", lambda: evaluate_world(segmenter, seeds))
    measure("one object in a held-out colour", lambda: evaluate_world(segmenter, seeds, held_out=True))
    measure("every object in a held-out colour", lambda: evaluate_world(segmenter, seeds, held_out="all"))
    for variant in PROMPT_VARIANTS[1:]:
        measure(f"prompts: {variant}", lambda v=variant: evaluate_world(segmenter, seeds, prompts=world_prompts(v)))
    measure("refined (PAMR)", lambda: evaluate_world(segmenter, seeds, refine=True))
    dense = segmenter.with_method("clip-dense")
    measure("dense CLIP of the same model", lambda: evaluate_world(dense, seeds))
    lost = {t: rows["class names"].miou - f.miou for t, f in rows.items() if t.startswith("prompts")}
    worst = max(lost, key=lost.__getitem__)
    print(
        f"\nahead of dense CLIP by {100 * (rows['class names'].miou - rows['dense CLIP of the same model'].miou):.1f} points"
    )
    print(f"most lost by other wording: {100 * lost[worst]:.1f} points ({worst})")
    print("per class: " + ", ".join(f"{n} {100 * v:.0f}" for n, v in zip(*_classes(rows["class names"]), strict=True)))
    if options.json:
        options.json.write_text(json.dumps({title: figures.as_dict() for title, figures in rows.items()}, indent=2))


def _classes(figures: WorldFigures) -> tuple[list[str], np.ndarray]:
    from talk2dino.world import CLASS_NAMES

    return list(CLASS_NAMES), np.asarray(figures.metrics.iou)


if __name__ == "__main__":
    main()
