"""The vision model in bfloat16 on a CPU, with the linear layers as oneDNN wants them.

The transformers classes stay; four kinds of their parts are exchanged in a copy that shares all other weights:

    linear layer    weights laid out for the processor's matrix tiles once instead of at every call, bias added inside
    GELU            computed inside the linear layer before it, while its output is still in registers
    positions       resized once a size of pictures
    layer scale     gamma * (W x + b) = (gamma W) x + gamma b: multiplied into the linear layer before it

A batch goes through in pieces of :data:`PIECE_TOKENS`, so that what one layer hands to the next stays in memory that the
process has already, and partly in the caches.

Source: the operators are those that torch's own compiler puts in place of linear layers when it freezes a model.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talk2dino.errors import ShapeError
from talk2dino.models.vision import VisionModel, VisionOutput

log = logging.getLogger(__name__)

#: Tokens that go through the model at once (four pictures of 448 x 448); the result does not depend on it.
PIECE_TOKENS = 4200
#: Sizes of pictures whose position embeddings are kept.
SIZES_KEPT = 16


class PackedLinear(nn.Module):
    """y = act(x W^T + b) with act the identity or GELU (exact), in bfloat16 with float32 sums."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else bias.detach()
        self.how: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.how)


class FusedVision:
    """A vision model on the CPU with its blocks exchanged; called like the model that it was made from."""

    def __init__(self, vision: VisionModel) -> None:
        shared = {id(tensor): tensor for tensor in (*vision.parameters(), *vision.buffers())}
        self.vision: VisionModel = copy.deepcopy(vision, shared)
        for block in _blocks(self.vision):
            _fuse_block(block)
        if self.vision.family != "dinov3":  # which has no positions to resize
            _remember_positions(self.vision.backbone.embeddings)

    @property
    def patch_size(self) -> int:
        return self.vision.patch_size

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> VisionOutput:
        """As :meth:`VisionModel.forward`."""
        if pixels.ndim != 4:
            raise ShapeError(f"pixels must be (B, 3, H, W); got {tuple(pixels.shape)}")
        tokens = max(1, pixels.shape[2] * pixels.shape[3] // self.vision.patch_size**2)
        pieces = [self.vision(piece) for piece in pixels.split(max(1, PIECE_TOKENS // tokens))]
        if len(pieces) == 1:
            return pieces[0]
        return VisionOutput(*(torch.cat([getattr(p, n) for p in pieces]) for n in ("patches", "attention", "cls")))


def fuse(vision: VisionModel) -> FusedVision | None:
    """The model fused, or None where this torch, this processor or the model's dtype and device do not allow it."""
    if vision.device.type != "cpu" or vision.dtype != torch.bfloat16:
        return None
    why = _cannot_pack()
    if why:
        log.info("the vision model runs as it is, which is slower: %s", why)
        return None
    return FusedVision(vision)


def _cannot_pack() -> str:
    """Why packed layers cannot be used here; empty if they can. The operators are private to torch: they are tried."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "this processor has no bfloat16 in oneDNN"
        with torch.inference_mode():
            x = torch.linspace(-2, 2, 3 * 64).view(3, 64).bfloat16()
            weight = torch.linspace(-1, 1, 32 * 64).view(32, 64).bfloat16()
            bias = torch.linspace(-3, 3, 32).bfloat16()
            expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()))
            result = PackedLinear(weight, bias, gelu=True)(x).float()
    except (AttributeError, RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    difference = (result - expected).abs().max() / expected.abs().max()
    return "" if difference < 0.02 else f"its packed layers differ from plain ones by {difference:.1e}"


def _blocks(vision: VisionModel) -> Any:
    backbone = vision.backbone
    return backbone.model.layer if vision.family == "dinov3" else backbone.encoder.layer


def _remember_positions(embeddings: Any) -> None:
    """Resize the position embeddings once a size of pictures: the weights never change."""
    resize = embeddings.interpolate_pos_encoding
    sizes: dict[tuple[int, int], Tensor] = {}

    def interpolate(tokens: Tensor, height: int, width: int) -> Tensor:
        if (height, width) not in sizes:
            if len(sizes) == SIZES_KEPT:
                sizes.clear()
            sizes[height, width] = resize(tokens, height, width)
        return sizes[height, width]

    embeddings.interpolate_pos_encoding = interpolate


def _fuse_block(block: Any) -> None:
    """Exchange the parts of one transformer block of DINOv2 or DINOv3, in place."""
    mlp = block.mlp
    scales = {}
    for scale, linear in (("layer_scale1", block.attention.o_proj), ("layer_scale2", _last_linear(mlp))):
        scales[linear] = getattr(block, scale).lambda1.detach().float()
        setattr(block, scale, nn.Identity())
    first, activation = ("up_proj", "act_fn") if hasattr(mlp, "act_fn") else ("fc1", "activation_fn")
    exact_gelu = not hasattr(mlp, "gate_proj") and mlp.config.hidden_act == "gelu"
    before_gelu = getattr(mlp, first) if exact_gelu else None
    if exact_gelu:
        setattr(mlp, activation, nn.Identity())
    for module in list(block.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                packed = _pack(child, scales.get(child), gelu=child is before_gelu)
                setattr(module, name, packed)


def _last_linear(mlp: Any) -> nn.Linear:
    return mlp.down_proj if hasattr(mlp, "down_proj") else mlp.fc2


def _pack(linear: nn.Linear, scale: Tensor | None, *, gelu: bool) -> PackedLinear:
    weight: Tensor = linear.weight
    bias: Tensor | None = linear.bias
    if scale is not None:
        dtype = weight.dtype
        weight = (weight.float() * scale[:, None]).to(dtype)
        bias = None if bias is None else (bias.float() * scale).to(dtype)
    return PackedLinear(weight, bias, gelu=gelu)
