"""The result of a comparison on a benchmark: its rows as a table, a chart, and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from talk2dino.evaluation.cases import draw_rows
from talk2dino.evaluation.charts import Bar, bar_chart
from talk2dino.evaluation.matching import cluster_classes, matched_over_benchmark
from talk2dino.evaluation.options import CompareOptions, parse_system
from talk2dino.evaluation.paper import published_results, published_table
from talk2dino.evaluation.protocol import Outcome, open_samples
from talk2dino.evaluation.report import EvaluationReport, as_json, cell, code_block, versions
from talk2dino.io.atomic import save_png, write_atomically
from talk2dino.io.markdown import markdown_table
from talk2dino.methods import method_facts

CASES = 4  # images of the benchmark in images.png
_MATCHED = {"benchmark": " (matched)", "image": " (matched per image)"}


@dataclass(frozen=True)
class Row:
    """A system with cleaning and refinement on or off."""

    label: str
    clean: bool
    refine: bool
    report: EvaluationReport
    outcome: Outcome

    @property
    def title(self) -> str:
        """The label for people: "clip-dense, variant residual"."""
        method, own = parse_system(self.label)
        shown = [f"{name} {value}" for name, value in own.items() if name != "matching"]
        return ", ".join([method, *shown]) + _MATCHED.get(self.report.config["matched"], "")

    def values(self) -> dict[str, Any]:
        """The row of the table, figures in percent."""
        means = {name: value for name, value in self.report.metrics.as_dict().items() if name != "classes"}
        can_clean = method_facts(self.report.config["method"]).can_clean
        switches = {"method": self.title, "clean": self.clean if can_clean else None, "refine": self.refine}
        return {**switches, "miou": means.pop("miou"), **self.report.details, **means}


@dataclass
class Comparison:
    """The rows of a comparison on a benchmark, and the files that were written."""

    options: CompareOptions
    rows: list[Row] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def table(self) -> list[dict[str, Any]]:
        """The rows as plain values, figures in percent."""
        return [row.values() for row in self.rows]

    def as_dict(self) -> dict[str, Any]:
        """The table, published figures, the exact configuration of each row, and versions."""
        first = self.rows[0].report
        return {
            "benchmark": first.config["benchmark"],
            "images": first.images,
            "rows": self.table(),
            "published_for_reference": published_results(first.config["benchmark"]),
            "configurations": [row.report.config for row in self.rows],
            "versions": versions(),
        }

    def markdown(self, *, exact: bool = False) -> str:
        """The table as Markdown; ``exact`` adds configurations and versions."""
        table = self.table()
        lines = [list(map(_cell, row.values())) for row in table]
        parts = [f"{self.caption}; figures in percent", markdown_table(list(table[0]), lines)]
        if notes := dict.fromkeys(f"- {note}" for row in self.rows for note in row.report.notes):
            parts.append("\n".join(notes))
        if reference := published_table(self.rows[0].report.config["benchmark"]):
            parts += ["Published mIoU on this benchmark, for reference (not measured here):", reference]
        if exact:
            made = {name: value for name, value in self.as_dict().items() if name in ("configurations", "versions")}
            parts += ["## Configurations and versions", code_block(made)]
        return "\n\n".join(parts) + "\n"

    @property
    def caption(self) -> str:
        first = self.rows[0].report
        return f"{first.config['benchmark']}, {first.images} images, model {first.config['model']}"


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "on", False: "off", None: "has none"}[value]
    return cell(value, 1) if isinstance(value, float) else str(value)


def write_comparison(comparison: Comparison) -> list[Path]:
    """Write comparison.md, comparison.json, comparison.png and images.png; returns their paths."""
    out, rows = comparison.options.out, comparison.rows
    bars = []
    for row in rows:
        extras = [name for name, on in (("cleaned", row.clean), ("refined", row.refine)) if on]
        marked = rows[0].report.config["method"] == row.report.config["method"]
        bars.append(Bar(", ".join([row.title, *extras]), row.report.metrics.miou, marked))
    return [
        write_atomically(out / "comparison.md", comparison.markdown(exact=True)),
        write_atomically(out / "comparison.json", as_json(comparison.as_dict())),
        save_png(bar_chart(bars, f"mIoU in percent, {comparison.caption}"), out / "comparison.png"),
        save_png(draw_first_images(rows), out / "images.png"),
    ]


def draw_first_images(rows: Sequence[Row], count: int = CASES, labels: Sequence[str] | None = None) -> Image.Image:
    """The first images of the benchmark with the labels of each system, without cleaning and refinement."""
    plain = {row.label: row for row in rows if not row.clean and not row.refine}
    shown = [plain[label] for label in labels or plain]
    predictions = {}
    for row in shown:
        if matched_over_benchmark(row.outcome.config):
            row.outcome.predict.classes = cluster_classes(row.outcome.matrix)
        predictions[row.title] = row.outcome.predict
    first = shown[0].outcome
    samples = open_samples(first.predict.options, first.benchmark)[:count]
    return draw_rows(first.benchmark, [(sample.name, sample, predictions) for sample in samples])
