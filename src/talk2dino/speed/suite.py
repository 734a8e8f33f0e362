"""The measurements of ``talk2dino bench``, section by section; most figures are ratios within the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from talk2dino.device import choose_device
from talk2dino.errors import Talk2DinoError
from talk2dino.speed.agreement import agreement
from talk2dino.speed.figures import SECTIONS, BenchOptions, Figure, Note, Plan, Results, dtype_name, make_plan
from talk2dino.speed.folder import folder
from talk2dino.speed.measure import matmul_rate
from talk2dino.speed.memory import memory
from talk2dino.speed.pipeline import pipeline
from talk2dino.speed.refinement import refinement
from talk2dino.speed.stages import stages
from talk2dino.speed.text_encoding import text

__all__ = ["SECTIONS", "BenchOptions", "Figure", "Note", "Results", "run_bench"]


def run_bench(
    options: BenchOptions,
    *,
    tell: Callable[[Figure | Note], None] = lambda found: None,
    keep: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure. A section that fails becomes a note, and the others are still measured.

    Args:
        tell: hears of every figure as soon as there is one.
        keep: is handed all that was found after every section, also after one that ends in an unexpected error.

    Raises:
        InputError: an unknown device, dtype or engine, before anything is measured.
    """
    plan = make_plan(options, choose_device(options.device))
    results = Results()

    def add(found: Figure | Note) -> None:
        results.add(found)
        tell(found)

    for note in plan.notes:
        add(note)
    for section in SECTIONS:
        if section not in options.sections:
            continue
        try:
            for found in MEASURES[section](plan):
                add(found)
        except Talk2DinoError as error:
            add(Note(section, f"not measured to the end: {error}", failed=True))
        finally:
            keep(results)
    return results


def machine(plan: Plan) -> Iterator[Figure]:
    """How fast matrices are multiplied."""
    for dtype in dict.fromkeys([torch.float32, *(pair.dtype for pair in plan.pairs)]):
        rate = matmul_rate(dtype, plan.device) / 1e9
        yield Figure("machine", "matrix product", rate, "GFLOP/s", None, {"dtype": dtype_name(dtype)})


MEASURES: dict[str, Callable[[Plan], Iterator[Figure] | Iterator[Figure | Note]]] = {
    "machine": machine, "pipeline": pipeline, "agreement": agreement, "stages": stages, "refinement": refinement,
    "text": text, "folder": folder, "memory": memory,
}  # fmt: skip
