"""Patch features and attention heads to image embeddings: pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from talk2dino.errors import InputError, ShapeError

#: strategy -> which stored feature it reads: "heads" is (B, M, D), the others are (B, D).
STRATEGIES: dict[str, str] = {
    "max": "heads",  # the head most similar to the image's own caption, used against all captions (published)
    "pairwise-max": "heads",  # the most similar head, for every image-caption pair
    "mean": "heads",  # mean of the head embeddings
    "softmax": "heads",  # heads weighted by the softmax of their similarity to the image's own caption
    "sampled": "heads",  # one head, drawn with these weights
    "average-attention": "average",  # pooled with the mean attention of all heads
    "cls": "cls",  # the CLS feature
    "mean-patch": "patch_mean",  # mean of all patches
}


def feature_of(strategy: str) -> str:
    """Name of the stored feature that a strategy reads.

    Raises:
        InputError: an unknown strategy.
    """
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

    Source: Talk2DINO (arXiv 2411.19331), eq. for v^{A_i}; the published code averages where the paper sums, which is
    the same after L2 normalisation.
    """
    if patches.ndim != 3 or attention.ndim != 3 or patches.shape[:2] != attention.shape[::2]:
        raise ShapeError(
            f"patches (B, P, D) and attention (B, M, P) must share B and P; got {tuple(patches.shape)} and "
            f"{tuple(attention.shape)}"
        )
    return attention.softmax(dim=-1) @ patches


def pooled_features(patches: Tensor, attention: Tensor, cls: Tensor) -> dict[str, Tensor]:
    """All image features that training can use.

    Args:
        patches: (B, h, w, D) final-norm patch features.
        attention: (B, M, h, w) CLS-row logits of the last block.
        cls: (B, D) CLS feature.

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
    """(B, M): cosine of each head embedding (B, M, D) with the embedding of the image's own caption (B, D)."""
    dots = torch.bmm(heads, F.normalize(text, dim=-1).unsqueeze(-1)).squeeze(-1)
    return dots / torch.linalg.vector_norm(heads, dim=-1).clamp_min(1e-12)


def combine_heads(
    strategy: str, images: Tensor, text: Tensor, *, head_temperature: float = 1.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The image embeddings that enter the loss, and the chosen heads.

    Args:
        strategy: one of :data:`STRATEGIES`.
        images: (B, M, D) head embeddings, or (B, D) for a strategy that reads a single feature.
        text: (B, D) projected embedding of each image's own caption.
        head_temperature: divides the similarities before the softmax of "softmax" and "sampled".
        noise: (B,) uniform random numbers in [0, 1) for "sampled".

    Returns:
        (B, D) embeddings, or (B, M, D) for "pairwise-max", not normalised; and (B,) the head chosen for the image's own
        caption, or None for strategies that choose none.

    Raises:
        InputError: an unknown strategy, or "sampled" without noise. ShapeError: shapes that do not fit together.
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
                raise InputError("the strategy 'sampled' needs noise: one uniform random number per image")
            reached = (similarity / head_temperature).softmax(dim=-1).cumsum(dim=-1)
            chosen = (reached < noise.unsqueeze(-1)).sum(dim=-1).clamp_max(images.shape[1] - 1)
        else:
            chosen = similarity.argmax(dim=-1)
    if strategy == "pairwise-max":
        return images, chosen
    return images[torch.arange(images.shape[0], device=images.device), chosen], chosen
