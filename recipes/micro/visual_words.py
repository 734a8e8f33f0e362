"""Visual words for step 2 of the embedded model: k-means cells of local orientation and colour statistics."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WORDS = 256


def describe(images: Tensor) -> Tensor:
    """Local statistics of (B, 3, 96, 96) images in 0..1 on a grid of 4 px: (B, 24, 24, F)."""
    grey = images.mean(1, keepdim=True)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).view(1, 1, 3, 3) / 4
    maps = []
    for scale in (1, 2, 4):
        level = F.avg_pool2d(grey, scale, 1, padding=scale // 2)[..., :96, :96] if scale > 1 else grey
        level = F.pad(level, (scale,) * 4, mode="replicate")
        dx = F.conv2d(level, sobel, dilation=scale)
        dy = F.conv2d(level, sobel.transpose(2, 3), dilation=scale)
        strength, angle = torch.sqrt(dx**2 + dy**2 + 1e-8), torch.atan2(dy, dx) * 2
        maps += [strength * (0.5 + 0.5 * torch.cos(angle - k * math.pi / 2)) ** 2 for k in range(4)]
    texture = torch.cat(maps, 1)

    def window(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, (6,) * 4, mode="replicate"), 12, 4)[..., :24, :24]

    energy = torch.log(window(texture) + 0.01)
    colour = window(images)
    spread = torch.sqrt((window(images**2) - colour**2).clamp_min(1e-6))
    return torch.cat([energy, colour * 4, spread * 4], 1).permute(0, 2, 3, 1)


def k_means(samples: Tensor, k: int, rounds: int = 25, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = samples[torch.randperm(len(samples), generator=generator)[:k]].clone()
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in samples.split(20000)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, samples)
        counts = torch.bincount(nearest, minlength=k).float()
        empty = counts == 0
        centres = torch.where(empty[:, None], centres, sums / counts.clamp_min(1)[:, None])
        if empty.any():
            centres[empty] = samples[torch.randint(len(samples), (int(empty.sum()),), generator=generator)]
    return centres


def visual_words(images: np.ndarray) -> np.ndarray:
    """(N, 24, 24) uint8: the visual word of each 4 px cell."""
    grids = []
    for start in range(0, len(images), 250):
        part = torch.from_numpy(images[start : start + 250]).permute(0, 3, 1, 2).float() / 255
        grids.append(describe(part).half())
    features = torch.cat(grids)
    flat = features.view(-1, features.shape[-1])
    sample = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(1))[:120_000]].float()
    mean, std = sample.mean(0), sample.std(0)
    centres = k_means((sample - mean) / std, WORDS)
    words = [torch.cdist((part.float() - mean) / std, centres).argmin(1).byte() for part in flat.split(50_000)]
    return torch.cat(words).view(features.shape[:3]).numpy()
