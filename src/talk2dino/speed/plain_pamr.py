"""The plain formulation of PAMR: the reference for what the refinement stage computes and for what it saves.

Dilated convolutions gather copies of all 48 neighbours, ten times over, classes in chunks of 30, as in the published
pipelines. Written from the formula (see :mod:`talk2dino.stages.refine`); only benchmarks and tests use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 30
DILATIONS = (1, 2, 4, 8, 12, 24)


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
