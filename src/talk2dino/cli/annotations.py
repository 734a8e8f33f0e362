"""``talk2dino annotations``: convert labelling formats, and compare ours with corrected ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from talk2dino.annotations import Annotations

_FORMATS = "coco, coco-panoptic, cvat, cvat-masks, label-studio, labelme, yolo, voc, geojson"
_FROM = f"Format of the source: {_FORMATS}. [default: recognised]"
_TO = f"Format of the target: {_FORMATS}."
_IMAGES = "Folder of the images; yolo needs it for their sizes, voc for their names."
_CLASSES = 'The classes that are expected, in their order: "sky, grass, car". Others are an error. [default: as found]'
_POLYGONS = "Write polygons where the format also has masks (coco, cvat, label-studio)."
_TOLERANCE = "Simplify polygons; the outline moves by at most this many pixels. [default: exact]"
_POLYGON_IOU = "Simplify polygons as far as each object keeps this IoU, such as 0.98."
_PREFIX = "label-studio: what stands before image names, such as /data/local-files/?d=photos/"
_COMPARE_IMAGES = "Folder of the images, for the sheet; without it the labels are painted on grey."
_MOST = "Rows of the tables of changes and images that are printed; the files have all of them."

_Image_Folder = Annotated[Path | None, typer.Option(help=_IMAGES)]
annotations = typer.Typer(
    no_args_is_help=True, help="Convert labelling formats, and compare with corrected ones.", rich_markup_mode=None
)


@annotations.command()
def convert(
    source: Annotated[Path, typer.Argument(help="File or folder to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="File or folder to write.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help=_TO)],
    source_format: Annotated[str | None, typer.Option("--from", help=_FROM)] = None,
    images: _Image_Folder = None,
    classes: Annotated[str | None, typer.Option(help=_CLASSES)] = None,
    polygons: Annotated[bool, typer.Option("--polygons", help=_POLYGONS)] = False,
    tolerance: Annotated[float | None, typer.Option(min=0, metavar="PIXELS", help=_TOLERANCE)] = None,
    polygon_iou: Annotated[float | None, typer.Option(min=0, max=1, metavar="IOU", help=_POLYGON_IOU)] = None,
    image_prefix: Annotated[str, typer.Option(help=_PREFIX)] = "",
) -> None:
    """Convert annotations from one format to another. Nothing is written if the source cannot be read as a whole.

    Example: talk2dino annotations convert corrected.zip coco.json --from cvat-masks --to coco
    """
    from talk2dino.annotations import save_annotations
    from talk2dino.annotations.exports import split_options
    from talk2dino.annotations.formats import check_target, find_format
    from talk2dino.cli.console import message
    from talk2dino.cli.usage import usage

    with usage():
        check_target(find_format(to), target)
        _, writing = split_options(
            {"polygons": polygons, "tolerance": tolerance, "polygon_iou": polygon_iou, "image_prefix": image_prefix}
        )
    found = _load(source, source_format, images, classes)
    notes = save_annotations(found, target, to, images=images, options=writing)
    for note in (*found.notes, *notes):
        message(f"talk2dino: {note}")
    objects = sum(len(image.objects) for image in found.images)
    typer.echo(f"{target} ({to}): images {len(found):,}, objects {objects:,}, classes {len(found.classes):,}")


@annotations.command()
def compare(
    ours: Annotated[Path, typer.Argument(help="What was exported.", show_default=False)],
    corrected: Annotated[Path, typer.Argument(help="The same after people corrected it.", show_default=False)],
    our_format: Annotated[
        str | None, typer.Option("--from", help=f"Format of ours: {_FORMATS}. [default: recognised]")
    ] = None,
    corrected_format: Annotated[
        str | None, typer.Option("--corrected-from", help="Format of the corrected. [default: recognised]")
    ] = None,
    images: Annotated[Path | None, typer.Option(help=_COMPARE_IMAGES)] = None,
    classes: Annotated[str | None, typer.Option(help=_CLASSES)] = None,
    most: Annotated[int, typer.Option(min=0, help=_MOST)] = 10,
    worst: Annotated[int, typer.Option(min=0, help="Images on the sheet.")] = 6,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables and the sheet.")] = Path(
        "corrections"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Show what people changed: IoU per class, the most frequent changes, and the images that were changed most.

    Writes corrections.md, corrections.json and worst.png.

    Example: talk2dino annotations compare out/coco.json corrected.json --images photos
    """
    from talk2dino.cli.console import message
    from talk2dino.cli.progress import ProgressBar
    from talk2dino.evaluation.corrections import compare_annotations, draw_worst, write_report
    from talk2dino.io.console import print_json

    first = _load(ours, our_format, images, classes)
    second = _load(corrected, corrected_format, images, classes)
    with ProgressBar("comparing") as progress:
        report = compare_annotations(first, second, progress=progress)
    written = write_report(report, out)
    if worst:
        written.append(draw_worst(report, first, second, out / "worst.png", images=images, count=worst))
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(report.markdown(most))
    for note in (*first.notes, *second.notes, *report.notes):
        message(f"talk2dino: {note}")
    message(f"written: {', '.join(map(str, written))}")


def _load(path: Path, format: str | None, images: Path | None, classes: str | None) -> "Annotations":
    from talk2dino.annotations import load_annotations
    from talk2dino.annotations.formats import find_format
    from talk2dino.cli.usage import usage
    from talk2dino.words.prompts import parse_prompts

    with usage():
        names = None if classes is None else parse_prompts(classes).names
        if format is not None:
            find_format(format)
    return load_annotations(path, format, images=images, classes=names)
