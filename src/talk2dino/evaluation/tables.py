"""Tables that reports share: CSV, cells, published figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from talk2dino.evaluation.paper import published_results
from talk2dino.io.markdown import markdown_table


def cell(value: float | None, digits: int = 2) -> str:
    """A figure with its digits; empty if there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def csv_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a line of headings."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()


def code_block(values: Any) -> str:
    """Plain values as JSON in a Markdown code block."""
    return f"```json\n{json.dumps(values, indent=1, ensure_ascii=False)}\n```"


def published_table(benchmark: str) -> str:
    """The published figures on a benchmark as a Markdown table; empty if there are none."""
    rows = [(name, f"{value:.1f}") for name, value in published_results(benchmark).items()]
    return markdown_table(["system", "mIoU"], rows, align="lr") if rows else ""
