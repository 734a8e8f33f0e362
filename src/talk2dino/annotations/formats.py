"""All labelling formats by name, and the two functions most callers want: :func:`load_annotations` and :func:`save_annotations`."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from talk2dino.annotations import coco, cvat, geojson, label_studio, labelme, voc, yolo
from talk2dino.annotations.archives import Archive
from talk2dino.annotations.types import AnnotatedImage, Annotations
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError, InputError, Talk2DinoError, suggestion
from talk2dino.io.names import readable

#: (target, what the data set is, its images, options) -> notes.
Writer = Callable[[Path, DataSet, Iterable[AnnotatedImage], WriteOptions], tuple[str, ...]]
#: (path, folder of the images or None) -> the data set.
Reader = Callable[[Path, Path | None], Annotations]


@dataclass(frozen=True)
class Format:
    """One labelling format.

    Attributes:
        name: as ``--save``, ``--from`` and ``--to`` take it. help: one line.
        target: file or folder that a folder run writes; a name without a suffix is a folder.
        write, read: see :data:`Writer` and :data:`Reader`.
        overlaps: several objects can share a pixel.
    """

    name: str
    help: str
    target: str
    write: Writer
    read: Reader
    overlaps: bool = True

    @property
    def is_folder(self) -> bool:
        return not Path(self.target).suffix


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("coco", "COCO instances: one JSON, run lengths or polygons", "coco.json", coco.write, coco.read),
        Format(
            "coco-panoptic", "COCO panoptic: a JSON and a folder of PNGs", "panoptic.json", coco.write_panoptic,
            coco.read_panoptic, overlaps=False,
        ),
        Format("cvat", "CVAT for images 1.1: one XML, masks or polygons", "cvat.xml", cvat.write, cvat.read),
        Format("cvat-masks", "CVAT segmentation mask 1.1: a ZIP of PNGs", "cvat-masks.zip", voc.write_zip, voc.read, overlaps=False),
        Format(
            "label-studio", "Label Studio tasks with predictions: brush masks or polygons", "label-studio.json",
            label_studio.write, label_studio.read,
        ),
        Format("labelme", "LabelMe and X-AnyLabeling: a folder of JSON files with polygons", "labelme", labelme.write, labelme.read),
        Format("yolo", "YOLO segmentation: a folder with data.yaml and text files of polygons", "yolo", yolo.write, yolo.read),
        Format("voc", "Pascal VOC: a folder of palette PNGs and a class list", "voc", voc.write_folder, voc.read, overlaps=False),
        Format("geojson", "GeoJSON: a folder, for images with a world file", "geojson", geojson.write, geojson.read),
    )
}  # fmt: skip


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        InputError: no such format; similar names are suggested.
    """
    if name not in FORMATS:
        raise InputError(
            f"no labelling format named {name!r}{suggestion(name, FORMATS)}; there are {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def load_annotations(
    path: str | Path, format: str | None = None, *, images: str | Path | None = None,
    classes: Iterable[str] | None = None,
) -> Annotations:  # fmt: skip
    """Read a data set of annotations.

    Args:
        path: the file or folder.
        format: a name from :data:`FORMATS`; None: by the suffix and the content.
        images: folder of the images, for formats that do not hold their sizes or names (yolo, voc).
        classes: the classes that are expected, in their order; by default those of the file.

    Raises:
        InputError: no such format.
        DataError: no such file, a damaged file, one of another format, or objects of other classes than ``classes``.
    """
    path, folder = Path(path), None if images is None else Path(images)
    if not path.exists():
        raise DataError(f"no such file or folder: {readable(path)}")
    if folder is not None and not folder.is_dir():
        raise DataError(f"no such folder of images: {readable(folder)}")
    chosen = find_format(format) if format else sniff_format(path)
    try:
        found = chosen.read(path, folder)
    except Talk2DinoError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:  # values of unexpected types
        raise DataError(f"{readable(path)} is damaged, or not of the format {chosen.name} ({error})") from error
    repeated = [name for name, count in Counter(image.name for image in found.images).items() if count > 1]
    if repeated:
        raise DataError(f"{readable(path)} lists the image {repeated[0]} more than once")
    return found if classes is None else found.with_classes(classes)


def save_annotations(
    annotations: Annotations, path: str | Path, format: str, *, images: str | Path | None = None,
    options: WriteOptions | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Write a data set of annotations.

    Args:
        images: folder of the images, for references to them.
        options: masks or polygons, and how exact polygons are.

    Returns:
        Notes: what the format could not hold.

    Raises:
        InputError: no such format, or the path does not suit it. DataError: objects of classes that are not in the list.
        OutputError: the file cannot be written.
    """
    chosen, target = find_format(format), Path(path)
    check_target(chosen, target)
    annotations.with_classes(annotations.classes)  # before anything is written
    check_data(chosen, annotations.classes, (image.name for image in annotations.images))
    instances = any(len({one.name for one in image.objects}) < len(image.objects) for image in annotations.images)
    data = DataSet(annotations.classes, images=None if images is None else Path(images), instances=instances)
    return chosen.write(target, data, annotations.images, options or WriteOptions())


def check_target(chosen: Format, target: Path) -> None:
    """Refuse a path that does not suit a format.

    Raises:
        InputError: a file where a folder is written, another suffix than the format's.
    """
    if chosen.is_folder:
        if target.is_file():
            raise InputError(f"{readable(target)} is a file; {chosen.name} is written to a folder")
    elif target.suffix.lower() != Path(chosen.target).suffix:
        raise InputError(
            f"{chosen.name} is written to a file that ends in {Path(chosen.target).suffix}, not to {readable(target)}"
        )


def check_data(chosen: Format, classes: Sequence[str], names: Iterable[str]) -> None:
    """Refuse classes and images that a format cannot hold, before any work is done.

    Raises:
        InputError: class names that the format reserves; images that would share a label file.
    """
    if chosen.name in ("voc", "cvat-masks"):
        voc.check_classes(classes)
    if chosen.name in ("coco", "cvat", "label-studio"):
        return
    stems: dict[str, str] = {}
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in stems:
            raise InputError(
                f"{stems[stem]} and {name} would share one label file of the format {chosen.name}, which has a file per image: "
                "rename one of them, or choose coco, cvat or label-studio"
            )
        stems[stem] = name


def sniff_format(path: Path) -> Format:
    """The format of a file or folder, by its suffix and content.

    Raises:
        DataError: it cannot be recognised.
    """
    name = _sniff_folder(path) if path.is_dir() else _sniff_file(path)
    if name is None:
        raise DataError(
            f"cannot recognise the format of {readable(path)}: name it, one of {', '.join(FORMATS)} (--from)"
        )
    return FORMATS[name]


def _sniff_folder(path: Path) -> str | None:
    if (path / yolo.YAML).is_file():
        return "yolo"
    if voc.is_layout(path):
        return "voc"
    if (path / cvat.XML).is_file():
        return "cvat"
    if next(path.rglob("*.geojson"), None):
        return "geojson"
    return "labelme" if next(path.rglob("*.json"), None) else None


def _sniff_file(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in (".xml", ".geojson", ".yaml", ".yml"):
        return {".xml": "cvat", ".geojson": "geojson"}.get(suffix, "yolo")
    if suffix == ".zip" or zipfile.is_zipfile(path):
        with Archive(path) as archive:
            names = archive.names()
        if cvat.XML in names:
            return "cvat"
        return "cvat-masks" if any(f"{voc.CLASSES}/" in name for name in names) else None
    if suffix != ".json":
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.read(2**20)
    if head.lstrip().startswith("["):
        return "label-studio"
    if '"segments_info"' in head:
        return "coco-panoptic"
    return "labelme" if '"shapes"' in head and '"imagePath"' in head else "coco"
