"""Frozen DINOv2 and DINOv3: patch features and the last block's CLS-row logits in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from talk2dino.errors import ShapeError
from talk2dino.models.vit import VisionTransformer, ViTConfig


@dataclass(frozen=True)
class VisionOutput:
    """patches (B, h, w, D) after the final norm; attention (B, M, h, w) CLS-row logits; cls (B, D)."""

    patches: Tensor
    attention: Tensor
    cls: Tensor


class VisionModel(nn.Module):
    """A frozen image tower that returns patches and CLS-row attention logits.

    Args:
        backbone: the transformer.
        rotary_attention: for DINOv3, take the CLS-row logits after the rotary embedding. The default False takes them
            before it, as the published code does in training and inference.
    """

    def __init__(self, backbone: VisionTransformer, *, rotary_attention: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.rotary_attention = rotary_attention
        self.eval().requires_grad_(False)

    @property
    def config(self) -> ViTConfig:
        return self.backbone.config

    @property
    def patch_size(self) -> int:
        return self.config.patch_size

    @property
    def dim(self) -> int:
        """D, the width of a patch feature."""
        return self.config.width

    @property
    def num_heads(self) -> int:
        """M, the number of attention heads."""
        return self.config.heads

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.cls_token.dtype

    @property
    def device(self) -> torch.device:
        return self.backbone.cls_token.device

    def forward(self, pixels: Tensor) -> VisionOutput:
        """Encode normalised images.

        Args:
            pixels: (B, 3, H, W), ImageNet-normalised RGB; H and W multiples of the patch size.

        Returns:
            patches (B, h, w, D), attention (B, M, h, w) logits before the softmax, cls (B, D), in the model's dtype.

        Raises:
            ShapeError: if pixels have another layout, or H or W is not a multiple of the patch size.
        """
        p = self.patch_size
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % p or pixels.shape[3] % p or not pixels.numel():
            raise ShapeError(f"pixels must be (B, 3, H, W) with H and W multiples of {p}; got {tuple(pixels.shape)}")
        grid = (pixels.shape[2] // p, pixels.shape[3] // p)
        pixels = pixels.to(self.device, self.dtype)
        tokens, row = self.backbone(pixels, rotary_attention=self.rotary_attention)
        first = self.backbone.first_patch
        patches = tokens[:, first:].unflatten(1, grid)  # [B, h * w, D] -> [B, h, w, D]
        return VisionOutput(patches, row[:, :, first:].unflatten(2, grid), tokens[:, 0])
