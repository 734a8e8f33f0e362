"""Symmetric InfoNCE between pictures and captions, over one process or several: pure functions on tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from talk2dino.errors import ShapeError


def similarity(images: Tensor, text: Tensor) -> Tensor:
    """Cosines of every picture with every caption.

    Args:
        images: (I, D), or (I, M, D) to take the largest over the M heads of a picture, for each pair anew.
        text: (T, D).

    Returns:
        (I, T).
    """
    if images.ndim not in (2, 3) or text.ndim != 2 or images.shape[-1] != text.shape[-1]:
        raise ShapeError(
            f"images must be (I, D) or (I, M, D) and text (T, D); got {tuple(images.shape)} and {tuple(text.shape)}"
        )
    cosines = F.normalize(images, dim=-1).reshape(-1, images.shape[-1]) @ F.normalize(text, dim=-1).T  # (I * M, T)
    if images.ndim == 2:
        return cosines
    return cosines.view(images.shape[0], images.shape[1], -1).max(dim=1).values


def info_nce(
    images: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    image_ids: Tensor | None = None,
    published_scale: bool = False,
    across_processes: bool = True,
) -> Tensor:
    """1/2 (cross-entropy over captions + cross-entropy over pictures), logits = scale * cosine, pair i is (i, i).

    Under ``torch.distributed`` each process gives its own part of the batch and gets its own part of the loss over the
    whole batch: summing the gradients over the processes gives what one process with the whole batch gets.

    Args:
        images: (B, D) or (B, M, D), see :func:`similarity`.
        text: (B, D) mapped captions.
        scale: 1 / temperature; 1 / 0.07 in the paper.
        image_ids: (B,) the picture of each pair. When given, other captions of the same picture are no negatives.
        published_scale: divide by B^2 on top, as the published code does.
        across_processes: take the other processes' rows as negatives, if there are any.

    Returns:
        A scalar; a mean over the batch (of all processes).
    """
    several = across_processes and _count() > 1
    own = torch.arange(len(text), device=text.device)
    if several:
        own = own + dist.get_rank() * len(text)
        all_text = gather(text)
        image_rows = similarity(images, all_text) * scale  # (B, total)
        text_rows = similarity(gather(images), text).T * scale
    else:
        all_text = text
        image_rows = similarity(images, text) * scale
        text_rows = image_rows.T
    if image_ids is not None:
        all_ids = gather(image_ids) if several else image_ids
        same = image_ids.unsqueeze(1) == all_ids.unsqueeze(0)
        same[torch.arange(len(own), device=own.device), own] = False
        image_rows, text_rows = image_rows.masked_fill(same, -torch.inf), text_rows.masked_fill(same, -torch.inf)
    summed = F.cross_entropy(image_rows, own, reduction="sum") + F.cross_entropy(text_rows, own, reduction="sum")
    loss = summed / (2 * len(all_text))
    return loss / len(all_text) ** 2 if published_scale else loss


class _Gather(torch.autograd.Function):
    """All processes' rows, in the order of their rank; the backward pass sums what each of them asks of a row."""

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


def gather(rows: Tensor) -> Tensor:
    """Rows of every process, with gradients; the very tensor that came in when there is one process."""
    return _Gather.apply(rows) if _count() > 1 else rows


def _count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
