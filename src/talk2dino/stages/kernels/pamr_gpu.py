"""PAMR on a CUDA GPU: one Triton kernel for the affinities, one that reads and writes the masks once an iteration.

The formulas stand in stages/refine.py. A program works on a run of pixels: a neighbour is an address, clamped to the
picture, so nothing is shifted, padded or copied. Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Pixels of a program, and classes that share one load of their affinities.
PIXELS = 128
CLASSES = 8


@triton.jit
def _neighbour(place, dy, dx, k, height, width):
    """Places of the k-th neighbours of some places; beyond the border lies the border pixel."""
    y = tl.minimum(tl.maximum(place // width + tl.load(dy + k), 0), height - 1)
    x = tl.minimum(tl.maximum(place % width + tl.load(dx + k), 0), width - 1)
    return y * width + x


@triton.jit
def _affinities(
    weights, pixels, dy, dx, height, width, neighbours: tl.constexpr, count: tl.constexpr, per_program: tl.constexpr
):
    """pixels (3, H, W) to weights (K, H, W), which add up to one over K."""
    size = height * width
    place = tl.program_id(0) * per_program + tl.arange(0, per_program)
    inside = place < size
    channel = tl.arange(0, 4)[:, None]  # a fourth one that stays 0: Triton's shapes are powers of two
    start, readable = pixels + channel * size, (channel < 3) & inside[None, :]
    own = tl.load(start + place[None, :], mask=readable, other=0.0)
    total, squares = tl.zeros_like(own), tl.zeros_like(own)
    for k in range(neighbours):
        near = _neighbour(place, dy, dx, k, height, width)
        difference = tl.load(start + near[None, :], mask=readable, other=0.0) - own
        total += difference
        squares += difference * difference
    deviation = tl.sqrt(tl.maximum(squares - total * total / count, 0.0) / (count - 1))
    scale = 1 / (3 * (1e-8 + 0.1 * deviation))
    # No maximum to subtract first: a mean distance is at most 31.5, by what the deviation is. Two passes over the
    # neighbours, the sum and then the shares, so that no value is read back that another thread may have written.
    everything = tl.zeros((per_program,), tl.float32)
    for k in range(neighbours):
        near = _neighbour(place, dy, dx, k, height, width)
        difference = tl.load(start + near[None, :], mask=readable, other=0.0) - own
        everything += tl.exp(-tl.sum(tl.abs(difference) * scale, 0))
    row = weights + place
    for k in range(neighbours):
        near = _neighbour(place, dy, dx, k, height, width)
        difference = tl.load(start + near[None, :], mask=readable, other=0.0) - own
        tl.store(row, tl.exp(-tl.sum(tl.abs(difference) * scale, 0)) / everything, mask=inside)
        row += size


@triton.jit
def _update(
    target, source, weights, dy, dx, classes, height, width,
    neighbours: tl.constexpr, per_program: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """One iteration: source (N, H, W) to target (N, H, W)."""
    size = height * width
    place = tl.program_id(0) * per_program + tl.arange(0, per_program)
    inside = place < size
    lane = tl.program_id(1) * lanes + tl.arange(0, lanes)
    start = lane[:, None].to(tl.int64) * size
    there = (lane < classes)[:, None] & inside[None, :]
    total = tl.zeros((lanes, per_program), tl.float32)
    row = weights + place
    for k in range(neighbours):
        near = _neighbour(place, dy, dx, k, height, width)
        weight = tl.load(row, mask=inside, other=0.0)
        total += weight[None, :] * tl.load(source + start + near[None, :], mask=there, other=0.0)
        row += size
    tl.store(target + start + place[None, :], total, mask=there)


def refine_gpu(masks: Tensor, pixels: Tensor, offsets: Sequence[tuple[int, int]], iterations: int) -> Tensor:
    """PAMR of (B, N, H, W) masks by (B, 3, H, W) pixels, both float32 on one GPU; iterations >= 1.

    ``offsets``: (dy, dx) of each neighbour, 8 a dilation. Memory beside the result: the affinities of one picture,
    4 K H W bytes, and one more copy of its masks.
    """
    classes, height, width = masks.shape[1:]
    steps = torch.tensor(offsets, dtype=torch.int32, device=masks.device)
    dy, dx = steps[:, 0].contiguous(), steps[:, 1].contiguous()
    count = len(offsets)
    programs = triton.cdiv(height * width, PIXELS)
    weights = masks.new_empty(count, height, width)
    result = masks.new_empty(masks.shape)
    with torch.cuda.device(masks.device) if masks.is_cuda else contextlib.nullcontext():  # where Triton launches
        for scores, picture, refined in zip(masks.contiguous(), pixels.contiguous(), result, strict=True):
            _affinities[(programs,)](weights, picture, dy, dx, height, width, count, count // 8 * 9, PIXELS)
            # Written so that the last iteration writes the result.
            turns = [refined, torch.empty_like(refined)][:: 1 if iterations % 2 else -1]
            source = scores
            for step in range(iterations):
                target = turns[step % 2]
                _update[(programs, triton.cdiv(classes, CLASSES))](
                    target, source, weights, dy, dx, classes, height, width, count, PIXELS, CLASSES
                )
                source = target
    return result
