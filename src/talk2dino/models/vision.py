"""Frozen DINOv2 / DINOv3: patch features and the last block's CLS-row logits in one forward pass.

The transformers classes do the arithmetic. The attention function registered below runs the ordinary scaled dot product
attention and, in the last block, keeps ``q_cls . k / sqrt(head_dim)`` before the softmax: no hooks, no second pass, no
full attention matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings, Dinov2Model
from transformers.models.dinov2_with_registers.configuration_dinov2_with_registers import Dinov2WithRegistersConfig
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersModel
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel, rotate_half

from talk2dino.errors import InputError, ShapeError

ATTENTION = "talk2dino_cls_row"
FAMILIES = ("dinov2", "dinov2-registers", "dinov3")


@dataclass
class ClsRow:
    """Carries the CLS row out of the last block of one forward pass."""

    module: nn.Module  # the attention module to listen to
    query: Tensor | None = None  # (B, M, head_dim), scaled
    keys: Tensor | None = None  # (B, M, T, head_dim)


def attention_keeping_cls_row(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot product attention that also hands the CLS query and all keys of one block to ``cls_row``."""
    cls_row: ClsRow | None = kwargs.pop("cls_row", None)
    if cls_row is not None and module is cls_row.module:
        cls_row.query = query[:, :, 0] * (kwargs.get("scaling") or query.shape[-1] ** -0.5)
        cls_row.keys = key
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(ATTENTION, attention_keeping_cls_row)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Dinov2EmbeddingsWithOffset(Dinov2Embeddings):
    """Position grid of the original DINOv2 without registers: bicubic with an offset of 0.1 and no antialiasing.

    transformers resizes to the exact size instead, which differs by up to 0.17 in patch features.
    """

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        patch = int(self.patch_size)  # type: ignore[arg-type]
        rows, columns = height // patch, width // patch
        side = math.isqrt(self.position_embeddings.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.position_embeddings
        grid = self.position_embeddings[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(
            grid.float(), scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic", antialias=False
        )
        grid = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1).to(self.position_embeddings.dtype)
        return torch.cat([self.position_embeddings[:, :1], grid], dim=1)


@dataclass(frozen=True)
class VisionOutput:
    """patches (B, h, w, D) after the final norm; attention (B, M, h, w) CLS-row logits; cls (B, D)."""

    patches: Tensor
    attention: Tensor
    cls: Tensor


class VisionModel(nn.Module):
    """A frozen vision transformer that returns patches and CLS-row attention logits.

    Args:
        backbone: a Dinov2Model, Dinov2WithRegistersModel or DINOv3ViTModel of transformers.
        rotary_attention: for DINOv3, take the CLS-row logits after the rotary embedding. The default False takes them
            before it, as the published code does in training and inference.
    """

    backbone: Any  # a transformers class; nn.Module's own attribute types are too wide

    def __init__(self, backbone: Any, *, rotary_attention: bool = False) -> None:
        super().__init__()
        if isinstance(backbone, Dinov2WithRegistersModel):
            self.family, blocks = "dinov2-registers", backbone.encoder.layer
        elif isinstance(backbone, Dinov2Model):
            self.family, blocks = "dinov2", backbone.encoder.layer
            if not isinstance(backbone.embeddings, Dinov2EmbeddingsWithOffset):
                embeddings = Dinov2EmbeddingsWithOffset(backbone.config)
                embeddings.load_state_dict(backbone.embeddings.state_dict())
                backbone.embeddings = embeddings.to(backbone.dtype)
        elif isinstance(backbone, DINOv3ViTModel):
            self.family, blocks = "dinov3", backbone.model.layer
        else:
            raise InputError(
                f"{type(backbone).__name__} is not a vision backbone that talk2dino knows; "
                "accepted: Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel of transformers"
            )
        backbone.set_attn_implementation(ATTENTION)
        self.backbone = backbone
        self.rotary_attention = rotary_attention
        self._last_attention: list[Any] = [
            blocks[-1].attention
        ]  # in a list, so that it is not registered a second time
        config = backbone.config
        self.patch_size = int(config.patch_size)
        self.dim: int = config.hidden_size
        self.num_heads: int = config.num_attention_heads
        self.registers: int = 0 if self.family == "dinov2" else config.num_register_tokens
        self.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.embeddings.cls_token.dtype

    @property
    def device(self) -> torch.device:
        return self.backbone.embeddings.cls_token.device

    def forward(self, pixels: Tensor) -> VisionOutput:
        """Encode normalised pictures.

        Args:
            pixels: (B, 3, H, W), ImageNet-normalised RGB; H and W multiples of the patch size.

        Returns:
            patches (B, h, w, D), attention (B, M, h, w) raw logits, cls (B, D), in the model's dtype.

        Raises:
            ShapeError: if pixels have another layout or H or W is not a multiple of the patch size.
        """
        p = self.patch_size
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % p or pixels.shape[3] % p or not pixels.numel():
            raise ShapeError(f"pixels must be (B, 3, H, W) with H and W multiples of {p}; got {tuple(pixels.shape)}")
        pixels = pixels.to(self.device, self.dtype)
        rows, columns = pixels.shape[2] // p, pixels.shape[3] // p
        row = ClsRow(self._last_attention[0])
        tokens = self.backbone(pixel_values=pixels, cls_row=row).last_hidden_state  # (B, 1 + R + h*w, D)
        first_patch = 1 + self.registers
        patches = tokens[:, first_patch:].unflatten(1, (rows, columns))  # [B, h*w, D] -> [B, h, w, D]
        assert row.query is not None
        assert row.keys is not None
        keys = row.keys[:, :, first_patch:]
        if self.family == "dinov3" and not self.rotary_attention:
            keys = self._undo_rotary(keys, pixels)
        attention = torch.einsum("bmd,bmpd->bmp", row.query, keys).unflatten(2, (rows, columns))
        return VisionOutput(patches, attention, tokens[:, 0])

    def _undo_rotary(self, keys: Tensor, pixels: Tensor) -> Tensor:
        """Keys before the rotary embedding: it is a rotation, so turning back by the same angle undoes it."""
        cos, sin = self.backbone.rope_embeddings(pixels.float())
        keys = keys.float()
        return (keys * cos - rotate_half(keys) * sin).to(self.dtype)


def build_backbone(family: str, **sizes: Any) -> nn.Module:
    """A transformers backbone with random weights; ``sizes`` are its configuration's fields."""
    kinds = {
        "dinov2": (Dinov2Config, Dinov2Model),
        "dinov2-registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
        "dinov3": (DINOv3ViTConfig, DINOv3ViTModel),
    }
    if family not in kinds:
        raise InputError(f"unknown vision family {family!r}; accepted: {', '.join(FAMILIES)}")
    config, model = kinds[family]
    backbone = model(config(**sizes))
    if family == "dinov2":
        embeddings = Dinov2EmbeddingsWithOffset(backbone.config)
        embeddings.load_state_dict(backbone.embeddings.state_dict())
        backbone.embeddings = embeddings
    return backbone
