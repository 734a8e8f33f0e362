import json

import pytest
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import DataError
from talk2dino.evaluation import charts
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
    files = {"results.json", "summary.csv", "classes.csv", "report.md", "classes.png", "pictures.png"}
    assert {p.name for p in (tmp_path / "all").iterdir()} == files
    path = tmp_path / "part2" / "pictures-2-of-2.jsonl"  # stopped after its first picture
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    stopped = call("--merge", tmp_path / "part1", "--merge", tmp_path / "part2", "--json")
    assert "incomplete: shard 2 of 2: 1 of 3 pictures" in json.loads(stopped.stdout)["notes"]


def test_pictures_are_the_worst_and_best_of_all_shards(call, tmp_path, monkeypatch):
    shown = []
    real = charts.extreme_cases
    monkeypatch.setattr(
        charts, "extreme_cases", lambda records, count: (shown.append(records), real(records, count))[1]
    )
    make_miniature("voc20", tmp_path)
    voc = ("--benchmark", "voc20", "--data", tmp_path, "--mode", "square", *SMALL)
    for number in (1, 2):
        assert call(*voc, "--shard", f"{number}/2", "--out", tmp_path / "both").exit_code == 0
    assert [record.name[-3:] for record in shown[-1]] == ["139", "632", "285"]
    merged = call("--merge", tmp_path / "both", "--out", tmp_path / "all")
    assert merged.exit_code == 0, merged.output
    assert (tmp_path / "all" / "pictures.png").read_bytes() == (tmp_path / "both" / "pictures.png").read_bytes()
    (tmp_path / "VOCdevkit").rename(tmp_path / "elsewhere")
    gone = call("--merge", tmp_path / "both", "--out", tmp_path / "all")
    assert gone.exit_code == 0, gone.output
    assert "no pictures.png: benchmark voc20: no " in gone.stderr
    assert "None: benchmark voc20: no " in (tmp_path / "all" / "report.md").read_text()
    assert not (tmp_path / "all" / "pictures.png").exists()


def test_several_benchmarks_at_once(call, tmp_path):
    for name in ("voc21", "ade20k"):
        make_miniature(name, tmp_path)
    several = ("-b", "voc21,ade20k", "--data", tmp_path, "--mode", "square", "--background", 0.5, *SMALL)
    result = call(*several, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert list(values["benchmarks"]) == ["voc21", "ade20k"]
    kept = {name: report["config"]["background"] for name, report in values["benchmarks"].items()}
    assert kept == {"voc21": 0.5, "ade20k": None}
    assert values["measured"]["mean"] == pytest.approx(
        (values["measured"]["voc21"] + values["measured"]["ade20k"]) / 2, abs=1e-4
    )
    for name in ("voc21/report.md", "ade20k/results.json", "benchmarks.md", "benchmarks.csv", "benchmarks.json"):
        assert (tmp_path / "out" / name).is_file()
    merged = call("--merge", tmp_path / "out", "--json")  # a folder of several runs
    assert json.loads(merged.stdout)["measured"] == values["measured"]
    again = call("-b", "voc21", "-b", "ade20k", *several[2:], "--out", tmp_path / "out")
    assert "| published, for reference: Talk2DINO ViT-B | 61.5 | 21.1 | 41.3 |" in again.stdout
    missing = call("-b", "voc21,cityscapes", *several[2:], "--out", tmp_path / "none")
    assert isinstance(missing.exception, DataError)  # before anything is evaluated
    assert not (tmp_path / "none").exists()


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
    assert "labels made from instances_val2017.json, not read from label pictures" in values["notes"]
    assert (values["config"]["background"], values["config"]["run"]["data"]) == (0.58, str(tmp_path))


def test_method_options(call):
    result = call("--benchmark", "world", "--limit", 1, "--method", "dino-clusters", "--option", "segments=2",
                  "--option", "matching=picture", *SMALL, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["config"]["method_options"] == {"segments": 2, "matching": "picture"}
    assert call("--benchmark", "world", "--option", "segments").exit_code == 2


def test_failures(call, tmp_path):
    assert call().exit_code == 2  # no benchmark
    mistyped = call("--benchmark", "ade20", *SMALL)
    assert mistyped.exit_code == 2
    assert "did you mean ade20k" in " ".join(mistyped.stderr.split())
    for wrong in (("--shard", "3/2"), ("--background", "1.5"), ("--method", "frida"), ("--held-out", "two")):
        assert call("--benchmark", "world", *wrong, *SMALL).exit_code == 2, wrong
    missing = call("--benchmark", "voc21", "--data", tmp_path, *SMALL)
    assert isinstance(missing.exception, DataError)
    assert "SegmentationClass/NAME.png" in str(missing.exception)
    freeda = call("--benchmark", "world", "--method", "freeda", *SMALL)
    assert "talk2dino freeda build" in str(freeda.exception)
    nothing = call("--merge", tmp_path)
    assert "holds no evaluation" in str(nothing.exception)
