"""Files from elsewhere: damaged, contradictory, or made to harm. One clear sentence each, or a note about what was changed."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from talk2dino.annotations import (
    FORMATS,
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    load_annotations,
    save_annotations,
)
from talk2dino.annotations.formats import sniff_format
from talk2dino.annotations.label_studio import task_image
from talk2dino.annotations.sizes import read_world_file
from talk2dino.errors import DataError, Talk2DinoError

SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]


def coco(**changes):
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 13, "width": 17}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}],
    }
    entry = document["annotations"][0] | changes.pop("annotation", {})
    return document | {"annotations": [entry]} | changes


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("not json", "x.json is not JSON"),
        ({"a": 1}, "not a COCO file: it has no list 'images'"),
        (coco(annotation={"category_id": 9}), "annotation 5 is of category 9, which is not listed"),
        (coco(annotation={"image_id": 9}), "annotation 5 is of image 9, which is not listed"),
        (coco(annotation={"segmentation": [[1, 2, 3]]}), "a polygon has 3 values; expected pairs"),
        (coco(annotation={"segmentation": [[1, 2, 3, 4]]}), "a polygon has 2 corners; it needs at least 3"),
        (coco(annotation={"segmentation": [[1, 2, 3, 4, float("nan"), 6]]}), "not a finite number"),
        (coco(annotation={"segmentation": {"size": [17, 13], "counts": "x"}}), r"for a size of \[17, 13\], the image has \[13, 17\]"),
        (coco(annotation={"segmentation": {"size": [13, 17], "counts": [5, 6]}}), "add up to 11, expected 13 x 17 = 221"),
        (coco(annotation={"segmentation": {"size": [13, 17], "counts": "\x7f"}}), "damaged run lengths"),
        (coco(annotation={"segmentation": []}), "neither a segmentation nor a box"),
        (coco(images=[{"id": 1, "file_name": "../../etc/passwd", "height": 13, "width": 17}]), "leads out of the folder"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": 10**6, "width": 10**6}]), "more than 180,000,000 pixels"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": 0, "width": 5}]), "not two whole positive numbers"),
        (coco(images=[{"id": 1, "file_name": 7, "height": 13, "width": 17}]), "an image has the name 7"),
        (coco(images=[{"id": i, "file_name": "a.png", "height": 13, "width": 17} for i in (1, 2)]), "lists the image a.png more than once"),
        (coco(categories=[{"id": 1, "name": "car"}, {"id": 2, "name": "car"}]), "the class 'car' is listed twice"),
        (coco(annotation={"image_id": []}), "is damaged, or not of the format coco"),
    ],
)  # fmt: skip
def test_coco(tmp_path, document, message):
    with pytest.raises(DataError, match=message):
        load_annotations(write(tmp_path / "x.json", document))


def test_polygons_outside_the_image_are_cut_and_counted(tmp_path):
    inside = load_annotations(
        write(tmp_path / "x.json", coco(annotation={"segmentation": [[-5, -5, 9, -5, 9, 99, -5, 99]]}))
    )
    assert inside.images[0].objects[0].box == (0, 0, 9, 13)
    assert inside.notes == (
        f"polygons that reach outside their image, cut at its border: 1 (first: {tmp_path}/x.json: a.png)",
    )
    outside = load_annotations(
        write(tmp_path / "x.json", coco(annotation={"segmentation": [[50, 50, 60, 50, 60, 60]]}))
    )
    assert outside.images[0].objects == ()
    assert "objects without a pixel inside their image, left out: 1" in outside.notes[1]


def test_classes_that_were_not_asked_for_are_refused(tmp_path):
    path = write(tmp_path / "x.json", coco())
    assert load_annotations(path, classes=["tree", "car"]).classes == ("tree", "car")
    with pytest.raises(
        DataError, match=r"x\.json: a\.png: an object of the class 'car', which is not in the list of classes"
    ):
        load_annotations(path, classes=["tree", "sky"])


def test_overlapping_objects_are_counted_where_a_format_cannot_hold_them(tmp_path):
    lower, upper = np.zeros((2, 13, 17), dtype=bool)
    lower[2:9, 3:11], upper[5:12, 7:15] = True, True
    objects = (AnnotatedObject.of_mask("sky", lower), AnnotatedObject.of_mask("car", upper))
    data = Annotations(("sky", "car"), (AnnotatedImage("a.png", (13, 17), objects),))
    for name, chosen in FORMATS.items():
        if name in ("yolo", "geojson"):
            continue
        target = tmp_path / chosen.target
        notes = save_annotations(data, target, name)
        back = load_annotations(target, name).images[0]
        assert np.array_equal(back.labels(data.classes), data.images[0].labels(data.classes))
        if chosen.overlaps:
            assert notes == ()
            assert back.overlap() == 16
        else:
            assert notes == (
                "images with overlapping objects, whose pixels went to the later object: 1 (first: a.png)",
            )
            assert back.overlap() == 0


@pytest.mark.parametrize(
    ("yaml", "labels", "message"),
    [
        ("names: [car]\nnc: 2", "0 0.1 0.1 0.5 0.1 0.5 0.5", "disagrees with itself: nc is 2, but there are 1 names"),
        ("names: {0: car, 2: sky}", "", r"the classes are numbered \[0, 2\]; expected 0 to 1"),
        ("names: []", "", "lists no classes"),
        ("names: [car, car]", "", "the class 'car' is listed twice"),
        ("- 1", "", "does not hold 'name: value' lines"),
        ("names: [", "", "cannot read the data.yaml"),
        ("names: [car]", "1 0.1 0.1 0.5 0.1 0.5 0.5", r"line 1: class 1, but data\.yaml lists 1 classes"),
        ("names: [car]", "0 0.1 0.1 0.5 0.1 0.5", "a polygon has 5 values; expected pairs"),
        ("names: [car]", "0 0.1 0.1", "a polygon has 1 corners"),
        ("names: [car]", "car 0.1 0.1 0.5 0.1 0.5 0.5", "expected a class number and numbers from 0 to 1"),
        ("names: [car]", "0 0.1 0.1 nan 0.1 0.5 0.5", "not a finite number"),
    ],
)
def test_yolo(tmp_path, yaml, labels, message):
    folder = tmp_path / "yolo"
    (folder / "labels").mkdir(parents=True)
    (folder / "images").mkdir()
    Image.new("RGB", (17, 13)).save(folder / "images" / "a.png")
    write(folder / "data.yaml", yaml)
    write(folder / "labels" / "a.txt", labels)
    with pytest.raises(Talk2DinoError, match=message):
        load_annotations(folder)
    write(folder / "data.yaml", "names: [car]")
    write(folder / "labels" / "a.txt", "0 0.5 0.5 0.2 0.4\n")
    found = load_annotations(folder)
    assert "objects with a box only, read as rectangles: 1" in found.notes[0]
    (folder / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"does not say how large its image is, .*--images"):
        load_annotations(folder)


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return path


def png(values, mode="RGB"):
    content = io.BytesIO()
    Image.fromarray(values).convert(mode).save(content, "PNG")
    return content.getvalue()


RED = np.full((5, 7, 3), (255, 0, 0), dtype=np.uint8)
LABELMAP = "background:0,0,0::\ncar:255,0,0::\n"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"SegmentationClass__a_dot_png": png(RED)}, "has no labelmap.txt"),
        ({"labelmap_dot_txt": LABELMAP}, "cannot recognise the format"),
        ({"labelmap_dot_txt": "car=1", "SegmentationClass__a_dot_png": png(RED)}, "line 1: 'car=1' is not 'class:R,G,B::'"),
        ({"labelmap_dot_txt": "# nothing", "SegmentationClass__a_dot_png": png(RED)}, "lists no class"),
        ({"labelmap_dot_txt": LABELMAP + "bus:255,0,0::", "SegmentationClass__a_dot_png": png(RED)}, "two classes have the same colour"),
        ({"labelmap_dot_txt": LABELMAP, "SegmentationClass__a_dot_png": png(RED // 2)}, "the colour 127,0,0 is not in labelmap.txt"),
        ({"labelmap_dot_txt": LABELMAP, "SegmentationClass__a_dot_png": b"no image"}, "damaged, or not a PNG"),
        ({"labelmap_dot_txt": LABELMAP, "SegmentationClass__.._dot__dot___a_dot_png": png(RED)}, "leads out of the folder"),
        ({"labelmap_dot_txt": LABELMAP, "SegmentationClass__a_dot_png": png(RED), "SegmentationObject__a_dot_png": png(RED[:3])},
         r"has \(5, 7\) pixels, the one in SegmentationObject \(3, 7\)"),
    ],
)  # fmt: skip
def test_label_pngs(tmp_path, members, message):
    members = {name.replace(".._dot__dot___", "../../"): content for name, content in members.items()}
    with pytest.raises(DataError, match=message):
        load_annotations(zipped(tmp_path / "x.zip", **members))


def test_bombs_are_refused(tmp_path):
    bomb = zipped(tmp_path / "x.zip", annotations_dot_xml="<annotations>" + " " * 80_000_000)
    with pytest.raises(DataError, match=r"would grow from .* to 80,000,013 bytes: refused as a ZIP bomb"):
        load_annotations(bomb)
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    entities = f'<?xml version="1.0"?><!DOCTYPE annotations [<!ENTITY l0 "lol">{lol}]><annotations>&l9;</annotations>'
    with pytest.raises(DataError, match="declares a document type or entities"):
        load_annotations(write(tmp_path / "x.xml", entities))
    with pytest.raises(DataError, match="nested more than 100 deep"):
        load_annotations(write(tmp_path / "x.xml", "<annotations>" + "<a>" * 10_000))
    header = png(np.zeros((1, 1, 3), np.uint8))
    large = header[:16] + (2**30).to_bytes(4, "big") * 2 + header[24:]  # says that it is 2**30 x 2**30 pixels
    files = {"labelmap_dot_txt": LABELMAP, "SegmentationClass__a_dot_png": large}
    with pytest.raises(DataError, match=r"damaged, or not a PNG|more than 180,000,000 pixels"):
        load_annotations(zipped(tmp_path / "x.zip", **files))


MASK = '<mask label="car" rle="{}" left="{}" top="3" width="3" height="2" z_order="0"/>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotations", "is not XML, or damaged"),
        ("<other/>", "the root element is <other>, expected <annotations>"),
        ("<annotations/>", "has neither labels nor images"),
        ("<annotations><track id='0'/></annotations>", "an export of a video"),
        (
            "<annotations><image id='0' name='a.png' width='x' height='3'/></annotations>",
            "not two whole positive numbers",
        ),
        (MASK.format("0, 5", 2), r"add up to 5, expected 3 x 2 = 6"),
        (MASK.format("0, 6", 16), "lies outside the image"),
        (MASK.format("0, a", 2), "the run lengths of a mask are not whole numbers"),
        ('<polygon label="car" points="1,2;3,4"/>', "a polygon has 2 corners"),
        ('<polygon label="car" points="1,2;3,4,5"/>', "corners of a polygon are not all numbers"),
        (
            '<polygon label="bus" points="1,2;3,4;5,2"/>',
            "a polygon of the class 'bus', which the file does not list: car",
        ),
        ('<box label="car" xtl="1" ytl="1" xbr="x" ybr="5"/>', "xbr is 'x'; expected a number"),
    ],
)
def test_cvat(tmp_path, xml, message):
    if not xml.startswith(("<annotations", "<other")):
        xml = (
            "<annotations><meta><task><labels><label><name>car</name></label></labels></task></meta>"
            f"<image id='0' name='a.png' width='17' height='13'>{xml}</image></annotations>"
        )
    with pytest.raises(DataError, match=message):
        load_annotations(write(tmp_path / "x.xml", xml))


def task(kind, value, **result):
    region = {"type": kind, "original_width": 17, "original_height": 13, "value": value, **result}
    return [{"data": {"image": "/data/upload/3/0123abcd-a.png"}, "annotations": [{"result": [region]}]}]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"image": "a.png"}], "expected a list of tasks with 'data'"),
        ([{"data": {}}], "a task has no image in its 'data'"),
        (task("brushlabels", {"rle": [1, 2], "brushlabels": ["car"]}), "ends after 2 bytes"),
        (task("brushlabels", {"rle": [0, 0, 0, 9, 57, 0, 0, 0, 0], "brushlabels": ["car"]}), "9 values, expected 884"),
        (task("polygonlabels", {"points": [[1, 2]], "polygonlabels": ["car"]}), "a polygon has 1 corners"),
        (task("polygonlabels", 5), "the 'value' of a region is a int"),
        (task("rectanglelabels", {"x": 1, "y": 2, "width": "w", "height": 3, "rectanglelabels": ["car"]}), "width of a rectangle is 'w'"),
        ([{"data": {"image": "https://x/a.png"}}], "does not say how large a.png is: give the folder of the images with --images"),
    ],
)  # fmt: skip
def test_label_studio(tmp_path, tasks, message):
    with pytest.raises(DataError, match=message):
        load_annotations(write(tmp_path / "x.json", tasks))


def test_label_studio_takes_the_latest_annotation_and_the_name_of_the_upload(tmp_path):
    box = {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": ["car"]}
    tasks = task("rectanglelabels", box)
    old = {"result": [], "updated_at": "2026-01-01"}
    cancelled = {"result": [], "updated_at": "2027-01-01", "was_cancelled": True}
    tasks[0]["annotations"][0]["updated_at"] = "2026-02-01"
    tasks[0]["annotations"] = [old, *tasks[0]["annotations"], cancelled]
    tasks[0]["predictions"] = [{"result": [], "created_at": "2028-01-01"}]
    (image,) = load_annotations(write(tmp_path / "x.json", tasks)).images
    assert (image.name, image.size, image.objects[0].box) == ("a.png", (13, 17), (0, 0, 8, 13))


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("/data/upload/3/0123abcd-a%20b.png", "a b.png"),
        ("/data/local-files/?d=photos/a.png", "photos/a.png"),
        ("https://host/folder/a.png?d=1", "a.png"),
        ("sub/a.png", "sub/a.png"),
        ("/home/me/a.png", "a.png"),
    ],
)
def test_names_of_images_in_label_studio(reference, name):
    assert task_image(reference, "x.json") == name


@pytest.mark.parametrize("content", ["1 2 3 4 5", "1 2 3 4 5 six", "2 4 1 2 5 6"])
def test_a_damaged_world_file_is_reported(tmp_path, content):
    write(tmp_path / "a.pgw", content)
    with pytest.raises(DataError, match=r"a\.pgw is not a world file: expected six numbers"):
        read_world_file(tmp_path / "a.png")
    write(tmp_path / "a.pgw", "2 0 0 -2 5 6")
    assert read_world_file(tmp_path / "a.png") == (2, 0, 0, -2, 5, 6)
    assert read_world_file(tmp_path / "b.png") is None


def test_regions_without_a_label_are_left_out_and_counted(tmp_path):
    square = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": []}
    found = load_annotations(write(tmp_path / "x.json", task("polygonlabels", square)))
    assert found.images[0].objects == ()
    assert found.notes[0].startswith("regions of another kind than brush, polygon or rectangle, left out: 1")


def test_label_pngs_with_another_order_of_classes_and_with_indices(tmp_path):
    """The first class is no background; a grey PNG holds the places in the list, and 255 for no class."""
    labelmap = "car:255,0,0::\nbackground:0,0,0::\nbus:0,0,9::\n"
    values = np.array([[0, 0, 1, 255], [2, 2, 1, 0]], dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    red = np.where((values == 0)[:, :, None], np.array([255, 0, 0]), 0).astype(np.uint8)
    files = {"SegmentationClass__grey_dot_png": content.getvalue(), "SegmentationClass__colour_dot_png": png(red)}
    found = load_annotations(zipped(tmp_path / "x.zip", labelmap_dot_txt=labelmap, **files))
    assert found.classes == ("car", "bus")
    colour, grey = found.images
    assert grey.labels(found.classes).tolist() == [[0, 0, -1, -1], [1, 1, -1, 0]]
    assert colour.labels(found.classes).tolist() == [[0, 0, -1, -1], [-1, -1, -1, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": []}, "not a file of LabelMe"),
        (
            {"shapes": [{}], "imagePath": "a.png", "imageHeight": 13, "imageWidth": 17},
            "a shape has no label or no points",
        ),
        ({"shapes": [], "imagePath": "a.png", "imageHeight": None, "imageWidth": 17}, "not two whole positive numbers"),
    ],
)
def test_labelme(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load_annotations(write(tmp_path / "x.json", content), "labelme")


def test_shapes_of_another_kind_are_left_out_and_counted(tmp_path):
    line = {"label": "car", "points": [[1, 2], [3, 4]], "shape_type": "line"}
    rectangle = {"label": "car", "points": [[9, 8], [3, 4]], "shape_type": "rectangle"}
    content = {"shapes": [line, rectangle], "imagePath": "p/a.png", "imageHeight": 13, "imageWidth": 17}
    found = load_annotations(write(tmp_path / "x.json", content))
    assert found.images[0].objects[0].box == (3, 4, 6, 4)
    assert found.notes[0].startswith("shapes of another kind than polygon or rectangle, left out: 1")


@pytest.mark.parametrize("name", ["x.txt", "x.json", "folder", "x.zip"])
def test_what_cannot_be_recognised(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "x.zip":
        zipped(path, a_dot_txt="")
    else:
        write(path, "5")
    with pytest.raises(DataError, match=r"cannot recognise the format|not a COCO file"):
        load_annotations(path)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_any_damage_ends_in_one_of_our_errors_or_in_labels(name, data, tmp_path):
    """Bytes of the files are changed, dropped or repeated at random."""
    target = tmp_path / FORMATS[name].target
    photos = tmp_path / "photos"
    world = (1.0, 0.0, 0.0, -1.0, 5.0, 9.0)
    images = tuple(AnnotatedImage(f"{i}.png", image.size, image.objects, world) for i, image in enumerate(data.images))
    photos.mkdir()
    for image in images:
        Image.new("RGB", image.size[::-1]).save(photos / image.name)
    save_annotations(Annotations(data.classes, images), target, name, images=photos)
    root = target if target.is_dir() else target.parent
    files = sorted(path for path in root.rglob("*") if path.is_file() and photos not in path.parents)
    rng = np.random.default_rng(len(name))
    for _ in range(40):
        victim = files[rng.integers(len(files))]
        before = victim.read_bytes()
        content, at = bytearray(before), int(rng.integers(max(1, len(before))))
        content[at : at + int(rng.integers(30))] = rng.integers(0, 256, int(rng.integers(20)), dtype=np.uint8).tobytes()
        victim.write_bytes(bytes(content))
        try:
            found = load_annotations(target, images=photos)
            for image in found.images:
                image.labels(found.classes)
        except Talk2DinoError:
            pass
        victim.write_bytes(before)
    assert sniff_format(target).name == name
