"""Make FreeDA's prototypes: from generated pictures and attributions, or from any pictures with masks.

mask -> share of each patch that it covers -> patches at least half covered -> their mean DINO feature = prototype
word -> mean CLIP text embedding over the templates, length 1 = key
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from talk2dino.errors import DataError, InputError, MissingExtraError, OutputError
from talk2dino.methods.prototypes import Prototype, PrototypeWriter, check_index_kind
from talk2dino.models.fingerprint import weights_checksum
from talk2dino.models.preprocess import grid_size, resize_image, to_pixels
from talk2dino.progress import ProgressCallback
from talk2dino.towers import Towers

#: Share of the largest attribution above which a pixel belongs to a word.
ATTRIBUTION_THRESHOLD = 0.5
#: Training scenes from here on are nobody else's: the embedded model was trained on those from 0.
FIRST_WORLD_SEED = 500_000


@dataclass(frozen=True)
class MaskedPicture:
    """(H, W, 3) uint8 RGB with boolean masks (H, W) of named things. ``name`` tells it from all others of a build."""

    name: str
    image: np.ndarray
    masks: dict[str, np.ndarray]


#: Names and, for each, how to get the picture: only what is not done yet is loaded.
Source = Iterable[tuple[str, Callable[[], MaskedPicture]]]


class PrototypeMaker:
    """Turns masked images into prototypes with a model's vision and text towers.

    Args:
        towers: bring both.
        coverage: share of a patch that a mask must cover for the patch to count; where no patch has that much, all
            patches count by their share.
    """

    def __init__(self, towers: Towers, *, coverage: float = 0.5) -> None:
        self.towers = towers
        self.vision, self.text, self.config = towers.vision, towers.text, towers.config
        self.coverage = coverage

    def meta(self, source: str, made_from: dict[str, Any] | None = None) -> dict[str, Any]:
        """What decides the prototypes: the towers, down to their weights, and what the pictures were made from."""
        return {
            "model": self.config.name, "text_dim": self.text.dim, "vision_dim": self.vision.dim,
            "vision_weights": weights_checksum(self.vision), "text_weights": weights_checksum(self.text),
            "templates": list(self.text.templates), "size": self.config.size, "coverage": self.coverage,
            "source": source, **(made_from or {}),
        }  # fmt: skip

    @torch.inference_mode()
    def prototypes(self, picture: MaskedPicture) -> list[Prototype]:
        """One prototype a mask; masks without a pixel are skipped."""
        masks = {word: mask for word, mask in picture.masks.items() if mask.any()}
        if not masks:
            return []
        patch = self.vision.patch_size
        size = grid_size(picture.image.shape[0], picture.image.shape[1], self.config.size // patch * patch, patch)
        pixels = to_pixels(resize_image(picture.image, size))[None]
        patches = self.towers.encode(pixels).patches[0].float().cpu()
        keys = F.normalize(self.text.embed_classes([[word] for word in masks]), dim=-1).numpy()
        found = []
        for (word, mask), key in zip(masks.items(), keys, strict=True):
            share = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
            share = F.interpolate(share, size, mode="nearest")
            share = F.avg_pool2d(share, patch)[0, 0]  # [h, w] share of each patch that the mask covers
            weights = (share >= self.coverage).float()
            weights = weights if weights.any() else share
            if weights.any():
                feature = torch.einsum("hw,hwd->d", weights, patches) / weights.sum()
                found.append(Prototype(word, key, feature.numpy()))
        return found


def build_prototypes(
    towers: Towers, source: Source, folder: str | Path, *, what: str, index: str = "auto", shard_size: int = 512,
    coverage: float = 0.5, progress: Callable[[int, int], None] | None = None,
    made_from: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Build, or go on building, a prototype folder.

    Args:
        source: named pictures with masks, loaded one at a time.
        what: the source in words. made_from: what else decides the prototypes (hashes of lists, sizes, thresholds). Both
            are kept in meta.json, with the model's weights: a build that differs in one of them is refused by its name.
        index: "auto", "hnsw" or "exact".
        progress: called with (items done, prototypes so far).

    Returns:
        The number of prototypes in the folder.
    """
    check_index_kind(index)
    maker = PrototypeMaker(towers, coverage=coverage)
    writer = PrototypeWriter(folder, maker.meta(what, made_from), shard_size=shard_size)
    made = 0
    try:
        for name, load in source:
            if name in writer.done:
                continue
            rows = maker.prototypes(load())
            writer.add(name, rows)
            made += len(rows)
            if progress is not None:
                progress(len(writer.done), made)
    except OutputError:
        raise
    except BaseException:  # Ctrl-C, or a picture that cannot be read: what was made is kept
        writer.flush()
        raise
    return writer.finish(index)


def _world(count: int) -> tuple[range, str]:
    scenes = range(FIRST_WORLD_SEED, FIRST_WORLD_SEED + count)
    return scenes, f"world, seeds {scenes[0]} to {scenes[-1]}"


def world_build_name(models: Any, count: int) -> str:
    """A folder name for prototypes of ``count`` scenes that depends on the models' weights."""
    meta = PrototypeMaker(models).meta(_world(count)[1])
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    return f"{models.name.rpartition('/')[2]}-{count}-{digest}"


def build_world_prototypes(
    models: Any, count: int, folder: Path, progress: ProgressCallback | None = None
) -> dict[str, object]:
    """Build prototypes from the first ``count`` training scenes, or resume it; returns freeda's options."""
    scenes, what = _world(count)

    def report(done: int, made: int) -> None:
        if progress is not None:
            progress(done, count, f"freeda: {made} prototypes")

    build_prototypes(models, world_source(scenes), folder, what=what, progress=report)
    return {"prototypes": str(folder)}


# --- sources ---------------------------------------------------------------------------------------------------------


def world_source(seeds: Sequence[int], *, height: int = 96) -> Iterator[tuple[str, Callable[[], MaskedPicture]]]:
    """Procedural scenes with the masks of their classes."""
    from talk2dino.world import CLASS_NAMES, render, sample_scene

    def draw(seed: int) -> MaskedPicture:
        drawn = render(sample_scene(seed), height)
        masks = {CLASS_NAMES[i]: drawn.labels == i for i in np.unique(drawn.labels)}
        return MaskedPicture(str(seed), drawn.image, masks)

    for seed in seeds:
        yield str(seed), lambda seed=seed: draw(seed)  # type: ignore[misc]


def folder_source(
    pictures: Path, masks: Path, names: Sequence[str], *, ignore: int = 255
) -> Iterator[tuple[str, Callable[[], MaskedPicture]]]:
    """Pictures of a folder with index PNGs of the same name in another: value i stands for names[i].

    Names that are empty or "background" are left out.
    """
    from talk2dino.io.find import find_images
    from talk2dino.io.images import read_image
    from talk2dino.io.index_png import read_index_png

    def load(path: Path) -> MaskedPicture:
        labels = read_index_png(masks / f"{path.stem}.png")
        image = read_image(path).array
        if image.shape[:2] != labels.shape:
            raise DataError(f"{path} is {image.shape[:2]} (height, width) and its mask is {labels.shape}")
        present = [int(value) for value in np.unique(labels) if value != ignore]
        if present and max(present) >= len(names):
            raise DataError(f"the mask of {path} has the value {max(present)}, but only {len(names)} names were given")
        wanted = [i for i in present if names[i] not in ("", "background")]
        return MaskedPicture(path.name, image, {names[i]: labels == i for i in wanted})

    for folder in (pictures, masks):
        if not folder.is_dir():
            raise DataError(f"no folder at {folder}")
    for path in find_images([pictures]):
        if not (masks / f"{path.stem}.png").is_file():
            raise DataError(f"no mask for {path}: expected {masks / (path.stem + '.png')}")
        yield path.name, lambda path=path: load(path)  # type: ignore[misc]


def diffusion_source(
    pipeline: Any, captions: Sequence[str], *, vocabulary: Sequence[str] | None = None,
    size: tuple[int, int] = (512, 512), steps: int = 30, guidance: float = 7.5,
    threshold: float = ATTRIBUTION_THRESHOLD,
) -> Iterator[tuple[str, Callable[[], MaskedPicture]]]:  # fmt: skip
    """Pictures made from captions, with the thresholded attributions of their words as masks."""
    from talk2dino.methods.attribution import caption_words, generate

    def make(number: int, caption: str) -> MaskedPicture:
        words = caption_words(caption, vocabulary)
        made = generate(pipeline, caption, words, size=size, steps=steps, guidance=guidance, seed=number)
        masks = {word: attribution > threshold for word, attribution in zip(made.words, made.maps, strict=True)}
        return MaskedPicture(f"caption-{number:07d}", made.image, masks)

    for number, caption in enumerate(captions):
        yield f"caption-{number:07d}", lambda n=number, c=caption: make(n, c)  # type: ignore[misc]


def load_pipeline(name: str | Path, device: Any = "cpu", *, local_files_only: bool = False) -> Any:
    """diffusers' Stable Diffusion, from a folder or the hub; safetensors only, no remote code."""
    from transformers.utils import logging as of_transformers

    try:
        from diffusers.utils import logging as of_diffusers
    except ImportError:
        raise MissingExtraError.of("diffusers", "freeda", "making prototypes by diffusion") from None
    loggers = (of_transformers, of_diffusers)
    told = [logging.get_verbosity() for logging in loggers]
    for logging in loggers:
        logging.set_verbosity_error()  # their advice on other packages, and their own account of what fails below
    try:
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(
            str(name), use_safetensors=True, safety_checker=None, requires_safety_checker=False,
            local_files_only=local_files_only,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        if not Path(name).is_dir() and "not fully cached" in str(error):
            reason = "it is not a folder, not downloaded yet, and the hub cannot be reached"
        else:
            reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"no Stable Diffusion pipeline at {name}: {reason}; give --pipeline a folder with model_index.json, or a hub id"
        ) from None
    finally:
        for logging, before in zip(loggers, told, strict=True):
            logging.set_verbosity(before)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
