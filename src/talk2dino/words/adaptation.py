"""Better vectors for words from images without labels: ridge regression on the patches that each word wins."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.types import TextFeatures
from talk2dino.words.classes import class_scores, class_vectors, replace_classes

#: Share of a class's patches, the most confident ones, that it is fitted to.
CONFIDENT = 0.9
#: A class with fewer confident patches, or with such patches in fewer images, keeps its word.
FEWEST_PATCHES, FEWEST_IMAGES = 64, 10
#: Images per class from which the fitted vectors count alone; with fewer, they are mixed with the words.
ENOUGH_IMAGES = 60
#: Weight of the penalty, beside patches of length 1 whose weights sum to 1.
RIDGE = 1e-5
#: Exponent of the contrast by which slopes are divided, for plain and for refined masks; see :func:`adapt`.
EVENNESS = {False: 0.25, True: 0.75}
#: Patches that are kept per class, and bytes for all classes together.
MOST_PATCHES, MEMORY = 4000, 256_000_000


class PatchSample:
    """An even sample of the patches that each class wins, in bounded memory.

    Args:
        text: the classes.
        threshold: cosine from which a patch belongs to a word; others are not sampled.
        seed: of the sample.
    """

    def __init__(self, text: TextFeatures, threshold: float, *, seed: int = 0) -> None:
        self.text, self.threshold = text, threshold
        size = len(text) * text.embeddings.shape[1] * 2
        self.most = max(2 * FEWEST_PATCHES, min(MOST_PATCHES, MEMORY // size))
        self.generator = torch.Generator().manual_seed(seed)
        dim = text.embeddings.shape[1]
        self.images = torch.zeros(len(text), dtype=torch.long)  # in which the class has a confident patch
        empty = (torch.zeros(0, dim, dtype=torch.float16), torch.zeros(0), torch.zeros(0))
        self._kept = [empty] * (len(text) + 1)  # patches, margins and draws of each class; the last: of all patches

    def add(self, patches: Tensor) -> None:
        """Add the (P, D) patches of length 1 of one image."""
        best, second, labels = _best_two(class_scores(patches, self.text))
        margins, draws = (best - second).cpu(), torch.rand(len(patches), generator=self.generator)
        sure, patches = (best >= self.threshold).cpu(), patches.half().cpu()
        for label in labels.unique().tolist():
            own = (labels == label).cpu() & sure
            self.images[label] += int(own.any())
            self._keep(label, own, patches, margins, draws)
        self._keep(len(self.text), torch.ones(len(patches), dtype=torch.bool), patches, margins, draws)

    def _keep(self, label: int, own: Tensor, *new: Tensor) -> None:
        """Add some of the new patches, margins and draws to a sample."""
        kept = self._kept[label]
        if len(kept[2]) == self.most:
            own = own & (new[2] < kept[2][-1])
        joined = [torch.cat([old, values[own]]) for old, values in zip(kept, new, strict=True)]
        chosen = joined[2].argsort()[: self.most]  # the smallest draws are an even sample of all
        self._kept[label] = (joined[0][chosen], joined[1][chosen], joined[2][chosen])

    @property
    def everything(self) -> Tensor:
        """(n, D) float32: an even sample of all patches, confident or not."""
        return self._kept[-1][0].float()

    def confident(self, label: int) -> Tensor:
        """(n, D) float32: the share CONFIDENT of the class's patches with the largest margins."""
        patches, margins, _ = self._kept[label]
        return patches[margins.argsort(descending=True)[: int(CONFIDENT * len(patches))]].float()


def adapt(sample: PatchSample, *, refine: bool = False) -> TextFeatures:
    """Fit the words to unlabelled images.

    Each patch is labelled by its nearest word; with the confident ones, X (P, D), their labels Y (P, K) as 0 and 1, and
    weights A that give each class the same sum (rare classes less),

        W = (X^T A X + r I)^-1 X^T A Y,    score_k = a c_k^-e cos(x, w_k) + b

    where c_k is the contrast of class k, the mean cosine of w_k with its own patches minus that with the other ones. The slope
    a keeps the distance between the mean scores of own and other patches, and b the number of patches that reach the
    threshold, so that thresholds, negative words and words that were not fitted go on working. With few images, the score
    is a mixture with that of the words, by the median number of images per class.

    Args:
        sample: of the patches of the images.
        refine: choose slopes for masks that will be refined. Refinement shrinks classes of low contrast, so they are
            raised more (e = 0.75 instead of 0.25).

    Returns:
        The same names. Classes that are too rare keep their word; notes list them.
    """
    text = sample.text
    found = [sample.confident(label) for label in range(len(text))]
    counts = torch.tensor([len(patches) for patches in found])
    fitted = ((counts >= FEWEST_PATCHES) & (sample.images >= FEWEST_IMAGES)).nonzero()[:, 0]
    if len(fitted) < 2:
        problem = "the words were not adapted: fewer than two classes have confident patches in enough images"
        return replace(text, notes=(*text.notes, problem))
    x, labels = torch.cat(found), torch.repeat_interleave(torch.arange(len(found)), counts)
    weights = 1 / counts.clamp(min=int(counts[fitted].min()))[labels][:, None]  # rare classes count as others, not more
    weights = weights / weights.sum()
    own = F.one_hot(labels, len(text)).float()[:, fitted]
    gram = (x * weights).T @ x + RIDGE * torch.eye(x.shape[1])
    vectors = F.normalize(torch.linalg.solve(gram, (x * weights).T @ own).T, dim=-1)

    inside, outside = _means(x @ vectors.T, own, weights)
    slopes = (inside - outside).clamp(min=1e-4) ** -EVENNESS[refine]
    before = [value.mean() for value in _means(class_scores(x, text)[:, fitted], own, weights)]
    after = [(slopes * value).mean() for value in (inside, outside)]
    scale = (before[0] - before[1]) / (after[0] - after[1])
    offset = before[1] - scale * after[1]
    images = float(sample.images[fitted].median())
    share = min(1.0, (images - FEWEST_IMAGES) / (ENOUGH_IMAGES - FEWEST_IMAGES))
    words, offsets = (values[fitted] for values in class_vectors(text))
    mixed = share * scale * slopes[:, None] * vectors + (1 - share) * words
    calibration = torch.stack([mixed.norm(dim=1), share * offset + (1 - share) * offsets], dim=1)
    calibration[:, 1] += _threshold_offset(sample, fitted, mixed, calibration[:, 1])
    changed = {label: (F.normalize(mixed[[i]], dim=-1), calibration[[i]]) for i, label in enumerate(fitted.tolist())}
    kept = ", ".join(name for label, name in enumerate(text.names) if label not in changed)
    note = (f"these classes kept their word, because too few images show them clearly: {kept}",) if kept else ()
    return replace_classes(text, changed, (*text.notes, *note))


def _threshold_offset(sample: PatchSample, fitted: Tensor, vectors: Tensor, offsets: Tensor) -> float:
    """What to add to the (K,) offsets so that as many of all patches reach the threshold as with the words."""
    patches = sample.everything
    before = class_scores(patches, sample.text)[:, fitted].amax(1)
    after = (patches @ vectors.T + offsets).amax(1)
    below = float((before < sample.threshold).float().mean())
    return sample.threshold - float(after.quantile(below))


def _best_two(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best score, the second best (or -1) and the label of each patch."""
    if scores.shape[1] == 1:
        return scores[:, 0], torch.full_like(scores[:, 0], -1), torch.zeros(len(scores), dtype=torch.long)
    values, labels = scores.topk(2, dim=1)
    return values[:, 0], values[:, 1], labels[:, 0]


def _means(scores: Tensor, own: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) mean scores of each class on its own patches, and on the others with equal weight per class."""
    other = (1 - own) * weights
    return (scores * own).sum(0) / own.sum(0), (scores * other).sum(0) / other.sum(0)
