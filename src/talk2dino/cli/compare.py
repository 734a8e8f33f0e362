"""``talk2dino compare``: several systems side by side, on images or on a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_BENCHMARK = "Compare on a benchmark, such as world, instead of on images."
_METHODS = (
    "Systems, separated by commas; METHOD:NAME=VALUE sets an option for one of them, as in clip-dense:variant=residual. "
    "[default: all methods]"
)
_MODE = "slide, whole or square. [default: images whole, a benchmark as published]"
_PROTOTYPES = "freeda: folder written by 'talk2dino freeda build'. micro and world build their own, once."
_OPTION = "Option of all systems of a method, such as freeda.background=0.4; repeatable."
_BACKGROUND = "Images: background threshold of the first system, -1 to 1 (0 to 1 for published models)."
_SYNONYMS = "Benchmark: file with lines 'class = synonym | synonym'."
_CLEAN = "Images: background cleaning, where a system has it."
_DTYPE = "float32, bfloat16, float16, or auto (bfloat16 where the hardware has it)."
_HELD_OUT = "world: one object per scene, or all, in colours that training never showed."


def compare(
    context: typer.Context,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Images.", show_default=False)] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", "-p", help='Images: classes, "sky, grass, car".')] = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", "-b", help=_BENCHMARK)] = None,
    data: Annotated[Path | None, typer.Option(help="Benchmark: mmsegmentation's data folder.")] = None,
    systems: Annotated[str | None, typer.Option("--methods", help=_METHODS)] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model that all systems share.")] = "auto",
    projection: Annotated[Path | None, typer.Option(help="Your own psi, as in 'talk2dino segment'.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text tower, as in 'talk2dino segment'.")] = None,
    translate: Annotated[str | None, typer.Option(help="Translation, as in 'talk2dino segment'.")] = None,
    mode: Annotated[str | None, typer.Option(help=_MODE)] = None,
    synonyms: Annotated[Path | None, typer.Option(help=_SYNONYMS)] = None,
    prototypes: Annotated[Path | None, typer.Option(help=_PROTOTYPES)] = None,
    prototype_scenes: Annotated[int, typer.Option(help="Drawn scenes from which prototypes are built.")] = 2000,
    option: Annotated[list[str] | None, typer.Option(metavar="METHOD.NAME=VALUE", help=_OPTION)] = None,
    background: Annotated[float | None, typer.Option(help=_BACKGROUND)] = None,
    clean: Annotated[bool | None, typer.Option("--clean/--no-clean", help=_CLEAN)] = None,
    refine: Annotated[bool, typer.Option("--refine/--no-refine", help="Images: refine the masks with PAMR.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Benchmark: no rows with cleaning or refinement.")] = False,
    held_out: Annotated[str | None, typer.Option(metavar="one|all", help=_HELD_OUT)] = None,
    limit: Annotated[int | None, typer.Option(help="Benchmark: only the first N images.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images, tables and reports.")] = Path("compare"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Benchmark: print the table as JSON on stdout.")] = False,
) -> None:
    """Compare talk2dino with other systems on the same model.

    Images: writes out/NAME.png with the overlay of each system. Benchmark: prints a table and writes it with all
    configurations.

    Example: talk2dino compare photo.jpg --prompts "sky, grass, car" --out compare
    """
    from talk2dino.cli.console import message
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import usage
    from talk2dino.evaluation.compare import compare_benchmark, compare_images
    from talk2dino.evaluation.options import CompareOptions
    from talk2dino.io.console import print_json
    from talk2dino.io.settings import build_options
    from talk2dino.words.prompts import parse_prompts

    fields = CompareOptions.model_fields
    values = {name: value for name, value in context.params.items() if name in fields and value is not None}
    with usage():
        options = build_options(CompareOptions, {**values, "method_options": _method_options(option)})
        if prompts is not None:
            parse_prompts(prompts)
    if options.benchmark is None:
        with ProgressBar("preparing", "item") as progress:
            print("\n".join(map(str, compare_images(options, progress=progress))))
        return
    with ProgressBar(options.benchmark) as progress:
        result = compare_benchmark(options, progress=progress)
    if as_json:
        print_json(result.table())
    else:
        print(result.markdown().rstrip())
    message(f"written: {', '.join(map(str, result.written))}")


def _method_options(given: list[str] | None) -> dict[str, dict[str, object]]:
    """["clip-dense.variant=patches"] to {"clip-dense": {"variant": "patches"}}."""
    from talk2dino.cli.usage import method_options

    found: dict[str, dict[str, object]] = {}
    for item in given or ():
        method, dot, rest = item.partition(".")
        if not dot:
            raise typer.BadParameter(f"{item!r} is not METHOD.NAME=VALUE", param_hint="--option")
        found.setdefault(method, {}).update(method_options([rest]))
    return found
