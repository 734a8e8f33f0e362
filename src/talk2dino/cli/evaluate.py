"""``talk2dino evaluate``: a system on a benchmark, with the published protocol and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_BENCHMARK = "voc21, voc20, context60, context59, coco-stuff, coco-object, cityscapes, ade20k, or world (no download)."
_OUT = "Folder for the report; a run that was stopped goes on from there."

_Benchmark = Annotated[str | None, typer.Option("--benchmark", "-b", help=_BENCHMARK)]
_Data = Annotated[Path | None, typer.Option("--data", help="mmsegmentation's data folder, or the data set's own.")]
_Method = Annotated[str | None, typer.Option(help="talk2dino, clip-dense, dino-clusters or freeda.")]
_Model = Annotated[str | None, typer.Option("--model", "-m", help="As in 'talk2dino models', a folder, or a hub id.")]
_Mapping = Annotated[Path | None, typer.Option(help="A psi of your own, or a folder that 'talk2dino train' made.")]
_Out = Annotated[Path | None, typer.Option("--out", "-o", help=_OUT)]
_Mode = Annotated[str | None, typer.Option(help="slide (published; default), whole or square.")]
_Background = Annotated[float | None, typer.Option(help="Background threshold instead of the model's.")]
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
    mapping: _Mapping = None,
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
        _report_on(merge, out, as_json)
        return
    from talk2dino.evaluation.options import make_options, parse_shard, read_options_file

    flags = {
        "benchmark": benchmark, "data": data, "method": method, "model": model, "mapping": mapping, "mode": mode,
        "background": background, "clean": clean, "refine": refine, "synonyms": synonyms, "prompts": prompts,
        "held_out": held_out, "limit": limit, "device": device, "dtype": dtype,
    }  # fmt: skip
    values: dict[str, Any] = read_options_file(config) if config else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    own = {**values.get("method_options", {}), **parse_method_options(option or [])}
    if prototypes is not None:
        own["prototypes"] = str(prototypes)
    if "benchmark" not in values:
        raise typer.BadParameter("name a benchmark, for example --benchmark world", param_hint="--benchmark")
    options = make_options(values | {"method_options": own})
    part = parse_shard(shard)

    from talk2dino.evaluation.run import run

    with EvaluationProgress(f"{options.benchmark}, {options.method}") as progress:
        outcome, system = run(options, out, shard=part, batch_size=batch_size, report=progress.tell)
    if out is None:
        _print(outcome.config, outcome.metrics, len(outcome.records), _missing(part), as_json)
        return
    _draw_cases(options, outcome, system, part, out)
    _report_on([out], out, as_json)


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


def _missing(part: tuple[int, int]) -> str | None:
    return None if part[1] == 1 else f"only shard {part[0]} of {part[1]}"


def _print(config: dict[str, Any], metrics: Any, pictures: int, missing: str | None, as_json: bool) -> None:
    import json

    from talk2dino.evaluation.report import make_report, terminal_table

    report = make_report(config, metrics, pictures, missing)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        print(terminal_table(report), end="")


def _report_on(folders: list[Path], out: Path | None, as_json: bool) -> None:
    """Merge the shards of a run, print the report, and write it when all shards are there."""
    import sys

    from talk2dino.evaluation.datasets import get_benchmark
    from talk2dino.evaluation.journal import add_up, read_journals
    from talk2dino.evaluation.matching import final_metrics
    from talk2dino.evaluation.report import make_report, write_report

    config, records, missing = read_journals(folders)
    metrics = final_metrics(add_up(get_benchmark(config["benchmark"]).names, records), config)
    _print(config, metrics, len(records), missing, as_json)
    if out is not None:
        written = write_report(make_report(config, metrics, len(records), missing), out)
        print(f"written: {', '.join(str(path) for path in written)}", file=sys.stderr)


def _draw_cases(options: Any, outcome: Any, system: Any, part: tuple[int, int], out: Path) -> None:
    """pictures.png: the worst and the best cases."""
    import io

    from talk2dino.evaluation.charts import case_grid
    from talk2dino.evaluation.matching import cluster_classes, final_records, matched_over_benchmark
    from talk2dino.evaluation.run import open_samples
    from talk2dino.io.atomic import write_atomically

    benchmark, samples = open_samples(options, part)
    predict = outcome.predict
    if matched_over_benchmark(outcome.config):
        predict.classes = cluster_classes(outcome.matrix)
    records = final_records(outcome.records, outcome.matrix, outcome.config)
    grid = case_grid(benchmark, samples, records, predict)
    if grid is not None:
        content = io.BytesIO()
        grid.save(content, "PNG")
        write_atomically(out / "pictures.png", content.getvalue())


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
