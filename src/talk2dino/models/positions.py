"""Where patches are: resized position grids and rotary tables.

DINOv2 and CLIP add a learned grid of embeddings, resized to the image's rows and columns of patches; each was published
with a resizing of its own. DINOv3 turns queries and keys by angles that depend on the patch's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Result = TypeVar("Result")

#: Image sizes whose positions are kept.
SIZES_KEPT = 16


def resize_antialiased(grid: Tensor, rows: int, columns: int) -> Tensor:
    """(1, D, side, side) to (1, D, rows, columns): bicubic, with antialiasing. DINOv2 with registers."""
    return F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)


def resize_offset(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Bicubic by the factors (size + 0.1) / side, without antialiasing. DINOv2 without registers.

    Source: the original code; transformers' Dinov2Model resizes to the exact size instead, which changes patch features by
    up to 0.17.
    """
    factors = ((rows + 0.1) / grid.shape[2], (columns + 0.1) / grid.shape[3])
    return F.interpolate(grid, scale_factor=factors, mode="bicubic")


def resize_bicubic(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Bicubic, without antialiasing. CLIP, as in transformers: OpenAI's code accepts the training size only."""
    return F.interpolate(grid, (rows, columns), mode="bicubic")


RESIZES = {"antialiased": resize_antialiased, "offset": resize_offset, "bicubic": resize_bicubic}


def resize_positions(
    positions: Tensor, rows: int, columns: int, resize: Callable[[Tensor, int, int], Tensor]
) -> Tensor:
    """(1, 1 + side * side, D) embeddings, CLS first, to (1, 1 + rows * columns, D); computed in float32."""
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, side * side, D] -> [1, D, side, side]
    grid = resize(grid.float(), rows, columns).flatten(2).transpose(1, 2)  # -> [1, h * w, D]
    return torch.cat((positions[:, :1], grid.to(positions.dtype)), dim=1)


def rotary_table(rows: int, columns: int, size: int, before: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of DINOv3's rotary embedding.

    A patch's place is its centre, (y, x) in -1..1. The angles are 2 pi y f_i, then 2 pi x f_i, with the frequencies
    f_i = theta^(-4 i / d), i < d / 4; both halves of d have the same ones.

    Args:
        rows, columns: of patches.
        size: d, the width of a head.
        before: number of tokens before the patches (CLS, registers), which are not turned.
        like: a tensor with the dtype and device of the result.

    Returns:
        Two tensors (before + rows * columns, d).
    """
    device = like.device
    frequencies = 1 / theta ** torch.arange(0, 1, 4 / size, device=device)
    centres = [2 * ((torch.arange(n, device=device) + 0.5) / n) - 1 for n in (rows, columns)]
    places = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1)  # (h * w, 2)
    angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1).tile(2)  # (h * w, d)
    angles = F.pad(angles, (0, 0, before, 0))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + d/2}) of (B, M, T, d) by the angles of a (T, d) table."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PerSize:
    """Tensors that depend on the image size alone, kept for the latest sizes. A copy starts empty."""

    def __init__(self) -> None:
        self.kept: dict[Hashable, object] = {}

    def __deepcopy__(self, memo: object) -> PerSize:
        return PerSize()

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The value for ``key``, made on the first call. In a compiled or exported graph it is always made."""
        if torch.compiler.is_compiling():
            return make()
        value = self.kept.get(key)
        if value is None:
            with torch.inference_mode(False), torch.no_grad():  # usable later in any mode
                value = make()
            if len(self.kept) >= SIZES_KEPT:
                self.kept.clear()
            self.kept[key] = value
        return value  # type: ignore[return-value]


def state_of(parameter: Tensor) -> tuple[Hashable, ...]:
    """A key that changes when a parameter is converted, moved or written to."""
    if torch.compiler.is_compiling():  # where nothing is kept, and tensors have no memory
        return ()
    version = 0 if parameter.is_inference() else parameter._version
    return parameter.dtype, parameter.device, parameter.data_ptr(), version
