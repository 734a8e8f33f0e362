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

from talk2dino.errors import InputError, ModelNotFoundError
from talk2dino.methods.maps import PictureLoop, segment_pictures
from talk2dino.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from talk2dino.models.vit import VisionTransformer
from talk2dino.prompts import read_prompts
from talk2dino.stages.similarity import cosine_similarity
from talk2dino.types import Segmentation, TextFeatures

VARIANTS = ("values", "residual", "patches")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def need_clip_vision(segmenter: Any, what: str) -> Any:
    """The CLIP image tower that a model brings along."""
    if segmenter.clip_vision is None:
        raise ModelNotFoundError(
            f"{what} needs CLIP's image tower, which the model {segmenter.name} does not hold; take micro, a whole "
            "published model such as vitb, or dinov2-base and others with --projection"
        )
    return segmenter.clip_vision


def clip_normalise(pixels: Tensor, openai: bool) -> Tensor:
    """(B, 3, H, W) RGB 0..255 with the statistics that the CLIP at hand was trained with."""
    mean, std = (CLIP_MEAN, CLIP_STD) if openai else (IMAGENET_MEAN, IMAGENET_STD)
    shape = (1, 3, 1, 1)
    return (pixels.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def dense_clip_features(clip_vision: VisionTransformer, pixels: Tensor, variant: str = "values") -> Tensor:
    """Dense CLIP features in the space of its text embeddings.

    Args:
        clip_vision: CLIP's image tower.
        pixels: (B, 3, H, W) normalised, H and W multiples of the patch.
        variant: "values", "residual" or "patches".

    Returns:
        (B, h, w, C), not normalised.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant of clip-dense {variant!r}; accepted: {', '.join(VARIANTS)}")
    tokens = clip_vision.tokens_before_last(pixels)  # [B, 1 + h*w, width]
    last = clip_vision.last_block
    if variant == "patches":
        tokens, _ = last(tokens)
    else:
        values = last.attn.values_only(last.norm1(tokens))
        if variant == "residual":
            values = tokens + values
            values = values + last.mlp(last.norm2(values))
        tokens = values
    patch = clip_vision.config.patch_size
    grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
    return clip_vision.project(tokens[:, clip_vision.first_patch :]).unflatten(1, grid)


class ClipDense:
    """Dense CLIP behind ``segment()``; the formulas stand at the top of this file.

    Args:
        segmenter: brings the CLIP image tower and the text encoder.
        variant: "values", "residual" or "patches".
        size: short side of the picture, in pixels; the model's own when None.
    """

    method = "clip-dense"
    matched = False

    def __init__(self, segmenter: Any, *, variant: str = "values", size: int | None = None) -> None:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant of clip-dense {variant!r}; accepted: {', '.join(VARIANTS)}")
        self.clip_vision = need_clip_vision(segmenter, "clip-dense").to(segmenter.device).eval()
        self.text = segmenter.text
        self.device = segmenter.device
        self.variant = variant
        self.openai = segmenter.config.tokenizer == "clip"
        self.name = segmenter.name
        patch = self.clip_vision.config.patch_size
        self.loop = PictureLoop(size or segmenter.config.size, patch)

    @property
    def info(self) -> dict[str, Any]:
        """What results say of the system."""
        return {"method": self.method, "model": self.name, "variant": self.variant}

    def encode_text(self, prompts: Any) -> TextFeatures:
        """Mean CLIP embedding over templates and synonyms, L2-normalised: (N, C)."""
        asked = read_prompts(prompts)
        embeddings = F.normalize(self.text.embed_classes(asked.synonyms), dim=-1)
        return TextFeatures(asked.names, embeddings, 0, self.name)

    @torch.inference_mode()
    def score_maps(self, pixels: Tensor, text: TextFeatures) -> Tensor:
        """(B, 3, H, W) RGB 0..255 to (B, N, h, w) cosines."""
        normalised = clip_normalise(pixels, self.openai).to(self.device)
        features = dense_clip_features(self.clip_vision, normalised, self.variant)
        return cosine_similarity(features, text.embeddings).cpu()

    def segment_batch(self, images: Sequence[Any], prompts: Any, **options: Any) -> list[Segmentation]:
        """Options as in :func:`segment_pictures`; scores and thresholds are cosines."""
        text = prompts if isinstance(prompts, TextFeatures) else self.encode_text(prompts)
        return segment_pictures(images, lambda p: self.score_maps(p, text), text.names, self.loop, self.info, **options)

    def segment(self, image: Any, prompts: Any, **options: Any) -> Segmentation:
        """One picture; options as in :meth:`segment_batch`."""
        return self.segment_batch([image], prompts, **options)[0]
