import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from talk2dino.evaluation import cases, charts
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.journal import ImageRecord
from talk2dino.evaluation.metrics import ConfusionMatrix
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.paper import published_results, published_row
from talk2dino.evaluation.report import make_report, summary_rows, terminal_table, write_report, write_summary


def config(benchmark, **values):
    options = EvaluationOptions(benchmark=benchmark, **values)
    return options.settings_on(options.benchmarks[0])


@pytest.fixture
def report():
    benchmark = get_benchmark("voc21")
    matrix = ConfusionMatrix(benchmark.names)
    matrix.update(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]]))
    return make_report(config("voc21", model="vitb", limit=7), matrix.metrics(), 7, "shard 2 of 2 is missing")


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
    assert {"torch", "numpy", "python"} <= set(values["versions"])
    (means,) = csv.DictReader(io.StringIO(written[1].read_text()))
    assert means == {
        "benchmark": "voc21", "method": "talk2dino", "model": "vitb", "images": "7", "miou": "66.67",
        "mean_accuracy": "83.33", "overall_accuracy": "75.00", "published_miou_for_reference": "61.5",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(written[2].read_text())))
    assert rows[1] == {"class": "aeroplane", "iou": "50.00", "accuracy": "100.00", "pixels": "1"}
    assert rows[20] == {"class": "tvmonitor", "iou": "", "accuracy": "", "pixels": "0"}


def test_published_figures_stand_apart_and_are_marked(report, tmp_path):
    values = report.as_dict()
    assert values["published_for_reference"]["Talk2DINO ViT-B"] == 61.5
    assert 61.5 not in [values["miou"], *values["details"].values()]
    page = (write_report(report, tmp_path, not_drawn="the data are gone")[3]).read_text()
    assert "images.png" not in page
    assert "None: the data are gone." in page
    (tmp_path / "images.png").touch()
    assert "(images.png)" in write_report(report, tmp_path)[3].read_text()
    assert "published mIoU, for reference (Talk2DINO ViT-B)" in page
    assert "for reference; not measured here" in page
    assert "| 66.67 | 83.33 | 75.00 | 61.5 |" in page
    terminal = terminal_table(report)
    (mean,) = (line for line in terminal.splitlines() if line.startswith("│ mean "))
    assert [cell.strip() for cell in mean.split("│")[1:-1]] == ["mean", "66.67", "83.33", "", "61.5"]
    assert "published mIoU, for reference" in terminal
    assert "not measured here" in terminal.split("tvmonitor")[1]  # the other systems are in a table of their own
    assert published_results("world") == {}


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ({"model": "vitb"}, "Talk2DINO ViT-B"),
        ({"model": "lorebianchi98/Talk2DINO-ViTB"}, "Talk2DINO ViT-B"),
        ({"model": "vitl", "refine": True}, "Talk2DINO ViT-L + PAMR"),
        ({"model": "micro"}, None),
        ({"model": "vitb", "method": "freeda"}, "FreeDA ViT-B"),
        ({"model": "vitb", "method": "clip-dense", "method_options": {"variant": "residual"}}, "MaskCLIP ViT-B"),
        ({"model": "vitb", "method": "clip-dense", "method_options": {"variant": "values"}}, None),
        ({"model": "vitb", "method": "clip-dense"}, None),
    ],
)
def test_which_published_row_stands_beside_a_run(values, title):
    row = published_row(config("voc21", **values))
    assert (row and row.title) == title


def test_what_differs_from_the_published_system_is_said():
    metrics = ConfusionMatrix(get_benchmark("voc21").names).metrics()
    notes = make_report(config("voc21", model="vitb", method="freeda"), metrics, 1).notes
    assert "published row FreeDA ViT-B: FreeDA's published code pairs DINOv2 ViT-L/14 without registers" in " ".join(
        notes
    )
    settings = config("voc21", model="vitb", method="clip-dense") | {"system": {"variant": "residual"}}
    assert "averages 85 normalised templates" in " ".join(make_report(settings, metrics, 1).notes)


def test_notes_say_what_limits_the_figures(report):
    text = terminal_table(report)
    assert "only the first 7 images" in text
    assert "incomplete: shard 2 of 2 is missing" in text
    notes = " ".join(make_report(config("voc21", method="dino-clusters"), report.metrics, 1).notes)
    assert "matched to the classes of the truth once, over the whole run" in notes
    assert "mode whole: the published protocol uses slide" in notes
    assert "the truth of each image (an upper bound)" in " ".join(
        make_report(config("voc21", method="dino-clusters", matching="image"), report.metrics, 1).notes
    )
    settings = config("voc21") | {"background": 0.2, "run": {"threshold_source": "our choice"}}
    assert "background threshold 0.2: our choice" in make_report(settings, report.metrics, 1).notes


def test_world_report_separates_backgrounds_from_objects():
    matrix = ConfusionMatrix(get_benchmark("world").names)
    matrix.update(np.array([[0, 8, 8, 9]]), np.array([[0, 8, 9, 9]]))
    details = make_report(config("world"), matrix.metrics(), 1).details
    assert details == {"background_miou": 100.0, "object_miou": 50.0}


def test_bars_are_as_long_as_the_figures(report):
    chart = np.asarray(charts.class_chart(report.metrics, "title"))
    bars = (chart == (0, 114, 178)).all(-1)
    lengths = sorted({int(row.sum()) for row in bars if row.sum() > 50})
    assert lengths[-1] / lengths[0] == pytest.approx(2, rel=0.02)  # 100 % and 50 %


def test_worst_and_best_cases():
    def record(name, miou):
        return ImageRecord(name, np.zeros((0, 3), int), miou)

    records = [record("a", 0.5), record("b", None), record("c", 0.1), record("d", 0.9), record("e", 0.7)]
    assert [(kind, r.name) for kind, r in cases.extreme_cases(records, 2)] == [
        ("worst", "c"), ("worst", "a"), ("best", "d"), ("best", "e"),
    ]  # fmt: skip
    few = [(kind, r.name) for kind, r in cases.extreme_cases(records[:3], 2)]
    assert few == [("worst", "c"), ("best", "a")]  # nothing twice, and not all of them "worst"
    assert [(kind, r.name) for kind, r in cases.extreme_cases(records[:1])] == [("best", "a")]


def test_several_benchmarks_in_one_table(tmp_path):
    reports = []
    for name, wrong in (("voc20", 2), ("ade20k", 0)):
        matrix = ConfusionMatrix(get_benchmark(name).names)
        matrix.update(np.array([[0, 0, wrong, 2]]), np.array([[0, 0, 0, 2]]))
        reports.append(make_report(config(name, model="vitl", refine=True), matrix.metrics(), 3))
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
    world = make_report(config("world"), reports[0].metrics, 3)
    assert summary_rows([reports[0], world])[1]["mean"] is None  # nothing was published on the world


def test_labels_are_painted_in_the_benchmarks_colours():
    painted = np.asarray(cases.paint_labels(np.array([[0, 1, 255, -1]]), [(1, 2, 3), (4, 5, 6)]))
    assert painted.tolist() == [[[1, 2, 3], [4, 5, 6], [232, 232, 232], [232, 232, 232]]]


def test_a_report_of_another_model_has_no_published_row(report):
    other = dataclasses.replace(report, config=report.config | {"model": "micro"})
    assert other.published is None
    assert report.published is not None
