"""``talk2dino export``: the vision model for other runtimes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

_MODEL = "auto, a name from 'talk2dino models', a folder, or a hub id."
_SIZE = "Fixed image size in pixels, multiples of the patch size. [default: any size]"


def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", dir_okay=False, help="File to write, NAME.onnx.", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL)] = "auto",
    size: Annotated[str | None, typer.Option(metavar="N|HxW", help=_SIZE)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as one JSON line on stdout.")] = False,
) -> None:
    """Write the vision model as ONNX: pixels in, patch features, CLS-row attention and CLS out.

    The batch size is free, and so is the image size unless --size fixes it. The file is compared with torch before it
    replaces anything. The text model and psi are not part of it; docs/speed.md says more.

    Example: talk2dino export --model vitb --size 448 --out vitb.onnx
    """
    if out.suffix.lower() != ".onnx":
        raise typer.BadParameter(f"{str(out)!r} must end in .onnx", param_hint="--out")
    fixed = _read_size(size)

    from talk2dino.engines.export import OUTPUTS, export_onnx
    from talk2dino.errors import OutputError
    from talk2dino.models.loading import load_parts

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; give --overwrite to replace it")

    parts = load_parts(model)
    typer.echo(f"talk2dino: exporting the vision model of {parts.config.name}; this may take a minute", err=True)
    done = export_onnx(parts.vision, out, size=fixed)
    if as_json:
        from talk2dino.io.console import print_json

        print_json({
            "file": str(out), "bytes": out.stat().st_size, "input": "pixels", "outputs": OUTPUTS, "size": fixed,
            "patch_size": parts.vision.patch_size, "compared_at": done.sizes, "relative_difference": done.difference,
        })  # fmt: skip
        return
    sizes = ", ".join(f"{height} x {width}" for height, width in done.sizes)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, input pixels (B, 3, H, W), outputs {', '.join(OUTPUTS)}; largest "
        f"difference from torch {done.difference:.1e} of the largest value, at {sizes}"
    )


def _read_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:\s*[xX]\s*(\d{1,5}))?", text.strip())
    if not found:
        raise typer.BadParameter(f"{text!r}: give pixels, for example 448 or 448x672", param_hint="--size")
    return int(found[1]), int(found[2] or found[1])
