"""Images to normalised tensors: resizing, windows, the patch grid, ImageNet statistics. RGB, sizes are (height, width)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from talk2dino.errors import ImageError, InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = ("whole", "slide", "square")
#: Longest side, in patches, of an image in whole mode. Attention over more patches would not fit in memory.
LONGEST_GRID = 256
#: OpenCV's fixed-point weights: 11 bits.
_ONE = 2048


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) RGB 0..255 to ImageNet-normalised float32."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


def to_pixels(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32, 0..255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height, width, 3) uint8 for whole and square mode: bicubic, antialiased."""
    if image.shape[:2] == size:
        return image
    reducing_gap = 2.0 if min(image.shape[0] / size[0], image.shape[1] / size[1]) > 4 else None
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=reducing_gap)
    return np.asarray(resized)


def resize_for_slide(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Resize for slide mode, bit-equal to ``cv2.resize`` with INTER_LINEAR: bilinear, not antialiased.

    The published evaluation resizes with OpenCV, whose 8-bit version works in integers. Each output pixel is a weighted
    sum of 2 x 2 input pixels, with weights rounded to multiples of 1/2048 and bits cut off after each of the two passes.

    Args:
        image: (H, W, 3) uint8.
        size: (height, width). Only the input rows that contribute are read.

    Returns:
        (3, height, width) float32, whole numbers 0..255.

    Source: OpenCV 4, modules/imgproc/src/resize.cpp (HResizeLinear, VResizeLinear<uchar>); mmcv's Resize calls it.
    """
    if image.shape[:2] == size:
        return to_pixels(image)
    (rows, down), (columns, across) = (_neighbours(*pair) for pair in zip(image.shape[:2], size, strict=True))
    used, place = np.unique(rows, return_inverse=True)
    source = torch.from_numpy(image[used])  # [rows used, W, 3]
    left, right = (
        source.index_select(1, torch.from_numpy(index)).int() * weight[:, None]
        for index, weight in zip(columns, across, strict=True)
    )
    blended = (left + right) >> 4  # [rows used, width, 3]
    top, bottom = (
        (blended[index] * weight[:, None, None]) >> 16 for index, weight in zip(place.reshape(2, -1), down, strict=True)
    )
    return ((top + bottom + 2) >> 2).permute(2, 0, 1).float()


def _neighbours(length: int, count: int) -> tuple[np.ndarray, Tensor]:
    """(2, count) lower and upper of ``length`` pixels around each of ``count`` pixel centres, and their int32 weights."""
    centres = ((np.arange(count) + 0.5) * (1 / (count / length)) - 0.5).astype(np.float32)
    lower = np.floor(centres)
    share = centres - lower
    weights = np.rint(np.stack([1 - share, share]) * np.float32(_ONE)).astype(np.int32)
    places = np.stack([lower, lower + 1]).astype(np.int64).clip(0, length - 1)
    return places, torch.from_numpy(weights)


def fit_window(window: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) RGB 0..255 of a window to the (3, height, width) that the model sees: bilinear, antialiased.

    Windows have another size than the model's input if the image is smaller than a window.
    """
    if tuple(window.shape[1:]) == tuple(size):
        return window
    return F.interpolate(window[None], size, mode="bilinear", antialias=True)[0].clamp_(0, 255)


def fits_whole(height: int, width: int, short_side: int, patch: int) -> bool:
    """Whether whole mode accepts an image of this size: its longer side has at most 256 patches."""
    return max(_grid(height, width, short_side, patch)) <= LONGEST_GRID


def grid_size(height: int, width: int, short_side: int, patch: int) -> tuple[int, int]:
    """Size to which an image is resized in whole mode.

    The short side becomes ``short_side``, the long side keeps the aspect ratio, both rounded to multiples of the patch.

    Raises:
        ImageError: the image does not pass :func:`fits_whole`.
    """
    rows, columns = _grid(height, width, short_side, patch)
    if max(rows, columns) > LONGEST_GRID:
        raise ImageError(
            f"an image of {height} x {width} pixels is too elongated for the mode 'whole': its longer side would have "
            f"{max(rows, columns)} patches, at most {LONGEST_GRID} are accepted; use the mode 'slide' or 'square', or crop it"
        )
    return rows * patch, columns * patch


def _grid(height: int, width: int, short_side: int, patch: int) -> tuple[int, int]:
    scale = short_side / min(height, width)
    return max(1, round(height * scale / patch)), max(1, round(width * scale / patch))


def slide_size(height: int, width: int, short_side: int, longest: int = 2048) -> tuple[int, int]:
    """Size to which the published protocol resizes: short side 448, aspect ratio kept, long side at most 2048.

    Source: mmcv's rescale_size with scale (2048, 448), as the published evaluation configures it.
    """
    scale = min(longest / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def check_mode(mode: str) -> str:
    """Return ``mode`` if it is one of :data:`MODES`.

    Raises:
        InputError: it is not.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; accepted: {', '.join(MODES)}")
    return mode
