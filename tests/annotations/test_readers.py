"""What this package writes, read by somebody else: pycocotools, supervision, Pillow, and panopticapi's rules.

Label Studio's converter and datumaro were run once in environments of their own; docs/labelling.md says what they read.
"""

from __future__ import annotations

import json
import zipfile
from xml.dom import minidom

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from talk2dino.annotations import WriteOptions, save_annotations
from talk2dino.io.palette import class_palette

pytestmark = pytest.mark.filterwarnings("ignore:OpenCV")


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / max(1, np.count_nonzero(one | other))


@pytest.mark.parametrize("polygons", [False, True], ids=["masks", "polygons"])
def test_pycocotools_reads_coco(data, tmp_path, polygons, capsys):
    save_annotations(data, tmp_path / "coco.json", "coco", options=WriteOptions(polygons=polygons))
    theirs = COCO(str(tmp_path / "coco.json"))
    names = {entry["id"]: entry["name"] for entry in theirs.loadCats(theirs.getCatIds())}
    assert list(names.values()) == list(data.classes)
    assert [entry["file_name"] for entry in theirs.loadImgs(theirs.getImgIds())] == [
        image.name for image in data.images
    ]
    for place, image in zip(theirs.getImgIds(), data.images, strict=True):
        entries = theirs.loadAnns(theirs.getAnnIds(imgIds=[place]))
        assert len(entries) == len(image.objects)
        for entry, one in zip(entries, image.objects, strict=True):
            assert names[entry["category_id"]] == one.name
            mask = theirs.annToMask(entry).astype(bool)
            assert np.array_equal(mask, one.mask) if not polygons else iou(mask, one.mask) > 0.9
            assert entry["area"] == one.area
            assert (
                entry["bbox"]
                == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(one.mask.astype(np.uint8)))).tolist()
            )


def test_panoptic_files_keep_the_rules_of_panopticapi(data, tmp_path):
    """As panopticapi's evaluation checks them: every id of the PNG is described once, and areas agree."""
    save_annotations(data, tmp_path / "panoptic.json", "coco-panoptic")
    document = json.loads((tmp_path / "panoptic.json").read_text())
    categories = {entry["id"]: entry for entry in document["categories"]}
    assert {entry["isthing"] for entry in categories.values()} == {int(any(len(i.objects) > 3 for i in data.images))}
    listed = {entry["id"]: entry for entry in document["images"]}
    for entry, image in zip(document["annotations"], data.images, strict=True):
        assert listed[entry["image_id"]]["file_name"] == image.name
        png = np.array(Image.open(tmp_path / "panoptic" / entry["file_name"]), dtype=np.uint32)
        ids = png[:, :, 0] + 256 * png[:, :, 1] + 256**2 * png[:, :, 2]
        areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
        assert set(areas) - {0} == {segment["id"] for segment in entry["segments_info"]}
        for segment in entry["segments_info"]:
            assert segment["area"] == areas[segment["id"]]
            name = categories[segment["category_id"]]["name"]
            assert any(one.name == name and np.array_equal(one.mask, ids == segment["id"]) for one in image.objects)


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_supervision_reads_coco_and_yolo(data, tmp_path, kind):
    import supervision

    photos = tmp_path / "photos"
    for image in data.images:
        (photos / image.name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", image.size[::-1]).save(photos / image.name)
    if kind == "coco":
        save_annotations(data, tmp_path / "coco.json", "coco")
        theirs = supervision.DetectionDataset.from_coco(str(photos), str(tmp_path / "coco.json"), force_masks=True)
        found = {str(path): detections for path, _, detections in theirs}
    else:
        save_annotations(data, tmp_path / "yolo", "yolo")
        found = {}
        for folder in ("", "b"):
            theirs = supervision.DetectionDataset.from_yolo(
                str(photos / folder), str(tmp_path / "yolo" / "labels" / folder), str(tmp_path / "yolo" / "data.yaml"),
                force_masks=True,
            )  # fmt: skip
            found |= {str(path): detections for path, _, detections in theirs}
    assert tuple(theirs.classes) == data.classes
    assert len(found) == len(data.images)
    for image in data.images:
        detections = found[str(photos / image.name)]
        labels = image.labels(data.classes)
        for index in range(len(data.classes)):
            chosen = detections.mask[detections.class_id == index]
            together = np.logical_or.reduce(chosen) if len(chosen) else np.zeros(image.size, dtype=bool)
            if kind == "coco":
                assert np.array_equal(together, labels == index)
            elif (labels == index).sum() > 100:  # it paints the border of polygons, too
                assert iou(together, labels == index) > 0.75


def test_yolo_lines_are_as_documented(data, tmp_path):
    save_annotations(data, tmp_path / "yolo", "yolo")
    document = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert document["names"] == dict(enumerate(data.classes))
    assert (document["train"], document["val"]) == ("images", "images")
    lines = (tmp_path / "yolo" / "labels" / "b" / "ü 2.txt").read_text().splitlines()
    assert lines
    for line in lines:
        index, *values = line.split()
        assert int(index) in document["names"]
        assert len(values) >= 6
        assert len(values) % 2 == 0
        assert all(0 <= float(value) <= 1 for value in values)


@pytest.mark.parametrize("kind", ["voc", "cvat-masks"])
def test_pillow_reads_label_pngs_in_the_colours_of_the_class_list(data, tmp_path, kind):
    target = tmp_path / ("voc" if kind == "voc" else "x.zip")
    save_annotations(data, target, kind)
    root = target
    if kind != "voc":
        root = tmp_path / "unpacked"
        zipfile.ZipFile(target).extractall(root)
    lines = [line.split(":") for line in (root / "labelmap.txt").read_text().splitlines() if not line.startswith("#")]
    colours = {name: tuple(map(int, colour.split(","))) for name, colour, _, _ in lines}
    assert list(colours) == ["background", *data.classes]
    assert (root / "ImageSets/Segmentation/default.txt").read_text().split("\n") == ["a", "b/ü 2", "c", ""]
    for image in data.images:
        file = root / "SegmentationClass" / image.name.replace("jpg", "png")
        with Image.open(file) as png:
            assert png.mode == ("P" if kind == "voc" else "RGB")
            values, drawn = np.array(png), np.array(png.convert("RGB"))
        labels = image.labels(data.classes)
        for index, name in enumerate(data.classes):
            assert np.array_equal((drawn == colours[name]).all(2), labels == index)
        if kind == "voc":
            assert np.array_equal(values, labels + 1)


def test_cvats_xml_has_the_documented_elements(data, tmp_path):
    """docs.cvat.ai, "XML annotation format", version 1.1: masks run along the rows of their box."""
    save_annotations(data, tmp_path / "cvat.xml", "cvat")
    root = minidom.parse(str(tmp_path / "cvat.xml")).documentElement
    assert root.getElementsByTagName("version")[0].firstChild.data == "1.1"
    names = [node.getElementsByTagName("name")[0].firstChild.data for node in root.getElementsByTagName("label")]
    assert tuple(names) == data.classes
    for node, image in zip(root.getElementsByTagName("image"), data.images, strict=True):
        assert (node.getAttribute("name"), int(node.getAttribute("height"))) == (image.name, image.size[0])
        for shape, one in zip(node.getElementsByTagName("mask"), image.objects, strict=True):
            left, top, width, height = (int(shape.getAttribute(key)) for key in ("left", "top", "width", "height"))
            pixels, value = [], 0
            for count in shape.getAttribute("rle").split(", "):
                pixels += [value] * int(count)
                value = 1 - value
            mask = np.zeros(image.size, dtype=bool)
            mask[top : top + height, left : left + width] = np.array(pixels).reshape(height, width)
            assert np.array_equal(mask, one.mask)
            assert shape.getAttribute("label") == one.name


def test_label_studios_configuration_lists_the_classes_in_their_colours(data, tmp_path):
    save_annotations(data, tmp_path / "tasks.json", "label-studio")
    root = minidom.parse(str(tmp_path / "tasks.xml")).documentElement
    labels = root.getElementsByTagName("Label")
    assert tuple(label.getAttribute("value") for label in labels) == data.classes
    colours = ["#" + "".join(f"{part:02x}" for part in colour) for colour in class_palette(data.classes).tolist()]
    assert [label.getAttribute("background") for label in labels] == colours
    control, image = root.getElementsByTagName("BrushLabels")[0], root.getElementsByTagName("Image")[0]
    for task in json.loads((tmp_path / "tasks.json").read_text()):
        for region in task["predictions"][0]["result"]:
            assert region["from_name"] == control.getAttribute("name")
            assert region["to_name"] == control.getAttribute("toName") == image.getAttribute("name")
