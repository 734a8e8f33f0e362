import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from miniature import make_miniature, miniature_truth
from PIL import Image

from talk2dino.errors import DataError, InputError, Talk2DinoError
from talk2dino.evaluation import class_tables as tables
from talk2dino.evaluation import label_files as formats
from talk2dino.evaluation.datasets import BENCHMARKS, open_benchmark
from talk2dino.evaluation.metrics import ConfusionMatrix

EIGHT = [name for name in BENCHMARKS if name != "world"]
VARIANTS = [(name, "usual") for name in EIGHT] + [
    ("coco-stuff", "pixel-maps"),
    ("coco-object", "pixel-maps"),
    ("coco-object", "instances"),
    ("cityscapes", "ids"),
    ("cityscapes", "instance-ids"),
    ("cityscapes", "polygons"),
]


def test_class_counts_and_backgrounds():
    counts = {name: len(benchmark.names) for name, benchmark in BENCHMARKS.items()}
    assert counts == {
        "voc21": 21, "voc20": 20, "context60": 60, "context59": 59, "coco-stuff": 171, "coco-object": 81,
        "cityscapes": 19, "ade20k": 150, "world": 16,
    }  # fmt: skip
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.background] == [
        "voc21", "context60", "coco-object",
    ]  # fmt: skip
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.clean] == ["voc21", "coco-object"]
    for benchmark in BENCHMARKS.values():
        assert len(benchmark.palette) == len(benchmark.names)
        assert "background" not in benchmark.prompts
    assert BENCHMARKS["voc21"].palette[15] == (192, 128, 128)  # person
    assert BENCHMARKS["coco-stuff"].names[91:93] == ("ceiling-tile", "cloth")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("voc21", "3d61c831cd0012d4"),
        ("context60", "4e63a0804d03b58d"),
        ("context59", "393ab99eafd5609f"),
        ("coco-stuff", "d0aafa5b5c8d7713"),
        ("cityscapes", "fdc2c09f612a02c0"),
        ("ade20k", "f8f1fbe2e61e446c"),
    ],
)
def test_names_and_palettes_are_mmsegmentations(name, expected):
    """Digests of ``METAINFO`` of mmsegmentation 1.2.2, read from its own sources (ADE20K's "bed " without the blank)."""
    benchmark = BENCHMARKS[name]
    table = [list(benchmark.names), [list(colour) for colour in benchmark.palette]]
    assert hashlib.sha256(json.dumps(table).encode()).hexdigest()[:16] == expected


def test_tables_that_mmsegmentation_lacks_are_parts_of_others():
    assert BENCHMARKS["voc20"].names == BENCHMARKS["voc21"].names[1:]
    assert BENCHMARKS["voc20"].palette == BENCHMARKS["voc21"].palette[1:]
    assert BENCHMARKS["coco-object"].names == ("background", *BENCHMARKS["coco-stuff"].names[:80])
    assert BENCHMARKS["coco-object"].palette == ((0, 0, 0), *BENCHMARKS["coco-stuff"].palette[:80])


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_miniature_reads_back_and_a_perfect_predictor_scores_100(tmp_path, name, variant):
    truth = make_miniature(name, tmp_path, variant)
    benchmark, samples = open_benchmark(name, tmp_path)
    matrix = ConfusionMatrix(benchmark.names)
    for sample, expected in zip(samples, truth.values(), strict=True):
        image, labels = sample.load()
        assert image.shape == (*expected.shape, 3)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected)
        matrix.update(np.where(labels == 255, 0, labels), labels)
    assert matrix.metrics().miou == 1.0
    assert matrix.metrics().overall_accuracy == 1.0


@pytest.mark.parametrize("name", EIGHT)
def test_shifted_predictor_scores_what_was_worked_out_by_hand(tmp_path, name):
    """The mixed image alone, prediction moved 5 columns to the right (5 columns of class 1 come in from the left).

    Rows that count: 51 of 53, less an ignored one where there is one. A row has 71 columns: 23 of class 1, 24 of
    class 2 and 24 of class 0. After the shift 28 are predicted 1, 24 are predicted 2 and 19 are predicted 0, so class 1
    has 23 of 28, class 2 19 of 29, class 0 19 of 24. The bottom rows keep their class: 100 %.
    """
    make_miniature(name, tmp_path)
    benchmark, samples = open_benchmark(name, tmp_path)
    _, truth = samples[0].load()
    filled = truth.copy()
    filled[0] = filled[1]
    shifted = np.concatenate([np.ones((truth.shape[0], 5), truth.dtype), filled[:, :-5]], axis=1)
    shifted[-2:] = truth[-2:]
    matrix = ConfusionMatrix(benchmark.names)
    matrix.update(shifted, truth)
    figures = matrix.metrics()
    assert figures.iou[[1, 2, 0, -1]] == pytest.approx([23 / 28, 19 / 29, 19 / 24, 1.0])
    assert figures.miou == pytest.approx((23 / 28 + 19 / 29 + 19 / 24 + 1) / 4, abs=1e-12)
    rows = 51 if name in ("coco-object", "context60") else 50
    assert figures.overall_accuracy == pytest.approx((rows * 61 + 2 * 71) / (rows * 71 + 2 * 71), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("ade20k", "ade/ADEChallengeData2016/images/validation"),
        ("coco-stuff", "coco_stuff164k/images/val2017"),
        ("cityscapes", "cityscapes/leftImg8bit/val"),
    ],
)
def test_hidden_files_are_skipped_and_subfolders_searched_as_in_mmcv(tmp_path, name, images):
    make_miniature(name, tmp_path)
    for image in list((tmp_path / images).rglob("*.*g")):
        image.with_name(f"._{image.name}").write_bytes(b"\0\5\26\7")  # what macOS leaves beside a file
    (tmp_path / images / ".trash").mkdir()
    (tmp_path / images / ".trash" / "old_leftImg8bit.png.jpg").touch()
    expected = [sample.name for sample in open_benchmark(name, tmp_path)[1]]
    assert len(expected) == 3
    if name == "cityscapes":
        return
    labels = tmp_path / images.replace("images", "annotations")
    for file in [*(tmp_path / images).glob("*285*"), *labels.glob("*285*")]:
        (file.parent / "more").mkdir(exist_ok=True)
        file.rename(file.parent / "more" / file.name)
    samples = open_benchmark(name, tmp_path)[1]
    assert [sample.name for sample in samples] == [expected[0], expected[2], f"more/{expected[1]}"]
    assert len({sample.source for sample in samples}) == 1
    assert samples[2].load()[1].shape == (61, 43)


def test_own_folder_of_the_data_set_is_accepted_as_root(tmp_path):
    make_miniature("voc21", tmp_path)
    assert len(open_benchmark("voc21", tmp_path / "VOCdevkit" / "VOC2012")[1]) == 3


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("voc21", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
        ("voc20", "VOCdevkit/VOC2012/SegmentationClass/000000000285.png"),
        ("context60", "VOCdevkit/VOC2010/JPEGImages/000000000285.jpg"),
        ("coco-stuff", "coco_stuff164k/annotations/val2017/000000000285_labelTrainIds.png"),
        ("cityscapes", "cityscapes/gtFine/val/munster/munster_000000000285_000019_gtFine_labelTrainIds.png"),
        ("ade20k", "ade/ADEChallengeData2016/annotations/validation/000000000285.png"),
    ],
)
def test_missing_file_is_named_with_the_expected_tree(tmp_path, name, gone):
    make_miniature(name, tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(DataError) as caught:
        open_benchmark(name, tmp_path)
    assert "000000000285" in str(caught.value) or "val.txt" in str(caught.value)
    assert BENCHMARKS[name].tree in str(caught.value)


def test_missing_folders(tmp_path):
    with pytest.raises(DataError, match=r"JPEGImages.*(?s:.)*SegmentationClass/NAME\.png"):
        open_benchmark("voc21", tmp_path)
    with pytest.raises(DataError, match="no folder at"):
        open_benchmark("voc21", tmp_path / "nowhere")
    with pytest.raises(InputError, match="--data ROOT"):
        open_benchmark("voc21")
    (tmp_path / "ade/ADEChallengeData2016/images/validation").mkdir(parents=True)
    (tmp_path / "ade/ADEChallengeData2016/annotations/validation").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):
        open_benchmark("ade20k", tmp_path)


def test_mistyped_benchmark_gets_near_names():
    with pytest.raises(InputError, match=r"did you mean coco-stuff"):
        open_benchmark("coco_stuf", ".")
    with pytest.raises(InputError, match=r"known benchmarks: voc21, voc20"):
        open_benchmark("zzz", ".")


def test_values_outside_the_class_list(tmp_path):
    make_miniature("voc21", tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/000000000285.png"
    Image.fromarray(np.full((61, 43), 33, np.uint8)).save(path)
    with pytest.raises(DataError, match=r"000000000285.*0\.\.20: 33"):
        open_benchmark("voc21", tmp_path)[1][1].load()
    make_miniature("ade20k", tmp_path)
    path = tmp_path / "ade/ADEChallengeData2016/annotations/validation/000000000285.png"
    Image.fromarray(np.full((61, 43), 151, np.uint8)).save(
        path
    )  # reduced by one when read; the message has the file's value
    with pytest.raises(DataError, match=r"000000000285.*1\.\.150: 151"):
        open_benchmark("ade20k", tmp_path)[1][1].load()
    make_miniature("coco-stuff", tmp_path, "pixel-maps")
    path = tmp_path / "coco_stuff164k/annotations/val2017/000000000285.png"
    Image.fromarray(np.full((61, 43), 11, np.uint8)).save(path)  # "street sign", which nothing annotates
    with pytest.raises(DataError, match=r"outside the class list: 11"):
        open_benchmark("coco-stuff", tmp_path)[1][1].load()


def test_label_and_image_of_different_size(tmp_path):
    make_miniature("ade20k", tmp_path)
    path = tmp_path / "ade/ADEChallengeData2016/annotations/validation/000000000285.png"
    Image.fromarray(np.zeros((43, 61), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"\(61, 43\).*\(43, 61\)"):
        open_benchmark("ade20k", tmp_path)[1][1].load()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "colours"])
def test_damaged_label_png_is_named(tmp_path, damage):
    make_miniature("voc21", tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/000000000139.png"
    content = path.read_bytes()
    if damage == "colours":
        Image.fromarray(np.zeros((53, 71, 3), np.uint8)).save(path)
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"not a png", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"000000000139\.png"):
        open_benchmark("voc21", tmp_path)[1][0].load()


def test_damaged_image_is_named(tmp_path):
    make_miniature("voc21", tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/JPEGImages/000000000139.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(Talk2DinoError, match="000000000139"):
        open_benchmark("voc21", tmp_path)[1][0].load()


def test_damaged_json_files(tmp_path):
    make_miniature("coco-object", tmp_path, "instances")
    path = tmp_path / "coco_stuff164k/annotations/instances_val2017.json"
    path.write_text(path.read_text()[:50])
    assert open_benchmark("coco-object", tmp_path)[1][0].source == "instances_val2017.json"
    with pytest.raises(DataError, match="instances_val2017"):
        open_benchmark("coco-object", tmp_path)[1][0].load()
    make_miniature("cityscapes", tmp_path, "polygons")
    for path in Path(tmp_path / "cityscapes/gtFine/val/munster").glob("*.json"):
        path.write_text(json.dumps({"imgWidth": 3}))
    with pytest.raises(DataError, match=r"polygons\.json"):
        open_benchmark("cityscapes", tmp_path)[1][0].load()


def test_cityscapes_labels_beside_the_19(tmp_path):
    """As cityscapesScripts: "group" is taken off unknown labels only, and negative ids are not drawn."""
    assert tuple(tables.CITYSCAPES_LABELS.index(name) for name in tables.CITYSCAPES_NAMES) == tables.CITYSCAPES_IDS

    def thing(label, left, right, **more):
        return {"label": label, "polygon": [[left, 0], [right, 0], [right, 4], [left, 4]], **more}

    path = tmp_path / "polygons.json"
    objects = [
        thing("road", 0, 12), thing("cargroup", 0, 1), thing("polegroup", 2, 3), thing("caravan", 4, 5),
        thing("car", 6, 9), thing("license plate", 7, 8), thing("sky", 10, 10, deleted=1), thing("persongroup", 11, 11),
    ]  # fmt: skip
    path.write_text(json.dumps({"imgHeight": 5, "imgWidth": 13, "objects": objects}))
    road, car, person = 0, 13, 11
    expected = [car, car, 255, 255, 255, 255, car, car, car, car, road, person, road]
    np.testing.assert_array_equal(formats.read_city_polygons(path), np.tile(expected, (5, 1)))
    path.write_text(json.dumps({"imgHeight": 5, "imgWidth": 13, "objects": [thing("spaceshipgroup", 0, 3)]}))
    with pytest.raises(DataError, match="does not know: 'spaceshipgroup'"):
        formats.read_city_polygons(path)


def test_polygon_fills_pixels_whose_centre_is_inside():
    mask = formats.fill_polygon(np.array([[1, 1], [6, 1], [6, 4], [1, 4]]), 7, 11)
    expected = np.zeros((7, 11), bool)
    expected[1:4, 1:6] = True
    np.testing.assert_array_equal(mask, expected)
    triangle = formats.fill_polygon(np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]]), 5, 7)
    centres = np.mgrid[:5, :7] + 0.5
    np.testing.assert_array_equal(triangle, centres.sum(0) < 5)
    outside = formats.fill_polygon(np.array([[-3.0, -2.0], [20.0, -2.0], [20.0, 20.0], [-3.0, 20.0]]), 5, 7)
    assert outside.all()


def test_small_instances_lie_on_large_ones_and_on_crowds(tmp_path):
    def box(left, top, right, bottom):
        return [[left, top, right, top, right, bottom, left, bottom]]

    annotations = [
        {"image_id": 5, "category_id": 1, "area": 4, "segmentation": box(2, 2, 4, 4)},
        {"image_id": 5, "category_id": 3, "area": 64, "segmentation": box(0, 0, 8, 8)},
        {
            "image_id": 5,
            "category_id": 90,
            "area": 1,
            "iscrowd": 1,
            "segmentation": {"counts": [0, 77], "size": [7, 11]},
        },
    ]
    path = tmp_path / "instances.json"
    images = [{"id": 5, "file_name": "a.jpg", "height": 7, "width": 11}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    labels = formats.instances_to_objects(path, "a")
    expected = np.full((7, 11), 80)  # toothbrush, category 90
    expected[:, :8] = 3
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(labels, expected)


def test_damaged_run_lengths_name_the_annotation(tmp_path):
    make_miniature("coco-object", tmp_path, "instances")
    path = tmp_path / "coco_stuff164k/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    crowd = next(a for a in content["annotations"] if a["iscrowd"])
    crowd["segmentation"]["counts"][0] += 1
    crowd["id"] = 77
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotation 77 of 000000000139.*add up"):
        open_benchmark("coco-object", tmp_path)[1][0].load()


def test_truth_has_the_special_images():
    for name in EIGHT:
        truth = list(miniature_truth(name).values())
        assert not truth[1].any()
        if name not in ("coco-object", "context60"):
            assert (truth[2] == 255).all()
