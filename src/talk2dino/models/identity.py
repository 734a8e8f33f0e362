"""Which weights are these? A name that depends on nothing but the numbers."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_checksum(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 (first 16 digits) of all weights, names included; as numbers of ``dtype`` if one is given."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", dtype).contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
