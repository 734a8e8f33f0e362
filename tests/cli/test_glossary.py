"""Chinese prompts on the command line: the glossary verb, and segment with a model that reads English only."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from command import run_here
from PIL import Image

from talk2dino.models.loading import load_parts
from talk2dino.models.saving import save_model


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """A folder with micro as if it read English only, as the published models do."""
    parts = load_parts("micro")
    parts.config = replace(parts.config, languages=("en",), name="english")
    folder = save_model(parts, tmp_path_factory.mktemp("english"))
    Image.new("RGB", (71, 67), (90, 160, 240)).save(folder / "image.png")
    return folder


def test_words_are_looked_up_in_both_directions(capsys):
    done = run_here(capsys, "glossary", "斑马线", "红色的汽车", "zebra crossing")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == ["斑马线 -> zebra crossing (glossary)", "红色的汽车 -> red car (glossary, composed)"]
    assert lines[2].startswith("zebra crossing -> 斑马线 斑馬線")


def test_an_unknown_word_is_an_error_with_near_entries(capsys):
    done = run_here(capsys, "glossary", "斑马钱", "天空", "--json")
    assert done.returncode == 1
    unknown, sky = json.loads(done.stdout)
    assert ["斑马线", "zebra crossing"] in unknown["near"]
    assert unknown["understood"] is None
    assert sky == {"given": "天空", "understood": "sky", "how": "glossary", "chinese": [], "near": []}
    assert "the glossary does not have '斑马钱'; did you mean" in done.stderr


def test_segment_says_what_was_understood_and_keeps_the_names(capsys, english, tmp_path):
    call = (
        "segment",
        english / "image.png",
        "-p",
        "天空,一辆汽车,lawn",
        "-m",
        english,
        "-o",
        tmp_path,
        "--save",
        "palette",
    )
    done = run_here(capsys, *call, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("天空 -> sky (glossary)") == done.stderr.count("一辆汽车 -> car (glossary, composed)") == 1
    line = json.loads(done.stdout)
    assert line["info"]["understood"] == [["天空", "sky", "glossary"], ["一辆汽车", "car", "glossary, composed"]]
    assert set(line["shares"]) <= {"天空", "一辆汽车", "lawn"}


def test_segment_refuses_what_it_cannot_read_and_writes_nothing(capsys, english, tmp_path):
    for words in ("天空,斑马腿", "天空,авто"):
        done = run_here(capsys, "segment", english / "image.png", "-p", words, "-m", english, "-o", tmp_path / "out")
        assert done.returncode == 1
        assert words.split(",")[1] in done.stderr
        assert "The model english reads English" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not list((tmp_path / "out").glob("*.png"))
