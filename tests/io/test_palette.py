"""Colours that stay with their class and are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from talk2dino.errors import InputError
from talk2dino.io.palette import BACKGROUND_COLOUR, class_palette, relative_luminance


def test_a_class_keeps_its_colour():
    thousand = class_palette(1000)
    assert thousand.shape == (1000, 3)
    assert thousand.dtype == np.uint8
    for count in (0, 1, 7, 20, 21, 333):
        assert np.array_equal(class_palette(count), thousand[:count])
        assert np.array_equal(class_palette(count + 1, background=0)[1:], thousand[:count])


def test_no_colour_twice_and_the_background_is_grey():
    colours = class_palette(1001, background=500)
    assert len({tuple(colour) for colour in colours.tolist()}) == 1001
    assert tuple(colours[500]) == BACKGROUND_COLOUR


def test_neighbours_differ():
    colours = class_palette(300).astype(float)
    assert np.linalg.norm(colours[1:] - colours[:-1], axis=1).min() > 60
    first = class_palette(20).astype(float)
    apart = np.linalg.norm(first[:, None] - first[None], axis=2)[~np.eye(20, dtype=bool)]
    assert apart.min() > 40


def test_no_colour_is_lost_on_white_or_black():
    luminance = relative_luminance(class_palette(1000))
    assert luminance.min() > 0.03
    assert luminance.max() < 0.93
    assert relative_luminance(np.array([[0, 0, 0], [255, 255, 255]])) == pytest.approx([0, 1])


@pytest.mark.parametrize(("count", "background"), [(-1, None), (3, 3), (3, -1), (0, 0)])
def test_out_of_range(count, background):
    with pytest.raises(InputError, match="palette"):
        class_palette(count, background)
