"""The report of one run: its figures, what limits them, the published figure beside them, and its files."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from talk2dino.evaluation.charts import class_chart
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.journal import Run
from talk2dino.evaluation.matching import final_metrics
from talk2dino.evaluation.metrics import Metrics, percent
from talk2dino.evaluation.paper import PublishedRow, published_results, published_row
from talk2dino.evaluation.tables import cell, code_block, csv_table, published_table
from talk2dino.evaluation.world import BACKGROUND_CLASSES, OBJECT_CLASSES
from talk2dino.io.atomic import save_png, write_atomically
from talk2dino.io.markdown import markdown_table

_PACKAGES = ("talk2dino", "torch", "transformers", "numpy", "pillow", "scikit-image", "faiss-cpu", "scipy")
MEANS = ("miou", "mean_accuracy", "overall_accuracy")


@dataclass(frozen=True)
class EvaluationReport:
    """The figures of a run with everything needed to read them.

    Attributes:
        config: the exact configuration. metrics: the figures. images: how many were evaluated.
        details: further figures in percent, such as the mIoU of objects and backgrounds on the world.
        notes: limits, missing shards, how segments were matched, where the threshold comes from.
    """

    config: dict[str, Any]
    metrics: Metrics
    images: int
    details: dict[str, float | None]
    notes: tuple[str, ...] = ()

    @property
    def published(self) -> PublishedRow | None:
        """The published row of the same system, if it has a figure for this benchmark."""
        row = published_row(self.config)
        return row if row is not None and self.config["benchmark"] in row.figures else None

    def as_dict(self) -> dict[str, Any]:
        return {
            **{key: self.config[key] for key in ("benchmark", "method", "model")},
            "images": self.images,
            **self.metrics.as_dict(),
            "details": self.details,
            "published_for_reference": published_results(self.config["benchmark"]),
            "notes": list(self.notes),
            "config": self.config,
            "versions": versions(),
        }

    def means(self) -> list[str]:
        """mIoU, mean accuracy and overall accuracy in percent, as text."""
        values = self.metrics.as_dict()
        return [cell(values[name]) for name in MEANS]


def make_report(config: dict[str, Any], metrics: Metrics, images: int, missing: str | None = None) -> EvaluationReport:
    """A report with the notes that belong to its figures; ``missing`` is what an incomplete run lacks."""
    details: dict[str, float | None] = {}
    if not get_benchmark(config["benchmark"]).on_disk:
        details = {
            "background_miou": percent(metrics.miou_of(BACKGROUND_CLASSES)),
            "object_miou": percent(metrics.miou_of(OBJECT_CLASSES)),
        }
    report = EvaluationReport(config, metrics, images, details)
    return EvaluationReport(config, metrics, images, details, tuple(_notes(report, missing)))


def report_run(run: Run) -> EvaluationReport:
    """The report of what folders hold of a run."""
    metrics = final_metrics(run.matrix, run.config)
    return make_report(run.config, metrics, len(run.records), run.missing)


_MATCHED = {
    "benchmark": "segments have no class: their clusters were matched to the classes of the truth once, over the whole run",
    "image": "segments have no class: they were matched to the truth of each image (an upper bound)",
}


def _notes(report: EvaluationReport, missing: str | None) -> list[str]:
    config, notes = report.config, []
    benchmark = get_benchmark(config["benchmark"])
    if config.get("limit"):
        notes.append(f"only the first {config['limit']} images: not comparable with figures on all of them")
    if missing:
        notes.append(f"incomplete: {missing}")
    if config.get("matched"):
        notes.append(f"{config['method']}: {_MATCHED[config['matched']]}")
    if config.get("background") is not None:
        source = config.get("run", {}).get("threshold_source", "")
        notes.append(f"background threshold {config['background']:g}" + (f": {source}" if source else ""))
    made = [name for name in config.get("labels", {}) if name.endswith(".json")]
    if made:
        notes.append(f"labels drawn from {' and '.join(made)}, not read from label images")
    if config.get("synonyms"):
        notes.append(f"synonyms from {config['synonyms']}")
    if config["mode"] != benchmark.mode and benchmark.on_disk:
        notes.append(f"mode {config['mode']}: the published protocol uses {benchmark.mode}")
    if report.published is not None and report.published.note:
        notes.append(f"published row {report.published.title}: {report.published.note}")
    return notes


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


# --- texts -----------------------------------------------------------------------------------------------------------


def summary_line(report: EvaluationReport) -> str:
    """One line: what was measured, and the means."""
    config = report.config
    extras = ", ".join([config["model"], *(name for name in ("clean", "refine") if config.get(name))])
    figures = zip(("mIoU", "mean accuracy", "overall accuracy"), report.means(), strict=True)
    return f"{config['benchmark']}, {report.images} images, {config['method']} ({extras}): " + ", ".join(
        f"{name} {value or 'none'}" for name, value in figures
    )


def markdown_page(report: EvaluationReport, *, drawn: bool = False, not_drawn: str | None = None) -> str:
    """The report as a Markdown page.

    Args:
        drawn: whether images.png is beside it. not_drawn: why it is not.
    """
    config, published = report.config, report.published
    heads = ["measured mIoU", "mean accuracy", "overall accuracy", *report.details]
    row = [*report.means(), *map(cell, report.details.values())]
    if published is not None:
        heads.append(f"published mIoU, for reference ({published.title})")
        row.append(f"{published.figures[config['benchmark']]:.1f}")
    classes = [[c["name"], cell(c["iou"]), cell(c["accuracy"]), f"{c['pixels']:,}"] for c in _classes(report)]
    parts = [
        f"# {config['benchmark']}: {config['method']} with {config['model']}",
        markdown_table(heads, [row], align="lrrrrr"),
        "\n".join(f"- {note}" for note in (f"{report.images} images", *report.notes)),
    ]
    if reference := published_table(config["benchmark"]):
        parts += ["## Published results on this benchmark (for reference; not measured here)", reference]
    parts += ["## Classes", "![IoU of each class](classes.png)"]
    parts.append(markdown_table(["class", "IoU", "accuracy", "pixels"], classes, align="lrrr"))
    if drawn:
        parts += ["## Images", "Image, truth and prediction: the worst cases, then the best."]
        parts.append("![worst and best cases](images.png)")
    elif not_drawn:
        parts += ["## Images", f"None: {not_drawn}."]
    parts += ["## Configuration and versions", code_block({"config": config, "versions": versions()})]
    return "\n\n".join(parts) + "\n"


def _classes(report: EvaluationReport) -> list[dict[str, Any]]:
    return report.metrics.as_dict()["classes"]


def terminal_table(report: EvaluationReport) -> str:
    """The report as plain text: classes, the means below, published figures in a column and a table of their own."""
    from rich.console import Console
    from rich.table import Table

    published, benchmark = report.published, report.config["benchmark"]
    miou, mean, overall = report.means()
    table = Table()
    for heading in ("class", "IoU", "accuracy", "pixels"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    beside = []
    if published is not None:
        table.add_column(f"published mIoU, for reference\n({published.title})", justify="right")
        beside = [f"{published.figures[benchmark]:.1f}"]
    for row in _classes(report):
        table.add_row(row["name"], cell(row["iou"]), cell(row["accuracy"]), f"{row['pixels']:,}")
    table.add_section()
    table.add_row("mean", miou, mean, "", *beside)
    table.add_row("all pixels", "", overall, f"{int(report.metrics.pixels.sum()):,}")
    for name, value in report.details.items():
        table.add_row(name, cell(value), "", "")
    console = Console(width=110, color_system=None)
    with console.capture() as text:
        console.print(summary_line(report), soft_wrap=True)
        console.print(table)
        if figures := published_results(benchmark):
            others = Table("system", "published mIoU, for reference; not measured here")
            for name, figure in figures.items():
                others.add_row(name, f"{figure:.1f}")
            console.print(others)
        for note in report.notes:
            console.print(f"note: {note}", soft_wrap=True)
    return text.get()


# --- files -----------------------------------------------------------------------------------------------------------


def write_report(report: EvaluationReport, folder: Path, *, not_drawn: str | None = None) -> list[Path]:
    """Write results.json, summary.csv, classes.csv, report.md and classes.png beside images.png; returns their paths.

    Args:
        not_drawn: why there is no images.png.
    """
    images = folder / "images.png"
    page = markdown_page(report, drawn=images.is_file(), not_drawn=not_drawn)
    summary = _summary(report)
    classes = [[c["name"], cell(c["iou"]), cell(c["accuracy"]), str(c["pixels"])] for c in _classes(report)]
    return [
        write_atomically(folder / "results.json", json.dumps(report.as_dict(), indent=1, ensure_ascii=False)),
        write_atomically(folder / "summary.csv", csv_table(list(summary), [list(summary.values())])),
        write_atomically(folder / "classes.csv", csv_table(["class", "iou", "accuracy", "pixels"], classes)),
        write_atomically(folder / "report.md", page),
        save_png(class_chart(report.metrics, summary_line(report)), folder / "classes.png"),
        *([images] if images.is_file() else []),
    ]


def _summary(report: EvaluationReport) -> dict[str, str]:
    """The means on one line, and the published figure in a separate column."""
    config, published = report.config, report.published
    return {
        **{key: config[key] for key in ("benchmark", "method", "model")},
        "images": str(report.images),
        **dict(zip(MEANS, report.means(), strict=True)),
        **{name: cell(value) for name, value in report.details.items()},
        "published_miou_for_reference": "" if published is None else f"{published.figures[config['benchmark']]:.1f}",
    }
