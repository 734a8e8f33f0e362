"""What ``talk2dino compare`` does: several systems side by side, on images or in one table of a benchmark.

Systems that first need something built, such as freeda's prototypes, come last: the results of the others are there while
it is built, once, into the cache.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from talk2dino.errors import InputError
from talk2dino.evaluation.comparison import Comparison, Row, write_comparison
from talk2dino.evaluation.datasets import get_benchmark
from talk2dino.evaluation.options import CompareOptions, row_options
from talk2dino.evaluation.protocol import benchmark_prompts, open_samples, run_benchmark
from talk2dino.evaluation.report import make_report
from talk2dino.evaluation.runs import part_of
from talk2dino.io.atomic import save_png
from talk2dino.io.cache import cache_folder
from talk2dino.io.images import LoadedImage, read_image
from talk2dino.io.legend import Legend, draw_grid, merge_legends
from talk2dino.io.lock import folder_lock
from talk2dino.io.overlay import overlay_legend
from talk2dino.methods import method_class, method_facts
from talk2dino.methods.base import Preparation
from talk2dino.models.loading import load_parts
from talk2dino.progress import ProgressCallback
from talk2dino.prompts import PromptList, parse_prompts
from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)


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
        """The system with what it was missing, built once into the cache, else below ``out``.

        Args:
            shown: what can be seen until then, for the message.
        """
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
    parts = load_parts(options.model, projection=options.projection, needs_projection=needed)
    return Segmenter(parts, device=options.device, dtype=options.dtype)


# --- images ----------------------------------------------------------------------------------------------------------


def compare_images(
    options: CompareOptions, *, segmenter: Segmenter | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Write one grid per image: the image, and the overlay of each system.

    The grids are written with the systems that are ready and again with those that had to be built. ``options.background``
    is on the scale of the first system and applies to it alone; ``method_options`` hold the thresholds of others.

    Args:
        progress: counts the items of what a system needs built.

    Returns:
        The grids, ``out/NAME.png``.

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


# --- benchmark -------------------------------------------------------------------------------------------------------


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
