"""``talk2dino extract``: pictures with captions in, a feature store out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from talk2dino.captions.source import CaptionSource
    from talk2dino.features.manifest import Manifest

_SOURCES = (
    "COCO captions .json (or COCO's folder), a folder with metadata.jsonl / metadata.csv or a .txt a picture, "
    "webdataset .tar or .parquet files, or folders of them."
)


def extract(
    sources: Annotated[list[Path], typer.Argument(help=_SOURCES, show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the store; a run that was stopped goes on there.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Whose encoders: a name of 'talk2dino models', a folder, or a hub id.")
    ] = "auto",
    images: Annotated[Path | None, typer.Option(help="Folder of pictures of a .json, if not beside it.")] = None,
    split: Annotated[str, typer.Option(help="Which part of a COCO folder: train or val.")] = "train",
    features: Annotated[
        str, typer.Option(help="What to store of a picture: heads, average, cls, patch_mean; commas between.")
    ] = "heads",
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels; the model's by default (448).")] = None,
    crop: Annotated[str, typer.Option(help="center: short side to the size, middle (published); squash.")] = "center",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that go through the model together.")] = 16,
    records_per_shard: Annotated[int, typer.Option(min=1, help="Records a shard; memory grows with it.")] = 2048,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Make every N-th shard from the I-th on, in OUT/part-I-of-N.")
    ] = "0/1",
    max_skipped: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unusable records above which it stops.")
    ] = 0.05,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode pictures.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16, of the vision model.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Extract features of pictures and captions into a store, from which 'talk2dino train' trains a projection.

    What is complete is never done twice, whatever stopped the run. Unreadable records are listed in skipped.jsonl.
    """
    import json

    part, chosen = _part(shard), _features(features)
    if crop not in ("center", "squash"):
        raise typer.BadParameter(f"{crop!r} is neither center nor squash", param_hint="--crop")
    _refuse_own_folder(out, [*sources, *([images] if images else [])])
    settings: dict[str, Any] = {
        "features": chosen,
        "crop": crop,
        "batch_size": batch_size,
        "records_per_shard": records_per_shard,
        "part": part,
        "max_skipped": max_skipped,
        "workers": workers,
        **({"size": size} if size else {}),
    }
    folder = out if part == (0, 1) else out / f"part-{part[0]:03d}-of-{part[1]:03d}"
    manifest = _run(_source(sources, images, split, limit), folder, model, device, dtype, settings)
    result: dict[str, Any] = {
        "store": str(folder),
        "images": manifest.images,
        "captions": manifest.captions,
        "skipped": manifest.skipped,
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"{folder}: {manifest.images:,} pictures, {manifest.captions:,} captions, {manifest.skipped:,} records skipped, "
        f"{len(manifest.shards)} shards, {result['bytes'] / 1e6:,.1f} MB"
    )


def _source(sources: list[Path], images: Path | None, split: str, limit: int | None) -> CaptionSource:
    from talk2dino.captions import open_sources

    return open_sources(sources, images=images, split=split, limit=limit)


def _run(
    source: CaptionSource, folder: Path, model: str, device: str, dtype: str, settings: dict[str, Any]
) -> Manifest:
    from talk2dino.cli.progress import progress
    from talk2dino.features.encoders import load_encoders
    from talk2dino.features.extraction import ExtractOptions
    from talk2dino.features.extraction import extract as run_extract

    encoders = load_encoders(model, device=device, dtype=dtype)
    options = ExtractOptions(**{"size": encoders.size, **settings})
    with progress(len(source) // options.part[1], f"extract ({encoders.identity['name']})", "record") as bar:

        def watch(state: dict[str, Any]) -> None:
            bar.reached(state["done"], state["total"], state["before"])

        def tell(note: str) -> None:
            bar.message(f"talk2dino: {note}")

        return run_extract(source, encoders, folder, options, watch=watch, tell=tell)


def _refuse_own_folder(out: Path, sources: list[Path]) -> None:
    from talk2dino.errors import DataError

    for place in sources:
        if out.resolve() == (place if place.is_dir() else place.parent).resolve():
            raise DataError(f"{out} is the source's own folder, which is left as it is: give another one with --out")


def _part(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise typer.BadParameter(f"{text!r} is not of the form I/N with 0 <= I < N", param_hint="--shard")
    return int(first), int(second)


def _features(text: str) -> tuple[str, ...]:
    from talk2dino.stages.heads import STRATEGIES

    known = dict.fromkeys(STRATEGIES.values())
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or set(names) - set(known):
        raise typer.BadParameter(f"{text!r}: any of {', '.join(known)}, with commas between", param_hint="--features")
    return names
