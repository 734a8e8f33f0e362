"""The report of a run, and one table of several: figures, what limits them, and the published ones, marked as such."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from talk2dino.evaluation.charts import class_chart
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.journal import Run
from talk2dino.evaluation.matching import final_metrics
from talk2dino.evaluation.metrics import Metrics, percent
from talk2dino.evaluation.paper import ROWS, PublishedRow, published_results, published_row, published_table
from talk2dino.evaluation.world import BACKGROUND_CLASSES, OBJECT_CLASSES
from talk2dino.io.atomic import save_png, write_atomically
from talk2dino.io.markdown import markdown_table

_PACKAGES = ("talk2dino", "torch", "numpy", "pillow", "scikit-image", "faiss-cpu", "scipy")
_MEANS = {"miou": "mIoU", "mean_accuracy": "mean accuracy", "overall_accuracy": "overall accuracy"}
_MATCHED = {
    "benchmark": "segments have no class: their clusters were matched to the classes of the truth once, over the whole run",
    "image": "segments have no class: they were matched to the truth of each image (an upper bound)",
}


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
        """The published row of the same system on this benchmark."""
        return published_row(self.config)

    @property
    def published_figure(self) -> str:
        """The mIoU of that row; empty if there is none."""
        return "" if self.published is None else f"{self.published.figures[self.config['benchmark']]:.1f}"

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
        return [cell(values[name]) for name in _MEANS]

    def class_rows(self, pixels: str = ",") -> list[list[str]]:
        """Name, IoU, accuracy and pixels of each class as text; ``pixels`` is the format of the last."""
        classes = self.metrics.as_dict()["classes"]
        return [[c["name"], cell(c["iou"]), cell(c["accuracy"]), f"{c['pixels']:{pixels}}"] for c in classes]


def make_report(config: dict[str, Any], metrics: Metrics, images: int, missing: str | None = None) -> EvaluationReport:
    """A report with the notes that belong to its figures; ``missing`` is what an incomplete run lacks."""
    parts = {"background_miou": BACKGROUND_CLASSES, "object_miou": OBJECT_CLASSES}
    drawn = not get_benchmark(config["benchmark"]).on_disk
    details = {name: percent(metrics.miou_of(classes)) for name, classes in parts.items()} if drawn else {}
    return EvaluationReport(config, metrics, images, details, tuple(filter(None, _notes(config, missing))))


def report_run(run: Run) -> EvaluationReport:
    """The report of what folders hold of a run."""
    return make_report(run.config, final_metrics(run.matrix, run.config), len(run.records), run.missing)


def _notes(config: Mapping[str, Any], missing: str | None) -> Iterable[str | None]:
    """The notes of a report, and something empty for each that does not apply."""
    benchmark, published = get_benchmark(config["benchmark"]), published_row(config)
    threshold, source = config.get("background"), config.get("run", {}).get("threshold_source")
    made = " and ".join(name for name in config.get("labels", {}) if name.endswith(".json"))
    understood = [f"{given} -> {english}" for given, english, _ in config.get("understood") or ()]
    other_mode = config["mode"] != benchmark.mode and benchmark.on_disk
    return (
        config.get("limit") and f"only the first {config['limit']} images: not comparable with figures on all of them",
        missing and f"incomplete: {missing}",
        config.get("matched") and f"{config['method']}: {_MATCHED[config['matched']]}",
        None if threshold is None else f"background threshold {threshold:g}" + (f": {source}" if source else ""),
        made and f"labels drawn from {made}, not read from label images",
        config.get("synonyms") and f"synonyms from {config['synonyms']}",
        config.get("text") and f"text tower from {config['text']}",
        f"looked up or translated: {', '.join(understood[:8])}{', ...' if len(understood) > 8 else ''}"
        if understood
        else None,
        f"mode {config['mode']}: the published protocol uses {benchmark.mode}" if other_mode else None,
        f"published row {published.title}: {published.note}" if published and published.note else None,
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def cell(value: float | None, digits: int = 2) -> str:
    """A figure with its digits; empty if there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def as_json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False)


def code_block(values: Any) -> str:
    """Plain values as JSON in a Markdown code block."""
    return f"```json\n{as_json(values)}\n```"


def csv_table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()


def summary_line(report: EvaluationReport) -> str:
    """One line: what was measured, and the means."""
    config = report.config
    extras = ", ".join([config["model"], *(name for name in ("clean", "refine") if config.get(name))])
    figures = (f"{name} {value or 'none'}" for name, value in zip(_MEANS.values(), report.means(), strict=True))
    return f"{config['benchmark']}, {report.images} images, {config['method']} ({extras}): {', '.join(figures)}"


def _page(report: EvaluationReport, images: str) -> str:
    """The report as a Markdown page; ``images`` is what it says below "Images"."""
    config = report.config
    heads, row = ["measured mIoU", *list(_MEANS.values())[1:], *report.details], report.means()
    row += map(cell, report.details.values())
    if report.published is not None:
        heads.append(f"published mIoU, for reference ({report.published.title})")
        row.append(report.published_figure)
    parts = [
        f"# {config['benchmark']}: {config['method']} with {config['model']}",
        markdown_table(heads, [row], align="lrrrrr"),
        "\n".join(f"- {note}" for note in (f"{report.images} images", *report.notes)),
    ]
    if reference := published_table(config["benchmark"]):
        parts += ["## Published results on this benchmark (for reference; not measured here)", reference]
    parts += ["## Classes", "![IoU of each class](classes.png)"]
    parts.append(markdown_table(["class", "IoU", "accuracy", "pixels"], report.class_rows(), align="lrrr"))
    if images:
        parts += ["## Images", images]
    parts += ["## Configuration and versions", code_block({"config": config, "versions": versions()})]
    return "\n\n".join(parts) + "\n"


def terminal_table(report: EvaluationReport) -> str:
    """The report as plain text: classes, the means below, published figures in a column and a table of their own."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("class", *(Column(name, justify="right") for name in ("IoU", "accuracy", "pixels")))
    if report.published is not None:
        table.add_column(f"published mIoU, for reference\n({report.published.title})", justify="right")
    for row in report.class_rows():
        table.add_row(*row)
    table.add_section()
    miou, mean, overall = report.means()
    table.add_row("mean", miou, mean, "", *filter(None, [report.published_figure]))
    table.add_row("all pixels", "", overall, f"{int(report.metrics.pixels.sum()):,}")
    for name, value in report.details.items():
        table.add_row(name, cell(value))
    console = Console(width=110, color_system=None)
    with console.capture() as text:
        console.print(summary_line(report), soft_wrap=True)
        console.print(table)
        if figures := published_results(report.config["benchmark"]):
            others = Table("system", "published mIoU, for reference; not measured here")
            for name, figure in figures.items():
                others.add_row(name, f"{figure:.1f}")
            console.print(others)
        for note in report.notes:
            console.print(f"note: {note}", soft_wrap=True)
    return text.get()


def write_report(report: EvaluationReport, folder: Path, *, not_drawn: str | None = None) -> list[Path]:
    """Write results.json, summary.csv, classes.csv, report.md and classes.png beside images.png; returns their paths.

    Args:
        not_drawn: why there is no images.png.
    """
    images = folder / "images.png"
    text = f"None: {not_drawn}." if not_drawn else ""
    if images.is_file():
        text = "Image, truth and prediction: the worst cases, then the best.\n\n![worst and best cases](images.png)"
    summary = {
        **{key: report.config[key] for key in ("benchmark", "method", "model")},
        "images": report.images,
        **dict(zip(_MEANS, report.means(), strict=True)),
        **{name: cell(value) for name, value in report.details.items()},
        "published_miou_for_reference": report.published_figure,
    }
    classes = csv_table(["class", "iou", "accuracy", "pixels"], report.class_rows(pixels=""))
    return [
        write_atomically(folder / "results.json", as_json(report.as_dict())),
        write_atomically(folder / "summary.csv", csv_table(summary, [summary.values()])),
        write_atomically(folder / "classes.csv", classes),
        write_atomically(folder / "report.md", _page(report, text)),
        save_png(class_chart(report.metrics, summary_line(report)), folder / "classes.png"),
        *([images] if images.is_file() else []),
    ]


def summary_rows(reports: Sequence[EvaluationReport]) -> list[dict[str, Any]]:
    """The measured row, then the published ones, the one of the same system first.

    Returns:
        Rows {"system", "measured", "benchmark": mIoU or None ..., "mean"}. A mean is over all columns, and None if one of
        them has no figure.
    """
    config = reports[0].config
    title = f"{config['method']} ({config['model']}{', refined' if config['refine'] else ''})"
    measured = {report.config["benchmark"]: report.metrics.as_dict()["miou"] for report in reports}
    same = [report.published for report in reports]
    published = sorted((row for row in ROWS if measured.keys() & row.figures.keys()), key=lambda row: row not in same)
    table = []
    for system, figures in [(title, measured), *((row.title, row.figures) for row in published)]:
        values = {name: figures.get(name) for name in measured}
        known = [value for value in values.values() if value is not None]
        mean = round(sum(known) / len(known), 4) if len(known) == len(values) else None
        table.append({"system": system, "measured": figures is measured, **values, "mean": mean})
    return table


def summary_markdown(reports: Sequence[EvaluationReport]) -> str:
    """The table as Markdown; figures are mIoU in percent."""
    lines = []
    for row in summary_rows(reports):
        system, measured, *figures = row.values()
        kind, digits = ("measured", 2) if measured else ("published, for reference", 1)
        lines.append([f"{kind}: {system}", *(cell(figure, digits) for figure in figures)])
    heads = ["mIoU", *(report.config["benchmark"] for report in reports), "mean"]
    notes = [f"- {r.config['benchmark']}: {'; '.join((f'{r.images} images', *r.notes))}" for r in reports]
    return "\n".join([markdown_table(heads, lines, align="l" + "r" * len(heads)), "", *notes]) + "\n"


def summary_dict(reports: Sequence[EvaluationReport]) -> dict[str, Any]:
    """The table and the whole reports as plain values."""
    measured, *published = ({k: v for k, v in row.items() if k != "measured"} for row in summary_rows(reports))
    return {
        "measured": measured,
        "published_for_reference": published,
        "benchmarks": {report.config["benchmark"]: report.as_dict() for report in reports},
    }


def write_summary(reports: Sequence[EvaluationReport], folder: Path) -> list[Path]:
    """Write benchmarks.md, benchmarks.csv and benchmarks.json; returns their paths."""
    rows = summary_rows(reports)
    return [
        write_atomically(folder / "benchmarks.md", summary_markdown(reports)),
        write_atomically(folder / "benchmarks.csv", csv_table(rows[0], [row.values() for row in rows])),
        write_atomically(folder / "benchmarks.json", as_json(summary_dict(reports))),
    ]
