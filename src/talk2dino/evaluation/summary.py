"""One table of several benchmarks: one column per benchmark and their mean; published rows are marked as such."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talk2dino.evaluation.paper import published_row, published_rows
from talk2dino.evaluation.report import EvaluationReport
from talk2dino.evaluation.tables import cell, csv_table
from talk2dino.io.atomic import write_atomically
from talk2dino.io.markdown import markdown_table


def summary_rows(reports: Sequence[EvaluationReport]) -> list[dict[str, Any]]:
    """The measured row, then the published ones, the one of the same system first.

    Returns:
        Rows {"system", "measured", "benchmark": mIoU or None ..., "mean"}. A mean is over all columns, and None if one of
        them has no figure.
    """
    names = [report.config["benchmark"] for report in reports]
    config = reports[0].config
    title = f"{config['method']} ({config['model']}{', refined' if config['refine'] else ''})"
    measured = {report.config["benchmark"]: report.metrics.as_dict()["miou"] for report in reports}
    own = published_row(config)
    published = {name: figures for name, figures in published_rows().items() if any(one in figures for one in names)}
    first = sorted(published, key=lambda name: own is None or name != own.title)
    rows = [(title, True, measured), *((name, False, published[name]) for name in first)]
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
    lines = []
    for row in rows:
        kind, digits = ("measured", 2) if row["measured"] else ("published, for reference", 1)
        lines.append([f"{kind}: {row['system']}", *(cell(row[name], digits) for name in names)])
    notes = [f"- {r.config['benchmark']}: {'; '.join((f'{r.images} images', *r.notes))}" for r in reports]
    return "\n".join([markdown_table(["mIoU", *names], lines, align="l" + "r" * len(names)), "", *notes]) + "\n"


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
        write_atomically(folder / "benchmarks.csv", csv_table(list(rows[0]), [list(row.values()) for row in rows])),
        write_atomically(folder / "benchmarks.json", json.dumps(summary_dict(reports), indent=1, ensure_ascii=False)),
    ]
