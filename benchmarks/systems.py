"""The four systems on 300 held-out scenes, cleaning and refinement on and off: one table and two images.

    python benchmarks/systems.py --out build/systems

All systems use the towers of one model (micro). FreeDA's prototypes come from 2,000 training scenes with their masks
(seeds 500,000 to 501,999, which the embedded model was not trained on) and are kept in the cache; FreeDA is also shown
with its local part alone. Dense CLIP is shown in its three variants, and DINO's clusters with both ways of matching them
to classes. A second call resumes the first one.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import torch

from talk2dino.evaluation.compare import compare_benchmark, draw_first_images
from talk2dino.evaluation.options import CompareOptions
from talk2dino.evaluation.report import versions
from talk2dino.evaluation.world import SCENE_COUNT
from talk2dino.io.atomic import save_png
from talk2dino.methods import method_names

VARIANTS = ("clip-dense:variant=residual", "clip-dense:variant=patches", "freeda:local_weight=1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--scenes", type=int, default=SCENE_COUNT)
    parser.add_argument("--prototype-scenes", type=int, default=2000)
    parser.add_argument("--held-out", choices=("one", "all"), help="objects in colours that training never showed")
    parser.add_argument("--out", type=Path, default=Path("build/systems"))
    given = parser.parse_args()
    started = time.time()

    options = CompareOptions(
        benchmark="world", systems=(*method_names(), *VARIANTS), model=given.model,
        limit=None if given.scenes == SCENE_COUNT else given.scenes, held_out=given.held_out,
        prototype_scenes=given.prototype_scenes, out=given.out,
    )  # fmt: skip
    result = compare_benchmark(options, progress=_report)
    save_png(draw_first_images(result.rows, 6, method_names()), given.out / "images.png")
    print(result.markdown())
    print(f"{time.time() - started:.0f} s with {torch.get_num_threads()} threads")
    print(f"{platform.processor() or platform.machine()}, {versions()}")


def _report(done: int, total: int, note: str = "") -> None:
    print(f"{done} of {total}: {note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
