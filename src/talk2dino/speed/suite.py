"""The measurements of ``talk2dino bench``, section by section."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import torch

from talk2dino.errors import Talk2DinoError
from talk2dino.io.atomic import write_atomically
from talk2dino.progress import ProgressCallback
from talk2dino.speed.agreement import agreement
from talk2dino.speed.clocks import matmul_rate
from talk2dino.speed.end_to_end import end_to_end
from talk2dino.speed.figures import Figure, Note
from talk2dino.speed.folder_runs import folder_runs
from talk2dino.speed.peak_memory import memory
from talk2dino.speed.plan import SECTIONS, BenchOptions, Plan, dtype_name, make_plan
from talk2dino.speed.refinement import refinement
from talk2dino.speed.stage_times import stage_times
from talk2dino.speed.tables import Results
from talk2dino.speed.text_encoding import text_encoding
from talk2dino.speed.workload import check_model

Measure: TypeAlias = Callable[[Plan], "Iterator[Figure] | Iterator[Figure | Note]"]


def run_bench(
    options: BenchOptions, *, out: Path | None = None, on_result: Callable[[Figure | Note], None] | None = None,
    progress: ProgressCallback | None = None,
) -> Results:  # fmt: skip
    """Measure. If a section fails, its error becomes a note and the remaining sections still run.

    Args:
        out: folder for ``bench.json``, which is written after every section, also after one that raised an unexpected error.
        on_result: called with each figure and note as soon as it is known.
        progress: called after each section.

    Raises:
        InputError: an unknown device, dtype or engine. ModelNotFoundError: an unknown model. OutputError: ``out`` cannot be
            written. All three before anything is measured.
    """
    plan = make_plan(options)
    check_model(options.model)
    results = Results(options, plan.device)

    def add(found: Figure | Note) -> None:
        results.add(found)
        if on_result is not None:
            on_result(found)

    def save() -> None:
        if out is not None:
            write_atomically(out / "bench.json", json.dumps(results.record(), indent=2))

    save()
    for note in plan.notes:
        add(note)
    sections = [name for name in SECTIONS if name in options.sections]
    for done, section in enumerate(sections, 1):
        try:
            for found in MEASURES[section](plan):
                add(found)
        except Talk2DinoError as error:
            add(Note(section, f"the section was not completed: {error}", failed=True))
        finally:
            save()
        if progress is not None:
            progress(done, len(sections), section)
    return results


def machine(plan: Plan) -> Iterator[Figure]:
    """The rate of large matrix products."""
    for dtype in dict.fromkeys([torch.float32, *(pair.dtype for pair in plan.pairs)]):
        rate = matmul_rate(dtype, plan.device) / 1e9
        yield Figure("machine", "matrix product", rate, "GFLOP/s", None, {"dtype": dtype_name(dtype)})


MEASURES: dict[str, Measure] = {
    "machine": machine, "pipeline": end_to_end, "agreement": agreement, "stages": stage_times, "refinement": refinement,
    "text": text_encoding, "folder": folder_runs, "memory": memory,
}  # fmt: skip
