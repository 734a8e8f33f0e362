"""``talk2dino evaluate``: a system on a benchmark, with the published protocol and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_BENCHMARK = (
    "voc21, voc20, context60, context59, coco-stuff, coco-object, cityscapes, ade20k, all (these eight), or world (no "
    "download). Several with commas, or repeated."
)
_OUT = "Folder for the report (for several benchmarks, one in it for each); a run that was stopped goes on from there."

_Benchmark = Annotated[list[str] | None, typer.Option("--benchmark", "-b", help=_BENCHMARK)]
_Data = Annotated[Path | None, typer.Option("--data", help="mmsegmentation's data folder, or the data set's own.")]
_Method = Annotated[str | None, typer.Option(help="talk2dino, clip-dense, dino-clusters or freeda.")]
_Model = Annotated[str | None, typer.Option("--model", "-m", help="As in 'talk2dino models', a folder, or a hub id.")]
_Projection = Annotated[Path | None, typer.Option(help="A psi of your own, or a folder that 'talk2dino train' made.")]
_Out = Annotated[Path | None, typer.Option("--out", "-o", help=_OUT)]
_Mode = Annotated[str | None, typer.Option(help="slide (published; default), whole or square.")]
_Background = Annotated[
    float | None, typer.Option(min=-1, max=1, help="Background threshold instead of the model's or method's.")
]
_Clean = Annotated[
    bool | None, typer.Option("--clean/--no-clean", help="Background cleaning; as published unless told.")
]
_Refine = Annotated[bool | None, typer.Option("--refine/--no-refine", help="Sharpen the masks (PAMR).")]
_Synonyms = Annotated[Path | None, typer.Option(help="File with 'class = synonym | synonym' lines.")]
_Prompts = Annotated[
    str | None, typer.Option(help="world: names, synonyms, other-synonyms, template, upper, chinese, chinese-synonyms.")
]
_HeldOut = Annotated[
    str | None,
    typer.Option(metavar="one|all", help="world: one object a scene, or all, in colours training never showed."),
]
_Prototypes = Annotated[Path | None, typer.Option(help="freeda: folder that 'talk2dino freeda build' made.")]
_Option = Annotated[list[str] | None, typer.Option("--option", help="Option of the method, name=value; repeatable.")]
_Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N pictures.")]
_Shard = Annotated[str, typer.Option(metavar="I/N", help="Every N-th picture from the I-th on.")]
_Merge = Annotated[
    list[Path] | None, typer.Option(help="Report on finished folders (shards) instead of evaluating; repeatable.")
]
_Config = Annotated[Path | None, typer.Option(help="YAML file with options; flags win over it.")]
_Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
_Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
_BatchSize = Annotated[int, typer.Option(min=1, max=256, help="Pictures handed to the system at once.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")]


def evaluate(
    benchmark: _Benchmark = None,
    data: _Data = None,
    method: _Method = None,
    model: _Model = None,
    projection: _Projection = None,
    out: _Out = None,
    mode: _Mode = None,
    background: _Background = None,
    clean: _Clean = None,
    refine: _Refine = None,
    synonyms: _Synonyms = None,
    prompts: _Prompts = None,
    held_out: _HeldOut = None,
    prototypes: _Prototypes = None,
    option: _Option = None,
    limit: _Limit = None,
    shard: _Shard = "1/1",
    merge: _Merge = None,
    config: _Config = None,
    device: _Device = None,
    dtype: _Dtype = None,
    batch_size: _BatchSize = 8,
    as_json: _AsJson = False,
) -> None:
    """Measure mIoU on a benchmark.

    Class names, palettes and ignored values are mmsegmentation's; windows, thresholds and cleaning are as published
    unless told. With --out the run can be stopped and goes on where it was, and the report is written there.
    """
    if merge:
        _merge(merge, out, data, device, as_json)
        return
    from talk2dino.cli.usage import split_names, usage
    from talk2dino.evaluation.options import make_options, parse_shard, read_options_file
    from talk2dino.evaluation.summary import choose_benchmarks

    flags = {
        "data": data, "method": method, "model": model, "projection": projection, "mode": mode, "background": background,
        "clean": clean, "refine": refine, "synonyms": synonyms, "prompts": prompts, "held_out": held_out, "limit": limit,
        "device": device, "dtype": dtype,
    }  # fmt: skip
    values: dict[str, Any] = read_options_file(config) if config else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    own = {**values.get("method_options", {}), **parse_method_options(option or [])}
    if prototypes is not None:
        own["prototypes"] = str(prototypes)
    names = split_names(benchmark or values.get("benchmark"))
    if not names:
        raise typer.BadParameter("name a benchmark, for example --benchmark world", param_hint="--benchmark")
    with usage("--benchmark"):
        names = choose_benchmarks(names)
    with usage():
        base = values | {"method_options": own}
        runs = [make_options(_for_one_of(names, base | {"benchmark": name})) for name in names]
    with usage("--shard"):
        part = parse_shard(shard)
    _evaluate_all(runs, out, part, batch_size, as_json)


def _for_one_of(names: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """With several benchmarks a threshold goes to those that have a background; alone, a benchmark without one refuses."""
    from talk2dino.evaluation.datasets import get_benchmark

    if len(names) > 1 and not get_benchmark(values["benchmark"]).background:
        return {key: value for key, value in values.items() if key != "background"}
    return values


def _evaluate_all(runs: list[Any], out: Path | None, part: tuple[int, int], batch_size: int, as_json: bool) -> None:
    """One benchmark after the other with one system; what is wrong with any of the data is told before the first."""
    from talk2dino.evaluation.cases import draw_cases
    from talk2dino.evaluation.journal import read_journals
    from talk2dino.evaluation.protocol import open_samples, run
    from talk2dino.evaluation.report import make_report

    for options in runs:
        open_samples(options)
    system: Any = None
    reports = []
    for options in runs:
        folder = out if out is None or len(runs) == 1 else out / options.benchmark
        with EvaluationProgress(f"{options.benchmark}, {options.method}") as progress:
            outcome, system = run(
                options, folder, shard=part, method=system, batch_size=batch_size, report=progress.tell
            )
        if folder is None:
            missing = None if part[1] == 1 else f"only shard {part[0]} of {part[1]}"
            reports.append(make_report(outcome.config, outcome.metrics, len(outcome.records), missing))
            continue
        config, records, _ = read_journals([folder])
        drawn = draw_cases(config, records, outcome.predict, folder)
        reports.append(_report_on([folder], folder, None if drawn else "no picture has a figure of its own"))
    _show(reports, out, as_json)


def parse_method_options(given: list[str]) -> dict[str, Any]:
    """["segments=4", "variant=patches"] to {"segments": 4, "variant": "patches"}."""
    import yaml

    found = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not sign or not name.strip():
            raise typer.BadParameter(f"{item!r} is not name=value", param_hint="--option")
        found[name.strip().replace("-", "_")] = yaml.safe_load(value)
    return found


def _show(reports: list[Any], out: Path | None, as_json: bool) -> None:
    """One report, or the table of several, on stdout."""
    import json
    import sys

    from talk2dino.evaluation.report import summary_line, terminal_table
    from talk2dino.evaluation.summary import summary_dict, summary_markdown, write_summary

    if len(reports) == 1:
        print(json.dumps(reports[0].as_dict(), ensure_ascii=False) if as_json else terminal_table(reports[0]).rstrip())
        return
    if as_json:
        print(json.dumps(summary_dict(reports), ensure_ascii=False))
    else:
        print("\n".join(map(summary_line, reports)) + "\n\n" + summary_markdown(reports), end="")
    if out is not None:
        print(f"written: {', '.join(map(str, write_summary(reports, out)))}", file=sys.stderr)


def _report_on(folders: list[Path], out: Path | None, no_pictures: str | None) -> Any:
    """The report of a run's shards, written to ``out``."""
    import sys

    from talk2dino.evaluation.datasets import get_benchmark
    from talk2dino.evaluation.journal import add_up, read_journals
    from talk2dino.evaluation.matching import final_metrics
    from talk2dino.evaluation.report import make_report, write_report

    config, records, missing = read_journals(folders)
    metrics = final_metrics(add_up(get_benchmark(config["benchmark"]).names, records), config)
    report = make_report(config, metrics, len(records), missing)
    if out is not None:
        written = write_report(report, out, no_pictures=no_pictures)
        print(f"written: {', '.join(str(path) for path in written)}", file=sys.stderr)
    return report


def _merge(folders: list[Path], out: Path | None, data: Path | None, device: str | None, as_json: bool) -> None:
    """Report on the shards of one run, or of several benchmarks."""
    groups = _runs_in(folders)
    reports = []
    for name, parts in groups.items():
        target = out if out is None or len(groups) == 1 else out / name
        no_pictures = None if target is None else _draw_merged(parts, target, data, device)
        reports.append(_report_on(parts, target, no_pictures))
    _show(reports, out, as_json)


def _runs_in(folders: list[Path]) -> dict[str, list[Path]]:
    """The folders of each run: a folder of several benchmarks holds one for each."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        inner = [] if (folder / "config.json").is_file() else sorted(folder.glob("*/config.json"))
        for path in inner:
            groups.setdefault(path.parent.name, []).append(path.parent)
        if not inner:
            groups.setdefault("", []).append(folder)
    return groups


def _draw_merged(folders: list[Path], out: Path, data: Path | None, device: str | None) -> str | None:
    """pictures.png of merged shards, when data and model are at hand; else why there is none."""
    import sys

    from talk2dino.errors import OutputError, Talk2DinoError
    from talk2dino.evaluation.cases import draw_cases, predictor_of
    from talk2dino.evaluation.journal import read_journals

    config, records, _ = read_journals(folders)
    try:
        drawn = draw_cases(config, records, predictor_of(config, data=data, device=device), out)
        reason = None if drawn else "no picture has a figure of its own"
    except OutputError:
        raise
    except Talk2DinoError as error:
        (out / "pictures.png").unlink(missing_ok=True)  # of an earlier report
        reason = str(error).splitlines()[0].rstrip(".;:")
    if reason is not None:
        print(f"no pictures.png: {reason}", file=sys.stderr)
    return reason


class EvaluationProgress:
    """Running mIoU on stderr: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, every: float = 15.0) -> None:
        import sys
        import time

        self.label, self.every, self.clock = label, every, time.monotonic
        self.told = self.clock()
        self.live = sys.stderr.isatty()
        self.bar: Any = None

    def __enter__(self) -> EvaluationProgress:
        return self

    def tell(self, done: int, total: int, metrics: Any) -> None:
        import sys

        figure = f"mIoU {100 * metrics.miou:.2f}"
        if self.live:
            if self.bar is None:
                from tqdm import tqdm

                self.bar = tqdm(total=total, desc=self.label, unit="picture", file=sys.stderr, dynamic_ncols=True)
            self.bar.n = done
            self.bar.set_postfix_str(figure)
        elif self.clock() - self.told >= self.every or done == total:
            self.told = self.clock()
            print(f"{self.label}: {done} of {total} pictures, {figure} so far", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
