"""Which weights are these? Names that depend on nothing but the weights.

Four fingerprints, by what they are for:

    weights_checksum    every bit; written into manifests and journals, and compared between runs
    weights_in_halves   every bit after rounding to 16 bits: equal for one model in float32, float16 and bfloat16
    quick_checksum      a sum of all bits and a sample of the values, eight times faster: for the cache of texts
    quick_fingerprint   a sample of the values, milliseconds: do these features and these words belong to one model?
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from talk2dino.models.layouts import checksum_names
from talk2dino.models.vit import TextTransformer, VisionTransformer


def weights_checksum(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 (first 16 digits) of all weights, names included; converted to ``dtype`` first if given."""
    return _digest((name, value.to(dtype)) for name, value in named_weights(model))


def weights_in_halves(model: nn.Module) -> dict[str, str]:
    """Checksums of the parameters rounded to float16 and to bfloat16. One of the two survives a conversion between dtypes.

    The mask token is left out: inference does not read it, and not every layout keeps it.
    """
    return {name: _in_half(model, kind) for name, kind in _HALVES.items()}


def same_weights(model: nn.Module, recorded: dict[str, str]) -> bool:
    """Whether a model, in any dtype, has the weights that :func:`weights_in_halves` recorded."""
    return any(name in recorded and _in_half(model, kind) == recorded[name] for name, kind in _HALVES.items())


def quick_checksum(model: nn.Module) -> str:
    """A checksum (16 digits) that changes with any single weight, at the speed of memory.

    Per tensor: name, shape, dtype, the sum of its bits as integers, and 64 evenly spaced values.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        content = np.asarray(_bytes(value))
        even = content[: len(content) // 8 * 8].view(np.uint64)
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {even.sum(dtype=np.uint64)}".encode())
        digest.update(content[len(even) * 8 :].tobytes())
        digest.update(_bytes(_sample(value)))
    return digest.hexdigest()[:16]


def quick_fingerprint(model: nn.Module) -> str:
    """A digest (16 digits) of 64 values per parameter, rounded to bfloat16: milliseconds for a model of any size.

    It tells apart models that were trained separately, whether they are in float32 or bfloat16, and is compared when
    features of one model meet words of another. A float16 copy may have another one: take it before converting.
    """
    return _digest(
        (f"{name} {tuple(value.shape)}", _sample(value).to(torch.bfloat16))
        for name, value in model.named_parameters()
        if not name.endswith("mask_token")
    )


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


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def _sample(value: Tensor, count: int = 64) -> Tensor:
    """At most ``count`` evenly spaced values."""
    flat = value.detach().reshape(-1)
    return flat[:: max(1, len(flat) // count)][:count]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
