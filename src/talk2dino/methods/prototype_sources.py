"""Images with masks of named things, from which prototypes are made: drawn scenes, image folders, and diffusion.

Everything about diffusion is our choice, since FreeDA published no code for it: Stable Diffusion 1.5, 30 steps, guidance
7.5, one image per caption, all words that are not stop words, and masks where an attribution, scaled to 0..1, exceeds 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.io.find import find_images
from talk2dino.io.images import read_image
from talk2dino.io.index_png import read_index_png

if TYPE_CHECKING:
    import torch

DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
STEPS, GUIDANCE, IMAGE_SIZE = 30, 7.5, 512
#: A pixel belongs to a word where its attribution, (x - min) / (max - min) over the image, is larger.
ATTRIBUTION_THRESHOLD = 0.5
#: First scene for prototypes; the embedded model was trained on scenes from 0.
FIRST_WORLD_SEED = 500_000


@dataclass(frozen=True)
class MaskedImage:
    """An image, (H, W, 3) uint8 RGB, and boolean (H, W) masks of named things."""

    image: np.ndarray
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """Masked images by name. An image is made when it is asked for, so what is done already costs nothing.

    Attributes:
        what: the source in words, for meta.json.
        items: name -> function that makes the image.
        made_from: what else decides the images, such as steps or the digest of a list.
        shard_size: prototypes per shard; small where an image is expensive.
    """

    what: str
    items: Mapping[str, Callable[[], MaskedImage]]
    made_from: Mapping[str, object] = field(default_factory=dict)
    shard_size: int = 512


def world_source(seeds: Sequence[int], *, height: int = 96) -> Source:
    """Drawn scenes with the masks of their classes."""
    from talk2dino.world import CLASS_NAMES, render, sample_scene

    def draw(seed: int) -> MaskedImage:
        drawn = render(sample_scene(seed), height)
        return MaskedImage(drawn.image, {CLASS_NAMES[i]: drawn.labels == i for i in np.unique(drawn.labels)})

    return Source(f"world, seeds {seeds[0]} to {seeds[-1]}", {str(seed): partial(draw, seed) for seed in seeds})


def folder_source(images: Path, masks: Path, names: Sequence[str], *, ignore: int = 255) -> Source:
    """Images of a folder, and index PNGs of the same names in another, whose value i stands for ``names[i]``.

    Names that are empty or "background" are left out.

    Raises:
        DataError: a folder or a mask is missing; later, for one image: sizes differ, or a value has no name.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"no folder at {folder}")
    paths = find_images([images])
    mask_of = {path: masks / f"{path.stem}.png" for path in paths}
    if missing := [path for path in paths if not mask_of[path].is_file()]:
        raise DataError(f"no mask for {missing[0]}: expected {mask_of[missing[0]]}")

    def load(path: Path) -> MaskedImage:
        labels, image = read_index_png(mask_of[path]), read_image(path).array
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"{path} has {image.shape[0]} x {image.shape[1]} pixels, its mask {labels.shape[0]} x {labels.shape[1]}: make "
                "them equal"
            )
        present = [int(value) for value in np.unique(labels) if value != ignore]
        if present and max(present) >= len(names):
            raise DataError(f"{mask_of[path]} has the value {max(present)}, but there are only {len(names)} names")
        wanted = [value for value in present if names[value] not in ("", "background")]
        return MaskedImage(image, {names[value]: labels == value for value in wanted})

    made_from = {
        "names": _digest(names), "images": _digest(map(_size, paths)), "masks": _digest(map(_size, mask_of.values()))
    }  # fmt: skip
    return Source(f"images with masks, {images.name}", {path.name: partial(load, path) for path in paths}, made_from)


def diffusion_source(
    load: Callable[[], Any], captions: Sequence[str], *, name: str = "",
    vocabulary: Sequence[str] | None = None, size: int = IMAGE_SIZE, steps: int = STEPS, guidance: float = GUIDANCE,
    threshold: float = ATTRIBUTION_THRESHOLD,
) -> Source:  # fmt: skip
    """Images generated from captions, with the attributions of their words, binarised, as masks.

    Args:
        load: loads the pipeline; called when the first image is made.
        name: of captions and pipeline, for meta.json.
        vocabulary: words to look for; None: all words of a caption that are not stop words.
        size: side of the images in pixels. threshold: see :data:`ATTRIBUTION_THRESHOLD`.
    """
    from talk2dino.methods.attribution import caption_words, generate

    pipelines: list[Any] = []

    def make(number: int) -> MaskedImage:
        if not pipelines:
            pipelines.append(load())
        made = generate(
            pipelines[0], captions[number], caption_words(captions[number], vocabulary), size=(size, size), steps=steps,
            guidance=guidance, seed=number,
        )  # fmt: skip
        return MaskedImage(made.image, {word: one > threshold for word, one in zip(made.words, made.maps, strict=True)})

    made_from = {
        "captions": _digest(captions), "vocabulary": None if vocabulary is None else _digest(vocabulary), "steps": steps,
        "image_size": size, "guidance": guidance, "threshold": threshold, "attribution": "as DAAM",
    }  # fmt: skip
    items = {f"caption-{number:07d}": partial(make, number) for number in range(len(captions))}
    return Source(f"diffusion of {name}", items, made_from, shard_size=64)


def load_pipeline(name: str | Path, device: torch.device | str = "cpu", *, local_files_only: bool = False) -> Any:
    """Load a StableDiffusionPipeline of diffusers from a folder or the hub: safetensors only, no remote code.

    Raises:
        InputError: no pipeline there. MissingExtraError: diffusers is not installed.
    """
    from transformers.utils import logging as transformers_logging

    try:
        from diffusers.utils import logging as diffusers_logging
    except ImportError:
        raise MissingExtraError.of("diffusers", "freeda", "building prototypes from captions") from None
    loggers: list[Any] = [transformers_logging, diffusers_logging]
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()  # no advice on other packages; failures are reported below
    try:
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(
            str(name), use_safetensors=True, safety_checker=None, requires_safety_checker=False,
            local_files_only=local_files_only,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if not Path(name).is_dir() and "not fully cached" in str(error):
            reason = "not a folder, not in the cache, and the hub cannot be reached"
        raise InputError(
            f"no Stable Diffusion pipeline at {name} ({reason}): give --pipeline a folder with model_index.json, or a hub id"
        ) from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _digest(lines: Iterable[str]) -> str:
    """SHA-256 (first 16 digits) of lines in their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _size(path: Path) -> str:
    """Name and size in bytes: notices another set of files without reading them."""
    return f"{path.name} {path.stat().st_size}"
