"""Examples and vocabularies on the command line: segment --example, --vocabulary, and the verb vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import run_here, run_process
from PIL import Image

from talk2dino.io.masks import read_segmentation
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
