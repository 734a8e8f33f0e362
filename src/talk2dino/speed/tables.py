"""The figures as a table, as JSON and as a picture."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from talk2dino.speed.figures import SECTIONS, BenchOptions, Figure, Note, Results


def line(figure: Figure) -> str:
    """One figure in one line: value, what, settings, goal."""
    unit = {"x": "x", "share": "%"}.get(figure.unit, figure.unit)
    value = 100 * figure.value if figure.unit == "share" else figure.value
    settings = settings_of(figure)
    goal = ""
    if figure.goal is not None:
        sign, bar = figure.goal
        goal = (
            f"  [{'reached' if figure.reached else 'MISSED'}: {sign} {100 * bar if figure.unit == 'share' else bar:g}]"
        )
    return (
        f"  {_number(value):>8} {unit:<10} {figure.what}{f' ({settings})' if settings else ''}"
        f"{f'; {figure.detail}' if figure.detail else ''}{goal}"
    )


def settings_of(figure: Figure) -> str:
    """A figure's settings in words."""
    words = {"batch": "batch {}", "classes": "{} classes"}
    return ", ".join(words.get(name, "{}").format(value) for name, value in figure.settings.items())


def note_line(note: Note) -> str:
    """One note in one line."""
    return f"  {'FAILED' if note.failed else 'note':>8} {note.text}"


def table(results: Results) -> str:
    """All figures and notes, by section."""
    lines = []
    for section in SECTIONS:
        figures = [line(figure) for figure in results.figures if figure.section == section]
        notes = [note_line(note) for note in results.notes if note.section == section]
        if figures or notes:
            lines += [section, *figures, *notes]
    return "\n".join(lines)


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    from talk2dino.evaluation.report import versions

    facts: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), **versions()}
    facts["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cpu = Path("/proc/cpuinfo")
    names = (
        [x.split(":", 1)[1].strip() for x in cpu.read_text().splitlines() if x.startswith("model name")]
        if cpu.is_file()
        else []
    )
    facts["processor"] = names[0] if names else platform.processor()
    return facts


def record(results: Results, options: BenchOptions, device: torch.device) -> dict[str, Any]:
    """Everything, for bench.json."""
    return {
        "options": asdict(options),
        "machine": machine_facts(device),
        "figures": [asdict(figure) | {"reached": figure.reached} for figure in results.figures],
        "notes": [asdict(note) for note in results.notes],
    }


def title_of(content: dict[str, Any]) -> str:
    """Model, machine and versions of a :func:`record` in one line."""
    facts = content["machine"]
    where = facts["gpu"] or f"{facts['processor']}, no GPU"
    return f"{content['options']['model']} on {where}, {facts['threads']} threads, torch {facts['torch']}"


def one_of_each_stage(figures: Sequence[Figure]) -> list[Figure]:
    """The stages with the first dtype and engine: bars of the same name would cover each other."""
    stages = [figure for figure in figures if figure.section == "stages"]
    return [figure for figure in stages if figure.settings == stages[0].settings]


def draw(figures: Sequence[Figure], title: str, path: Path) -> bool:
    """bench.png: where the time of a picture goes, and every ratio against its goal. False without matplotlib (extra 'plots')."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from talk2dino.io.atomic import atomic_path

    parts = one_of_each_stage(figures)
    goals = [figure for figure in figures if figure.goal is not None]
    panels = [panel for panel in (parts, goals) if panel]
    if not panels:
        return False
    heights = [max(1.2, 0.36 * len(panel)) for panel in panels]
    made, axes = plt.subplots(
        len(panels), 1, figsize=(10, sum(heights) + 1.3 * len(panels)), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for (axis,), panel in zip(axes, panels, strict=True):
        if panel is parts:
            _draw_stages(axis, panel)
        else:
            _draw_goals(axis, panel)
    made.suptitle(title, fontsize=11, x=0.01, ha="left")
    with atomic_path(path) as temporary:
        made.savefig(temporary, format="png", dpi=110)
    plt.close(made)
    return True


def _draw_stages(axis: Any, figures: Sequence[Figure]) -> None:
    values = [figure.value for figure in figures]
    bars = axis.barh([figure.what for figure in figures], values, color="#0072b2")
    axis.bar_label(bars, [f" {value:.1f} ms" for value in values], fontsize=9)
    axis.set_xscale("log")
    axis.set_xlim(max(0.01, min(values) / 3), max(values) * 4)
    axis.set_xlabel("milliseconds a picture (logarithmic)")
    axis.set_title(f"Stages, one picture ({settings_of(figures[0])})", loc="left", fontsize=10, fontweight="bold")
    _plain(axis)


def _draw_goals(axis: Any, figures: Sequence[Figure]) -> None:
    """How far within the goal: 1 is the goal itself, less is better for every row."""
    shares, texts, names = [], [], []
    for figure in figures:
        assert figure.goal is not None
        sign, bar = figure.goal
        shares.append(figure.value / bar if sign == "<=" else bar / max(figure.value, 1e-9))
        scale, unit = (100, " %") if figure.unit == "share" else (1, "x" if figure.unit == "x" else f" {figure.unit}")
        texts.append(f" {_number(scale * figure.value)}{unit} ({sign} {scale * bar:g}{unit})")
        settings = settings_of(figure)
        names.append(f"{figure.what}\n{settings}" if settings else figure.what)
    colours = ["#009e73" if figure.reached else "#d55e00" for figure in figures]
    bars = axis.barh(names, shares, color=colours)
    axis.axvline(1, color="#18181b", linewidth=1)
    for label in axis.bar_label(bars, texts, fontsize=9):
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axis.set_xlim(0, max(1.6, 1.5 * max(shares)))
    axis.set_xlabel("share of the goal that is used up (the line is the goal; shorter is better)")
    axis.set_title("Against the project's own goals", loc="left", fontsize=10, fontweight="bold")
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8, length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 10 else f"{value:.1f}"
