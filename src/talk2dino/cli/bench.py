"""``talk2dino bench``: how fast this machine is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from talk2dino.cli.usage import split_names, usage

if TYPE_CHECKING:
    from talk2dino.speed.figures import Figure, Note

_MODEL = "random-vits, random-vitb, random-vitl (published sizes, random weights), or a model that 'segment' takes."
_DTYPE = "auto, float32, bfloat16 or float16; several separated by commas."
_ENGINE = "torch, compile, openvino or onnx; several separated by commas."
_BATCH = "Images per forward pass; several separated by commas. [default: 1,4; on a GPU 1,32]"
_ONLY = "Sections: machine, pipeline, agreement, stages, refinement, text, folder, memory; separated by commas."
_TURNS = "Repetitions; medians are reported. [default: 5; with --quick 2]"
_QUICK = "Two turns and short folders; without torch.compile, refinement of 150 classes, and memory."


def bench(
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL)] = "random-vitb",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "auto",
    engine: Annotated[str, typer.Option(help=_ENGINE)] = "torch",
    batch: Annotated[str | None, typer.Option(metavar="N,...", help=_BATCH)] = None,
    classes: Annotated[int, typer.Option(min=1, max=1000, help="Number of prompts.")] = 20,
    turns: Annotated[int | None, typer.Option(min=1, max=100, help=_TURNS)] = None,
    only: Annotated[str | None, typer.Option(help=_ONLY)] = None,
    quick: Annotated[bool, typer.Option("--quick", help=_QUICK)] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder for bench.json and bench.png.")
    ] = Path("out/bench"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON on stdout instead of a table.")
    ] = False,
) -> None:
    """Measure matrix products, the vision model, every stage, the whole path, text, folders and memory on this machine.

    Nearly every figure is a ratio of two measurements of the same run, so that machines can be compared. A full run takes
    about 15 minutes on two cores. Exit code 1: a section failed.

    Example: talk2dino bench --quick --only machine,pipeline --dtype float32,bfloat16
    """
    import sys

    from talk2dino.io.settings import build_options
    from talk2dino.speed.plan import QUICK, BenchOptions, make_plan

    given = {
        "model": model, "device": device, "dtypes": _items(dtype, "--dtype"), "engines": _items(engine, "--engine"),
        "batches": None if batch is None else _counts(batch, "--batch"), "classes": classes, "turns": turns,
        "sections": None if only is None else _items(only, "--only"),
    }  # fmt: skip
    with usage():
        values = (QUICK if quick else {}) | {name: value for name, value in given.items() if value is not None}
        options = build_options(BenchOptions, values)
        make_plan(options)

    from talk2dino.speed.suite import run_bench
    from talk2dino.speed.tables import draw, line

    def show(found: Figure | Note) -> None:
        if not as_json:
            print(f"{found.section}:{line(found)}", file=sys.stderr, flush=True)

    print(f"talk2dino: measuring {model}; other work on this machine disturbs the figures", file=sys.stderr)
    results = run_bench(options, out=out, on_result=show)
    written = [out / "bench.json"] + ([out / "bench.png"] if draw(results, out / "bench.png") else [])
    if as_json:
        from talk2dino.io.console import print_json

        print_json(results.record())
    else:
        print(f"{results.title}\n{results.table()}")
    print(f"talk2dino: {' and '.join(map(str, written))}", file=sys.stderr)
    raise typer.Exit(1 if results.failed else 0)


def _items(text: str, option: str) -> list[str]:
    items = split_names(text)
    if not items:
        raise typer.BadParameter(f"{text!r} names nothing; give at least one", param_hint=option)
    return items


def _counts(text: str, option: str) -> list[int]:
    items = _items(text, option)
    if not all(item.isdecimal() and int(item) for item in items):
        raise typer.BadParameter(f"{text!r}: give whole numbers of at least 1, for example 1,4", param_hint=option)
    return [int(item) for item in items]
