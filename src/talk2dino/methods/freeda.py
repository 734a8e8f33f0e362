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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import CheckpointError, InputError, MissingExtraError, Talk2DinoWarning
from talk2dino.methods.base import Facts, Method, Preparation
from talk2dino.methods.clip_dense import clip_normalise
from talk2dino.methods.prototypes import PrototypeStore
from talk2dino.prompts import PromptList, Prompts
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, TextFeatures

NEAREST = 350
LOCAL_WEIGHT = 0.8
#: Where FreeDA's published configurations differ from scale 100, sigma 1, smallest size 20 (ADE20K and Pascal Context).
BENCHMARK_SUPERPIXELS: dict[str, dict[str, object]] = {
    "voc20": {"sigma": 0.7},
    "coco-stuff": {"min_size": 100},
    "cityscapes": {"scale": 20, "sigma": 0.5, "min_size": 50},
}


class SmallStoreWarning(Talk2DinoWarning):
    """The prototypes are too few for the published number of neighbours."""


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


class FreeDA(Method):
    """FreeDA; see the formulas at the top of this file.

    Args:
        towers: bring the vision model, the text encoder and the CLIP image tower.
        prototypes: folder that ``talk2dino freeda build`` wrote, with the same vision and text models.
        nearest: keys retrieved per class. None: the published 350, or fewer with a warning where that would be more than a
            word has on average and more than a hundredth of all prototypes (the mean over most of a store is the same for
            every class).
        local_weight: share of the local similarity; the rest is the global one.
        index: "auto", "hnsw" or "exact" search.
        scale, sigma, min_size: of the superpixels, in the pixels of the window.
        size: short side of the image, in pixels; the model's own when None.
    """

    name = "freeda"
    facts = Facts("visual prototypes retrieved by words, no training", towers=("vision", "text", "clip_vision"))
    threshold = 0.5
    threshold_source = "FreeDA's published configuration (bg_thresh 0.5, a constant channel before the argmax)"

    def __init__(
        self, towers: Towers, *, prototypes: str | Path | PrototypeStore | None = None, nearest: int | None = None,
        local_weight: float = LOCAL_WEIGHT, index: str = "auto", scale: float = 100, sigma: float = 1.0,
        min_size: int = 20, size: int | None = None,
    ) -> None:  # fmt: skip
        if prototypes is None:
            raise InputError(
                "freeda needs a folder of prototypes (--prototypes DIR); make one with: talk2dino freeda build"
            )
        if (nearest is not None and nearest < 1) or not 0 <= local_weight <= 1:
            raise InputError(f"nearest must be at least 1 and local_weight 0 to 1; got {nearest} and {local_weight}")
        super().__init__(towers, size=size)
        self.store = prototypes if isinstance(prototypes, PrototypeStore) else PrototypeStore(prototypes, index=index)
        found = (self.store.keys.shape[1], self.store.prototypes.shape[1])
        if found != (towers.text.dim, towers.vision.dim):
            raise CheckpointError(
                f"the prototypes in {self.store.folder} have {found[0]} text and {found[1]} vision dimensions, the model "
                f"{towers.name} has {towers.text.dim} and {towers.vision.dim}: build them again with this model"
            )
        self.nearest, self.local_weight = usable_nearest(self.store, nearest), local_weight
        self.superpixel_options = {"scale": scale, "sigma": sigma, "min_size": min_size}
        self.clip_vision = towers.need_clip_vision("freeda's global similarity") if local_weight < 1 else None

    @classmethod
    def benchmark_options(cls, benchmark: str) -> Mapping[str, object]:
        """The superpixels of FreeDA's published configurations (configs/*.yml); those of the others are the defaults."""
        return BENCHMARK_SUPERPIXELS.get(benchmark, {})

    @classmethod
    def preparation(
        cls, towers: Towers, options: Mapping[str, object], *, drawn: bool, scenes: int
    ) -> Preparation | None:
        """Prototypes from drawn scenes, for micro, which was trained on such scenes, and for the world."""
        if options.get("prototypes") is not None:
            return None
        advice = "--prototypes DIR uses other prototypes (talk2dino freeda build), and --methods leaves freeda out."
        if not drawn and towers.name != "micro":
            return Preparation("prototypes", advice, impossible="it needs --prototypes DIR (talk2dino freeda build)")
        from talk2dino.methods.prototype_build import build_world_prototypes, world_build_name

        return Preparation(
            f"prototypes from {scenes} drawn scenes (about {max(1, round(scenes / 600))} min on two CPU cores)", advice, f"prototypes/{world_build_name(towers, scenes)}", "keys.npy",
            partial(build_world_prototypes, towers, scenes),
        )  # fmt: skip

    @property
    def options(self) -> dict[str, object]:
        return {
            "prototypes": len(self.store), "index": self.store.kind, "nearest": self.nearest,
            "local_weight": self.local_weight, "superpixels": self.superpixel_options,
        }  # fmt: skip

    def fingerprints(self) -> dict[str, str]:
        return {"prototypes": self.store.fingerprint()}

    def encode_text(
        self,
        prompts: Prompts | PromptList,
        *,
        negative: Prompts | PromptList | None = None,
        templates: Sequence[str] | None = None,
    ) -> TextFeatures:
        """CLIP's text embeddings, and the class prototypes that they retrieve."""
        text = super().encode_text(prompts, negative=negative, templates=templates)
        prototypes = torch.from_numpy(self.store.class_prototypes(text.embeddings.cpu().numpy(), self.nearest))
        return replace(text, embeddings=prototypes, clip=text.embeddings)

    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        return F.normalize(self.towers.text.embed_classes(synonyms, templates), dim=-1)

    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        patches = self.towers.encode(pixels).patches.float().cpu()
        window = None if self.clip_vision is None else self.embed_windows(pixels)
        return ImageFeatures(patches, (pixels.shape[2], pixels.shape[3]), pixels, cls=window)

    def embed_windows(self, pixels: Tensor) -> Tensor:
        """(B, C) CLIP image embeddings of whole windows, of length 1."""
        assert self.clip_vision is not None
        side = self.clip_vision.config.image_size
        squashed = F.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True).clamp(0, 255)
        normalised = clip_normalise(squashed.to(self.towers.device), self.towers.config)
        return F.normalize(self.clip_vision(pixel_values=normalised).image_embeds.float().cpu(), dim=-1)

    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        """(N, H, W) scores at the window's size."""
        if image.pixels is None:
            raise InputError("freeda needs the image's pixels for its superpixels: encode the image again")
        window = image.pixels[0].permute(1, 2, 0).cpu().numpy()
        segments = superpixels(window, **self.superpixel_options)
        local = region_similarity(image.patches[0], segments, text.embeddings)
        if image.cls is None or text.clip is None:
            return local
        everywhere = (image.cls[0] @ text.clip.cpu().T)[:, None, None]
        return self.local_weight * local + (1 - self.local_weight) * everywhere
