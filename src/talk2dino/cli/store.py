"""``talk2dino store``: look after feature stores: check, merge, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

store = typer.Typer(no_args_is_help=True, help="Look after feature stores.", rich_markup_mode=None)


@store.command()
def check(
    folders: Annotated[list[Path], typer.Argument(help="Stores.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a store.")] = False,
) -> None:
    """Compare stores with their checksums; exit code 1 when one is damaged."""
    import json

    from talk2dino.errors import DataError
    from talk2dino.features.manifest import Manifest, check_lines, check_shard

    damaged: list[str] = []
    for folder in folders:
        manifest = Manifest.read(folder)
        checks = (check_shard(folder, shard, contents=True) or check_lines(folder, shard) for shard in manifest.shards)
        wrong = [line for line in checks if line]
        damaged += wrong
        if as_json:
            told = {"store": str(folder), "images": manifest.images, "captions": manifest.captions}
            typer.echo(json.dumps({**told, "complete": manifest.complete, "damaged": wrong}))
        else:
            typer.echo(
                f"{folder}: {manifest.model.get('name')}, {manifest.images:,} pictures, {manifest.captions:,} captions, "
                f"{len(manifest.shards)} shards, {'complete' if manifest.complete else 'not finished'}"
            )
    if damaged:
        raise DataError(f"{'; '.join(damaged)}; running 'talk2dino extract' again makes damaged shards anew")


@store.command()
def merge(
    parts: Annotated[
        list[Path], typer.Argument(help="The parts of 'extract --shard I/N', or their folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the whole store.")],
) -> None:
    """Make one store of the parts of an extraction; files are linked, not copied, where that is possible."""
    from talk2dino.features.writer import merge_stores

    folders = sorted(parts[0].glob("part-*-of-*")) if len(parts) == 1 else parts
    manifest = merge_stores(folders or parts, out)
    typer.echo(f"{out}: {manifest.images:,} pictures, {manifest.captions:,} captions, {len(manifest.shards)} shards")


@store.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A published feature file (.pth).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the store.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Which model made the features.")],
    name: Annotated[
        list[str] | None, typer.Option(help="feature=KEY where the file uses other keys; repeatable.")
    ] = None,
) -> None:
    """Make a store of the published code's features ('images' and 'annotations')."""
    from talk2dino.features.conversion import convert_published

    pairs = dict(entry.partition("=")[::2] for entry in name or [])
    if any(not key or not value for key, value in pairs.items()):
        raise typer.BadParameter("give feature=KEY, for example heads=disentangled_self_attn", param_hint="--name")
    manifest = convert_published(
        file, out, model=model, names=pairs, tell=lambda note: typer.echo(f"talk2dino: {file}: {note}", err=True)
    )
    typer.echo(f"{out}: {manifest.images:,} pictures, {manifest.captions:,} captions, {manifest.skipped} skipped")
