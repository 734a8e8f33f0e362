"""``talk2dino extract``: images with captions to a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SOURCES = (
    "COCO captions .json (or the COCO folder), a folder with metadata.jsonl, metadata.csv or one .txt per image, webdataset "
    ".tar or .parquet files, or folders of them."
)
_MODEL = "Encoders: a name from 'talk2dino models', a folder or a hub id."
_IMAGES = "Folder of the images of a .json. [default: beside the file]"
_FEATURES = "Image features to store, separated by commas: heads, average, cls, patch_mean."
_SIZE = "Side of the input in pixels. [default: the model's, 448 for vitb]"
_CROP = "center: resize the short side, crop the centre (published). squash: resize both sides."
_SHARD = "Make part I of N, counted from 1, in OUT/part-I-of-N."
_MAX_SKIPPED = "Share of unusable records (0..1) above which the run stops."


def extract(
    context: typer.Context,
    sources: Annotated[list[Path], typer.Argument(help=_SOURCES, show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the store. An interrupted run is resumed.")],
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL)] = "auto",
    images: Annotated[Path | None, typer.Option(help=_IMAGES)] = None,
    split: Annotated[str, typer.Option(help="Split of the data set: train, val or test.")] = "train",
    features: Annotated[str, typer.Option(help=_FEATURES)] = "heads",
    size: Annotated[int | None, typer.Option(min=1, help=_SIZE)] = None,
    crop: Annotated[str, typer.Option(help=_CROP)] = "center",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    records_per_shard: Annotated[int, typer.Option(min=1, help="Records per shard file; memory grows with it.")] = 2048,
    shard: Annotated[str, typer.Option(metavar="I/N", help=_SHARD)] = "1/1",
    max_skipped: Annotated[float, typer.Option(min=0, max=1, help=_MAX_SKIPPED)] = 0.05,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only this many records. [default: all]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the vision model: auto, float32, bfloat16 or float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Extract features of images and captions into a store, to train a projection with 'talk2dino train'.

    An interrupted run is resumed by the same command. Unusable records are listed in OUT/skipped.jsonl.

    Example: talk2dino extract data/coco2014 --model vitb --out features
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import split_names, usage
    from talk2dino.features.extraction import extract as run
    from talk2dino.features.options import ExtractOptions
    from talk2dino.io.console import print_json
    from talk2dino.io.settings import build_options
    from talk2dino.io.shards import parse_shard

    with usage("--shard"):
        part = parse_shard(shard)
    with usage():
        read = {"shard": part, "features": split_names(features)}
        given = {name: value for name, value in context.params.items() if name in ExtractOptions.model_fields}
        options = build_options(ExtractOptions, given | read)
    with ProgressBar(f"extracting ({model})", "record") as bar:
        manifest = run(options, progress=bar)
    size_in_bytes = sum(entry.bytes for entry in manifest.shards)
    if as_json:
        counts = {"images": manifest.images, "captions": manifest.captions, "skipped": manifest.skipped}
        print_json({"store": str(options.folder), **counts, "shards": len(manifest.shards), "bytes": size_in_bytes})
    else:
        counted = f"{manifest.counts}, {manifest.skipped:,} records skipped, {len(manifest.shards)} shards"
        typer.echo(f"{options.folder}: {counted}, {size_in_bytes / 1e6:,.1f} MB")
