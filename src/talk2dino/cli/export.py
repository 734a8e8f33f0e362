"""``talk2dino export``: the vision model for other runtimes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, .onnx.", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", "-m", help="auto, a name of 'talk2dino models', a folder, or a hub id.")
    ] = "auto",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW", help="Fixed picture size in pixels, multiples of the patch size. [default: any size]"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as one JSON line on stdout.")] = False,
) -> None:
    """Write the vision model as ONNX: pixels to patch features, CLS-row attention and CLS.

    The batch is always free, the picture size unless --size fixes it. The file is compared with torch before it takes its
    place. The text model and psi are not in it: what comes after the vision model is the cosine of patch features and
    class embeddings (encode_text in Python), and docs/speed.md says more.
    """
    import json

    from talk2dino.engines.export import OUTPUTS, export_onnx
    from talk2dino.errors import OutputError
    from talk2dino.models.loading import load_parts

    fixed = _read_size(size)
    if out.suffix.lower() != ".onnx":
        raise typer.BadParameter(f"{str(out)!r} must end in .onnx", param_hint="--out")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; give --overwrite to replace it")
    parts = load_parts(model)
    typer.echo(f"talk2dino: exporting the vision model of {parts.config.name}; this takes a while", err=True)
    done = export_onnx(parts.vision, out, size=fixed)
    seen = ", ".join(f"{h} x {w}" for h, w in done.sizes)
    if as_json:
        line = {
            "file": str(out), "bytes": out.stat().st_size, "input": "pixels", "outputs": list(OUTPUTS), "size": fixed,
            "patch_size": parts.vision.patch_size, "compared_at": done.sizes, "relative_difference": done.difference,
        }  # fmt: skip
        print(json.dumps(line))
        return
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, input pixels (B, 3, H, W), outputs {', '.join(OUTPUTS)}; differs from "
        f"torch by at most {done.difference:.1e} of the largest value, compared at {seen}"
    )


def _read_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:\s*[xX]\s*(\d{1,5}))?", text.strip())
    if not found:
        raise typer.BadParameter(f"{text!r}: give pixels, for example 448 or 448x672", param_hint="--size")
    return int(found[1]), int(found[2] or found[1])
