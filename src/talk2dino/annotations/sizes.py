"""The sizes of images, for formats that do not store them, and their world files."""

from __future__ import annotations

from pathlib import Path

from talk2dino.errors import DataError
from talk2dino.io.find import IMAGE_ENDINGS
from talk2dino.io.images import image_size
from talk2dino.io.names import readable


def size_of(name: str, images: Path | None, source: str) -> tuple[int, int]:
    """(height, width) of an image in the folder of images.

    Raises:
        DataError: no folder is known, or the image is missing or damaged.
    """
    if images is None:
        raise DataError(
            f"{source} does not say how large {readable(name)} is: give the folder of the images with --images"
        )
    size = image_size(images / name)
    if size is None:
        raise DataError(f"cannot read the size of {readable(images / name)}: the image is missing or damaged")
    return size


def with_ending(stem: str, images: Path | None) -> str:
    """The name of the image of this name without ending; the stem itself if no image is found."""
    if images is not None:
        for ending in IMAGE_ENDINGS:
            for spelled in (ending, ending.upper()):
                if (images / (stem + spelled)).is_file():
                    return stem + spelled
    return stem


def read_world_file(image: Path) -> tuple[float, ...] | None:
    """The six numbers of the world file beside an image (``.pgw`` for ``.png``, ``.pngw``, ``.wld``), or None.

    Raises:
        DataError: the file is there, but does not hold six numbers, or maps all pixels to one line.
    """
    suffix = image.suffix[1:]
    names = [f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld"]
    for ending in [*names, *(name.upper() for name in names)]:
        path = image.with_suffix(f".{ending}")
        if not path.is_file():
            continue
        try:
            values = tuple(float(line) for line in path.read_text(encoding="ascii").split())
        except (OSError, ValueError):
            values = ()
        if len(values) != 6 or values[0] * values[3] == values[1] * values[2]:
            raise DataError(
                f"{readable(path)} is not a world file: expected six numbers that map pixels to coordinates"
            )
        return values
    return None
