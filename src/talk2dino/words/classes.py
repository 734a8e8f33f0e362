"""Scores of patches, and classes whose embeddings change: what adapting and tuning share."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.stages.similarity import best_of_each, calibrate
from talk2dino.types import TextFeatures


def class_scores(patches: Tensor, text: TextFeatures) -> Tensor:
    """(P, N) calibrated cosines of (P, D) patches of length 1 with the classes, negatives included."""
    cosines = (patches @ F.normalize(text.embeddings, dim=-1).to(patches.device).T).T[None, :, :, None]
    return best_of_each(calibrate(cosines, text.calibration)[0], text.counts)[:, :, 0].T


def class_vectors(text: TextFeatures) -> tuple[Tensor, Tensor]:
    """(N, D) vectors whose products with patches, plus the (N,) offsets, are the scores of the classes."""
    vectors, offsets = [], []
    for rows, scale, _ in text.parts().values():
        slope, offset = scale.to(rows.device).unbind(1)
        vectors.append((F.normalize(rows, dim=-1) * slope[:, None]).mean(0))
        offsets.append(offset.mean())
    return torch.stack(vectors).float().cpu(), torch.stack(offsets).float().cpu()


def replace_classes(
    text: TextFeatures, changed: dict[int, tuple[Tensor, Tensor]], notes: tuple[str, ...]
) -> TextFeatures:
    """The same names with other embeddings, and their calibration, for some of them."""
    parts = [(rows, scale) for rows, scale, _ in text.parts().values()]
    rows = [changed.get(label, part) for label, part in enumerate(parts)]
    counts = tuple(len(embeddings) for embeddings, _ in rows)
    device = text.embeddings.device
    return replace(
        text, embeddings=torch.cat([embeddings.to(device) for embeddings, _ in rows]),
        calibration=torch.cat([scale.to(device) for _, scale in rows]), counts=() if set(counts) == {1} else counts,
        notes=notes,
    )  # fmt: skip
