"""Label PNGs: colours as class names, as indices, or as 24-bit ids."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from talk2dino.annotations.checks import image_size
from talk2dino.errors import DataError
from talk2dino.io.names import readable


def open_png(content: bytes | Path, where: str) -> Image.Image:
    """Read a PNG whose size is checked before it is decoded.

    Raises:
        DataError: missing, damaged, not a PNG, or too large.
    """
    try:
        image = Image.open(io.BytesIO(content if isinstance(content, bytes) else content.read_bytes()), formats=["PNG"])
        image_size(image.height, image.width, where)
        image.load()
    except FileNotFoundError:
        raise DataError(f"no label file at {where}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read the label file {where}: damaged, or not a PNG ({error})") from None
    return image


def read_ids(path: Path) -> np.ndarray:
    """(H, W) int64 ids of a colour PNG: R + 256 G + 65536 B."""
    image = open_png(path, readable(path))
    if image.mode not in ("RGB", "RGBA"):
        raise DataError(f"{readable(path)} has the mode {image.mode}; expected a colour PNG of segment ids")
    channels = np.asarray(image, dtype=np.int64)
    return channels[:, :, 0] + 256 * channels[:, :, 1] + 65536 * channels[:, :, 2]


def colour_codes(image: Image.Image) -> np.ndarray:
    """(H, W) int64 65536 R + 256 G + B of the colours that a viewer shows."""
    channels = np.asarray(image.convert("RGB"), dtype=np.int64)
    return 65536 * channels[:, :, 0] + 256 * channels[:, :, 1] + channels[:, :, 2]


def paint_png(values: np.ndarray, colours: np.ndarray) -> Image.Image:
    """A PNG image of (H, W) integers: colour ``colours[value]``; a palette up to 256 colours, else RGB."""
    if len(colours) <= 256:
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(colours.astype(np.uint8).tobytes())
        return image
    return Image.fromarray(colours.astype(np.uint8)[values])


def voc_colours(count: int) -> np.ndarray:
    """(count, 3) uint8: Pascal VOC's colour of each index, 0 is black; all different up to 2**24."""
    index = np.arange(count)
    colours = np.zeros((count, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)
