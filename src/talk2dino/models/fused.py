"""The image tower in bfloat16 on a CPU, with the linear layers in the forms that oneDNN computes fastest.

A copy of the model shares its weights, but for its linear layers. Those are exchanged for :class:`FusedLinear`, which

    packs weights for the processor's matrix tiles once, instead of on every call
    adds the bias and the block's input, or applies GELU, inside the product, while the output is still in registers
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
from talk2dino.models.vit import Block, GatedMlp, LayerScale, Mlp

log = logging.getLogger(__name__)

#: Tokens that pass through the model at once (four images of 448 x 448), so that what one layer hands to the next stays
#: in memory that the process already has, and partly in the caches. The result does not depend on it.
PIECE_TOKENS = 4200
#: Rows up to which narrow layers are computed transposed, and what counts as narrow; see computes_transposed.
TRANSPOSED_ROWS = (256, 1536)
NARROW = 768


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
    """y = act(x W^T + b), or y = x W^T + b + residual, in bfloat16 with float32 sums; act is the identity or GELU (exact).

    Args:
        linear: the layer.
        scale: layer scale that follows it.
        gelu: whether GELU follows it.

    Each form of the weights is made when it is first used.
    """

    def __init__(self, linear: nn.Linear, scale: nn.Module | None = None, *, gelu: bool = False) -> None:
        super().__init__()
        self.plain, self.bias = linear.weight.detach(), linear.bias.detach()
        if isinstance(scale, LayerScale):
            gamma = scale.gamma.detach().float()
            self.plain = (self.plain.float() * gamma[:, None]).to(self.plain.dtype)
            self.bias = (self.bias.float() * gamma).to(self.bias.dtype)
        self.packed: Tensor | None = None
        self.how: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if self.how[0] == "none" and computes_transposed(rows, *self.plain.shape):
            flat = torch.addmm(self.bias[:, None], self.plain, x.flatten(0, -2).T)  # [outputs, rows]
            y = flat.T.unflatten(0, x.shape[:-1])
            return y if residual is None else residual + y
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.plain)
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.how)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")


class FusedBlock(nn.Module):
    """A block whose linear layers also apply what follows them: GELU, layer scale and the sum with the block's input."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.attn.qkv = FusedLinear(block.attn.qkv)  # type: ignore[assignment]
        self.proj = FusedLinear(block.attn.proj, block.ls1)
        if isinstance(block.mlp, GatedMlp):
            block.mlp.w12 = FusedLinear(block.mlp.w12)  # type: ignore[assignment]
            self.last = FusedLinear(block.mlp.w3, block.ls2)
        elif isinstance(block.mlp, Mlp):
            gelu = block.mlp.activation is F.gelu
            block.mlp.fc1 = FusedLinear(block.mlp.fc1, gelu=gelu)  # type: ignore[assignment]
            block.mlp.activation = nn.Identity() if gelu else block.mlp.activation
            self.last = FusedLinear(block.mlp.fc2, block.ls2)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, *, causal: bool = False, cls_row: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """As :meth:`talk2dino.models.vit.Block.forward`."""
        mixed, row = self.attn(self.norm1(x), rotary, causal=causal, cls_row=cls_row)
        x = self.proj(mixed, residual=x)
        return self.last(self.mlp.hidden(self.norm2(x)), residual=x), row  # type: ignore[operator]


class FusedVision:
    """A vision model on the CPU with its linear layers exchanged; called like the model it was made from."""

    def __init__(self, vision: VisionModel) -> None:
        shared = {id(tensor): tensor for tensor in (*vision.parameters(), *vision.buffers())}
        self.vision: VisionModel = copy.deepcopy(vision, shared)
        backbone = self.vision.backbone
        backbone.blocks = nn.ModuleList(FusedBlock(block) for block in backbone.blocks)  # type: ignore[arg-type]

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
            layer = nn.Linear(64, 64, dtype=torch.bfloat16)
            layer.weight.copy_(torch.linspace(-1, 1, 64 * 64).view(64, 64))
            layer.bias.copy_(torch.linspace(-3, 3, 64))
            plain = F.linear(x.float(), layer.weight.float(), layer.bias.float())
            expected = torch.stack((F.gelu(plain), plain + x.float()))
            result = torch.stack((FusedLinear(layer, gelu=True)(x), FusedLinear(layer)(x, residual=x))).float()
    except (AttributeError, RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    difference = (result - expected).abs().max() / expected.abs().max()
    return "" if difference < 0.02 else f"its fused layers differ from plain ones by {difference:.1e}"
