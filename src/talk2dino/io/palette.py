"""Colours for N classes: the same every time, told apart by colour-blind eyes as far as that goes."""

from __future__ import annotations

import numpy as np

from talk2dino.errors import InputError

BACKGROUND_COLOUR = (64, 64, 64)

# Okabe and Ito's seven, then colours picked greedily: each the farthest in OKLab from those before it, from greys and
# white, seen with normal eyes and, weighted 1.6, with simulated deuteranopia and protanopia (Machado et al. 2009).
_FIRST = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66),
    (0, 0, 255), (0, 240, 180), (150, 105, 255), (150, 60, 120), (135, 75, 0), (240, 195, 255), (90, 45, 195),
    (150, 195, 120), (225, 30, 210), (255, 45, 105), (195, 45, 75), (255, 120, 210), (165, 255, 150),
)  # fmt: skip
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_LIGHTNESS = (0.72, 0.52, 0.84, 0.62)
_CHROMA = (0.15, 0.10, 0.19)


def class_palette(count: int, background: int | None = None) -> np.ndarray:
    """One colour a class.

    Colours depend on a class's place among the classes alone: with and without a background, and whatever comes after
    it, a class keeps its colour. The background is dark grey.

    Returns:
        (count, 3) uint8, RGB; no colour twice.
    """
    if count < 0 or (background is not None and not 0 <= background < count):
        raise InputError(f"a palette of {count} colours with background {background}: expected 0 <= background < count")
    classes = count - (background is not None)
    colours = np.array(_FIRST[:classes], dtype=np.uint8).reshape(-1, 3)
    if classes > len(_FIRST):
        colours = np.concatenate([colours, _spiral(classes - len(_FIRST))])
    if background is None:
        return colours
    return np.insert(colours, background, np.array(BACKGROUND_COLOUR, dtype=np.uint8), axis=0)


def _spiral(count: int) -> np.ndarray:
    """Hues a golden angle apart in OKLCH, lightness and chroma in turn, so that neighbours differ in all three."""
    taken = {*_FIRST, BACKGROUND_COLOUR}
    colours: list[tuple[int, int, int]] = []
    step = 0
    while len(colours) < count:
        lightness = _LIGHTNESS[step % 4] + 0.03 * np.sin(step)
        colour = _oklch(lightness, _CHROMA[step % 3], 0.6 + step * _GOLDEN_ANGLE)
        step += 1
        if colour not in taken:
            taken.add(colour)
            colours.append(colour)
    return np.array(colours, dtype=np.uint8)


def _oklch(lightness: float, chroma: float, hue: float) -> tuple[int, int, int]:
    """OKLCH -> sRGB; a colour outside sRGB loses chroma until it is inside (Ottosson 2020)."""
    while True:
        a, b = chroma * np.cos(hue), chroma * np.sin(hue)
        cones = np.array([
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ])  # fmt: skip
        linear = _FROM_CONES @ cones**3
        if chroma < 0.01 or (linear.min() >= -1e-4 and linear.max() <= 1 + 1e-4):
            break
        chroma *= 0.94
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(curved * 255).astype(int).tolist()
    return red, green, blue


_FROM_CONES = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])  # fmt: skip


def relative_luminance(colours: np.ndarray) -> np.ndarray:
    """WCAG relative luminance 0..1 of (..., 3) uint8 colours: above about 0.18 black text is read better than white."""
    share = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])
