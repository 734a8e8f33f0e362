"""An evaluation for people and for machines: terminal table, JSON, CSV, Markdown, a bar chart, a grid of pictures."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from talk2dino.evaluation.metrics import Metrics
from talk2dino.evaluation.paper import published_counterpart, published_results
from talk2dino.io.atomic import write_atomically
from talk2dino.methods import method_class

_PACKAGES = ("talk2dino", "torch", "transformers", "numpy", "pillow", "scikit-image", "faiss-cpu", "scipy")


@dataclass(frozen=True)
class EvaluationReport:
    """All that a report holds.

    Attributes:
        config: the exact configuration. metrics: figures. pictures: how many were evaluated.
        details: figures besides, such as mIoU of objects and backgrounds on the world benchmark.
        notes: what a reader must know: limits, missing shards, how segments were matched.
    """

    config: dict[str, Any]
    metrics: Metrics
    pictures: int
    details: dict[str, float | None]
    notes: tuple[str, ...] = ()

    @property
    def counterpart(self) -> tuple[str, float] | None:
        """The published row of the same system: (title, mIoU in percent)."""
        config = self.config
        return published_counterpart(config["benchmark"], config["method"], config["model"], config["refine"])

    def as_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.config["benchmark"],
            "method": self.config["method"],
            "model": self.config["model"],
            "pictures": self.pictures,
            **self.metrics.as_dict(),
            "details": self.details,
            "published_for_reference": published_results(self.config["benchmark"]),
            "notes": list(self.notes),
            "config": self.config,
            "versions": versions(),
        }


def make_report(
    config: dict[str, Any], metrics: Metrics, pictures: int, missing: str | None = None
) -> EvaluationReport:
    """Figures with the notes that belong to them."""
    from talk2dino.evaluation.metrics import percent
    from talk2dino.evaluation.world import BACKGROUND_CLASSES, OBJECT_CLASSES

    notes = []
    if config.get("limit"):
        notes.append(f"only the first {config['limit']} pictures: not comparable with figures on all of them")
    if missing:
        notes.append(f"incomplete: {missing}")
    if config["method"] == "dino-clusters":
        each = config["method_options"].get("matching", "benchmark") == "picture"
        notes.append(
            "dino-clusters matched per picture: the truth told which classes are in each picture (an upper bound)"
            if each
            else "dino-clusters matched: clusters were given classes by the truth, once over the whole run (Hungarian)"
        )
    method = method_class(config["method"])
    if method.threshold is not None and config.get("background") is not None:
        told = method.threshold_source if config["background"] == method.threshold else "as told"
        notes.append(f"background threshold {config['background']:g}: {told}")
    made = [name for name in config.get("labels", {}) if name.endswith(".json")]
    if made:
        notes.append(f"labels made from {' and '.join(made)}, not read from label pictures")
    if config.get("synonyms"):
        notes.append(f"synonyms from {config['synonyms']}")
    if config["benchmark"] != "world" and config["mode"] != "slide":
        notes.append(f"mode {config['mode']}: not the published protocol, which is slide")
    details: dict[str, float | None] = {}
    if config["benchmark"] == "world":
        details = {
            "background_miou": percent(metrics.miou_of(BACKGROUND_CLASSES)),
            "object_miou": percent(metrics.miou_of(OBJECT_CLASSES)),
        }
    return EvaluationReport(config, metrics, pictures, details, tuple(notes))


def versions() -> dict[str, str]:
    """Versions of what took part."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_report(report: EvaluationReport, folder: str | Path, *, no_pictures: str | None = None) -> list[Path]:
    """results.json, summary.csv, classes.csv, report.md and classes.png; returns their paths.

    ``no_pictures`` says why there is no pictures.png.
    """
    from talk2dino.evaluation.charts import class_chart

    folder = Path(folder)
    chart = io.BytesIO()
    class_chart(report.metrics, summary_line(report)).save(chart, "PNG")
    return [
        write_atomically(folder / "results.json", json.dumps(report.as_dict(), indent=1, ensure_ascii=False)),
        write_atomically(folder / "summary.csv", summary_csv(report)),
        write_atomically(folder / "classes.csv", classes_csv(report.metrics)),
        write_atomically(
            folder / "report.md",
            markdown(report, cases=(folder / "pictures.png").is_file(), no_pictures=no_pictures),
        ),
        write_atomically(folder / "classes.png", chart.getvalue()),
    ]


def classes_csv(metrics: Metrics) -> str:
    """One line a class; empty cells where a figure does not exist."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "iou", "accuracy", "pixels"])
    for row in metrics.as_dict()["classes"]:
        writer.writerow([row["name"], _cell(row["iou"]), _cell(row["accuracy"]), row["pixels"]])
    return text.getvalue()


def summary_csv(report: EvaluationReport) -> str:
    """One line: the means, and the published figure of the same system in a column of its own."""
    values, config = report.metrics.as_dict(), report.config
    row = {
        "benchmark": config["benchmark"], "method": config["method"], "model": config["model"],
        "pictures": str(report.pictures),
        **{key: _cell(values[key]) for key in ("miou", "mean_accuracy", "overall_accuracy")},
        **{key: _cell(value) for key, value in report.details.items()},
        "published_miou_for_reference": "" if report.counterpart is None else f"{report.counterpart[1]:.1f}",
    }  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def summary_line(report: EvaluationReport) -> str:
    """One line: what was measured and how good it is."""
    values = report.metrics.as_dict()
    config = report.config
    extras = [name for name in ("clean", "refine") if config.get(name)]
    how = f"{config['method']} ({config['model']}{', ' + ', '.join(extras) if extras else ''})"
    return (
        f"{config['benchmark']}, {report.pictures} pictures, {how}: mIoU {_cell(values['miou']) or 'none'}, "
        f"mean accuracy {_cell(values['mean_accuracy']) or 'none'}, "
        f"overall accuracy {_cell(values['overall_accuracy']) or 'none'}"
    )


def markdown(report: EvaluationReport, *, cases: bool = False, no_pictures: str | None = None) -> str:
    """The report as a Markdown page; ``cases``: pictures.png lies beside it, else ``no_pictures`` says why not."""
    values, config = report.metrics.as_dict(), report.config
    counterpart = report.counterpart
    head = ["measured mIoU", "mean accuracy", "overall accuracy", *report.details]
    row = [_cell(values[key]) for key in ("miou", "mean_accuracy", "overall_accuracy")]
    row += [_cell(value) for value in report.details.values()]
    if counterpart is not None:
        head.append(f"published mIoU, for reference ({counterpart[0]})")
        row.append(f"{counterpart[1]:.1f}")
    lines = [f"# {config['benchmark']}: {config['method']} with {config['model']}", "", *_table(head, [row]), ""]
    lines += [f"- {note}" for note in (f"{report.pictures} pictures", *report.notes)]
    published = published_results(config["benchmark"])
    if published:
        lines += ["", "## Published results on this benchmark (for reference; not measured here)", ""]
        lines += _table(["system", "mIoU"], [[name, f"{value:.1f}"] for name, value in published.items()])
    lines += ["", "## Classes", "", "![IoU of each class](classes.png)", ""]
    rows = [[c["name"], _cell(c["iou"]), _cell(c["accuracy"]), f"{c['pixels']:,}"] for c in values["classes"]]
    lines += _table(["class", "IoU", "accuracy", "pixels"], rows)
    if cases:
        lines += ["", "## Pictures", "", "Picture, truth, prediction: the worst cases, then the best.", ""]
        lines += ["![worst and best cases](pictures.png)"]
    elif no_pictures:
        lines += ["", "## Pictures", "", f"None: {no_pictures}."]
    lines += ["", "## Configuration and versions", "", "```json"]
    lines += [json.dumps({"config": config, "versions": versions()}, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]


def terminal_table(report: EvaluationReport, *, classes: bool = True) -> str:
    """The report as plain text: classes, the means below; published figures in a column and a table of their own."""
    from rich.console import Console
    from rich.table import Table

    values = report.metrics.as_dict()
    table = Table()
    for heading in ("class", "IoU", "accuracy", "pixels"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    own = report.counterpart
    if own is not None:
        table.add_column(f"published mIoU, for reference\n({own[0]})", justify="right")
    if classes:
        for row in values["classes"]:
            table.add_row(row["name"], _cell(row["iou"]), _cell(row["accuracy"]), f"{row['pixels']:,}")
        table.add_section()
    beside = [] if own is None else [f"{own[1]:.1f}"]
    table.add_row("mean", _cell(values["miou"]), _cell(values["mean_accuracy"]), "", *beside)
    table.add_row("all pixels", "", _cell(values["overall_accuracy"]), f"{int(report.metrics.pixels.sum()):,}")
    for name, value in report.details.items():
        table.add_row(name, _cell(value), "", "")
    console = Console(width=110, file=io.StringIO(), force_terminal=False, color_system=None)
    console.print(summary_line(report), soft_wrap=True)
    console.print(table)
    published = published_results(report.config["benchmark"])
    if published:
        others = Table("system", "published mIoU, for reference; not measured here")
        for name, figure in published.items():
            others.add_row(name, f"{figure:.1f}")
        console.print(others)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined]
