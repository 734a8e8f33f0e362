"""The published recipe: its stand-ins have the original layouts, and each of its commands runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from talk2dino.captions.layouts import open_source
from talk2dino.captions.source import Record

FOLDER = Path(__file__).parents[2] / "recipes" / "published"


@pytest.fixture(scope="module")
def trial():
    spec = importlib.util.spec_from_file_location("try_published", FOLDER / "try.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stand_in_is_coco_2014(trial, tmp_path):
    trial.make_coco(tmp_path, {"train": 5, "val": 2}, height=48)
    for split, count in (("train", 5), ("val", 2)):
        content = json.loads((tmp_path / "annotations" / f"captions_{split}2014.json").read_text())
        assert [image["file_name"] for image in content["images"]] == sorted(
            path.name for path in (tmp_path / f"{split}2014").iterdir()
        )
        records = [record for _, record in open_source(tmp_path, split=split).records()]
        assert len(records) == count
        for record in records:
            assert isinstance(record, Record)
            assert len(record.captions) == trial.CAPTIONS
            assert record.read().startswith(b"\xff\xd8")
    assert content["images"][0]["file_name"] == f"COCO_val2014_{9 + 7 * 5:012d}.jpg"


def test_recipe_refuses_other_models():
    done = subprocess.run(["sh", str(FOLDER / "recipe.sh"), "micro"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "dinov3-large" in done.stderr


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["dinov2-reg-base", "dinov3-large"])
def test_every_command_runs(model, tmp_path):
    command = [sys.executable, str(FOLDER / "try.py"), "--models", model, "--images", "26", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["model"], found["benchmarks"], found["steps"]) == (model, 8, 200)  # 130 captions: 128 + 2, 100 epochs
