"""Label maps and images that the tests of all formats share."""

from __future__ import annotations

import numpy as np
import pytest

from talk2dino.annotations.objects import Evidence, ObjectOptions, find_objects
from talk2dino.annotations.types import AnnotatedImage, Annotations

CLASSES = ("sky", "grün & <tree>", "car")
SIZES = ((37, 53), (61, 41), (29, 83))


def draw_labels(seed: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) values 0 (background) to 3: blobs with holes, specks, and areas that touch the border."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, dtype=np.int32)
    for value in (1, 2, 3):
        y, x, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(9, 19)
        distance = np.hypot(rows - y, columns - x)
        labels[distance < radius] = value
        labels[distance < radius / 3] = 0
    labels[3:5, 7:12] = 3
    labels[5, 12] = 3  # touches at a corner only
    return labels


def annotated(seed: int, size: tuple[int, int], name: str, instances: bool) -> AnnotatedImage:
    labels = draw_labels(seed, size)
    margin = np.linspace(0.1, 0.3, labels.size).reshape(size)
    options = ObjectOptions(instances=instances)
    return AnnotatedImage(
        name, size, find_objects(labels, ("background", *CLASSES), 0, options, evidence=Evidence(margin))
    )


@pytest.fixture(params=[False, True], ids=["classes", "instances"])
def data(request) -> Annotations:
    """Three images of three sizes, one of them in a folder, one with a name that is not ASCII."""
    names = ("a.png", "b/ü 2.jpg", "c.png")
    images = (
        annotated(seed, size, name, request.param) for seed, (size, name) in enumerate(zip(SIZES, names, strict=True))
    )
    return Annotations(CLASSES, tuple(images))


def same_masks(one: AnnotatedImage, other: AnnotatedImage) -> bool:
    """The same objects of the same classes, in any order."""
    keys = [sorted((o.name, o.compressed) for o in image.objects) for image in (one, other)]
    return one.size == other.size and keys[0] == keys[1]
