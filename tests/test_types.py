"""Values that pass between the stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from talk2dino.errors import InputError, ShapeError
from talk2dino.io.palette import class_palette
from talk2dino.types import Segmentation

H, W = 5, 7


@pytest.fixture
def seg():
    labels = np.zeros((H, W), int)
    labels[0] = 1
    labels[1, 0] = 2
    names = ("background", "天空", "grass", "car")
    return Segmentation(labels, names, class_palette(names, 0), 0, None, "micro", {"mode": "whole"})


def test_equality_is_by_value(seg):
    same = replace(seg, labels=seg.labels.astype(np.uint8), palette=seg.palette.copy(), info=dict(seg.info))
    assert seg == same
    other = seg.labels.copy()
    other[-1, -1] = 3
    scores = np.zeros((4, H, W), np.float32)
    for change in (
        {"labels": other}, {"labels": seg.labels[:, :-1]}, {"palette": seg.palette[::-1]}, {"background": None},
        {"names": ("background", "sky", "grass", "car")}, {"model": "vitb"}, {"info": {}}, {"scores": scores},
    ):  # fmt: skip
        assert seg != replace(seg, **change)
    with_scores = replace(seg, scores=scores)
    assert with_scores == replace(seg, scores=scores.copy())
    assert with_scores != replace(seg, scores=scores + 1)
    assert seg != "a segmentation"
    assert seg in [same]


def test_it_cannot_be_hashed(seg):
    with pytest.raises(TypeError, match="holds arrays and cannot be hashed"):
        hash(seg)


def test_repr_is_one_helpful_line(seg):
    assert repr(seg) == (
        "<Segmentation 5 x 7 (height x width), 4 names, background='background': "
        "background 77.1 %, 天空 20.0 %, grass 2.9 %>"
    )
    many = tuple(f"c{i}" for i in range(30))
    text = repr(Segmentation(np.arange(30).reshape(5, 6), many, class_palette(many), scores=np.zeros((30, 5, 6))))
    assert "30 names, no background, with scores: c0 3.3 %, c1" in text
    assert text.endswith("c5 3.3 %, 24 more>")


def test_shares_and_masks(seg):
    assert list(seg.shares().items()) == [
        ("background", pytest.approx(27 / 35)), ("天空", pytest.approx(0.2)), ("grass", pytest.approx(1 / 35)),
    ]  # fmt: skip
    assert np.argwhere(seg.mask("grass")).tolist() == [[1, 0]]
    assert not seg.mask("car").any()
    with pytest.raises(InputError, match="no class named 'gras' in this segmentation; did you mean grass"):
        seg.mask("gras")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.zeros((1, H, W), int)}, "labels must be"), ({"labels": np.zeros((H, W))}, "labels must be"),
        ({"palette": np.zeros((3, 3), np.uint8)}, "N=4"), ({"scores": np.zeros((4, W, H))}, r"\(4, 5, 7\)"),
    ],
)  # fmt: skip
def test_shapes_are_checked(seg, change, says):
    with pytest.raises(ShapeError, match=says):
        replace(seg, **change)
