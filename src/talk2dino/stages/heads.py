"""Which attention heads represent an image: the strategies of training, pure functions on tensors."""

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
    """Name of the stored feature that a strategy reads; raises InputError for an unknown strategy."""
    if strategy not in STRATEGIES:
        raise InputError(f"unknown head strategy '{strategy}'; one of: {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy]


def combine_heads(
    strategy: str, images: Tensor, text: Tensor, *, head_temperature: float = 1.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The image embeddings that enter the loss, and the chosen heads.

    Args:
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
    with torch.set_grad_enabled(strategy == "softmax" and torch.is_grad_enabled()):  # the other choices are discrete
        dots = torch.bmm(images, F.normalize(text, dim=-1).unsqueeze(-1)).squeeze(-1)
        similarity = dots / torch.linalg.vector_norm(images, dim=-1).clamp_min(1e-12)  # (B, M)
        weights = (similarity / head_temperature).softmax(dim=-1)
    if strategy == "softmax":
        return torch.bmm(weights.unsqueeze(1), images).squeeze(1), weights.argmax(dim=-1)
    if strategy == "sampled":
        if noise is None:
            raise InputError("the strategy 'sampled' needs noise: one uniform random number per image")
        chosen = (weights.cumsum(dim=-1) < noise.unsqueeze(-1)).sum(dim=-1).clamp_max(images.shape[1] - 1)
    else:
        chosen = similarity.argmax(dim=-1)
    if strategy == "pairwise-max":
        return images, chosen
    return images[torch.arange(images.shape[0], device=images.device), chosen], chosen
