"""Pictures to normalised tensors: resizing, the patch grid, ImageNet statistics. RGB everywhere, sizes (height, width)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from talk2dino.errors import ImageError, InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Longest side, in patches, of a picture in whole-image mode: beyond it, attention would not fit in memory.
LONGEST_GRID = 256


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) RGB 0..255 to ImageNet-normalised float32."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


def to_pixels(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32, 0..255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def resize_image(
    image: np.ndarray, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """(H, W, 3) uint8 to (height, width, 3) uint8, antialiased."""
    if image.shape[:2] == size:
        return image
    reducing_gap = 2.0 if min(image.shape[0] / size[0], image.shape[1] / size[1]) > 4 else None
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample, reducing_gap=reducing_gap))


def resize_for_slide(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 to (3, height, width) float32 of whole numbers 0..255: bilinear, not antialiased.

    Source: mmcv's Resize of the published evaluation, which is OpenCV's INTER_LINEAR on uint8; pixel centres are aligned,
    four pixels are read whatever the scale, and the result is rounded (halves upwards). Antialiasing changes a Cityscapes
    picture by 1.8 of 255 on average.
    """
    if image.shape[:2] == size:
        return to_pixels(image)
    (top, bottom, down), (left, right, across) = (
        _between(length, count) for length, count in zip(image.shape[:2], size, strict=True)
    )
    rows = torch.lerp(
        _double(image[top]), _double(image[bottom]), torch.from_numpy(down)[:, None, None]
    )  # [height, W, 3]
    low, high = (rows.index_select(1, torch.from_numpy(columns)) for columns in (left, right))
    resized = torch.lerp(low, high, torch.from_numpy(across)[None, :, None])  # [height, width, 3]
    resized = resized.add_(0.500001).floor_()  # the last bit of a weight must not decide about a half
    return resized.float().permute(2, 0, 1)


def _double(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).double()


def _between(length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where ``count`` pixel centres fall between ``length`` others: the lower, the higher, the share of the higher."""
    place = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), place - low


def fit_window(window: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, h, w) pixels of a window to the (height, width) that the model sees; only images smaller than a window need it."""
    if tuple(window.shape[1:]) == tuple(size):
        return window
    return F.interpolate(window[None], size, mode="bilinear", antialias=True)[0].clamp_(0, 255)


def grid_size(height: int, width: int, short_side: int, patch: int) -> tuple[int, int]:
    """Size to which a picture is resized in whole-image mode.

    The short side becomes ``short_side``, the long side keeps the aspect ratio, both rounded to multiples of the patch.

    Raises:
        ImageError: if the picture is so elongated that its long side would exceed 256 patches.
    """
    scale = short_side / min(height, width)
    rows, columns = (max(1, round(side * scale / patch)) for side in (height, width))
    if max(rows, columns) > LONGEST_GRID:
        raise ImageError(
            f"a picture of {height} x {width} pixels is too elongated for whole-image mode (its long side would be "
            f"{max(rows, columns)} patches, at most {LONGEST_GRID}); use mode='slide' or 'square', or crop it"
        )
    return rows * patch, columns * patch


def slide_size(height: int, width: int, short_side: int, longest: int = 2048) -> tuple[int, int]:
    """Size to which the published protocol resizes: short side 448, ratio kept, long side at most 2048.

    Source: mmcv's rescale_size with scale (2048, 448), as the published evaluation configures it.
    """
    scale = min(longest / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def check_mode(mode: str) -> str:
    if mode not in ("whole", "slide", "square"):
        raise InputError(f"unknown mode {mode!r}; accepted: whole, slide, square")
    return mode
