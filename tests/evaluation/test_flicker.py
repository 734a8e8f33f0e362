"""Flicker, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from talk2dino.evaluation.flicker import Flicker, flicker_along_motion, flicker_in_place


def test_only_where_the_truth_stands_still():
    truth = np.array([[0, 0, 1], [0, 0, 1]]), np.array([[0, 1, 1], [0, 0, 1]])
    labels = np.array([[0, 0, 1], [0, 2, 1]]), np.array([[2, 1, 1], [0, 2, 0]])
    found = flicker_in_place(*labels, *truth)
    assert (found.changed, found.pixels) == (2, 5)
    assert (found + Flicker(1, 5)).share == pytest.approx(0.3)
    assert Flicker().share == 0


def test_labels_that_move_with_the_content_do_not_flicker():
    """Everything moves one pixel to the right; an error that moves along is no flicker, but it is one in place."""
    before = np.zeros((5, 7), dtype=int)
    before[2, 2] = 3
    after = np.roll(before, 1, axis=1)
    truth, regions = np.zeros_like(before), np.zeros_like(before)
    y, x = np.mgrid[:5, :7].astype(float)
    places = np.stack([x - 1 + 1e-9, y + 1e-9])
    assert flicker_along_motion(before, after, regions, regions, places).changed == 0
    assert flicker_in_place(before, after, truth, truth).changed == 2
    after[3, 5] = 4
    found = flicker_along_motion(before, after, regions, regions, places)
    assert (found.changed, found.pixels) == (1, 4 * 6)  # those that lie between four pixels of the frame before


def test_content_that_was_covered_does_not_count():
    before, after = np.zeros((5, 7), dtype=int), np.ones((5, 7), dtype=int)
    covered, free = np.zeros_like(before), np.zeros_like(before)
    covered[2, 3] = 1
    y, x = np.mgrid[:5, :7].astype(float)
    found = flicker_along_motion(before, after, covered, free, np.stack([x, y]))
    assert (found.changed, found.pixels) == (20, 20)
    assert flicker_along_motion(before, after, free, free, np.full((2, 5, 7), np.nan)) == Flicker()
