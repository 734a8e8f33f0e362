"""``talk2dino find``: the images of a folder that answer to words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_WORDS = 'What to look for: "a red car", or several classes that an image must all show: "car, tree".'
_INDEX = "Folder for the encoded images, so that the next question is fast. [default: in the cache]"
_EXAMPLE = "Look for what is like a region: NAME=IMAGE:MASK.png, NAME=IMAGE:X0,Y0,X1,Y1 or NAME=IMAGE:X,Y."


def find(
    words: Annotated[str, typer.Argument(help=_WORDS, show_default=False)],
    images: Annotated[list[str], typer.Argument(help="Images, folders or quoted globs.", show_default=False)],
    index: Annotated[Path | None, typer.Option(help=_INDEX)] = None,
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="Images to list.")] = 20,
    negative: Annotated[str | None, typer.Option(help="Parts that answer better to these words do not count.")] = None,
    example: Annotated[list[str] | None, typer.Option(metavar="NAME=IMAGE:REGION", help=_EXAMPLE)] = None,
    vocabulary: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Vocabularies with more classes.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="auto, a name from 'talk2dino models', a folder, or a hub id.")
    ] = "auto",
    text: Annotated[Path | None, typer.Option(help="Text tower, as in 'talk2dino segment'.")] = None,
    translate: Annotated[str | None, typer.Option(help="Translation, as in 'talk2dino segment'.")] = None,
    mode: Annotated[str, typer.Option(help="How images are seen: whole, slide or square.")] = "whole",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also search subfolders.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Images per forward pass.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per image on stdout.")] = False,
) -> None:
    """List the images that answer to words, the best first.

    Images are ranked by how much of them shows the words, and how surely. They are encoded once.

    Example: talk2dino find "a red car" photos/ --model vitb
    """
    from talk2dino.cli.console import message
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.cli.usage import usage
    from talk2dino.find import ImageIndex, default_index
    from talk2dino.io.console import print_json
    from talk2dino.io.find import find_images
    from talk2dino.segmenter import Segmenter
    from talk2dino.vocabularies import Asked
    from talk2dino.words.example_files import parse_example
    from talk2dino.words.prompts import parse_prompts
    from talk2dino.words.translate import check_language_options
    from talk2dino.words.understanding import describe_understood

    with usage():
        unwanted = None if negative is None else parse_prompts(negative)
        given = tuple(map(parse_example, example or []))
        asked = Asked(
            parse_prompts(words) if words.strip() else None, unwanted, given, vocabularies=tuple(vocabulary or ())
        )
        asked.check()
        check_language_options(text, translate)
    paths = find_images(images, recursive)
    segmenter = Segmenter.from_pretrained(model, text=text, translate=translate, device=device)
    classes = asked.encode(segmenter, mode=mode)
    for note in (*classes.notes, *describe_understood(classes.understood)):
        message(note)
    found = ImageIndex(segmenter, index or default_index(segmenter, mode), mode=mode)
    with ProgressBar("encoding") as progress:
        found.update(paths, batch_size=batch_size, progress=progress)
    for one in found.ask(classes, paths)[:most]:
        if as_json:
            print_json(one.as_dict())
        else:
            typer.echo(f"{100 * one.relevance:5.1f} %  {one.path}")
