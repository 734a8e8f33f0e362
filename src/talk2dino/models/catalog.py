"""The named models: where each comes from, its sizes, and the threshold that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from talk2dino.errors import ModelNotFoundError, suggestion

#: The text tower of every published psi.
CLIP_TEXT = "openai/clip-vit-base-patch16"
PUBLISHED = "published for this vision model"
BORROWED = "not published for this vision model; the value of DINOv2 with registers is used"


@dataclass(frozen=True)
class ModelSpec:
    """One row of the catalog.

    Attributes:
        name: the name that users type.
        kind: "embedded" (inside the package), "whole" (both towers and psi in one file on the hub) or "backbone" (a
            vision and a text tower on the hub, to be combined with a projection).
        repository: hub repository of the whole model, or of the vision tower of a backbone.
        text: hub repository of the text tower (backbones only).
        revision: git revision on the hub.
        vision_dim, heads, patch_size: D, M and P of the vision tower.
        size: short side in pixels at which the model sees images.
        threshold: default background threshold, on the sigmoid scale.
        threshold_source: where the threshold comes from.
        variant: background cleaning that goes with the model's results.
        gated: whether the hub requires an accepted licence and HF_TOKEN.
        summary: one line of description.
    """

    name: str
    kind: Literal["embedded", "whole", "backbone"]
    repository: str
    summary: str
    vision_dim: int
    heads: int
    patch_size: int
    size: int = 448
    text: str | None = None
    revision: str = "main"
    threshold: float = 0.55
    threshold_source: str = PUBLISHED
    variant: Literal["published", "paper"] = "published"
    gated: bool = False
    text_dim: int = 512


def default_threshold(vision_dim: int) -> float:
    """The published threshold of DINOv2 with registers: 0.54 for ViT-L (width 1024), else 0.55 (ViT-B)."""
    return 0.54 if vision_dim == 1024 else 0.55


def _whole(name: str, repository: str, dim: int, patch: int, source: str, summary: str) -> ModelSpec:
    return ModelSpec(
        name, "whole", repository, summary, dim, dim // 64, patch,
        threshold=default_threshold(dim), threshold_source=source,
    )  # fmt: skip


def _backbone(
    name: str, repository: str, dim: int, patch: int, source: str = BORROWED, *, gated: bool = False
) -> ModelSpec:
    return ModelSpec(
        name, "backbone", repository, "vision model alone, with CLIP ViT-B/16 for text: needs --projection",
        dim, dim // 64, patch, text=CLIP_TEXT, threshold=default_threshold(dim), threshold_source=source, gated=gated,
    )  # fmt: skip


CATALOG: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "micro", "embedded", "assets/micro",
            "stand-in trained on drawings, inside the package, works offline; not for photographs",
            vision_dim=192, heads=6, patch_size=8, size=128, text_dim=192,
            threshold=0.58, threshold_source="tuned on 150 drawn validation scenes",
        ),
        _whole("vitb", "lorebianchi98/Talk2DINO-ViTB", 768, 14, PUBLISHED, "Talk2DINO, DINOv2 ViT-B/14 with registers"),
        _whole("vitl", "lorebianchi98/Talk2DINO-ViTL", 1024, 14, PUBLISHED, "Talk2DINO, DINOv2 ViT-L/14 with registers"),
        _whole("dinov3-vitb", "lorebianchi98/Talk2DINOv3-ViTB", 768, 16, BORROWED, "Talk2DINO, DINOv3 ViT-B/16"),
        _whole("dinov3-vitl", "lorebianchi98/Talk2DINOv3-ViTL", 1024, 16, BORROWED, "Talk2DINO, DINOv3 ViT-L/16"),
        _backbone("dinov2-reg-small", "facebook/dinov2-with-registers-small", 384, 14),
        _backbone("dinov2-reg-base", "facebook/dinov2-with-registers-base", 768, 14, PUBLISHED),
        _backbone("dinov2-reg-large", "facebook/dinov2-with-registers-large", 1024, 14, PUBLISHED),
        _backbone("dinov2-small", "facebook/dinov2-small", 384, 14),
        _backbone("dinov2-base", "facebook/dinov2-base", 768, 14),
        _backbone("dinov2-large", "facebook/dinov2-large", 1024, 14),
        _backbone("dinov3-small", "facebook/dinov3-vits16-pretrain-lvd1689m", 384, 16, gated=True),
        _backbone("dinov3-base", "facebook/dinov3-vitb16-pretrain-lvd1689m", 768, 16, gated=True),
        _backbone("dinov3-large", "facebook/dinov3-vitl16-pretrain-lvd1689m", 1024, 16, gated=True),
        ModelSpec(
            "freeda-vitl", "backbone", "facebook/dinov2-large",
            "FreeDA's published pair, DINOv2 ViT-L/14 and CLIP ViT-L/14: for freeda, clip-dense and dino-clusters",
            vision_dim=1024, heads=16, patch_size=14, text="openai/clip-vit-large-patch14", text_dim=768,
            threshold=default_threshold(1024), threshold_source=BORROWED,
        ),
    )
}  # fmt: skip


def list_models() -> list[ModelSpec]:
    """The catalog's rows, in order."""
    return list(CATALOG.values())


def unknown_model(name: str) -> ModelNotFoundError:
    """The error for a name that is neither in the catalog nor a folder nor a hub id."""
    return ModelNotFoundError(
        f"no model named {name!r}{suggestion(name, CATALOG)}; --model accepts auto, {', '.join(CATALOG)}, a local folder, "
        "or a hub id such as owner/name"
    )
