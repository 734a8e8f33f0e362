"""How the image moved between two frames, and score maps that move along.

    two frames -> coarse to fine: candidates, then Lucas-Kanade -> flow, agreement -> warp

The flow is backward: for each place of the new frame, where its content was in the old one. It comes from the pixels alone,
so it costs a small part of what a vision model does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import ShapeError

#: Side of the window whose pixels are assumed to move together, at each level of the pyramid.
WINDOW = 7
#: The coarsest level has at least so many pixels on its shorter side.
COARSEST = 12
#: Updates of the flow per level.
ITERATIONS = 2
#: Added to the squared gradients: what noise has, so that it does not move flat areas.
DAMPING = 30.0
#: Moving must be better than keeping still by this share of the difference, and by so many grey levels (0..255).
PREFERENCE = 0.1
#: Agreement is full up to so many times the median difference plus ``SLACK`` grey levels, and gone at twice that.
TOLERANCE, SLACK = 2.0, 5.0
#: The median difference counts as noise up to so many grey levels; more is another image.
MOST_NOISE = 8.0


@dataclass(frozen=True)
class Motion:
    """Motion from an old frame to a new one.

    Attributes:
        flow: (2, h, w) float32, (x, y): content of the new frame at pixel p was at p + flow in the old frame, in pixels of
            the frames that were compared.
        agreement: (h, w) float32, 0..1: how well the colours at both ends fit together.
    """

    flow: Tensor
    agreement: Tensor

    @property
    def share(self) -> float:
        """Share of the new frame (0..1) that was found in the old one."""
        return float(self.agreement.mean())


def estimate_motion(old: Tensor, new: Tensor) -> Motion:
    """Estimate the motion between two frames, coarse to fine.

    Args:
        old, new: (3, h, w) RGB 0..255 of one size, float32.

    Raises:
        ShapeError: sizes that differ.

    Source: Lucas and Kanade (IJCAI 1981), on a pyramid as by Bouguet (2001); at each level the flow starts from the best of
    the coarser level's flow, its median, the global shift, and no motion, so that large flat areas keep still.
    """
    if old.shape != new.shape or old.ndim != 3:
        raise ShapeError(f"frames must both be (3, h, w); got {tuple(old.shape)} and {tuple(new.shape)}")
    pyramid = [(old[None], new[None])]
    while min(pyramid[-1][0].shape[2:]) // 2 >= COARSEST:
        pyramid.append((F.avg_pool2d(pyramid[-1][0], 2), F.avg_pool2d(pyramid[-1][1], 2)))
    shift = global_shift(old, new)
    flow = new.new_zeros(1, 2, *pyramid[-1][0].shape[2:])
    for level, (before, after) in reversed(list(enumerate(pyramid))):
        size = before.shape[2:]
        if flow.shape[2:] != size:
            flow = 2 * F.interpolate(flow, size, mode="bilinear", align_corners=False)
        start = _best_start(before, after, flow, shift / 2**level)
        flow, warped, _ = _refine(before, after, start)
    difference = _box((warped - new[None]).abs().mean(1, keepdim=True), 5)[0, 0]
    bound = TOLERANCE * difference.median().clamp(max=MOST_NOISE) + SLACK
    return Motion(flow[0], (2 - difference / bound).clamp(0, 1))


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """(B, C, H, W) maps as the flow (B, 2, H, W) carries them: result[p] = maps[p + flow[p]], bilinear, edges repeated."""
    height, width = maps.shape[2:]
    x = torch.arange(width, device=maps.device, dtype=maps.dtype) + flow[:, 0]
    y = torch.arange(height, device=maps.device, dtype=maps.dtype)[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], dim=-1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def flow_on_grid(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, h, w) flow in pixels -> (2, *size) flow in steps of a grid whose corners lie on the corners of the frame."""
    height, width = flow.shape[1:]
    scale = flow.new_tensor([(size[1] - 1) / max(1, width - 1), (size[0] - 1) / max(1, height - 1)])
    return F.interpolate(flow[None], size, mode="bilinear", align_corners=True)[0] * scale[:, None, None]


def global_shift(old: Tensor, new: Tensor) -> Tensor:
    """(2,) x and y of the one shift that explains most of the motion, in whole pixels, by phase correlation; else 0.

    Source: Kuglin and Hines, The phase correlation image alignment method (1975).
    """
    height, width = old.shape[1:]
    window = torch.hann_window(height, device=old.device)[:, None] * torch.hann_window(width, device=old.device)
    before, after = (torch.fft.rfft2((image.mean(0) - image.mean()) * window) for image in (old, new))
    cross = before * after.conj()
    peak = int(torch.fft.irfft2(cross / (cross.abs() + 1e-3), s=(height, width)).argmax())
    y, x = divmod(peak, width)
    y, x = y - height * (y > height // 2), x - width * (x > width // 2)
    shift = old.new_tensor([x, y])
    moved = warp(old[None], shift[None, :, None, None].expand(1, 2, height, width))[0]
    explains = (moved - new).abs().mean() < 0.7 * (old - new).abs().mean()
    return shift * explains


#: A flow (1, 2, h, w), the old frame warped by it, and the mean difference to the new one around each pixel (1, 1, h, w).
_Fit = tuple[Tensor, Tensor, Tensor]


def _best_start(old: Tensor, new: Tensor, flow: Tensor, shift: Tensor) -> _Fit:
    """At each pixel, the best of: no motion, the flow itself, its median, and the global shift."""
    still = _difference(old, new)
    best: _Fit = torch.zeros_like(flow), old, (1 - PREFERENCE) * still - PREFERENCE
    if not flow.any() and not shift.any():
        return best[0], old, still
    median = flow.flatten(2).median(dim=2).values[..., None, None].expand_as(flow)
    for candidate in (median, shift[None, :, None, None].expand_as(flow), flow):
        if candidate.any():
            best = _better(best, _fit(old, new, candidate))
    return best


def _refine(old: Tensor, new: Tensor, best: _Fit) -> _Fit:
    """Lucas-Kanade: in each window, the shift that explains the difference best, by least squares."""
    right, down = _gradients(new)
    xx, xy, yy = (_box((a * b).sum(1, keepdim=True)) for a, b in ((right, right), (right, down), (down, down)))
    damping = 0.05 * (xx + yy) + DAMPING  # where there is little structure, the flow stays as it is
    xx, yy = xx + damping, yy + damping
    determinant = xx * yy - xy * xy
    for _ in range(ITERATIONS):
        error = new - best[1]
        bx, by = (_box((gradient * error).sum(1, keepdim=True)) for gradient in (right, down))
        step = torch.cat([yy * bx - xy * by, xx * by - xy * bx], dim=1) / determinant
        best = _better(best, _fit(old, new, best[0] + step.clamp(-1.5, 1.5)))
    return best


def _fit(old: Tensor, new: Tensor, flow: Tensor) -> _Fit:
    warped = warp(old, flow)
    return flow, warped, _difference(warped, new)


def _better(one: _Fit, other: _Fit) -> _Fit:
    """At each pixel, the one with the smaller difference; the first one where they are equal."""
    smaller = other[2] < one[2]
    return (
        torch.where(smaller, other[0], one[0]),
        torch.where(smaller, other[1], one[1]),
        torch.where(smaller, other[2], one[2]),
    )


def _difference(warped: Tensor, new: Tensor) -> Tensor:
    """(1, 1, h, w) mean absolute difference around each pixel."""
    return _box((warped - new).abs().mean(1, keepdim=True))


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2, (
        padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    ) / 2


def _box(values: Tensor, side: int = WINDOW) -> Tensor:
    """Mean over a square window."""
    across = F.avg_pool2d(values, (1, side), 1, (0, side // 2), count_include_pad=False)
    return F.avg_pool2d(across, (side, 1), 1, (side // 2, 0), count_include_pad=False)
