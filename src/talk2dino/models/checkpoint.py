"""Reads and writes the published checkpoint layouts: one explicit key map a format, always strict, no remote code.

A published whole model is one flat file: ``model.*`` (DINOv2 or DINOv3 in its original naming), ``clip_model.*`` (CLIP
in OpenAI's naming) and ``proj.*`` (psi). keymaps.py says where each tensor goes in transformers' classes.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talk2dino.errors import CheckpointError
from talk2dino.models.keymaps import (
    CLIP_TEXT_BLOCK,
    CLIP_TEXT_STEM,
    CLIP_VISION_BLOCK,
    CLIP_VISION_STEM,
    DINOV2_BLOCK,
    DINOV2_STEM,
    DINOV3_BLOCK,
    DINOV3_IGNORED,
    DINOV3_IGNORED_BLOCK,
    DINOV3_STEM,
    Rule,
)

Tensors = Mapping[str, Tensor]


# --- files ---------------------------------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, or of a pickled state dict (.pth, .pt, .bin) read with weights_only=True.

    Raises:
        CheckpointError: if the file is missing, damaged, empty, or holds anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (Exception, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason}); accepted: a whole .safetensors file, or a .pth state dict "
            "that holds tensors only"
        ) from None
    if isinstance(state, dict) and set(state) == {"model"} and isinstance(state["model"], dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise CheckpointError(f"{path} does not hold a state dict (names and tensors); it holds {type(state).__name__}")
    return state


def below(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


# --- conversion ------------------------------------------------------------------------------------------------------


def _expand(stem: Iterable[Rule], block: Iterable[Rule], depth: int) -> list[Rule]:
    block = tuple(block)
    numbered = [
        Rule(r.published.format(i), tuple(o.format(i) for o in r.ours), r.transposed, r.optional)
        for i in range(depth)
        for r in block
    ]
    return [*stem, *numbered]


def _names(names: Iterable[str], most: int = 6) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_published(
    module: nn.Module, tensors: Tensors, rules: list[Rule], what: str, ignored: Iterable[str] = ()
) -> None:
    """Fill a transformers module from published tensors, strictly.

    Raises:
        CheckpointError: names every missing and unexpected key and every wrong shape.
    """
    target = dict(module.state_dict())
    state: dict[str, Tensor] = {}
    missing, wrong = [], []
    for r in rules:
        if not any(name in target for name in r.ours):
            continue
        if r.published not in tensors:
            missing.append(r.published)
            continue
        tensor = tensors[r.published]
        tensor = tensor.T if r.transposed else tensor
        size = tensor.shape[0] // len(r.ours) if tensor.ndim else 0
        for i, name in enumerate(r.ours):
            if name not in target:  # DINOv3 keys have no bias
                continue
            part = tensor[i * size : (i + 1) * size] if len(r.ours) > 1 else tensor
            if (
                part.shape != target[name].shape
                and part.numel() == target[name].numel()
                and part.squeeze().shape == target[name].squeeze().shape
            ):
                part = part.reshape(target[name].shape)  # mask tokens come as (1, D) or (1, 1, D)
            if part.shape != target[name].shape:
                wrong.append(
                    f"{r.published} {tuple(tensors[r.published].shape)} where {tuple(target[name].shape)} was expected"
                )
            state[name] = part
    unexpected = set(tensors) - {r.published for r in rules} - set(ignored)
    if missing or unexpected or wrong:
        parts = [f"missing: {_names(missing)}"] if missing else []
        parts += [f"unexpected: {_names(unexpected)}"] if unexpected else []
        parts += [f"wrong shape: {'; '.join(wrong[:4])}"] if wrong else []
        raise CheckpointError(f"this file does not fit {what}: " + " | ".join(parts))
    module.load_state_dict({name: t.to(target[name].dtype).contiguous() for name, t in state.items()}, strict=True)


def dump_published(module: nn.Module, rules: list[Rule]) -> dict[str, Tensor]:
    """The inverse of :func:`load_published`: a transformers module's weights under their published names."""
    state = module.state_dict()
    tensors = {}
    for r in rules:
        present = [name for name in r.ours if name in state]
        if not present:
            continue
        parts = [state[n] if n in state else torch.zeros_like(state[present[0]]) for n in r.ours]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        tensors[r.published] = (tensor.T if r.transposed else tensor).contiguous()
    return tensors


def _depth(tensors: Tensors, prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


def _require(tensors: Tensors, names: Iterable[str], what: str) -> None:
    absent = [name for name in names if name not in tensors]
    if absent:
        found = f"it has {_names(tensors)}" if tensors else "it has none of that kind"
        raise CheckpointError(f"this file does not hold {what}: missing: {_names(absent)} ({found})")


def heads_for(width: int, told: int | None) -> int:
    """Number of attention heads: as told, else width / 64 as in every published model."""
    heads = told or width // 64
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"{width} channels cannot be split into {told or 'heads of 64'}; name the number of heads"
        )
    return heads


def vision_rules(family: str, depth: int) -> list[Rule]:
    if family == "dinov3":
        return _expand(DINOV3_STEM, DINOV3_BLOCK, depth)
    return _expand(DINOV2_STEM, DINOV2_BLOCK, depth)


def vision_from_published(tensors: Tensors, *, heads: int | None = None, rotary_attention: bool = False):
    """A VisionModel from ``model.*`` tensors (prefix removed) in DINOv2's or DINOv3's original naming."""
    from talk2dino.models.vision import VisionModel, build_backbone

    _require(
        tensors,
        ("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
        "a DINO vision model",
    )
    width, patch = tensors["patch_embed.proj.weight"].shape[0], tensors["patch_embed.proj.weight"].shape[-1]
    depth = _depth(tensors, "blocks.")
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    sizes: dict[str, Any] = dict(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads_for(width, heads), patch_size=patch
    )
    ignored: tuple[str, ...] = ()
    if "storage_tokens" in tensors:
        family = "dinov3"
        sizes |= dict(
            intermediate_size=hidden, num_register_tokens=tensors["storage_tokens"].shape[1], image_size=patch * 14
        )
        ignored = DINOV3_IGNORED + tuple(name.format(i) for i in range(depth) for name in DINOV3_IGNORED_BLOCK)
    else:
        _require(tensors, ("pos_embed",), "a DINO vision model")
        side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
        sizes |= dict(mlp_ratio=hidden // width, image_size=side * patch)
        family = "dinov2-registers" if "register_tokens" in tensors else "dinov2"
        if family == "dinov2-registers":
            sizes["num_register_tokens"] = tensors["register_tokens"].shape[1]
    backbone = build_backbone(family, **sizes)
    load_published(
        backbone,
        tensors,
        vision_rules(family, depth),
        f"a {family} vision model of width {width} and depth {depth}",
        ignored,
    )
    return VisionModel(backbone, rotary_attention=rotary_attention)


def vision_to_published(vision) -> dict[str, Tensor]:
    """``model.*`` tensors, prefix removed."""
    return dump_published(vision.backbone, vision_rules(vision.family, vision.backbone.config.num_hidden_layers))


def clip_text_from_published(
    tensors: Tensors, *, heads: int | None = None, activation: str = "quick_gelu", end_token: int = 49407
):
    """transformers' CLIPTextModelWithProjection from ``clip_model.*`` tensors (prefix removed)."""
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

    text = {
        k: v
        for k, v in tensors.items()
        if not k.startswith("visual.") and k not in ("logit_scale", "input_resolution", "context_length", "vocab_size")
    }
    _require(
        text,
        (
            "token_embedding.weight",
            "positional_embedding",
            "text_projection",
            "transformer.resblocks.0.mlp.c_fc.weight",
        ),
        "a CLIP text model",
    )
    vocabulary, width = text["token_embedding.weight"].shape
    depth = _depth(text, "transformer.resblocks.")
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads_for(width, heads),
        intermediate_size=text["transformer.resblocks.0.mlp.c_fc.weight"].shape[0], hidden_act=activation,
        max_position_embeddings=text["positional_embedding"].shape[0], projection_dim=text["text_projection"].shape[1],
        bos_token_id=end_token - 1, eos_token_id=end_token, pad_token_id=end_token,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config)
    load_published(
        model,
        text,
        _expand(CLIP_TEXT_STEM, CLIP_TEXT_BLOCK, depth),
        f"a CLIP text model of width {width} and depth {depth}",
    )
    return model


def clip_vision_from_published(tensors: Tensors, *, heads: int | None = None, activation: str = "quick_gelu"):
    """transformers' CLIPVisionModelWithProjection from ``clip_model.*`` tensors (prefix removed)."""
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

    visual = {k: v for k, v in tensors.items() if k.startswith("visual.")}
    _require(
        visual,
        (
            "visual.conv1.weight",
            "visual.positional_embedding",
            "visual.proj",
            "visual.transformer.resblocks.0.mlp.c_fc.weight",
        ),
        "a CLIP vision transformer",
    )
    width, patch = visual["visual.conv1.weight"].shape[0], visual["visual.conv1.weight"].shape[-1]
    depth = _depth(visual, "visual.transformer.resblocks.")
    config = CLIPVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads_for(width, heads), patch_size=patch,
        intermediate_size=visual["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0], hidden_act=activation,
        image_size=math.isqrt(visual["visual.positional_embedding"].shape[0] - 1) * patch, projection_dim=visual["visual.proj"].shape[1],
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config)
    load_published(
        model,
        visual,
        _expand(CLIP_VISION_STEM, CLIP_VISION_BLOCK, depth),
        f"a CLIP vision model of width {width} and depth {depth}",
    )
    return model


def clip_text_to_published(model: Any) -> dict[str, Tensor]:
    return dump_published(model, _expand(CLIP_TEXT_STEM, CLIP_TEXT_BLOCK, model.config.num_hidden_layers))


def clip_vision_to_published(model: Any) -> dict[str, Tensor]:
    return dump_published(model, _expand(CLIP_VISION_STEM, CLIP_VISION_BLOCK, model.config.num_hidden_layers))


def read_json(path: Path, reader: Callable[[str], Any] = json.loads) -> Any:
    """A JSON file of a checkpoint folder, or a CheckpointError that names it."""
    try:
        return reader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
