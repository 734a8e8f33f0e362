"""Bicubic resizing of position grids as two matrix products, whose sizes may be symbols: what an exported graph needs.

``torch.nn.functional.interpolate`` is frozen to the example's size on export. The same arithmetic written as
``R grid C^T`` with weights that are computed from the requested size stays dynamic. tests/engines/test_positions.py
compares it with ``interpolate``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from talk2dino.models.vit import VisionTransformer


def cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel with parameter ``a``: support -2..2.

    Source: Keys (1981), the form that torch uses; a = -0.75 for plain resizing, -0.5 for antialiased.
    """
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def antialiased_matrix(size: Any, source: int) -> Tensor:
    """(size, source) weights of ``interpolate(size=, mode="bicubic", antialias=True, align_corners=False)``."""
    places = torch.arange(size, dtype=torch.float32)
    step = source / (places[-1:] + 1)  # source pixels a target pixel
    centre = (places + 0.5)[:, None] * step
    taps = torch.arange(source, dtype=torch.float32)[None] + 0.5
    weights = cubic((taps - centre) / step.clamp(min=1), -0.5)
    return weights / weights.sum(1, keepdim=True)


def offset_matrix(size: Any, source: int, offset: float = 0.1) -> Tensor:
    """(size, source) weights of ``interpolate(scale_factor=(size + offset) / source, mode="bicubic")``.

    The edge is repeated: weights of taps beyond it fall on the outermost source pixels.
    """
    places = torch.arange(size, dtype=torch.float32)
    where = (places + 0.5) * (source / (places[-1:] + 1 + offset)) - 0.5
    first = where.floor()
    steps = torch.arange(-1, 3, dtype=torch.float32)
    taps = (first[:, None] + steps).clamp(0, source - 1)  # (size, 4)
    weights = cubic((where - first)[:, None] - steps, -0.75)
    hits = taps[:, :, None] == torch.arange(source, dtype=torch.float32)
    return (hits * weights[:, :, None]).sum(1)


def resize_positions(matrix: Callable[[Any, int], Tensor], positions: Tensor, rows: Any, columns: Any) -> Tensor:
    """(1, 1 + side * side, D) position embeddings, CLS first, for a grid of rows x columns."""
    side = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[0, 1:].unflatten(0, (side, side))  # (side, side, D)
    resized = torch.einsum("hy,yxd->hxd", matrix(rows, side), grid)
    resized = torch.einsum("wx,hxd->hwd", matrix(columns, side), resized)
    if matrix is offset_matrix:
        # Asked for its own size, this model leaves the grid as it is; the formula with its offset would not.
        height, width = (torch.arange(n).max() + 1 for n in (rows, columns))
        own = (height == side) & (width == side)
        last_row, last_column = torch.arange(rows).clamp(max=side - 1), torch.arange(columns).clamp(max=side - 1)
        resized = torch.where(own, grid[last_row][:, last_column], resized)
    return torch.cat([positions[:, :1], resized.flatten(0, 1)[None]], dim=1)


MATRICES = {"antialiased": antialiased_matrix, "offset": offset_matrix}


def make_dynamic(backbone: VisionTransformer) -> None:
    """Let an image tower resize its positions with the matrices above; DINOv3 has none to resize."""
    if backbone.config.positions != "rotary":
        matrix = MATRICES[backbone.config.positions]

        def positions(rows: Any, columns: Any) -> Tensor:
            return resize_positions(matrix, backbone.pos_embed, rows, columns)

        backbone.positions = positions  # type: ignore[method-assign]
