"""What ``talk2dino compare`` does: several systems side by side, on images or in one table of a benchmark.

Systems that first need something built, such as prototypes, come last: the others' results are there while it is built.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from talk2dino.errors import InputError
from talk2dino.evaluation.cases import draw_rows
from talk2dino.evaluation.charts import Bar, bar_chart
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.matching import cluster_classes, matched_over_benchmark
from talk2dino.evaluation.options import CompareOptions, parse_system, row_options
from talk2dino.evaluation.paper import published_results, published_table
from talk2dino.evaluation.protocol import Outcome, benchmark_prompts, open_samples, run_benchmark
from talk2dino.evaluation.report import EvaluationReport, as_json, cell, code_block, make_report, versions
from talk2dino.evaluation.runs import part_of
from talk2dino.io.atomic import save_png, write_atomically
from talk2dino.io.cache import cache_folder
from talk2dino.io.images import LoadedImage, read_image
from talk2dino.io.legend import Legend, draw_grid, merge_legends
from talk2dino.io.lock import folder_lock
from talk2dino.io.markdown import markdown_table
from talk2dino.io.overlay import overlay_legend
from talk2dino.methods import method_class, method_facts
from talk2dino.methods.base import Preparation
from talk2dino.models.loading import load_parts
from talk2dino.progress import ProgressCallback
from talk2dino.segmenter import Segmenter
from talk2dino.towers import Towers
from talk2dino.words.prompts import PromptList, parse_prompts
from talk2dino.words.translate import make_translator

log = logging.getLogger(__name__)
CASES = 4  # images of the benchmark in images.png
_MATCHED = {"benchmark": " (matched)", "image": " (matched per image)"}


@dataclass(frozen=True)
class System:
    """One system of a comparison.

    Attributes:
        label: as it was asked for.
        method, options: what it is; the options may also hold "background" and "matching".
        missing: what must be built first.
    """

    label: str
    method: str
    options: dict[str, Any]
    missing: Preparation | None = None

    def build(self, out: Path, progress: ProgressCallback | None, shown: str) -> System:
        """The system with what it was missing, built once into the cache, else below ``out``; ``shown`` is what is done."""
        if self.missing is None:
            return self
        folder = (cache_folder() or out) / self.missing.folder
        with folder_lock(folder):
            if not self.missing.finished(folder):
                log.info(
                    "%s; %s needs %s, which are now built once into %s and found there by later calls. %s",
                    shown, self.label, self.missing.what, folder, self.missing.advice,
                )  # fmt: skip
            built = self.missing.build(folder, progress)
        return replace(self, options={**self.options, **built}, missing=None)


def list_systems(segmenter: Segmenter, options: CompareOptions) -> list[System]:
    """The systems of a comparison, those that are ready first; what cannot be built is left out with a warning."""
    systems = []
    drawn = options.benchmark is not None and not get_benchmark(options.benchmark).on_disk
    for label in options.systems:
        method, chosen = options.system(label)
        prepare = method_class(method).preparation
        missing = prepare(segmenter.towers, chosen, drawn=drawn, scenes=options.prototype_scenes)
        if missing is not None and missing.impossible:
            log.warning("%s is left out: %s", label, missing.impossible)
        else:
            systems.append(System(label, method, chosen, missing))
    if not systems:
        raise InputError("no system is left to compare")
    return sorted(systems, key=lambda system: system.missing is not None)


def load_segmenter(options: CompareOptions) -> Segmenter:
    """The models that all systems share."""
    needed = any("projection" in method_facts(options.system(label)[0]).towers for label in options.systems)
    parts = load_parts(options.model, projection=options.projection, text=options.text, needs_projection=needed)
    translator = None if options.translate is None else make_translator(options.translate)
    return Segmenter(Towers(parts, device=options.device, dtype=options.dtype, translator=translator))


def compare_images(
    options: CompareOptions, *, segmenter: Segmenter | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Write one grid per image, ``out/NAME.png``: the image, and the overlay of each system.

    The grids are written with the systems that are ready and again with those that had to be built. ``options.background``
    is on the scale of the first system and applies to it alone; ``method_options`` hold the thresholds of others.

    Args:
        progress: counts the items of what a system needs built.

    Raises:
        ImageError: an image cannot be read. InputError: a system refuses an option, or none is left.
    """
    prompts = parse_prompts(options.prompts or "")
    images = [read_image(path) for path in options.images]
    paths = [options.out / f"{path.stem}.png" for path in options.images]
    segmenter = load_segmenter(options) if segmenter is None else segmenter
    systems = list_systems(segmenter, options)
    grids: list[list[_Tile]] = [[(image.name, Image.fromarray(image.array), None)] for image in images]
    for number, system in enumerate(systems):
        shown = ", ".join(before.label for before in systems[:number]) or "nothing yet"
        ready = system.build(options.out, progress, f"{', '.join(map(str, paths))} shows {shown}")
        for grid, image in zip(grids, images, strict=True):
            grid.append(_segment(segmenter, ready, image, prompts, options))
        if number + 1 == len(systems) or systems[number + 1].missing is not None:
            for grid, path in zip(grids, paths, strict=True):
                legends = [legend for _, _, legend in grid if legend is not None]
                tiles = [(title, overlay) for title, overlay, _ in grid]
                save_png(draw_grid(tiles, legend=merge_legends(legends) if legends else None), path)
    return paths


#: Title, image, and the legend of a system that labels the prompted classes.
_Tile = tuple[str, Image.Image, Legend | None]


def _segment(
    segmenter: Segmenter, system: System, image: LoadedImage, prompts: PromptList, options: CompareOptions
) -> _Tile:
    facts, own = method_facts(system.method), dict(system.options)
    first = system.label == options.systems[0]
    background = own.pop("background", options.background if first and not facts.matched else None)
    own.pop("matching", None)
    result = segmenter.with_method(system.method, **own).segment(
        image, prompts, background=background, clean=options.clean if facts.can_clean else None,
        refine=options.refine, mode=options.mode if options.mode in facts.modes else facts.modes[0],
    )  # fmt: skip
    overlay = result.overlay(image, legend=False)
    if facts.matched:
        return f"{system.label} (no prompts)", overlay, None
    return system.label, overlay, overlay_legend(image, result)


def compare_benchmark(
    options: CompareOptions, *, segmenter: Segmenter | None = None, progress: ProgressCallback | None = None
) -> Comparison:
    """Evaluate several systems on one benchmark and write comparison.md, .json, .png and images.png.

    Unless ``options.plain``, each system is evaluated with and without refinement, and with and without cleaning if it
    has it. Each row keeps its finished images in a folder below ``out``, so that the same call resumes it.

    Args:
        progress: counts the images of all rows, and the items of what a system needs built.

    Raises:
        DataError: data are missing or damaged. InputError: a system refuses an option, or none is left.
    """
    benchmark = get_benchmark(options.benchmark or "")
    first = row_options(options, *options.system(options.systems[0]))
    benchmark_prompts(benchmark, first)
    count = len(open_samples(first, benchmark))
    segmenter = load_segmenter(options) if segmenter is None else segmenter
    plans = [
        (system, clean, refine)
        for one in list_systems(segmenter, options)
        for system in _matchings(one)
        for clean in ((False, True) if method_facts(one.method).can_clean and not options.plain else (False,))
        for refine in ((False,) if options.plain else (False, True))
    ]
    comparison = Comparison(options)
    built: dict[str, System] = {}
    for number, (system, clean, refine) in enumerate(plans):
        if system.label not in built:
            shown = f"{number} of {len(plans)} rows are done"
            built[system.label] = system.build(options.out, progress, shown)
        ready = built[system.label]
        asked = row_options(options, ready.method, ready.options, clean=clean, refine=refine)
        label = system.label.replace(":", "-").replace("=", "-")
        folder = options.out / "-".join([label, *(["clean"] * clean), *(["refine"] * refine)])
        part = part_of(progress, number * count, len(plans) * count, folder.name)
        outcome = run_benchmark(segmenter, benchmark, asked, folder=folder, progress=part)
        report = make_report(outcome.config, outcome.metrics, len(outcome.records))
        comparison.rows.append(Row(system.label, clean, refine, report, outcome))
    order = [system.label for label in options.systems for system in _matchings(System(label, *options.system(label)))]
    comparison.rows.sort(key=lambda row: order.index(row.label))
    comparison.written += write_comparison(comparison)
    return comparison


def _matchings(system: System) -> list[System]:
    """Both ways of matching for a system whose segments have no class, unless one was chosen."""
    if not method_facts(system.method).matched or "matching" in system.options:
        return [system]
    own = {**system.options, "matching": "image"}
    return [system, replace(system, label=f"{system.label}:matching=image", options=own)]


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
    bars = [
        Bar(
            ", ".join([row.title, *(["cleaned"] * row.clean), *(["refined"] * row.refine)]), row.report.metrics.miou,
            marked=rows[0].report.config["method"] == row.report.config["method"],
        )
        for row in rows
    ]  # fmt: skip
    return [
        write_atomically(out / "comparison.md", comparison.markdown(exact=True)),
        write_atomically(out / "comparison.json", as_json(comparison.as_dict())),
        save_png(bar_chart(bars, f"mIoU in percent, {comparison.caption}"), out / "comparison.png"),
        save_png(draw_first_images(rows), out / "images.png"),
    ]


def draw_first_images(rows: Sequence[Row], count: int = CASES, labels: Sequence[str] | None = None) -> Image.Image:
    """The first images of the benchmark with the labels of each system, without cleaning and refinement."""
    plain = {row.label: row for row in rows if not row.clean and not row.refine}
    shown = {plain[label].title: plain[label].outcome for label in labels or plain}
    for outcome in shown.values():
        if matched_over_benchmark(outcome.config):
            outcome.predict.classes = cluster_classes(outcome.matrix)
    predictions = {title: outcome.predict for title, outcome in shown.items()}
    first = next(iter(shown.values()))
    samples = open_samples(first.predict.options, first.predict.benchmark)[:count]
    return draw_rows(first.predict.benchmark, [(sample.name, sample, predictions) for sample in samples])
