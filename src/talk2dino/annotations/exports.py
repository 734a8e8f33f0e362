"""One segmentation out: to a labelling format, to supervision, to FiftyOne."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.annotations.formats import check_data, check_target, find_format
from talk2dino.annotations.objects import ObjectOptions, find_objects
from talk2dino.annotations.sizes import read_world_file
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import InputError, MissingExtraError, suggestion
from talk2dino.io.settings import build_options

if TYPE_CHECKING:
    from talk2dino.types import Segmentation


def segmentation_objects(seg: Segmentation, options: ObjectOptions) -> tuple[AnnotatedObject, ...]:
    """The objects of a segmentation; with evidence they have scores, and can be split.

    Raises:
        InputError: splitting by attention without it, which ``return_evidence=True`` keeps.
    """
    if options.split == "attention" and (seg.evidence is None or seg.evidence.attention is None):
        raise InputError(
            "objects can only be split by attention if it is kept: segment with return_evidence=True, and with a method and "
            "model that have attention maps"
        )
    return find_objects(seg.labels, seg.names, seg.background, options, evidence=seg.evidence)


def annotated_image(
    seg: Segmentation, image: str | Path, options: ObjectOptions, *, name: str | None = None
) -> AnnotatedImage:
    """A segmentation as an image with objects.

    Args:
        image: the image file; its world file is read if there is one.
        name: what the data set calls the image; by default the name of the file.
    """
    path = Path(image)
    return AnnotatedImage(name or path.name, seg.size, segmentation_objects(seg, options), read_world_file(path))


def classes_of(seg: Segmentation) -> tuple[str, ...]:
    """The names of a segmentation, without the background."""
    return tuple(name for index, name in enumerate(seg.names) if index != seg.background)


def export_segmentation(
    seg: Segmentation, path: str | Path, format: str, *, image: str | Path, objects: ObjectOptions, options: WriteOptions
) -> tuple[str, ...]:  # fmt: skip
    """Write one segmentation as a data set of one image; errors as :func:`talk2dino.annotations.formats.save_annotations`."""
    chosen, target = find_format(format), Path(path)
    check_target(chosen, target)
    check_data(chosen, classes_of(seg), [Path(image).name])
    data = DataSet(classes_of(seg), seg.model, Path(image).parent, objects.instances)
    return chosen.write(target, data, [annotated_image(seg, image, objects)], options)


def export_bytes(seg: Segmentation, format: str, *, image: str = "image.png") -> bytes:
    """What :func:`export_segmentation` writes, for formats that are one file, with the default options.

    Raises:
        InputError: a class that the format cannot hold.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / find_format(format).target
        export_segmentation(seg, target, format, image=image, objects=ObjectOptions(), options=WriteOptions())
        return target.read_bytes()


def split_options(values: dict[str, Any]) -> tuple[ObjectOptions, WriteOptions]:
    """Keyword arguments -> what becomes an object, and how it is written.

    Raises:
        InputError: an unknown option, or a value that is out of range.
    """
    of_outline = {"tolerance": "tolerance", "polygon_iou": "iou"}
    outline = {of_outline[name]: value for name, value in values.items() if name in of_outline and value is not None}
    chosen = {name: value for name, value in values.items() if name in ObjectOptions.model_fields}
    rest = {name: value for name, value in values.items() if name not in of_outline and name not in chosen}
    known = [
        *of_outline,
        *ObjectOptions.model_fields,
        *(name for name in WriteOptions.model_fields if name != "outline"),
    ]
    if unknown := [name for name in rest if name not in known]:
        raise InputError(f"unknown option {unknown[0]!r}{suggestion(unknown[0], known)}; there are {', '.join(known)}")
    return build_options(ObjectOptions, chosen), build_options(WriteOptions, {**rest, "outline": outline})


def to_supervision(seg: Segmentation, options: ObjectOptions) -> Any:
    """``supervision.Detections``: boxes, masks, class numbers, scores as confidence (1 where they are unknown).

    Raises:
        MissingExtraError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise MissingExtraError("to_supervision needs the package 'supervision': pip install supervision") from None
    found = segmentation_objects(seg, options)
    if not found:
        return supervision.Detections.empty()
    numbers = {name: index for index, name in enumerate(classes_of(seg))}
    boxes = np.array(
        [(x, y, x + width, y + height) for x, y, width, height in (one.box for one in found)], dtype=np.float64
    )
    return supervision.Detections(
        xyxy=boxes, mask=np.stack([one.mask for one in found]), class_id=np.array([numbers[one.name] for one in found]),
        confidence=np.array([1.0 if one.score is None else one.score for one in found]),
        data={"class_name": np.array([one.name for one in found])},
    )  # fmt: skip


def to_fiftyone(seg: Segmentation, options: ObjectOptions) -> Any:
    """``fiftyone.Detections``, one per object, with its box in shares of the image and the mask within the box.

    Raises:
        MissingExtraError: FiftyOne is not installed.
    """
    try:
        import fiftyone
    except ImportError:
        raise MissingExtraError("to_fiftyone needs the package 'fiftyone': pip install fiftyone") from None
    height, width = seg.size
    detections = []
    for one in segmentation_objects(seg, options):
        x, y, w, h = one.box
        box = [x / width, y / height, w / width, h / height]
        detections.append(fiftyone.Detection(label=one.name, bounding_box=box, mask=one.crop, confidence=one.score))
    return fiftyone.Detections(detections=detections)
