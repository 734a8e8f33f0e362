"""Pascal VOC's layout of label PNGs, as a folder (VOC) or a ZIP (CVAT's "segmentation mask 1.1").

    labelmap.txt                             class:R,G,B:parts:actions, one line per class; the background is black
    SegmentationClass/NAME.png               the colour of each pixel's class
    SegmentationObject/NAME.png              another colour for each object, if objects were counted
    ImageSets/Segmentation/default.txt       the names, without ending

Source: docs.cvat.ai, "Segmentation Mask"; Pascal VOC 2012 development kit (colours, 255 or 224,224,192 as "void").
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from talk2dino.annotations.archives import Archive
from talk2dino.annotations.checks import Notes, class_list, image_name
from talk2dino.annotations.png import colour_codes, open_png, paint_png, voc_colours
from talk2dino.annotations.sizes import with_ending
from talk2dino.annotations.types import AnnotatedImage, AnnotatedObject, Annotations
from talk2dino.annotations.writing import DataSet, WriteOptions
from talk2dino.errors import DataError, InputError
from talk2dino.io.atomic import atomic_path, write_atomically
from talk2dino.io.palette import class_palette

LABELS, SETS = "labelmap.txt", "ImageSets/Segmentation/default.txt"
CLASSES, OBJECTS = "SegmentationClass", "SegmentationObject"
BACKGROUND = "background"
VOID = 65536 * 224 + 256 * 224 + 192


def write_folder(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """Palette PNGs in a folder."""
    return _write(lambda name, content: write_atomically(path / name, content), data, images, rgb=False)


def write_zip(path: Path, data: DataSet, images: Iterable[AnnotatedImage], options: WriteOptions) -> tuple[str, ...]:
    """Colour PNGs in a ZIP, which CVAT imports as "Segmentation mask 1.1"."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        return _write(lambda name, content: archive.writestr(name, content), data, images, rgb=True)


def _write(
    put: Callable[[str, bytes | str], object], data: DataSet, images: Iterable[AnnotatedImage], *, rgb: bool
) -> tuple[str, ...]:
    ids = {name: i for i, name in enumerate(data.classes, start=1)}
    colours = class_palette((BACKGROUND, *data.classes), 0)
    notes, stems = Notes(), list[str]()
    for image in images:
        stem = str(PurePosixPath(image.name).with_suffix(""))
        stems.append(stem)
        if image.overlap():
            notes.add("images with overlapping objects, whose pixels went to the later object", image.name)
        labels = image.paint([ids[one.name] for one in image.objects])
        put(f"{CLASSES}/{stem}.png", _png(np.maximum(labels, 0), colours, rgb))
        if data.instances:
            numbers = np.maximum(image.paint(range(1, len(image.objects) + 1)), 0)
            put(f"{OBJECTS}/{stem}.png", _png(numbers, voc_colours(len(image.objects) + 1), rgb))
    put(SETS, "".join(f"{stem}\n" for stem in stems))
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(ids, colours[1:].tolist(), strict=True)]
    put(LABELS, "\n".join(["# label:color_rgb:parts:actions", f"{BACKGROUND}:0,0,0::", *lines]) + "\n")
    return notes.sentences()


def _png(values: np.ndarray, colours: np.ndarray, rgb: bool) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(colours[values]) if rgb else paint_png(values, colours)
    image.save(content, "PNG", compress_level=3)
    return content.getvalue()


def check_classes(classes: Iterable[str]) -> None:
    """Refuse names that ``labelmap.txt`` cannot hold.

    Raises:
        InputError: a name with a colon or a line break, or "background".
    """
    for name in classes:
        if any(sign in name for sign in ":\n\r") or name == BACKGROUND:
            raise InputError(
                f"the class {name!r} cannot be written to {LABELS}: names must not contain ':' or be 'background'"
            )


def read(path: Path, images: Path | None = None) -> Annotations:
    """Read a folder or a ZIP. Colours count, as in ``labelmap.txt``; grey PNGs hold the line number in it, from 0.

    Raises:
        DataError: no class list, colours that it does not list, damaged files.
    """
    with Archive(path) as archive:
        names = archive.names()
        prefix = next((name.removesuffix(LABELS) for name in names if name.endswith(LABELS)), None)
        if prefix is None:
            raise DataError(f"{path} has no {LABELS}, which lists the classes and their colours")
        classes, codes = _read_labelmap(archive.read(prefix + LABELS), f"{path}: {LABELS}")
        folder = f"{prefix}{CLASSES}/"
        files = sorted(name for name in names if name.startswith(folder) and name.lower().endswith(".png"))
        if not files:
            raise DataError(f"{path} has no PNG in {CLASSES}/")
        objects = {name for name in names if name.startswith(f"{prefix}{OBJECTS}/")}
        found = []
        for file in files:
            stem = image_name(file.removeprefix(folder)[:-4], str(path))
            where = f"{path}: {file}"
            labels = _class_indices(open_png(archive.read(file), where), codes, where)
            instances = f"{prefix}{OBJECTS}/{stem}.png"
            parts = colour_codes(open_png(archive.read(instances), instances)) if instances in objects else None
            if parts is not None and parts.shape != labels.shape:
                raise DataError(
                    f"{where} has {labels.shape} pixels, the one in {OBJECTS} {parts.shape} (height, width)"
                )
            found.append(_read_image(with_ending(stem, images), labels, parts, classes))
    return Annotations(tuple(name for name in classes if name != BACKGROUND), tuple(found), str(path))


def _read_labelmap(content: bytes, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and (N,) colour codes."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text") from None
    names, codes = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = line.split(":")
        try:
            r, g, b = (int(value) for value in fields[1].split(","))
            if not 0 <= min(r, g, b) <= max(r, g, b) <= 255:
                raise ValueError
        except (ValueError, IndexError):
            raise DataError(f"{where}, line {number}: {line!r} is not 'class:R,G,B::'") from None
        names.append(fields[0].strip())
        codes.append(65536 * r + 256 * g + b)
    if not codes:
        raise DataError(f"{where} lists no class")
    if len(set(codes)) < len(codes):
        raise DataError(f"{where}: two classes have the same colour")
    return class_list(names, where), np.array(codes, dtype=np.int64)


def _class_indices(image: Image.Image, codes: np.ndarray, where: str) -> np.ndarray:
    """(H, W) index into the class list; -1 for pixels that have none."""
    if image.mode == "L":
        values = np.asarray(image).astype(np.int64)
        values[values == 255] = -1
        if values.max(initial=0) >= len(codes):
            raise DataError(f"{where}: the value {values.max()} stands for none of the {len(codes)} classes")
        return values
    colours = colour_codes(image)
    order = np.argsort(codes)
    place = np.minimum(np.searchsorted(codes[order], colours), len(codes) - 1)
    values = order[place]
    unknown = (codes[values] != colours) & (colours != 0) & (colours != VOID)
    if unknown.any():
        code = int(colours[unknown][0])
        raise DataError(f"{where}: the colour {code >> 16},{code >> 8 & 255},{code & 255} is not in {LABELS}")
    return np.where(codes[values] == colours, values, -1)


def _read_image(name: str, labels: np.ndarray, parts: np.ndarray | None, classes: Sequence[str]) -> AnnotatedImage:
    keys = labels if parts is None else labels * 2**24 + parts
    keys = np.where(labels < 0, -1, keys)
    objects = []
    for key in np.unique(keys).tolist():
        name_of = classes[key if parts is None else key >> 24] if key >= 0 else BACKGROUND
        if name_of != BACKGROUND:
            objects.append(AnnotatedObject.of_mask(name_of, keys == key))
    return AnnotatedImage(name, (labels.shape[0], labels.shape[1]), tuple(objects))


def is_layout(path: Path) -> bool:
    """Whether a folder has the label PNGs or the class list."""
    return (path / CLASSES).is_dir() or (path / LABELS).is_file()
