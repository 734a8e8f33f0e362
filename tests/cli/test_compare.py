import json

import numpy as np
import pytest
from miniature import make_miniature
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import ImageError
from talk2dino.world import render, sample_scene


@pytest.fixture(scope="module")
def call():
    app, runner = build_app(), CliRunner()

    def go(*arguments):
        return runner.invoke(app, ["compare", *map(str, arguments)])

    return go


@pytest.fixture
def scene(tmp_path):
    Image.fromarray(render(sample_scene(900_003), 61).image).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


SMALL = ("--model", "micro", "--device", "cpu")


def test_image(call, scene, tmp_path):
    result = call(scene, "--prompts", "sky, grass, ball", "--methods", "talk2dino,clip-dense,dino-clusters",
                  "--out", tmp_path / "out", *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out" / "scene.png")
    with Image.open(tmp_path / "out" / "scene.png") as grid:
        assert np.asarray(grid).std() > 10


def test_benchmark(call, tmp_path):
    result = call("--benchmark", "world", "--limit", 3, "--methods", "talk2dino,clip-dense", "--plain", "--json",
                  "--out", tmp_path, *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert [row["method"] for row in table] == ["talk2dino", "clip-dense"]
    assert table[0]["miou"] > table[1]["miou"] + 15
    for name in ("comparison.md", "comparison.json", "comparison.png", "images.png"):
        assert (tmp_path / name).is_file()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::talk2dino.methods.freeda.SmallStoreWarning")
def test_all_four_on_scenes(call, tmp_path):
    result = call("--benchmark", "world", "--limit", 5, "--prototype-scenes", 80, "--plain", "--json", "--out", tmp_path,
                  *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    figures = {row["method"]: row["miou"] for row in json.loads(result.stdout)}
    assert len(figures) == 5
    assert figures["freeda"] > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pass IMAGE with --prompts, or --benchmark NAME"),
        (("a.png",), "an image needs --prompts"),
        (("a.png", "--benchmark", "world"), "but not both"),
        (("a.png", "--prompts", " , "), "no prompts"),
        (("a.png", "--prompts", "sky", "--background", "1.5"), "option background: "),
        (("a.png", "--prompts", "sky", "--background", "nan"), "option background: "),
        (("a.png", "--prompts", "sky", "--synonyms", "s.txt"), "synonyms of an image belong into --prompts"),
        (("a.png", "--prompts", "sky", "--option", "clpdense.variant=values"), "did you mean clip-dense"),
        (("a.png", "--prompts", "sky", "--option", "freeda.nearets=2"), "freeda has no option 'nearets'"),
        (("a.png", "--prompts", "sky", "--option", "nearest=2"), "is not METHOD.NAME=VALUE"),
        (("-b", "wrold"), "did you mean world"),
        (("-b", "world", "--mode", "tiles"), "option mode: "),
        (("-b", "world", "--methods", "talk2dino,maskclip"), "no method named 'maskclip'"),
        (("-b", "world", "--methods", " ,"), "name at least one system"),
        (("-b", "world", "--held-out", "two"), "option held_out: "),
    ],
)
def test_wrong_usage_exits_2_before_a_model_loads(call, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setattr("talk2dino.segmenter.Segmenter.from_pretrained", None)
    result = call(*arguments, "--out", tmp_path / "out", *SMALL)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_missing_files_are_reported_before_a_model_loads(call, tmp_path, monkeypatch):
    monkeypatch.setattr("talk2dino.segmenter.Segmenter.from_pretrained", None)
    for arguments, message in (
        (("-b", "voc21", "--data", tmp_path / "none"), "no folder at"),
        (("-b", "world", "--synonyms", tmp_path / "none"), str(tmp_path / "none")),
    ):
        assert message in str(call(*arguments, "--out", tmp_path / "out", *SMALL).exception), arguments
    missing = call(tmp_path / "a.png", "--prompts", "sky", *SMALL)
    assert isinstance(missing.exception, ImageError)
    assert not (tmp_path / "out").exists()


def test_the_whole_comparison_is_written_down(call, tmp_path):
    make_miniature("voc21", tmp_path)
    (tmp_path / "words.txt").write_text("cat = kitten\n")
    result = call("--benchmark", "voc21", "--data", tmp_path, "--methods", "clip-dense,dino-clusters", "--plain",
                  "--mode", "square", "--synonyms", tmp_path / "words.txt", "--out", tmp_path / "out", *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Published mIoU on this benchmark, for reference (not measured here):" in result.stdout
    assert "background threshold 0.2: our choice" in result.stdout
    assert "synonyms from" in result.stdout
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert kept["published_for_reference"]["MaskCLIP ViT-B"] == 38.8
    assert [one["mode"] for one in kept["configurations"]] == ["square"] * 3
    assert (kept["configurations"][0]["model"], kept["configurations"][0]["dtype"]) == ("micro", "float32")
    assert "torch" in kept["versions"]
    assert '"fingerprints"' in (tmp_path / "out" / "comparison.md").read_text()


def test_options_of_the_systems_are_kept_with_the_results(call, tmp_path):
    make_miniature("voc21", tmp_path)
    voc = ("--benchmark", "voc21", "--data", tmp_path, "--methods", "clip-dense,dino-clusters", "--plain", "--json",
           "--option", "dino-clusters.matching=image", "--option", "clip-dense.background=0.1", "--out",
           tmp_path / "out", *SMALL)  # fmt: skip
    result = call(*voc)
    assert result.exit_code == 0, result.output
    assert [row["method"] for row in json.loads(result.stdout)] == ["clip-dense", "dino-clusters (matched per image)"]
    kept = json.loads((tmp_path / "out" / "clip-dense" / "config.json").read_text())
    assert (kept["background"], kept["method_options"]) == (0.1, {})
    again = call(*voc, "--option", "clip-dense.variant=patches")
    assert 'method_options.variant: unset before, "patches" now' in str(again.exception)
