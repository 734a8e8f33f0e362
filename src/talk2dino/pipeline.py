"""From images to labels: the one way that every method goes.

    images --> views (sizes, windows) --> batches --> method.encode_pixels --> features          encode once ...
    features, words --> method.score --> upsample --> refine --> average windows --> labels      ... ask often

The method brings the features and the scores (:mod:`talk2dino.methods.base`); everything else is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from talk2dino.annotations.objects import Evidence
from talk2dino.errors import InputError
from talk2dino.io.images import LoadedImage
from talk2dino.io.palette import class_palette
from talk2dino.methods.base import Method
from talk2dino.models.preprocess import (
    check_mode,
    fit_window,
    fits_whole,
    grid_size,
    resize_for_slide,
    resize_image,
    slide_size,
    to_pixels,
)
from talk2dino.stages.refine import refine as refine_maps
from talk2dino.stages.similarity import best_of_each
from talk2dino.stages.upsample import Resize, label_margins, label_pixels, resized_rows, upsample
from talk2dino.stages.windows import Box, average_windows, full_batches, window_boxes
from talk2dino.towers import check_fork
from talk2dino.types import ImageFeatures, Segmentation, TextFeatures

Background = bool | float | Mapping[str, float] | None

#: Windows that go through the vision model at once in slide mode.
WINDOW_BATCH = 8
#: The protocol's longest side, in windows of 448: 2048 / 448.
LONGEST_SIDE = 2048 / 448
#: Longest side, in windows, of images that are too elongated for whole mode and are segmented in windows instead.
LONGEST_STRIP = 16


@dataclass(frozen=True)
class View:
    """How a model sees one image.

    Attributes:
        mode: "whole", "slide" or "square".
        seen: (height, width) of what goes into the model, in pixels.
        canvas, boxes: in slide mode, the size of the resized image and the windows in it.
        notes: why the view is not the one that was asked for.
    """

    mode: str
    seen: tuple[int, int]
    canvas: tuple[int, int] | None = None
    boxes: tuple[Box, ...] | None = None
    notes: tuple[str, ...] = ()


def plan_view(size: tuple[int, int], mode: str, method: Method) -> View:
    """The view of an image of (height, width) pixels.

    Whole mode keeps the aspect ratio on the patch grid; an image whose long side would exceed 256 patches is cut into
    windows instead. Slide mode is the published protocol's: short side and windows of ``method.size``, half overlapping.
    Square mode squashes the image, as the published demo does.

    Raises:
        InputError: an unknown mode, or one that the method does not support.
    """
    check_mode(mode)
    if mode not in method.facts.modes:
        raise InputError(f"{method.name} has no {mode} mode; accepted: {', '.join(method.facts.modes)}")
    side, patch = method.size, method.patch_size
    if mode == "square":
        return View(mode, (side, side))
    longest, notes = LONGEST_SIDE, tuple[str, ...]()
    if mode == "whole":
        if fits_whole(*size, side, patch) or "slide" not in method.facts.modes:
            return View(mode, grid_size(*size, side, patch))
        note = f"{size[0]} x {size[1]} is too elongated to be seen as a whole; it was segmented in windows of {side} x {side}"
        longest, notes = LONGEST_STRIP, (note,)
    canvas = slide_size(*size, side, longest=round(longest * side))
    return View("slide", (side, side), canvas, tuple(window_boxes(*canvas, side, side // 2)), notes)


def view_key(view: View) -> tuple[str, tuple[int, int]]:
    """Images whose views have one key can share forward passes."""
    return view.mode, view.seen


# --- encode once -------------------------------------------------------------------------------------------------------


def encode_images(
    images: Sequence[LoadedImage], views: Sequence[View], method: Method, *, batch_size: int = WINDOW_BATCH
) -> Iterator[ImageFeatures]:
    """The features of one image after the other; a forward pass holds ``batch_size`` windows of one or several images.

    Args:
        views: of the images, all with the same key.
    """
    windows = (window for image, view in zip(images, views, strict=True) for window in _windows(image, view))
    encoded = (method.encode_pixels(batch) for batch in full_batches(windows, batch_size))
    singles = (features.window(i) for features in encoded for i in range(len(features)))
    for image, view in zip(images, views, strict=True):
        parts = list(islice(singles, len(view.boxes or (None,))))
        yield replace(
            ImageFeatures.stack(parts), image_size=image.size, model=method.towers.name, space=method.space, mode=view.mode,
            pixels=_own_pixels(image, view, parts), boxes=view.boxes, canvas=view.canvas,
            notes=(*image.notes, *view.notes),
        )  # fmt: skip


def _windows(image: LoadedImage, view: View) -> Iterator[Tensor]:
    """(3, height, width) RGB 0..255 of each window as the model sees it; the image itself where there are none."""
    if view.boxes is None or view.canvas is None:
        yield to_pixels(resize_image(image.array, view.seen))
        return
    resized = resize_for_slide(image.array, view.canvas)
    for top, left, bottom, right in view.boxes:
        yield fit_window(resized[:, top:bottom, left:right], view.seen)


def _own_pixels(image: LoadedImage, view: View, parts: Sequence[ImageFeatures]) -> Tensor:
    """The pixels at which windows are labelled; only where an image is smaller than a window are they not those seen."""
    seen = torch.cat([part.pixels for part in parts if part.pixels is not None])
    if view.boxes is None or view.canvas is None:
        return seen
    top, left, bottom, right = view.boxes[0]  # all windows of an image have one size
    if (bottom - top, right - left) == view.seen:
        return seen
    resized = resize_for_slide(image.array, view.canvas).to(seen.device)
    return torch.stack([resized[:, top:bottom, left:right] for top, left, bottom, right in view.boxes])


# --- ask often ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodeOptions:
    """How scores become labels: ``background=``, ``clean=`` and ``refine=`` after they were checked."""

    thresholds: Tensor | None  # (N,), or None for no background
    clean: bool
    refine: bool
    return_scores: bool
    return_evidence: bool = False


def read_options(
    method: Method, names: Sequence[str], background: Background, clean: bool | None, refine: bool, return_scores: bool,
    return_evidence: bool = False,
) -> DecodeOptions:  # fmt: skip
    """Check what was asked for and fill in the method's defaults.

    Raises:
        InputError: as :func:`read_thresholds`; cleaning with a method that has none.
    """
    thresholds = read_thresholds(method, names, background)
    if clean and not method.facts.can_clean:
        raise InputError(f"{method.name} has no background cleaning: leave clean off")
    if clean is None:
        clean = thresholds is not None and method.facts.can_clean
    return DecodeOptions(thresholds, bool(clean), bool(refine), return_scores, return_evidence)


def read_thresholds(method: Method, names: Sequence[str], background: Background) -> Tensor | None:
    """(N,) thresholds of a ``background=`` argument, or None for no background.

    True, and classes that a mapping does not name, take the method's own threshold.

    Raises:
        InputError: a threshold out of range or of an unknown class; the method has no tuned threshold, or no background.
    """
    if background is None or background is False:
        return None
    if method.facts.matched:
        raise InputError(f"{method.name} makes segments without classes: it has no background threshold")
    if isinstance(background, Mapping):
        if unknown := [name for name in background if name not in names]:
            raise InputError(f"thresholds name classes that are not among the prompts: {', '.join(unknown[:5])}")
        given = background
    else:
        given = {} if background is True else dict.fromkeys(names, background)
    if method.threshold is None and any(name not in given for name in names):
        raise InputError(
            f"{method.name} has no tuned background threshold for the model {method.towers.name}: give a number, for "
            "example 0.55"
        )
    return torch.tensor([check_threshold(method, given.get(name, method.threshold)) for name in names])


def join_thresholds(
    background: float | bool | None, thresholds: Mapping[str, float], names: Sequence[str], default: float | None
) -> Background:
    """The ``background=`` argument for a background and thresholds of single classes, which imply one.

    Args:
        names: all classes. default: the method's own threshold.
    """
    if not thresholds:
        return background
    base = default if background is None or isinstance(background, bool) else float(background)
    return ({} if base is None else dict.fromkeys(names, base)) | dict(thresholds)


def check_threshold(method: Method, value: object) -> float:
    """A number on the scale of the method's scores, or InputError."""
    low, high = method.threshold_range
    numbers = int | float | np.floating | np.integer
    if isinstance(value, bool) or not isinstance(value, numbers) or not low <= value <= high:
        raise InputError(f"a background threshold of {method.name} must be from {low:g} to {high:g}; got {value!r}")
    return float(value)


def check_features(image: ImageFeatures, text: TextFeatures, method: Method) -> None:
    """Refuse features and words that were made by different models.

    Raises:
        ShapeError: dimensions that do not fit. InputError: features or words of another model or method.
    """
    for what, found in (("image features", image), ("text features", text)):
        if found.space and found.space != method.space:
            raise InputError(
                f"these {what} were made by {found.model or 'another model'} ({found.space.partition(':')[0]}), not by "
                f"{method.towers.name} ({method.name}) with its weights: encode them again with this segmenter"
            )
    if text.negative and not text.positive:
        raise InputError("there are only negative classes: add at least one class to look for")


@torch.inference_mode()
def decode_image(image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions) -> Segmentation:
    """The features of one image, with all its windows, to labels."""
    return label_scores(score_image(image, text, method, options), image, text, method, options)


@torch.inference_mode()
def score_image(image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions) -> Tensor:
    """The features of one image to (N, h, w) scores: at the patch grid or a finer one, in slide mode those of the canvas."""
    check_fork()
    if image.boxes is None or image.canvas is None:
        return _scores(image, text, method, options)
    windows = (_window_maps(image.window(i), text, method, options) for i in range(len(image)))
    return average_windows(windows, image.boxes, image.canvas)


@torch.inference_mode()
def label_scores(
    scores: Tensor, image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions
) -> Segmentation:
    """The (N, ., .) scores of :func:`score_image`, or a finer map whose corners are the same, to labels."""
    if image.boxes is None or image.canvas is None:
        maps, resizes = _maps(scores, image, method, options)
    else:
        maps, resizes = scores, [] if image.canvas == image.image_size else [Resize(*image.image_size, False)]
    return _label(maps, resizes, image, text, method, options)


def _scores(image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions) -> Tensor:
    """(N, h, w) scores of one image or window: the best of the several vectors that a class may have."""
    return best_of_each(method.score(image, text, clean=options.clean), text.counts)


def _maps(scores: Tensor, image: ImageFeatures, method: Method, options: DecodeOptions) -> tuple[Tensor, list[Resize]]:
    """(N, ., .) scores of one image or window, refined if asked for, and the resizes that still lead to its size."""
    if image.pixels is not None:
        height, width = image.pixels.shape[2:]
    elif options.refine:
        raise InputError("refinement needs the image's pixels: encode the image again with encode_image")
    else:
        height, width = (side * method.patch_size for side in image.grid)
    last = [] if (height, width) == image.image_size else [Resize(*image.image_size, False)]
    if not options.refine or image.pixels is None:
        return scores, [Resize(height, width, True), *last]
    return refine_maps(upsample(scores[None].float(), (height, width)), image.pixels)[0], last


def _window_maps(image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions) -> Tensor:
    """(N, height, width) scores at the window's size."""
    maps, resizes = _maps(_scores(image, text, method, options), image, method, options)
    return resized_rows(maps, resizes, 0, image.image_size[0])


def _label(
    maps: Tensor, resizes: list[Resize], image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions
) -> Segmentation:  # fmt: skip
    """(N, ., .) scores to a Segmentation at the image's size."""
    thresholds = options.thresholds
    background = thresholds is not None or text.negative > 0
    labels = label_pixels(maps, resizes, thresholds, text.negative)
    names = text.names[: text.positive] or tuple(f"segment {i + 1}" for i in range(len(maps)))
    scores = None
    if options.return_scores:
        full = resized_rows(maps, resizes, 0, image.image_size[0])[: len(names)]
        if background:
            constant = 0.0 if thresholds is None else float(thresholds.min())
            full = torch.cat([full.new_full((1, *full.shape[1:]), constant), full])
        scores = full.float().cpu().numpy()
    everything = ("background", *names) if background else names
    index = 0 if background else None
    palette, info = class_palette(everything, index), _info(image, text, method, options)
    evidence = None
    if options.return_evidence:
        margins = label_margins(maps, resizes, thresholds, text.negative)
        evidence = Evidence(margins.cpu().numpy(), _mean_attention(image, method.patch_size))
    return Segmentation(labels.cpu().numpy(), everything, palette, index, scores, method.towers.name, info, evidence)


def _mean_attention(image: ImageFeatures, patch_size: int) -> np.ndarray | None:
    """(h, w) mean over heads of the softmax over patches; windows are averaged where they overlap."""
    if image.attention is None:
        return None
    b, m, h, w = image.attention.shape
    maps = image.attention.float().reshape(b, m, -1).softmax(2).mean(1).reshape(b, 1, h, w)
    if image.boxes is not None and image.canvas is not None:
        sides = ((bottom - top, right - left) for top, left, bottom, right in image.boxes)
        windows = (upsample(one[None], side)[0] for one, side in zip(maps, sides, strict=True))
        height, width = image.canvas
        grid = (max(1, height // patch_size), max(1, width // patch_size))
        maps = adaptive_avg_pool2d(average_windows(windows, image.boxes, image.canvas)[None], grid)
    return maps[0, 0].cpu().numpy()


def _info(image: ImageFeatures, text: TextFeatures, method: Method, options: DecodeOptions) -> dict[str, object]:
    """What a result says about how it was made."""
    towers = method.towers
    seen = image.canvas or (tuple(image.pixels.shape[2:]) if image.pixels is not None else None)
    used = None if options.thresholds is None else sorted({round(float(t), 6) for t in options.thresholds})
    return {
        "method": method.name, **method.options, "mode": image.mode, "seen": None if seen is None else list(seen),
        "thresholds": used, "cleaning": method.options.get("variant") if options.clean else None,
        "refined": options.refine, "dtype": str(towers.dtype).removeprefix("torch."), "device": str(towers.device),
        "engine": towers.engine, "negative": list(text.names[text.positive :]), "notes": [*text.notes, *image.notes],
        "understood": [list(one) for one in text.understood],
        "source": towers.config.source,
    }  # fmt: skip


# --- all at once -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def segment_images(
    images: Sequence[LoadedImage], text: TextFeatures, method: Method, options: DecodeOptions, *, mode: str, batch_size: int
) -> list[Segmentation]:  # fmt: skip
    """Segment images of any sizes, in order; those that the model sees at one size share forward passes."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}")
    views = [plan_view(image.size, mode, method) for image in images]
    groups: dict[tuple[str, tuple[int, int]], list[int]] = {}
    for index, view in enumerate(views):
        groups.setdefault(view_key(view), []).append(index)
    results: dict[int, Segmentation] = {}
    for (kind, _), indices in groups.items():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            encoded = encode_images(
                [images[i] for i in chosen], [views[i] for i in chosen], method,
                batch_size=WINDOW_BATCH if kind == "slide" else batch_size,
            )  # fmt: skip
            for i, features in zip(chosen, encoded, strict=True):
                check_features(features, text, method)
                results[i] = decode_image(features, text, method, options)
    return [results[i] for i in range(len(images))]
