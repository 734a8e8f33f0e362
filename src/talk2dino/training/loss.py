"""Symmetric InfoNCE between images and captions, over one or several processes: pure functions on tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from talk2dino.errors import ShapeError


def similarity(images: Tensor, text: Tensor) -> Tensor:
    """(I, T) cosines of images (I, D) and texts (T, D); for (I, M, D), of the most similar head of each pair."""
    if images.ndim not in (2, 3) or text.ndim != 2 or images.shape[-1] != text.shape[-1]:
        raise ShapeError(
            f"images must be (I, D) or (I, M, D) and text (T, D); got {tuple(images.shape)} and {tuple(text.shape)}"
        )
    cosines = F.normalize(images, dim=-1).reshape(-1, images.shape[-1]) @ F.normalize(text, dim=-1).T  # (I * M, T)
    return cosines if images.ndim == 2 else cosines.view(*images.shape[:2], -1).max(dim=1).values


def info_nce(
    images: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    image_ids: Tensor | None = None,
    published_scale: bool = False,
    across_processes: bool = True,
) -> Tensor:
    """1/2 (cross-entropy over captions + cross-entropy over images) with logits = scale * cosine; the pairs are (i, i).

    Under ``torch.distributed`` each process passes its part of the batch and gets its part of the loss of the whole batch.
    The gradients summed over the processes equal those of one process with the whole batch.

    Args:
        images, text: (B, D) or (B, M, D), see :func:`similarity`, and (B, D) projected captions.
        scale: 1 / temperature.
        image_ids: (B,) the image of each pair. If given, other captions of the same image are not used as negatives.
        published_scale: divide the loss by B^2, as the published code does.
        across_processes: use the rows of the other processes as negatives, if there are any.

    Source: Talk2DINO (arXiv 2411.19331), loss; temperature 1 / scale = 0.07 in the paper.
    """
    several = across_processes and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    places = own = torch.arange(len(text), device=text.device)
    all_text = text
    if several:
        own = places + dist.get_rank() * len(text)
        all_text, all_images = _Gather.apply(text), _Gather.apply(images)
    image_rows = similarity(images, all_text) * scale  # (B, total)
    text_rows = similarity(all_images, text).T * scale if several else image_rows.T
    if image_ids is not None:
        all_ids = _Gather.apply(image_ids) if several else image_ids
        same = image_ids.unsqueeze(1) == all_ids.unsqueeze(0)
        same[places, own] = False
        image_rows, text_rows = image_rows.masked_fill(same, -torch.inf), text_rows.masked_fill(same, -torch.inf)
    summed = F.cross_entropy(image_rows, own, reduction="sum") + F.cross_entropy(text_rows, own, reduction="sum")
    loss = summed / (2 * len(all_text))
    return loss / len(all_text) ** 2 if published_scale else loss


class _Gather(torch.autograd.Function):
    """The rows of all processes in the order of their rank; the backward pass sums their gradients.

    Written here because torch's own differentiable all_gather is deprecated, and its successor is private.
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() * ctx.rows : (dist.get_rank() + 1) * ctx.rows]


def distillation_loss(student: Tensor, teacher: Tensor, *, mse: float, cosine: float) -> Tensor:
    """mse * mean |s - t|^2 / mean |t|^2 + cosine * mean (1 - cos(s, t)).

    The squared error is relative, so that both terms are of one size in any text space.

    Args:
        student, teacher: (B, C) embeddings of the same texts, not normalised.

    Source: ours, after the multilingual distillation of Reimers and Gurevych (arXiv 2004.09813), which has the first term.
    """
    error = (student - teacher).square().sum(1).mean() / teacher.square().sum(1).mean()
    return mse * error + cosine * (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
