"""PAMR against its plain formulation: the ratio of their times, and the largest difference of their results.

In the plain formulation, dilated convolutions gather copies of all 48 neighbours, ten times over, classes in chunks of 30, as
in the published pipelines. It is written from the formula (see :mod:`talk2dino.stages.refine`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.speed.clocks import ratio, take_turns
from talk2dino.speed.figures import Figure
from talk2dino.speed.plan import Plan
from talk2dino.stages.refine import refine

#: Turns with at most one chunk of classes, and with more: then the plain formulation takes half a minute.
TURNS, TURNS_OF_MANY = 3, 2
CHUNK = 30
DILATIONS = (1, 2, 4, 8, 12, 24)


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


def gather(maps: Tensor, dilations: Sequence[int], *, centre: float, ring: float, keep_centre: bool = False) -> Tensor:
    """(B, C, H, W) to (B, C, K, H, W): ring * neighbour + centre * pixel, one dilated 3 x 3 convolution per dilation.

    With ``keep_centre`` the pixel itself is a ninth value of every dilation.
    """
    b, c, h, w = maps.shape
    kernel = maps.new_zeros(9, 1, 3, 3)
    kernel[:, 0, 1, 1] = centre
    for position in range(9):
        kernel[position, 0, position // 3, position % 3] += ring
    if not keep_centre:
        kernel = kernel[[0, 1, 2, 3, 5, 6, 7, 8]]
    flat = maps.reshape(b * c, 1, h, w)
    rings = [F.conv2d(F.pad(flat, [d] * 4, mode="replicate"), kernel, dilation=d) for d in dilations]
    return torch.cat(rings, 1).view(b, c, -1, h, w)


def pamr(masks: Tensor, pixels: Tensor, *, iterations: int = 10, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """(B, N, H, W) float32 masks and (B, 3, H, W) pixels to (B, N, H, W)."""
    return torch.cat([_chunk(chunk, pixels, iterations, dilations) for chunk in masks.split(CHUNK, 1)], 1)


def _chunk(masks: Tensor, pixels: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    distance = gather(pixels, dilations, centre=1, ring=-1).abs()
    deviation = gather(pixels, dilations, centre=0, ring=1, keep_centre=True).std(2, keepdim=True)
    affinity = (-distance / (1e-8 + 0.1 * deviation)).mean(1, keepdim=True).softmax(2)
    for _ in range(iterations):
        masks = (gather(masks, dilations, centre=0, ring=1) * affinity).sum(2)
    return masks
