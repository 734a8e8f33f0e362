"""The frozen models whose features are extracted, and what a store says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from talk2dino.models.fingerprint import weights_checksum, weights_in_halves


@dataclass(frozen=True)
class Encoders:
    """The frozen models, by name: ``vision`` as VisionModel, ``embed`` as TextEncoder.embed with truncation.

    Attributes:
        identity: what the manifest says of them; two stores are one only when it agrees.
    """

    vision: Any
    embed: Callable[[Sequence[str]], Tensor]
    num_heads: int
    vision_dim: int
    text_dim: int
    size: int
    identity: dict[str, Any] = field(default_factory=dict)


def load_encoders(name: str, *, device: str = "auto", dtype: str = "auto") -> Encoders:
    """The encoders of a model of the catalog (plain backbones too), a folder or a hub id."""
    from talk2dino.device import choose_device, choose_dtype
    from talk2dino.models.fused import fuse
    from talk2dino.models.loading import load_parts
    from talk2dino.models.text import TextEncoder

    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    parts = load_parts(name, needs_projection=False)
    weights = {"vision": weights_in_halves(parts.vision), "text": weights_in_halves(parts.text.model)}
    vision = parts.vision.to(where, kind)
    # Remembering texts would make a store depend on where a run was interrupted.
    text = TextEncoder(parts.text.to(where).model, parts.text.tokenizer, parts.text.templates, cache_size=0)
    identity = {
        "name": parts.config.name,
        "vision_sha256": weights_checksum(vision),
        "text_sha256": weights_checksum(text),
        "dtype": str(kind).removeprefix("torch."),
        "weights": weights,
    }
    size = parts.config.size // vision.patch_size * vision.patch_size
    return Encoders(
        fuse(vision) or vision,
        lambda texts: text.embed(texts, truncate=True),
        vision.num_heads,
        vision.dim,
        text.dim,
        size,
        identity,
    )
