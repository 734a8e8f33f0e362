"""The systems side by side: one picture, or one table of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from talk2dino.errors import InputError
from talk2dino.evaluation.matching import cluster_classes, matched_over_benchmark
from talk2dino.evaluation.metrics import Metrics
from talk2dino.evaluation.options import EvaluationOptions, make_options
from talk2dino.evaluation.paper import published_results
from talk2dino.evaluation.protocol import Predictor, open_samples, run
from talk2dino.evaluation.report import EvaluationReport, make_report, versions
from talk2dino.methods import method_names


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a system with cleaning and refinement on or off.

    ``label`` is the system's name, or with one of its options, as in "dino-clusters:matching=picture"; ``predict`` labels
    further pictures as the run did.
    """

    label: str
    clean: bool
    refine: bool
    report: EvaluationReport
    predict: Predictor


def comparison_rows(labels: Sequence[str], *, both: bool) -> list[tuple[str, bool, bool]]:
    """(label, clean, refine) of every line: with ``both``, all that a system has; else both off."""
    rows = []
    for method in labels:
        for clean in (False, True) if both and method == "talk2dino" else (False,):
            for refine in (False, True) if both else (False,):
                rows.append((method, clean, refine))
    return rows


def wrap_all(
    segmenter: Any, methods: Sequence[str], options: dict[str, dict[str, Any]], prototypes: str | Path | None
) -> dict[str, Any]:
    """The systems on one model's towers; ``options``: name -> its own, "background" (a threshold) left aside."""
    own = {name: {k: v for k, v in values.items() if k != "background"} for name, values in options.items()}
    if prototypes is not None:
        own.setdefault("freeda", {})["prototypes"] = prototypes
    systems = {}
    for name in methods:
        systems[name] = segmenter.with_method(name, **own.get(name, {}))
        if name == "dino-clusters" and "matching" not in own.get(name, {}):
            systems[f"{name}:matching=picture"] = segmenter.with_method(name, **own.get(name, {}), matching="picture")
    return systems


def line_options(
    base: dict[str, Any],
    label: str,
    clean: bool = False,
    refine: bool = False,
    options: dict[str, dict[str, Any]] | None = None,
) -> EvaluationOptions:
    """Evaluation options of one line; ``options`` as in :func:`compare_benchmark`."""
    method, _, option = label.partition(":")
    own = {**(options or {}).get(method, {}), **(dict([option.split("=")]) if option else {})}
    background = own.pop("background", None)
    if method == "dino-clusters" and base.get("mode") == "slide":
        base = {**base, "mode": None}  # it clusters whole pictures; its report says so
    return make_options({
        **base, "method": method, "method_options": own, "background": background,
        "clean": clean and method == "talk2dino", "refine": refine,
    })  # fmt: skip


def compare_benchmark(
    systems: dict[str, Any],
    base: dict[str, Any],
    *,
    both: bool = True,
    out: str | Path | None = None,
    progress: Callable[[str, int, int, Metrics], None] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
) -> list[Row]:
    """Evaluate several systems on one benchmark.

    Args:
        systems: name -> system, as :func:`wrap_all` gives them.
        base: evaluation options that all share (benchmark, data, model, limit ...).
        both: cleaning and refinement on and off, for systems that have them.
        out: folder; each line keeps its journal in a folder of its own there, so that it can go on where it stopped.
        progress: called with (line's name, pictures done, in all, metrics so far).
        options: name -> the options that its system was made with, to be kept with the results, and "background".
    """
    rows = []
    for label, clean, refine in comparison_rows(list(systems), both=both):
        name = "-".join(
            [label.replace(":", "-").replace("=", "-"), *(["clean"] if clean else []), *(["refine"] if refine else [])]
        )
        asked = line_options(base, label, clean, refine, options)
        tell = None if progress is None else _named(progress, name)
        folder = None if out is None else Path(out) / name
        outcome, _ = run(asked, folder, method=systems[label], report=tell)
        report = make_report(outcome.config, outcome.metrics, len(outcome.records))
        if matched_over_benchmark(outcome.config):
            outcome.predict.classes = cluster_classes(outcome.matrix)
        rows.append(Row(label, clean, refine, report, outcome.predict))
    return rows


def _named(progress: Callable[[str, int, int, Metrics], None], name: str) -> Callable[[int, int, Metrics], None]:
    return lambda done, total, metrics: progress(name, done, total, metrics)


def comparison_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The comparison as plain values."""
    table = []
    for row in rows:
        figures = row.report.metrics.as_dict()
        table.append({
            "method": _title(row.label, row.report.config),
            "clean": row.clean if row.label == "talk2dino" else None,
            "refine": row.refine,
            "miou": figures["miou"],
            **row.report.details,
            "mean_accuracy": figures["mean_accuracy"],
            "overall_accuracy": figures["overall_accuracy"],
        })  # fmt: skip
    return table


def comparison_dict(rows: Sequence[Row]) -> dict[str, Any]:
    """The table with all that belongs to it: published figures, each line's exact configuration, versions."""
    return {
        "benchmark": rows[0].report.config["benchmark"],
        "pictures": rows[0].report.pictures,
        "rows": comparison_table(rows),
        "published_for_reference": published_results(rows[0].report.config["benchmark"]),
        "configurations": [row.report.config for row in rows],
        "versions": versions(),
    }


def comparison_markdown(rows: Sequence[Row], *, exact: bool = False) -> str:
    """The comparison as a Markdown table, figures in percent; ``exact``: with configurations and versions."""
    table = comparison_table(rows)
    heads = list(table[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in table:
        lines.append("| " + " | ".join(_cell(value) for value in row.values()) + " |")
    notes = dict.fromkeys(note for row in rows for note in row.report.notes)
    first = rows[0].report
    about = f"{first.config['benchmark']}, {first.pictures} pictures, model {first.config['model']}; figures in percent"
    page = [about, "", *lines, "", *(f"- {note}" for note in notes)]
    published = published_results(first.config["benchmark"])
    if published:
        page += ["", "Published mIoU on this benchmark, for reference (not measured here):", ""]
        page += ["| system | mIoU |", "| --- | ---: |", *(f"| {name} | {v:.1f} |" for name, v in published.items())]
    if exact:
        kept = {"configurations": [row.report.config for row in rows], "versions": versions()}
        page += [
            "",
            "## Configurations and versions",
            "",
            "```json",
            json.dumps(kept, indent=1, ensure_ascii=False),
            "```",
        ]
    return "\n".join(page) + "\n"


def comparison_chart(rows: Sequence[Row]) -> Image.Image:
    """The comparison as bars."""
    from talk2dino.evaluation import charts

    first = rows[0].report
    title = f"mIoU on {first.config['benchmark']}, {first.pictures} pictures, model {first.config['model']}"
    bars = []
    for row in rows:
        extras = [name for name, on in (("cleaned", row.clean), ("refined", row.refine)) if on]
        bars.append(
            (
                ", ".join([_title(row.label, row.report.config), *extras]),
                row.report.metrics.miou,
                row.label == "talk2dino",
            )
        )
    return charts.comparison_chart(bars, title)


def _title(label: str, config: dict[str, Any] | None = None) -> str:
    titles = {
        "dino-clusters": "dino-clusters (matched)",
        "dino-clusters:matching=picture": "dino-clusters (matched per picture)",
    }
    if label == "dino-clusters" and config and not matched_over_benchmark(config):
        label = "dino-clusters:matching=picture"
    return titles.get(label, label.replace(":", ", ").replace("=", " "))


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "on", False: "off", None: "has none"}[value]
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def compare_picture(
    systems: dict[str, Any], image: Any, prompts: Any, *, background: Any = None, clean: bool | None = None,
    refine: bool = False, mode: str = "whole",
) -> Image.Image:  # fmt: skip
    """One picture with every system's overlay beside it.

    The background threshold belongs to talk2dino's scale and goes to it alone; the other systems label every pixel.
    """
    from talk2dino.io.images import read_image
    from talk2dino.io.legend import draw_grid

    if not systems:
        raise InputError(f"name at least one system to compare: {', '.join(method_names())}")
    picture = read_image(image)
    tiles = []
    for name, system in systems.items():
        if ":" in name:  # another way to evaluate the same system
            continue
        settings: dict[str, Any] = {"refine": refine, "mode": mode}
        if name == "talk2dino":
            settings |= {"background": background, "clean": clean}
        elif name == "dino-clusters":
            settings["mode"] = "whole" if mode == "slide" else mode
        result = system.segment(picture, prompts, **settings)
        title = f"{name} (no words: colours are segments)" if system.method.facts.matched else name
        tiles.append((title, result.overlay(picture)))
    return draw_grid([(picture.name, _as_large(picture.array, tiles[0][1])), *tiles], columns=min(3, len(tiles) + 1))


def _as_large(pixels: Any, like: Image.Image) -> Image.Image:
    picture = Image.fromarray(pixels)
    factor = max(1, round(like.width / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def comparison_cases(
    systems: dict[str, Any],
    base: dict[str, Any],
    rows: Sequence[Row],
    count: int = 4,
) -> Image.Image:
    """The first pictures of a benchmark: picture, truth, each system's labels in the benchmark's colours, and their key.

    ``systems`` says which are shown; cleaning and refinement are off.
    """
    from talk2dino.evaluation.charts import class_key, enlarge, paint_labels
    from talk2dino.io.legend import draw_grid

    tiles = []
    benchmark, samples = open_samples(make_options({**base, "limit": count}))
    plain = {row.label: row.predict for row in reversed(rows) if not row.clean and not row.refine}
    for sample in samples:
        picture, truth = sample.load()
        tiles.append((sample.name, enlarge(Image.fromarray(picture))))
        tiles.append(("truth", enlarge(paint_labels(truth, benchmark.palette), smooth=False)))
        shown = [truth]
        for name in systems:
            (labels,) = plain[name]([(picture, truth)])
            shown.append(labels)
            tiles.append((_title(name), enlarge(paint_labels(labels, benchmark.palette), smooth=False)))
        tiles.append(("classes", class_key(shown, benchmark)))
    return draw_grid(tiles, columns=3 + len(systems))
