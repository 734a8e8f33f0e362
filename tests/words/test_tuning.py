"""Words fitted to corrected masks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from wordlike import D, T, patches_of, words

from talk2dino.errors import InputError
from talk2dino.fitting import NONE, UNKNOWN, label_patches
from talk2dino.types import ImageFeatures
from talk2dino.words import tuning
from talk2dino.words.classes import class_scores
from talk2dino.words.tuning import LabelledPatches, tune


def images(count=5):
    """Patches of three classes that look otherwise than their words say, and of something else (-1)."""
    text, other = words(3), words(4, seed=9)
    looks = text.embeddings + 0.95 * text.embeddings.roll(1, 0) + 0.9 * other.embeddings[:3]
    moved = torch.cat([F.normalize(looks, dim=1), other.embeddings[3:]])
    found = []
    for i in range(count):
        labels = torch.arange(4).repeat_interleave(23)
        source = type(text)(tuple("abcd"), moved)
        found.append(
            LabelledPatches(patches_of(source, labels, noise=0.5, seed=i), torch.where(labels == 3, -1, labels))
        )
    return text, found


def accuracy(text, found):
    known = torch.cat([image.labels for image in found])
    scores = class_scores(torch.cat([image.patches for image in found]), text)
    return float((scores.argmax(1) == known)[known >= 0].float().mean()), scores, known


def test_one_round_is_ridge_regression_with_the_words_as_prior(monkeypatch):
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "PENALTIES", (0.03,))
    text, found = images()
    tuned, penalty = tune(text, found, T)
    assert penalty == 0.03
    x = torch.cat([image.patches for image in found]).double()
    labels = torch.cat([image.labels for image in found])
    a = torch.diag((1 / torch.bincount(labels + 1))[labels + 1] / 4).double()
    prior = text.embeddings.double()
    scores = x @ prior.T
    own = F.one_hot(labels + 1, 4)[:, 1:].bool()
    targets = torch.where(own, scores.clamp(min=1.5 * T), scores.clamp(max=0.6 * T))
    for k in range(3):  # argmin of the quadratic: its gradient is zero
        v = (tuned.embeddings[k] * tuned.calibration[k, 0]).double()
        gradient = x.T @ a @ (x @ v - targets[:, k]) + 0.03 * (v - prior[k])
        assert float(gradient.abs().max()) < 1e-5
    assert tuned.calibration[:, 1].tolist() == [0, 0, 0]


def test_tuned_words_are_better_and_on_the_same_scale():
    text, found = images()
    _, later = images(9)
    before, _, _ = accuracy(text, later[5:])
    tuned, _ = tune(text, found, T)
    after, scores, known = accuracy(tuned, later[5:])
    assert after > before + 0.1
    own = F.one_hot(known.clamp(min=0), 3).bool() & (known >= 0)[:, None]
    assert float((scores[own] > T).float().mean()) > 0.8
    assert float((scores[~own] < T).float().mean()) > 0.8


def test_classes_without_a_mask_keep_their_word():
    text, found = images()
    some = [LabelledPatches(image.patches[image.labels != 1], image.labels[image.labels != 1]) for image in found]
    tuned, _ = tune(text, some, T)
    torch.testing.assert_close(tuned.embeddings[1], text.embeddings[1])
    assert tuned.calibration[1].tolist() == [1, 0]
    assert tuned.notes == ("these classes are in none of the masks and were not tuned: b",)
    with pytest.raises(InputError, match="none of the masks covers a patch"):
        tune(text, [LabelledPatches(torch.zeros(5, D), torch.full((5,), -1))], T)
    assert tune(text, found[:1], T)[1] == tuning.ONE_IMAGE


def test_the_penalty_grows_when_the_images_disagree():
    text, found = images()
    generator = torch.Generator().manual_seed(0)
    wrong = [
        LabelledPatches(image.patches, torch.randint(3, image.labels.shape, generator=generator)) for image in found
    ]
    assert tune(text, found, T)[1] < tune(text, wrong, T)[1]


def test_patches_are_labelled_where_a_class_covers_half_of_them():
    labels = np.full((35, 77), UNKNOWN)
    labels[:7, :11] = 2  # the whole of patch (0, 0), 4/7 of (0, 1)
    labels[7:10, :7] = 0  # 3/7 of (1, 0)
    labels[28:, 70:] = NONE
    patches = torch.randn(1, 5, 11, D)
    features = ImageFeatures(patches, (35, 77))
    found = label_patches(labels, features, patches)
    assert found.labels.tolist() == [2, 2, NONE]
    assert torch.equal(found.patches, patches[0][[0, 0, 4], [0, 1, 10]])
    assert len(label_patches(np.full((35, 77), UNKNOWN), features, patches).labels) == 0
