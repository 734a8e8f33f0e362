"""CLIP alone, with dense features from its last block.

With x the tokens that enter the last block, W_v and W_o its value and output projections, W_proj the visual projection:

    values:    f = LN_post(W_o W_v LN_1(x)) W_proj            the formula of MaskCLIP's paper
    residual:  f = LN_post(y + MLP(LN_2(y))) W_proj,  y = x + W_o W_v LN_1(x)      MaskCLIP's code for ViT
    patches:   f = LN_post(block(x)) W_proj                   the patch tokens of an ordinary forward pass

    S(I, T_j)[h, w] = cos(f[h, w], t_j),  t_j the mean CLIP text embedding of class j

Source: MaskCLIP (Zhou, Loy and Dai, ECCV 2022, arXiv 2112.01071), section 3.2, and its code (chongzhou96/MaskCLIP,
mmseg/models/backbones/vit.py and decode_heads/maskclip_head.py), without key smoothing and prompt denoising. Published
figures belong to "residual". That code also averages 85 templates, each normalised (tools/maskclip_utils/
prompt_engineering.py), and sees whole images with a short side of 512; here the 7 templates of Talk2DINO, not normalised,
and windows of 448 are the default, as for all methods. ``size=512``, ``normalise_templates=True``, ``mode="whole"`` and
``encode_text(templates=...)`` come close to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from talk2dino.errors import InputError
from talk2dino.methods.base import Facts, Method
from talk2dino.models.config import SegmenterConfig
from talk2dino.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from talk2dino.models.vit import VisionTransformer
from talk2dino.stages.similarity import calibrate, cosine_similarity
from talk2dino.towers import Towers
from talk2dino.types import ImageFeatures, TextFeatures

VARIANTS = ("values", "residual", "patches")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_normalise(pixels: Tensor, config: SegmenterConfig) -> Tensor:
    """Normalise (B, 3, H, W) RGB 0..255 with the statistics that the checkpoint's CLIP was trained with."""
    statistics = (CLIP_MEAN, CLIP_STD) if config.tokenizer == "clip" else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in statistics)
    return (pixels.float() / 255 - mean) / std


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
    tokens, last = clip_vision.tokens_before_last(pixels), clip_vision.last_block  # [B, 1 + h*w, width]
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


class ClipDense(Method):
    """Dense CLIP; see the formulas at the top of this file.

    Args:
        towers: bring CLIP's image tower and the text encoder.
        variant: "values", "residual" or "patches".
        normalise_templates: scale the embedding of each template to length 1 before averaging, as MaskCLIP does.
        size: side of the windows, and short side of whole images, in pixels; None: the model's own.
    """

    name = "clip-dense"
    facts = Facts("CLIP alone, made dense", towers=("clip_vision", "text"))
    threshold = 0.2
    threshold_source = (
        "our choice: the best of 0.05, 0.1 ... 0.5 on 40 drawn scenes with micro; not tuned on photographs"
    )

    def __init__(
        self, towers: Towers, *, variant: str = "values", normalise_templates: bool = False, size: int | None = None
    ) -> None:
        if variant not in VARIANTS:
            raise InputError(f"unknown variant of clip-dense {variant!r}; accepted: {', '.join(VARIANTS)}")
        self.clip_vision = towers.need_clip_vision(self.name)
        super().__init__(towers, size=size, patch_size=self.clip_vision.config.patch_size)
        self.variant, self.normalise_templates = variant, normalise_templates

    @property
    def options(self) -> dict[str, object]:
        return {"variant": self.variant, **({"normalise_templates": True} if self.normalise_templates else {})}

    def embed_classes(self, synonyms: Sequence[Sequence[str]], templates: Sequence[str] | None) -> Tensor:
        embed = self.towers.text.embed_classes
        if not self.normalise_templates:
            return F.normalize(embed(synonyms, templates), dim=-1)
        each = [embed(synonyms, [template]) for template in templates or self.towers.text.templates]
        return F.normalize(F.normalize(torch.stack(each), dim=-1).mean(0), dim=-1)

    def encode_pixels(self, pixels: Tensor) -> ImageFeatures:
        normalised = clip_normalise(pixels.to(self.towers.device), self.towers.config)
        features = dense_clip_features(self.clip_vision, normalised, self.variant)
        return ImageFeatures(features, (pixels.shape[2], pixels.shape[3]), pixels)

    def score(self, image: ImageFeatures, text: TextFeatures, *, clean: bool) -> Tensor:
        return calibrate(cosine_similarity(image.patches, text.embeddings), text.calibration)[0].cpu()
