"""Refinement of one 448 x 448 window: the published formulation, the plain stage and the fast stage, in one run.

python benchmarks/refinement.py [--classes 20 150] [--repeats 5] [--json figures.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from talk2dino.speed.plain_pamr import pamr
from talk2dino.stages.refine import refine, refine_plain


def seconds(run: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median seconds of a call, and its result."""
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
    parser.add_argument("--repeats", type=int, default=5, help="of the fast stage; the others run once")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.size} x {options.size}")
    for classes in options.classes:
        generator = torch.Generator().manual_seed(classes)
        masks = torch.rand(1, classes, options.size, options.size, generator=generator)
        pixels = torch.rand(1, 3, options.size, options.size, generator=generator) * 255
        first, _ = seconds(lambda m=masks, p=pixels: refine(m, p), 1)
        fast, result = seconds(lambda m=masks, p=pixels: refine(m, p), options.repeats)
        plain, _ = seconds(lambda m=masks, p=pixels: refine_plain(m, p), 1)
        published, expected = seconds(lambda m=masks, p=pixels: pamr(m, p), 1)
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
