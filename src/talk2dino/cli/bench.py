"""``talk2dino bench``: how fast it is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,4",
    classes: Annotated[int, typer.Option(min=1, max=1000, help="Prompts.")] = 20,
    turns: Annotated[int, typer.Option(min=1, max=100, help="Repetitions; medians are reported.")] = 5,
    only: Annotated[
        str | None,
        typer.Option(help="Of machine, pipeline, stages, refinement, text, folder, memory; separated by commas."),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Few turns, short folders, no plain refinement with 150 classes, no memory.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for bench.json and bench.png.")] = Path("out/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on stdout instead.")] = False,
) -> None:
    """Measure this machine: matrix products, the vision model, every stage, the whole, text, folders, memory.

    Nearly everything is a ratio of two times of the same run, so that figures of different machines can be compared.
    The whole takes about ten minutes on two cores, most of it for the plain formulation of the refinement.
    """
    import json
    import sys

    from talk2dino.bench.report import draw, line, record, table
    from talk2dino.bench.run import SECTIONS, BenchOptions, Figure, run_bench
    from talk2dino.device import choose_device
    from talk2dino.io.atomic import write_atomically

    sections = _items(only) if only else [s for s in SECTIONS if not (quick and s == "memory")]
    options = BenchOptions(
        model, device, _items(dtype), _items(engine), _numbers(batch), classes, min(turns, 2) if quick else turns, sections,
        folder_seconds=2.0 if quick else 10.0, plain_classes=(20,) if quick else (20, 150),
    )  # fmt: skip
    chosen = choose_device(device)
    out.mkdir(parents=True, exist_ok=True)

    def tell(figure: Figure) -> None:
        if not as_json:
            print(f"{figure.section}:{line(figure)}", file=sys.stderr, flush=True)

    print(f"talk2dino: measuring {model} on {chosen}; other work on the machine disturbs it", file=sys.stderr)
    figures = run_bench(options, tell=tell)
    content = record(figures, options, chosen)
    write_atomically(out / "bench.json", json.dumps(content, indent=2))
    facts = content["machine"]
    title = f"{model} on {facts.get('gpu') or facts['processor']}, {facts['threads']} threads, torch {facts['torch']}"
    drawn = draw(figures, title, out / "bench.png")
    if as_json:
        print(json.dumps(content))
    else:
        print(f"{title}\n{table(figures)}")
    print(f"talk2dino: {out}/bench.json{f' and {out}/bench.png' if drawn else ''}", file=sys.stderr)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(item) for item in _items(text)]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: give whole numbers, for example 1,4", param_hint="--batch") from None
