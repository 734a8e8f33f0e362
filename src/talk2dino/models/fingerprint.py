"""Which weights are these? Names that depend on nothing but the numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from talk2dino.models.layouts import checksum_names
from talk2dino.models.vit import TextTransformer, VisionTransformer


def weights_checksum(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 (first 16 digits) of all weights, names included; as numbers of ``dtype`` if one is given."""
    return _digest((name, value.to(dtype)) for name, value in named_weights(model))


def weights_in_halves(model: nn.Module) -> dict[str, str]:
    """Checksums of the trained weights as float16 and as bfloat16 hold them: of the same ones in any dtype, one agrees.

    Left out is the mask token, which no inference reads and not every layout keeps.
    """
    return {name: _in_half(model, kind) for name, kind in _HALVES.items()}


def same_weights(model: nn.Module, recorded: dict[str, str]) -> bool:
    """Whether a model has the weights that :func:`weights_in_halves` was given, in whatever dtype."""
    return any(name in recorded and _in_half(model, kind) == recorded[name] for name, kind in _HALVES.items())


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights by the names that checksums are computed over; a tower's are those of release 0.1.0, see keymaps.py."""
    towers = {
        name: part for name, part in model.named_modules() if isinstance(part, (VisionTransformer, TextTransformer))
    }
    inside = tuple(f"{name}." if name else "" for name in towers)
    for prefix, tower in zip(inside, towers.values(), strict=True):
        for name, value in checksum_names(tower).items():
            yield prefix + name, value
    for name, value in model.state_dict().items():
        if not name.startswith(inside):
            yield name, value


_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def _in_half(model: nn.Module, kind: torch.dtype) -> str:
    kept = ((name, value) for name, value in named_weights(model) if not name.endswith("mask_token"))
    return _digest((name, value.detach().to(kind)) for name, value in kept)


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
