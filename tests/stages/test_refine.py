"""PAMR: golden values, the fast kernel against the plain version, a case worked by hand, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talk2dino.errors import InputError, ShapeError
from talk2dino.stages.refine import affinities, refine, refine_plain


@pytest.mark.parametrize("name", ["tiny_reg", "tiny_noreg"])
def test_golden(reference, name):
    _, outputs = reference(name)
    pixels = torch.from_numpy(outputs["image_rgb"])[None].float()
    refined = refine(torch.from_numpy(outputs["mask_background_cleaned"]), pixels)
    assert (refined - torch.from_numpy(outputs["mask_background_cleaned_pamr"])).abs().max() < 1e-4


@pytest.mark.parametrize(("classes", "height", "width"), [(1, 1, 1), (3, 5, 7), (20, 31, 53), (37, 29, 23)])
def test_fast_equals_plain(classes, height, width):
    generator = torch.Generator().manual_seed(classes)
    masks = torch.rand(2, classes, height, width, generator=generator)
    pixels = torch.rand(2, 3, height, width, generator=generator) * 255
    assert (refine(masks, pixels) - refine_plain(masks, pixels)).abs().max() < 1e-5


def test_batch_equals_one_by_one():
    masks, pixels = torch.rand(3, 5, 17, 19), torch.rand(3, 3, 17, 19) * 255
    together = refine(masks, pixels)
    for i in range(3):
        assert (together[i : i + 1] - refine(masks[i : i + 1], pixels[i : i + 1])).abs().max() < 1e-6


def test_what_a_larger_picture_left_in_memory_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    for classes, height, width in [(30, 61, 67), (3, 19, 23), (9, 30, 21)]:
        masks = torch.rand(1, classes, height, width, generator=generator) * 1e6
        pixels = torch.rand(1, 3, height, width, generator=generator) * 255
        assert (refine(masks, pixels) / 1e6 - refine_plain(masks, pixels) / 1e6).abs().max() < 1e-5


def test_constant_mask_stays_and_weights_sum_to_one():
    pixels = torch.rand(1, 3, 11, 13) * 255
    assert torch.allclose(refine(torch.full((1, 2, 11, 13), 0.37), pixels), torch.full((1, 2, 11, 13), 0.37), atol=1e-5)
    weights = affinities(pixels)
    total = weights.sum(1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_flat_picture_averages_neighbours():
    """On one colour all affinities are equal: one step at dilation 1 is the mean of the eight neighbours."""
    masks = torch.zeros(1, 1, 5, 5)
    masks[0, 0, 2, 2] = 8.0
    stepped = refine_plain(masks, torch.full((1, 3, 5, 5), 90.0), iterations=1, dilations=(1,))
    expected = np.zeros((5, 5), dtype=np.float32)
    expected[1:4, 1:4] = 1.0
    expected[2, 2] = 0.0
    assert np.allclose(stepped[0, 0].numpy(), expected, atol=1e-6)


def test_errors():
    with pytest.raises(ShapeError, match="5, 7"):
        refine(torch.rand(1, 2, 5, 7), torch.rand(1, 3, 7, 5))
    with pytest.raises(InputError):
        refine(torch.rand(1, 2, 5, 7), torch.rand(1, 3, 5, 7), iterations=-1)
