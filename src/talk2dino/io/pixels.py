"""Convert whatever an image is stored as to (H, W, 3) uint8, RGB, 0..255.

Handled here is what Pillow's ``convert("RGB")`` gets wrong: 16-bit and float grey, transparency and LAB. The EXIF
orientation is parsed here because Pillow decodes a whole PNG to find it, and warns or raises when the block is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from talk2dino.errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

_EIGHT_BIT_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_ORIENTATION_TAG = 0x0112


def to_rgb(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Convert a loaded PIL image to a contiguous (H, W, 3) uint8 array; also return notes on what was changed."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float32) / 257), ["16 bit scaled to 8"]
    if mode in ("I", "F"):
        return _wide_grey(np.asarray(image))
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return np.array(converted), ["LAB converted"]
    if mode in _EIGHT_BIT_ALPHA or "transparency" in image.info:
        return _on_white(np.asarray(image.convert("RGBA")))
    notes = ["CMYK converted without a colour profile"] if mode == "CMYK" else []
    return np.array(image.convert("RGB")), notes


def array_to_rgb(array: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Check and convert an array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, 0..255.

    Raises:
        ImageError: any other dtype or layout, or an empty array.
    """
    given = f"array {array.dtype} {array.shape}"
    colours = array.shape[2] in (1, 3, 4) if array.ndim == 3 else array.ndim == 2
    accepted = "accepted are uint8 arrays, 0..255, of shape (H, W, 3) in RGB order, (H, W) or (H, W, 4)"
    if array.ndim == 3 and not colours and array.shape[0] in (1, 3, 4):
        raise ImageError(f"{given} looks channels-first; {accepted}: use array.transpose(1, 2, 0)")
    if array.ndim == 4:
        raise ImageError(f"{given} looks like a batch; pass its images one by one, or a list of them")
    if not colours:
        raise ImageError(f"{given} is not an image; {accepted}")
    if array.dtype != np.uint8:
        raise ImageError(f"{given} is not uint8; {accepted}: scale to 0..255 and use .astype(np.uint8)")
    if 0 in array.shape:
        raise ImageError(f"{given} has no pixels; an image is at least 1 x 1")
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2), []
    if array.shape[2] == 4:
        return _on_white(array)
    return np.array(array, order="C"), []


def tensor_to_rgb(tensor: Tensor) -> tuple[np.ndarray, list[str]]:
    """Check and convert a torch tensor: (3, H, W) or (H, W, 3), RGB, uint8 0..255 or floating point 0..1.

    A tensor that is 3 long in its first and its last dimension counts as (3, H, W). One channel instead of three is grey.

    Raises:
        ImageError: any other dtype or layout, or floating-point values outside 0..1.
    """
    given = f"tensor {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    accepted = "accepted are (3, H, W) and (H, W, 3) in RGB order, uint8 0..255 or floating point 0..1"
    if tensor.ndim == 4:
        raise ImageError(f"{given} looks like a batch; pass its images one by one, or a list of them")
    if tensor.ndim != 3 or not {tensor.shape[0], tensor.shape[2]} & {1, 3} or not tensor.numel():
        raise ImageError(f"{given} is not an image; {accepted}")
    array = tensor.detach().cpu()
    if tensor.shape[0] == 3 or (tensor.shape[0] == 1 and tensor.shape[2] != 3):
        array = array.permute(1, 2, 0)
    if tensor.is_floating_point():
        array = array.float()
        low, high = array.min().item(), array.max().item()
        if not (low >= 0 and high <= 1):  # NaN included
            raise ImageError(f"{given} has values {low:g}..{high:g}; {accepted} (undo a normalisation first)")
        array = (array * 255).round().byte()
    if array.element_size() != 1:
        raise ImageError(f"{given} is not an image; {accepted}")
    return array_to_rgb(array.numpy())


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
    """Orientation 1..8 from raw EXIF bytes; 1 when there is none or the block is damaged."""
    tiff = (exif or b"").removeprefix(b"Exif\x00\x00")
    if tiff[:2] not in (b"II", b"MM"):
        return 1

    def number(start: int, length: int) -> int:
        return int.from_bytes(tiff[start : start + length], "little" if tiff[:2] == b"II" else "big")

    directory = number(4, 4)
    entries = min(number(directory, 2), (len(tiff) - directory) // 12)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        if number(entry, 2) == _ORIENTATION_TAG:
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
    """(H, W) 0..255 of any number type -> (H, W, 3) uint8."""
    return np.repeat(np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _wide_grey(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """32-bit integers or floats, whose range the file does not state: 0..1, 0..255, 0..65535, else stretched."""
    floating = values.dtype.kind == "f"
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and floating and high <= 1:
        return _grey(finite * 255), ["float 0..1 scaled to 0..255"]
    if low >= 0 and high <= 255:
        return _grey(finite), []
    if low >= 0 and high <= 65535 and not floating:
        return _grey(finite / 257), ["16 bit scaled to 8"]
    scale = 255 / (high - low) if high > low else 0
    return _grey((finite - low) * scale), [f"values {low:g}..{high:g} stretched to 0..255"]
