"""Several benchmarks in one table: a column a benchmark and their mean, published rows beside it and marked as such."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talk2dino.evaluation.datasets import BENCHMARKS, get_benchmark
from talk2dino.evaluation.paper import published_row, published_rows
from talk2dino.evaluation.report import EvaluationReport
from talk2dino.io.atomic import write_atomically

#: What "all" stands for: the eight data sets of the published table. The world needs to be named.
ALL = tuple(name for name in BENCHMARKS if name != "world")


def choose_benchmarks(names: Sequence[str]) -> list[str]:
    """Names to look up, "all" among them, to benchmarks in their order.

    Raises:
        InputError: no such benchmark.
    """
    chosen = [one for name in names for one in (ALL if name == "all" else (get_benchmark(name).name,))]
    return list(dict.fromkeys(chosen))


def summary_rows(reports: Sequence[EvaluationReport]) -> list[dict[str, Any]]:
    """The measured row first, then published ones: {"system", "measured", "benchmark": mIoU or None ..., "mean"}.

    A mean is over all columns, and None where one has no figure.
    """
    names = [report.config["benchmark"] for report in reports]
    config = reports[0].config
    title = f"{config['method']} ({config['model']}{', refined' if config['refine'] else ''})"
    measured = {report.config["benchmark"]: report.metrics.as_dict()["miou"] for report in reports}
    rows = [(title, True, measured)]
    own = published_row(config["method"], config["model"], config["refine"])
    published = {name: figures for name, figures in published_rows().items() if any(one in figures for one in names)}
    for name in sorted(published, key=lambda one: one != own):  # the counterpart of what was measured comes first
        rows.append((name, False, published[name]))
    table = []
    for system, is_measured, figures in rows:
        values = [figures.get(name) for name in names]
        known = [value for value in values if value is not None]
        mean = round(sum(known) / len(known), 4) if len(known) == len(values) else None
        table.append({"system": system, "measured": is_measured, **dict(zip(names, values, strict=True)), "mean": mean})
    return table


def summary_markdown(reports: Sequence[EvaluationReport]) -> str:
    """The table as Markdown; figures are mIoU in percent."""
    rows = summary_rows(reports)
    names = [key for key in rows[0] if key not in ("system", "measured")]
    lines = [f"| mIoU | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for row in rows:
        title = f"measured: {row['system']}" if row["measured"] else f"published, for reference: {row['system']}"
        digits = 2 if row["measured"] else 1
        cells = ["" if row[name] is None else f"{row[name]:.{digits}f}" for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    notes = [
        f"- {r.config['benchmark']}: {r.pictures} pictures{''.join('; ' + note for note in r.notes)}" for r in reports
    ]
    return "\n".join([*lines, "", *notes]) + "\n"


def summary_csv(reports: Sequence[EvaluationReport]) -> str:
    """The table as CSV; the column "measured" tells measured from published rows."""
    text = io.StringIO()
    rows = summary_rows(reports)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def summary_dict(reports: Sequence[EvaluationReport]) -> dict[str, Any]:
    """The table and the whole reports as plain values."""
    rows = summary_rows(reports)
    return {
        "measured": {key: value for key, value in rows[0].items() if key != "measured"},
        "published_for_reference": [{k: v for k, v in row.items() if k != "measured"} for row in rows[1:]],
        "benchmarks": {report.config["benchmark"]: report.as_dict() for report in reports},
    }


def write_summary(reports: Sequence[EvaluationReport], folder: Path) -> list[Path]:
    """benchmarks.md, benchmarks.csv and benchmarks.json; returns their paths."""
    return [
        write_atomically(folder / "benchmarks.md", summary_markdown(reports)),
        write_atomically(folder / "benchmarks.csv", summary_csv(reports)),
        write_atomically(folder / "benchmarks.json", json.dumps(summary_dict(reports), indent=1, ensure_ascii=False)),
    ]
