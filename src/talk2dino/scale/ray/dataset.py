"""Segmentation as one step of somebody's Ray Data pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.errors import InputError, Talk2DinoError
from talk2dino.scale.ray.cluster import Pool, choose_pool, nodes
from talk2dino.scale.rows import Row

if TYPE_CHECKING:
    from ray.data import Dataset

    from talk2dino.words.prompts import PromptList, Prompts

Batch = dict[str, Any]


def segment_dataset(
    dataset: Dataset, prompts: Prompts | PromptList, *, column: str = "image", model: str = "auto", method: str = "talk2dino",
    batch_size: int = 16, pool: Pool | None = None, background: bool | float | None = None, clean: bool | None = None,
    refine: bool = False, mode: str = "whole", **options: Any,
) -> Dataset:  # fmt: skip
    """Add masks to a Ray Data set of images.

    Args:
        dataset: with a column of encoded images (bytes) or (H, W, 3) uint8 arrays.
        column: its name.
        model, method, options: as in :meth:`talk2dino.Segmenter.from_pretrained`.
        background, clean, refine, mode: as in :meth:`talk2dino.Segmenter.segment_batch`.

    Returns:
        The data set with the columns ``classes``, a list of {name, area, rle} per image, and ``error``, empty if there was
        none.

    Raises:
        InputError: the data set has no such column.
    """
    import ray
    from ray.data import ActorPoolStrategy

    names = dataset.columns() or []
    if column not in names:
        raise InputError(f"the data set has no column {column!r}; it has {', '.join(names)}")
    pool = pool or choose_pool(nodes(ray))
    settings = {"background": background, "clean": clean, "refine": refine, "mode": mode}
    return dataset.map_batches(
        _Segment, batch_size=batch_size, num_cpus=pool.cpus, num_gpus=pool.gpus or None,
        compute=ActorPoolStrategy(size=pool.actors),
        fn_constructor_args=(column, model, prompts, settings, pool.threads, {"method": method, **options}),
    )  # fmt: skip


class _Segment:
    """An actor of :func:`segment_dataset`."""

    def __init__(
        self, column: str, model: str, prompts: Any, settings: dict[str, Any], threads: int, options: dict[str, Any]
    ) -> None:
        import torch

        from talk2dino.segmenter import Segmenter

        torch.set_num_threads(threads)
        self.column, self.settings = column, settings
        self.segmenter = Segmenter.from_pretrained(model, **options)
        self.text = self.segmenter.encode_text(prompts)

    def __call__(self, batch: Batch) -> Batch:
        rows = []
        for image in batch[self.column]:
            try:
                result = self.segmenter.segment(image, self.text, **self.settings)
                rows.append(Row.of("", result))
            except Talk2DinoError as error:
                rows.append(Row("", error=str(error)))
        classes = np.empty(len(rows), dtype=object)
        for i, row in enumerate(rows):
            classes[i] = [{"name": name, "area": area, "rle": rle} for name, area, rle in row.classes]
        return {**batch, "classes": classes, "error": np.array([row.error or "" for row in rows], dtype=object)}
