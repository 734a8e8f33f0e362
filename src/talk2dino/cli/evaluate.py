"""``talk2dino evaluate``: a method on benchmarks, with the published protocol and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from talk2dino.evaluation.runs import EvaluationResult

_BENCHMARK = (
    "voc21, voc20, context60, context59, coco-stuff, coco-object, cityscapes, ade20k, all (these eight), or world (no "
    "download). Several with commas, or repeated."
)
_DATA = "mmsegmentation's data folder, or the folder of the data set."
_METHOD = "talk2dino, clip-dense, dino-clusters, freeda, or a registered one. [default: talk2dino]"
_MODEL = "auto, a name from 'talk2dino models', a folder, or a hub id. [default: auto]"
_PROJECTION = "Your own psi: a folder written by 'talk2dino train', projection.safetensors, or a published .pth."
_TEXT = "Text tower for another language: a folder written by 'talk2dino train-text'."
_TRANSLATE = "Translate prompts into English: auto, or a Marian model as a folder or hub id (extra 'translate')."
_OUT = "Folder for the report; several benchmarks get one folder each in it. The same command resumes a stopped run."
_MODE = "slide: the published windows; whole; square. [default: as published]"
_BACKGROUND = "Background threshold, -1 to 1 (0 to 1 for published models). [default: the method's own]"
_CLEAN = "Background cleaning. [default: as published: on for voc21 and coco-object]"
_REFINE = "Refine the masks with PAMR. [default: no-refine]"
_PROMPTS = "world: names, synonyms, other-synonyms, template, upper, chinese, chinese-synonyms. [default: names]"
_HELD_OUT = "world: one object per scene, or all, in colours that training never showed."
_OPTION = "Option of the method; repeatable."
_RAY = "Run on a Ray cluster: auto, local (start one here), or the address of a head node. Needs --out."
_BATCH_SIZE = "Images that are segmented together, 1 to 256. [default: 8]"
_MATCHING = (
    "For segments without classes (dino-clusters): match them to the truth once over the whole run, or in each image (an "
    "upper bound). [default: benchmark]"
)
_SHARD = "Every N-th image from the I-th on, counted from 1."
_MERGE = "Report on the shards in these folders instead of evaluating; repeatable."
_DTYPE = "float32, bfloat16, float16, or auto (bfloat16 where the hardware has it). [default: float32]"


def evaluate(
    context: typer.Context,
    benchmark: Annotated[list[str] | None, typer.Option("--benchmark", "-b", help=_BENCHMARK)] = None,
    data: Annotated[Path | None, typer.Option(help=_DATA)] = None,
    method: Annotated[str | None, typer.Option(help=_METHOD)] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=_MODEL)] = None,
    projection: Annotated[Path | None, typer.Option(help=_PROJECTION)] = None,
    text: Annotated[Path | None, typer.Option(help=_TEXT)] = None,
    translate: Annotated[str | None, typer.Option(help=_TRANSLATE)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=_OUT)] = None,
    mode: Annotated[str | None, typer.Option(help=_MODE)] = None,
    background: Annotated[float | None, typer.Option(help=_BACKGROUND)] = None,
    clean: Annotated[bool | None, typer.Option("--clean/--no-clean", help=_CLEAN)] = None,
    refine: Annotated[bool | None, typer.Option("--refine/--no-refine", help=_REFINE)] = None,
    synonyms: Annotated[Path | None, typer.Option(help="File with lines 'class = synonym | synonym'.")] = None,
    prompts: Annotated[str | None, typer.Option(help=_PROMPTS)] = None,
    held_out: Annotated[str | None, typer.Option(metavar="one|all", help=_HELD_OUT)] = None,
    prototypes: Annotated[Path | None, typer.Option(help="freeda: folder written by 'talk2dino freeda build'.")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=_OPTION)] = None,
    matching: Annotated[str | None, typer.Option(metavar="benchmark|image", help=_MATCHING)] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help=_SHARD)] = None,
    merge: Annotated[list[Path] | None, typer.Option(help=_MERGE)] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with options; flags take precedence.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps. [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help=_DTYPE)] = None,
    batch_size: Annotated[int | None, typer.Option(help=_BATCH_SIZE)] = None,
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help=_RAY)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")] = False,
) -> None:
    """Measure mIoU on benchmarks with the published protocol.

    Class names, palettes and ignored values are mmsegmentation's. Windows, thresholds and cleaning are as published unless
    an option changes them, and the report says so. Without --out nothing is kept.

    Example: talk2dino evaluate -b voc21,ade20k --data data --model vitb --out results
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import method_options, usage
    from talk2dino.evaluation.options import EvaluationOptions
    from talk2dino.evaluation.runs import evaluate as run
    from talk2dino.evaluation.runs import merge_runs
    from talk2dino.io.settings import build_options, read_yaml
    from talk2dino.io.shards import parse_shard

    if merge:
        return _show(merge_runs(merge, out=out, data=data, device=device), as_json)
    fields = EvaluationOptions.model_fields
    with usage():
        values = read_yaml(config) if config else {}
        values |= {
            name: value for name, value in context.params.items() if name in fields and value not in (None, [], ())
        }
        own = values.get("method_options") or {}
        if not isinstance(own, dict):
            raise typer.BadParameter("method_options must be 'name: value' lines", param_hint="--config")
        values["method_options"] = own | method_options(option, prototypes=prototypes)
        values.setdefault("benchmark", "")
        if shard is not None:
            values["shard"] = parse_shard(shard)
        options = build_options(EvaluationOptions, values)
    with ProgressBar(f"{', '.join(options.benchmark)}, {options.method}") as progress:
        if ray is not None:
            from talk2dino.scale.ray.evaluation import evaluate_on_ray

            result = evaluate_on_ray(options, address=ray, progress=progress)
        else:
            result = run(options, progress=progress)
    _show(result, as_json)


def _show(result: EvaluationResult, as_json: bool) -> None:
    """One report, or the table of several, on stdout; the files on stderr."""
    from talk2dino.cli.console import message
    from talk2dino.evaluation.report import summary_dict, summary_line, summary_markdown, terminal_table
    from talk2dino.io.console import print_json

    first, *others = result.reports
    if as_json:
        print_json(summary_dict(result.reports) if others else first.as_dict())
    elif others:
        lines = [summary_line(report) for report in result.reports]
        print("\n".join([*lines, "", summary_markdown(result.reports).rstrip()]))
    else:
        print(terminal_table(first).rstrip())
    if result.written:
        message(f"written: {', '.join(map(str, result.written))}")
