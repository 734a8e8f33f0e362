"""Similarity, cleaning, windows and strips against literal few-line versions; batches against one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from talk2dino.errors import InputError, ShapeError
from talk2dino.stages.background import clean_background
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.stages.upsample import Resize, label_pixels, resized_rows
from talk2dino.stages.windows import average_windows, full_batches, window_boxes

B, H, W, D, M, N = 2, 5, 7, 11, 3, 4


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(B, H, W, D, generator=generator)
    attention = torch.randn(B, M, H, W, generator=generator)
    classes = torch.randn(N, D, generator=generator)
    return patches, attention, classes


def test_similarity_is_the_cosine(values):
    patches, _, classes = values
    scores = cosine_similarity(patches, classes * 3)
    assert scores.shape == (B, N, H, W)
    expected = F.cosine_similarity(patches[1, 4, 6], classes[2], dim=0)
    assert scores[1, 2, 4, 6] == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ShapeError, match="11"):
        cosine_similarity(patches, classes[:, :9])


def test_other_prompts_never_change_a_score(values):
    patches, _, classes = values
    alone = cosine_similarity(patches, classes[2:3])
    assert torch.allclose(cosine_similarity(patches, classes[[3, 2, 0]])[:, 1:2], alone, atol=1e-6)


def test_paper_cleaning_by_hand(values):
    """lambda S + (1 - lambda) sum_i R_ij A_i, head embeddings from the softmax, loop by loop."""
    patches, attention, classes = values
    scores = cosine_similarity(patches, classes)
    cleaned = clean_background(scores, patches, attention, classes, variant="paper", weight=0.7)
    for j in range(N):
        heads = []
        for i in range(M):
            weights = attention[1, i].reshape(-1).softmax(0)
            pooled = (weights[:, None] * patches[1].reshape(-1, D)).sum(0)
            heads.append(F.cosine_similarity(pooled, classes[j], dim=0))
        share = torch.stack(heads).softmax(0)
        focus = sum(share[i] * attention[1, i] for i in range(M))
        assert torch.allclose(cleaned[1, j], 0.7 * scores[1, j] + 0.3 * focus, atol=1e-5)


@pytest.mark.parametrize("variant", ["published", "paper"])
def test_cleaning_works_per_picture(values, variant):
    patches, attention, classes = values
    scores = torch.sigmoid(cosine_similarity(patches, classes))
    together = clean_background(scores, patches, attention, classes, variant=variant)
    for i in range(B):
        one = clean_background(scores[i : i + 1], patches[i : i + 1], attention[i : i + 1], classes, variant=variant)
        assert torch.allclose(together[i : i + 1], one, atol=1e-6)


def test_cleaning_errors(values):
    patches, attention, classes = values
    scores = cosine_similarity(patches, classes)
    with pytest.raises(InputError, match="other"):
        clean_background(scores, patches, attention, classes, variant="other")
    with pytest.raises(ShapeError):
        clean_background(scores, patches, attention[:, :, :4], classes)


def test_windows_cover_and_shift_back():
    assert window_boxes(10, 17, 8, 4) == [
        (0, 0, 8, 8), (0, 4, 8, 12), (0, 8, 8, 16), (0, 9, 8, 17),
        (2, 0, 10, 8), (2, 4, 10, 12), (2, 8, 10, 16), (2, 9, 10, 17),
    ]  # fmt: skip
    assert window_boxes(5, 6, 8, 4) == [(0, 0, 5, 6)]
    assert window_boxes(1, 3, 1, 1) == [(0, 0, 1, 1), (0, 1, 1, 2), (0, 2, 1, 3)]
    assert window_boxes(8, 8, 8, 8) == [(0, 0, 8, 8)]
    for wrong in ((5, 6, 8, 9), (0, 6, 8, 4), (5, 0, 8, 4), (5, 6, 0, 0), (5, 6, 8, 0)):
        with pytest.raises(InputError, match="positive sizes and a stride of at most the window"):
            window_boxes(*wrong)


def test_windows_average_as_a_literal_loop():
    boxes = window_boxes(10, 17, 8, 4)
    parts = [torch.rand(3, b - t, r - l) for t, l, b, r in boxes]
    averaged = average_windows(iter(parts), boxes, (10, 17))
    for y, x in ((0, 0), (5, 10), (9, 16)):
        covering = [
            p[:, y - t, x - l] for p, (t, l, b, r) in zip(parts, boxes, strict=True) if t <= y < b and l <= x < r
        ]
        assert torch.allclose(averaged[:, y, x], torch.stack(covering).mean(0), atol=1e-6)
    with pytest.raises(ShapeError, match="cover"):
        average_windows(iter(parts[:1]), boxes[:1], (10, 17))
    with pytest.raises(ShapeError, match="do not cover the picture of 10 x 17"):
        average_windows(iter([]), [], (10, 17))
    with pytest.raises(ShapeError, match=r"the map of window \(0, 0, 8, 8\) is \(8, 7\)"):
        average_windows(iter([torch.zeros(3, 8, 7)]), boxes[:1], (10, 17))
    assert average_windows(iter(part.double() for part in parts), boxes, (10, 17)).dtype == torch.float32


def test_batches_are_full_but_for_the_last():
    windows = [torch.full((3, 2), float(n)) for n in range(7)]
    found = list(full_batches(iter(windows), 3))
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert torch.equal(torch.cat(found), torch.stack(windows))


@pytest.mark.parametrize("size", [(31, 43), (3, 2), (1, 1), (5, 7)])
def test_strips_equal_whole_resizes(size, monkeypatch):
    maps = torch.rand(N, H, W)
    chain = [Resize(19, 23, True), Resize(*size, False)]
    whole = F.interpolate(
        F.interpolate(maps[None], (19, 23), mode="bilinear", align_corners=True), size, mode="bilinear"
    )[0]
    assert torch.allclose(resized_rows(maps, chain, 0, size[0]), whole, atol=1e-5)
    monkeypatch.setattr("talk2dino.stages.upsample.STRIP_VALUES", 100)
    before = maps.clone()
    assert torch.equal(label_pixels(maps, chain), whole.argmax(0).int())
    label_pixels(maps, [], torch.full((N,), 0.5))
    assert torch.equal(maps, before)


def test_background_and_negative_prompts():
    maps = torch.tensor([[[0.9, 0.2, 0.4]], [[0.1, 0.3, 0.5]], [[0.0, 0.0, 0.6]]])
    assert label_pixels(maps, []).tolist() == [[0, 1, 2]]
    assert label_pixels(maps, [], torch.tensor([0.35, 0.35, 0.35])).tolist() == [[1, 0, 3]]
    assert label_pixels(maps, [], torch.tensor([0.95, 0.25, 0.7])).tolist() == [[0, 2, 2]]
    assert label_pixels(maps, [], None, negative=1).tolist() == [[1, 2, 0]]
    assert label_pixels(maps, [], torch.tensor([0.35, 0.35, 0.35]), negative=1).tolist() == [[1, 0, 0]]
    assert label_pixels(maps, [], torch.full((3,), 0.9)).tolist() == [[0, 0, 0]]  # a tie is background
