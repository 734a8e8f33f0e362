"""Classes and patches that answer to them, small enough for formulas written out."""

import torch
import torch.nn.functional as F

from talk2dino.types import TextFeatures

D, T = 13, 0.3


def words(count, seed=1, **more):
    rows = F.normalize(torch.randn(count, D, generator=torch.Generator().manual_seed(seed)), dim=1)
    return TextFeatures(tuple("abcdefgh"[:count]), rows, model="m", space="s", **more)


def patches_of(text, labels, noise=0.6, seed=2):
    """Patches near the words, pulled to one side by a direction that all share, as the patches of a model are."""
    generator = torch.Generator().manual_seed(seed)
    noisy = text.embeddings[labels] + noise * torch.randn(len(labels), D, generator=generator) / D**0.5
    return F.normalize(noisy + 0.5 * F.normalize(torch.ones(D), dim=0), dim=1)
