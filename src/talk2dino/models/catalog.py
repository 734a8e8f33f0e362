"""The table of named models: where each comes from, its sizes, and the thresholds that were tuned for it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from talk2dino.errors import ModelNotFoundError

PUBLISHED_TEXT = "openai/clip-vit-base-patch16"


@dataclass(frozen=True)
class ModelSpec:
    """One row of the catalog.

    Attributes:
        name: what users type.
        kind: "embedded" (in the package), "published" (one whole-model file on the hub) or "backbone" (a vision and a
            text model on the hub, to combine with a projection of one's own).
        repository: hub repository of the whole model, or of the vision model for a backbone.
        text: hub repository of the text model (backbones only).
        revision: git revision on the hub.
        vision_dim, heads, patch_size: D, M and P of the vision model.
        size: short side in pixels at which pictures are seen.
        threshold: background threshold on the sigmoid scale; None where nobody tuned one.
        variant: which background cleaning the model's numbers were made with.
        gated: the hub asks for an accepted licence and HF_TOKEN.
        summary: one line for people.
    """

    name: str
    kind: str
    repository: str
    summary: str
    vision_dim: int
    heads: int
    patch_size: int
    size: int = 448
    text: str | None = None
    revision: str = "main"
    threshold: float | None = 0.55
    variant: str = "published"
    gated: bool = False
    text_dim: int = 512


def _published(name: str, repository: str, dim: int, patch: int, threshold: float, summary: str) -> ModelSpec:
    return ModelSpec(name, "published", repository, summary, dim, dim // 64, patch, threshold=threshold)


def _backbone(name: str, repository: str, dim: int, patch: int, *, gated: bool = False) -> ModelSpec:
    summary = "vision model alone, with CLIP ViT-B/16 for text: needs --projection"
    return ModelSpec(name, "backbone", repository, summary, dim, dim // 64, patch, text=PUBLISHED_TEXT, gated=gated)


CATALOG: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "micro", "embedded", "assets/micro",
            "stand-in trained on drawings, inside the package, works offline; not for photographs",
            vision_dim=192, heads=6, patch_size=8, size=128, text_dim=192,
        ),
        _published("vitb", "lorebianchi98/Talk2DINO-ViTB", 768, 14, 0.55, "Talk2DINO, DINOv2 ViT-B/14 with registers"),
        _published("vitl", "lorebianchi98/Talk2DINO-ViTL", 1024, 14, 0.54, "Talk2DINO, DINOv2 ViT-L/14 with registers"),
        _published("dinov3-vitb", "lorebianchi98/Talk2DINOv3-ViTB", 768, 16, 0.55, "Talk2DINO, DINOv3 ViT-B/16"),
        _published("dinov3-vitl", "lorebianchi98/Talk2DINOv3-ViTL", 1024, 16, 0.54, "Talk2DINO, DINOv3 ViT-L/16"),
        _backbone("dinov2-reg-small", "facebook/dinov2-with-registers-small", 384, 14),
        _backbone("dinov2-reg-base", "facebook/dinov2-with-registers-base", 768, 14),
        _backbone("dinov2-reg-large", "facebook/dinov2-with-registers-large", 1024, 14),
        _backbone("dinov2-small", "facebook/dinov2-small", 384, 14),
        _backbone("dinov2-base", "facebook/dinov2-base", 768, 14),
        _backbone("dinov2-large", "facebook/dinov2-large", 1024, 14),
        _backbone("dinov3-small", "facebook/dinov3-vits16-pretrain-lvd1689m", 384, 16, gated=True),
        _backbone("dinov3-base", "facebook/dinov3-vitb16-pretrain-lvd1689m", 768, 16, gated=True),
        _backbone("dinov3-large", "facebook/dinov3-vitl16-pretrain-lvd1689m", 1024, 16, gated=True),
    )
}  # fmt: skip


def list_models() -> list[ModelSpec]:
    """The catalog's rows, in order."""
    return list(CATALOG.values())


def find_model(name: str) -> ModelSpec:
    """The row of a name.

    Raises:
        ModelNotFoundError: with near names.
    """
    if name in CATALOG:
        return CATALOG[name]
    near = difflib.get_close_matches(name.lower(), CATALOG, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ModelNotFoundError(
        f"no model named {name!r}: {hint}Accepted: auto, one of {', '.join(CATALOG)}, a local folder, or a hub id such as "
        "owner/name"
    )
