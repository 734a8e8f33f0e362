"""Films of the world: reproducible, with masks and motion that fit the pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from talk2dino.errors import InputError
from talk2dino.world.films import exact_motion, render_film, render_frame, sample_film
from talk2dino.world.scene import render, sample_scene

SEED = 20_000_000


def test_the_same_seed_gives_the_same_film():
    first, second = (sample_film(SEED, frames=10) for _ in range(2))
    assert first == second
    assert first != sample_film(SEED + 1, frames=10)
    np.testing.assert_array_equal(render_frame(first, 7, 41).image, render_frame(second, 7, 41).image)
    assert len(list(render_film(first, 13))) == len(first) == 10


def test_shots_are_cut_and_one_of_two_pans():
    film = sample_film(SEED, frames=11)
    assert [shot.frames for shot in film.shots] == [5, 6]
    assert sorted(shot.pan == (0.0, 0.0) for shot in film.shots) == [False, True]
    images = [frame.image.astype(int) for frame in render_film(film, 48)]
    change = [np.abs(after - before).mean() for before, after in pairwise(images)]
    assert np.argmax(change) == 4
    assert change[4] > 2 * sorted(change)[-2]
    with pytest.raises(InputError, match="frames 0 to 10"):
        render_frame(film, 11)


def test_noise_is_new_in_each_frame_and_textures_are_not():
    film = sample_film(SEED, frames=8)
    still = next(i for i, shot in enumerate(film.shots) if shot.pan == (0.0, 0.0)) * 4
    one, two = (render_frame(film, number, 48, noise=0).image.astype(int) for number in (still, still + 1))
    assert (np.abs(one - two).max(axis=2) == 0).mean() > 0.5
    assert (render_frame(film, still, 48).image != render_frame(film, still + 1, 48).image).mean() > 0.5


@pytest.mark.parametrize("number", [3, 9])
def test_motion_leads_to_the_same_content(number):
    film = sample_film(SEED + 5, frames=12)
    before, after = (render_frame(film, i, 96, noise=0) for i in (number - 1, number))
    x, y = exact_motion(film, number, after.regions)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (column >= 0) & (column < 144) & (row >= 0) & (row < 96)
    row, column = row.clip(0, 95), column.clip(0, 143)
    assert (before.regions[row, column] == after.regions)[inside].mean() > 0.97
    still = np.abs(before.image.astype(int) - after.image)[inside].mean()
    assert np.abs(before.image[row, column].astype(int) - after.image)[inside].mean() < 0.85 * still
    assert np.isnan(exact_motion(film, 6, after.regions)).all()


def test_stills_are_as_before():
    np.testing.assert_array_equal(
        render(sample_scene(3), 24).image, render(sample_scene(3), 24, camera=(0.0, 0.0)).image
    )
