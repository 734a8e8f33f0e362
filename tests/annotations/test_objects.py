"""Objects of a label map: classes or connected parts, smallest area, scores, splitting; the value that holds them."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from talk2dino.annotations.objects import Evidence, ObjectOptions, find_objects
from talk2dino.annotations.parts import connected_parts
from talk2dino.annotations.peaks import edge_distance, split_at_peaks
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject
from talk2dino.errors import DataError, InputError
from talk2dino.io.rle import compress

NAMES = ("background", "sky", "car")


@pytest.fixture
def labels():
    drawn = np.zeros((31, 43), dtype=np.int32)
    drawn[:9] = 1
    drawn[13:24, 3:17] = 2
    drawn[16:19, 6:11] = 0  # a hole
    drawn[15:22, 29:40] = 2
    drawn[28, 5:8] = 2  # three pixels
    return drawn


def test_one_object_per_class(labels):
    found = find_objects(labels, NAMES, 0, ObjectOptions())
    assert [one.name for one in found] == ["sky", "car"]
    assert all(np.array_equal(one.mask, labels == value) for value, one in zip((1, 2), found, strict=True))
    everything = find_objects(labels, NAMES, None, ObjectOptions())
    assert [one.name for one in everything] == list(NAMES)


def test_one_object_per_connected_part_from_large_to_small_with_holes(labels):
    found = find_objects(labels, NAMES, 0, ObjectOptions(instances=True))
    assert [(one.name, one.area) for one in found] == [("sky", 387), ("car", 139), ("car", 77), ("car", 3)]
    assert found[1].box == (3, 13, 14, 11)
    assert not found[1].mask[17, 8]
    parts, _ = ndimage.label(labels == 2)
    assert np.array_equal(found[2].mask, parts == parts[18, 35])


@pytest.mark.parametrize("instances", [True, False])
def test_small_parts_are_left_out(labels, instances):
    found = find_objects(labels, NAMES, 0, ObjectOptions(instances=instances, smallest_area=4))
    cars = [one for one in found if one.name == "car"]
    assert len(cars) == (2 if instances else 1)
    assert sum(one.area for one in cars) == 139 + 77
    assert not find_objects(labels, NAMES, 0, ObjectOptions(instances=instances, smallest_area=4000))


def test_the_score_is_the_mean_margin(labels):
    margin = np.random.default_rng(1).random(labels.shape).astype(np.float32)
    for one in find_objects(labels, NAMES, 0, ObjectOptions(instances=True), evidence=Evidence(margin)):
        assert one.score == pytest.approx(margin[one.mask].mean(), rel=1e-5)
    assert find_objects(labels, NAMES, 0, ObjectOptions())[0].score is None


def test_run_lengths_are_those_of_pycocotools(labels):
    for one in find_objects(labels, NAMES, 0, ObjectOptions(instances=True)):
        theirs = coco_mask.encode(np.asfortranarray(one.mask.astype(np.uint8)))
        assert one.rle == theirs["counts"].decode()
        assert AnnotatedObject.of_mask("x", one.mask).rle == one.rle
        assert one.box == tuple(coco_mask.toBbox(theirs))


def two_discs():
    rows, columns = np.indices((64, 96))
    left, right = (np.hypot(rows - 32, columns - x) for x in (30, 62))
    return (np.minimum(left, right) < 20).astype(np.int32), np.minimum(left, right)


def test_touching_objects_are_split_between_peaks():
    labels, distance = two_discs()
    attention = -distance.reshape(16, 4, 24, 4).mean((1, 3))
    found = find_objects(
        labels,
        ("none", "ball"),
        0,
        ObjectOptions(instances=True, split="attention"),
        evidence=Evidence(np.zeros(labels.shape), attention),
    )
    assert len(found) == 2
    columns = [np.flatnonzero(one.mask.any(0)) for one in found]
    assert {int(c.mean()) // 46 for c in columns} == {0, 1}
    assert sum(one.area for one in found) == labels.sum()
    flat = np.zeros_like(attention)
    assert (
        len(
            find_objects(
                labels,
                ("none", "ball"),
                0,
                ObjectOptions(instances=True, split="attention"),
                evidence=Evidence(np.zeros(labels.shape), flat),
            )
        )
        == 1
    )


def test_touching_objects_are_split_where_they_are_narrow():
    labels, _ = two_discs()
    found = find_objects(labels, ("none", "ball"), 0, ObjectOptions(instances=True, split="shape"))
    assert len(found) == 2
    assert {int(np.flatnonzero(one.mask.any(0)).mean()) // 46 for one in found} == {0, 1}
    assert sum(one.area for one in found) == labels.sum()
    single = labels * (np.arange(96) < 46)
    assert len(find_objects(single, ("none", "ball"), 0, ObjectOptions(instances=True, split="shape"))) == 1


@pytest.mark.parametrize("size", [(17, 23), (1, 9), (31, 7)])
def test_distances_to_the_edge_are_those_of_scipy(size):
    rng = np.random.default_rng(3)
    parts = connected_parts((ndimage.gaussian_filter(rng.random(size), 2) > 0.5).astype(int))
    found = edge_distance(parts)
    for part in np.unique(parts):
        inside = parts == part
        assert np.allclose(found[inside], ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1][inside])


def test_a_shallow_saddle_splits_nothing():
    labels, distance = two_discs()
    attention = -distance.reshape(16, 4, 24, 4).mean((1, 3))
    assert len(np.unique(split_at_peaks(labels, attention, prominence=0.95))) == 2


def test_later_objects_lie_on_top_and_overlap_is_counted():
    lower, upper = np.zeros((2, 7, 11), dtype=bool)
    lower[1:5, 2:8], upper[3:7, 6:10] = True, True
    image = AnnotatedImage(
        "a.png", (7, 11), (AnnotatedObject.of_mask("sky", lower), AnnotatedObject.of_mask("car", upper))
    )
    expected = np.where(upper, 1, np.where(lower, 0, -1))
    assert np.array_equal(image.labels(["sky", "car"]), expected)
    assert image.overlap() == 4
    with pytest.raises(DataError, match="class 'car', which is not in the list"):
        image.labels(["sky"])
    with pytest.raises(InputError, match="an object of"):
        AnnotatedImage("a.png", (11, 7), image.objects)


def test_a_record_gives_the_image_back(labels):
    image = AnnotatedImage(
        "b/ü.png", labels.shape, find_objects(labels, NAMES, 0, ObjectOptions()), (1, 0, 0, -1, 5, 6)
    )
    again = AnnotatedImage.from_record(image.as_record())
    assert (again.name, again.size, again.world) == (image.name, image.size, image.world)
    assert [(one.name, one.rle) for one in again.objects] == [(one.name, one.rle) for one in image.objects]


def test_runs_of_length_zero_do_not_count_for_the_box():
    one = AnnotatedObject("sky", (5, 7), compress([0, 0, 12, 2, 10, 0, 11]))
    assert (one.area, one.box, one.crop.tolist()) == (2, (2, 2, 1, 2), [[True], [True]])
    assert np.count_nonzero(one.mask) == 2


def test_an_empty_object():
    empty = AnnotatedObject.of_mask("sky", np.zeros((5, 3), dtype=bool))
    assert (empty.area, empty.box) == (0, (0, 0, 0, 0))
    assert not empty.mask.any()
