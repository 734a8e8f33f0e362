"""Patch features to image embeddings, pooled per attention head or over all patches."""

from __future__ import annotations

from torch import Tensor

from talk2dino.errors import ShapeError


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
