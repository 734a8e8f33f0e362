"""PAMR against its plain formulation: the ratio of their times, and the largest difference of their results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from talk2dino.speed.clocks import ratio, take_turns
from talk2dino.speed.figures import Figure
from talk2dino.speed.plain_pamr import CHUNK, pamr
from talk2dino.speed.plan import Plan
from talk2dino.stages.refine import refine

#: Turns with at most one chunk of classes, and with more: then the plain formulation takes half a minute.
TURNS, TURNS_OF_MANY = 3, 2


def refinement(plan: Plan) -> Iterator[Figure]:
    """Both in turns, after one unmeasured call of ours and of one chunk of the plain formulation."""
    size = plan.options.refined_size
    for classes in plan.options.plain_classes:
        masks, pixels = (tensor.to(plan.device) for tensor in random_maps(classes, size))
        turns = TURNS if classes <= CHUNK else TURNS_OF_MANY
        results: dict[str, Tensor] = {}
        works = {name: partial(_run, results, name, masks, pixels) for name in ("plain", "ours")}
        with torch.inference_mode():
            pamr(masks[:, :CHUNK], pixels)
            refine(masks, pixels)
            times = take_turns(works, turns, plan.device, warm=False)
        difference = (results["plain"] - results["ours"]).abs().max().item()
        settings: dict[str, str | int] = {"dtype": "float32", "classes": classes}
        yield Figure(
            "refinement", "plain formulation / ours", ratio(times, "plain", "ours"), "x",
            (">=", 60.0) if plan.device.type == "cpu" and size == 448 else None, settings,
            f"{statistics.median(times['plain']):.2f} s and {statistics.median(times['ours']):.3f} s, medians of {turns} turns",
        )  # fmt: skip
        yield Figure(
            "refinement", "largest difference from the plain formulation", difference, "", ("<=", 1e-4), settings
        )


def _run(results: dict[str, Tensor], name: str, masks: Tensor, pixels: Tensor) -> None:
    results[name] = pamr(masks, pixels) if name == "plain" else refine(masks, pixels)


def random_maps(classes: int, size: int) -> tuple[Tensor, Tensor]:
    """(1, N, size, size) masks and (1, 3, size, size) pixels of noise, the worst case for refinement."""
    generator = torch.Generator().manual_seed(classes)
    masks = torch.rand(1, classes, size, size, generator=generator)
    return masks, torch.rand(1, 3, size, size, generator=generator) * 255
