"""How much the labels of a video flicker: changes from frame to frame that the truth does not have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Flicker:
    """Counts of pixels; two of them can be added. ``share`` is 0 for none."""

    changed: int = 0
    pixels: int = 0

    def __add__(self, other: Flicker) -> Flicker:
        return Flicker(self.changed + other.changed, self.pixels + other.pixels)

    @property
    def share(self) -> float:
        return self.changed / max(1, self.pixels)


def flicker_in_place(
    before: np.ndarray, after: np.ndarray, truth_before: np.ndarray, truth_after: np.ndarray
) -> Flicker:
    """Pixels whose label changes between two frames, among those whose true label does not; all arrays (H, W).

    Where an object moves, each pixel that its predicted outline passes at another moment than the true one counts. So even
    masks that are off by a single pixel, and do not flicker to the eye, have a share that grows with the speed.
    """
    still = truth_before == truth_after
    return Flicker(int(((before != after) & still).sum()), int(still.sum()))


def flicker_along_motion(
    before: np.ndarray, after: np.ndarray, regions_before: np.ndarray, regions_after: np.ndarray, places: np.ndarray
) -> Flicker:
    """Pixels whose label differs from that of the same content in the frame before.

    Content lies between four pixels of the frame before. It counts if all four belong to the same region (nothing was
    covered), and as changed if none of the four had its label.

    Args:
        before, after: (H, W) labels.
        regions_before, regions_after: (H, W) true regions, one number per object.
        places: (2, H, W) x and y of each pixel's content in the frame before, as from
            :func:`talk2dino.world.films.exact_motion`.
    """
    height, width = after.shape
    if np.isnan(places).any():
        return Flicker()
    x, y = (np.floor(axis).astype(np.int64) for axis in places)
    counts = (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    x, y = x.clip(0, width - 2), y.clip(0, height - 2)
    kept = np.zeros_like(counts)
    for down in (0, 1):
        for right in (0, 1):
            counts &= regions_before[y + down, x + right] == regions_after
            kept |= before[y + down, x + right] == after
    return Flicker(int((counts & ~kept).sum()), int(counts.sum()))
