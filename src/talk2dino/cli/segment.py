"""``talk2dino segment``: pictures and words in, overlays and masks out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SAVES = ("overlay", "palette", "json", "npz")


def segment(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders or quoted globs.", show_default=False)],
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            "-p",
            help='What to look for: "sky, grass, car=red car|automobile"; commas separate classes, = and | give synonyms.',
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(help="Prompts from a file: one class a line, or .json / .yaml with a list or class -> synonyms."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="auto, a name of 'talk2dino models', a folder, or a hub id.")
    ] = "auto",
    projection: Annotated[
        Path | None,
        typer.Option(
            help="A psi of your own: projection.safetensors, a published .pth, or a folder of 'talk2dino train'."
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            "-b",
            metavar="T|default",
            help="Pixels that no class reaches become background: a threshold, or 'default' for the model's.",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Threshold of one class, NAME=T; can be given several times; implies a background."),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Prompts whose pixels become background.")] = None,
    clean: Annotated[
        bool | None, typer.Option("--clean/--no-clean", help="Background cleaning; on with a background unless told.")
    ] = None,
    refine: Annotated[bool, typer.Option("--refine/--no-refine", help="Sharpen the masks (PAMR).")] = False,
    mode: Annotated[
        str, typer.Option(help="whole (keeps the aspect ratio), slide (published protocol) or square.")
    ] = "whole",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    save: Annotated[
        str, typer.Option(help=f"What to write: {', '.join(SAVES)}, separated by commas.")
    ] = "overlay,palette",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="What runs the vision model: torch, compile, openvino or onnx.")
    ] = "torch",
    batch_size: Annotated[
        int, typer.Option(min=1, max=256, help="Pictures of one size that go through the model together.")
    ] = 4,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Batches that are read, segmented and written side by side. [default: by cores]"
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="talk2dino, or to compare: clip-dense, dino-clusters, freeda.")
    ] = "talk2dino",
    prototypes: Annotated[Path | None, typer.Option(help="freeda: folder that 'talk2dino freeda build' made.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Option of the method, name=value; repeatable.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
    allow_truncated: Annotated[
        bool, typer.Option(help="Read what is there of damaged pictures instead of refusing them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Do pictures again whose results exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line a picture on stdout.")] = False,
) -> None:
    """Segment pictures with words.

    Finished pictures are skipped when the command runs again with the same settings. Exit code 3: some pictures failed.
    """
    from talk2dino.cli.evaluate import parse_method_options
    from talk2dino.cli.run_segment import SegmentRun
    from talk2dino.methods import check_method

    check_method(method)
    of_method = parse_method_options(option or []) | ({"prototypes": prototypes} if prototypes else {})
    if negative and method != "talk2dino":
        raise typer.BadParameter(f"{method} has no negative prompts", param_hint="--negative")
    if (prompts is None) == (prompt_file is None):
        raise typer.BadParameter(
            'give the classes with --prompts "sky, grass" or with --prompt-file FILE (one of the two)'
        )
    if mode not in ("whole", "slide", "square"):
        raise typer.BadParameter(f"{mode!r} is not a mode; accepted: whole, slide, square", param_hint="--mode")
    kinds = [kind.strip() for kind in save.split(",") if kind.strip()]
    if not kinds or any(kind not in SAVES for kind in kinds):
        raise typer.BadParameter(f"{save!r}; accepted, separated by commas: {', '.join(SAVES)}", param_hint="--save")

    settings: dict[str, Any] = {
        "model": model, "projection": projection, "background": _threshold(background), "thresholds": _thresholds(threshold or []),
        "clean": clean, "refine": refine, "mode": mode, "dtype": dtype, "device": device, "engine": engine,
        "method": method, "method_options": of_method,
    }  # fmt: skip
    run = SegmentRun(settings, out, kinds, batch_size, allow_truncated, overwrite, as_json, workers)
    raise typer.Exit(run(pictures, recursive, prompts, prompt_file, negative))


def _threshold(text: str | None) -> float | bool | None:
    if text is None:
        return None
    if text == "default":
        return True
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a number; give a threshold such as 0.55, or 'default'", param_hint="--background"
        ) from None


def _thresholds(given: list[str]) -> dict[str, float]:
    result = {}
    for item in given:
        name, sign, value = item.rpartition("=")
        try:
            result[name.strip()] = float(value) if sign else float("x")
        except ValueError:
            raise typer.BadParameter(f"{item!r} is not of the form NAME=NUMBER", param_hint="--threshold") from None
    return result


def fill_background(arguments: list[str]) -> list[str]:
    """``--background`` may stand alone: put in "default" where no threshold follows."""
    filled = []
    for i, argument in enumerate(arguments):
        filled.append(argument)
        if argument in ("--background", "-b"):
            following = arguments[i + 1] if i + 1 < len(arguments) else "-"
            is_option = following.startswith("-") and not following[1:].replace(".", "", 1).isdigit()
            if is_option or Path(following).exists():
                filled.append("default")
    return filled
