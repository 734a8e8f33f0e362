"""Read an image: path, bytes, file object, standard input, PIL image, array or tensor -> (H, W, 3) uint8, RGB, 0..255.

The size is checked in the header before anything is decoded. ``Image.open`` (with its global size limit) and
``ImageFile.LOAD_TRUNCATED_IMAGES`` are not used, so results do not depend on other users of Pillow in the process.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Union

import numpy as np
from PIL import Image, JpegImagePlugin

from talk2dino.errors import ImageError, ImageFormatError, ImageSizeError
from talk2dino.io.find import STDIN, missing_file
from talk2dino.io.names import readable
from talk2dino.io.pixels import array_to_rgb, exif_orientation, tensor_to_rgb, to_rgb, turn_upright

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 180_000_000
"""Files that claim more pixels are refused unless ``max_pixels`` is raised: a few kilobytes can claim to be that large."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI", "HEIF")
"""Recognised by content, whatever the file's ending; HEIF (HEIC) with the package pillow-heif. Others (EPS, WMF, ...)
would start outside programs or have no signature."""

_MISTAKEN = {
    b"%PDF": "a PDF document", b"%!PS": "a PostScript document", b"<svg": "an SVG drawing", b"<?xml": "an XML file",
    b"<!DOCTYPE": "a web page", b"<html": "a web page", b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive",
    b"8BPS": "a Photoshop file", b"\x93NUMPY": "a NumPy array",
}  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that was read.

    Attributes:
        array: (H, W, 3) uint8, RGB, 0..255, C-contiguous and writable.
        name: file name, or a word for the source, for messages.
        notes: what was done beyond plain reading, such as 'EXIF rotation applied'.
        path: the file; None for other sources.
    """

    array: np.ndarray
    name: str
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.array.shape[0], self.array.shape[1]


ImageSource = Union[str, Path, bytes, bytearray, memoryview, IO[bytes], Image.Image, np.ndarray, "Tensor", LoadedImage]


def read_image(
    source: ImageSource, *, allow_truncated: bool = False, max_pixels: int | None = MAX_PIXELS
) -> LoadedImage:
    """Read one image.

    All colour modes are converted, transparency is put on white, EXIF rotation is applied (to files and PIL images), and
    the first frame of an animation is taken; ``notes`` of the result records each.

    Args:
        source: a path, ``"-"`` for standard input, the bytes of a file, a binary file object (read from its current
            position), a PIL image, a uint8 array of shape (H, W, 3) in RGB order, (H, W) or (H, W, 4), or a torch tensor of
            shape (3, H, W) or (H, W, 3), uint8 0..255 or floating point 0..1.
        allow_truncated: read the part that is there of a truncated or damaged file; the rest stays black or grey.
        max_pixels: refuse files that claim more pixels than this; None for no limit.

    Raises:
        ImageError: the file is missing, empty, not an image, truncated or damaged, or too large; the array or tensor has
            the wrong dtype or layout.
    """
    if isinstance(source, LoadedImage):
        return source
    path = None
    torch = sys.modules.get("torch")  # a tensor can only come from a torch that is loaded
    if isinstance(source, np.ndarray):
        name, (array, notes) = "array", array_to_rgb(source)
    elif torch is not None and isinstance(source, torch.Tensor):
        name, (array, notes) = "tensor", tensor_to_rgb(source)
    elif isinstance(source, Image.Image):
        name = readable(Path(os.fsdecode(getattr(source, "filename", "") or "PIL image")).name)
        _check_size(source.size, name, max_pixels)
        array, notes = _pixels(source, name, allow_truncated)
    elif isinstance(source, str | Path) and Path(source) != STDIN:
        path = Path(source)
        name = readable(path.name)
        array, notes = _from_path(path, allow_truncated, max_pixels)
    else:
        name, content = _content(source)
        array, notes = _decode(io.BytesIO(content), name, allow_truncated, max_pixels)
    return LoadedImage(array, name, tuple(notes), path)


def image_size(source: str | Path | bytes) -> tuple[int, int] | None:
    """(height, width) of an image file, or of its bytes, as it will be read, from the header alone; None if it is damaged."""
    if not isinstance(source, bytes) and not os.path.isfile(source):  # opening a pipe would wait for its other end
        return None
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            image = _open_header(file, "bytes" if isinstance(source, bytes) else str(source))
            turned = exif_orientation(image.info.get("exif")) >= 5
    except (ImageError, OSError):
        return None
    return (image.width, image.height) if turned else (image.height, image.width)


def open_animation(file: IO[bytes], name: str, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """Open an image file whose frames the caller decodes, one after the other.

    Raises:
        ImageError: not an image, damaged, or too large.
    """
    image = _open_header(file, name)
    _check_size(image.size, name, max_pixels)
    return image


def _content(source: object) -> tuple[str, bytes]:
    """Name and bytes of a source that holds an encoded file."""
    if isinstance(source, str | Path):
        if sys.stdin is None or sys.stdin.isatty():
            raise ImageError(
                "'-' reads an image from standard input, but nothing is piped in: use < image.jpg or a pipe"
            )
        return "standard input", sys.stdin.buffer.read()
    if isinstance(source, bytes | bytearray | memoryview):
        return "bytes", bytes(source)
    if not hasattr(source, "read"):
        raise ImageError(
            f"an image cannot be read from {type(source).__name__}; accepted are a path, bytes, a binary file object, "
            "a PIL image, a uint8 array (H, W, 3) and a torch tensor (3, H, W)"
        )
    name, content = readable(getattr(source, "name", "file object")), source.read()
    if not isinstance(content, bytes):
        raise ImageError(f"{name} is open as text; open it with mode 'rb'")
    return name, content


def _from_path(path: Path, allow_truncated: bool, max_pixels: int | None) -> tuple[np.ndarray, list[str]]:
    name = readable(path)
    if os.path.isdir(path):
        raise ImageError(f"{name} is a folder, not an image; name a file in it, or use find_images")
    if not os.path.exists(path):
        raise missing_file(path)
    if not os.path.isfile(path):
        raise ImageError(f"{name} is a device or a pipe, not a file; to read from a pipe, use '-' (standard input)")
    try:
        with open(path, "rb") as file:
            return _decode(file, name, allow_truncated, max_pixels)
    except OSError as error:
        raise ImageError(f"cannot read {name}: {_plain(error.strerror or error)}") from error


def _decode(file: IO[bytes], name: str, allow_truncated: bool, max_pixels: int | None) -> tuple[np.ndarray, list[str]]:
    image = _open_header(file, name)
    _check_size(image.size, name, max_pixels)
    notes = []
    if image.format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF"):
        try:
            several = getattr(image, "n_frames", 1) > 1
            image.seek(0)
        except Exception:  # a later frame exists but is damaged
            several = True
        if several:
            notes.append("several pages: first used" if image.format == "TIFF" else "animated: first frame used")
    array, more = _pixels(image, name, allow_truncated, file)
    return array, notes + more


def _open_header(file: IO[bytes], name: str) -> Image.Image:
    """Recognise the format and read the header, but no pixels."""
    prefix = file.read(32)
    if not prefix:
        raise ImageFormatError(f"{name} is empty (0 bytes)")
    prefix = prefix.ljust(32, b"\0")  # some of Pillow's checks fail on fewer bytes than they look at
    Image.init()
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS and "HEIF" not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            raise ImageFormatError(
                f"{name} is a HEIC image, which needs the package pillow-heif: run pip install 'talk2dino[heic]', "
                "or convert it to JPEG"
            ) from None
        pillow_heif.register_heif_opener()
    for kind in FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        file.seek(0)
        try:
            return _Jpeg(file) if kind == "JPEG" else factory(file, "")
        except Image.DecompressionBombError as error:
            raise ImageSizeError(f"{name} claims too many pixels: {error}") from error
        except Exception as error:  # a hostile header can make a decoder fail in any way
            raise ImageError(f"{name} starts like {kind} but is truncated or damaged ({_plain(error)})") from error
    guesses = (what for start, what in _MISTAKEN.items() if prefix.startswith(start))
    guess = "a video" if prefix[4:8] == b"ftyp" else next(guesses, "")
    looks = f"; it looks like {guess}" if guess else ""
    raise ImageFormatError(f"{name} is not an image that can be read{looks} (accepted: {', '.join(FORMATS)})")


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Does not look into EXIF for a resolution: that makes Pillow warn when the block is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _check_size(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); an image is at least 1 x 1")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageSizeError(
            f"{name} has {width * height:,} pixels ({width} x {height}), more than the limit of {max_pixels:,}",
            "if you trust the file, raise the limit with --max-pixels (in Python: max_pixels=)",
        )


def _pixels(
    image: Image.Image, name: str, allow_truncated: bool, file: IO[bytes] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Decode, convert to RGB and turn upright."""
    try:
        image, notes = _load(image, name, allow_truncated, file)
        array, more = to_rgb(image)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name} ({image.width} x {image.height}) does not fit into memory") from error
    except Exception as error:  # a hostile file can make a decoder fail in any way
        raise ImageError(f"{name} is damaged: {_plain(error)}") from error
    orientation = exif_orientation(image.info.get("exif"))  # TIFF has none there: Pillow turns it when it decodes
    if orientation != 1:
        array = turn_upright(array, orientation)
        more.append("EXIF rotation applied")
    return array, notes + more


def _load(
    image: Image.Image, name: str, allow_truncated: bool, file: IO[bytes] | None
) -> tuple[Image.Image, list[str]]:
    """Decode the pixels; if the file is truncated or damaged and that is allowed, the part that is there."""
    try:
        image.load()
        return image, []
    except Exception as error:
        damage = "truncated" if "truncated" in str(error) else "damaged"
        if not allow_truncated:
            raise ImageError(
                f"{name} is {damage} ({_plain(error)})",
                "to read the part that is there, pass --allow-truncated (in Python: allow_truncated=True)",
            ) from error
        first = error
    if file is not None and image.format == "JPEG" and damage == "truncated":
        # libjpeg gives up its last rows only at an end marker; many of them fill a segment that was cut
        file.seek(0)
        image = _Jpeg(io.BytesIO(file.read() + b"\xff\xd9" * 40_000))
        try:
            image.load()
        except Exception as error:
            first = error
    image.tile = []  # type: ignore[attr-defined]  # nothing is left to decode: keep the rows decoded so far
    image.load()
    if image.getbbox() is None:
        raise ImageError(f"{name} is {damage}, and nothing of it can be read ({_plain(first)})") from first
    return image, [f"{damage}: read the part that is there"]


def _plain(error: Exception | str) -> str:
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
