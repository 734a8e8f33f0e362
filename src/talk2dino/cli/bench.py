"""``talk2dino bench``: how fast it is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from talk2dino.speed.figures import BenchOptions, Note, Results


def bench(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="random-vits, random-vitb or random-vitl (published sizes, random weights), or a model that "
            "'segment' takes.",
        ),
    ] = "random-vitb",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16; several separated by commas.")] = "auto",
    engine: Annotated[str, typer.Option(help="torch, compile, openvino, onnx; several separated by commas.")] = "torch",
    batch: Annotated[
        str | None, typer.Option(help="Batch sizes, separated by commas. [default: 1,4; on a GPU 1,32]")
    ] = None,
    classes: Annotated[int, typer.Option(min=1, max=1000, help="Prompts.")] = 20,
    turns: Annotated[int, typer.Option(min=1, max=100, help="Repetitions; medians are reported.")] = 5,
    only: Annotated[
        str | None,
        typer.Option(
            help="Of machine, pipeline, agreement, stages, refinement, text, folder, memory; separated by commas."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            help="Few turns, short folders, no torch.compile, no plain refinement with 150 classes, no memory."
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for bench.json and bench.png.")] = Path("out/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on stdout instead.")] = False,
) -> None:
    """Measure this machine: matrix products, the vision model, every stage, the whole, text, folders, memory.

    Nearly everything is a ratio of two times of the same run, so that figures of different machines can be compared.
    The whole takes about a quarter of an hour on two cores. bench.json is written after every section. Exit code 1: a
    section could not be measured to the end.
    """
    from talk2dino.device import choose_device
    from talk2dino.engines import ENGINES
    from talk2dino.errors import InputError
    from talk2dino.speed.figures import SECTIONS, BenchOptions, make_plan

    sections = _items(only, "--only") if only is not None else [s for s in SECTIONS if not (quick and s == "memory")]
    batches = None if batch is None else _numbers(batch)
    try:
        options = BenchOptions(
            model, device, _items(dtype, "--dtype"), _items(engine, "--engine"), batches, classes,
            min(turns, 2) if quick else turns, sections,
            compared_engines=[e for e in ENGINES if not (quick and e == "compile")],
            folder_seconds=2.0 if quick else 10.0, plain_classes=(20,) if quick else (20, 150),
        )  # fmt: skip
        make_plan(options, choose_device(device))
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    _check_model(model)
    _make_folder(out)
    raise typer.Exit(_measure(options, out, as_json))


def _measure(options: BenchOptions, out: Path, as_json: bool) -> int:
    """Measure, tell, write; the exit code."""
    import json
    import sys

    from talk2dino.device import choose_device
    from talk2dino.io.atomic import write_atomically
    from talk2dino.speed.figures import Figure
    from talk2dino.speed.suite import run_bench
    from talk2dino.speed.tables import draw, line, note_line, record, table, title_of

    device = choose_device(options.device)

    def tell(found: Figure | Note) -> None:
        if not as_json:
            text = line(found) if isinstance(found, Figure) else note_line(found)
            print(f"{found.section}:{text}", file=sys.stderr, flush=True)

    def keep(results: Results) -> None:
        write_atomically(out / "bench.json", json.dumps(record(results, options, device), indent=2))

    print(f"talk2dino: measuring {options.model} on {device}; other work on the machine disturbs it", file=sys.stderr)
    results = run_bench(options, tell=tell, keep=keep)
    content = record(results, options, device)
    drawn = draw(results.figures, title_of(content), out / "bench.png")
    if as_json:
        print(json.dumps(content))
    else:
        print(f"{title_of(content)}\n{table(results)}")
    print(f"talk2dino: {out}/bench.json{f' and {out}/bench.png' if drawn else ''}", file=sys.stderr)
    return 1 if results.failed else 0


def _check_model(model: str) -> None:
    """Say now, not after minutes, that there is no such model."""
    from talk2dino.models.loading import load_parts
    from talk2dino.speed.parts import RANDOM_MODELS

    if model not in RANDOM_MODELS:
        load_parts(model)


def _make_folder(out: Path) -> None:
    from talk2dino.errors import OutputError

    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file; give a folder", param_hint="--out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder {out} cannot be made ({error.strerror}); choose another with --out"
        ) from None


def _items(text: str, option: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise typer.BadParameter(f"{text!r} names nothing; give at least one", param_hint=option)
    return items


def _numbers(text: str) -> list[int]:
    try:
        return [int(item) for item in _items(text, "--batch")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: give whole numbers, for example 1,4", param_hint="--batch") from None
