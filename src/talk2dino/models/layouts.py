"""Towers from files of other layouts, and back: strictly, and without initialising anything in vain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor

from talk2dino.errors import CheckpointError
from talk2dino.models.keymaps import CHECKSUM_DINOV2, CHECKSUM_DINOV3, HUB_IMAGE, HUB_TEXT, Layout
from talk2dino.models.vit import TextTransformer, VisionTransformer, ViTConfig
from talk2dino.models.weights import Tensors, bad_values, refuse_values

Tower = TypeVar("Tower", VisionTransformer, TextTransformer)

#: No inference reads the mask token, and not every file has it.
OPTIONAL = ("mask_token",)


def build(kind: type[Tower], config: ViTConfig, tensors: Tensors, layout: Layout, what: str) -> Tower:
    """A tower with the weights of a file, in float32.

    Float32 tensors are used as they are, without a copy: those of a safetensors file stay mapped into memory.

    Args:
        kind: VisionTransformer or TextTransformer.
        tensors: all of the tower's tensors, and no others, by the layout's names.
        what: names the tower in messages.

    Raises:
        CheckpointError: names the missing and the unexpected tensors, those of another shape, and bad values.
    """
    with torch.device("meta"):
        tower = kind(config)
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    wrong: list[str] = []
    bad: list[str] = []
    used: set[str] = set()
    for name, parameter in tower.named_parameters():
        shape: tuple[int, ...] = tuple(parameter.shape)
        names = layout.names(name)
        kept = [part for part in names if not _has_no_bias(config, name, part, names)]
        absent = [part for part in kept if part not in tensors]
        used.update(kept)
        if absent and name not in OPTIONAL:
            missing += absent
            continue
        size = (shape[0] // len(names), *shape[1:])
        size = size[::-1] if name in layout.transposed else size
        misfit = [part for part in kept if part in tensors and _squeezed(tensors[part].shape) != _squeezed(size)]
        wrong += [f"{part} {tuple(tensors[part].shape)} where {size} was expected" for part in misfit]
        if not misfit:
            parts = [tensors[part] if part in kept and part in tensors else torch.zeros(size) for part in names]
            parts = [part.reshape(size) for part in parts]  # tokens come as (D,), (1, D) or (1, 1, D)
            parts = parts if len(parts) > 1 else [_without_absent_biases(config, name, parts[0])]
            bad += [f"{part} {problem}" for part, t in zip(names, parts, strict=True) if (problem := bad_values(t))]
            tensor = torch.cat([part.float() for part in parts]) if len(parts) > 1 else parts[0].float()
            state[name] = (tensor.T if name in layout.transposed else tensor).contiguous()
    unexpected = [name for name in tensors if name not in used and not layout.ignores(name)]
    if missing or unexpected or wrong:
        problems = [f"missing: {some_names(missing)}"] if missing else []
        problems += [f"unexpected: {some_names(unexpected)}"] if unexpected else []
        problems += [f"wrong shape: {'; '.join(wrong[:4])}"] if wrong else []
        raise CheckpointError(f"the weights do not fit {what}: " + " | ".join(problems))
    refuse_values(bad, what)
    tower.load_state_dict(state, strict=True, assign=True)
    return tower.eval().requires_grad_(False)


def dump(tower: VisionTransformer | TextTransformer, layout: Layout) -> dict[str, Tensor]:
    """The inverse of :func:`build`: a tower's weights by the layout's names."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in tower.named_parameters():
        value = parameter.detach()
        value = value.T if name in layout.transposed else value
        value = value.squeeze() if name in layout.squeezed else value
        names = layout.names(name)
        for part, piece in zip(names, value.chunk(len(names)), strict=True):
            if not _has_no_bias(tower.config, name, part, names):
                tensors[part] = piece.contiguous()
    return tensors


def checksum_names(tower: VisionTransformer | TextTransformer) -> dict[str, Tensor]:
    """A tower's weights by the names that checksums are computed over."""
    if isinstance(tower, TextTransformer):
        return dump(tower, HUB_TEXT)
    if tower.config.output:
        return dump(tower, HUB_IMAGE)
    return dump(tower, CHECKSUM_DINOV3 if tower.config.positions == "rotary" else CHECKSUM_DINOV2)


def depth_of(tensors: Tensors, layout: Layout) -> int:
    """Number of blocks; never more than there are tensors, so that an absurd number is an unexpected key."""
    prefix = layout.blocks.split("{}")[0]
    numbers = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return min(max((int(number) + 1 for number in numbers if number.isdigit()), default=0), len(tensors))


def some_names(names: Iterable[str], most: int = 6) -> str:
    """The first names, in order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _has_no_bias(config: ViTConfig, name: str, part: str, names: tuple[str, ...]) -> bool:
    """Whether a part of the q, k, v bias is absent from a layout that keeps the three apart."""
    return name.endswith("attn.qkv.bias") and len(names) == 3 and "qkv"[names.index(part)] not in config.qkv_bias


def _without_absent_biases(config: ViTConfig, name: str, tensor: Tensor) -> Tensor:
    """Zero the biases that a configuration rules out: the original DINOv3 has something in their place, and masks it."""
    if not name.endswith("attn.qkv.bias") or config.qkv_bias == "qkv":
        return tensor
    parts = zip("qkv", tensor.chunk(3), strict=True)
    return torch.cat([part if letter in config.qkv_bias else torch.zeros_like(part) for letter, part in parts])


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
