"""``talk2dino vocabulary``: files of classes, from words, examples, corrected masks or unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter
    from talk2dino.types import TextFeatures
    from talk2dino.vocabularies import Asked

vocabulary = typer.Typer(
    no_args_is_help=True, help="Make files of classes from words, examples and images.", rich_markup_mode=None
)

_EXAMPLE = "NAME=IMAGE:MASK.png, NAME=IMAGE:X0,Y0,X1,Y1 (a box) or NAME=IMAGE:X,Y (a point), in pixels; repeatable."
_MASKS = "A folder of saved segmentations (NAME.labels.png, NAME.npz), or a labelling format that 'annotations' reads."
Prompts = Annotated[
    str | None, typer.Option("--prompts", "-p", help='Classes in words: "sky, car=red car|automobile".')
]
PromptFile = Annotated[Path | None, typer.Option(help="File with the classes in words.")]
Negative = Annotated[str | None, typer.Option(help="Words whose pixels become background.")]
Example = Annotated[list[str] | None, typer.Option(metavar="NAME=IMAGE:REGION", help=_EXAMPLE)]
NegativeExample = Annotated[
    list[str] | None, typer.Option(metavar="NAME=IMAGE:REGION", help="A region whose likes become background.")
]
PerClass = Annotated[int, typer.Option(min=1, max=64, help="Most embeddings per class of the examples.")]
Vocabulary = Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Vocabularies to start from; repeatable.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="auto, a name from 'talk2dino models', a folder, or a hub id.")
]
Projection = Annotated[Path | None, typer.Option(help="Your own psi, as in 'talk2dino segment'.")]
Text = Annotated[Path | None, typer.Option(help="Text tower, as in 'talk2dino segment'.")]
Translate = Annotated[str | None, typer.Option(help="Translation, as in 'talk2dino segment'.")]
Method = Annotated[str, typer.Option(help="talk2dino, or one to compare with.")]
MethodOption = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the method; repeatable.")]
Mode = Annotated[str, typer.Option(help="How images are seen: whole, slide or square.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The vocabulary to write, .safetensors.")]


def read_asked(
    prompts: str | None, prompt_file: Path | None, negative: str | None, example: list[str] | None,
    negative_example: list[str] | None, per_class: int, files: list[Path] | None,
) -> Asked:  # fmt: skip
    """The classes that the flags name; mistakes are usage errors."""
    from talk2dino.cli.usage import usage
    from talk2dino.vocabularies import Asked
    from talk2dino.words.example_files import parse_example
    from talk2dino.words.prompts import parse_prompts, read_prompt_file

    if prompts is not None and prompt_file is not None:
        raise typer.BadParameter("give the words either with --prompts or with --prompt-file")
    with usage():
        words = (
            parse_prompts(prompts) if prompts is not None else read_prompt_file(prompt_file) if prompt_file else None
        )
        asked = Asked(
            words, parse_prompts(negative) if negative is not None else None, tuple(map(parse_example, example or [])),
            tuple(map(parse_example, negative_example or [])), per_class, tuple(files or ()),
        )  # fmt: skip
        asked.check()
    return asked


def load_segmenter(
    model: str, projection: Path | None, text: Path | None, translate: str | None, method: str, option: list[str] | None,
    device: str,
) -> Segmenter:  # fmt: skip
    """The model that the flags name."""
    from talk2dino.cli.usage import method_options, usage
    from talk2dino.segmenter import Segmenter
    from talk2dino.words.translate import check_language_options

    options: dict[str, Any] = {}
    with usage():
        options |= method_options(option)
        check_language_options(text, translate)
    return Segmenter.from_pretrained(
        model, projection=projection, text=text, translate=translate, method=method, device=device, **options
    )


def write(text: TextFeatures, out: Path, made: str) -> None:
    """Save a vocabulary and say what is in it."""
    from talk2dino.cli.console import message
    from talk2dino.words.understanding import describe_understood
    from talk2dino.words.vocabulary import count_classes, save_vocabulary

    for note in (*text.notes, *describe_understood(text.understood)):
        message(note)
    save_vocabulary(text, out, made=made)
    typer.echo(f"{out}: {count_classes(text)} for {text.model}")


def check_out(out: Path) -> None:
    from talk2dino.cli.usage import usage
    from talk2dino.words.vocabulary import check_vocabulary_path

    with usage("--out"):
        check_vocabulary_path(out)


@vocabulary.command()
def build(
    out: Out,
    prompts: Prompts = None,
    prompt_file: PromptFile = None,
    negative: Negative = None,
    example: Example = None,
    negative_example: NegativeExample = None,
    per_class: PerClass = 1,
    vocabulary: Vocabulary = None,
    model: Model = "auto",
    projection: Projection = None,
    text: Text = None,
    translate: Translate = None,
    method: Method = "talk2dino",
    option: MethodOption = None,
    mode: Mode = "whole",
    device: Device = "auto",
) -> None:
    """Make a vocabulary from words and examples.

    Example: talk2dino vocabulary build -p "sky, grass" --example "my part=photo.jpg:20,30,90,80" -m vitb -o parts.safetensors
    """
    check_out(out)
    asked = read_asked(prompts, prompt_file, negative, example, negative_example, per_class, vocabulary)
    segmenter = load_segmenter(model, projection, text, translate, method, option, device)
    write(asked.encode(segmenter, mode=mode), out, asked.describe())


@vocabulary.command("list")
def list_files(
    files: Annotated[list[Path], typer.Argument(help="Vocabularies.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per vocabulary on stdout.")] = False,
) -> None:
    """List the classes of vocabularies, and the model that they fit.

    Example: talk2dino vocabulary list parts.safetensors
    """
    from talk2dino.io.console import print_json
    from talk2dino.words.vocabulary import count_classes, read_vocabulary

    for path in files:
        text, made = read_vocabulary(path)
        names = text.names[: text.positive]
        negative, method = text.names[text.positive :], text.space.partition(":")[0]
        if as_json:
            print_json({
                "vocabulary": str(path), "classes": names, "negative": negative, "model": text.model, "method": method,
                "space": text.space, "embeddings": len(text.embeddings), "made": made, "notes": text.notes,
                "understood": text.understood,
            })  # fmt: skip
            continue
        typer.echo(f"{path}: {count_classes(text)} for {text.model} ({method}), {made}")
        typer.echo(f"  {', '.join(names)}" + (f"; background: {', '.join(negative)}" if negative else ""))


@vocabulary.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Vocabularies of one model.", show_default=False)],
    out: Out,
) -> None:
    """Put the classes of several vocabularies into one. What two of them give for one class is averaged.

    Example: talk2dino vocabulary merge parts.safetensors places.safetensors --out all.safetensors
    """
    from talk2dino.words.vocabulary import merge_vocabularies, read_vocabulary

    check_out(out)
    write(
        merge_vocabularies([read_vocabulary(path)[0] for path in files]), out, f"merged from {len(files)} vocabularies"
    )


@vocabulary.command()
def adapt(
    images: Annotated[
        list[str], typer.Argument(help="Images, folders or quoted globs; no labels.", show_default=False)
    ],
    out: Out,
    prompts: Prompts = None,
    prompt_file: PromptFile = None,
    negative: Negative = None,
    vocabulary: Vocabulary = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="For masks that will be refined (segment --refine).")
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also search subfolders.")] = False,
    model: Model = "auto",
    projection: Projection = None,
    text: Text = None,
    translate: Translate = None,
    method: Method = "talk2dino",
    option: MethodOption = None,
    mode: Mode = "whole",
    device: Device = "auto",
) -> None:
    """Fit words to images without labels. Each word gets the vector that its confident patches ask for.

    Some hundred images are enough. Words that the images do not show keep their vectors.

    Example: talk2dino vocabulary adapt photos/ --prompts "sky, grass, car" --model vitb --out photos.safetensors
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.fitting import adapt_to_images
    from talk2dino.io.find import find_images

    check_out(out)
    asked = read_asked(prompts, prompt_file, negative, None, None, 1, vocabulary)
    paths = find_images(images, recursive)
    segmenter = load_segmenter(model, projection, text, translate, method, option, device)
    with ProgressBar("adapting") as progress:
        words = asked.encode(segmenter, mode=mode)
        fitted = adapt_to_images(words, paths, segmenter, mode=mode, refine=refine, progress=progress)
    write(fitted, out, f"{asked.describe()}, adapted to {len(paths)} images")


@vocabulary.command()
def tune(
    masks: Annotated[Path, typer.Argument(help=_MASKS, show_default=False)],
    images: Annotated[list[str], typer.Option("--images", help="The images, folders or globs; repeatable.")],
    out: Out,
    prompts: Prompts = None,
    prompt_file: PromptFile = None,
    negative: Negative = None,
    vocabulary: Vocabulary = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also search subfolders.")] = False,
    model: Model = "auto",
    projection: Projection = None,
    text: Text = None,
    translate: Translate = None,
    method: Method = "talk2dino",
    option: MethodOption = None,
    mode: Mode = "whole",
    device: Device = "auto",
) -> None:
    """Fit words to corrected masks, so that the next images come out better. Seconds on a CPU.

    Example: talk2dino vocabulary tune corrected.json --images photos/ -p "sky, grass, car" -m vitb -o tuned.safetensors
    """
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.fitting import read_masks, tune_with_masks
    from talk2dino.io.find import find_images

    check_out(out)
    asked = read_asked(prompts, prompt_file, negative, None, None, 1, vocabulary)
    paths = find_images(images, recursive)
    segmenter = load_segmenter(model, projection, text, translate, method, option, device)
    with ProgressBar("tuning") as progress:
        words = asked.encode(segmenter, mode=mode)
        found = read_masks(masks, paths, words.names)
        fitted, penalty = tune_with_masks(words, found, segmenter, mode=mode, progress=progress)
    count = "1 mask" if len(found) == 1 else f"{len(found)} masks"
    write(fitted, out, f"{asked.describe()}, tuned with {count} (penalty {penalty:g})")
