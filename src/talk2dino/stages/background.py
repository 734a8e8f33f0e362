"""Background cleaning: DINO's attention, weighted by how well each head agrees with a class, sharpens that class's map.

Two variants exist. ``published`` is what the published code computes and what its thresholds are tuned for; ``paper`` is
the paper's formula. Both treat each image of a batch separately. In ``published``, F is scaled to the range of all classes
of the image, so adding or removing a class can change the scores of the others. In ``paper`` classes do not interact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError, ShapeError
from talk2dino.stages.pooling import head_embeddings

#: Weight of the similarity in the cleaned map; (S + 0.2 F) / 1.2 in the published code.
LAMBDA = 5 / 6


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
    F_j = softmax_p sum_i R_ij A_i, min-max scaled to the range of the image's scores; weight S + (1 - weight) F.

    ``paper``: v^{A_i} = sum_p softmax(A_i)[p] v[p]; F_j = sum_i R_ij A_i; weight S + (1 - weight) F_j.

    Args:
        scores: (B, N, h, w) similarity maps: after the sigmoid for ``published``, cosines for ``paper``.
        patches: (B, h, w, D) patch features after the final norm.
        attention: (B, M, h, w) CLS-row logits of the last block, before softmax.
        classes: (N, D) class embeddings.
        weight: lambda, the share of the similarity.

    Returns:
        (B, N, h, w) float32.

    Raises:
        ShapeError: if the shapes do not fit together. InputError: if the variant is unknown.

    Source: Talk2DINO (arXiv 2411.19331), background cleaning; published code, similarity_assignment_weighted, whose
    scaling runs over the whole batch, ours over each image, so that a batch gives what its images give one by one.
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

    if variant == "published":  # [B, M, h, w] x [B, h, w, D] -> [B, M, D]
        embeddings = torch.einsum("bmhw,bhwd->bmd", attention, patches) / (h * w)
    elif variant == "paper":
        embeddings = head_embeddings(patches.flatten(1, 2), attention.flatten(2))
    else:
        raise InputError(f"unknown variant of background cleaning {variant!r}; accepted: published, paper")
    embeddings, classes = (F.normalize(vectors, dim=-1, eps=1e-6) for vectors in (embeddings, classes))
    weights = torch.einsum("bmd,nd->bnm", embeddings, classes).softmax(-1)  # R_ij
    focus = torch.einsum("bnm,bmhw->bnhw", weights, attention)
    if variant == "published":
        focus = focus.flatten(2).softmax(-1).view(b, n, h, w)
        (low, high), (bottom, top) = (torch.aminmax(maps.flatten(1), dim=1) for maps in (focus, scores))
        low, high, bottom, top = (value.view(b, 1, 1, 1) for value in (low, high, bottom, top))
        # The published scaling takes the maximum before the shift.
        focus = (focus - low) / torch.maximum(high, high - low) * (top - bottom) + bottom
    return weight * scores + (1 - weight) * focus
