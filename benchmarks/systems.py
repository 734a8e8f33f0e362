"""The four systems on 300 held-out scenes, cleaning and refinement on and off: one table and two pictures.

    python benchmarks/systems.py --out build/systems

All systems use the towers of one model (micro). FreeDA's prototypes come from 2,000 training scenes with their masks
(seeds 500,000 to 501,999, which the embedded model was not trained on); it is also shown with its local part alone.
Dense CLIP is shown in its three variants; DINO's clusters in both ways of matching them to classes. What was finished is
kept: a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

from talk2dino.evaluation.compare import (
    compare_benchmark,
    comparison_cases,
    comparison_chart,
    comparison_markdown,
    comparison_table,
    wrap_all,
)
from talk2dino.evaluation.report import versions
from talk2dino.methods import method_names
from talk2dino.methods.prototype_build import FIRST_WORLD_SEED, build_prototypes, world_source
from talk2dino.segmenter import Segmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--prototype-scenes", type=int, default=2000)
    parser.add_argument("--held-out", choices=("one", "all"), help="objects in colours that training never showed")
    parser.add_argument("--out", type=Path, default=Path("build/systems"))
    options = parser.parse_args()
    started = time.time()

    segmenter = Segmenter.from_pretrained(options.model, dtype="float32")
    scenes = range(FIRST_WORLD_SEED, FIRST_WORLD_SEED + options.prototype_scenes)
    folder = options.out / "prototypes"
    count = build_prototypes(
        segmenter.towers, world_source(scenes), folder, what=f"world, seeds {scenes[0]} to {scenes[-1]}"
    )
    systems = wrap_all(segmenter, list(method_names()), {}, folder)
    for variant in ("residual", "patches"):
        systems[f"clip-dense:variant={variant}"] = segmenter.with_method("clip-dense", variant=variant)
    systems["freeda:local_weight=1"] = segmenter.with_method("freeda", prototypes=folder, local_weight=1)

    base = {
        "benchmark": "world", "model": segmenter.name, "limit": None if options.scenes == 300 else options.scenes,
        "held_out": options.held_out, "dtype": "float32",
    }  # fmt: skip
    rows = compare_benchmark(systems, base, out=options.out, progress=_tell)
    (options.out / "comparison.md").write_text(comparison_markdown(rows), encoding="utf-8")
    (options.out / "comparison.json").write_text(json.dumps(comparison_table(rows), indent=1), encoding="utf-8")
    comparison_chart(rows).save(options.out / "comparison.png")
    shown = {name: system for name, system in systems.items() if "=" not in name}
    comparison_cases(shown, base, rows, count=6).save(options.out / "pictures.png")

    print(comparison_markdown(rows))
    print(f"{count} prototypes; {time.time() - started:.0f} s with {torch.get_num_threads()} threads")
    print(f"{platform.processor() or platform.machine()}, {versions()}")


def _tell(name: str, done: int, total: int, metrics) -> None:
    if done == total:
        print(f"{name}: mIoU {100 * metrics.miou:.1f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
