"""From patch features and attention heads to the embedding that stands for a picture: pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from talk2dino.errors import InputError, ShapeError

#: strategy -> which stored feature it reads: "heads" is (B, M, D), the others are (B, D).
STRATEGIES: dict[str, str] = {
    "max": "heads",  # the head nearest to the picture's own caption, then that one against all captions (published)
    "pairwise-max": "heads",  # for every picture-caption pair the nearest head
    "mean": "heads",  # mean of the heads' embeddings
    "softmax": "heads",  # heads weighted by the softmax of their similarity to the own caption
    "sampled": "heads",  # one head drawn with those weights
    "average-attention": "average",  # pooled with the mean attention of all heads
    "cls": "cls",  # the CLS feature
    "mean-patch": "patch_mean",  # mean of all patches
}


def feature_of(strategy: str) -> str:
    """Name of the stored feature that a strategy reads."""
    if strategy not in STRATEGIES:
        raise InputError(f"unknown head strategy '{strategy}'; one of: {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy]


def head_embeddings(patches: Tensor, attention: Tensor) -> Tensor:
    """Pool patch features once per attention head: v^{A_i} = sum_p softmax(A_i)_p v_p.

    Args:
        patches: (B, P, D) final-norm patch features.
        attention: (B, M, P) CLS-row logits of the last block, before softmax, CLS and register columns dropped.

    Returns:
        (B, M, D), not normalised.

    Raises:
        ShapeError: if B or P differ between the two.

    Source: Talk2DINO (arXiv 2411.19331), eq. for v^{A_i}; the published code averages where the paper sums, the same
    after L2.
    """
    if patches.ndim != 3 or attention.ndim != 3 or patches.shape[:2] != attention.shape[::2]:
        raise ShapeError(
            f"patches (B, P, D) and attention (B, M, P) must share B and P; got {tuple(patches.shape)} and "
            f"{tuple(attention.shape)}"
        )
    return attention.softmax(dim=-1) @ patches


def pooled_features(patches: Tensor, attention: Tensor, cls: Tensor) -> dict[str, Tensor]:
    """Everything that training can use of a picture.

    Args:
        patches: (B, h, w, D); attention: (B, M, h, w) logits; cls: (B, D).

    Returns:
        ``heads`` (B, M, D), ``average`` (B, D) pooled with softmax(mean_i A_i), ``cls`` (B, D), ``patch_mean`` (B, D).
    """
    patches, attention = patches.flatten(1, 2), attention.flatten(2)
    return {
        "heads": head_embeddings(patches, attention),
        "average": head_embeddings(patches, attention.mean(dim=1, keepdim=True))[:, 0],
        "cls": cls,
        "patch_mean": patches.mean(dim=1),
    }


def head_similarity(heads: Tensor, text: Tensor) -> Tensor:
    """(B, M): cosine of each head's embedding (B, M, D) with the own caption's (B, D)."""
    dots = torch.bmm(heads, F.normalize(text, dim=-1).unsqueeze(-1)).squeeze(-1)
    return dots / torch.linalg.vector_norm(heads, dim=-1).clamp_min(1e-12)


def combine_heads(
    strategy: str, images: Tensor, text: Tensor, *, head_temperature: float = 1.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """What stands for each picture in the loss, and which head that was.

    Args:
        strategy: one of :data:`STRATEGIES`.
        images: (B, M, D) head embeddings, or (B, D) for a strategy that reads a single feature.
        text: (B, D) the pictures' own captions, mapped.
        head_temperature: divides the similarities before the softmax of "softmax" and "sampled".
        noise: (B,) uniform in [0, 1), which "sampled" draws with; the caller owns the random numbers.

    Returns:
        (B, D), or (B, M, D) for "pairwise-max", not normalised; and (B,) the head chosen for the own caption, or None.
    """
    wanted = 3 if feature_of(strategy) == "heads" else 2
    if images.ndim != wanted or text.ndim != 2 or images.shape[0] != text.shape[0]:
        raise ShapeError(
            f"'{strategy}' takes {'(B, M, D)' if wanted == 3 else '(B, D)'} images and (B, D) captions; got "
            f"{tuple(images.shape)} and {tuple(text.shape)}"
        )
    if wanted == 2:
        return images, None
    if strategy == "mean":
        return images.mean(dim=1), None
    if strategy == "softmax":
        weights = (head_similarity(images, text) / head_temperature).softmax(dim=-1)
        return torch.bmm(weights.unsqueeze(1), images).squeeze(1), weights.argmax(dim=-1)
    with torch.no_grad():
        similarity = head_similarity(images, text)
        if strategy == "sampled":
            if noise is None:
                raise InputError("'sampled' needs noise: one uniform number a picture")
            reached = (similarity / head_temperature).softmax(dim=-1).cumsum(dim=-1)
            chosen = (reached < noise.unsqueeze(-1)).sum(dim=-1).clamp_max(images.shape[1] - 1)
        else:
            chosen = similarity.argmax(dim=-1)
    if strategy == "pairwise-max":
        return images, chosen
    return images[torch.arange(images.shape[0], device=images.device), chosen], chosen
