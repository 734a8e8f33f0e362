"""Similarity of patches and classes: S(I, T_j)[h, w] = cos(v[h, w], psi(t_j))."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import ShapeError


def cosine_similarity(patches: Tensor, classes: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Cosine of every patch with every class.

    Args:
        patches: (B, h, w, D) patch features, any scale and dtype.
        classes: (N, D) class embeddings, any scale.
        eps: floor of the norms; the published code's value.

    Returns:
        (B, N, h, w) float32 in -1..1.

    Raises:
        ShapeError: if the two D differ.

    Source: Talk2DINO (arXiv 2411.19331), eq. for S(I, T_j).
    """
    if patches.ndim != 4 or classes.ndim != 2 or patches.shape[-1] != classes.shape[-1]:
        raise ShapeError(
            f"patches must be (B, h, w, D) and classes (N, D) of the same D; got {tuple(patches.shape)} and {tuple(classes.shape)}"
        )
    patches = F.normalize(patches.float(), dim=-1, eps=eps)
    classes = F.normalize(classes.float().to(patches.device), dim=-1, eps=eps)
    return torch.einsum("bhwd,nd->bnhw", patches, classes)


def best_of_each(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """(R, h, w) scores of embeddings to (N, h, w) scores of classes: the best of each class's consecutive rows.

    Args:
        counts: number of rows of each class, R in all; empty: one each.
    """
    if not counts or len(counts) == len(scores):
        return scores
    return torch.stack([rows.amax(0) for rows in scores.split(list(counts))])


def calibrate(scores: Tensor, calibration: Tensor | None) -> Tensor:
    """Bring (B, R, h, w) cosines to the scale of the model's words: slope * cosine + offset, per embedding.

    Args:
        calibration: (R, 2) slopes and offsets; None: the cosines themselves.
    """
    if calibration is None:
        return scores
    slope, offset = calibration.to(scores.device, scores.dtype)[:, :, None, None].unbind(1)
    return scores * slope + offset
