"""Frames with their classes drawn over them: the legend and the size are the same in all frames of a video."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from talk2dino.io.contours import draw_contours
from talk2dino.io.legend import Legend, LegendRow, draw_legend
from talk2dino.io.overlay import LEGIBLE, overlay_weights, paint, resize_for_overlay
from talk2dino.types import Segmentation

_GREY = 128  # what the colours of the legend are mixed with, as the classes are mixed with the image


class VideoOverlay:
    """Draws overlays of one size, even in both directions, as H.264 needs it.

    Args:
        opacity, legend, contours, max_size: as for :func:`talk2dino.io.overlay.draw_overlay`. Names are in the legend only:
            they would move about from frame to frame.
    """

    def __init__(
        self, *, opacity: float = 0.55, legend: bool = True, contours: bool = True, max_size: int | None = None
    ) -> None:
        self.opacity, self.legend, self.contours, self.max_size = opacity, legend, contours, max_size
        self._panel: np.ndarray | None = None

    def __call__(self, image: np.ndarray, seg: Segmentation) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a frame to (H', W', 3) of its overlay."""
        smallest = LEGIBLE if self.legend else 0
        pixels, labels = resize_for_overlay(image, seg.labels, smallest, self.max_size)
        drawn = Image.fromarray(paint(pixels, labels, seg.palette, self.opacity, seg.background))
        if self.contours:
            draw_contours(drawn, seg.labels)
        frame = np.asarray(drawn)
        if self.legend:
            frame = self._with_legend(frame, seg)
        height, width = frame.shape[:2]
        return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

    def _with_legend(self, frame: np.ndarray, seg: Segmentation) -> np.ndarray:
        if self._panel is None:
            size = max(15, round(math.sqrt(frame.shape[0] * frame.shape[1]) / 37))
            weights = overlay_weights(seg.palette, self.opacity, seg.background)
            colours = np.rint((1 - weights) * _GREY + weights * seg.palette).astype(int).tolist()
            rows = tuple(LegendRow(name, tuple(colour)) for name, colour in zip(seg.names, colours, strict=True))
            panel = np.asarray(draw_legend(Legend(rows), size, width=frame.shape[1]))
            self._panel = panel[:, : frame.shape[1]]
        return np.concatenate([frame, self._panel])
