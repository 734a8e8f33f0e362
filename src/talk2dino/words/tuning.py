"""Better vectors for words from a few images with corrected masks: ridge regression with the words as prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.types import TextFeatures
from talk2dino.words.classes import class_vectors, replace_classes

#: Scores that patches of a class must at least have, and those of other classes may at most have, per threshold.
INSIDE, OUTSIDE = 1.5, 0.6
#: Penalties that cross-validation chooses from, the number of folds, and the penalty if there is only one image.
PENALTIES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
FOLDS = 5
ONE_IMAGE = 1e-1
#: Rounds of setting targets and solving.
ROUNDS = 10


@dataclass(frozen=True)
class LabelledPatches:
    """Patches of one image that lie at least half in one class.

    Attributes:
        patches: (P, D), of length 1.
        labels: (P,) index of the class, or -1 for patches that belong to none of the classes.
    """

    patches: Tensor
    labels: Tensor


def tune(text: TextFeatures, images: Sequence[LabelledPatches], threshold: float) -> tuple[TextFeatures, float]:
    """Correct the vectors of words with a few labelled images.

        V = argmin_V  sum_p a_p |V x_p + b - z_p|^2 + r |V - V_0|^2

    V_0 and b are the classes' vectors times their slopes, and their offsets; a_p gives each class the same weight, and z_p
    are the scores themselves where they are right already: at least 1.5 t inside a class, at most 0.6 t outside, else these
    limits (t the threshold). Targets and V are computed in turn; each time, one D x D system is solved in closed form. The
    penalty r has the smallest loss in cross-validation over the images given.

    Args:
        text: words, examples or both. A class with several embeddings gets one.
        images: the labelled images.
        threshold: t, the cosine from which a patch belongs to a word.

    Returns:
        The tuned classes, and r. Classes without a labelled patch keep their vectors; notes list them.

    Raises:
        InputError: no image has a patch of one of the classes.
    """
    labels = torch.cat([image.labels for image in images]) if images else torch.zeros(0)
    seen = [label for label in range(len(text)) if (labels == label).any()]
    if not seen:
        raise InputError(
            "none of the masks covers a patch of one of the classes: compare the class names with the masks'"
        )
    prior, offsets = class_vectors(text)
    penalty = _choose_penalty(prior, offsets, images, threshold) if len(images) > 1 else ONE_IMAGE
    vectors = _fit(prior, offsets, images, threshold, penalty)
    calibration = torch.stack([vectors.norm(dim=1), offsets], dim=1)
    changed = {label: (F.normalize(vectors[[label]], dim=-1), calibration[[label]]) for label in seen}
    kept = [name for label, name in enumerate(text.names) if label not in seen]
    note = (f"these classes are in none of the masks and were not tuned: {', '.join(kept)}",) if kept else ()
    return replace_classes(text, changed, (*text.notes, *note)), penalty


def _fit(
    prior: Tensor, offsets: Tensor, images: Sequence[LabelledPatches], threshold: float, penalty: float
) -> Tensor:  # fmt: skip
    """(N, D) vectors; those of classes without a patch are the prior's."""
    x = torch.cat([image.patches for image in images]).float().cpu()
    labels = torch.cat([image.labels for image in images]).cpu()
    own = F.one_hot(labels + 1, len(prior) + 1).bool()  # the first column: none of the classes
    sizes = own.sum(0)
    weights = (own / sizes.clamp(min=1)).sum(1, keepdim=True) / (sizes > 0).sum()
    own = own[:, 1:]
    weighted = (x * weights).T
    inverse = torch.linalg.inv(weighted @ x + penalty * torch.eye(x.shape[1]))
    start = x @ prior.T + offsets
    vectors = prior
    for _ in range(ROUNDS):
        scores = x @ vectors.T + offsets
        targets = torch.where(own, scores.clamp(min=INSIDE * threshold), scores.clamp(max=OUTSIDE * threshold))
        vectors = prior + (inverse @ (weighted @ (targets - start))).T
    return torch.where((own.sum(0) > 0)[:, None], vectors, prior)


def _choose_penalty(
    prior: Tensor, offsets: Tensor, images: Sequence[LabelledPatches], threshold: float
) -> float:  # fmt: skip
    """The penalty with the smallest loss on images that were not fitted: squared misses of the targets, classes even."""
    folds = min(FOLDS, len(images))
    losses = dict.fromkeys(PENALTIES, 0.0)
    labels = torch.cat([image.labels for image in images])
    sizes = torch.bincount(labels + 1, minlength=len(prior) + 1).clamp(min=1)
    for penalty in PENALTIES:
        for fold in range(folds):
            rest = [image for i, image in enumerate(images) if i % folds != fold]
            vectors = _fit(prior, offsets, rest, threshold, penalty)
            for image in images[fold::folds]:
                scores = image.patches.float().cpu() @ vectors.T + offsets
                own = F.one_hot(image.labels + 1, len(prior) + 1).bool()[:, 1:]
                low, high = INSIDE * threshold - scores, scores - OUTSIDE * threshold
                misses = torch.where(own, low, high).clamp(min=0).square().sum(1)
                losses[penalty] += float((misses / sizes[image.labels + 1]).sum())
    return min(PENALTIES, key=lambda penalty: (losses[penalty], -penalty))
