"""Masks to polygons and back: exact, within a tolerance, within a bound on the IoU."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from talk2dino.annotations.fill import fill_polygons
from talk2dino.annotations.outlines import (
    OutlineOptions,
    bridge_holes,
    mask_polygons,
    object_polygons,
    polygon_iou,
    signed_area,
    simplify_ring,
)
from talk2dino.annotations.parts import connected_parts
from talk2dino.annotations.types import AnnotatedObject

SIZES = [(1, 1), (1, 7), (11, 1), (29, 43), (97, 61)]


def masks(size):
    rng = np.random.default_rng(3)
    rows, columns = np.indices(size)
    yield np.zeros(size, dtype=bool)
    yield np.ones(size, dtype=bool)
    yield rng.random(size) < 0.5
    yield (rows + columns) % 13 < 6
    yield (np.hypot(rows - 20, columns - 20) < 17) & (np.hypot(rows - 20, columns - 20) > 5)


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_those_of_scipy(size):
    for mask in masks(size):
        parts = connected_parts(mask.astype(np.int64))
        theirs, count = ndimage.label(mask)
        others, rest = ndimage.label(~mask)
        assert parts.max() + 1 == count + rest
        together = np.where(mask, theirs, -others)
        assert len(np.unique(np.stack([parts, together]).reshape(2, -1), axis=1).T) == count + rest


@pytest.mark.parametrize("size", SIZES)
def test_exact_outlines_give_back_the_pixels_with_holes_and_with_bridges(size):
    for mask in masks(size):
        polygons = mask_polygons(mask)
        assert len(polygons) == ndimage.label(mask)[1]
        assert np.array_equal(fill_polygons(polygons, size), mask)
        assert np.array_equal(fill_polygons([(bridge_holes(polygon),) for polygon in polygons], size), mask)
        assert sum(signed_area(ring) for polygon in polygons for ring in polygon) == mask.sum()


def test_a_ring_has_a_hole():
    *_, ring = masks((41, 43))
    ((outer, hole),) = mask_polygons(ring)
    assert signed_area(outer) > 0 > signed_area(hole)


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.5])
def test_no_corner_of_the_outline_is_farther_than_the_tolerance(tolerance):
    *_, mask = masks((61, 67))
    for exact in mask_polygons(mask)[0]:
        simple = simplify_ring(exact, tolerance)
        assert len(simple) < len(exact) or tolerance < 0.7
        start, along = simple, np.roll(simple, -1, axis=0) - simple
        for point in exact:
            share = np.clip(((point - start) * along).sum(1) / (along**2).sum(1), 0, 1)[:, None]
            assert np.hypot(*(point - start - share * along).T).min() <= tolerance + 1e-9


def test_long_outlines_are_simplified_as_by_the_plain_recursion():
    """Several hundred corners, so that spans of both lengths occur; against the method as Douglas and Peucker state it."""
    mask = ndimage.gaussian_filter(np.random.default_rng(5).random((211, 223)), 4) > 0.5
    exact = max((polygon[0] for polygon in mask_polygons(mask)), key=len)
    assert len(exact) > 200
    exact = exact + np.random.default_rng(6).uniform(0, 0.1, exact.shape)  # so that no two distances are equal

    def kept(points: np.ndarray) -> list[int]:
        start, along = points[0], points[-1] - points[0]
        length = max(1e-12, float(along @ along))
        share = np.clip((points - start) @ along / length, 0, 1)[:, None]
        distances = np.hypot(*(points - start - share * along).T)
        middle = int(distances[1:-1].argmax()) + 1 if len(points) > 2 else 0
        if not middle or distances[middle] <= 1.2:
            return [0]
        return kept(points[: middle + 1]) + [middle + i for i in kept(points[middle:])]

    closed = np.concatenate([exact, exact[:1]])
    far = int(np.hypot(*(exact - exact[0]).T).argmax())
    expected = kept(closed[: far + 1]) + [far + i for i in kept(closed[far:])]
    assert np.array_equal(simplify_ring(exact, 1.2), exact[expected])


@pytest.mark.parametrize("bound", [0.9, 0.98, 0.999])
def test_the_iou_is_bounded_with_fewer_corners_for_lower_bounds(bound):
    *_, mask = masks((61, 67))
    exact, bounded = mask_polygons(mask), mask_polygons(mask, OutlineOptions(iou=bound))
    assert bound <= polygon_iou(mask, bounded)
    corners = [sum(len(ring) for polygon in polygons for ring in polygon) for polygons in (bounded, exact)]
    assert corners[0] < corners[1]
    assert bound < 0.999 or polygon_iou(mask, bounded) > 0.99
    loose = mask_polygons(mask, OutlineOptions(iou=0.8))
    assert sum(len(ring) for polygon in loose for ring in polygon) <= corners[0]


def test_small_parts_survive_any_tolerance():
    mask = np.zeros((11, 13), dtype=bool)
    mask[2, 3] = mask[7:9, 5:7] = True
    polygons = mask_polygons(mask, OutlineOptions(tolerance=50))
    assert np.array_equal(fill_polygons(polygons, mask.shape), mask)


def test_polygons_of_an_object_lie_where_it_lies():
    mask = np.zeros((31, 37), dtype=bool)
    mask[17:23, 5:19] = True
    (polygon,) = object_polygons(AnnotatedObject.of_mask("car", mask))
    assert sorted(map(tuple, polygon[0])) == [(5, 17), (5, 23), (19, 17), (19, 23)]


def test_filling_counts_centres_of_pixels():
    triangle = np.array([[0, 0], [10, 0], [0, 10]])
    rows, columns = np.indices((10, 12))
    assert np.array_equal(fill_polygons([(triangle,)], (10, 12)), rows + columns + 1 < 10)
    far = triangle * 1e6 - 5e5  # most of it is outside the image
    assert fill_polygons([(far,)], (10, 12)).all()
    assert not fill_polygons([(triangle + 50,)], (10, 12)).any()
