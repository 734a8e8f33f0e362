"""Words fitted to patches without labels: against the formula written out, and what it must not break."""

import pytest
import torch
import torch.nn.functional as F
from wordlike import D, T, patches_of, words

from talk2dino.types import TextFeatures
from talk2dino.words.adaptation import FEWEST_PATCHES, PatchSample, adapt
from talk2dino.words.classes import class_scores


def sampled(text, patches, images=67):
    sample = PatchSample(text, T)
    for start in range(images):
        sample.add(patches[start::images])
    return sample


def test_adapted_words_are_the_formula_written_out():
    text = words(3)
    patches = patches_of(text, torch.arange(3).repeat_interleave(307))
    found = adapt(sampled(text, patches))

    half = patches.half().float()
    scores = patches @ text.embeddings.T
    best, labels = scores.max(1)
    margins = best - scores.topk(2, dim=1).values[:, 1]
    rows, targets, weights = [], [], []
    for k in range(3):
        own = ((labels == k) & (best >= T)).nonzero()[:, 0]
        own = own[margins[own].argsort(descending=True)[: int(0.9 * len(own))]]
        rows.append(half[own])
        targets.append(F.one_hot(torch.full((len(own),), k), 3).float())
        weights.append(torch.full((len(own),), 1 / (3 * len(own))))
    x, y, a = torch.cat(rows).double(), torch.cat(targets).double(), torch.cat(weights).double()
    vectors = torch.linalg.solve(x.T @ torch.diag(a) @ x + 1e-5 * torch.eye(D), x.T @ torch.diag(a) @ y).T
    vectors = F.normalize(vectors, dim=1)
    torch.testing.assert_close(found.embeddings, vectors.float(), atol=2e-3, rtol=0)

    cosines = x @ vectors.T
    contrast = torch.stack([cosines[y[:, k] == 1, k].mean() - cosines[y[:, k] == 0, k].mean() for k in range(3)])
    slopes = found.calibration[:, 0]
    torch.testing.assert_close(slopes / slopes[0], (contrast / contrast[0]).float() ** -0.25, atol=0.05, rtol=0)
    assert len(set(found.calibration[:, 1].tolist())) == 1  # one offset: no class is favoured


def test_scores_stay_on_the_scale_of_the_words():
    text = words(4)
    patches = patches_of(text, torch.arange(4).repeat_interleave(402), noise=1.2)  # not all of them reach the threshold
    labels = class_scores(patches, text).argmax(1)
    own = F.one_hot(labels, 4).bool()
    for refine in (False, True):
        found = adapt(sampled(text, patches), refine=refine)
        before, after = class_scores(patches, text), class_scores(patches, found)
        reach = float((before.amax(1) >= T).float().mean())
        assert 0.5 < reach < 0.97
        assert float((after.amax(1) >= T).float().mean()) == pytest.approx(reach, abs=0.005)
        contrast = [float(scores[own].mean() - scores[~own].mean()) for scores in (before, after)]
        assert contrast[1] == pytest.approx(contrast[0], abs=0.08)


def test_few_images_give_a_mixture_with_the_words():
    text = words(3)
    patches = patches_of(text, torch.arange(3).repeat_interleave(307))
    full, some = (adapt(sampled(text, patches, images)) for images in (67, 35))
    before, after, between = (class_scores(patches, one) for one in (text, full, some))
    apart = between - (before + after) / 2  # (35 - 10) / (60 - 10) of the way, but for the offset
    torch.testing.assert_close(apart, apart.mean().expand_as(apart), atol=1e-4, rtol=0)


def test_words_that_are_not_there_are_kept():
    text = words(4, negative=1, notes=("a note",))
    patches = patches_of(text, torch.tensor([0, 1, 3]).repeat_interleave(211), noise=0.1)
    found = adapt(sampled(text, patches))
    torch.testing.assert_close(found.embeddings[2], text.embeddings[2])
    assert found.calibration[2].tolist() == [1, 0]
    assert not torch.allclose(found.embeddings[0], text.embeddings[0], atol=0.01)
    assert (found.names, found.negative) == (text.names, 1)
    assert found.notes == ("a note", "these classes kept their word, because too few images show them clearly: c")


def test_too_few_patches_change_nothing():
    text = words(3)
    few = FEWEST_PATCHES // 2
    found = adapt(sampled(text, patches_of(text, torch.arange(3).repeat_interleave(few))))
    assert torch.equal(found.embeddings, text.embeddings)
    assert "the words were not adapted" in found.notes[0]
    enough = patches_of(text, torch.arange(3).repeat_interleave(200))
    sample = PatchSample(text, T)
    for part in enough.split(100):  # 6 images
        sample.add(part)
    assert "not adapted" in adapt(sample).notes[0]
    one = words(1)
    assert "not adapted" in adapt(sampled(one, patches_of(one, torch.zeros(300, dtype=torch.long)))).notes[0]


def test_the_sample_is_bounded_and_even():
    text = words(2)
    sample = sampled(text, torch.zeros(0, D))
    sample.most = 150
    for start in range(0, 3000, 100):  # the patches carry their number
        rows = text.embeddings[[0]].repeat(100, 1)
        rows[:, 1] += torch.arange(start, start + 100) * 1e-4
        sample.add(F.normalize(rows, dim=1))
    kept = sample.confident(0)
    assert len(kept) == 135
    numbers = (kept[:, 1] / kept[:, 0] - text.embeddings[0, 1] / text.embeddings[0, 0]) * text.embeddings[0, 0] / 1e-4
    assert 1000 < float(numbers.mean()) < 2000  # neither the first patches nor the last


def test_classes_with_several_embeddings_get_one():
    text = words(3)
    several = TextFeatures(
        ("a", "b"), text.embeddings, space="s", counts=(2, 1), calibration=torch.tensor([[1.0, 0]] * 3)
    )
    found = adapt(sampled(several, patches_of(text, torch.arange(3).repeat_interleave(211), noise=0.2)))
    assert (found.counts, found.embeddings.shape) == ((), (2, D))
