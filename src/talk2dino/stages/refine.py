"""Pixel-adaptive mask refinement (PAMR): neighbours that look alike pull each other's scores together.

A pixel p has 8 neighbours n at each dilation (48 for the six published ones). With the picture's colours x and, per
channel, the standard deviation sigma_p over the 3 x 3 neighbourhoods of p at all dilations taken together:

    k(p, n) = -mean_channels |x_p - x_n| / (1e-8 + 0.1 sigma_p)
    alpha(p, n) = softmax_n k(p, n)
    m_p <- sum_n alpha(p, n) m_n            (iterated; the picture is continued by its border pixels)

The plain version below says this in torch and runs anywhere; kernels/pamr.py on a CPU and kernels/pamr_gpu.py on a CUDA
GPU do the same in one pass over memory an iteration.

Source: Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020 (arXiv 2005.08104), section
3.3; iterations and dilations as in the published Talk2DINO code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError, ShapeError
from talk2dino.stages.kernels import cpu_kernel, gpu_kernel, run_kernel

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)

#: Elements of a strip of classes that the plain version works on at a time: bounds its memory, not its result.
STRIP_ELEMENTS = 1 << 24


def refine(
    masks: Tensor, pixels: Tensor, *, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """Refine score maps so that they follow the edges of the picture.

    Classes and pictures do not interact: any number of both may be passed, the result is that of one at a time.
    In float32 and without gradients, this runs the compiled kernel: on a CPU if numba is installed (the extra ``fast``),
    on a CUDA GPU if Triton is (it comes with torch there); in all other cases the plain version. The first call of a
    process loads the kernel from its compiler's cache, the first on a machine compiles it (seconds).

    Memory beside masks, pixels and result, in bytes, with H' = H + 2 max(dilations), W' = W + 2 max(dilations) and
    K = 8 len(dilations): 4 K H W for the affinities (of one picture at a time) plus 8 * 24 H' W' at most for two copies
    of 24 classes: 86 MB for 448 x 448 and any number of classes, but 9.3 GB for 4000 x 6000: refine large pictures
    window by window.

    Args:
        masks: (B, N, H, W) floating scores, any range.
        pixels: (B, 3, H, W) RGB, 0..255, uint8 or floating, of the same size as the masks.
        iterations: number of updates; 0 returns the masks.
        dilations: distances of the rings of neighbours, in pixels.

    Returns:
        (B, N, H, W) float32; float64 for float64 masks. bfloat16 and float16 masks are computed and returned in float32.

    Raises:
        ShapeError: if a shape is not as above or the sizes differ.
        InputError: if masks are not floating, iterations is negative, or a dilation is not a positive integer.
    """
    _check(masks, pixels, iterations, dilations)
    dtype = torch.float64 if masks.dtype == torch.float64 else torch.float32
    masks, pixels = masks.to(dtype), pixels.to(device=masks.device, dtype=dtype)
    if iterations == 0:
        return masks.clone()
    plain = functools.partial(refine_plain, masks, pixels, iterations=iterations, dilations=dilations)
    kernel = _kernel_for(masks, pixels)
    if kernel is None:
        return plain()
    return run_kernel(kernel, (masks, pixels, neighbour_offsets(dilations), iterations), plain, "refinement")


def _kernel_for(masks: Tensor, pixels: Tensor) -> Callable[..., Tensor] | None:
    if masks.dtype != torch.float32 or (torch.is_grad_enabled() and (masks.requires_grad or pixels.requires_grad)):
        return None
    if masks.device.type == "cpu":
        return cpu_kernel("pamr", "refine_cpu")
    return gpu_kernel("pamr_gpu", "refine_gpu") if masks.device.type == "cuda" else None


def refine_plain(
    masks: Tensor, pixels: Tensor, *, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """:func:`refine` in plain torch, on any device, differentiable in the masks; arguments in one floating dtype."""
    b, n, h, w = masks.shape
    classes = max(1, STRIP_ELEMENTS // (h * w))
    pictures = []
    for scores, picture in zip(masks, pixels, strict=True):
        weights = affinities(picture[None], dilations)[0]
        strips = [_iterate(strip, weights, iterations, dilations) for strip in scores.split(classes)]
        pictures.append(torch.cat(strips))
    return torch.stack(pictures).view(b, n, h, w)


def affinities(pixels: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """alpha(p, n): how much each neighbour of a pixel counts; they add up to one.

    Args:
        pixels: (B, C, H, W) colours, floating.
        dilations: distances of the rings of neighbours.

    Returns:
        (B, K, H, W), K = 8 len(dilations) neighbours in the order of :func:`neighbour_offsets`.
    """
    b, _, h, w = pixels.shape
    offsets = neighbour_offsets(dilations)
    padded = _pad(pixels, dilations)

    # Sums of differences to the pixel itself give the deviation without cancellation: [B, C, H, W]
    total, squares = torch.zeros_like(pixels), torch.zeros_like(pixels)
    for dy, dx in offsets:
        difference = _shifted(padded, dy, dx, dilations) - pixels
        total += difference
        squares += difference * difference
    count = 9 * len(dilations)  # the pixel itself counts once a dilation, with difference 0
    deviation = ((squares - total * total / count).clamp_min(0) / (count - 1)).sqrt()
    scale = 1 / (1e-8 + 0.1 * deviation)

    logits = pixels.new_empty(b, len(offsets), h, w)
    for k, (dy, dx) in enumerate(offsets):
        logits[:, k] = -((_shifted(padded, dy, dx, dilations) - pixels).abs() * scale).mean(1)
    return logits.softmax(1)


def neighbour_offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """(dy, dx) of every neighbour: the 3 x 3 ring without its centre, once a dilation."""
    ring = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    return [(dilation * dy, dilation * dx) for dilation in dilations for dy, dx in ring]


def _iterate(masks: Tensor, weights: Tensor, iterations: int, dilations: Sequence[int]) -> Tensor:
    """(N, H, W) masks and (K, H, W) affinities to (N, H, W)."""
    offsets = neighbour_offsets(dilations)
    for _ in range(iterations):
        padded = _pad(masks, dilations)
        masks = torch.zeros_like(masks)
        for weight, (dy, dx) in zip(weights, offsets, strict=True):
            masks = masks.addcmul_(_shifted(padded, dy, dx, dilations), weight)
    return masks


def _pad(maps: Tensor, dilations: Sequence[int]) -> Tensor:
    return F.pad(maps, [max(dilations)] * 4, mode="replicate")


def _shifted(padded: Tensor, dy: int, dx: int, dilations: Sequence[int]) -> Tensor:
    """The view (..., H, W) of padded maps whose value at p is that of the pixel at p + (dy, dx)."""
    reach = max(dilations)
    h, w = padded.shape[-2] - 2 * reach, padded.shape[-1] - 2 * reach
    return padded[..., reach + dy : reach + dy + h, reach + dx : reach + dx + w]


def _check(masks: Tensor, pixels: Tensor, iterations: int, dilations: Sequence[int]) -> None:
    if masks.ndim != 4 or 0 in masks.shape:
        raise ShapeError(f"masks must be (B, N, H, W), none of them 0; got {tuple(masks.shape)}")
    b, _, h, w = masks.shape
    if pixels.shape != (b, 3, h, w):
        raise ShapeError(
            f"pixels must be (B, 3, H, W) = ({b}, 3, {h}, {w}), the size of the masks; got {tuple(pixels.shape)}: "
            "resize one of them first"
        )
    if not masks.is_floating_point():
        raise InputError(f"masks must be floating point; got {masks.dtype}")
    if pixels.is_complex() or pixels.dtype == torch.bool:
        raise InputError(f"pixels must be RGB values 0..255; got {pixels.dtype}")
    if iterations < 0:
        raise InputError(f"iterations must be 0 or more; got {iterations}")
    if not dilations or any(not isinstance(d, int) or d < 1 for d in dilations):
        raise InputError(f"dilations must be a non-empty list of positive integers; got {dilations!r}")
