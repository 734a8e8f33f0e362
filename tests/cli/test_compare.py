import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import ImageError
from talk2dino.evaluation.miniature import make_miniature
from talk2dino.world import render, sample_scene


@pytest.fixture(scope="module")
def call():
    app, runner = build_app(), CliRunner()

    def go(*arguments):
        return runner.invoke(app, ["compare", *map(str, arguments)])

    return go


SMALL = ("--model", "micro", "--device", "cpu", "--dtype", "float32")


def test_picture(call, tmp_path):
    Image.fromarray(render(sample_scene(900_003), 61).image).save(tmp_path / "scene.png")
    methods = "talk2dino,clip-dense,dino-clusters"
    result = call(tmp_path / "scene.png", "--prompts", "sky, grass, ball", "--methods", methods,
                  "--out", tmp_path / "out", *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out" / "scene.png")
    assert np.asarray(Image.open(tmp_path / "out" / "scene.png")).std() > 10


def test_benchmark(call, tmp_path):
    result = call("--benchmark", "world", "--limit", 3, "--methods", "talk2dino,clip-dense", "--plain", "--json",
                  "--out", tmp_path, *SMALL)  # fmt: skip
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert [row["method"] for row in table] == ["talk2dino", "clip-dense"]
    assert table[0]["miou"] > table[1]["miou"] + 15
    for name in ("comparison.md", "comparison.json", "comparison.png", "pictures.png"):
        assert (tmp_path / name).is_file()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::talk2dino.methods.freeda.SmallStoreWarning")
def test_all_four_on_scenes(call, tmp_path):
    result = call(
        "--benchmark", "world", "--limit", 5, "--prototype-scenes", 80, "--plain", "--json", "--out", tmp_path, *SMALL
    )
    assert result.exit_code == 0, result.output
    figures = {row["method"]: row["miou"] for row in json.loads(result.stdout)}
    assert len(figures) == 5
    assert figures["freeda"] > 30
    assert (tmp_path / "prototypes" / "keys.npy").is_file()


def test_failures(call, tmp_path):
    assert call().exit_code == 2
    assert call(tmp_path / "a.png").exit_code == 2  # no prompts
    assert call(tmp_path / "a.png", "--benchmark", "world").exit_code == 2
    missing = call(tmp_path / "a.png", "--prompts", "sky", *SMALL)
    assert isinstance(missing.exception, ImageError)
    wrong = call("--benchmark", "world", "--methods", "talk2dino,maskclip", *SMALL)
    assert wrong.exit_code == 2
    assert "no method named 'maskclip'" in " ".join(wrong.stderr.split())
    assert call("--benchmark", "world", "--mode", "tiles", *SMALL).exit_code == 2
    assert call("--benchmark", "wrold", *SMALL).exit_code == 2
    assert call(tmp_path / "a.png", "--prompts", "sky", "--background", "1.5", *SMALL).exit_code == 2


def test_what_is_wrong_is_told_before_anything_is_made(call, tmp_path, monkeypatch):
    monkeypatch.setattr("talk2dino.segmenter.Segmenter.from_pretrained", None)
    Image.fromarray(render(sample_scene(900_003), 61).image).save(tmp_path / "scene.png")
    for arguments, message in (
        ((tmp_path / "scene.png", "--prompts", " , "), "no prompts were given"),
        (("--benchmark", "voc21", "--data", tmp_path / "none"), "no folder at"),
        (("--benchmark", "world", "--synonyms", tmp_path / "none"), str(tmp_path / "none")),
    ):
        result = call(*arguments, "--out", tmp_path / "out", *SMALL)
        assert message in str(result.exception), arguments
    for arguments, message in (
        (
            (tmp_path / "scene.png", "--prompts", "sky", "--option", "clpdense.variant=values"),
            "did you mean clip-dense",
        ),
        (("--benchmark", "world", "--held-out", "two"), "option held_out: Input should be 'one' or 'all'"),
        (("--benchmark", "world", "--methods", " ,"), "name at least one system"),
        ((tmp_path / "scene.png", "--prompts", "sky", "--synonyms", tmp_path / "s.txt"), "synonyms in --prompts"),
    ):
        result = call(*arguments, "--out", tmp_path / "out", *SMALL)
        assert result.exit_code == 2, arguments
        assert message in " ".join(result.stderr.split()), arguments
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


def test_what_is_made_for_freeda_is_told(call, tmp_path):
    Image.fromarray(render(sample_scene(900_003), 61).image).save(tmp_path / "scene.png")
    given = (tmp_path / "scene.png", "--prompts", "sky, ball", "--methods", "freeda", "--prototype-scenes", 8)
    refused = call(*given, "--option", "freeda.nearets=2", "--out", tmp_path / "none", *SMALL)
    assert refused.exit_code == 2
    assert "freeda has no option nearets" in " ".join(refused.stderr.split())
    assert not (tmp_path / "none").exists()  # told before the prototypes are made
    for told in (1, 0):  # made once
        result = call(*given, "--option", "freeda.nearest=2", "--out", tmp_path / "out", *SMALL)
        assert result.exit_code == 0, result.output
        assert result.stderr.count(f"from 8 drawn training scenes, kept in {tmp_path / 'out' / 'prototypes'}") == told


def test_options_of_the_systems_are_kept_with_the_results(call, tmp_path):
    make_miniature("voc21", tmp_path)
    voc = ("--benchmark", "voc21", "--data", tmp_path, "--methods", "clip-dense,dino-clusters", "--plain", "--json",
           "--option", "dino-clusters.matching=picture", "--option", "clip-dense.background=0.1", "--out",
           tmp_path / "out", *SMALL)  # fmt: skip
    result = call(*voc)
    assert result.exit_code == 0, result.output
    assert [row["method"] for row in json.loads(result.stdout)] == ["clip-dense", "dino-clusters (matched per picture)"]
    kept = json.loads((tmp_path / "out" / "clip-dense" / "config.json").read_text())
    assert (kept["background"], kept["method_options"]) == (0.1, {})
    again = call(*voc, "--option", "clip-dense.variant=patches")
    assert "holds another run (method_options: {} there, {'variant': 'patches'} now; " in str(again.exception)
