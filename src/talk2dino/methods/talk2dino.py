"""Talk2DINO: psi carries CLIP's words into DINO's space, where patches are compared with them.

    S(I, T_j)[h, w] = cos(v[h, w], psi(t_j)), after a sigmoid in the published variant; DINO's attention cleans the background

Source: Talk2DINO (Barsellotti, Bianchi et al., ICCV 2025, arXiv 2411.19331) and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import ModelNotFoundError
from talk2dino.methods.base import Facts, Method
from talk2dino.models.catalog import CATALOG
from talk2dino.stages.background import clean_background
from talk2dino.stages.similarity import calibrate, cosine_similarity
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, TextFeatures


class Talk2Dino(Method):
    """The method of this package; it takes no options besides ``size``."""

    name = "talk2dino"
    facts = Facts(
        "CLIP's words, mapped by psi into DINO's space",
        towers=("vision", "text", "projection", "vision_projection"),
        can_clean=True,
        thread_safe=True,
    )

    def __init__(self, towers: Towers, *, size: int | None = None) -> None:
        super().__init__(towers, size=size)
        self.variant = towers.config.variant
        self.threshold = towers.config.threshold
        known = CATALOG.get(towers.name)
        self.threshold_source = known.threshold_source if known else f"the model {towers.name}"
        self.threshold_range = (0.0, 1.0) if self.variant == "published" else (-1.0, 1.0)

    @property
    def cosine_threshold(self) -> float | None:
        if self.threshold is None or self.variant != "published":
            return super().cosine_threshold
        return math.log(self.threshold / (1 - self.threshold))  # undoes the sigmoid

    @property
    def options(self) -> dict[str, object]:
        return {"variant": self.variant}

    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        out = self.towers.encode(pixels)
        return ImageFeatures(
            out.patches, (pixels.shape[2], pixels.shape[3]), pixels.to(self.towers.device), out.attention, out.cls
        )

    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        if not self.towers.aligned:
            raise ModelNotFoundError(
                f"{self.towers.name} has no projection, so talk2dino cannot compare words with its patches: add --projection "
                "FILE, or choose a complete model such as vitb (--model vitb)"
            )
        raw = self.towers.text.embed_classes(synonyms, templates).to(self.towers.device)
        psi = self.towers.projection
        return F.normalize(raw if psi is None else psi(raw), dim=-1, eps=1e-6)

    def compared_patches(self, image: ImageFeatures) -> Tensor:
        psi = self.towers.vision_projection
        return image.patches if psi is None else psi(image.patches.float())

    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        patches = self.compared_patches(image)
        scores = calibrate(cosine_similarity(patches, text.embeddings), text.calibration)
        if self.variant == "published":
            scores = torch.sigmoid(scores)
        if clean and image.attention is not None:
            scores = clean_background(scores, patches, image.attention, text.embeddings, variant=self.variant)
        return scores[0]
