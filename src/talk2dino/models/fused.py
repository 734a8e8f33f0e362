"""The image tower in bfloat16 on a CPU, with the linear layers in the forms that oneDNN computes fastest.

A copy of the model shares its weights, but for its linear layers. Those are exchanged for :class:`FusedLinear`, which

    packs weights for the processor's matrix tiles once, instead of on every call
    adds the bias, and applies GELU, inside the product, while the output is still in registers
    has layer scale multiplied into its weights: g * (W x + b) = (g W) x + g b
    may compute W X^T instead of X W^T, see :func:`computes_transposed`

Source: the operators are those that torch's compiler puts in place of linear layers when it freezes a model.
"""

from __future__ import annotations

import copy
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talk2dino.errors import ShapeError
from talk2dino.models.vision import VisionModel, VisionOutput
from talk2dino.models.vit import Block, LayerScale

log = logging.getLogger(__name__)

#: Tokens that pass through the model at once (four images of 448 x 448), so that what one layer hands to the next stays
#: in memory that the process already has, and partly in the caches. The result does not depend on it.
PIECE_TOKENS = 4200
#: Rows up to which narrow layers are computed transposed, and what counts as narrow; see computes_transposed.
TRANSPOSED_ROWS = (256, 1536)
NARROW = 1024


def computes_transposed(rows: int, outputs: int, inputs: int) -> bool:
    """Whether a layer is computed as W X^T, from its sizes alone.

    Measured with two threads of a Xeon with AMX, in GFLOP/s, X W^T packed and W X^T:

        rows    768 -> 2304    768 -> 768        3072 -> 768
        1,029   2,667          1,374 / 1,963     1,090 / 1,785
        4,116                  2,749 / less      2,302 / less

    With few rows, a narrow layer has too few output tiles for X W^T to keep the tile units busy. benchmarks/forward.py
    measures the table again.
    """
    return TRANSPOSED_ROWS[0] <= rows <= TRANSPOSED_ROWS[1] and outputs <= NARROW and inputs >= outputs // 4


class FusedLinear(nn.Module):
    """y = act(x W^T + b) with act the identity or GELU (exact), in bfloat16 with float32 sums.

    Each form of the weights is made when it is first used.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        super().__init__()
        self.plain, self.bias = weight, bias
        self.packed: Tensor | None = None
        self.how: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if self.how[0] == "none" and computes_transposed(rows, *self.plain.shape):
            flat = torch.addmm(self.bias[:, None], self.plain, x.flatten(0, -2).T)  # [outputs, rows]
            return flat.T.unflatten(0, x.shape[:-1])
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.plain)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.how)


class FusedVision:
    """A vision model on the CPU with its linear layers exchanged; called like the model it was made from."""

    def __init__(self, vision: VisionModel) -> None:
        shared = {id(tensor): tensor for tensor in (*vision.parameters(), *vision.buffers())}
        self.vision: VisionModel = copy.deepcopy(vision, shared)
        for block in self.vision.backbone.blocks:
            fuse_block(block)  # type: ignore[arg-type]

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
    """The model fused, or None where torch, the processor or the model's dtype and device do not allow it."""
    if vision.device.type != "cpu" or vision.dtype != torch.bfloat16:
        return None
    why = why_not()
    if why:
        log.info("the vision model runs unfused, which is slower: %s", why)
        return None
    return FusedVision(vision)


def why_not() -> str:
    """Why layers cannot be fused here, or an empty string. The operators are private to torch, so they are tried."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "oneDNN has no bfloat16 on this processor"
        with torch.inference_mode():
            x = torch.linspace(-2, 2, 3 * 64).view(3, 64).bfloat16()
            weight = torch.linspace(-1, 1, 32 * 64).view(32, 64).bfloat16()
            bias = torch.linspace(-3, 3, 32).bfloat16()
            expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()))
            result = FusedLinear(weight, bias, gelu=True)(x).float()
    except (AttributeError, RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    difference = (result - expected).abs().max() / expected.abs().max()
    return "" if difference < 0.02 else f"its fused layers differ from plain ones by {difference:.1e}"


def fuse_block(block: Block) -> None:
    """Exchange the linear layers of a block, in place; layer scale and GELU become part of them."""
    mlp = block.mlp
    layers: list[tuple[nn.Module, str, nn.Module | None]] = [
        (block.attn, "qkv", None), (block.attn, "proj", block.ls1),
        *((mlp, name, None) for name in ("fc1", "w12") if hasattr(mlp, name)),
        *((mlp, name, block.ls2) for name in ("fc2", "w3") if hasattr(mlp, name)),
    ]  # fmt: skip
    for owner, name, scale in layers:
        gelu = name == "fc1" and owner.activation is F.gelu
        setattr(owner, name, exchange(getattr(owner, name), scale, gelu=gelu))
        if gelu:
            owner.activation = nn.Identity()
    block.ls1, block.ls2 = nn.Identity(), nn.Identity()


def exchange(linear: nn.Linear, scale: nn.Module | None = None, *, gelu: bool = False) -> FusedLinear:
    """The same layer fused, with the layer scale that follows it."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if isinstance(scale, LayerScale):
        gamma = scale.gamma.float()
        weight = (weight.float() * gamma[:, None]).to(weight.dtype)
        bias = (bias.float() * gamma).to(bias.dtype)
    return FusedLinear(weight, bias, gelu=gelu)
