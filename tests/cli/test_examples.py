"""Examples and vocabularies on the command line: segment --example, --vocabulary, and the verb vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import run_here, run_process
from PIL import Image

from talk2dino.io.masks import read_segmentation
from talk2dino.io.palette import class_palette
from talk2dino.types import Segmentation
from talk2dino.world import CLASS_NAMES, render, sample_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three scenes, and a mask of the largest class of the first."""
    path = tmp_path_factory.mktemp("scenes")
    (path / "images").mkdir()
    for i in range(3):
        scene = render(sample_scene(30_000_100 + i, aspect=1.3, things=3), 101)
        Image.fromarray(scene.image).save(path / "images" / f"{i}.png")
        if i == 0:
            largest = int(np.bincount(scene.labels.ravel()).argmax())
            Image.fromarray((scene.labels == largest).astype(np.uint8)).save(path / "mask.png")
            (path / "name.txt").write_text(CLASS_NAMES[largest])
    return path


def test_examples_beside_words_and_the_resume_key(capsys, folder, tmp_path):
    image, mask = folder / "images" / "0.png", np.asarray(Image.open(folder / "mask.png"))
    words = ",".join(name for name in CLASS_NAMES if name != (folder / "name.txt").read_text())
    call = (
        "segment",
        folder / "images",
        "-p",
        words,
        "--example",
        f"my part={image}:{folder / 'mask.png'}",
        "-m",
        "micro",
        "-o",
        tmp_path,
    )
    first = run_here(capsys, *call)
    assert first.returncode == 0, first.stderr
    assert "16 classes" in first.stderr
    found = read_segmentation(tmp_path / "0.labels.png")
    mine = found["labels"] == found["names"].index("my part")
    assert mine[mask > 0].mean() > 0.8
    assert "3 images finished already" in run_here(capsys, *call).stderr
    again = run_here(capsys, *call[:5], f"my part={image}:1,1,9,9", *call[6:])  # another region
    assert "finished already" not in again.stderr


def test_a_vocabulary_is_built_listed_merged_and_used(capsys, folder, tmp_path):
    image = folder / "images" / "0.png"
    one, two, both = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "both"))
    built = run_process("vocabulary", "build", "-p", "sky, grass", "--negative", "water", "-m", "micro", "-o", one)
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"{one}: 2 classes, 1 of background for micro\n"
    example = ("--example", f"my part={image}:5,5,30,40", "--negative-example", f"glare={image}:60,60")
    assert run_here(capsys, "vocabulary", "build", *example, "-m", "micro", "-o", two).returncode == 0
    assert run_here(capsys, "vocabulary", "merge", one, two, "-o", both).returncode == 0
    listed = run_here(capsys, "vocabulary", "list", both, "--json")
    line = json.loads(listed.stdout)
    assert line["classes"] == ["sky", "grass", "my part"]
    assert line["negative"] == ["water", "glare"]
    assert line["method"] == "talk2dino"
    shown = run_here(capsys, "vocabulary", "list", one, two).stdout
    assert f"{one}: 2 classes, 1 of background for micro (talk2dino), made from 3 words" in shown
    assert "  my part; background: glare" in shown
    done = run_here(capsys, "segment", image, "--vocabulary", both, "-p", "ball", "-m", "micro", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert read_segmentation(tmp_path / "out" / "0.labels.png")["names"] == (
        "background",
        "ball",
        "sky",
        "grass",
        "my part",
    )
    other = run_here(
        capsys, "segment", image, "--vocabulary", both, "-m", "micro", "--method", "clip-dense", "-o", tmp_path / "out"
    )
    assert other.returncode == 1
    assert "weights or method differ" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["--example", "a=IMAGE:0,0,500,5"],
            1,
            "example of 'a': the box (0, 0, 500, 5) reaches outside the image of 131 x 101",
        ),
        (["--example", "a=IMAGE:MASK2"], 1, "the mask has 7 x 5 pixels, but the image has 131 x 101"),
        (["--example", "a=IMAGE:EMPTY"], 1, "the mask has no pixels"),
        (["--example", "a=IMAGE"], 2, "NAME=IMAGE:MASK.png"),
        (["--example", "a=IMAGE:1,2", "--method", "dino-clusters"], 1, "no named classes"),
        (["--vocabulary", "nowhere.safetensors"], 2, "no vocabulary at nowhere.safetensors"),
        (["--vocabulary", "IMAGE"], 1, "not a vocabulary"),
        (["--negative", "sky", "--example", "a=IMAGE:1,2"], 1, "negative prompts need prompts"),
        (["--negative-example", "a=IMAGE:1,2"], 2, "--example and --vocabulary"),
        (["-p", "sky", "--example", "a=IMAGE:1,2", "--threshold", "b=0.6"], 2, "not among the prompts: b"),
    ],
)
def test_wrong_calls(capsys, folder, tmp_path, arguments, code, words):
    Image.new("L", (7, 5), 1).save(tmp_path / "mask2.png")
    Image.new("L", (131, 101)).save(tmp_path / "empty.png")
    files = {"IMAGE": folder / "images" / "0.png", "MASK2": tmp_path / "mask2.png", "EMPTY": tmp_path / "empty.png"}
    for name, path in files.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    out = tmp_path / "out"
    done = run_here(capsys, "segment", files["IMAGE"], *arguments, "-m", "micro", "-o", out)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert not list(out.glob("*.png"))
    if arguments[0] != "-p":
        built = run_here(capsys, "vocabulary", "build", *arguments, "-m", "micro", "-o", tmp_path / "a.safetensors")
        assert built.returncode in (1, 2)
        assert not (tmp_path / "a.safetensors").exists()


def test_words_are_adapted_to_a_folder_once(capsys, folder, tmp_path):
    call = ("segment", folder / "images", "-p", ",".join(CLASS_NAMES), "--adapt", "-m", "micro", "-o", tmp_path)
    first = run_here(capsys, *call)
    assert first.returncode == 0, first.stderr
    assert "fitting the words to 3 images" in first.stderr
    assert "the words were not adapted" in first.stderr  # three images show too little
    kept = tmp_path / ".talk2dino.adapted.safetensors"
    written = kept.stat().st_mtime_ns
    assert "3 images finished already" in run_here(capsys, *call).stderr
    assert kept.stat().st_mtime_ns == written
    again = run_here(capsys, *call, "--refine")
    assert "finished already" not in again.stderr
    assert kept.stat().st_mtime_ns > written
    done = run_here(capsys, "segment", "-", *call[2:])
    assert done.returncode == 2
    assert "standard input" in done.stderr


def test_a_vocabulary_is_adapted_and_tuned_from_the_command_line(capsys, folder, tmp_path):
    adapted, tuned = tmp_path / "adapted.safetensors", tmp_path / "tuned.safetensors"
    words = ",".join(CLASS_NAMES)
    done = run_here(capsys, "vocabulary", "adapt", folder / "images", "-p", words, "-m", "micro", "-o", adapted)
    assert done.returncode == 0, done.stderr
    assert "adapted to 3 images" in run_here(capsys, "vocabulary", "list", adapted).stdout

    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(2):
        scene = render(sample_scene(30_000_100 + i, aspect=1.3, things=3), 101)
        Segmentation(scene.labels, tuple(CLASS_NAMES), class_palette(CLASS_NAMES)).save(masks / f"{i}.labels.png")
    call = ("vocabulary", "tune", masks, "--images", folder / "images", "-m", "micro", "-o", tuned)
    done = run_here(capsys, *call, "--vocabulary", adapted)
    assert done.returncode == 0, done.stderr
    assert "tuned with 2 masks" in run_here(capsys, "vocabulary", "list", tuned).stdout
    assert "in none of the masks" in done.stderr
    out = tmp_path / "out"
    used = run_here(capsys, "segment", folder / "images", "--vocabulary", tuned, "-m", "micro", "-o", out)
    assert used.returncode == 0, used.stderr
    truth = render(sample_scene(30_000_101, aspect=1.3, things=3), 101).labels
    assert (read_segmentation(out / "1.labels.png")["labels"] == truth).mean() > 0.92

    exported = run_here(capsys, "segment", folder / "images", "-p", words, "-m", "micro", "-o", out, "--save", "coco")
    assert exported.returncode == 0, exported.stderr
    [coco] = out.glob("*.json")
    assert run_here(capsys, *call[:2], coco, *call[3:], "-p", words).returncode == 0  # any labelling format


def test_masks_that_do_not_fit(capsys, folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    call = ("vocabulary", "tune", masks, "--images", folder / "images", "-m", "micro", "-o", tmp_path / "t.safetensors")
    names = ("sky", "ball")
    for name, size, expected in (
        ("other.labels.png", (101, 131), "has no masks of these 3 images"),
        ("0.labels.png", (50, 60), "has 60 x 50 pixels, but the image has 131 x 101"),
        ("0.labels.png", (101, 131), "none of the masks covers a patch"),
    ):
        Segmentation(np.zeros(size, np.uint8), names, class_palette(names)).save(masks / name)
        done = run_here(capsys, *call, "-p", "grass")
        assert done.returncode == 1
        assert expected in done.stderr
    assert not (tmp_path / "t.safetensors").exists()
