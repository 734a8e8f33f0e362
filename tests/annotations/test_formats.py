"""Every format: written, read back by this package, and compared pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from talk2dino.annotations import FORMATS, OutlineOptions, WriteOptions, load_annotations, save_annotations
from talk2dino.annotations.formats import sniff_format
from talk2dino.annotations.types import AnnotatedImage, Annotations
from talk2dino.errors import DataError, InputError

WORLD = (0.5, 0.0, 0.0, -0.25, 1000.125, 2000.5)


@pytest.fixture
def images(data, tmp_path):
    """A folder with the images of the data set."""
    folder = tmp_path / "photos"
    for image in data.images:
        (folder / image.name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", image.size[::-1]).save(folder / image.name)
    return folder


def written(data, name, tmp_path, images, **options):
    target = tmp_path / "out" / FORMATS[name].target
    if name == "geojson":
        with_world = (AnnotatedImage(image.name, image.size, image.objects, WORLD) for image in data.images)
        data = Annotations(data.classes, tuple(with_world))
    assert save_annotations(data, target, name, images=images, options=WriteOptions(**options)) == ()
    return target


@pytest.mark.parametrize("polygons", [False, True], ids=["masks", "polygons"])
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip_is_exact(name, polygons, data, images, tmp_path):
    target = written(data, name, tmp_path, images, polygons=polygons)
    assert sniff_format(target).name == name
    back = load_annotations(target, images=images)
    assert back.classes == data.classes
    assert back.notes == ()
    assert sorted(image.name for image in back.images) == sorted(image.name for image in data.images)
    for image in data.images:
        (again,) = (other for other in back.images if other.name == image.name)
        assert again.size == image.size
        assert np.array_equal(again.labels(data.classes), image.labels(data.classes))
        if name not in ("yolo",) and (name, polygons) != ("label-studio", True):  # they write each part as an object
            assert sorted((one.name, one.area) for one in again.objects) == sorted(
                (one.name, one.area) for one in image.objects
            )


@pytest.mark.parametrize("name", ["coco", "label-studio", "labelme", "geojson"])
def test_scores_come_back(name, data, images, tmp_path):
    back = load_annotations(written(data, name, tmp_path, images), images=images)
    ours = sorted(round(one.score, 6) for image in data.images for one in image.objects)
    assert sorted(one.score for image in back.images for one in image.objects) == ours


@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio", "labelme", "yolo", "geojson"])
def test_bounded_polygons_keep_the_iou(name, data, images, tmp_path):
    exact = written(data, name, tmp_path / "exact", images, polygons=True)
    target = written(data, name, tmp_path, images, polygons=True, outline=OutlineOptions(iou=0.9))
    back = load_annotations(target, images=images)
    size = lambda path: sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*.*")) if p.is_file())  # noqa: E731
    assert size(target) < size(exact)
    for image in data.images:
        (again,) = (other for other in back.images if other.name == image.name)
        for index in range(len(data.classes)):
            one, other = (i.labels(data.classes) == index for i in (image, again))
            if one.any():
                assert np.count_nonzero(one & other) / np.count_nonzero(one | other) > 0.85  # 0.9 for each object alone


def test_an_unknown_format_and_a_wrong_target(data, tmp_path):
    with pytest.raises(InputError, match=r"no labelling format named 'cooc'; did you mean coco"):
        save_annotations(data, tmp_path / "x.json", "cooc")
    with pytest.raises(InputError, match=r"ends in \.json"):
        save_annotations(data, tmp_path / "x.zip", "coco")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; yolo is written to a folder"):
        save_annotations(data, tmp_path / "file", "yolo")
    with pytest.raises(DataError, match="no such file or folder"):
        load_annotations(tmp_path / "missing.json")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nothing_is_left_of_an_export_that_fails(name, data, tmp_path):
    """The last image has a class that is not in the list."""
    target = tmp_path / "out" / FORMATS[name].target
    with pytest.raises(DataError, match="which is not in the list of classes"):
        save_annotations(Annotations(data.classes[:2], data.images), target, name)
    assert not (tmp_path / "out").exists()
