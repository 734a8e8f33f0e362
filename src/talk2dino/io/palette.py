"""One colour per class name: the same in every image and for every order of the prompts, and no colour twice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from talk2dino.errors import InputError

Colour = tuple[int, int, int]

BACKGROUND_COLOUR: Colour = (0, 0, 0)

# Okabe and Ito's seven, then colours picked greedily: each the farthest in OKLab from those before it, from greys and
# white, seen with normal eyes and, weighted 1.6, with simulated deuteranopia and protanopia (Machado et al. 2009).
_FIRST = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66),
    (0, 0, 255), (0, 240, 180), (150, 105, 255), (150, 60, 120), (135, 75, 0), (240, 195, 255), (90, 45, 195),
    (150, 195, 120), (225, 30, 210), (255, 45, 105), (195, 45, 75), (255, 120, 210), (165, 255, 150),
)  # fmt: skip
_SALT = "2024714"  # with it, sky and water are blue, grass and tree green, sand is orange
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_LIGHTNESS = np.array([0.72, 0.52, 0.84, 0.62])
_CHROMA = np.array([0.15, 0.10, 0.19])


def class_palette(names: Sequence[str], background: int | None = None) -> np.ndarray:
    """Choose a colour for each class by a hash of its name (upper and lower case count as equal).

    The order of the names does not matter. The hash picks one of the 20 most distinct colours, or the next free one if
    another name has it; names beyond the first 20 get further colours in the same way. So another class in the list
    changes only the colours of names that compete with it.

    Args:
        names: N class names.
        background: index of the background, which is black.

    Returns:
        (N, 3) uint8, RGB; no colour twice.
    """
    count = len(names)
    if background is not None and not 0 <= background < count:
        raise InputError(f"background {background} is not the index of one of the {count} names")
    palette = np.empty((count, 3), dtype=np.uint8)
    ranked = sorted((_hash(name), name, i) for i, name in enumerate(names) if i != background)
    levels = [(ranked[: len(_FIRST)], np.array(_FIRST, dtype=np.uint8))]
    if len(ranked) > len(_FIRST):
        rest = ranked[len(_FIRST) :]
        levels.append((rest, _spiral(max(256, 2 ** math.ceil(math.log2(1.4 * len(rest)))))))
    for ranks, colours in levels:
        taken = bytearray(len(colours))
        for number, _, i in ranks:
            slot = number % len(colours)
            while taken[slot]:
                slot = (slot + 1) % len(colours)
            taken[slot] = 1
            palette[i] = colours[slot]
    if background is not None:
        palette[background] = BACKGROUND_COLOUR
    return palette


def _hash(name: str) -> int:
    text = _SALT + name.casefold()
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:8], "big")


@lru_cache(maxsize=4)
def _spiral(count: int) -> np.ndarray:
    """Hues a golden angle apart in OKLCH, lightness and chroma in turn, so that neighbours differ in all three."""
    step = np.arange(2 * count)
    colours = _oklch(_LIGHTNESS[step % 4] + 0.03 * np.sin(step), _CHROMA[step % 3], 0.6 + step * _GOLDEN_ANGLE)
    known = np.concatenate([np.array([*_FIRST, BACKGROUND_COLOUR], dtype=np.uint8), colours])
    first = np.sort(np.unique(known, axis=0, return_index=True)[1])
    return known[first[first > len(_FIRST)]][:count]


def _oklch(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCH (N,) each -> sRGB (N, 3) uint8; colours outside sRGB lose chroma until they are inside (Ottosson 2020)."""
    for _ in range(60):
        a, b = chroma * np.cos(hue), chroma * np.sin(hue)
        cones = np.stack([
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ])  # fmt: skip
        linear = _FROM_CONES @ cones**3
        outside = (linear.min(axis=0) < -1e-4) | (linear.max(axis=0) > 1 + 1e-4)
        if not outside.any():
            break
        chroma = np.where(outside, 0.94 * chroma, chroma)
    linear = np.clip(linear.T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(curved * 255).astype(np.uint8)


_FROM_CONES = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])  # fmt: skip
