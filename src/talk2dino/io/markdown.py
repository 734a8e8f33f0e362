"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, align: str = "") -> str:
    """A Markdown table, without a newline at its end.

    Args:
        align: one letter per column, ``"l"`` or ``"r"``; columns without a letter are aligned to the left.
    """
    marks = ["---:" if align[i : i + 1] == "r" else "---" for i in range(len(heads))]
    lines = [heads, marks, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
