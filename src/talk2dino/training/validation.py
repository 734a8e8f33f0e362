"""How good a projection is on held-out images: the loss, and retrieval in both directions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from talk2dino.features.store import FeatureStore
from talk2dino.stages.heads import feature_of
from talk2dino.training.aligner import Aligner
from talk2dino.training.loss import similarity

RANKS = (1, 5, 10)


@torch.no_grad()
def validate(aligner: Aligner, store: FeatureStore, device: torch.device, *, limit: int = 5000) -> dict[str, float]:
    """Loss and recall at 1, 5 and 10 over the first ``limit`` images of a store and all their captions.

    The similarity of an image and a caption is that of the best head for the strategies that choose a head, and that of the
    single embedding for the others. With "softmax" the heads are weighted for each caption separately.

    Returns:
        ``validation_loss``: InfoNCE of each image with its first caption, in batches of the training's size.
        ``image_to_text@k``: share (0..1) of images with one of their captions among the k nearest captions.
        ``text_to_image@k``: share (0..1) of captions whose image is among the k nearest images.
    """
    owners = store.caption_image[store.rows]
    images = torch.unique(owners)[:limit]
    rows = store.rows[torch.isin(owners, images)]
    owner = torch.searchsorted(images, store.caption_image[rows]).to(device)  # (T,) place of each caption's image
    text = torch.cat(
        [aligner.text(store.gather("captions", part).to(device, torch.float32)) for part in rows.split(4096)]
    )
    scores = torch.cat([_scores(aligner, store, part, text, device) for part in images.split(128)])  # (I, T)
    metrics = {"validation_loss": _loss(aligner, store, images, rows, owner, device)}
    for k in RANKS:
        nearest = scores.topk(min(k, scores.shape[1]), dim=1).indices  # (I, k)
        hit = (owner[nearest] == torch.arange(len(images), device=device).unsqueeze(1)).any(1)
        metrics[f"image_to_text@{k}"] = hit.float().mean().item()
        nearest = scores.topk(min(k, scores.shape[0]), dim=0).indices  # (k, T)
        metrics[f"text_to_image@{k}"] = (nearest == owner).any(0).float().mean().item()
    return metrics


def _scores(aligner: Aligner, store: FeatureStore, images: Tensor, text: Tensor, device: torch.device) -> Tensor:
    """(I, T) similarities of some images with all captions."""
    features = store.gather(feature_of(aligner.options.strategy), images).to(device, torch.float32)
    features = aligner.vision(features)
    if aligner.options.strategy == "mean":
        features = features.mean(dim=1)
    if aligner.options.strategy == "softmax":
        text = F.normalize(text, dim=-1)
        dots = features @ text.T  # (I, M, T)
        cosines = dots / torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        weights = (cosines / aligner.options.head_temperature).softmax(dim=1)
        gram = features @ features.transpose(1, 2)  # (I, M, M)
        length = ((gram @ weights) * weights).sum(dim=1).clamp_min(1e-12).sqrt()
        return (weights * dots).sum(dim=1) / length
    return similarity(features, text)


def _loss(
    aligner: Aligner, store: FeatureStore, images: Tensor, rows: Tensor, owner: Tensor, device: torch.device
) -> float:
    order = owner.argsort(stable=True)
    first = order[torch.searchsorted(owner[order], torch.arange(len(images), device=device))].cpu()
    size = min(aligner.options.batch_size, len(images))
    losses = []
    for start in range(0, len(images) - size + 1, size):
        chosen = images[start : start + size]
        features = store.gather(feature_of(aligner.options.strategy), chosen).to(device, torch.float32)
        captions = store.gather("captions", rows[first[start : start + size]]).to(device, torch.float32)
        noise = torch.full((size,), 0.5, device=device)
        loss, _ = aligner(features, captions, chosen.to(device), noise, across_processes=False)
        losses.append(loss.item())
    return sum(losses) / len(losses)
