"""CLIP alone, made dense: what talk2dino's text side can do without DINO.

With x the tokens that enter CLIP's last block, W_v, W_o its value and output projections, W_proj the visual projection:

    values:    f = LN_post(W_o W_v LN_1(x)) W_proj            the last block's values, no attention, no pooling
    residual:  f = LN_post(y + MLP(LN_2(y))) W_proj,  y = x + W_o W_v LN_1(x)
    patches:   f = LN_post(block(x)) W_proj                   the plain patch tokens of an ordinary forward pass

    S(I, T_j)[h, w] = cos(f[h, w], t_j),  t_j the mean CLIP text embedding of the class

Source: MaskCLIP (Zhou, Loy and Dai, ECCV 2022, arXiv 2112.01071), section 3.2; "values" is the paper's formula,
"residual" what its code computes for vision transformers. Key smoothing and prompt denoising are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.methods.base import Facts, Method
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, TextFeatures

VARIANTS = ("values", "residual", "patches")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_normalise(pixels: Tensor, config: SegmenterConfig) -> Tensor:
    """(B, 3, H, W) RGB 0..255, normalised with the statistics that the CLIP of this checkpoint was trained with."""
    openai = config.tokenizer == "clip"
    mean, std = (CLIP_MEAN, CLIP_STD) if openai else (IMAGENET_MEAN, IMAGENET_STD)
    shape, device = (1, 3, 1, 1), pixels.device
    return (pixels.float() / 255 - torch.tensor(mean, device=device).view(shape)) / torch.tensor(
        std, device=device
    ).view(shape)


def dense_clip_features(clip_vision: Any, pixels: Tensor, variant: str = "values") -> Tensor:
    """Dense CLIP features in the space of its text embeddings.

    Args:
        clip_vision: transformers' CLIPVisionModelWithProjection.
        pixels: (B, 3, H, W) normalised, H and W multiples of the patch.
        variant: "values", "residual" or "patches".

    Returns:
        (B, h, w, C), not normalised.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant of clip-dense {variant!r}; accepted: {', '.join(VARIANTS)}")
    tower = clip_vision.vision_model
    patch = tower.config.patch_size
    tokens = tower.pre_layrnorm(tower.embeddings(pixels, interpolate_pos_encoding=True))  # [B, 1 + h*w, width]
    *blocks, last = tower.encoder.layers
    for block in blocks:
        tokens = block(tokens, attention_mask=None)
    if variant == "patches":
        tokens = last(tokens, attention_mask=None)
    else:
        values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(tokens)))
        if variant == "residual":
            values = tokens + values
            values = values + last.mlp(last.layer_norm2(values))
        tokens = values
    projected = clip_vision.visual_projection(tower.post_layernorm(tokens[:, 1:]))  # [B, h*w, C]
    return projected.unflatten(1, (pixels.shape[2] // patch, pixels.shape[3] // patch))


class ClipDense(Method):
    """Dense CLIP; see the formulas at the top of this file.

    Args:
        towers: bring the CLIP image tower and the text encoder.
        variant: "values", "residual" or "patches".
        size: short side of the image, in pixels; the model's own when None.
    """

    name = "clip-dense"
    facts = Facts("CLIP alone, made dense", towers=("clip_vision", "text"))
    threshold = 0.2
    threshold_source = (
        "our choice: the best of 0.05, 0.1 ... 0.5 on 40 drawn scenes with micro; on photographs nobody tuned it"
    )

    def __init__(self, towers: Towers, *, variant: str = "values", size: int | None = None) -> None:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant of clip-dense {variant!r}; accepted: {', '.join(VARIANTS)}")
        super().__init__(towers, size=size)
        self.clip_vision = towers.need_clip_vision(self.name)
        self.variant = variant
        self.patch_size = self.clip_vision.config.patch_size
        self.size = (size or towers.config.size) // self.patch_size * self.patch_size or self.patch_size

    @property
    def options(self) -> dict[str, object]:
        return {"variant": self.variant}

    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        return F.normalize(self.towers.text.embed_classes(synonyms, templates), dim=-1)

    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        normalised = clip_normalise(pixels.to(self.towers.device), self.towers.config)
        features = dense_clip_features(self.clip_vision, normalised, self.variant)
        return ImageFeatures(features, (pixels.shape[2], pixels.shape[3]), pixels)

    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        return cosine_similarity(image.patches, text.embeddings)[0].cpu()
