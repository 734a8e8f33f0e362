"""The embedded model on 300 held-out scenes: every figure of its model card, from one command.

    python benchmarks/micro.py [--scenes 300] [--json figures.json]

All 16 class names are prompted at once, per-pixel argmax, no refinement, float32. Scene seeds start at 10,000,000;
training used seeds below 16,000.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from talk2dino import Segmenter
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.report import EvaluationReport
from talk2dino.evaluation.runs import evaluate
from talk2dino.evaluation.world import PROMPT_VARIANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    segmenter = Segmenter.from_pretrained(given.model, device="cpu", dtype="float32")
    rows: dict[str, EvaluationReport] = {}

    def measure(title: str, **options: object) -> None:
        asked = EvaluationOptions(benchmark="world", limit=given.scenes, **options)
        rows[title] = report = evaluate(asked, segmenter=segmenter).reports[0]
        values = (100 * report.metrics.miou, report.details["background_miou"], report.details["object_miou"])
        print(f"{title:<34}" + "".join(f"{value:>10.1f}" for value in values), flush=True)

    print(f"{given.scenes} scenes, model {segmenter.name}\n{'mIoU in %':<34}{'all':>10}{'grounds':>10}{'objects':>10}")
    measure("class names")
    measure("one object in a held-out colour", held_out="one")
    measure("every object in a held-out colour", held_out="all")
    for variant in PROMPT_VARIANTS[1:]:
        measure(f"prompts: {variant}", prompts=variant)
    measure("refined (PAMR)", refine=True)
    measure("dense CLIP of the same model", method="clip-dense")

    miou = {title: 100 * report.metrics.miou for title, report in rows.items()}
    lost = {title: miou["class names"] - value for title, value in miou.items() if title.startswith("prompts")}
    worst = max(lost, key=lost.__getitem__)
    metrics = rows["class names"].metrics
    print(f"\nahead of dense CLIP by {miou['class names'] - miou['dense CLIP of the same model']:.1f} points")
    print(f"most lost by other wording: {lost[worst]:.1f} points ({worst})")
    print("per class: " + ", ".join(f"{n} {100 * v:.0f}" for n, v in zip(metrics.names, metrics.iou, strict=True)))
    if given.json:
        values = {title: report.metrics.as_dict() | report.details for title, report in rows.items()}
        given.json.write_text(json.dumps(values, indent=2))


if __name__ == "__main__":
    main()
