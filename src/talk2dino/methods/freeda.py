"""FreeDA: class prototypes retrieved by text, compared with superpixels. No training.

    p_j          mean of the 350 visual prototypes whose text keys are nearest to the class's text embedding t_j
    f_r          mean of the patch features in superpixel r (Felzenszwalb), weighted with its mask at the patch grid
    local(r, j)  = sigmoid(cos(f_r, p_j)); where a superpixel covers no patch, the upsampled cosines of the patches
    global(j)    = cos(CLIP image embedding of the window, t_j)
    score        = 0.8 * local + 0.2 * global

Source: FreeDA (Barsellotti et al., CVPR 2024, arXiv 2404.06542) and its code (aimagelab/freeda, src/models/freeda/freeda.py
and src/configs/*/freeda_*.yml). The published models are DINOv2 ViT-L/14 without registers and CLIP ViT-L/14: the model
``freeda-vitl``. Ours: the background threshold (no published configuration has a background class), fewer neighbours in
small stores, the size of windows other than 448, and the making of prototypes (prototype_build.py), of which no code was
published.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import CheckpointError, InputError, MissingExtraError, Talk2DinoWarning
from talk2dino.methods.base import Facts, Method, Preparation
from talk2dino.methods.clip_dense import clip_normalise
from talk2dino.methods.prototypes import PrototypeStore
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, TextFeatures
from talk2dino.words.prompts import PromptList, Prompts

#: k_search and ensemble_dino_clip of the published configurations.
NEAREST, LOCAL_WEIGHT = 350, 0.8
#: Windows of 448 pixels are resized to 37 patches: 518 pixels for patches of 14, 592 for 16 (freeda.py, backbone_transforms).
WINDOW, GRID = 448, 37
#: Superpixels of the published configurations where they differ from scale 100, sigma 1, min_size 20 (ADE20K, Context 59).
BENCHMARK_SUPERPIXELS: dict[str, dict[str, object]] = {
    "voc20": {"sigma": 0.7},
    "coco-stuff": {"min_size": 100},
    "cityscapes": {"scale": 20, "sigma": 0.5, "min_size": 50},
}


class SmallStoreWarning(Talk2DinoWarning):
    """There are too few prototypes for the published 350 neighbours."""


def superpixels(image: np.ndarray, *, scale: float = 100, sigma: float = 1.0, min_size: int = 20) -> np.ndarray:
    """Felzenszwalb superpixels of an (H, W, 3) image in 0..255: (H, W) integers from 0."""
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError:
        raise MissingExtraError.of("scikit-image", "freeda", "the method freeda") from None
    return felzenszwalb(np.asarray(image, dtype=np.float64) / 255, scale=scale, sigma=sigma, min_size=min_size)


def superpixel_weights(segments: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """The masks of S superpixels at the patch grid: (S, h, w), bilinear with aligned corners.

    Equal to interpolating S binary masks, as the published code does, but no mask is made: a grid point reads four pixels.
    """
    height, width = segments.shape
    (top, bottom, down), (left, right, across) = _corners(height, grid[0]), _corners(width, grid[1])
    weights = np.zeros((segments.max() + 1, *grid), np.float32)
    rows, columns = np.indices(grid)
    for r, share_r in ((top, 1 - down), (bottom, down)):
        for c, share_c in ((left, 1 - across), (right, across)):
            np.add.at(weights, (segments[np.ix_(r, c)], rows, columns), np.outer(share_r, share_c))
    return torch.from_numpy(weights)


def _corners(length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place ``count`` points with aligned corners among ``length`` pixels: lower pixel, upper pixel, weight of the upper."""
    position = np.linspace(0, length - 1, count)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, length - 1), position - low


def region_similarity(patches: Tensor, segments: np.ndarray, prototypes: Tensor) -> Tensor:
    """Compare the superpixel of each pixel with the class prototypes: sigmoid of the cosine.

    Args:
        patches: (h, w, D) features. segments: (H, W) superpixels. prototypes: (N, D).

    Returns:
        (N, H, W) float32.
    """
    dense = torch.sigmoid(cosine_similarity(patches[None], prototypes))
    dense = F.interpolate(dense, segments.shape, mode="bilinear", align_corners=True)[0]
    weights = superpixel_weights(segments, (patches.shape[0], patches.shape[1]))
    reached = weights.flatten(1).sum(1) > 0
    means = torch.einsum("shw,hwd->sd", weights, patches.float())  # sums: the cosine drops the length
    similarity = torch.sigmoid(F.normalize(means, dim=1) @ F.normalize(prototypes.float(), dim=1).T)  # [S, N]
    labels = torch.from_numpy(segments.astype(np.int64))
    return torch.where(reached[labels], similarity.T[:, labels], dense)


def usable_nearest(store: PrototypeStore, asked: int | None) -> int:
    """The number of prototypes to average per class; see :class:`FreeDA`.

    Raises:
        InputError: every class would get the same prototype.
    """
    if len(store.keys) < 2:
        raise InputError(
            f"{store.folder} holds prototypes of one word ({store.words[0]!r}), so all classes would get the same one: build "
            "prototypes of several words (talk2dino freeda build)"
        )
    if asked is not None:
        if asked >= len(store):
            raise InputError(
                f"{store.folder} holds {len(store)} prototypes, so with nearest={asked} all classes would get the same mean: "
                "use a smaller number, or build more prototypes"
            )
        return asked
    most = max(1, len(store) // len(store.keys), len(store) // 100)
    if most >= NEAREST:
        return NEAREST
    warnings.warn(
        f"{store.folder} holds {len(store)} prototypes of {len(store.keys)} words: the {most} nearest are averaged per class "
        f"instead of the published {NEAREST} (--option nearest=N sets another number)",
        SmallStoreWarning,
        stacklevel=3,
    )
    return most


def check_store(store: PrototypeStore, towers: Towers) -> None:
    """Refuse prototypes of another model.

    Raises:
        CheckpointError: other dimensions, or other weights.
    """
    made_by = store.meta.get("model", "another model")
    advice = "build prototypes with this model (talk2dino freeda build)"
    found, needed = (store.keys.shape[1], store.prototypes.shape[1]), (towers.text.dim, towers.vision.dim)
    if found != needed:
        raise CheckpointError(
            f"the prototypes in {store.folder} were made by {made_by} and have {found[0]} text and {found[1]} vision "
            f"dimensions, but {towers.name} has {needed[0]} and {needed[1]}: {advice}"
        )
    recorded, here = store.meta.get("fingerprint"), towers.fingerprint(("vision", "text"))
    # Folders of version 0.1.0 have no fingerprint: the name of the model has to do.
    if (recorded != here) if recorded is not None else (made_by != towers.name):
        raise CheckpointError(
            f"the prototypes in {store.folder} were made by {made_by}, whose weights are not those of {towers.name}: {advice}"
        )


class FreeDA(Method):
    """FreeDA; see the formulas at the top of this file.

    Args:
        towers: bring the vision model, the text encoder and CLIP's image tower.
        prototypes: folder of ``talk2dino freeda build``, made with the same vision and text models.
        nearest: prototypes averaged per class. None: the published 350; fewer, with a warning, in stores in which a word has
            fewer on average and 350 are more than a hundredth of all (the mean of most of a store is equal for all classes).
        local_weight: weight of the local similarity, 0..1; the global one has the rest.
        index: "exact" or "hnsw" search; see :class:`PrototypeStore`.
        scale, sigma, min_size: of the superpixels, in pixels of the window.
        dino_size: size in pixels at which the vision model sees a window. None: 37 patches for windows of 448, as published;
            otherwise the size of the window.
        size: side of the windows, and short side of whole images, in pixels; None: the model's own.
    """

    name = "freeda"
    facts = Facts("visual prototypes retrieved by words, no training", towers=("vision", "text", "clip_vision"))
    threshold = 0.5
    threshold_source = (
        "our choice: where CLIP's global cosine is 0.2, as is typical, it asks for a local cosine of 0.30; the 0.4 of FreeDA's "
        "evaluation (src/configs/*/eval*.yml) would ask for -0.20, and no published configuration has a background"
    )

    def __init__(
        self, towers: Towers, *, prototypes: str | Path | PrototypeStore | None = None, nearest: int | None = None,
        local_weight: float = LOCAL_WEIGHT, index: str = "exact", scale: float = 100, sigma: float = 1.0,
        min_size: int = 20, dino_size: int | None = None, size: int | None = None,
    ) -> None:  # fmt: skip
        if prototypes is None:
            raise InputError(
                "freeda needs a folder of prototypes (--prototypes DIR): make one with talk2dino freeda build"
            )
        if (nearest is not None and nearest < 1) or not 0 <= local_weight <= 1:
            raise InputError(f"nearest must be at least 1 and local_weight 0 to 1; got {nearest} and {local_weight}")
        super().__init__(towers, size=size)
        if dino_size is not None and dino_size < self.patch_size:
            raise InputError(f"dino_size must be at least one patch of {self.patch_size} pixels; got {dino_size}")
        self.dino_size = dino_size or (GRID * self.patch_size if self.size == WINDOW else self.size)
        self.store = prototypes if isinstance(prototypes, PrototypeStore) else PrototypeStore(prototypes, index=index)
        check_store(self.store, towers)
        self.nearest, self.local_weight = usable_nearest(self.store, nearest), local_weight
        self.superpixel_options: dict[str, Any] = {"scale": scale, "sigma": sigma, "min_size": min_size}
        self.clip_vision: Any = towers.need_clip_vision("freeda's global similarity") if local_weight < 1 else None

    @classmethod
    def benchmark_options(cls, benchmark: str) -> Mapping[str, object]:
        """The superpixels of FreeDA's published configurations (src/configs/*/freeda_*.yml)."""
        return BENCHMARK_SUPERPIXELS.get(benchmark, {})

    @classmethod
    def preparation(
        cls, towers: Towers, options: Mapping[str, object], *, drawn: bool, scenes: int
    ) -> Preparation | None:
        """Prototypes from drawn scenes: for micro, which was trained on such scenes, and for the benchmark world."""
        if options.get("prototypes") is not None:
            return None
        advice = "--prototypes DIR uses other prototypes (talk2dino freeda build), and --methods leaves freeda out."
        if not drawn and towers.name != "micro":
            return Preparation("prototypes", advice, impossible="it needs --prototypes DIR (talk2dino freeda build)")
        from talk2dino.methods.prototype_build import build_world_prototypes, world_build_name

        return Preparation(
            f"prototypes from {scenes} drawn scenes (about {max(1, round(scenes / 600))} min on two CPU cores)", advice,
            f"prototypes/{world_build_name(towers, scenes)}", "keys.npy", partial(build_world_prototypes, towers, scenes),
        )  # fmt: skip

    @property
    def options(self) -> dict[str, object]:
        return {
            "prototypes": len(self.store), "index": self.store.index, "nearest": self.nearest,
            "local_weight": self.local_weight, "superpixels": self.superpixel_options, "dino_size": self.dino_size,
        }  # fmt: skip

    def fingerprints(self) -> dict[str, str]:
        return {"prototypes": self.store.fingerprint()}

    def encode_text(self, prompts: Prompts | PromptList, **options: Any) -> TextFeatures:
        """Embed the classes with CLIP, and retrieve their prototypes; ``options`` as in the base class."""
        text = super().encode_text(prompts, **options)
        prototypes = torch.from_numpy(self.store.class_prototypes(text.embeddings.cpu().numpy(), self.nearest))
        return replace(text, embeddings=prototypes, clip=text.embeddings if self.local_weight < 1 else None)

    @property
    def cosine_threshold(self) -> None:
        return None  # its classes are means of patches, as examples are

    def check_examples(self) -> None:
        if self.local_weight < 1:
            raise InputError(
                "freeda also compares the whole window with CLIP's text embedding of each class, which an example does not "
                "have: set local_weight=1 (--option local_weight=1) to use examples"
            )

    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        return F.normalize(self.towers.text.embed_classes(synonyms, templates), dim=-1)

    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        height, width = pixels.shape[2:]
        scale = self.dino_size / self.size / self.patch_size
        seen = [max(1, round(side * scale)) * self.patch_size for side in (height, width)]
        # torchvision's Resize in the published code: bilinear; it only enlarges, so that antialiasing does not matter.
        resized = pixels if seen == [height, width] else F.interpolate(pixels.float(), seen, mode="bilinear")
        patches = self.towers.encode(resized).patches.float().cpu()
        window = None if self.clip_vision is None else self.embed_windows(pixels)
        return ImageFeatures(patches, (height, width), pixels, cls=window)

    def embed_windows(self, pixels: Tensor) -> Tensor:
        """(B, C) CLIP image embeddings of whole windows, of length 1; resized as published (bicubic, not antialiased)."""
        assert self.clip_vision is not None
        side = self.clip_vision.config.grid * self.clip_vision.config.patch_size
        squashed = F.interpolate(pixels.float(), (side, side), mode="bicubic")
        normalised = clip_normalise(squashed.to(self.towers.device), self.towers.config)
        return F.normalize(self.clip_vision.embed_image(normalised).float().cpu(), dim=-1)

    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        """(N, H, W) scores at the window's size."""
        if image.pixels is None:
            raise InputError("freeda needs the image's pixels: encode the image again with encode_image")
        window = image.pixels[0].permute(1, 2, 0).cpu().numpy()
        segments = superpixels(window, **self.superpixel_options)
        local = region_similarity(image.patches[0], segments, text.embeddings)
        if image.cls is None or text.clip is None:
            return local
        everywhere = (image.cls[0] @ text.clip.cpu().T)[:, None, None]
        return self.local_weight * local + (1 - self.local_weight) * everywhere
