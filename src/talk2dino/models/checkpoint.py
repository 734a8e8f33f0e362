"""Original key names to our towers and back: one explicit key map per format, always strict, no remote code.

A whole-model checkpoint is one flat file: ``model.*`` (DINOv2 or DINOv3 as their authors name the tensors),
``clip_model.*`` (CLIP as OpenAI names them) and ``proj.*`` (psi). keymaps.py maps each tensor to a parameter of vit.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from talk2dino.errors import CheckpointError
from talk2dino.models.keymaps import DINOV2, DINOV3, OPENAI_IMAGE, OPENAI_TEXT, Layout
from talk2dino.models.layouts import build, depth_of, dump, some_names
from talk2dino.models.vision import VisionModel
from talk2dino.models.vit import (
    TextTransformer,
    VisionTransformer,
    clip_image,
    clip_text,
    dinov2,
    dinov2_registers,
    dinov3,
)
from talk2dino.models.weights import Tensors


def _require(tensors: Tensors, dimensions: Mapping[str, int], what: str) -> None:
    """Refuse tensors without the names, and numbers of dimensions, that sizes are read from."""
    absent = [name for name in dimensions if name not in tensors]
    if absent:
        found = f"found: {some_names(tensors)}" if tensors else "no tensor of this kind was found"
        raise CheckpointError(f"this file does not hold {what}: missing: {some_names(absent)} ({found})")
    wrong = [name for name, ndim in dimensions.items() if tensors[name].ndim != ndim or not tensors[name].numel()]
    if wrong:
        shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in wrong)
        raise CheckpointError(f"this file does not hold {what}: wrong shape: {shapes}")


def heads_for(width: int, heads: int | None) -> int:
    """Number of attention heads: ``heads``, or width / 64 as in DINOv2, DINOv3 and CLIP."""
    count = width // 64 if heads is None else heads
    if count < 1 or width % count:
        raise CheckpointError(
            f"a width of {width} cannot be split into {heads or 'heads of width 64'}{' heads' if heads else ''}; set the "
            "number of heads in config.json"
        )
    return count


def _sizes(tensors: Tensors, patches: str, layout: Layout, heads: int | None) -> dict[str, Any]:
    """Sizes of an image tower that its tensors show."""
    width, patch = tensors[patches].shape[0], tensors[patches].shape[-1]
    return {
        "width": width, "depth": depth_of(tensors, layout), "heads": heads_for(width, heads), "patch_size": patch,
    }  # fmt: skip


def vision_from_original(tensors: Tensors, *, heads: int | None = None, rotary_attention: bool = False) -> VisionModel:
    """A VisionModel from ``model.*`` tensors (prefix removed) in DINOv2's or DINOv3's original naming."""
    gated = "blocks.0.mlp.w3.weight" in tensors
    last = "blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"
    rotary = "storage_tokens" in tensors
    needed = {"cls_token": 3, "patch_embed.proj.weight": 4, last: 2, "storage_tokens" if rotary else "pos_embed": 3}
    registers = next((name for name in ("storage_tokens", "register_tokens") if name in tensors), None)
    _require(tensors, needed | ({registers: 3} if registers else {}), "a DINO vision model")
    layout = DINOV3 if rotary else DINOV2
    sizes = _sizes(tensors, "patch_embed.proj.weight", layout, heads)
    sizes |= {"hidden": tensors[last].shape[1], "registers": tensors[registers].shape[1] if registers else 0}
    if gated:
        sizes["activation"] = "swiglu"
    if not rotary:
        sizes["grid"] = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    kind = dinov3 if rotary else dinov2_registers if registers else dinov2
    name = "DINOv3" if rotary else "DINOv2 with registers" if registers else "DINOv2 without registers"
    what = f"{name}, width {sizes['width']}, depth {sizes['depth']}"
    backbone = build(VisionTransformer, kind(**sizes), tensors, layout, what)
    return VisionModel(backbone, rotary_attention=rotary_attention)


def vision_to_original(vision: VisionModel) -> dict[str, Tensor]:
    """``model.*`` tensors, prefix removed."""
    return dump(vision.backbone, DINOV3 if vision.config.positions == "rotary" else DINOV2)


def clip_text_from_original(
    tensors: Tensors, *, heads: int | None = None, activation: str = "quick_gelu"
) -> TextTransformer:
    """CLIP's text tower from ``clip_model.*`` tensors (prefix removed)."""
    text = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual.")}
    first = "transformer.resblocks.0.mlp.c_fc.weight"
    _require(
        text, {"token_embedding.weight": 2, "positional_embedding": 2, "text_projection": 2, first: 2},
        "a CLIP text model",
    )  # fmt: skip
    vocabulary, width = text["token_embedding.weight"].shape
    config = clip_text(
        width, depth_of(text, OPENAI_TEXT), heads_for(width, heads), text[first].shape[0], vocabulary=vocabulary,
        context=text["positional_embedding"].shape[0], output=text["text_projection"].shape[1], activation=activation,
    )  # fmt: skip
    return build(TextTransformer, config, text, OPENAI_TEXT, f"a CLIP text model, width {width}, depth {config.depth}")


def clip_vision_from_original(
    tensors: Tensors, *, heads: int | None = None, activation: str = "quick_gelu"
) -> VisionTransformer:
    """CLIP's image tower from ``clip_model.*`` tensors (prefix removed)."""
    visual = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    first = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    _require(
        visual, {"visual.conv1.weight": 4, "visual.positional_embedding": 2, "visual.proj": 2, first: 2},
        "a CLIP vision transformer",
    )  # fmt: skip
    sizes = _sizes(visual, "visual.conv1.weight", OPENAI_IMAGE, heads)
    config = clip_image(
        **sizes, hidden=visual[first].shape[0], grid=math.isqrt(visual["visual.positional_embedding"].shape[0] - 1),
        output=visual["visual.proj"].shape[1], activation=activation,
    )  # fmt: skip
    what = f"a CLIP vision transformer, width {config.width}, depth {config.depth}"
    return build(VisionTransformer, config, visual, OPENAI_IMAGE, what)


def clip_text_to_original(tower: TextTransformer) -> dict[str, Tensor]:
    return dump(tower, OPENAI_TEXT)


def clip_vision_to_original(tower: VisionTransformer) -> dict[str, Tensor]:
    return dump(tower, OPENAI_IMAGE)
