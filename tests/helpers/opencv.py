"""OpenCV's bilinear resize of 8-bit images, pixel by pixel, as modules/imgproc/src/resize.cpp of OpenCV 4 computes it."""

from __future__ import annotations

import math

import numpy as np


def opencv_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) for (H, W, 3) uint8."""
    if image.shape[:2] == size:
        return image.copy()
    height, width = size
    rows, columns = image.shape[:2]
    values = image.astype(int)
    resized = np.zeros((height, width, 3), np.uint8)
    for y in range(height):
        top, b0, b1 = position(y, rows, height)
        upper, lower = (values[min(max(row, 0), rows - 1)] for row in (top, top + 1))
        for x in range(width):
            left, a0, a1 = position(x, columns, width)
            if left < 0 or left >= columns - 1:  # outside the outermost centres: the border pixel
                left, a0, a1 = min(max(left, 0), columns - 1), 2048, 0
            right = min(left + 1, columns - 1)
            s0, s1 = (row[left] * a0 + row[right] * a1 for row in (upper, lower))
            resized[y, x] = ((b0 * (s0 >> 4) >> 16) + (b1 * (s1 >> 4) >> 16) + 2) >> 2
    return resized


def position(index: int, length: int, count: int) -> tuple[int, int, int]:
    """The lower neighbour of an output pixel, and the weights of both neighbours in 11 bits."""
    centre = np.float32((index + 0.5) * (1 / (count / length)) - 0.5)
    lower = math.floor(centre)
    share = np.float32(centre - lower)
    return lower, int(np.rint(np.float32(1 - share) * 2048)), int(np.rint(share * 2048))
