"""PAMR against its plain formulation: how many times as fast, and how far apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from talk2dino.speed.figures import Figure, Plan
from talk2dino.speed.measure import ratio, take_turns
from talk2dino.speed.plain_pamr import CHUNK, pamr
from talk2dino.stages.refine import refine

#: Turns of the plain formulation; with more classes than one of its chunks it takes so long that there are fewer.
TURNS, TURNS_OF_MANY = 3, 2


def refinement(plan: Plan) -> Iterator[Figure]:
    """Both in turns, after one unmeasured call of ours and of one chunk of theirs, which is the shape that they work on."""
    size = plan.options.refined_size
    for classes in plan.options.plain_classes:
        generator = torch.Generator().manual_seed(classes)
        masks = torch.rand(1, classes, size, size, generator=generator).to(plan.device)
        pixels = (torch.rand(1, 3, size, size, generator=generator) * 255).to(plan.device)
        results: dict[str, torch.Tensor] = {}

        def plain(masks: torch.Tensor = masks, pixels: torch.Tensor = pixels, results: dict = results) -> None:
            results["plain"] = pamr(masks, pixels)

        def ours(masks: torch.Tensor = masks, pixels: torch.Tensor = pixels, results: dict = results) -> None:
            results["ours"] = refine(masks, pixels)

        turns = TURNS if classes <= CHUNK else TURNS_OF_MANY
        with torch.inference_mode():
            pamr(masks[:, :CHUNK], pixels)
            ours()
            times = take_turns({"plain": plain, "ours": ours}, turns, plan.device, warm=False)
        settings = {"dtype": "float32", "classes": classes}
        yield Figure(
            "refinement", "plain formulation / ours", ratio(times, "plain", "ours"), "x",
            (">=", 60.0) if plan.device.type == "cpu" and size == 448 else None, settings,
            f"{statistics.median(times['plain']):.2f} s and {statistics.median(times['ours']):.3f} s, medians of {turns} turns",
        )  # fmt: skip
        difference = (results["plain"] - results["ours"]).abs().max().item()
        yield Figure(
            "refinement", "largest difference from the plain formulation", difference, "", ("<=", 1e-4), settings
        )
