"""Published figures, shown beside measured ones and never mixed with them.

mIoU in percent, from the ICCV 2025 paper of Talk2DINO (arXiv 2411.19331), tables without and with PAMR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from talk2dino.io.markdown import markdown_table
from talk2dino.models.catalog import CATALOG

_COLUMNS = ("voc20", "context59", "coco-stuff", "cityscapes", "ade20k", "voc21", "context60", "coco-object")


@dataclass(frozen=True)
class PublishedRow:
    """One row of the paper, and the runs beside which it may stand.

    Attributes:
        values: mIoU in percent of each of the columns.
        method, model, refine, options: of those runs; without a method, this package lacks the system.
        note: how the published system differs from those runs.
    """

    title: str
    values: tuple[float, ...]
    method: str = ""
    model: str = "vitb"
    refine: bool = False
    note: str = ""
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """Benchmark -> mIoU in percent."""
        return dict(zip(_COLUMNS, self.values, strict=True))


ROWS = (
    PublishedRow("Talk2DINO ViT-B", (87.1, 39.8, 28.1, 36.6, 21.1, 61.5, 35.1, 41.0), "talk2dino"),
    PublishedRow("Talk2DINO ViT-L", (87.1, 39.1, 27.0, 35.8, 21.1, 60.1, 34.2, 37.6), "talk2dino", "vitl"),
    PublishedRow("Talk2DINO ViT-B + PAMR", (88.5, 42.4, 30.2, 38.1, 22.5, 65.8, 37.7, 45.1), "talk2dino", refine=True),
    PublishedRow("Talk2DINO ViT-L + PAMR", (89.8, 42.7, 29.6, 38.4, 22.9, 66.1, 37.3, 42.3), "talk2dino", "vitl", refine=True),
    PublishedRow("FreeDA ViT-B", (84.3, 39.7, 25.7, 34.1, 20.8, 51.8, 35.3, 36.3), "freeda",
                 note="FreeDA's published code pairs DINOv2 ViT-L/14 without registers with CLIP ViT-L/14; this run used DINOv2 "
                      "with registers and CLIP ViT-B/16"),
    PublishedRow("MaskCLIP ViT-B", (74.9, 26.4, 16.4, 12.6, 9.8, 38.8, 23.6, 20.6), "clip-dense", options={"variant": "residual"},
                 note="MaskCLIP's published code averages 85 normalised templates and sees whole images with a short side of 512"),
    PublishedRow("ProxyCLIP ViT-B", (80.3, 39.1, 26.5, 38.1, 20.2, 61.3, 35.3, 37.5)),
    PublishedRow("CLIP-DINOiser", (80.9, 35.9, 24.6, 31.1, 20.0, 62.1, 32.4, 34.8)),
)  # fmt: skip


def published_results(benchmark: str) -> dict[str, float]:
    """System -> published mIoU in percent on one benchmark; empty if nothing was published."""
    return {row.title: row.figures[benchmark] for row in ROWS if benchmark in row.figures}


def published_table(benchmark: str) -> str:
    """The published figures on a benchmark as a Markdown table; empty if there are none."""
    rows = [(name, f"{value:.1f}") for name, value in published_results(benchmark).items()]
    return markdown_table(["system", "mIoU"], rows, align="lr") if rows else ""


def published_row(config: Mapping[str, Any]) -> PublishedRow | None:
    """The row with a figure of the same system on the same benchmark as a run's configuration, or None.

    The model may be a catalog name or the id of its hub repository.
    """
    model = next((spec.name for spec in CATALOG.values() if spec.repository == config["model"]), config["model"])
    run = (config["method"], model, config.get("refine", False))
    chosen = {**config.get("method_options", {}), **config.get("system", {})}
    if (
        config.get("projection") is not None or config.get("text") is not None
    ):  # a psi or a text tower that nobody published
        return None
    same = (row for row in ROWS if (row.method, row.model, row.refine) == run and row.options.items() <= chosen.items())
    return next((row for row in same if config["benchmark"] in row.figures), None)
