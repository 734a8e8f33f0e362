"""The results of a run as text, as JSON and as a chart."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from talk2dino.evaluation.report import versions
from talk2dino.io.atomic import atomic_path
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.plan import SECTIONS, BenchOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOOD, BAD, BAR, INK = "#009e73", "#d55e00", "#0072b2", "#18181b"


@dataclass
class Results:
    """Everything that one run found, and what it ran with."""

    options: BenchOptions
    device: torch.device
    figures: list[Figure] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(self, found: Figure | Note) -> None:
        if isinstance(found, Figure):
            self.figures.append(found)
        else:
            self.notes.append(found)

    @property
    def failed(self) -> bool:
        """Whether a measurement raised an error."""
        return any(note.failed for note in self.notes)

    def record(self) -> dict[str, Any]:
        """The content of bench.json."""
        return {
            "options": self.options.model_dump(mode="json"),
            "machine": machine_facts(self.device),
            "figures": [asdict(figure) | {"reached": figure.reached} for figure in self.figures],
            "notes": [asdict(note) for note in self.notes],
        }

    @property
    def title(self) -> str:
        """Model, machine and versions in one line."""
        facts = machine_facts(self.device)
        where = facts["gpu"] or f"{facts['processor']}, no GPU"
        return f"{self.options.model} on {where}, {facts['threads']} threads, torch {facts['torch']}"

    def table(self) -> str:
        """All figures and notes as text, by section."""
        lines = []
        for section in SECTIONS:
            found: list[Figure | Note] = [one for one in self.figures if one.section == section]
            found += [one for one in self.notes if one.section == section]
            lines += [section, *map(line, found)] if found else []
        return "\n".join(lines)


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpu.read_text(), re.MULTILINE) if cpu.is_file() else []
    return {
        "device": str(device), "threads": torch.get_num_threads(), **versions(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": names[0] if names else platform.processor(),
    }  # fmt: skip


def line(found: Figure | Note) -> str:
    """A figure (value, what, settings, detail, goal) or a note in one line."""
    if isinstance(found, Note):
        return f"  {'FAILED' if found.failed else 'note':>8} {found.text}"
    scale, unit = _scale(found)
    settings = settings_of(found)
    text = f"  {_number(scale * found.value):>8} {unit:<10} {found.what}{f' ({settings})' if settings else ''}"
    text += f"; {found.detail}" if found.detail else ""
    if found.goal is not None:
        text += f"  [{'reached' if found.reached else 'MISSED'}: {found.goal[0]} {scale * found.goal[1]:g}]"
    return text


def settings_of(figure: Figure) -> str:
    """The settings of a figure in words."""
    words = {"batch": "batch {}", "classes": "{} classes"}
    return ", ".join(words.get(name, "{}").format(value) for name, value in figure.settings.items())


def draw(results: Results, path: Path) -> bool:
    """bench.png: the time of each stage, and every figure against its goal.

    Returns:
        Whether it was drawn: not without matplotlib (extra 'plots'), nor without such figures.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stages = first_settings([figure for figure in results.figures if figure.section == "stages"])
    goals = [figure for figure in results.figures if figure.goal is not None]
    panels = [(figures, draw_one) for figures, draw_one in ((stages, _draw_stages), (goals, _draw_goals)) if figures]
    if not panels:
        return False
    heights = [max(1.2, 0.36 * len(figures)) for figures, _ in panels]
    chart, axes = plt.subplots(
        len(panels), 1, figsize=(10, sum(heights) + 1.3 * len(panels)), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for (axis,), (figures, draw_one) in zip(axes, panels, strict=True):
        draw_one(axis, figures)
        axis.invert_yaxis()
        axis.tick_params(axis="y", labelsize=8, length=0)
        axis.spines[["top", "right"]].set_visible(False)
    chart.suptitle(results.title, fontsize=11, x=0.01, ha="left")
    with atomic_path(path) as temporary:
        chart.savefig(temporary, format="png", dpi=110)
    plt.close(chart)
    return True


def first_settings(figures: Sequence[Figure]) -> list[Figure]:
    """The figures with the first dtype and engine: bars of the same name would cover each other."""
    return [figure for figure in figures if figure.settings == figures[0].settings]


def _draw_stages(axis: Axes, figures: Sequence[Figure]) -> None:
    values = [figure.value for figure in figures]
    bars = axis.barh([figure.what for figure in figures], values, color=BAR)
    axis.bar_label(bars, [f" {value:.1f} ms" for value in values], fontsize=9)
    axis.set_xscale("log")
    axis.set_xlim(max(0.01, min(values) / 3), max(values) * 4)
    axis.set_xlabel("milliseconds per image (logarithmic)")
    axis.set_title(f"Stages, one image ({settings_of(figures[0])})", loc="left", fontsize=10, fontweight="bold")


def _draw_goals(axis: Axes, figures: Sequence[Figure]) -> None:
    """How far within the goal: 1 is the goal itself, and less is better in every row."""
    shares, texts, names = [], [], []
    for figure in figures:
        assert figure.goal is not None
        sign, bar = figure.goal
        shares.append(figure.value / bar if sign == "<=" else bar / max(figure.value, 1e-9))
        scale, unit = _scale(figure)
        unit = unit if unit in ("x", "") else f" {unit}"
        texts.append(f" {_number(scale * figure.value)}{unit} ({sign} {scale * bar:g}{unit})")
        names.append("\n".join(filter(None, (figure.what, settings_of(figure)))))
    bars = axis.barh(names, shares, color=[GOOD if figure.reached else BAD for figure in figures])
    axis.axvline(1, color=INK, linewidth=1)
    for label in axis.bar_label(bars, texts, fontsize=9):
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axis.set_xlim(0, max(1.6, 1.5 * max(shares)))
    axis.set_xlabel("share of the goal (the line is the goal; shorter is better)")
    axis.set_title("Against the goals of the project", loc="left", fontsize=10, fontweight="bold")


def _scale(figure: Figure) -> tuple[int, str]:
    """Factor and unit in which a figure is shown: shares as percent."""
    return (100, "%") if figure.unit == "share" else (1, figure.unit)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 10 else f"{value:.1f}"
