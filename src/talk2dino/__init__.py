"""Talk2DINO: open-vocabulary segmentation with a frozen CLIP, a frozen DINOv2 and a small learned projection.

Start at :class:`talk2dino.Segmenter`. Importing the package loads nothing heavy; names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Segmenter": "talk2dino.segmenter",
    "ImageFeatures": "talk2dino.types",
    "TextFeatures": "talk2dino.types",
    "Segmentation": "talk2dino.types",
    "Talk2DinoError": "talk2dino.errors",
    "list_models": "talk2dino.models.catalog",
}

__all__ = ["ImageFeatures", "Segmentation", "Segmenter", "Talk2DinoError", "TextFeatures", "__version__", "list_models"]

if TYPE_CHECKING:
    from talk2dino.errors import Talk2DinoError
    from talk2dino.models.catalog import list_models
    from talk2dino.segmenter import Segmenter
    from talk2dino.types import ImageFeatures, Segmentation, TextFeatures


def __getattr__(name: str):
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'talk2dino' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
