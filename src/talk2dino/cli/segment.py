"""``talk2dino segment``: images and words in, overlays and masks out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from talk2dino.folder import FolderOptions, ImageResult
    from talk2dino.video.job import VideoResult

_PROMPTS = 'Classes to look for: "sky, grass, car=red car|automobile". Commas separate classes; = and | give synonyms.'
_PROMPT_FILE = "File with the classes: one per line, or .json / .yaml with a list or class: [synonyms]."
_EXAMPLE = (
    "A class by example: NAME=IMAGE:MASK.png, NAME=IMAGE:X0,Y0,X1,Y1 (a box) or NAME=IMAGE:X,Y (a point), in pixels; "
    "repeatable, and beside --prompts."
)
_VOCABULARY = "File of classes, written by 'talk2dino vocabulary'; repeatable, and beside --prompts."
_PER_CLASS = "Most embeddings per class of the examples; unlike examples get one each."
_MODEL = "auto, a name from 'talk2dino models', a folder, or a hub id."
_PROJECTION = "Your own psi: a folder written by 'talk2dino train', projection.safetensors, or a published .pth."
_TEXT = "Text tower for another language: a folder written by 'talk2dino train-text'."
_TRANSLATE = "Translate prompts into English: auto, or a Marian model as a folder or hub id (extra 'translate')."
_BACKGROUND = (
    "Label pixels as background where no class reaches this score (0 to 1 for published models). Without a number: the "
    "model's default threshold."
)
_THRESHOLD = "Threshold of one class, NAME=NUMBER; repeatable. Implies a background."
_CLEAN = "Background cleaning. [default: on if there is a background]"
_MODE = "whole: keep the aspect ratio; slide: the published protocol's windows; square: squash to the model's size."
_SAVE = (
    "What to write, separated by commas: per image overlay, palette, json, npz; for all images coco, coco-panoptic, cvat, "
    "cvat-masks, label-studio, labelme, yolo, voc, geojson."
)
_INSTANCES = "Labelling formats: each connected part is an object. [default: one object per class]"
_SMALLEST = "Labelling formats: leave out connected parts with fewer pixels."
_SPLIT = "Labelling formats, with --instances: split touching objects where they are narrow (shape) or by attention."
_POLYGONS = "Labelling formats: polygons where the format also has masks (coco, cvat, label-studio)."
_TOLERANCE = "Labelling formats: simplify polygons; the outline moves by at most this many pixels. [default: exact]"
_POLYGON_IOU = "Labelling formats: simplify polygons as far as each object keeps this IoU, such as 0.98."
_ENGINE = "What runs the vision model: torch, compile, openvino or onnx."
_WORKERS = "Batches that are read, segmented and written side by side. [default: by the number of cores]"
_METHOD = "talk2dino, or one to compare with: clip-dense, dino-clusters, freeda."
_OVERLAY_SIZE = "Longest side of overlays in pixels. [default: the image's size]"

_EVERY = "Videos: segment one frame per such period, such as 0.5s. [default: every frame]"
_STEADY = "Videos: carry masks along with the motion, so that they do not flicker."
_KEYFRAMES = "Videos: run the vision model on every so many frames, and carry the masks to the frames between."
_AS_VIDEO = "Treat folders of frames and animated images (GIF, APNG, WebP) as videos."

_Images = Annotated[
    list[str],
    typer.Argument(help="Images, folders, quoted globs, videos, or - for standard input.", show_default=False),
]


class OptionalBackground(TyperCommand):
    """Lets ``--background`` stand without a value, as a flag that means the default threshold."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, fill_background(args))


COMMAND = OptionalBackground


def segment(
    images: _Images,
    prompts: Annotated[str | None, typer.Option("--prompts", "-p", help=_PROMPTS)] = None,
    prompt_file: Annotated[Path | None, typer.Option(help=_PROMPT_FILE)] = None,
    example: Annotated[list[str] | None, typer.Option(metavar="NAME=IMAGE:REGION", help=_EXAMPLE)] = None,
    negative_example: Annotated[
        list[str] | None, typer.Option(metavar="NAME=IMAGE:REGION", help="A region whose likes become background.")
    ] = None,
    examples_per_class: Annotated[int, typer.Option(min=1, max=64, help=_PER_CLASS)] = 1,
    vocabulary: Annotated[list[Path] | None, typer.Option(metavar="FILE", help=_VOCABULARY)] = None,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Look at all images first, and fit the words to them.")
    ] = False,
    model: Annotated[str, typer.Option("--model", "-m", help=_MODEL)] = "auto",
    projection: Annotated[Path | None, typer.Option(help=_PROJECTION)] = None,
    text: Annotated[Path | None, typer.Option(help=_TEXT)] = None,
    translate: Annotated[str | None, typer.Option(help=_TRANSLATE)] = None,
    background: Annotated[str | None, typer.Option("--background", "-b", metavar="[NUMBER]", help=_BACKGROUND)] = None,
    threshold: Annotated[list[str] | None, typer.Option(metavar="NAME=NUMBER", help=_THRESHOLD)] = None,
    negative: Annotated[str | None, typer.Option(help="Classes whose pixels become background.")] = None,
    clean: Annotated[bool | None, typer.Option("--clean/--no-clean", help=_CLEAN)] = None,
    refine: Annotated[bool, typer.Option("--refine/--no-refine", help="Sharpen the masks with PAMR.")] = False,
    mode: Annotated[str, typer.Option(help=_MODE)] = "whole",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    save: Annotated[str, typer.Option(help=_SAVE)] = "overlay,palette",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, typer.Option(help=_ENGINE)] = "torch",
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Images per forward pass.")] = 4,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help=_WORKERS)] = None,
    method: Annotated[str, typer.Option(help=_METHOD)] = "talk2dino",
    prototypes: Annotated[Path | None, typer.Option(help="freeda: folder written by 'talk2dino freeda build'.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the method; repeatable.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also search subfolders.")] = False,
    allow_truncated: Annotated[bool, typer.Option(help="Read what is left of damaged images.")] = False,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Refuse images with more pixels. [default: 180 million]")
    ] = None,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the classes in overlays.")] = 0.55,
    legend: Annotated[bool, typer.Option("--legend/--no-legend", help="Draw a legend below overlays.")] = True,
    contours: Annotated[bool, typer.Option("--contours/--no-contours", help="Outline the classes in overlays.")] = True,
    overlay_size: Annotated[int | None, typer.Option(min=16, help=_OVERLAY_SIZE)] = None,
    every: Annotated[str | None, typer.Option(metavar="TIME", help=_EVERY)] = None,
    start: Annotated[str, typer.Option(metavar="TIME", help="Videos: first time, such as 90 or 1:30.")] = "0",
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Videos: stop before this time.")] = None,
    steady: Annotated[bool, typer.Option("--steady/--no-steady", help=_STEADY)] = True,
    keyframe_every: Annotated[int, typer.Option(min=1, max=1000, help=_KEYFRAMES)] = 1,
    as_video: Annotated[bool, typer.Option("--as-video", help=_AS_VIDEO)] = False,
    fps: Annotated[float, typer.Option(help="Frames per second of a folder with --as-video.")] = 25.0,
    instances: Annotated[bool, typer.Option("--instances", help=_INSTANCES)] = False,
    smallest_area: Annotated[int, typer.Option(min=0, metavar="PIXELS", help=_SMALLEST)] = 0,
    split: Annotated[str | None, typer.Option(metavar="shape|attention", help=_SPLIT)] = None,
    polygons: Annotated[bool, typer.Option("--polygons", help=_POLYGONS)] = False,
    tolerance: Annotated[float | None, typer.Option(min=0, metavar="PIXELS", help=_TOLERANCE)] = None,
    polygon_iou: Annotated[float | None, typer.Option(min=0, max=1, metavar="IOU", help=_POLYGON_IOU)] = None,
    overwrite: Annotated[bool, typer.Option(help="Segment finished images again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per image on stdout.")] = False,
) -> None:
    """Segment images and videos with words.

    What is finished is skipped when the command runs again with the same settings, and a video goes on where it was
    stopped. Exit code 3: some images failed, the others are done.

    Example: talk2dino segment photos/ --prompts "sky, grass, car=red car|automobile" --model vitb --out out
    """
    from talk2dino.annotations.exports import split_options
    from talk2dino.cli.usage import method_options, usage
    from talk2dino.folder import FolderOptions
    from talk2dino.io.settings import build_options
    from talk2dino.video.options import VideoOptions
    from talk2dino.words.example_files import parse_example
    from talk2dino.words.prompts import parse_prompts, read_prompt_file

    if (prompts is not None and prompt_file is not None) or not (
        prompts is not None or prompt_file or example or vocabulary
    ):
        raise typer.BadParameter(
            'give the classes either with --prompts "sky, grass" or with --prompt-file FILE; --example and --vocabulary can '
            "stand alone or beside them"
        )
    values: dict[str, Any] = {
        "images": images, "model": model, "projection": projection, "text": text,
        "translate": translate, "background": read_threshold(background),
        "thresholds": read_thresholds(threshold or []), "clean": clean, "refine": refine, "mode": mode, "out": out,
        "save": [kind.strip() for kind in save.split(",") if kind.strip()], "device": device, "dtype": dtype,
        "engine": engine, "batch_size": batch_size, "workers": workers, "method": method,
        "method_options": method_options(option, prototypes=prototypes), "recursive": recursive,
        "allow_truncated": allow_truncated, "overwrite": overwrite,
        "examples_per_class": examples_per_class, "vocabulary": tuple(vocabulary or ()), "adapt": adapt,
        "overlay": {"opacity": opacity, "legend": legend, "contours": contours, "max_size": overlay_size},
    }  # fmt: skip
    video = {
        "every": every, "start": start, "end": end, "steady": steady, "keyframe_every": keyframe_every,
        "as_video": as_video, "fps": fps,
    }  # fmt: skip
    if max_pixels is not None:
        values["max_pixels"] = max_pixels
    with usage():
        values["objects"], values["writing"] = split_options({
            "instances": instances, "smallest_area": smallest_area, "split": split, "polygons": polygons,
            "tolerance": tolerance, "polygon_iou": polygon_iou,
        })  # fmt: skip
        if prompts is not None:
            values["prompts"] = parse_prompts(prompts)
        elif prompt_file is not None:
            values["prompts"] = read_prompt_file(prompt_file)
        values["examples"] = tuple(map(parse_example, example or []))
        values["negative_examples"] = tuple(map(parse_example, negative_example or []))
        values["negative"] = None if negative is None else parse_prompts(negative)
        values["video"] = build_options(VideoOptions, video)
        options = build_options(FolderOptions, values)
    raise typer.Exit(_run(options, as_json))


def _run(options: FolderOptions, as_json: bool) -> int:
    """Segment, print one line per image, and say how it went."""
    from talk2dino.cli.console import message
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.folder import run_folder
    from talk2dino.io.console import print_json

    def show(result: ImageResult | VideoResult) -> None:
        if as_json:
            print_json(result.as_dict())
        for note in result.notes:
            message(f"{result.path}: {note}")
        if result.error is not None:
            message(f"talk2dino: {result.error}")
        elif not as_json:
            message(f"{result.path}: {result.summary}")

    with ProgressBar("segmenting", options.counted) as progress:
        outcome = run_folder(options, on_result=show, progress=progress)
    images = f"{outcome.done} {outcome.unit if outcome.done == 1 else outcome.unit + 's'}"
    if outcome.failed:
        names = ", ".join(str(result.path) for result in outcome.failed[:10])
        more = f" and {len(outcome.failed) - 10} more" if len(outcome.failed) > 10 else ""
        message(f"talk2dino: {images} done, {len(outcome.failed)} failed: {names}{more}")
    elif not as_json:
        message(f"talk2dino: {images} done, results in {', '.join(map(str, outcome.data_sets or [outcome.out]))}")
    return outcome.exit_code


def read_threshold(text: str | None) -> float | bool | None:
    if text is None or text == "default":
        return None if text is None else True
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a number; give a threshold such as 0.55, or none for the default (with the images before "
            "the option)",
            param_hint="--background",
        ) from None


def read_thresholds(given: list[str]) -> dict[str, float]:
    found = {}
    for item in given:
        name, _, value = item.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[""] = 0.0
        if "" in found:
            raise typer.BadParameter(f"{item!r} is not NAME=NUMBER", param_hint="--threshold")
    return found


def fill_background(arguments: list[str]) -> list[str]:
    """``--background`` may stand alone: put "default" where no threshold follows."""
    filled = []
    for i, argument in enumerate(arguments):
        filled.append(argument)
        if argument in ("--background", "-b"):
            following = arguments[i + 1] if i + 1 < len(arguments) else "-"
            is_option = (
                following.startswith("-") and not following[1:].replace(".", "", 1).isdigit() and following != "-inf"
            )
            if is_option or (following and Path(following).exists()):
                filled.append("default")
    return filled
