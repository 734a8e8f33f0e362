"""Labelling formats of whole folders: complete, in order, resumed after kill -9, and only what was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from talk2dino import Segmentation, Segmenter
from talk2dino.annotations import FORMATS, ObjectOptions, WriteOptions, load_annotations
from talk2dino.annotations.collecting import LINES
from talk2dino.errors import DataError, InputError
from talk2dino.folder import JOURNAL, FolderOptions, run_folder
from talk2dino.io.settings import build_options
from talk2dino.words.prompts import read_prompts
from talk2dino.world import render, sample_scene

NAMES = ["sky", "grass", "ball", "house"]


@pytest.fixture(scope="module")
def micro():
    return Segmenter.from_pretrained("micro", dtype="float32", device="cpu")


@pytest.fixture
def photos(tmp_path):
    """Five images of three sizes, two of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(5):
        image = Image.fromarray(render(sample_scene(40_000_000 + i), 96).image)
        path = folder / (f"sub/{i}.png" if i > 2 else f"{i}.png")
        image.resize(((96, 72), (72, 96), (95, 71))[i % 3]).save(path)
        path.with_suffix(".pgw").write_text("2\n0\n0\n-2\n100\n200\n")
    return folder


def options(photos: Path, out: Path, **values) -> FolderOptions:
    given = {
        "images": (str(photos),), "prompts": read_prompts(NAMES), "out": out, "save": ("coco",), "recursive": True,
        "background": True,
    } | values  # fmt: skip
    return build_options(FolderOptions, given)


def order(out: Path) -> list[str]:
    return [image.name for image in load_annotations(out / "coco.json").images]


def test_every_format_holds_the_labels_of_every_image(micro, photos, tmp_path):
    out = tmp_path / "out"
    result = run_folder(options(photos, out, save=("palette", *FORMATS), batch_size=2, workers=2), segmenter=micro)
    assert result.data_sets == tuple(out / chosen.target for chosen in FORMATS.values())
    labels = {str(i): Segmentation.load(out / f"{i}.labels.png") for i in range(5)}
    for name, path in zip(FORMATS, result.data_sets, strict=True):
        found = load_annotations(path, name, images=photos)
        assert found.classes == tuple(NAMES)
        assert sorted(image.name for image in found.images) == ["0.png", "1.png", "2.png", "sub/3.png", "sub/4.png"]
        for image in found.images:
            assert np.array_equal(image.labels(NAMES) + 1, labels[Path(image.name).stem].labels)
    assert order(out) == ["0.png", "1.png", "2.png", "sub/3.png", "sub/4.png"]


def test_a_resumed_run_writes_the_same_file_as_one_in_one_go(micro, photos, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_folder(options(photos, whole), segmenter=micro)
    hidden = photos / "sub" / "3.png"
    content = hidden.read_bytes()
    hidden.write_bytes(b"not an image")
    first = run_folder(options(photos, parts), segmenter=micro)
    assert (first.exit_code, len(order(parts))) == (3, 4)
    hidden.write_bytes(content)
    second = run_folder(options(photos, parts), segmenter=micro)
    assert (second.done, second.skipped) == (1, 4)
    assert (parts / "coco.json").read_bytes() == (whole / "coco.json").read_bytes()


def test_what_is_finished_is_not_written_again_until_something_changes(micro, photos, tmp_path):
    out = tmp_path / "out"
    run_folder(options(photos, out), segmenter=micro)
    os.utime(out / "coco.json", ns=(1, 1))
    again = run_folder(options(photos, out), segmenter=micro)
    assert (again.done, again.skipped, (out / "coco.json").stat().st_mtime_ns) == (0, 5, 1)
    # other polygons need no segmentation
    again = run_folder(options(photos, out, writing=WriteOptions(polygons=True)), segmenter=micro)
    assert (again.done, again.skipped) == (0, 5)
    assert isinstance(json.loads((out / "coco.json").read_text())["annotations"][0]["segmentation"], list)
    # another format needs none either
    again = run_folder(options(photos, out, save=("coco", "cvat")), segmenter=micro)
    assert (again.done, (out / "cvat.xml").is_file()) == (0, True)
    # other objects do
    again = run_folder(options(photos, out, objects=ObjectOptions(instances=True)), segmenter=micro)
    assert again.done == 5
    # without a format, nothing is done again
    assert run_folder(options(photos, out, save=("palette",)), segmenter=micro).done == 5
    assert run_folder(options(photos, out, save=("palette",)), segmenter=micro).done == 0
    # a lost file of objects is noticed
    (out / LINES).unlink()
    assert run_folder(options(photos, out, save=("palette", "coco")), segmenter=micro).done == 5


def test_damaged_objects_are_reported(micro, photos, tmp_path):
    out = tmp_path / "out"
    run_folder(options(photos, out), segmenter=micro)
    lines = out / LINES
    lines.write_bytes(b"x" * lines.stat().st_size)
    (out / "coco.json").unlink()
    with pytest.raises(DataError, match=r"damaged at byte [\d,]+: run the command again with --overwrite"):
        run_folder(options(photos, out), segmenter=micro)
    assert not (out / "coco.json").exists()
    run_folder(options(photos, out, overwrite=True), segmenter=micro)
    assert len(order(out)) == 5


def test_what_a_killed_run_left_among_label_files_is_removed(micro, photos, tmp_path):
    left = tmp_path / "out" / "yolo" / "labels" / "sub" / ".3.txt.0123abcd.tmp.txt"
    left.parent.mkdir(parents=True)
    left.write_text("half a li")
    run_folder(options(photos, tmp_path / "out", save=("yolo",)), segmenter=micro)
    assert sorted(path.name for path in left.parent.iterdir()) == ["3.txt", "4.txt"]


def test_own_label_images_are_not_segmented(micro, photos, tmp_path):
    """The output folder lies within the folder of images, which is searched with its subfolders."""
    for _ in range(2):
        result = run_folder(options(photos, photos / "out", save=("voc", "coco-panoptic")), segmenter=micro)
    assert (result.done, result.skipped, result.failed) == (0, 5, ())


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"objects": ObjectOptions(instances=True), "save": ("overlay",)}, InputError, "save names none"),
        ({"objects": ObjectOptions(split="shape")}, InputError, "split divides the objects that instances makes"),
        ({"prompts": read_prompts(["a:b"]), "save": ("voc",)}, InputError, "must not contain ':'"),
        ({"save": ("geojson",), "images": ("flat",)}, DataError, "no image has a world file"),
        ({"method": "dino-clusters", "background": None}, InputError, "labelling formats need classes"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(micro, photos, tmp_path, values, error, message):
    for file in photos.rglob("*.pgw"):
        file.unlink()
    if "images" in values:
        values = values | {"images": (str(photos),)}
    segmenter = micro.with_method(values["method"]) if "method" in values else micro
    with pytest.raises(error, match=message):
        run_folder(options(photos, tmp_path / "out", **values), segmenter=segmenter)
    assert not list((tmp_path / "out").glob("*.png"))


def test_images_that_would_share_a_label_file_are_refused(micro, photos, tmp_path):
    Image.open(photos / "0.png").save(photos / "0.jpg")
    with pytest.raises(InputError, match=r"0\.jpg and 0\.png would share one label file of the format yolo"):
        run_folder(options(photos, tmp_path / "out", save=("yolo",)), segmenter=micro)
    assert run_folder(options(photos, tmp_path / "out"), segmenter=micro).done == 6


def test_kill_9_loses_nothing_that_is_finished(photos, tmp_path):
    """Killed in the middle, as soon as the journal names a finished image; then the same command again."""
    for i in range(5, 20):
        Image.fromarray(render(sample_scene(i), 64, supersample=1).image).save(photos / f"{i}.png")
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "talk2dino", "segment", str(photos), "-r", "-p", ",".join(NAMES), "-m", "micro", "-o", str(out),
        "--save", "coco", "--batch-size", "1", "--workers", "1", "--instances", "--dtype", "float32",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (out / JOURNAL).is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (out / "coco.json").exists()
    killed = len((out / JOURNAL).read_bytes().splitlines())
    with (out / LINES).open("ab") as file:
        file.write(b'{"name": "an unfinished li')  # what a killed write can leave
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{killed} images finished already" in done.stderr or killed == 1
    assert len(order(out)) == 20
    assert order(out) == sorted(order(out), key=lambda name: ("/" in name, int(Path(name).stem)))
