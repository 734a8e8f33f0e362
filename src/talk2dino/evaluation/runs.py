"""What ``talk2dino evaluate`` does: evaluate a method on benchmarks, or merge shards, and report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from talk2dino.errors import InputError, OutputError, Talk2DinoError
from talk2dino.evaluation.cases import draw_cases, predictor_of
from talk2dino.evaluation.journal import read_run
from talk2dino.evaluation.options import EvaluationOptions
from talk2dino.evaluation.protocol import benchmark_prompts, open_samples, run_benchmark
from talk2dino.evaluation.report import EvaluationReport, make_report, report_run, write_report, write_summary
from talk2dino.methods import method_class
from talk2dino.progress import ProgressCallback
from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)
_NO_FIGURE = "no image has a figure"


@dataclass
class EvaluationResult:
    """One report per benchmark, and the files that were written."""

    reports: list[EvaluationReport] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def evaluate(
    options: EvaluationOptions, *, segmenter: Segmenter | None = None, progress: ProgressCallback | None = None
) -> EvaluationResult:
    """Evaluate a method on one or several benchmarks, with the published protocol unless the options change it.

    With ``options.out`` the counts of each image are written as it is finished, and the same call resumes a run that was
    stopped; the reports are written, too. Several benchmarks get one folder each below it.

    Args:
        segmenter: the loaded models; None loads those of the options. Its method is replaced by the one of the options.
        progress: counts the images of all benchmarks.

    Raises:
        DataError: data are missing or damaged; those of all benchmarks are looked up before the first is evaluated.
        InputError: ``out`` holds another run, or the method refuses an option.
    """
    counts = []
    for benchmark in options.benchmarks:
        counts.append(len(open_samples(options, benchmark)[options.shard[0] - 1 :: options.shard[1]]))
        benchmark_prompts(benchmark, options)
    if segmenter is None:  # with the method, so that options which it refuses are reported now
        own = {**method_class(options.method).benchmark_options(options.benchmark[0]), **options.method_options}
        segmenter = Segmenter.from_pretrained(
            options.model, method=options.method, projection=options.projection, text=options.text,
            translate=options.translate, device=options.device, dtype=options.dtype, **own,
        )  # fmt: skip
    result = EvaluationResult()
    for number, benchmark in enumerate(options.benchmarks):
        several = len(options.benchmarks) > 1
        folder = options.out / benchmark.name if options.out is not None and several else options.out
        part = part_of(progress, sum(counts[:number]), sum(counts), benchmark.name if several else "")
        outcome = run_benchmark(segmenter, benchmark, options, folder=folder, progress=part)
        if folder is None:
            missing = None if options.shard[1] == 1 else f"only shard {options.shard[0]} of {options.shard[1]}"
            result.reports.append(make_report(outcome.config, outcome.metrics, len(outcome.records), missing))
            continue
        run = read_run([folder])
        drawn = draw_cases(run, outcome.predict, folder)
        result.reports.append(report_run(run))
        result.written += write_report(result.reports[-1], folder, not_drawn=None if drawn else _NO_FIGURE)
    if options.out is not None and len(result.reports) > 1:
        result.written += write_summary(result.reports, options.out)
    return result


def part_of(progress: ProgressCallback | None, start: int, whole: int, name: str) -> ProgressCallback | None:
    """Report one part of a longer count of ``whole`` items, of which ``start`` came before it."""
    if progress is None:
        return None

    def report(done: int, total: int, note: str = "") -> None:
        progress(start + done, whole, f"{name}, {note}" if name else note)

    return report


def merge_runs(
    folders: Sequence[Path], *, out: Path | None = None, data: Path | None = None, device: str | None = None
) -> EvaluationResult:
    """Report on finished folders: the shards of one run, or of several benchmarks.

    Args:
        out: where to write the reports; images.png is drawn again if the data and the model are found.
        data: where the data are now; None: where they were.

    Raises:
        DataError: a folder holds no run. InputError: the folders hold different runs.
    """
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        inner = [] if (folder / "config.json").is_file() else sorted(folder.glob("*/config.json"))
        for name, path in [(one.parent.name, one.parent) for one in inner] or [("", folder)]:
            groups.setdefault(name, []).append(path)
    if not groups:
        raise InputError("no folder to merge")
    result = EvaluationResult()
    for name, parts in groups.items():
        run = read_run(parts)
        result.reports.append(report_run(run))
        if out is None:
            continue
        folder = out / name if len(groups) > 1 else out
        try:
            drawn = draw_cases(run, predictor_of(run, data=data, device=device), folder)
            reason = None if drawn else _NO_FIGURE
        except OutputError:
            raise
        except Talk2DinoError as error:
            reason = str(error).splitlines()[0].rstrip(".;:")
        if reason is not None:
            (folder / "images.png").unlink(missing_ok=True)  # of an earlier report
            log.warning("no images.png: %s", reason)
        result.written += write_report(result.reports[-1], folder, not_drawn=reason)
    if out is not None and len(result.reports) > 1:
        result.written += write_summary(result.reports, out)
    return result
