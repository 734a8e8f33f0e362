"""Encoded images of many files, batch by batch, for what looks at a whole folder: adapting, tuning, finding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import Talk2DinoError
from talk2dino.io.images import LoadedImage, image_size, read_image
from talk2dino.workers import group

if TYPE_CHECKING:
    from talk2dino.progress import ProgressCallback
    from talk2dino.segmenter import Segmenter
    from talk2dino.types import ImageFeatures

log = logging.getLogger(__name__)


@torch.inference_mode()
def encode_files(
    segmenter: Segmenter, paths: Sequence[Path], *, mode: str = "whole", batch_size: int = 4,
    read: Callable[[Path], LoadedImage] = read_image, progress: ProgressCallback | None = None,
) -> Iterator[tuple[Path, ImageFeatures]]:  # fmt: skip
    """The features of image files, roughly in order. Images that cannot be read are logged and left out.

    Args:
        read: reads an image.
        batch_size: images per forward pass; only images that the model sees at one size share one.
    """
    from talk2dino.pipeline import encode_images, plan_view, view_key

    def key(path: Path) -> object:
        size = image_size(path)
        try:
            return None if size is None else view_key(plan_view(size, mode, segmenter.method))
        except Talk2DinoError:  # reported when the image's turn comes
            return None

    done = 0
    for paths_of_one_size in group(paths, key, batch_size):
        images: list[tuple[Path, LoadedImage]] = []
        for path in paths_of_one_size:
            try:
                image = read(path)
                plan_view(image.size, mode, segmenter.method)
                images.append((path, image))
            except Talk2DinoError as error:
                log.warning("left out: %s", error)
        batches = (
            [images]
            if len({view_key(plan_view(i.size, mode, segmenter.method)) for _, i in images}) < 2
            else [[i] for i in images]
        )
        for batch in batches:
            views = [plan_view(image.size, mode, segmenter.method) for _, image in batch]
            encoded = encode_images(
                [image for _, image in batch], views, segmenter.method, batch_size=max(1, batch_size)
            )
            yield from zip((path for path, _ in batch), encoded, strict=True)
        done += len(paths_of_one_size)
        if progress is not None:
            progress(done, len(paths))


@torch.inference_mode()
def unit_patches(segmenter: Segmenter, features: ImageFeatures) -> Tensor:
    """(B, h, w, D) float32 patches of length 1 in the space of the class embeddings."""
    return F.normalize(segmenter.method.compared_patches(features).float(), dim=-1, eps=1e-6)
