"""The frozen models whose features are extracted, and what a store records about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from talk2dino.device import choose_device, choose_dtype
from talk2dino.models.fingerprint import weights_checksum, weights_in_halves

if TYPE_CHECKING:
    from talk2dino.models.vision import VisionOutput


@dataclass(frozen=True)
class Encoders:
    """The frozen models as functions."""

    vision: Callable[[Tensor], VisionOutput]  # of (B, 3, size, size) normalised pixels
    embed: Callable[[Sequence[str]], Tensor]  # N texts to (N, text_dim) raw embeddings; long texts are cut
    num_heads: int  # M, of the last block
    vision_dim: int
    text_dim: int
    size: int  # default side of the square input, in pixels
    patch_size: int = 1  # in pixels
    identity: dict[str, Any] = field(default_factory=dict)  # for the manifest; must agree between stores used together


def load_encoders(name: str, *, device: str = "auto", dtype: str = "auto") -> Encoders:
    """Load the encoders of a model: a name in the catalog (vision backbones included), a folder or a hub id.

    Raises:
        InputError: an unknown or unavailable device, or an unknown dtype of the vision model.
        ModelNotFoundError, CheckpointError: the model cannot be found or read.
    """
    from talk2dino.models.fused import fuse
    from talk2dino.models.loading import load_parts
    from talk2dino.models.text import TextEncoder

    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    parts = load_parts(name, needs_projection=False)
    weights = {"vision": weights_in_halves(parts.vision), "text": weights_in_halves(parts.text.model)}
    vision = parts.vision.to(where, kind)
    # A cache of texts would make the batches, and so the last bits of a store, depend on where a run was interrupted.
    text = TextEncoder(parts.text.to(where).model, parts.text.tokenizer, parts.text.templates, cache_size=0)
    return Encoders(
        vision=fuse(vision) or vision,
        embed=lambda texts: text.embed(texts, truncate=True),
        num_heads=vision.num_heads,
        vision_dim=vision.dim,
        text_dim=text.dim,
        size=parts.config.size // vision.patch_size * vision.patch_size,
        patch_size=vision.patch_size,
        identity={
            "name": parts.config.name,
            "vision_sha256": weights_checksum(vision),
            "text_sha256": weights_checksum(text),
            "dtype": str(kind).removeprefix("torch."),
            "weights": weights,
        },
    )
