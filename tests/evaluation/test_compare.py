import json
import logging

import numpy as np
import pytest
from PIL import Image

from talk2dino.errors import InputError
from talk2dino.evaluation.compare import compare_benchmark, compare_images
from talk2dino.evaluation.options import CompareOptions
from talk2dino.methods.freeda import FreeDA, SmallStoreWarning
from talk2dino.world import render, sample_scene

few = pytest.mark.filterwarnings(f"ignore::{SmallStoreWarning.__module__}.{SmallStoreWarning.__qualname__}")


@pytest.fixture
def scene(tmp_path):
    Image.fromarray(render(sample_scene(900_003), 61).image).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TALK2DINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_rows_of_a_comparison_on_scenes(micro, tmp_path):
    options = CompareOptions(
        benchmark="world",
        limit=3,
        out=tmp_path,
        plain=True,
        systems="talk2dino,clip-dense:variant=residual,dino-clusters",
    )
    result = compare_benchmark(options, segmenter=micro)
    table = result.table()
    assert [row["method"] for row in table] == [
        "talk2dino", "clip-dense, variant residual", "dino-clusters (matched)", "dino-clusters (matched per image)",
    ]  # fmt: skip
    assert table[0]["miou"] > table[1]["miou"]
    assert [row["clean"] for row in table] == [False, None, None, None]
    text = result.markdown()
    assert "| talk2dino | off | off |" in text
    assert "upper bound" in text
    assert [path.name for path in result.written] == [
        "comparison.md",
        "comparison.json",
        "comparison.png",
        "images.png",
    ]
    with Image.open(tmp_path / "images.png") as image:
        assert image.width > 5 * 240
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert [one["system"].get("variant") for one in kept["configurations"][:2]] == ["published", "residual"]
    path = tmp_path / "dino-clusters-matching-image" / "images-1-of-1.jsonl"
    written = path.stat().st_mtime_ns
    assert compare_benchmark(options, segmenter=micro).table() == table
    assert path.stat().st_mtime_ns == written  # nothing was computed twice


def test_cleaning_and_refinement_are_switched_where_a_system_has_them(micro, tmp_path):
    options = CompareOptions(benchmark="world", limit=1, out=tmp_path, systems="talk2dino,clip-dense")
    found = [(row.label, row.clean, row.refine) for row in compare_benchmark(options, segmenter=micro).rows]
    assert found == [
        ("talk2dino", False, False), ("talk2dino", False, True), ("talk2dino", True, False), ("talk2dino", True, True),
        ("clip-dense", False, False), ("clip-dense", False, True),
    ]  # fmt: skip


def read_size(path):
    with Image.open(path) as image:
        assert np.asarray(image).std() > 10
        return image.size


@few
def test_ready_systems_are_shown_before_prototypes_are_built(micro, scene, tmp_path, cache, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "talk2dino")
    options = CompareOptions(images=[scene], prompts="sky, ball", prototype_scenes=8, out=tmp_path / "out")
    grid = tmp_path / "out" / "scene.png"

    def interrupt(done, total, note=""):
        assert total == 8
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_images(options, segmenter=micro, progress=interrupt)
    first = read_size(grid)  # with the systems that need nothing
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("talk2dino.evaluation")]
    assert message.startswith(
        f"{grid} shows talk2dino, clip-dense, dino-clusters; freeda needs prototypes from 8 drawn"
    )
    assert str(cache / "prototypes") in message
    caplog.clear()
    assert compare_images(options, segmenter=micro) == [grid]
    assert read_size(grid) != first
    assert [path.name for path in (cache / "prototypes").glob("*/keys.npy")] == ["keys.npy"]
    caplog.clear()
    compare_images(options, segmenter=micro)  # built once
    assert not [record for record in caplog.records if "needs prototypes" in record.getMessage()]
    assert not (tmp_path / "out" / "prototypes").exists()


@few
def test_rows_come_in_the_order_that_was_asked_for(micro, tmp_path, cache):
    options = CompareOptions(
        benchmark="world",
        limit=1,
        plain=True,
        prototype_scenes=8,
        out=tmp_path / "out",
        systems="freeda:nearest=2,clip-dense",
    )
    seen = []
    result = compare_benchmark(options, segmenter=micro, progress=lambda done, total, note="": seen.append(note))
    assert [row.label for row in result.rows] == ["freeda:nearest=2", "clip-dense"]
    assert [note.partition(",")[0].partition(":")[0] for note in (seen[0], seen[-1])] == [
        "clip-dense",
        "freeda-nearest-2",
    ]


@few
def test_prototypes_are_kept_in_the_output_folder_without_a_cache(micro, scene, tmp_path, monkeypatch):
    monkeypatch.setenv("TALK2DINO_CACHE", "off")
    options = CompareOptions(
        images=[scene], prompts="sky, ball", prototype_scenes=8, out=tmp_path / "out", systems="freeda:nearest=2"
    )
    compare_images(options, segmenter=micro)
    assert len(list((tmp_path / "out" / "prototypes").glob("*/keys.npy"))) == 1


def test_a_system_that_cannot_be_built_is_left_out(micro, scene, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(micro.towers, "name", "vitb")
    options = CompareOptions(images=[scene], prompts="sky", systems="talk2dino,freeda", out=tmp_path)
    compare_images(options, segmenter=micro)
    assert "freeda is left out: it needs --prototypes DIR" in caplog.text
    with pytest.raises(InputError, match="no system is left to compare"):
        compare_images(options.model_copy(update={"systems": ("freeda",)}), segmenter=micro)


def test_settings_go_to_the_systems_that_have_them(micro, scene, tmp_path, monkeypatch):
    asked = {}
    segment = type(micro).segment

    def spy(self, image, prompts, **settings):
        asked[self.method.name] = settings
        return segment(self, image, prompts, **settings)

    monkeypatch.setattr(type(micro), "segment", spy)
    options = CompareOptions(
        images=[scene], prompts="sky, ball", systems="talk2dino,clip-dense,dino-clusters", background=0.5, clean=True,
        mode="slide", method_options={"clip-dense": {"background": 0.1}}, out=tmp_path,
    )  # fmt: skip
    compare_images(options, segmenter=micro)
    assert {name: (s["background"], s["clean"], s["mode"]) for name, s in asked.items()} == {
        "talk2dino": (0.5, True, "slide"), "clip-dense": (0.1, None, "slide"), "dino-clusters": (None, None, "whole"),
    }  # fmt: skip


@few
def test_prototypes_belong_to_the_weights_of_the_model(micro):
    def folder(scenes):
        return FreeDA.preparation(micro.towers, {}, drawn=True, scenes=scenes).folder

    assert folder(8) == folder(8) != folder(9)
    assert folder(8).startswith("prototypes/micro-8-")
    assert FreeDA.preparation(micro.towers, {"prototypes": "here"}, drawn=True, scenes=8) is None
