"""What people changed: figures against a plain count, matching of images, the verb and its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import run_here
from PIL import Image

from talk2dino.annotations import AnnotatedImage, AnnotatedObject, Annotations, save_annotations
from talk2dino.errors import DataError
from talk2dino.evaluation.corrections import compare_annotations, draw_worst

CLASSES = ("sky", "grass", "car")


def annotated(name: str, labels: np.ndarray) -> AnnotatedImage:
    objects = (AnnotatedObject.of_mask(CLASSES[i], labels == i) for i in range(3) if (labels == i).any())
    return AnnotatedImage(name, labels.shape, tuple(objects))


@pytest.fixture
def two():
    """Label maps of three images before and after; the second is unchanged."""
    rng = np.random.default_rng(5)
    before = [rng.integers(-1, 3, size) for size in ((7, 11), (13, 5), (17, 19))]
    after = [labels.copy() for labels in before]
    after[0][:3][after[0][:3] == 0] = 1  # sky becomes grass
    after[2][:, :9] = 2
    return before, after


def data_set(maps, names=("a.png", "b.png", "c.png"), source=""):
    return Annotations(
        CLASSES, tuple(annotated(name, labels) for name, labels in zip(names, maps, strict=True)), source
    )


def test_figures_are_those_of_a_plain_count(two):
    report = compare_annotations(data_set(two[0]), data_set(two[1]))
    before, after = (np.concatenate([labels.reshape(-1) for labels in maps]) for maps in two)
    before, after = np.where(before < 0, 3, before), np.where(after < 0, 3, after)
    for index in range(4):
        one, other = before == index, after == index
        assert report.metrics.iou[index] == pytest.approx((one & other).sum() / (one | other).sum())
        assert report.metrics.accuracy[index] == pytest.approx((one & other).sum() / other.sum())
    assert report.changed == pytest.approx((before != after).mean())
    counted = {(b, a): int(((before == b) & (after == a)).sum()) for b in range(4) for a in range(4) if a != b}
    names = (*CLASSES, "(none)")
    assert {(c.before, c.after): c.pixels for c in report.changes} == {
        (names[b], names[a]): count for (b, a), count in counted.items() if count
    }
    assert [c.pixels for c in report.changes] == sorted((c.pixels for c in report.changes), reverse=True)
    assert sum(c.share for c in report.changes) == pytest.approx(1)


def test_images_are_sorted_by_disagreement(two):
    report = compare_annotations(data_set(two[0]), data_set(two[1]))
    shares = {name: (b != a).mean() for name, b, a in zip(("a.png", "b.png", "c.png"), *two, strict=True)}
    assert [image.name for image in report.images] == sorted(shares, key=lambda name: -shares[name])
    assert [image.changed for image in report.images] == pytest.approx(sorted(shares.values(), reverse=True))
    assert (report.images[-1].changed, report.images[-1].most) == (0, "")
    assert report.images[1].most == "sky -> grass"


def test_images_are_matched_without_endings_and_folders_and_the_rest_is_reported(two):
    ours = data_set(two[0], ("a.png", "x/b.png", "y/c.png"), source="ours.json")
    theirs = data_set(two[1], ("a", "photos/b.jpg", "z/d.png"), source="theirs")
    report = compare_annotations(ours, theirs)
    assert {image.name for image in report.images} == {"a.png", "x/b.png"}
    assert report.notes == (
        "images that are only in ours.json, not compared: 1 (first: y/c.png)",
        "images that are only in theirs, not compared: 1 (first: z/d.png)",
    )
    # the last part of the name does not count where two images share it
    twice = data_set(two[0], ("x/a.png", "y/a.png", "c.png"))
    assert {image.name for image in compare_annotations(twice, data_set(two[1], ("a.png", "b", "c"))).images} == {
        "c.png"
    }
    with pytest.raises(DataError, match="no image in common"):
        compare_annotations(ours, data_set(two[1], ("x", "y", "z")))
    with pytest.raises(DataError, match=r"a\.png is \(7, 11\) in ours\.json, but \(13, 5\)"):
        compare_annotations(ours, data_set(two[1][1:] + two[1][:1], ("a.png", "b.png", "c.png")))


def test_the_sheet_shows_the_worst_and_marks_the_changed_pixels(two, tmp_path):
    ours, theirs = data_set(two[0]), data_set(two[1])
    report = compare_annotations(ours, theirs)
    one = np.asarray(Image.open(draw_worst(report, ours, theirs, tmp_path / "one.png", count=1)))
    three = np.asarray(Image.open(draw_worst(report, ours, theirs, tmp_path / "three.png", count=3)))
    assert three.shape[0] > 2 * one.shape[0]
    red = (np.abs(one.astype(int) - (220, 20, 60)).sum(2) < 30).mean()
    assert red > 0.1 * report.images[0].changed / 3


def test_the_verb_converts_and_compares(two, tmp_path, capsys):
    save_annotations(data_set(two[0]), tmp_path / "ours.json", "coco")
    save_annotations(data_set(two[1]), tmp_path / "theirs.json", "coco")
    done = run_here(
        capsys, "annotations", "convert", tmp_path / "theirs.json", tmp_path / "theirs.zip", "--to", "cvat-masks"
    )
    assert (done.returncode, done.stdout) == (
        0,
        f"{tmp_path}/theirs.zip (cvat-masks): images 3, objects 9, classes 3\n",
    )
    out = tmp_path / "report"
    done = run_here(
        capsys, "annotations", "compare", tmp_path / "ours.json", tmp_path / "theirs.zip", "-o", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    expected = compare_annotations(data_set(two[0]), data_set(two[1])).as_dict()
    assert printed["miou"] == expected["miou"]
    assert printed["changes"] == expected["changes"]
    assert json.loads((out / "corrections.json").read_text()) == printed
    assert (out / "worst.png").is_file()
    assert "| sky |" in (out / "corrections.md").read_text()
    table = run_here(
        capsys, "annotations", "compare", tmp_path / "ours.json", tmp_path / "theirs.zip", "-o", out, "--most", "1"
    )
    assert table.stdout.count("\n| ") == 2 + 4 + 2 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", "ours.json", "x.zip", "--to", "coco"], 2, "coco is written to a file that ends in .json"),
        (["convert", "ours.json", "x.json", "--to", "coc"], 2, "did you mean coco"),
        (["convert", "ours.json", "x.json", "--to", "coco", "--from", "cvta"], 2, "did you mean cvat"),
        (["convert", "missing.json", "x.json", "--to", "coco"], 1, "no such file or folder: missing.json"),
        (
            ["convert", "ours.json", "x.json", "--to", "coco", "--classes", "sky, car"],
            1,
            "the class 'grass', which is not in the list",
        ),
        (["convert", "ours.json", "x.xml", "--from", "cvat", "--to", "cvat"], 1, "cannot read"),
        (["compare", "ours.json", "ours.json", "--images", "nowhere"], 1, "no such folder of images: nowhere"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(
    two, tmp_path, capsys, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    save_annotations(data_set(two[0]), tmp_path / "ours.json", "coco")
    done = run_here(capsys, "annotations", *arguments)
    assert done.returncode == code
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["ours.json"]
