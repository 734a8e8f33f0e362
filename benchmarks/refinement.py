"""Refinement of one 448 x 448 window: the published formulation, the plain stage and the fast stage, in one run.

python benchmarks/refinement.py [--classes 20 150] [--repeats 5] [--json figures.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.speed.refinement import pamr, random_maps
from talk2dino.stages.refine import refine, refine_plain


def seconds(run: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median seconds of ``repeats`` calls, and the last result."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150])
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--repeats", type=int, default=5, help="of the fast stage; the others run once [5]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.size} x {options.size}")
    for classes in options.classes:
        masks, pixels = random_maps(classes, options.size)
        first, _ = seconds(partial(refine, masks, pixels), 1)
        fast, result = seconds(partial(refine, masks, pixels), options.repeats)
        plain, _ = seconds(partial(refine_plain, masks, pixels), 1)
        published, expected = seconds(partial(pamr, masks, pixels), 1)
        row = {
            "classes": classes, "published_s": published, "plain_s": plain, "fast_s": fast, "first_call_s": first,
            "published_over_fast": published / fast, "max_difference": (result - expected).abs().max().item(),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{classes} classes: published {published:.2f} s, plain {plain:.2f} s, fast {fast:.3f} s (first call "
            f"{first:.2f} s), published / fast {published / fast:.1f}, largest difference {row['max_difference']:.1e}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
