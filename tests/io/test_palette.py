"""A class keeps its colour, no two classes share one, and different colours are distinguishable."""

from __future__ import annotations

import numpy as np
import pytest

from talk2dino.errors import InputError
from talk2dino.io.palette import BACKGROUND_COLOUR, class_palette

NAMES = [f"class {i}" for i in range(1000)]


def colours(names, background=None):
    return dict(zip(names, map(tuple, class_palette(names, background).tolist()), strict=True))


@pytest.mark.parametrize("count", [2, 7, 20, 21, 150, 1000])
def test_the_order_of_the_names_does_not_matter(count):
    names = NAMES[:count]
    shuffled = np.random.default_rng(count).permutation(names).tolist()
    assert colours(names) == colours(shuffled)
    with_background = colours(["background", *shuffled], background=0)
    assert with_background.pop("background") == BACKGROUND_COLOUR
    assert with_background == colours(names)


def test_colours_do_not_depend_on_the_process_or_version():
    assert colours(["sky", "grass", "天空"]) == {"sky": (86, 180, 233), "grass": (150, 195, 120), "天空": (0, 158, 115)}


def test_another_class_changes_few_colours():
    changed = 0
    for first in range(0, 900, 9):
        before, after = colours(NAMES[first : first + 6]), colours(NAMES[first : first + 7])
        changed += sum(before[name] != after[name] for name in before)
    assert changed < 0.15 * 600


@pytest.mark.parametrize("count", [0, 1, 20, 21, 300, 1001, 20_000])
def test_no_colour_twice(count):
    names = [f"名 {i}" for i in range(count)]
    palette = class_palette(names, background=count // 2 if count else None)
    assert (palette.shape, palette.dtype) == ((count, 3), np.uint8)
    assert len(np.unique(palette, axis=0)) == count


def test_equal_names_and_letter_case():
    assert len({*map(tuple, class_palette(["sky", "sky", "Sky"]).tolist())}) == 3
    assert class_palette(["SKY"]).tolist() == class_palette(["sky"]).tolist()


def test_up_to_twenty_classes_are_far_apart():
    palette = class_palette(NAMES[:20]).astype(float)
    apart = np.linalg.norm(palette[:, None] - palette[None], axis=2)[~np.eye(20, dtype=bool)]
    assert apart.min() > 40


def test_no_colour_is_lost_on_white_or_black():
    share = class_palette(NAMES) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert luminance.min() > 0.03
    assert luminance.max() < 0.93


@pytest.mark.parametrize(("count", "background"), [(3, 3), (3, -1), (0, 0)])
def test_a_background_out_of_range(count, background):
    with pytest.raises(InputError, match=f"background {background}"):
        class_palette(NAMES[:count], background)
