"""One transformer for every frozen tower: DINOv2 with and without registers, DINOv3, and CLIP's image and text towers.

A block computes, for tokens x (T, D):

    q, k, v = W_qkv LN_1(x);    q, k turned by the rotary embedding (DINOv3)
    y = x + g_1 * (W_o softmax(q k^T / sqrt(d)) v)
    x = y + g_2 * MLP(LN_2(y))          g: layer scale, absent in CLIP

The image tower also returns the last block's CLS row, q_cls k^T / sqrt(d), before the softmax. Parameters have the names
of the original DINOv2 checkpoints; keymaps.py maps every other layout onto them.
Source: DINOv2 (arXiv 2304.07193), registers (arXiv 2309.16588), DINOv3 (arXiv 2508.10104), CLIP (arXiv 2103.00020).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talk2dino.models.positions import RESIZES, PerSize, resize_positions, rotary_table, rotate, state_of


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and switches of one tower.

    Attributes:
        width, depth, heads: D, the number of blocks, M.
        hidden: width of the MLP between its two layers.
        positions: "antialiased" (DINOv2 with registers), "offset" (DINOv2 without) and "bicubic" (CLIP) are the ways to
            resize a learned grid; "rotary" is DINOv3's embedding; "text" is one learned embedding per token.
        patch_size, grid, registers: P in pixels, rows and columns of the learned position grid, R.
        activation: "gelu", "quick_gelu" (OpenAI's CLIP) or "swiglu" (a gated MLP).
        qkv_bias: which of q, k and v have a bias; the bias of the others is zero.
        layer_scale, norm_first: each branch is scaled per channel (DINO); a layer norm follows the positions (CLIP image).
        eps, rope_theta: of the layer norms, and the base of the rotary frequencies.
        output: C, the width of CLIP's joint space; None: no final projection. vocabulary, context: of the text tower.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    positions: str
    patch_size: int = 14
    grid: int = 0
    registers: int = 0
    activation: str = "gelu"
    eps: float = 1e-6
    qkv_bias: str = "qkv"
    layer_scale: bool = True
    norm_first: bool = False
    rope_theta: float = 100.0
    output: int | None = None
    vocabulary: int = 0
    context: int = 0


#: The kinds of towers; sizes are given by the caller. DINOv3's keys have no bias.
dinov2 = partial(ViTConfig, positions="offset", grid=37)
dinov2_registers = partial(ViTConfig, positions="antialiased", grid=37, registers=4)
dinov3 = partial(ViTConfig, positions="rotary", patch_size=16, registers=4, eps=1e-5, qkv_bias="qv")
clip_image = partial(
    ViTConfig, positions="bicubic", patch_size=16, activation="quick_gelu", eps=1e-5, layer_scale=False, norm_first=True
)
clip_text = partial(ViTConfig, positions="text", activation="quick_gelu", eps=1e-5, layer_scale=False)


class Attention(nn.Module):
    """Multi-head self-attention with q, k and v in one product."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, *, causal: bool = False, cls_row: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) to (B, T, D), up to the output projection ``proj``; with ``cls_row`` also (B, M, T) logits, else None.

        Args:
            rotary: cosines and sines, (T, d) each. causal: tokens see only themselves and what precedes them.
            cls_row: "before" or "after" the rotary embedding: where the first token's logits are taken.
        """
        parts = self.qkv(x).chunk(3, dim=-1)  # [B, T, 3D] -> 3 x [B, T, D] -> 3 x [B, M, T, d]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        row = first_row(q, k) if cls_row == "before" else None
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cls_row == "after":
            row = first_row(q, k)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return out.transpose(1, 2).flatten(2), row  # [B, M, T, d] -> [B, T, D]

    def values_only(self, x: Tensor) -> Tensor:
        """W_o W_v x: what every token would contribute if it attended to itself alone. (B, T, D) to (B, T, D)."""
        width = x.shape[-1]
        return self.proj(F.linear(x, self.qkv.weight[2 * width :], self.qkv.bias[2 * width :]))


def first_row(q: Tensor, k: Tensor) -> Tensor:
    """(B, M, T, d) queries and keys to the first query's logits, (B, M, T)."""
    return torch.einsum("bmd,bmtd->bmt", q[:, :, 0] * q.shape[-1] ** -0.5, k)


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), with which OpenAI trained CLIP."""
    return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """W_2 act(W_1 x)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.activation = quick_gelu if config.activation == "quick_gelu" else F.gelu
        self.fc2 = nn.Linear(config.hidden, config.width)

    def hidden(self, x: Tensor) -> Tensor:
        return self.activation(self.fc1(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(x))


class GatedMlp(nn.Module):
    """W_3 (silu(W_1 x) * W_2 x), with W_1 and W_2 in one product."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.w12 = nn.Linear(config.width, 2 * config.hidden)
        self.w3 = nn.Linear(config.hidden, config.width)

    def hidden(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return F.silu(gate) * value

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.hidden(x))


class LayerScale(nn.Module):
    """gamma * x, per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each after a layer norm and added to its input."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.eps)
        self.attn = Attention(config)
        self.ls1 = LayerScale(config.width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.mlp: nn.Module = GatedMlp(config) if config.activation == "swiglu" else Mlp(config)
        self.ls2 = LayerScale(config.width) if config.layer_scale else nn.Identity()

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, *, causal: bool = False, cls_row: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) to (B, T, D), and the CLS row, as for :class:`Attention`."""
        mixed, row = self.attn(self.norm1(x), rotary, causal=causal, cls_row=cls_row)
        x = x + self.ls1(self.attn.proj(mixed))
        return x + self.ls2(self.mlp(self.norm2(x))), row


class VisionTransformer(nn.Module):
    """An image tower: DINOv2, DINOv3 or CLIP's."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if config.layer_scale:
            self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the pretraining; kept for files
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        if config.grid:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
            self.resize = RESIZES[config.positions]
        p, has_bias = config.patch_size, not config.norm_first
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, p, stride=p, bias=has_bias)})
        self.norm_pre = nn.LayerNorm(width, config.eps) if config.norm_first else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, config.eps)
        self.proj = nn.Linear(width, config.output, bias=False) if config.output else nn.Identity()
        self.per_size = PerSize()

    @property
    def last_block(self) -> Block:
        return self.blocks[-1]  # type: ignore[return-value]

    @property
    def first_patch(self) -> int:
        """Index of the first patch token: CLS and registers stand before it."""
        return 1 + self.config.registers

    def forward(self, pixels: Tensor, *, rotary_attention: bool = False) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            pixels: (B, 3, H, W), H and W multiples of P.
            rotary_attention: take the CLS row after the rotary embedding instead of before.

        Returns:
            (B, 1 + R + h * w, D) tokens after the final norm, and (B, M, 1 + R + h * w) logits of the last block's CLS row.
        """
        x, rotary = self._before_last(pixels)
        x, row = self.last_block(x, rotary, cls_row="after" if rotary_attention else "before")
        return self.norm(x), row

    def tokens_before_last(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to the last block's input, (B, 1 + R + h * w, D)."""
        return self._before_last(pixels)[0]

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to CLIP's image embedding (B, C), not normalised."""
        x, rotary = self._before_last(pixels)
        return self.project(self.last_block(x, rotary)[0][:, 0])

    def project(self, x: Tensor) -> Tensor:
        """(..., D) tokens to (..., C) in CLIP's joint space, not normalised."""
        return self.proj(self.norm(x))

    def _before_last(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        grid = (pixels.shape[2] // self.config.patch_size, pixels.shape[3] // self.config.patch_size)
        patches = self.patch_embed["proj"](pixels.to(self.cls_token.dtype))  # [B, 3, H, W] -> [B, D, h, w]
        x = patches.flatten(2).transpose(1, 2)
        first: Tensor = self.cls_token
        if self.config.grid:
            positions = self.positions(*grid)
            x, first = x + positions[:, 1:], first + positions[:, :1]
        if self.config.registers:
            first = torch.cat((first, self.register_tokens), dim=1)
        x = self.norm_pre(torch.cat((first.expand(x.shape[0], -1, -1), x), dim=1))
        rotary = self.rotary(*grid) if self.config.positions == "rotary" else None
        for block in [*self.blocks][:-1]:
            x, _ = block(x, rotary)
        return x, rotary

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, D) position embeddings, CLS first; the learned grid itself at its own size."""
        if rows == columns == self.config.grid:
            return self.pos_embed
        key = (rows, columns, *state_of(self.pos_embed))
        return self.per_size.get(key, lambda: resize_positions(self.pos_embed, rows, columns, self.resize))

    def rotary(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (1 + R + rows * columns, d) each."""
        like, size = self.cls_token, self.config.width // self.config.heads
        options = (rows, columns, size, self.first_patch, self.config.rope_theta)
        return self.per_size.get((rows, columns, like.dtype, like.device), lambda: rotary_table(*options, like))


class TextTransformer(nn.Module):
    """CLIP's text tower."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        # Without nn.Embedding's initialisation, which imports torch's compiler for a tensor on the meta device.
        self.token_embed = nn.Embedding.from_pretrained(torch.empty(config.vocabulary, config.width), freeze=False)
        self.pos_embed = nn.Parameter(torch.zeros(config.context, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.proj = nn.Linear(config.width, config.output or config.width, bias=False)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """(N, T) token ids and the index of each text's end token to (N, C) embeddings, not normalised.

        T is at most the context; what follows the end token is not read.
        """
        x = self.token_embed(tokens) + self.pos_embed[: tokens.shape[1]]
        for block in self.blocks:
            x, _ = block(x, causal=True)
        return self.proj(self.norm(x[torch.arange(len(x), device=x.device), ends]))


@torch.no_grad()
def randomise(model: nn.Module, std: float = 0.02) -> None:
    """Normal random numbers for all parameters, around 1 for the layer norms' weights: for tests and measurements."""
    for parameter in model.parameters():
        parameter.normal_(std=std)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.add_(1)
