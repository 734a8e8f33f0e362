"""``talk2dino freeda build``: the prototypes of the method freeda."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

freeda = typer.Typer(help="Prototypes for the method freeda.", no_args_is_help=True, rich_markup_mode=None)


@freeda.callback()
def about() -> None:
    """Prototypes for the method freeda."""


@freeda.command()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; an interrupted build is resumed.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model whose vision and text towers are used.")] = "auto",
    world: Annotated[int | None, typer.Option(help="Source: this many drawn scenes.")] = None,
    first_seed: Annotated[int, typer.Option(help="--world: number of the first scene.")] = 500_000,
    images: Annotated[Path | None, typer.Option(help="Source: a folder of images, with --masks and --names.")] = None,
    masks: Annotated[Path | None, typer.Option(help="--images: folder of index PNGs with the same names.")] = None,
    names: Annotated[
        Path | None, typer.Option(help="--images: file with the names of the values 0, 1, 2 ..., one per line.")
    ] = None,
    captions: Annotated[Path | None, typer.Option(help="Source: a file with one caption per line.")] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="--captions: file with words to look for. [default: all words but stop words]"),
    ] = None,
    pipeline: Annotated[
        str, typer.Option(help="--captions: Stable Diffusion, a folder or a hub id.")
    ] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    steps: Annotated[int, typer.Option(help="--captions: denoising steps per image.")] = 30,
    image_size: Annotated[int, typer.Option(help="--captions: side of the images in pixels, a multiple of 8.")] = 512,
    guidance: Annotated[float, typer.Option(help="--captions: classifier-free guidance; 1 turns it off.")] = 7.5,
    threshold: Annotated[
        float, typer.Option(help="--captions: attribution, 0 to 1, above which a pixel belongs to a word.")
    ] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Build visual prototypes with text keys from drawn scenes, from images with masks, or from captions by diffusion.

    Example: talk2dino freeda build --world 2000 --model micro --out prototypes
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import usage
    from talk2dino.io.settings import build_options
    from talk2dino.methods.prototype_build import PrototypeOptions, build_from

    values = {
        "out": out, "model": model, "world": world, "first_seed": first_seed, "images": images, "masks": masks,
        "names": names, "captions": captions, "vocabulary": vocabulary, "pipeline": pipeline, "steps": steps,
        "image_size": image_size, "guidance": guidance, "threshold": threshold, "device": device, "dtype": dtype,
    }  # fmt: skip
    with usage():
        options = build_options(PrototypeOptions, values)
    with ProgressBar("prototypes") as progress:
        store = build_from(options, progress=progress)
    print(f"{len(store)} prototypes of {len(store.keys)} words in {out}")
