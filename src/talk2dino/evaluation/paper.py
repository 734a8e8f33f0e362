"""Published results, for reference beside measured ones; never mixed with them.

mIoU in percent from the ICCV 2025 paper of Talk2DINO (arXiv 2411.19331), table of results without and with PAMR.
"""

from __future__ import annotations

from talk2dino.models.catalog import CATALOG

_COLUMNS = ("voc20", "context59", "coco-stuff", "cityscapes", "ade20k", "voc21", "context60", "coco-object")
_ROWS: dict[tuple[str, str, bool], tuple[str, tuple[float, ...]]] = {
    ("talk2dino", "vitb", False): ("Talk2DINO ViT-B", (87.1, 39.8, 28.1, 36.6, 21.1, 61.5, 35.1, 41.0)),
    ("talk2dino", "vitl", False): ("Talk2DINO ViT-L", (87.1, 39.1, 27.0, 35.8, 21.1, 60.1, 34.2, 37.6)),
    ("talk2dino", "vitb", True): ("Talk2DINO ViT-B + PAMR", (88.5, 42.4, 30.2, 38.1, 22.5, 65.8, 37.7, 45.1)),
    ("talk2dino", "vitl", True): ("Talk2DINO ViT-L + PAMR", (89.8, 42.7, 29.6, 38.4, 22.9, 66.1, 37.3, 42.3)),
    ("freeda", "vitb", False): ("FreeDA ViT-B", (84.3, 39.7, 25.7, 34.1, 20.8, 51.8, 35.3, 36.3)),
    ("clip-dense", "vitb", False): ("MaskCLIP ViT-B", (74.9, 26.4, 16.4, 12.6, 9.8, 38.8, 23.6, 20.6)),
    ("ProxyCLIP", "vitb", False): ("ProxyCLIP ViT-B", (80.3, 39.1, 26.5, 38.1, 20.2, 61.3, 35.3, 37.5)),
    ("CLIP-DINOiser", "vitb", False): ("CLIP-DINOiser", (80.9, 35.9, 24.6, 31.1, 20.0, 62.1, 32.4, 34.8)),
}


def published_results(benchmark: str) -> dict[str, float]:
    """System -> published mIoU in percent on a benchmark; empty where nothing was published."""
    if benchmark not in _COLUMNS:
        return {}
    return {title: figures[_COLUMNS.index(benchmark)] for title, figures in _ROWS.values()}


def published_rows() -> dict[str, dict[str, float]]:
    """System -> benchmark -> published mIoU in percent."""
    return {title: dict(zip(_COLUMNS, figures, strict=True)) for title, figures in _ROWS.values()}


def published_row(method: str, model: str, refine: bool) -> str | None:
    """The title of the published row of the same system, model (a catalog name or its hub id) and refinement."""
    name = next((spec.name for spec in CATALOG.values() if spec.repository == model), model)
    row = _ROWS.get((method, name, refine))
    return None if row is None else row[0]


def published_counterpart(benchmark: str, method: str, model: str, refine: bool) -> tuple[str, float] | None:
    """The published row of the same system, model and refinement: (title, mIoU), or None."""
    title = published_row(method, model, refine)
    return None if title is None or benchmark not in _COLUMNS else (title, published_rows()[title][benchmark])
