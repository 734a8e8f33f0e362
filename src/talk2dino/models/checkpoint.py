"""Original key names to our classes and back: one explicit key map per format, always strict, no remote code.

A whole-model checkpoint is one flat file: ``model.*`` (DINOv2 or DINOv3 as their authors name the tensors),
``clip_model.*`` (CLIP as OpenAI names them) and ``proj.*`` (psi). keymaps.py maps each tensor to transformers' classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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
from talk2dino.models.weights import Tensors, bad_values, refuse_values


def _expand(stem: Iterable[Rule], block: Iterable[Rule], depth: int) -> list[Rule]:
    block = tuple(block)
    numbered = [
        Rule(r.original.format(i), tuple(o.format(i) for o in r.ours), r.transposed)
        for i in range(depth)
        for r in block
    ]
    return [*stem, *numbered]


def _names(names: Iterable[str], most: int = 6) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_original(
    module: nn.Module, tensors: Tensors, rules: list[Rule], what: str, ignored: Iterable[str] = ()
) -> None:
    """Fill a transformers module from tensors with original names, strictly.

    Raises:
        CheckpointError: names the missing and unexpected keys, the wrong shapes and the bad values.
    """
    target = dict(module.state_dict())
    used = [r for r in rules if any(name in target for name in r.ours)]
    missing = [r.original for r in used if r.original not in tensors]
    unexpected = set(tensors) - {r.original for r in rules} - set(ignored)
    state: dict[str, Tensor] = {}
    wrong: dict[str, str] = {}
    bad: dict[str, str] = {}
    for r in used:
        for name, part in _parts(r, tensors[r.original]) if r.original in tensors else ():
            if name not in target:  # DINOv3 keys have no bias
                continue
            expected = target[name]
            if part.squeeze().shape == expected.squeeze().shape:
                part = part.reshape(expected.shape)  # mask tokens come as (1, D) or (1, 1, D)
            if part.shape != expected.shape:
                rows = (expected.shape[0] * len(r.ours), *expected.shape[1:])
                shape = rows[::-1] if r.transposed else rows
                wrong[r.original] = f"{r.original} {tuple(tensors[r.original].shape)} where {shape} was expected"
            elif problem := bad_values(part):
                bad[r.original] = f"{r.original} {problem}"
            state[name] = part
    if missing or unexpected or wrong:
        parts = [f"missing: {_names(missing)}"] if missing else []
        parts += [f"unexpected: {_names(unexpected)}"] if unexpected else []
        parts += [f"wrong shape: {'; '.join(list(wrong.values())[:4])}"] if wrong else []
        raise CheckpointError(f"this file does not fit {what}: " + " | ".join(parts))
    refuse_values(list(bad.values()), what)
    module.load_state_dict({name: t.to(target[name].dtype).contiguous() for name, t in state.items()}, strict=True)


def _parts(rule: Rule, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Our parameters in an original tensor, by name. Rows that cannot be divided evenly come whole: a wrong shape."""
    tensor = tensor.T if rule.transposed and tensor.ndim == 2 else tensor
    count = len(rule.ours)
    even = count > 1 and tensor.ndim > 0 and tensor.shape[0] % count == 0
    return zip(rule.ours, tensor.chunk(count) if even else [tensor] * count, strict=True)


def dump_original(module: nn.Module, rules: list[Rule]) -> dict[str, Tensor]:
    """The inverse of :func:`load_original`: a transformers module's weights under their original names."""
    state = module.state_dict()
    tensors = {}
    for r in rules:
        present = [name for name in r.ours if name in state]
        if not present:
            continue
        parts = [state[n] if n in state else torch.zeros_like(state[present[0]]) for n in r.ours]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        tensors[r.original] = (tensor.T if r.transposed else tensor).contiguous()
    return tensors


def _depth(tensors: Tensors, prefix: str) -> int:
    """Number of blocks; never more than there are tensors, so that an absurd number is an unexpected key."""
    numbers = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return min(max((int(n) + 1 for n in numbers if n.isdigit()), default=0), len(tensors))


def _require(tensors: Tensors, dimensions: Mapping[str, int], what: str) -> None:
    """Refuse tensors without the names, and numbers of dimensions, that sizes are read from."""
    absent = [name for name in dimensions if name not in tensors]
    if absent:
        found = f"found: {_names(tensors)}" if tensors else "no tensor of this kind was found"
        raise CheckpointError(f"this file does not hold {what}: missing: {_names(absent)} ({found})")
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


def vision_rules(family: str, depth: int) -> list[Rule]:
    if family == "dinov3":
        return _expand(DINOV3_STEM, DINOV3_BLOCK, depth)
    return _expand(DINOV2_STEM, DINOV2_BLOCK, depth)


def vision_from_original(tensors: Tensors, *, heads: int | None = None, rotary_attention: bool = False):
    """A VisionModel from ``model.*`` tensors (prefix removed) in DINOv2's or DINOv3's original naming."""
    from talk2dino.models.vision import VisionModel, build_backbone

    needed = {"cls_token": 3, "patch_embed.proj.weight": 4, "blocks.0.attn.qkv.weight": 2, "blocks.0.mlp.fc1.weight": 2}
    needed |= {name: 3 for name in ("storage_tokens", "register_tokens") if name in tensors}
    needed |= {} if "storage_tokens" in tensors else {"pos_embed": 3}
    _require(tensors, needed, "a DINO vision model")
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
        side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
        sizes |= dict(mlp_ratio=hidden // width, image_size=side * patch)
        family = "dinov2-registers" if "register_tokens" in tensors else "dinov2"
        if family == "dinov2-registers":
            sizes["num_register_tokens"] = tensors["register_tokens"].shape[1]
    backbone = build_backbone(family, **sizes)
    what = f"a {family} vision model of width {width} and depth {depth}"
    load_original(backbone, tensors, vision_rules(family, depth), what, ignored)
    return VisionModel(backbone, rotary_attention=rotary_attention)


def vision_to_original(vision) -> dict[str, Tensor]:
    """``model.*`` tensors, prefix removed."""
    return dump_original(vision.backbone, vision_rules(vision.family, vision.backbone.config.num_hidden_layers))


def clip_text_from_original(
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
    names = (
        "token_embedding.weight", "positional_embedding", "text_projection", "transformer.resblocks.0.mlp.c_fc.weight"
    )  # fmt: skip
    _require(text, dict.fromkeys(names, 2), "a CLIP text model")
    vocabulary, width = text["token_embedding.weight"].shape
    depth = _depth(text, "transformer.resblocks.")
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads_for(width, heads),
        intermediate_size=text["transformer.resblocks.0.mlp.c_fc.weight"].shape[0], hidden_act=activation,
        max_position_embeddings=text["positional_embedding"].shape[0], projection_dim=text["text_projection"].shape[1],
        bos_token_id=end_token - 1, eos_token_id=end_token, pad_token_id=end_token,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config)
    what = f"a CLIP text model of width {width} and depth {depth}"
    load_original(model, text, _expand(CLIP_TEXT_STEM, CLIP_TEXT_BLOCK, depth), what)
    return model


def clip_vision_from_original(tensors: Tensors, *, heads: int | None = None, activation: str = "quick_gelu"):
    """transformers' CLIPVisionModelWithProjection from ``clip_model.*`` tensors (prefix removed)."""
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

    visual = {k: v for k, v in tensors.items() if k.startswith("visual.")}
    names = ("visual.positional_embedding", "visual.proj", "visual.transformer.resblocks.0.mlp.c_fc.weight")
    _require(visual, {"visual.conv1.weight": 4} | dict.fromkeys(names, 2), "a CLIP vision transformer")
    width, patch = visual["visual.conv1.weight"].shape[0], visual["visual.conv1.weight"].shape[-1]
    depth = _depth(visual, "visual.transformer.resblocks.")
    config = CLIPVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads_for(width, heads), patch_size=patch,
        intermediate_size=visual["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0], hidden_act=activation,
        image_size=math.isqrt(visual["visual.positional_embedding"].shape[0] - 1) * patch, projection_dim=visual["visual.proj"].shape[1],
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config)
    what = f"a CLIP vision model of width {width} and depth {depth}"
    load_original(model, visual, _expand(CLIP_VISION_STEM, CLIP_VISION_BLOCK, depth), what)
    return model


def clip_text_to_original(model: Any) -> dict[str, Tensor]:
    return dump_original(model, _expand(CLIP_TEXT_STEM, CLIP_TEXT_BLOCK, model.config.num_hidden_layers))


def clip_vision_to_original(model: Any) -> dict[str, Tensor]:
    return dump_original(model, _expand(CLIP_VISION_STEM, CLIP_VISION_BLOCK, model.config.num_hidden_layers))
