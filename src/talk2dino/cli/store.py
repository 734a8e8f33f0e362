"""``talk2dino store``: check, merge and convert feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PARTS = "The parts from 'extract --shard I/N', or the folder with them."
_FILE = "A published feature file: .pth, or a webdataset .tar of .pth files."
_NAME = "Key of a feature (heads, average, cls, patch_mean, captions) in the file; repeatable."
store = typer.Typer(no_args_is_help=True, help="Check, merge and convert feature stores.", rich_markup_mode=None)


@store.command()
def check(
    folders: Annotated[list[Path], typer.Argument(help="Feature stores.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per store on stdout.")] = False,
) -> None:
    """Compare stores with their checksums. The exit code is 1 if a store is damaged.

    Example: talk2dino store check features
    """
    from talk2dino.errors import DataError
    from talk2dino.features.manifest import Manifest, damaged_shards
    from talk2dino.io.console import print_json

    damaged: list[str] = []
    for folder in folders:
        manifest = Manifest.read(folder)
        wrong = damaged_shards(folder, manifest)
        damaged += wrong
        if as_json:
            counts = {"images": manifest.images, "captions": manifest.captions}
            print_json({"store": str(folder), **counts, "complete": manifest.complete, "damaged": wrong})
        else:
            state = "complete" if manifest.complete else "not finished"
            counted = f"{manifest.counts}, {len(manifest.shards)} shards, {state}"
            typer.echo(f"{folder}: {manifest.model.get('name')}, {counted}")
    if damaged:
        raise DataError(f"{'; '.join(damaged)}: run 'talk2dino extract' again to repair damaged shards")


@store.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help=_PARTS, show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged store.")],
) -> None:
    """Merge the parts of an extraction into one store. Files are linked where the file system allows it, else copied.

    Example: talk2dino store merge features --out merged
    """
    from talk2dino.features.writer import merge_stores

    manifest = merge_stores(parts, out)
    typer.echo(f"{out}: {manifest.counts}, {len(manifest.shards)} shards")


@store.command()
def convert(
    file: Annotated[Path, typer.Argument(help=_FILE, show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the store.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model that made the features.")],
    name: Annotated[list[str] | None, typer.Option(metavar="FEATURE=KEY", help=_NAME)] = None,
) -> None:
    """Convert features of the published extraction scripts to a store. No code in the file is run.

    Example: talk2dino store convert train.pth --model vitb --out features
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.features.conversion import convert_published

    pairs = dict(entry.partition("=")[::2] for entry in name or [])
    if any(not key or not value for key, value in pairs.items()):
        raise typer.BadParameter("expected FEATURE=KEY, for example heads=disentangled_self_attn", param_hint="--name")
    with ProgressBar("converting") as bar:
        manifest = convert_published(file, out, model=model, names=pairs, progress=bar)
    typer.echo(f"{out}: {manifest.counts}, {manifest.skipped:,} skipped")
