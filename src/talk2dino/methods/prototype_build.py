"""Build FreeDA's prototypes from images with masks.

    mask --> share of each patch that it covers --> mean DINO feature of the patches covered by half = prototype
    word --> mean CLIP text embedding over the templates, of length 1                              = key

FreeDA published prototypes, but no code that makes them. This is our way, in FreeDA's style; see prototype_sources.py for
the images.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator

from talk2dino.errors import InputError, OutputError
from talk2dino.io.settings import read_lines
from talk2dino.methods.prototype_sources import (
    ATTRIBUTION_THRESHOLD,
    DIFFUSION,
    FIRST_WORLD_SEED,
    GUIDANCE,
    IMAGE_SIZE,
    STEPS,
    MaskedImage,
    Source,
    diffusion_source,
    folder_source,
    load_pipeline,
    world_source,
)
from talk2dino.methods.prototypes import Prototype, PrototypeStore, PrototypeWriter
from talk2dino.models.loading import load_parts
from talk2dino.models.preprocess import grid_size, resize_image, to_pixels
from talk2dino.progress import ProgressCallback
from talk2dino.towers import Towers

#: Share of a patch that a mask must cover for the patch to count; our choice.
COVERAGE = 0.5


class PrototypeOptions(BaseModel):
    """One build, from exactly one of ``world``, ``images`` (with ``masks`` and ``names``) and ``captions``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path
    model: str = "auto"
    world: int | None = Field(None, ge=1, description="number of drawn scenes")
    first_seed: int = Field(FIRST_WORLD_SEED, ge=0, le=999_999)
    images: Path | None = Field(None, description="folder of images")
    masks: Path | None = Field(None, description="folder of index PNGs with the names of the images")
    names: Path | None = Field(None, description="file with the names of the values 0, 1, 2 ..., one per line")
    captions: Path | None = Field(None, description="file with one caption per line")
    vocabulary: Path | None = Field(None, description="file with one word per line; None: all words but stop words")
    pipeline: str = DIFFUSION
    steps: int = Field(STEPS, ge=1)
    image_size: int = Field(IMAGE_SIZE, ge=8, multiple_of=8)
    guidance: float = GUIDANCE
    threshold: float = Field(ATTRIBUTION_THRESHOLD, ge=0, le=1)
    device: str = "auto"
    dtype: str = "auto"

    @model_validator(mode="after")
    def _check(self) -> PrototypeOptions:
        given = [name for name in ("world", "images", "captions") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(f"--{name}" for name in given) or "none of them"
            raise InputError(f"give one source: --world, --images or --captions; got {got}")
        if self.images is not None and (self.masks is None or self.names is None):
            raise InputError("--images needs --masks and --names")
        return self


def build_from(
    options: PrototypeOptions, *, towers: Towers | None = None, progress: ProgressCallback | None = None
) -> PrototypeStore:
    """Build a folder of prototypes, or resume it.

    Args:
        towers: used instead of loading ``options.model``.
        progress: counts images.

    Raises:
        DataError: an image, a mask or a list cannot be read.
        InputError: the folder was built with other settings, or there is no pipeline.
    """
    lists = {
        name: read_lines(path, f"list of {name}", keep_empty=name == "names")
        for name in ("names", "captions", "vocabulary")
        if (path := getattr(options, name)) is not None
    }
    if towers is None:
        parts = load_parts(options.model, needs_projection=False)
        towers = Towers(parts, device=options.device, dtype=options.dtype)
    build_prototypes(towers, _open_source(options, lists, towers), options.out, progress=progress)
    return PrototypeStore(options.out)


def _open_source(options: PrototypeOptions, lists: dict[str, list[str]], towers: Towers) -> Source:
    if options.world is not None:
        return world_source(range(options.first_seed, options.first_seed + options.world))
    if options.images is not None and options.masks is not None:
        return folder_source(options.images, options.masks, lists["names"])
    assert options.captions is not None
    return diffusion_source(
        partial(load_pipeline, options.pipeline, towers.device), lists["captions"],
        name=f"{options.captions.name} by {options.pipeline}", vocabulary=lists.get("vocabulary"), steps=options.steps,
        size=options.image_size, guidance=options.guidance, threshold=options.threshold,
    )  # fmt: skip


def build_prototypes(
    towers: Towers, source: Source, folder: str | Path, *, coverage: float = COVERAGE,
    progress: ProgressCallback | None = None,
) -> int:  # fmt: skip
    """Build a folder of prototypes from a source, or resume it; an interruption keeps what is finished.

    Returns:
        The number of prototypes in the folder.

    Raises:
        InputError: the folder was built with other settings or models.
    """
    writer = PrototypeWriter(folder, _settings(towers, source, coverage), shard_size=source.shard_size)
    if progress is not None:
        progress(len(writer.done), len(source.items))
    try:
        for name, load in source.items.items():
            if name not in writer.done:
                writer.add(name, masked_features(towers, load(), coverage=coverage))
                if progress is not None:
                    progress(len(writer.done), len(source.items))
    except OutputError:
        raise
    except BaseException:  # Ctrl-C, or an image that cannot be read
        writer.flush()
        raise
    return writer.finish()


def _settings(towers: Towers, source: Source, coverage: float = COVERAGE) -> dict[str, object]:
    """What decides the prototypes, for meta.json."""
    return {
        "model": towers.name, "fingerprint": towers.fingerprint(("vision", "text")),
        "templates": list(towers.text.templates), "size": towers.config.size, "coverage": coverage, "source": source.what,
        **source.made_from,
    }  # fmt: skip


@torch.inference_mode()
def masked_features(towers: Towers, image: MaskedImage, *, coverage: float = COVERAGE) -> list[Prototype]:
    """One prototype per mask that is not empty.

    Args:
        coverage: share of a patch that a mask must cover for the patch to count. If no patch reaches it, all patches count
            by their share.
    """
    masks = {word: mask for word, mask in image.masks.items() if mask.any()}
    if not masks:
        return []
    patch = towers.vision.patch_size
    size = grid_size(image.image.shape[0], image.image.shape[1], towers.config.size // patch * patch, patch)
    pixels = to_pixels(resize_image(image.image, size))[None]
    patches = towers.encode(pixels).patches[0].float().cpu()
    keys = F.normalize(towers.text.embed_classes([[word] for word in masks]), dim=-1).numpy()
    found = []
    for (word, mask), key in zip(masks.items(), keys, strict=True):
        resized = F.interpolate(torch.from_numpy(np.array(mask, np.float32))[None, None], size, mode="nearest")
        share = F.avg_pool2d(resized, patch)[0, 0]  # [h, w]
        weights = (share >= coverage).float() if (share >= coverage).any() else share
        if weights.any():
            feature = torch.einsum("hw,hwd->d", weights, patches) / weights.sum()
            found.append(Prototype(word, key, feature.numpy()))
    return found


# --- drawn scenes, which `compare` and benchmarks build by themselves ----------------------------------------------------


def _first_scenes(count: int) -> Source:
    return world_source(range(FIRST_WORLD_SEED, FIRST_WORLD_SEED + count))


def world_build_name(towers: Towers, count: int) -> str:
    """A folder name for the prototypes of ``count`` scenes that depends on the weights."""
    settings = json.dumps(_settings(towers, _first_scenes(count)), sort_keys=True)
    return f"{towers.name.rpartition('/')[2]}-{count}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def build_world_prototypes(
    towers: Towers, count: int, folder: Path, progress: ProgressCallback | None = None
) -> dict[str, object]:
    """Build the prototypes of ``count`` scenes, or resume it; returns freeda's options."""
    build_prototypes(towers, _first_scenes(count), folder, progress=progress)
    return {"prototypes": str(folder)}
