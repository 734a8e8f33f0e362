"""The vision model against the bound of the matrix product, and the whole path against the vision model."""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from talk2dino.errors import Talk2DinoError
from talk2dino.models.preprocess import normalise, to_pixels
from talk2dino.segmenter import Segmenter
from talk2dino.speed.clocks import matmul_rate, ratio, take_turns, vision_flops
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.plan import Pair, Plan
from talk2dino.speed.workload import class_names, measure_each, photograph, run_vision, write_photographs


def end_to_end(plan: Plan) -> Iterator[Figure | Note]:
    """Every model of the plan with every pair of dtype and engine, at every batch size."""
    return measure_each(plan, "pipeline", plan.models, _one)


def _one(plan: Plan, pair: Pair, segmenter: Segmenter) -> Iterator[Figure]:
    bound = matmul_rate(pair.dtype, plan.device)
    side = segmenter.method.size
    names = class_names(plan.options.classes)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), max(plan.batches), (side, side))
        for batch in plan.batches:
            pixels = torch.stack([to_pixels(photograph(side, side, seed=n)) for n in range(batch)])
            works: dict[str, Callable[[], None]] = {
                "vision": functools.partial(run_vision, segmenter, normalise(pixels.to(plan.device))),
                "whole": functools.partial(_segment, segmenter, paths[:batch], names, side, refine=False),
                "refined": functools.partial(_segment, segmenter, paths[:batch], names, side, refine=True),
            }
            if plan.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(plan.device)
            times = take_turns(works, plan.options.turns, plan.device)
            flops = vision_flops(segmenter.vision, side, side)
            yield from _figures(plan, segmenter.name, pair, batch, times, flops, bound)


def _segment(segmenter: Segmenter, paths: Sequence[Path], names: Sequence[str], side: int, *, refine: bool) -> None:
    """From JPEGs to labels. Checks that there are labels: a call that does nothing would seem fast."""
    results = segmenter.segment_batch(paths, names, refine=refine, batch_size=len(paths))
    if [result.labels.shape for result in results] != [(side, side)] * len(paths):
        raise Talk2DinoError(f"segmenting {len(paths)} images gave no labels; nothing was measured")


def _figures(
    plan: Plan, model: str, pair: Pair, batch: int, times: dict[str, list[float]], flops: int, bound: float
) -> Iterator[Figure]:
    settings = ({"model": model} if len(plan.models) > 1 else {}) | pair.settings | {"batch": batch}
    has_goals = model == "random-vitb" and plan.options.classes == 20
    alone, whole, refined = (statistics.median(times[name]) / batch for name in ("vision", "whole", "refined"))
    yield Figure("pipeline", "vision model", 1 / alone, "images/s", None, settings)
    yield Figure(
        "pipeline", "vision model / bound of the matrix product", alone * bound / flops, "x",
        ("<=", 2.0) if has_goals and pair.dtype == torch.bfloat16 else None, settings,
        f"{alone:.4g} s per image, {flops / 1e9:.0f} GFLOP at {bound / 1e9:.0f} GFLOP/s",
    )  # fmt: skip
    yield Figure(
        "pipeline", "JPEG to labels / vision model", ratio(times, "whole", "vision"), "x",
        ("<=", 1.15) if has_goals else None, settings, f"{whole:.4g} s per image",
    )  # fmt: skip
    yield Figure(
        "pipeline", "the same with refinement / vision model", ratio(times, "refined", "vision"), "x",
        ("<=", 1.8) if has_goals else None, settings, f"{refined:.4g} s per image",
    )  # fmt: skip
    if plan.device.type == "cuda":
        share = flops / (alone * bound)
        yield Figure("pipeline", "vision model, share of the matrix product's rate", share, "share", None, settings)
        spent = statistics.median(b - a for a, b in zip(times["whole"], times["refined"], strict=True))
        yield Figure("pipeline", "refinement per image", 1000 * spent / batch, "ms", None, settings)
        peak = torch.cuda.max_memory_allocated(plan.device)
        yield Figure("pipeline", "peak GPU memory in use", peak / 1e9, "GB", None, settings)
