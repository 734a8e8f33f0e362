"""Background cleaning: DINO's attention, weighted by how well each head agrees with a class, sharpens that class's map.

Two variants exist. ``published`` is what the published code computes and what its thresholds are tuned for; ``paper`` is
the paper's formula. Both work on each picture of a batch by itself.

What cleaning couples: in ``published``, F is scaled to the range of all classes of the picture, so adding or removing a
class can change the scores of the others. In ``paper`` classes do not interact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError, ShapeError

#: Weight of the similarity in the cleaned map; (S + 0.2 F) / 1.2 in the published code.
LAMBDA = 5 / 6


def head_attention_maps(weights: Tensor, attention: Tensor) -> Tensor:
    """sum_i R_ij A_i: (B, N, M) head weights and (B, M, h, w) logits to (B, N, h, w)."""
    return torch.einsum("bnm,bmhw->bnhw", weights, attention)


def head_class_similarity(embeddings: Tensor, classes: Tensor) -> Tensor:
    """cos(v^{A_i}, psi(t_j)): (B, M, D) and (N, D) to (B, N, M)."""
    return torch.einsum(
        "bmd,nd->bnm", F.normalize(embeddings, dim=-1, eps=1e-6), F.normalize(classes, dim=-1, eps=1e-6)
    )


def clean_background(
    scores: Tensor,
    patches: Tensor,
    attention: Tensor,
    classes: Tensor,
    *,
    variant: str = "published",
    weight: float = LAMBDA,
) -> Tensor:
    """Mix each class's map with the attention of the heads that agree with the class.

    ``published``: v^{A_i} = mean_p A_i[p] v[p] with raw logits; R_ij = softmax_i cos(v^{A_i}, psi(t_j));
    F_j = softmax_p sum_i R_ij A_i, min-max scaled to the range of the picture's scores; weight S + (1 - weight) F.

    ``paper``: v^{A_i} = sum_p softmax(A_i)[p] v[p]; F_j = sum_i R_ij A_i; weight S + (1 - weight) F_j.

    Args:
        scores: (B, N, h, w) similarity maps: after the sigmoid for ``published``, cosines for ``paper``.
        patches: (B, h, w, D) patch features after the final norm.
        attention: (B, M, h, w) CLS-row logits of the last block, before softmax.
        classes: (N, D) class embeddings.
        variant: "published" or "paper".
        weight: lambda; the share of the similarity.

    Returns:
        (B, N, h, w) float32.

    Raises:
        ShapeError: if the shapes do not fit together. InputError: if the variant is unknown.

    Source: Talk2DINO (arXiv 2411.19331), background cleaning; published code, similarity_assignment_weighted, whose
    scaling runs over the whole batch, ours over each picture, so that a batch gives what its pictures give one by one.
    """
    b, n, h, w = scores.shape
    if patches.shape[:3] != (b, h, w) or attention.shape[0] != b or attention.shape[2:] != (h, w):
        raise ShapeError(
            f"scores (B, N, h, w), patches (B, h, w, D) and attention (B, M, h, w) must agree in B, h and w; "
            f"got {tuple(scores.shape)}, {tuple(patches.shape)}, {tuple(attention.shape)}"
        )
    if classes.shape != (n, patches.shape[-1]):
        raise ShapeError(f"classes must be (N, D) = ({n}, {patches.shape[-1]}); got {tuple(classes.shape)}")
    scores, patches, attention = scores.float(), patches.float(), attention.float()
    classes = classes.float().to(patches.device)

    if variant == "published":
        # v^{A_i}: [B, M, h, w] x [B, h, w, D] -> [B, M, D]
        embeddings = torch.einsum("bmhw,bhwd->bmd", attention, patches) / (h * w)
        weights = head_class_similarity(embeddings, classes).softmax(-1)
        focus = head_attention_maps(weights, attention).flatten(2).softmax(-1).view(b, n, h, w)
        low, high = _extremes(focus)
        bottom, top = _extremes(scores)
        # The published scaling takes the maximum before the shift.
        focus = (focus - low) / torch.maximum(high, high - low) * (top - bottom) + bottom
    elif variant == "paper":
        embeddings = torch.einsum("bmp,bpd->bmd", attention.flatten(2).softmax(-1), patches.flatten(1, 2))
        weights = head_class_similarity(embeddings, classes).softmax(-1)
        focus = head_attention_maps(weights, attention)
    else:
        raise InputError(f"unknown variant of background cleaning {variant!r}; accepted: published, paper")
    return weight * scores + (1 - weight) * focus


def _extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each picture over all its classes: two (B, 1, 1, 1)."""
    return maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
