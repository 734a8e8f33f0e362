import json

import pytest
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import DataError, InputError
from talk2dino.evaluation.miniature import make_miniature


@pytest.fixture(scope="module")
def call():
    app, runner = build_app(), CliRunner()

    def go(*arguments):
        return runner.invoke(app, ["evaluate", *map(str, arguments)])

    return go


SMALL = ("--model", "micro", "--device", "cpu", "--dtype", "float32")


def test_world_in_shards_merged_equals_one_run(call, tmp_path):
    world = ("--benchmark", "world", "--limit", 6, *SMALL)
    whole = call(*world, "--json")
    assert whole.exit_code == 0, whole.output
    expected = json.loads(whole.stdout)
    assert expected["miou"] > 50
    parts = [call(*world, "--shard", f"{i}/2", "--out", tmp_path / f"part{i}", "--json") for i in (1, 2)]
    assert "incomplete: shard 2 of 2 is missing" in json.loads(parts[0].stdout)["notes"]
    merged = call("--merge", tmp_path / "part1", "--merge", tmp_path / "part2", "--out", tmp_path / "all", "--json")
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.stdout) == expected
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"results.json", "classes.csv", "report.md", "classes.png"}
    assert (tmp_path / "part1" / "pictures.png").is_file()


def test_table_on_stdout(call):
    result = call("--benchmark", "world", "--limit", 2, *SMALL)
    assert result.exit_code == 0, result.output
    assert "mIoU" in result.stdout
    assert "brick wall" in result.stdout
    assert "2 of 2 pictures, mIoU" in result.stderr


def test_a_data_set_from_disk_with_a_configuration_file(call, tmp_path):
    make_miniature("coco-object", tmp_path, "instances")
    file = tmp_path / "run.yaml"
    file.write_text("benchmark: coco-object\nmodel: vitb\nlimit: 2\n")
    result = call("--config", file, "--data", tmp_path, *SMALL, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["model"], values["pictures"], values["config"]["mode"]) == ("micro", 2, "slide")


def test_method_options(call):
    result = call("--benchmark", "world", "--limit", 1, "--method", "dino-clusters", "--option", "segments=2",
                  "--option", "matching=picture", *SMALL, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["config"]["method_options"] == {"segments": 2, "matching": "picture"}
    assert call("--benchmark", "world", "--option", "segments").exit_code == 2


def test_failures(call, tmp_path):
    assert call().exit_code == 2  # no benchmark
    mistyped = call("--benchmark", "ade20", *SMALL)
    assert mistyped.exit_code == 1
    assert isinstance(mistyped.exception, InputError)
    assert "did you mean ade20k" in str(mistyped.exception)
    missing = call("--benchmark", "voc21", "--data", tmp_path, *SMALL)
    assert isinstance(missing.exception, DataError)
    assert "SegmentationClass/NAME.png" in str(missing.exception)
    freeda = call("--benchmark", "world", "--method", "freeda", *SMALL)
    assert "talk2dino freeda build" in str(freeda.exception)
    nothing = call("--merge", tmp_path)
    assert "holds no evaluation" in str(nothing.exception)
