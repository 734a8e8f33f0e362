"""Pictures in: path, bytes, file object, PIL image or array -> (H, W, 3) uint8, RGB, 0..255.

Size is checked from the header before anything is decoded, and no global setting of Pillow's is read or changed, so
that it is the same in every thread and beside any other use of Pillow.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, JpegImagePlugin

from talk2dino.errors import ImageError
from talk2dino.io.find import IMAGE_ENDINGS, find_images, missing_file
from talk2dino.io.pixels import array_to_rgb, exif_orientation, to_rgb, turn_upright

__all__ = ["FORMATS", "IMAGE_ENDINGS", "MAX_PIXELS", "Picture", "find_images", "image_size", "read_image"]

MAX_PIXELS = 180_000_000
"""Pictures with more pixels are refused unless ``max_pixels`` is raised: a few kilobytes can claim to be that large."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI")
"""Read by content, whatever the ending. Others (EPS, WMF, ...) would start outside programs or have no signature."""

_SIGNATURES = (  # what people hand over by mistake
    (b"%PDF", 0, "a PDF document"),
    (b"%!PS", 0, "a PostScript document"),
    (b"<svg", 0, "an SVG drawing"),
    (b"<?xml", 0, "an XML file"),
    (b"<!DOCTYPE", 0, "a web page"),
    (b"<html", 0, "a web page"),
    (b"PK\x03\x04", 0, "a ZIP archive"),
    (b"\x1f\x8b", 0, "a gzip archive"),
    (b"8BPS", 0, "a Photoshop file"),
    (b"ftyphei", 4, "a HEIC picture"),
    (b"ftypmif1", 4, "a HEIF picture"),
    (b"ftyp", 4, "a video"),
    (b"\x93NUMPY", 0, "a NumPy array"),
)


_ASK = "to read what is there, pass allow_truncated=True"


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        array: (H, W, 3) uint8, RGB, 0..255, C-contiguous and writable.
        name: file name, or what the source was, for messages.
        notes: what was done to it beyond plain reading: 'EXIF rotation applied', 'animated: first frame used', ...
        path: where it came from, None for anything but files.
    """

    array: np.ndarray
    name: str
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.array.shape[0], self.array.shape[1]


def read_image(
    source: str | Path | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray | Picture,
    *,
    allow_truncated: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    draft_size: tuple[int, int] | None = None,
) -> Picture:
    """Read one picture.

    Colour modes of any kind are converted, transparency is put on white, EXIF rotation is applied (to files and to PIL
    images alike), and of an animation the first frame is taken; ``notes`` of the result says so.

    Args:
        source: a path, the bytes of a file, a binary file object (read from where it stands), a PIL image, or a uint8
            array of shape (H, W, 3) in RGB order, (H, W) or (H, W, 4).
        allow_truncated: read what is there of a truncated or damaged file; what is missing stays black or grey.
        max_pixels: refuse files that claim more pixels than this; None for no limit.
        draft_size: (height, width) that is enough for the caller: a JPEG at least twice as large is decoded at 1/2,
            1/4 or 1/8 of its size, which is several times faster. The result is smaller than the file says.

    Raises:
        ImageError: the file is missing, empty, not a picture, truncated or damaged, or too large; the array has the
            wrong type or layout.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        array, notes = array_to_rgb(source)
        return Picture(array, "array", tuple(notes))
    if isinstance(source, Image.Image):
        return _from_pil(source, allow_truncated, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "bytes", allow_truncated, max_pixels, draft_size)
    if isinstance(source, str | Path):
        return _from_path(Path(source), allow_truncated, max_pixels, draft_size)
    if hasattr(source, "read"):
        content = source.read()
        name = str(getattr(source, "name", "file object"))
        if not isinstance(content, bytes):
            raise ImageError(f"{name} is open as text; open it with mode 'rb'")
        return _from_bytes(content, name, allow_truncated, max_pixels, draft_size)
    hint = ": use tensor.permute(1, 2, 0).cpu().numpy()" if type(source).__module__.startswith("torch") else ""
    raise ImageError(
        f"a picture cannot be read from {type(source).__name__}; accepted are a path, bytes, a binary file object, "
        f"a PIL image and a uint8 array (H, W, 3){hint}"
    )


def image_size(path: str | Path) -> tuple[int, int] | None:
    """(height, width) of a picture file as it will be read, from its header alone; None where that cannot be said."""
    try:
        with open(path, "rb") as file:
            image = open_header(file, str(path))
            turned = exif_orientation(image.info.get("exif")) >= 5
    except (ImageError, OSError):
        return None
    return (image.width, image.height) if turned else (image.height, image.width)


def _from_path(path: Path, allow_truncated: bool, max_pixels: int | None, draft_size: Any) -> Picture:
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder, not a picture; name a file in it, or use find_images")
    if not os.path.exists(path):
        raise missing_file(path)
    if not path.is_file():
        raise ImageError(f"{path} is a device or a pipe, not a file; read it yourself and pass the bytes")
    try:
        with open(path, "rb") as file:
            array, notes = _decode(file, str(path), allow_truncated, max_pixels, draft_size)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"cannot read {path}: {reason[:1].lower()}{reason[1:]}") from error
    return Picture(array, path.name, tuple(notes), path)


def _from_bytes(content: bytes, name: str, allow_truncated: bool, max_pixels: int | None, draft_size: Any) -> Picture:
    array, notes = _decode(io.BytesIO(content), name, allow_truncated, max_pixels, draft_size)
    return Picture(array, name, tuple(notes))


def _from_pil(image: Image.Image, allow_truncated: bool, max_pixels: int | None) -> Picture:
    filename = getattr(image, "filename", "")
    name = Path(os.fsdecode(filename)).name if filename else "PIL image"
    _check_size(image.size, name, max_pixels)
    array, notes = _pixels(image, name, allow_truncated)
    return Picture(array, name, tuple(notes))


def _decode(
    file: IO[bytes], name: str, allow_truncated: bool, max_pixels: int | None, draft_size: Any
) -> tuple[np.ndarray, list[str]]:
    image = open_header(file, name)
    _check_size(image.size, name, max_pixels)
    notes = []
    if image.format == "JPEG" and draft_size is not None:
        notes += _draft(image, draft_size)
    array, more = _pixels(image, name, allow_truncated, file)
    return array, notes + more


def open_header(file: IO[bytes], name: str) -> Image.Image:
    """Recognise the kind, read the header, no pixels. Not Image.open: its size limit and warnings hang on globals."""
    prefix = file.read(32)
    if not prefix:
        raise ImageError(f"{name} is empty (0 bytes)")
    Image.init()
    for kind in FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        file.seek(0)
        try:
            return _Jpeg(file) if kind == "JPEG" else factory(file, "")
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name} claims too many pixels: {error}") from error
        except Exception as error:  # a hostile header can make a decoder fail in any way
            reason = f"truncated or damaged ({_plain(error)})"
            raise ImageError(f"{name} starts like {kind} but is {reason}") from error
    looks = next((f"; it looks like {what}" for sign, at, what in _SIGNATURES if prefix[at:].startswith(sign)), "")
    raise ImageError(f"{name} is not a picture that can be read{looks} (accepted: {', '.join(FORMATS)})")


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Without the look into EXIF for a resolution, which warns when the block is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _check_size(size: tuple[int, int], name: str, max_pixels: int | None) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); a picture is at least 1 x 1")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"{name} has {width * height:,} pixels ({width} x {height}), more than the limit of {max_pixels:,}; "
            "if you trust the file, raise max_pixels"
        )


def _draft(image: Image.Image, draft_size: tuple[int, int]) -> list[str]:
    height, width = draft_size
    if exif_orientation(image.info.get("exif")) >= 5:
        height, width = width, height
    full = image.size
    image.draft(None, (max(width, 1), max(height, 1)))
    return [f"decoded at {image.width} x {image.height} of {full[0]} x {full[1]}"] if image.size != full else []


def _pixels(
    image: Image.Image, name: str, allow_truncated: bool, file: IO[bytes] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Decode, convert to RGB and turn upright."""
    notes = []
    try:
        if file is not None and image.format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF") and _frames(image) > 1:
            notes.append("several pages: first used" if image.format == "TIFF" else "animated: first frame used")
        notes += _load(image, name, allow_truncated, file)
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


def _frames(image: Image.Image) -> int:
    try:
        count = getattr(image, "n_frames", 1)
        image.seek(0)
    except (EOFError, OSError, SyntaxError):  # a later frame is damaged: there is one, that is all to know
        count = 2
    return count


def _load(image: Image.Image, name: str, allow_truncated: bool, file: IO[bytes] | None) -> list[str]:
    """Decode the pixels; of a truncated or damaged file, what is there, if that is allowed."""
    ends_early = file is not None and not _has_end(file, image.format)
    if file is not None and ends_early and allow_truncated and image.format == "JPEG":
        image.fp = _Continued(file)  # type: ignore[attr-defined]
    damage = "truncated"
    try:
        image.load()
    except Exception as error:
        damage = "truncated" if ends_early or "truncated" in str(error) else "damaged"
        if not allow_truncated:
            raise ImageError(f"{name} is {damage} ({_plain(error)}); {_ASK}") from error
        image.tile = []  # type: ignore[attr-defined]  # nothing more to decode: what came so far is the picture
        image.load()
        if image.getbbox() is None:
            raise ImageError(f"{name} is {damage}, and nothing of it can be read ({_plain(error)})") from error
    else:
        if not ends_early:
            return []
        if not allow_truncated:
            raise ImageError(f"{name} is truncated (its end is missing); {_ASK}")
    return [f"{damage}: read what is there"]


def _has_end(file: IO[bytes], kind: str | None) -> bool:
    """Whether a PNG or JPEG file has its end marker (True for other kinds, whose decoders tell)."""
    if kind not in ("PNG", "JPEG"):
        return True
    start = file.tell()
    try:
        if kind == "PNG":
            return any(name == b"IEND" for name in _png_chunks(file))
        file.seek(0)
        content = file.read()
        return content.endswith(b"\xff\xd9") or content.rfind(b"\xff\xd9", _first_scan(content)) >= 0
    finally:
        file.seek(start)


def _first_scan(jpeg: bytes) -> int:
    """Where the first scan begins: behind the header's segments, one of which may hold a whole thumbnail."""
    position = 2
    while jpeg[position : position + 1] == b"\xff" and jpeg[position + 1 : position + 2] != b"\xda":
        position += 2 + max(int.from_bytes(jpeg[position + 2 : position + 4], "big"), 2)
    return position


def _png_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Names of the chunks that are whole."""
    size = file.seek(0, os.SEEK_END)
    position = 8
    while position + 12 <= size:
        file.seek(position)
        head = file.read(8)
        position += 12 + int.from_bytes(head[:4], "big")
        if position <= size:
            yield head[4:]


class _Continued:
    """A truncated JPEG with end markers after its last byte, so that the decoder finishes what it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = 64  # enough markers to fill a segment that was cut

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        if content or not self._left:
            return content
        self._left -= 1
        return b"\xff\xd9" * 1024

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _plain(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
