"""From score maps to labels: what the comparison systems share. Pictures, windows and backgrounds as in Segmenter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.io.images import Picture, read_image
from talk2dino.io.palette import class_palette
from talk2dino.models.catalog import METHOD_THRESHOLDS
from talk2dino.models.preprocess import check_mode, grid_size, resize_image, slide_size, to_pixels, window_pixels
from talk2dino.stages.refine import refine as refine_masks
from talk2dino.stages.upsample import Resize, label_pixels, resized_rows, upsample
from talk2dino.stages.windows import average_windows, full_batches, window_boxes
from talk2dino.types import Segmentation

#: (B, 3, H, W) RGB 0..255 on the patch grid -> (B, N, h, w) scores, at the patch grid or any finer one.
ScoreMaps = Callable[[Tensor], Tensor]


class PictureLoop:
    """Segments pictures with a function that scores same-sized pixels.

    Args:
        size: short side, and window in slide mode, in pixels; a multiple of the patch.
        patch: patch size of the model that makes the maps.
        align_corners: how maps are upsampled to the pixels that were seen.
        batch: windows scored at once.
    """

    def __init__(self, size: int, patch: int, *, align_corners: bool = True, batch: int = 8) -> None:
        self.size = size // patch * patch
        self.patch = patch
        self.align_corners = align_corners
        self.batch = batch

    def maps(
        self, pictures: Sequence[Picture], score: ScoreMaps, *, mode: str, refine: bool
    ) -> Iterator[tuple[Tensor, list[Resize]]]:
        """For each picture (N, ., .) maps and the resizes that still lead to its size.

        Pictures are of one size, but in slide mode, where the windows of all go through ``score`` in full batches.
        """
        check_mode(mode)
        if mode == "slide":
            yield from self._slide(pictures, score, refine)
            return
        height, width = pictures[0].size
        seen = (self.size, self.size) if mode == "square" else grid_size(height, width, self.size, self.patch)
        pixels = torch.stack([to_pixels(resize_image(picture.array, seen)) for picture in pictures])
        scores = score(pixels)
        for one, own in zip(scores.split(1), pixels.split(1), strict=True):
            if refine:
                yield refine_masks(self._upsample(one, seen).cpu(), own)[0], [Resize(height, width, False)]
            else:
                yield one[0], [Resize(*seen, self.align_corners), Resize(height, width, False)]

    def _upsample(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return upsample(maps.float(), size, align_corners=self.align_corners)

    def _slide(
        self, pictures: Sequence[Picture], score: ScoreMaps, refine: bool
    ) -> Iterator[tuple[Tensor, list[Resize]]]:
        window = self.size
        longest = round(2048 * window / 448)
        canvases = [slide_size(*picture.size, window, longest=longest) for picture in pictures]
        boxes = [window_boxes(*canvas, window, window // 2) for canvas in canvases]

        def scored() -> Iterator[Tensor]:
            crops = (
                crop
                for picture, canvas, own in zip(pictures, canvases, boxes, strict=True)
                for crop in window_pixels(picture.array, canvas, own, window)
            )
            for pixels in full_batches(crops, self.batch):
                maps = self._upsample(score(pixels), (window, window)).cpu()
                yield from refine_masks(maps, pixels) if refine else maps

        windows = scored()  # a batch of maps is held at once, whatever picture its windows are of
        for picture, canvas, own in zip(pictures, canvases, boxes, strict=True):
            maps = (_to_box(one, box) for one, box in zip(islice(windows, len(own)), own, strict=True))
            yield average_windows(maps, own, canvas), [Resize(*picture.size, False)]


def _to_box(maps: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """(N, window, window) maps to the size of a window that the picture was too small for."""
    size = (box[2] - box[0], box[3] - box[1])
    return maps if maps.shape[1:] == size else upsample(maps[None], size, align_corners=False)[0]


def group_pictures(
    images: Sequence[Any], batch_size: int, *, alike: bool = True
) -> Iterator[tuple[list[int], list[Picture]]]:
    """Read pictures and hand them out in batches, of one size if ``alike``: (places in the list, pictures)."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}")
    pictures = [read_image(image) for image in images]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault(picture.size if alike else (0, 0), []).append(index)
    for indices in groups.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            yield chosen, [pictures[i] for i in chosen]


def make_segmentation(
    maps: Tensor, resizes: list[Resize], names: Sequence[str], thresholds: Tensor | None, *, return_scores: bool,
    info: dict[str, Any],
) -> Segmentation:  # fmt: skip
    """(N, ., .) maps to labels at the picture's size."""
    labels = label_pixels(maps, resizes, thresholds)
    scores = None
    if return_scores:
        full = resized_rows(maps, resizes, 0, labels.shape[0])
        if thresholds is not None:
            full = torch.cat([full.new_full((1, *full.shape[1:]), float(thresholds.min())), full])
        scores = full.float().numpy()
    background = None if thresholds is None else 0
    everything = tuple(names) if background is None else ("background", *names)
    palette = class_palette(len(everything), background)
    return Segmentation(labels.numpy(), everything, palette, background, scores, info["model"], info)


def segment_pictures(
    images: Sequence[Any], score: ScoreMaps, names: Sequence[str], loop: PictureLoop, info: dict[str, Any], *,
    background: bool | float | Mapping[str, float] | None = None, clean: bool | None = None, refine: bool = False,
    mode: str = "whole", return_scores: bool = False, batch_size: int = 8,
) -> list[Segmentation]:  # fmt: skip
    """Segment pictures of any sizes; those of one size are scored together.

    Args:
        images: as in ``Segmenter.segment_batch``, and so are the keyword arguments; scores are the system's own, and
            thresholds are on their scale. ``clean`` must stay off: only talk2dino has it.
        score: from same-sized pixels to the maps of the N names.
        info: "method", "model" and what else belongs into the result.
    """
    what = info["method"]
    if clean:
        raise InputError(f"background cleaning needs the attention of talk2dino; {what} has none: leave clean off")
    thresholds = read_thresholds(background, names, what)
    info = {**info, "mode": mode, "refined": refine}
    results: dict[int, Segmentation] = {}
    for indices, pictures in group_pictures(images, batch_size, alike=mode != "slide"):
        maps = loop.maps(pictures, score, mode=mode, refine=refine)
        for index, (scores, resizes) in zip(indices, maps, strict=True):
            results[index] = make_segmentation(
                scores, resizes, names, thresholds, return_scores=return_scores, info=info
            )
    return [results[i] for i in range(len(images))]


def read_thresholds(
    background: bool | float | Mapping[str, float] | None, names: Sequence[str], what: str
) -> Tensor | None:
    """(N,) thresholds of a ``background=`` argument, or None. True, and classes that a mapping leaves out, take the
    system's own threshold of :data:`talk2dino.models.catalog.METHOD_THRESHOLDS`."""
    if background is None or background is False:
        return None
    default = METHOD_THRESHOLDS[what].value
    if background is True:
        background = default
    if isinstance(background, Mapping):
        if unknown := [name for name in background if name not in names]:
            raise InputError(f"thresholds name classes that were not asked for: {', '.join(unknown[:5])}")
        values = [background.get(name, default) for name in names]
    else:
        values = [background] * len(names)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value) or abs(value) > 1:
            raise InputError(f"a background threshold of {what} must be a number from -1 to 1; got {value!r}")
    return torch.tensor([float(value) for value in values])
