"""Masks written and read again: PNG, NumPy, COCO; run lengths as pycocotools has them; exact outlines."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from talk2dino.errors import DataError, ImageError, InputError, OutputError
from talk2dino.io.masks import save_segmentation, to_coco, to_polygons
from talk2dino.io.palette import class_palette
from talk2dino.io.rle import compress, decode_rle, decompress
from talk2dino.types import Segmentation

H, W = 23, 31


def segmentation(labels, count=None, background=None, scores=None, names=None):
    count = count or int(labels.max()) + 1
    names = tuple(names or (f"名{i} 🐈" for i in range(count)))
    info = {"threshold": np.float32(0.5), "sizes": [1, 2]}
    return Segmentation(labels, names, class_palette(names, background), background, scores, "micro", info)


@pytest.fixture
def labels():
    return np.random.default_rng(5).integers(0, 5, (H, W))


# Files


@pytest.mark.parametrize("ending", [".png", ".npz", ".json"])
@pytest.mark.parametrize("count", [5, 256, 257, 1000])
@pytest.mark.parametrize("background", [0, None])
def test_round_trip(tmp_path, ending, count, background):
    drawn = np.random.default_rng(count).integers(0, count, (H, W))
    seg = segmentation(drawn, count, background)
    back = Segmentation.load(save_segmentation(seg, tmp_path / f"掩码{ending}"))
    assert np.array_equal(back.labels, seg.labels)
    assert np.array_equal(back.palette, seg.palette)
    assert (back.names, back.background, back.model) == (seg.names, background, "micro")
    assert back.info == {"threshold": 0.5, "sizes": [1, 2]}
    assert [entry.name for entry in tmp_path.iterdir()] == [f"掩码{ending}"]


@pytest.mark.parametrize("suffix", [".png", ".npz", ".json"])
def test_bytes_are_those_of_the_file(tmp_path, labels, suffix):
    seg = segmentation(labels)
    content = seg.to_bytes(suffix)
    if suffix != ".npz":  # which holds the time
        assert seg.save(tmp_path / f"a{suffix}").read_bytes() == content
    back = Segmentation.from_bytes(content, suffix)
    assert np.array_equal(back.labels, labels)
    assert (back.names, back.model) == (seg.names, "micro")
    with pytest.raises(DataError, match="the answer is not a segmentation that can be read"):
        Segmentation.from_bytes(content[:40], suffix, name="the answer")


def test_scores_go_into_npz(tmp_path, labels):
    scores = np.random.default_rng(1).random((5, H, W), dtype=np.float32)
    back = Segmentation.load(save_segmentation(segmentation(labels, scores=scores), tmp_path / "s.npz"))
    assert np.array_equal(back.scores, scores)


def test_any_viewer_shows_the_png_in_the_palettes_colours(tmp_path, labels):
    seg = segmentation(labels)
    image = Image.open(seg.save(tmp_path / "x.png"))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert np.array_equal(np.asarray(image.convert("RGB")), seg.palette[labels])


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "P"), (257, "I;16")])
def test_up_to_256_names_make_a_palette_png(tmp_path, labels, count, mode):
    with Image.open(segmentation(labels, count).save(tmp_path / "x.png")) as image:
        assert image.mode == mode


@pytest.mark.parametrize("ending", [".png", ".npz", ".json"])
def test_a_label_without_a_name_is_refused(tmp_path, ending):
    labels = np.array([[0, 1, 2]])
    segmentation(labels, 3).save(tmp_path / f"x{ending}")
    for wrong in (labels + 1, labels - 1):
        with pytest.raises(InputError, match="do not all stand for one of the 3 names"):
            segmentation(wrong, 3).save(tmp_path / f"y{ending}")
    assert not (tmp_path / f"y{ending}").exists()


def test_the_formats_are_those_of_0_1_0(tmp_path):
    """Written by hand as 0.1.0 wrote them."""
    labels = np.array([[0, 1, 1], [2, 1, 0]])
    palette = np.array([[64, 64, 64], [0, 114, 178], [230, 159, 0]], np.uint8)
    about = {"names": ["background", "天空", "b"], "background": 0, "model": "micro", "info": {"mode": "whole"}}
    expected = Segmentation(labels, ("background", "天空", "b"), palette, 0, None, "micro", {"mode": "whole"})
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette.tobytes())
    text = PngImagePlugin.PngInfo()
    text.add_itxt("talk2dino", json.dumps(about, ensure_ascii=False))
    image.save(tmp_path / "a.png", pnginfo=text, bits=8)
    rest = {key: value for key, value in about.items() if key != "names"}
    np.savez(tmp_path / "a.npz", labels=labels, names=np.array(about["names"]), palette=palette, about=json.dumps(rest))
    annotations = [
        {"id": 2, "image_id": 0, "category_id": 1, "segmentation": {"size": [2, 3], "counts": "231"}, "area": 3,
         "bbox": [1.0, 0.0, 2.0, 2.0], "iscrowd": 0},
        {"id": 3, "image_id": 0, "category_id": 2, "segmentation": {"size": [2, 3], "counts": "114"}, "area": 1,
         "bbox": [0.0, 1.0, 1.0, 1.0], "iscrowd": 0},
    ]  # fmt: skip
    categories = [{"id": i, "name": n, "color": palette[i].tolist()} for i, n in enumerate(about["names"])]
    document = {"images": [{"id": 0, "width": 3, "height": 2}], "categories": categories, "annotations": annotations}
    document |= {"shares": expected.shares(), **about}
    (tmp_path / "a.json").write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("a.png", "a.npz", "a.json"):
        assert Segmentation.load(tmp_path / name) == expected
        expected.save(tmp_path / f"new-{name}")
        assert Segmentation.load(tmp_path / f"new-{name}") == expected
    assert (tmp_path / "new-a.json").read_text(encoding="utf-8") == (tmp_path / "a.json").read_text(encoding="utf-8")
    with Image.open(tmp_path / "new-a.png") as new, Image.open(tmp_path / "a.png") as old:
        assert new.text == old.text
    with np.load(tmp_path / "new-a.npz") as new, np.load(tmp_path / "a.npz") as old:
        assert sorted(new) == sorted(old)
        assert str(new["about"]) == str(old["about"])


def test_info_with_a_file_name_that_is_not_utf8(tmp_path, labels):
    seg = segmentation(labels)
    seg.info["image"] = os.fsdecode(b"caf\xe9.png")
    for ending in (".png", ".npz", ".json"):
        assert Segmentation.load(seg.save(tmp_path / f"x{ending}")).info["image"] == seg.info["image"]


def test_more_than_256_classes_make_a_sixteen_bit_png(tmp_path):
    drawn = np.arange(H * W).reshape(H, W)
    image = Image.open(segmentation(drawn, H * W).save(tmp_path / "x.png"))
    assert image.mode == "I;16"
    assert np.array_equal(np.asarray(image), drawn)


def test_a_png_from_elsewhere_gets_numbers_as_names(tmp_path, labels):
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "grey.png")
    back = Segmentation.load(tmp_path / "grey.png")
    assert back.names == ("0", "1", "2", "3", "4")
    assert np.array_equal(back.labels, labels)


def test_refusals(tmp_path, labels):
    seg = segmentation(labels)
    with pytest.raises(InputError, match=r"\.png, \.npz, \.json"):
        save_segmentation(seg, tmp_path / "x.jpg")
    with pytest.raises(InputError, match=r"labels 0\.\.4 do not all stand for one of the 3 names"):
        save_segmentation(segmentation(labels, 3), tmp_path / "x.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_segmentation(seg, tmp_path / "file" / "x.png")
    with pytest.raises(ImageError, match="no such file"):
        Segmentation.load(tmp_path / "y.png")
    with pytest.raises(DataError, match="suffix"):
        Segmentation.load(tmp_path / "y.txt")
    for name in ("a.png", "a.npz", "a.json"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(DataError, match="not a segmentation"):
            Segmentation.load(tmp_path / name)
    Image.new("RGB", (3, 3)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="palette or grey"):
        Segmentation.load(tmp_path / "colour.png")


def test_no_pickle_is_read(tmp_path):
    np.savez(tmp_path / "p.npz", labels=np.array([{"x": 1}], dtype=object), about="{}")
    with pytest.raises(DataError):
        Segmentation.load(tmp_path / "p.npz")


# COCO


def encoded(mask):
    """The run lengths that are written for a mask; None for an empty one, which has no annotation."""
    annotations = to_coco(segmentation(np.asarray(mask).astype(int), 2, background=0))
    return annotations[0]["segmentation"] if annotations else None


def test_run_lengths_by_hand():
    mask = np.array([[0, 1, 1], [1, 1, 0]])  # down the columns: 0 1, 1 1, 1 0
    assert encoded(mask) == {"size": [2, 3], "counts": compress([1, 4, 1])}
    assert decompress("141").tolist() == [1, 4, 1]
    assert np.array_equal(decode_rle({"size": [2, 3], "counts": [1, 4, 1]}), mask)
    assert compress([0, 5, 1000, 3, 9]) == "05Xo0NQQO"


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (13, 1), (H, W), (211, 307)])
@pytest.mark.parametrize("share", [0, 0.003, 0.5, 0.99, 1])
def test_run_lengths_as_pycocotools_has_them(size, share):
    oracle = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(17).random(size) < share
    theirs = oracle.encode(np.asfortranarray(mask, dtype=np.uint8))
    if mask.any():
        assert encoded(mask) == {"size": list(size), "counts": theirs["counts"].decode()}
    assert np.array_equal(decode_rle(theirs), mask)
    seg = segmentation(mask.astype(int), 2, background=0)
    assert [(a["area"], a["bbox"]) for a in to_coco(seg)] == [
        (int(oracle.area(theirs)), oracle.toBbox(theirs).tolist())
    ] * bool(mask.any())


def test_long_and_large_runs_come_back():
    draws = np.random.default_rng(3)
    counts = draws.integers(0, 2**40, 101)
    assert decompress(compress(counts)).tolist() == counts.tolist()


@pytest.mark.parametrize("counts", ["", "\x10", "é", "a", [3, 4], [-1, 14], "o" * 20 + "0"])
def test_damaged_run_lengths_are_refused(counts):
    with pytest.raises(InputError):
        decode_rle({"size": [3, 4], "counts": counts})


def test_coco_annotations(labels):
    seg = segmentation(labels, background=0)
    annotations = to_coco(seg, 7)
    assert [a["category_id"] for a in annotations] == [1, 2, 3, 4]
    assert {a["image_id"] for a in annotations} == {7}
    for a in annotations:
        inside = labels == a["category_id"]
        rows, columns = np.nonzero(inside)
        assert np.array_equal(decode_rle(a["segmentation"]), inside)
        assert a["area"] == inside.sum()
        box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
        assert a["bbox"] == box
    ids = [a["id"] for image in range(3) for a in to_coco(seg, image)]
    assert len(set(ids)) == len(ids)
    assert 0 not in ids
    assert [a["category_id"] for a in to_coco(seg, category_ids=[9, 8, 7, 6, 5])] == [8, 7, 6, 5]
    with pytest.raises(InputError, match=r"one number per name \(5\); got 2"):
        to_coco(seg, category_ids=[1, 2])


def test_the_box_of_a_run_that_goes_on_in_the_next_column():
    corner = np.zeros((5, 7), int)
    corner[3:, 2] = corner[:2, 3] = 1
    assert to_coco(segmentation(corner, background=0))[0]["bbox"] == [2, 0, 2, 5]


def test_pycocotools_reads_the_json(tmp_path, labels, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    seg = segmentation(labels, background=0)
    path = seg.save(tmp_path / "x.json")
    data = coco.COCO(str(path))
    capsys.readouterr()
    for annotation in data.loadAnns(data.getAnnIds(imgIds=[0])):
        assert np.array_equal(data.annToMask(annotation), labels == annotation["category_id"])
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["shares"] == seg.shares()
    assert document["categories"][1]["name"] == "名1 🐈"


# Outlines


def rasterise(rings, size):
    """Even-odd filling of pixel-edge rings: pixels whose centre has an odd number of vertical edges to its left."""
    crossings = np.zeros((size[0], size[1] + 1), dtype=int)
    for ring in rings:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if x0 == x1:
                crossings[int(min(y0, y1)) : int(max(y0, y1)), int(x0)] += 1
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


def signed_area(ring):
    x, y = np.array(ring).T
    return 0.5 * (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()


def test_outlines_fill_to_the_same_pixels(labels):
    seg = segmentation(labels)
    outlines = to_polygons(seg)
    assert list(outlines) == list(seg.names)
    for name, rings in outlines.items():
        assert np.array_equal(rasterise(rings, (H, W)), seg.mask(name))
        assert sum(map(signed_area, rings)) == seg.mask(name).sum()  # holes count negative
        for ring in rings:
            assert ring[0] == ring[-1]
            assert len(set(ring[:-1])) >= 4
            steps = np.diff(ring, axis=0)
            assert ((steps == 0).sum(axis=1) == 1).all()  # along one axis
            assert (steps[:-1] * steps[1:] == 0).all()  # every corner is a turn


def test_a_ring_with_a_hole():
    square = np.zeros((7, 9), dtype=int)
    square[1:6, 2:8] = 1
    square[3, 4:6] = 0
    rings = to_polygons(segmentation(square, background=0))["名1 🐈"]
    assert {frozenset(ring) for ring in rings} == {
        frozenset([(2, 1), (8, 1), (8, 6), (2, 6)]),
        frozenset([(4, 3), (6, 3), (6, 4), (4, 4)]),
    }
    assert sorted(map(signed_area, rings)) == [-2, 30]


def test_pixels_that_touch_at_a_corner_are_apart():
    rings = to_polygons(segmentation(np.eye(3, dtype=int), background=0))["名1 🐈"]
    assert len(rings) == 3
    assert [signed_area(ring) for ring in rings] == [1, 1, 1]


def test_the_background_and_absent_classes_have_no_outline(labels):
    assert "名0 🐈" not in to_polygons(segmentation(labels, 9, background=0))
    assert "名8 🐈" not in to_polygons(segmentation(labels, 9))


def test_outlines_agree_with_pillows_polygons():
    disc = Image.new("L", (97, 89))
    ImageDraw.Draw(disc).ellipse((11, 13, 71, 83), fill=1)
    inside = np.asarray(disc).astype(int)
    (ring,) = to_polygons(segmentation(inside, background=0))["名1 🐈"]
    scale = 4
    big = Image.new("L", (97 * scale, 89 * scale))
    ImageDraw.Draw(big).polygon([(x * scale, y * scale) for x, y in ring], fill=1)
    assert np.array_equal(np.asarray(big)[scale // 2 :: scale, scale // 2 :: scale], inside)
