"""Whatever a picture is stored as, its pixels as (H, W, 3) uint8, RGB, 0..255."""

from __future__ import annotations

import numpy as np
from PIL import Image

from talk2dino.errors import ImageError

ORIENTATION_TAG = 0x0112
_EIGHT_BIT_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def to_rgb(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Convert a loaded PIL image of any mode to RGB; transparency is composited on white.

    Returns:
        array: (H, W, 3) uint8, contiguous and writable.
        notes: what was changed on the way, in words.
    """
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return np.array(image), []
    if mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float32) / 257), ["16 bit scaled to 8"]
    if mode in ("I", "F"):
        return _wide_grey(np.asarray(image))
    if mode == "LAB":
        return np.array(_lab_to_rgb(image)), ["LAB converted"]
    if mode in _EIGHT_BIT_ALPHA or "transparency" in image.info:
        return _on_white(np.asarray(image.convert("RGBA")))
    notes = ["CMYK converted without a colour profile"] if mode == "CMYK" else []
    return np.array(image.convert("RGB")), notes


def array_to_rgb(array: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Check and convert a caller's array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, 0..255.

    Raises:
        ImageError: for any other type, layout, or an empty array.
    """
    came = f"{array.dtype} {array.shape}"
    accepted = "accepted are uint8 arrays, 0..255, of shape (H, W, 3) in RGB order, (H, W) or (H, W, 4)"
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise ImageError(f"array {came} looks channels-first; {accepted}: use array.transpose(1, 2, 0)")
    if array.ndim == 4:
        raise ImageError(f"array {came} looks like a batch; pass its pictures one by one, or a list of them")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"array {came} is not a picture; {accepted}")
    if array.dtype != np.uint8:
        advice = "scale to 0..255 and use .astype(np.uint8)"
        raise ImageError(f"array {came} is not uint8; {accepted}: {advice}")
    if 0 in array.shape:
        raise ImageError(f"array {came} has no pixels; a picture is at least 1 x 1")
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2), []
    if array.shape[2] == 4:
        return _on_white(array)
    return np.array(array, order="C"), []


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1..8) of an (H, W, 3) array; 5..8 swap height and width."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def exif_orientation(exif: bytes | None) -> int:
    """Orientation 1..8 from raw EXIF bytes; 1 when there is none or the block is damaged.

    Read here, in a few lines, because a damaged block makes Pillow warn or raise in many ways.
    """
    if not exif:
        return 1
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(start: int, length: int) -> int:
        return int.from_bytes(tiff[start : start + length], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    entries = min(number(directory, 2), (len(tiff) - directory) // 12)
    for i in range(max(entries, 0)):
        entry = directory + 2 + 12 * i
        if number(entry, 2) == ORIENTATION_TAG:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _on_white(rgba: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W, 4) -> (H, W, 3): colour * alpha + white * (1 - alpha)."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3]), []
    weight = alpha.astype(np.uint16)
    mixed = (rgba[..., :3] * weight + 255 * (255 - weight) + 127) // 255
    return mixed.astype(np.uint8), ["transparency put on white"]


def _grey(values: np.ndarray) -> np.ndarray:
    """(H, W) 0..255, any number type -> (H, W, 3) uint8."""
    whole = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(whole[..., None], 3, axis=2)


def _wide_grey(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """32-bit whole numbers or floats, whose range nothing tells: 0..1, 0..255, 0..65535, else stretched."""
    floating = values.dtype.kind == "f"
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and floating and high <= 1:
        return _grey(finite * 255), ["float 0..1 scaled to 0..255"]
    if low >= 0 and high <= 255:
        return _grey(finite), []
    if low >= 0 and high <= 65535 and not floating:
        return _grey(finite / 257), ["16 bit scaled to 8"]
    return _grey((finite - low) * (255 / (high - low) if high > low else 0)), [
        f"values {low:g}..{high:g} stretched to 0..255"
    ]


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return converted if converted is not None else image.convert("L").convert("RGB")
