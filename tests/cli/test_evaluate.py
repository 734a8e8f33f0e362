import json

import pytest
from miniature import make_miniature
from typer.testing import CliRunner

from talk2dino.cli import build_app
from talk2dino.errors import DataError
from talk2dino.evaluation import cases


@pytest.fixture(scope="module")
def call():
    app, runner = build_app(), CliRunner()

    def go(*arguments):
        return runner.invoke(app, ["evaluate", *map(str, arguments)])

    return go


SMALL = ("--model", "micro", "--device", "cpu")


def said(result):
    """What stderr says, without the frame and line breaks of usage errors."""
    return " ".join(result.stderr.replace("│", " ").split())


def test_world_in_shards_merged_equals_one_run(call, tmp_path):
    world = ("--benchmark", "world", "--limit", 6, *SMALL)
    whole = call(*world, "--json")
    assert whole.exit_code == 0, whole.output
    expected = json.loads(whole.stdout)
    assert expected["miou"] > 50
    assert expected["config"]["dtype"] == "float32"
    parts = [call(*world, "--shard", f"{i}/2", "--out", tmp_path / f"part{i}", "--json") for i in (1, 2)]
    assert "incomplete: shard 2 of 2 is missing" in json.loads(parts[0].stdout)["notes"]
    merged = call("--merge", tmp_path / "part1", "--merge", tmp_path / "part2", "--out", tmp_path / "all", "--json")
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.stdout) == expected
    files = {"results.json", "summary.csv", "classes.csv", "report.md", "classes.png", "images.png"}
    assert {p.name for p in (tmp_path / "all").iterdir()} == files
    path = tmp_path / "part2" / "images-2-of-2.jsonl"  # stopped after its first image
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    stopped = call("--merge", tmp_path / "part1", "--merge", tmp_path / "part2", "--json")
    assert "incomplete: shard 2 of 2: 1 of 3 images" in json.loads(stopped.stdout)["notes"]


def test_images_are_the_worst_and_best_of_all_shards(call, tmp_path, monkeypatch, caplog):
    shown, real = [], cases.extreme_cases
    monkeypatch.setattr(cases, "extreme_cases", lambda records: (shown.append(records), real(records))[1])
    make_miniature("voc20", tmp_path)
    voc = ("--benchmark", "voc20", "--data", tmp_path, "--mode", "square", *SMALL)
    for number in (1, 2):
        result = call(*voc, "--shard", f"{number}/2", "--out", tmp_path / "both")
        assert result.exit_code == 0, result.output
    assert "images.png" in result.stderr
    assert [record.name[-3:] for record in shown[-1]] == ["139", "632", "285"]
    merged = call("--merge", tmp_path / "both", "--out", tmp_path / "all")
    assert merged.exit_code == 0, merged.output
    assert (tmp_path / "all" / "images.png").read_bytes() == (tmp_path / "both" / "images.png").read_bytes()
    (tmp_path / "VOCdevkit").rename(tmp_path / "elsewhere")
    gone = call("--merge", tmp_path / "both", "--out", tmp_path / "all")
    assert gone.exit_code == 0, gone.output
    assert "no images.png: benchmark voc20: no " in caplog.text
    assert "None: benchmark voc20: no " in (tmp_path / "all" / "report.md").read_text()
    assert not (tmp_path / "all" / "images.png").exists()


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
    mean = (values["measured"]["voc21"] + values["measured"]["ade20k"]) / 2
    assert values["measured"]["mean"] == pytest.approx(mean, abs=1e-4)
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


def test_a_data_set_from_disk_with_a_configuration_file(call, tmp_path):
    make_miniature("coco-object", tmp_path, "instances")
    file = tmp_path / "run.yaml"
    file.write_text("benchmark: coco-object\nmodel: vitb\nlimit: 2\n")
    result = call("--config", file, "--data", tmp_path, *SMALL, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["model"], values["images"], values["config"]["mode"]) == ("micro", 2, "slide")
    assert "labels drawn from instances_val2017.json, not read from label images" in values["notes"]
    assert (values["config"]["background"], values["config"]["run"]["data"]) == (0.58, str(tmp_path))
    file.write_text("benchmark: world\nmethod_options: 5\n")
    wrong = call("--config", file)
    assert wrong.exit_code == 2
    assert "method_options must be" in said(wrong)


def test_method_options(call):
    result = call("--benchmark", "world", "--limit", 1, "--method", "dino-clusters", "--option", "segments=2",
                  "--matching", "image", *SMALL, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)["config"]
    assert (config["method_options"], config["matched"], config["mode"]) == ({"segments": 2}, "image", "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a benchmark, for example --benchmark world"),
        (("--benchmark", "ade20"), "did you mean ade20k"),
        (("-b", "nan"), "unknown benchmark 'nan'"),
        (("-b", "world", "--shard", "3/2"), "I/N with 1 <= I <= N, for example 2/8; got '3/2'"),
        (("-b", "world", "--shard", "0/4"), "shards count from 1"),
        (("-b", "voc21", "--background", "1.5"), "option background: "),
        (("-b", "voc21", "--background", "nan"), "option background: "),
        (("-b", "voc21", "--background", "-inf"), "option background: "),
        (("-b", "world", "--method", "frida"), "did you mean freeda"),
        (("-b", "world", "--held-out", "two"), "option held_out: "),
        (("-b", "world", "--dtype", "int8"), "option dtype: "),
        (("-b", "world", "--device", "gpu"), "unknown device 'gpu'"),
        (("-b", "world", "--mode", "tiles"), "option mode: "),
        (("-b", "world", "--limit", "0"), "option limit: "),
        (("-b", "world", "--batch-size", "257"), "option batch_size: "),
        (("-b", "world", "--option", "segments"), "is not NAME=VALUE"),
        (("-b", "world", "--option", "segments=2"), "talk2dino has no option 'segments'"),
    ],
)
def test_wrong_usage_exits_2_before_a_model_loads(call, monkeypatch, arguments, message):
    monkeypatch.setattr("talk2dino.segmenter.Segmenter.from_pretrained", None)
    result = call(*arguments, *SMALL[: 2 if "--device" in arguments else 4])
    assert result.exit_code == 2, result.output
    assert message in said(result)


def test_failures(call, tmp_path):
    missing = call("--benchmark", "voc21", "--data", tmp_path, *SMALL)
    assert isinstance(missing.exception, DataError)
    assert "SegmentationClass/NAME.png" in str(missing.exception)
    freeda = call("--benchmark", "world", "--method", "freeda", *SMALL)
    assert "talk2dino freeda build" in str(freeda.exception)
    nothing = call("--merge", tmp_path)
    assert "holds no evaluation" in str(nothing.exception)


def test_help_has_units_defaults_and_an_example(call):
    text = " ".join(call("--help").stdout.split())
    assert "Example: talk2dino evaluate -b voc21,ade20k --data data --model vitb --out results" in text
    for part in ("[default: float32]", "[default: 8]", "counted from 1", "-1 to 1"):
        assert part in text
