import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from talk2dino.errors import InputError
from talk2dino.evaluation import charts
from talk2dino.evaluation.compare import (
    compare_benchmark,
    compare_picture,
    comparison_cases,
    comparison_chart,
    comparison_markdown,
    comparison_rows,
    comparison_table,
    wrap_all,
)
from talk2dino.evaluation.datasets import get_benchmark, world_samples
from talk2dino.evaluation.journal import PictureRecord
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.paper import published_counterpart, published_results
from talk2dino.evaluation.report import make_report, terminal_table, write_report
from talk2dino.evaluation.summary import ALL, choose_benchmarks, summary_rows, write_summary


@pytest.fixture
def report():
    benchmark = get_benchmark("voc21")
    matrix = ConfusionMatrix(benchmark.names)
    matrix.update(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]]))
    options = EvaluationOptions(benchmark="voc21", model="vitb", limit=7)
    return make_report(options.to_config(), matrix.metrics(), 7, "shard 2 of 2 is missing")


def test_files_hold_the_figures(report, tmp_path):
    written = write_report(report, tmp_path)
    assert [path.name for path in written] == [
        "results.json", "summary.csv", "classes.csv", "report.md", "classes.png",
    ]  # fmt: skip
    values = json.loads(written[0].read_text())
    assert values["miou"] == pytest.approx(100 * (1 + 0.5 + 0.5) / 3, abs=1e-4)
    assert values["overall_accuracy"] == 75.0
    assert values["config"]["limit"] == 7
    assert values["config"]["mode"] == "slide"
    assert values["config"]["clean"] is True
    assert {"torch", "transformers", "python"} <= set(values["versions"])
    (means,) = csv.DictReader(io.StringIO(written[1].read_text()))
    assert means == {
        "benchmark": "voc21", "method": "talk2dino", "model": "vitb", "pictures": "7", "miou": "66.67",
        "mean_accuracy": "83.33", "overall_accuracy": "75.00", "published_miou_for_reference": "61.5",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(written[2].read_text())))
    assert rows[1] == {"class": "aeroplane", "iou": "50.00", "accuracy": "100.00", "pixels": "1"}
    assert rows[20] == {"class": "tvmonitor", "iou": "", "accuracy": "", "pixels": "0"}


def test_published_figures_stand_apart_and_are_marked(report, tmp_path):
    values = report.as_dict()
    assert values["published_for_reference"]["Talk2DINO ViT-B"] == 61.5
    assert 61.5 not in [values["miou"], *values["details"].values()]
    page = (write_report(report, tmp_path, no_pictures="the data are gone")[3]).read_text()
    assert "pictures.png" not in page
    assert "None: the data are gone." in page
    (tmp_path / "pictures.png").touch()
    assert "(pictures.png)" in write_report(report, tmp_path)[3].read_text()
    assert "published mIoU, for reference (Talk2DINO ViT-B)" in page
    assert "for reference; not measured here" in page
    assert "| 66.67 | 83.33 | 75.00 | 61.5 |" in page
    terminal = terminal_table(report)
    (mean,) = (line for line in terminal.splitlines() if line.startswith("│ mean "))
    assert [cell.strip() for cell in mean.split("│")[1:-1]] == ["mean", "66.67", "83.33", "", "61.5"]
    assert "published mIoU, for reference" in terminal
    assert "not measured here" in terminal.split("tvmonitor")[1]  # the other systems stand in a table of their own
    hub = dataclasses.replace(report, config=report.config | {"model": "lorebianchi98/Talk2DINO-ViTB"})
    assert hub.counterpart == ("Talk2DINO ViT-B", 61.5)
    assert published_results("world") == {}
    assert published_counterpart("voc21", "talk2dino", "vitl", True) == ("Talk2DINO ViT-L + PAMR", 66.1)
    assert published_counterpart("ade20k", "freeda", "vitb", False) == ("FreeDA ViT-B", 20.8)
    assert published_counterpart("voc21", "talk2dino", "micro", False) is None


def test_notes_say_what_limits_the_figures(report):
    text = terminal_table(report)
    assert "only the first 7 pictures" in text
    assert "incomplete: shard 2 of 2 is missing" in text
    clusters = EvaluationOptions(benchmark="voc21", method="dino-clusters").to_config()
    notes = " ".join(make_report(clusters, report.metrics, 1).notes)
    assert "once over the whole run" in notes
    assert "not the published protocol" in notes


def test_world_report_tells_backgrounds_from_objects():
    names = get_benchmark("world").names
    matrix = ConfusionMatrix(names)
    matrix.update(np.array([[0, 8, 8, 9]]), np.array([[0, 8, 9, 9]]))
    details = make_report(EvaluationOptions(benchmark="world").to_config(), matrix.metrics(), 1).details
    assert details == {"background_miou": 100.0, "object_miou": 50.0}


def test_bars_are_as_long_as_the_figures(report):
    chart = np.asarray(charts.class_chart(report.metrics, "title"))
    bars = (chart == (0, 114, 178)).all(-1)
    lengths = sorted({int(row.sum()) for row in bars if row.sum() > 50})
    assert lengths[-1] / lengths[0] == pytest.approx(2, rel=0.02)  # 100 % and 50 %


def test_worst_and_best_cases():
    def record(name, miou):
        return PictureRecord(name, np.zeros((0, 3), int), miou)

    records = [record("a", 0.5), record("b", None), record("c", 0.1), record("d", 0.9), record("e", 0.7)]
    assert [(kind, r.name) for kind, r in charts.extreme_cases(records, 2)] == [
        ("worst", "c"), ("worst", "a"), ("best", "d"), ("best", "e"),
    ]  # fmt: skip
    few = [(kind, r.name) for kind, r in charts.extreme_cases(records[:3], 2)]
    assert few == [("worst", "c"), ("best", "a")]  # nothing twice, and not all of them "worst"
    assert [(kind, r.name) for kind, r in charts.extreme_cases(records[:1])] == [("best", "a")]


def test_several_benchmarks_in_one_table(tmp_path):
    reports = []
    for name, wrong in (("voc20", 2), ("ade20k", 0)):
        matrix = ConfusionMatrix(get_benchmark(name).names)
        matrix.update(np.array([[0, 0, wrong, 2]]), np.array([[0, 0, 0, 2]]))
        config = EvaluationOptions(benchmark=name, model="vitl", refine=True).to_config()
        reports.append(make_report(config, matrix.metrics(), 3))
    measured, published, *others = summary_rows(reports)
    assert measured == {
        "system": "talk2dino (vitl, refined)", "measured": True, "voc20": pytest.approx(100 * (2 / 3 + 1 / 2) / 2, abs=1e-4),
        "ade20k": 100.0, "mean": pytest.approx(100 * (7 / 12 + 1) / 2, abs=1e-4),
    }  # fmt: skip
    assert published == {
        "system": "Talk2DINO ViT-L + PAMR", "measured": False, "voc20": 89.8, "ade20k": 22.9, "mean": 56.35,
    }  # fmt: skip
    assert len(others) == 7
    page, table, _ = write_summary(reports, tmp_path)
    assert "| measured: talk2dino (vitl, refined) | 58.33 | 100.00 | 79.17 |" in page.read_text()
    assert "| published, for reference: Talk2DINO ViT-L + PAMR | 89.8 | 22.9 | 56.4 |" in page.read_text()
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["measured"] for row in rows] == ["True", *["False"] * 8]
    world = make_report(EvaluationOptions(benchmark="world").to_config(), reports[0].metrics, 3)
    assert summary_rows([reports[0], world])[1]["mean"] is None  # nothing was published on the world
    assert choose_benchmarks(["all", "world", "voc21"]) == [*ALL, "world"]
    with pytest.raises(InputError, match="did you mean voc21"):
        choose_benchmarks(["voc2"])


def test_labels_are_painted_in_the_benchmarks_colours():
    painted = np.asarray(charts.paint_labels(np.array([[0, 1, 255, -1]]), [(1, 2, 3), (4, 5, 6)]))
    assert painted.tolist() == [[[1, 2, 3], [4, 5, 6], [232, 232, 232], [232, 232, 232]]]


def test_case_grid_shows_every_case_once():
    benchmark, samples = get_benchmark("world"), world_samples(range(900_000, 900_003))
    records = [PictureRecord(s.name, np.zeros((0, 3), int), 0.1 * i) for i, s in enumerate(samples)]
    shown = []

    def predict(loaded):
        shown.append(loaded[0][1])
        return [truth for _, truth in loaded]

    grid = charts.case_grid(benchmark, samples, records, predict, count=1)
    assert len(shown) == 2
    assert grid.width > 3 * 320
    assert charts.case_grid(benchmark, samples, [], predict) is None


def test_comparison_lines():
    rows = comparison_rows(["talk2dino", "clip-dense"], both=True)
    assert rows == [
        ("talk2dino", False, False), ("talk2dino", False, True), ("talk2dino", True, False), ("talk2dino", True, True),
        ("clip-dense", False, False), ("clip-dense", False, True),
    ]  # fmt: skip
    assert comparison_rows(["freeda"], both=False) == [("freeda", False, False)]


def test_comparison_of_systems_on_scenes(micro, tmp_path):
    systems = wrap_all(
        micro, ["talk2dino", "clip-dense", "dino-clusters"], {"clip-dense": {"variant": "residual"}}, None
    )
    assert list(systems) == ["talk2dino", "clip-dense", "dino-clusters", "dino-clusters:matching=picture"]
    assert systems["clip-dense"].variant == "residual"
    base = {"benchmark": "world", "model": "micro", "limit": 3}
    rows = compare_benchmark(systems, base, both=False, out=tmp_path)
    table = comparison_table(rows)
    assert [row["method"] for row in table] == [
        "talk2dino", "clip-dense", "dino-clusters (matched)", "dino-clusters (matched per picture)",
    ]  # fmt: skip
    assert table[0]["miou"] > table[1]["miou"]
    assert table[0]["clean"] is False
    assert table[1]["clean"] is None
    text = comparison_markdown(rows)
    assert "| talk2dino | off | off |" in text
    assert "upper bound" in text
    assert (tmp_path / "dino-clusters-matching-picture" / "pictures-1-of-1.jsonl").is_file()
    again = compare_benchmark(systems, base, both=False, out=tmp_path)  # nothing is computed twice
    assert comparison_table(again) == table
    assert comparison_chart(rows).height > 100
    assert comparison_cases(systems, base, rows, count=2).width > 5 * 240


def test_comparison_on_a_picture(micro):
    picture, _ = world_samples([900_001])[0].load()
    systems = wrap_all(micro, ["talk2dino", "clip-dense", "dino-clusters"], {}, None)
    grid = compare_picture(systems, picture, ["sky", "ball", "grass"], background=0.5)
    assert grid.width > 3 * 240
