"""Which weights are these? Names that depend on nothing but the numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


def weights_checksum(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 (first 16 digits) of all weights, names included; as numbers of ``dtype`` if one is given."""
    return _digest((name, value.to(dtype)) for name, value in model.state_dict().items())


def weights_in_halves(model: nn.Module) -> dict[str, str]:
    """Checksums of the trained weights as float16 and as bfloat16 hold them: of the same ones in any dtype, one agrees.

    Left out is the mask token, which no inference reads and not every layout keeps.
    """
    return {name: _in_half(model, kind) for name, kind in _HALVES.items()}


def same_weights(model: nn.Module, recorded: dict[str, str]) -> bool:
    """Whether a model has the weights that :func:`weights_in_halves` was given, in whatever dtype."""
    return any(name in recorded and _in_half(model, kind) == recorded[name] for name, kind in _HALVES.items())


def quick_fingerprint(model: nn.Module) -> str:
    """A digest of shapes and of a sample of each weight: milliseconds for any size.

    It tells checkpoints apart that were trained separately; :func:`weights_checksum` notices every single number.
    """
    return _digest(
        (f"{name} {tuple(value.shape)}", _sample(value))
        for name, value in model.named_parameters()
        if not name.endswith("mask_token")
    )


def _sample(value: torch.Tensor, count: int = 64) -> torch.Tensor:
    flat = value.detach().reshape(-1)
    return flat[:: max(1, len(flat) // count)][:count].to(torch.bfloat16)


_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def _in_half(model: nn.Module, kind: torch.dtype) -> str:
    kept = ((name, value) for name, value in model.named_parameters() if not name.endswith("mask_token"))
    return _digest((name, value.detach().to(kind)) for name, value in kept)


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
