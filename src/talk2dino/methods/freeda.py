"""FreeDA: class prototypes retrieved by text, compared with superpixels. No training.

    p_j   mean of the visual prototypes whose text keys are the 350 nearest to the class's text embedding t_j
    r     a superpixel (Felzenszwalb), f_r the mean of the patch features weighted with its mask at the patch grid
    local(r, j)  = sigmoid(cos(f_r, p_j)); for superpixels too small to reach a patch, of the upsampled patch cosines
    global(j)    = cos(CLIP image embedding of the window, t_j)
    score        = 0.8 * local + 0.2 * global

Source: FreeDA (Barsellotti et al., CVPR 2024, arXiv 2404.06542) and its published code: k 350, prototypes averaged,
weights 0.8 and 0.2, Felzenszwalb with scale 100, sigma 0.7 to 1 and smallest size 20 to 100 by data set.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import CheckpointError, InputError, MissingExtraError, Talk2DinoWarning
from talk2dino.methods.clip_dense import clip_normalise, need_clip_vision
from talk2dino.methods.maps import PictureLoop, segment_pictures
from talk2dino.methods.prototypes import PrototypeStore
from talk2dino.models.preprocess import normalise
from talk2dino.prompts import read_prompts
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.types import Segmentation

NEAREST = 350
LOCAL_WEIGHT = 0.8


class SmallStoreWarning(Talk2DinoWarning):
    """The prototypes are too few for the published number of neighbours."""


@dataclass(frozen=True)
class PrototypeClasses:
    """Class names with what FreeDA compares against: text embeddings (N, C) and class prototypes (N, D)."""

    names: tuple[str, ...]
    text: Tensor
    prototypes: Tensor


def superpixels(image: np.ndarray, *, scale: float = 100, sigma: float = 1.0, min_size: int = 20) -> np.ndarray:
    """Felzenszwalb superpixels of (H, W, 3) RGB 0..255: (H, W) integers from 0 on."""
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError:
        raise MissingExtraError.of("scikit-image", "freeda", "FreeDA's superpixels") from None
    return felzenszwalb(np.asarray(image, dtype=np.float64) / 255, scale=scale, sigma=sigma, min_size=min_size)


def superpixel_weights(segments: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Each superpixel's mask at the patch grid: (S, h, w), bilinear with aligned corners as published.

    The same as interpolating S binary masks, without making them: every grid point reads four pixels.
    """
    height, width = segments.shape
    (top, bottom, down), (left, right, across) = _corners(height, grid[0]), _corners(width, grid[1])
    weights = torch.zeros(int(segments.max()) + 1, *grid)
    rows, columns = np.indices(grid)
    for r, share_r in ((top, 1 - down), (bottom, down)):
        for c, share_c in ((left, 1 - across), (right, across)):
            share = torch.from_numpy(share_r[:, None] * share_c[None, :]).float()
            weights.index_put_(
                tuple(torch.from_numpy(i) for i in (segments[np.ix_(r, c)], rows, columns)), share, accumulate=True
            )
    return weights


def _corners(length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where ``count`` points with aligned corners fall between ``length`` pixels: low, high, share of high."""
    position = np.linspace(0, length - 1, count) if count > 1 else np.zeros(1)
    low = np.minimum(np.floor(position).astype(np.int64), length - 1)
    return low, np.minimum(low + 1, length - 1), position - low


def region_similarity(patches: Tensor, segments: np.ndarray, prototypes: Tensor) -> Tensor:
    """sigmoid of the cosine of each pixel's superpixel with the class prototypes.

    Args:
        patches: (h, w, D). segments: (H, W). prototypes: (N, D).

    Returns:
        (N, H, W) float32.
    """
    dense = torch.sigmoid(cosine_similarity(patches[None], prototypes))
    dense = F.interpolate(dense, segments.shape, mode="bilinear", align_corners=True)[0]
    weights = superpixel_weights(segments, (patches.shape[0], patches.shape[1]))
    reached = weights.flatten(1).sum(1) > 0
    means = torch.einsum("shw,hwd->sd", weights, patches.float())  # a mean but for its length, which the cosine drops
    similarity = torch.sigmoid(F.normalize(means, dim=1) @ F.normalize(prototypes.float(), dim=1).T)  # [S, N]
    labels = torch.from_numpy(segments.astype(np.int64))
    return torch.where(reached[labels], similarity.T[:, labels], dense)


def usable_nearest(store: PrototypeStore, asked: int | None) -> int:
    """How many keys to retrieve a class; see :class:`FreeDA`."""
    if asked is not None:
        if asked >= len(store) > 1:
            raise InputError(
                f"{store.folder} holds {len(store)} prototypes: with nearest={asked} every class would get the mean of all "
                "of them; take fewer, or make more prototypes"
            )
        return asked
    most = max(1, len(store) // len(set(store.words)), len(store) // 100)
    if most >= NEAREST:
        return NEAREST
    warnings.warn(
        f"{store.folder} holds {len(store)} prototypes of {len(set(store.words))} words, too few for the published "
        f"{NEAREST} nearest: the {most} nearest are used (option nearest sets another number)",
        SmallStoreWarning,
        stacklevel=3,
    )
    return most


class FreeDA:
    """FreeDA behind ``segment()``; the formulas stand at the top of this file.

    Args:
        segmenter: brings the vision model, the text encoder and the CLIP image tower.
        prototypes: folder that ``talk2dino freeda build`` made, with the same vision and text models.
        nearest: keys retrieved a class. None: the published 350, or fewer with a warning where that would be more than
            a word has on average and more than a hundredth of all prototypes (the mean over most of a store is the same
            for every class).
        local_weight: share of the local similarity; the rest is the global one.
        index: "auto", "hnsw" or "exact" search.
        scale, sigma, min_size: of the superpixels, in the pixels that the model sees.
    """

    method = "freeda"
    matched = False

    def __init__(
        self, segmenter: Any, *, prototypes: str | Path | PrototypeStore | None = None, nearest: int | None = None,
        local_weight: float = LOCAL_WEIGHT, index: str = "auto", scale: float = 100, sigma: float = 1.0,
        min_size: int = 20, size: int | None = None,
    ) -> None:  # fmt: skip
        if prototypes is None:
            raise InputError(
                "freeda needs a prototype folder (--prototypes DIR); make one with: talk2dino freeda build"
            )
        if (nearest is not None and nearest < 1) or not 0 <= local_weight <= 1:
            raise InputError(f"nearest must be at least 1 and local_weight 0 to 1; got {nearest} and {local_weight}")
        self.store = prototypes if isinstance(prototypes, PrototypeStore) else PrototypeStore(prototypes, index=index)
        self.vision, self.text, self.name = segmenter.vision, segmenter.text, segmenter.name
        self.device = segmenter.device
        found = (self.store.keys.shape[1], self.store.prototypes.shape[1])
        if found != (self.text.dim, self.vision.dim):
            raise CheckpointError(
                f"the prototypes in {self.store.folder} have {found[0]} text and {found[1]} vision dimensions, the "
                f"model {self.name} has {self.text.dim} and {self.vision.dim}: build them with this model"
            )
        self.nearest, self.local_weight = usable_nearest(self.store, nearest), local_weight
        self.superpixel_options: dict[str, Any] = {"scale": scale, "sigma": sigma, "min_size": min_size}
        self.clip_vision = None
        if local_weight < 1:
            self.clip_vision = need_clip_vision(segmenter, "freeda's global similarity").to(self.device).eval()
        self.openai = segmenter.config.tokenizer == "clip"
        self.loop = PictureLoop(size or segmenter.config.size, self.vision.patch_size)

    @property
    def info(self) -> dict[str, Any]:
        """What results say of the system."""
        return {
            "method": self.method, "model": self.name, "prototypes": len(self.store), "index": self.store.kind,
            "nearest": self.nearest, "local_weight": self.local_weight, "superpixels": self.superpixel_options,
        }  # fmt: skip

    def encode_text(self, prompts: Any) -> PrototypeClasses:
        """Retrieve the class prototypes."""
        asked = read_prompts(prompts)
        text = F.normalize(self.text.embed_classes(asked.synonyms), dim=-1)
        prototypes = torch.from_numpy(self.store.class_prototypes(text.numpy(), self.nearest))
        return PrototypeClasses(asked.names, text, prototypes)

    @torch.inference_mode()
    def score_maps(self, pixels: Tensor, classes: PrototypeClasses) -> Tensor:
        """(B, 3, H, W) RGB 0..255 to (B, N, H, W) scores."""
        patches = self.vision(normalise(pixels).to(self.vision.device)).patches.float().cpu()
        images = pixels.permute(0, 2, 3, 1).numpy()
        local = torch.stack([
            region_similarity(one, superpixels(image, **self.superpixel_options), classes.prototypes)
            for one, image in zip(patches, images, strict=True)
        ])  # fmt: skip
        if self.clip_vision is None:
            return local
        everywhere = self.global_similarity(pixels, classes.text)[:, :, None, None]
        return self.local_weight * local + (1 - self.local_weight) * everywhere

    def global_similarity(self, pixels: Tensor, text: Tensor) -> Tensor:
        """(B, N) cosines of the whole window's CLIP image embedding with the class texts."""
        assert self.clip_vision is not None
        side = self.clip_vision.config.grid * self.clip_vision.config.patch_size
        squashed = F.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True).clamp(0, 255)
        image = self.clip_vision.embed_image(clip_normalise(squashed, self.openai).to(self.device))
        return F.normalize(image.float().cpu(), dim=-1) @ text.T

    def segment_batch(self, images: Sequence[Any], prompts: Any, **options: Any) -> list[Segmentation]:
        """Options as in :func:`segment_pictures`; thresholds are on the scale of the score above."""
        classes = prompts if isinstance(prompts, PrototypeClasses) else self.encode_text(prompts)
        return segment_pictures(
            images, lambda p: self.score_maps(p, classes), classes.names, self.loop, self.info, **options
        )

    def segment(self, image: Any, prompts: Any, **options: Any) -> Segmentation:
        """One picture; options as in :meth:`segment_batch`."""
        return self.segment_batch([image], prompts, **options)[0]
