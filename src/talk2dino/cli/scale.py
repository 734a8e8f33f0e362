"""``talk2dino scale``: jobs larger than one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talk2dino.cli.segment import (
    _BACKGROUND,
    _CLEAN,
    _ENGINE,
    _METHOD,
    _MODE,
    _MODEL,
    _PROJECTION,
    _PROMPT_FILE,
    _PROMPTS,
    _THRESHOLD,
    OptionalBackground,
)

_SOURCE = (
    "Folder, .tar, .parquet, COCO .json, or .txt with one path per line; a path or a URI such as s3://bucket/photos."
)
_OUT = "Place of the plan and its results: a folder, or a URI such as s3://bucket/run."
_PLACE = "Place of the plan."
_SHARD_SIZE = "Images per shard: what is lost when a worker dies, and at least a few minutes of work."
_WORKER = "Take part I of N, counted from 1."
_MAX_FAILED = "Share of failed images (0..1) of a shard above which the run stops."
_RAY = "auto (the cluster of this machine), local (start one here), or the address of a head node."
_STORE = "extract: folder of the merged store."

scale = typer.Typer(no_args_is_help=True, help="Segment and extract with many machines.", rich_markup_mode=None)
plan = typer.Typer(
    no_args_is_help=True, help="List the source into shards, with the settings of the job.", rich_markup_mode=None
)
scale.add_typer(plan, name="plan", short_help="List the source into shards, with the settings of the job.")

_Place = Annotated[str, typer.Argument(help=_PLACE, metavar="URI", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@plan.command("segment", cls=OptionalBackground)
def plan_segment(
    source: Annotated[str, typer.Argument(help=_SOURCE, show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", help=_OUT)],
    prompts: Annotated[str | None, typer.Option("--prompts", "-p", help=_PROMPTS)] = None,
    prompt_file: Annotated[Path | None, typer.Option(help=_PROMPT_FILE)] = None,
    vocabulary: Annotated[list[Path] | None, typer.Option(help="File of 'talk2dino vocabulary'; repeatable.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help=_SHARD_SIZE)] = 2048,
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL)] = "auto",
    projection: Annotated[Path | None, typer.Option(help=_PROJECTION)] = None,
    background: Annotated[str | None, typer.Option("--background", "-b", metavar="[NUMBER]", help=_BACKGROUND)] = None,
    threshold: Annotated[list[str] | None, typer.Option(metavar="NAME=NUMBER", help=_THRESHOLD)] = None,
    negative: Annotated[str | None, typer.Option(help="Classes whose pixels become background.")] = None,
    clean: Annotated[bool | None, typer.Option("--clean/--no-clean", help=_CLEAN)] = None,
    refine: Annotated[bool, typer.Option("--refine/--no-refine", help="Sharpen the masks with PAMR.")] = False,
    mode: Annotated[str, typer.Option(help=_MODE)] = "whole",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, typer.Option(help=_ENGINE)] = "torch",
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Images per forward pass.")] = 4,
    method: Annotated[str, typer.Option(help=_METHOD)] = "talk2dino",
    prototypes: Annotated[Path | None, typer.Option(help="freeda: folder written by 'talk2dino freeda build'.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the method; repeatable.")
    ] = None,
    allow_truncated: Annotated[bool, typer.Option(help="Read what is left of damaged images.")] = False,
) -> None:
    """Plan to segment every image of a source, with its subfolders.

    Planning again with the same settings changes nothing; other settings are refused.

    Example: talk2dino scale plan segment photos/ --out run --prompts "sky, grass" --model vitb
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.segment import read_threshold, read_thresholds
    from talk2dino.cli.usage import method_options, one_of_two, usage
    from talk2dino.folder import FolderOptions
    from talk2dino.io.settings import build_options
    from talk2dino.scale.places import Place
    from talk2dino.scale.segment_job import plan_segment as run
    from talk2dino.words.prompts import parse_prompts, read_prompt_file

    if not vocabulary:
        one_of_two(
            prompts, prompt_file, 'give the classes either with --prompts "sky, grass" or with --prompt-file FILE'
        )
    with usage():
        asked = parse_prompts(prompts) if prompts else read_prompt_file(prompt_file) if prompt_file else None
        options = build_options(
            FolderOptions,
            {
                "images": (source,), "prompts": asked, "vocabulary": tuple(vocabulary or ()),
                "negative": None if negative is None else parse_prompts(negative), "model": model, "projection": projection,
                "background": read_threshold(background), "thresholds": read_thresholds(threshold or []), "clean": clean,
                "refine": refine, "mode": mode, "dtype": dtype, "engine": engine, "batch_size": batch_size, "method": method,
                "method_options": method_options(option, prototypes=prototypes), "allow_truncated": allow_truncated,
            },
        )  # fmt: skip
    with ProgressBar("listing") as progress:
        made = run(Place(out), source, options, shard_size=shard_size, progress=progress)
    typer.echo(f"{out}: {made.images:,} images in {len(made.shards):,} shards; next: talk2dino scale work {out}")


@plan.command("extract")
def plan_extract(
    sources: Annotated[
        list[Path], typer.Argument(help="Captioned images, as for 'talk2dino extract'.", show_default=False)
    ],
    out: Annotated[str, typer.Option("--out", "-o", help=_OUT)],
    shard_size: Annotated[
        int, typer.Option(min=1, help="Records per shard, which become one file of the store.")
    ] = 2048,
    model: Annotated[str, typer.Option("--model", "-m", help="Encoders: a name, a folder or a hub id.")] = "auto",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images of a .json. [default: beside the file]")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data set: train, val or test.")] = "train",
    features: Annotated[str, typer.Option(help="heads, average, cls, patch_mean, separated by commas.")] = "heads",
    size: Annotated[int | None, typer.Option(min=1, help="Side of the input in pixels. [default: the model's]")] = None,
    crop: Annotated[str, typer.Option(help="center or squash.")] = "center",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    max_skipped: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unusable records that stops the run.")
    ] = 0.05,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only this many records. [default: all]")] = None,
    dtype: Annotated[str, typer.Option(help="Of the vision model: auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Plan to extract features of images and captions. Every worker must reach the sources under the same path.

    Example: talk2dino scale plan extract data/coco2014 --out run --model vitb
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import split_names, usage
    from talk2dino.features.options import ExtractOptions
    from talk2dino.io.settings import build_options
    from talk2dino.scale.extract_job import plan_extract as run
    from talk2dino.scale.places import Place

    with usage():
        options = build_options(
            ExtractOptions,
            {
                "out": Path("out"), "sources": sources, "images": images, "split": split, "limit": limit, "model": model,
                "features": split_names(features), "size": size, "crop": crop, "batch_size": batch_size,
                "records_per_shard": shard_size, "max_skipped": max_skipped, "dtype": dtype,
            },
        )  # fmt: skip
    with ProgressBar("listing") as progress:
        made = run(Place(out), options, progress=progress)
    typer.echo(f"{out}: {made.images:,} records in {len(made.shards):,} shards; next: talk2dino scale work {out}")


@scale.command()
def work(
    place: _Place,
    worker: Annotated[str, typer.Option(metavar="I/N", help=_WORKER)] = "1/1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Batches at once. [default: by the cores]")] = None,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help=_MAX_FAILED)] = 0.5,
) -> None:
    """Make the shards that are left. Any number of these commands may run at once, on any machine that reaches the place.

    The same command resumes an interrupted run. Exit code 3: some images failed.

    Example: talk2dino scale work run --worker 3/16
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import usage
    from talk2dino.io.shards import parse_shard
    from talk2dino.scale.places import Place
    from talk2dino.scale.work import work as run

    with usage("--worker"):
        part = parse_shard(worker)
    with ProgressBar("working") as progress:
        done = run(Place(place), worker=part, device=device, workers=workers, max_failed=max_failed, progress=progress)
    raise typer.Exit(_report(done, place))


@scale.command()
def run(
    place: _Place,
    ray: Annotated[str, typer.Option("--ray", help=_RAY)] = "auto",
    max_failed: Annotated[float, typer.Option(min=0, max=1, help=_MAX_FAILED)] = 0.5,
) -> None:
    """Make the shards that are left on a Ray cluster. The place and the source must be reachable from every node.

    Example: talk2dino scale run s3://bucket/run --ray auto
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.scale.ray.run import run_on_ray

    with ProgressBar("working") as progress:
        done = run_on_ray(place, address=ray, max_failed=max_failed, progress=progress)
    raise typer.Exit(_report(done, place))


def _report(done, place: str) -> int:  # type: ignore[no-untyped-def]
    """Say what a worker did; its exit code."""
    from talk2dino.cli.console import message

    failed = f", {done.failures:,} failed" if done.failures else ""
    before = f" ({done.skipped:,} were finished already)" if done.skipped else ""
    message(f"talk2dino: {done.shards:,} shards with {done.rows:,} images done{failed}{before}; results in {place}")
    for reason, count in done.reasons.most_common(3):
        message(f"  {count:,} x {reason}")
    return done.exit_code


@scale.command()
def status(place: _Place, as_json: _Json = False) -> None:
    """Say how far a plan is: shards and images done, failures, speed and time left.

    Example: talk2dino scale status run
    """
    from talk2dino.io.console import print_json
    from talk2dino.scale.places import Place
    from talk2dino.scale.reports import describe_status, read_status

    found = read_status(Place(place))
    print_json(found.as_dict()) if as_json else typer.echo(describe_status(found))


@scale.command()
def verify(place: _Place) -> None:
    """Read every result and compare checksums. Damaged shards lose their receipt, so that 'work' makes them again.

    Example: talk2dino scale verify run
    """
    from talk2dino.errors import DataError
    from talk2dino.scale.places import Place
    from talk2dino.scale.plan import read_plan
    from talk2dino.scale.receipts import forget, read_standing
    from talk2dino.scale.receipts import verify as check

    at = Place(place)
    made = read_plan(at)
    standing = read_standing(at, made)
    wrong = check(at, made, standing)
    if wrong:
        forget(at, wrong)
        raise DataError(
            f"{'; '.join(list(wrong.values())[:5])}. {len(wrong)} shards will be made again by 'talk2dino scale work {place}'"
        )
    typer.echo(f"{place}: {len(standing.receipts):,} of {len(made.shards):,} shards, all as their receipts say")


@scale.command()
def merge(
    place: _Place,
    coco: Annotated[Path | None, typer.Option(help="segment: COCO file to write.")] = None,
    store: Annotated[Path | None, typer.Option(help=_STORE)] = None,
) -> None:
    """Join the results of all shards: of segment into one COCO file, of extract into one store.

    Example: talk2dino scale merge run --coco all.json
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import one_of_two
    from talk2dino.scale.extract_job import merge_extracted
    from talk2dino.scale.places import Place
    from talk2dino.scale.reports import merge_coco

    one_of_two(coco, store, "name either --coco FILE (a plan of segment) or --store FOLDER (a plan of extract)")
    if store is not None:
        manifest = merge_extracted(Place(place), store)
        typer.echo(f"{store}: {manifest.counts}, {len(manifest.shards)} shards")
    elif coco is not None:
        with ProgressBar("merging") as progress:
            images = merge_coco(Place(place), coco, progress=progress)
        typer.echo(f"{coco}: {images:,} images")


@scale.command()
def summary(place: _Place, as_json: _Json = False) -> None:
    """Count images and area of each class, and failures by reason, in the finished shards.

    Example: talk2dino scale summary run
    """
    from talk2dino.io.console import print_json
    from talk2dino.scale.places import Place
    from talk2dino.scale.reports import describe_summary, summarise

    found = summarise(Place(place))
    print_json(found) if as_json else typer.echo(describe_summary(found))
