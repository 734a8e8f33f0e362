"""From labels to objects: one per class, or one per connected part; with a score that says how sure the labels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from talk2dino.annotations.parts import connected_parts
from talk2dino.annotations.peaks import split_by_attention, split_by_shape
from talk2dino.annotations.types import AnnotatedObject
from talk2dino.io.rle import compress, run_counts, runs_of_values


@dataclass(frozen=True, eq=False)
class Evidence:
    """What objects are scored and split with.

    Attributes:
        margin: (H, W) float32, how far the score of each pixel's class is above the next one (or above its threshold).
        attention: (h, w) float32 on the patch grid, the mean over heads of the attention of the whole image; None for
            methods without attention maps.
    """

    margin: np.ndarray
    attention: np.ndarray | None = None


class ObjectOptions(BaseModel):
    """What becomes an object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instances: bool = Field(default=False, description="each connected part is an object; otherwise each class")
    smallest_area: int = Field(default=0, ge=0, description="connected parts with fewer pixels are left out")
    split: Literal["shape", "attention"] | None = Field(
        default=None,
        description="split touching objects where their shape is narrow, or between peaks of the attention",
    )


def find_objects(
    labels: np.ndarray, names: Sequence[str], background: int | None, options: ObjectOptions, *,
    evidence: Evidence | None = None,
) -> tuple[AnnotatedObject, ...]:  # fmt: skip
    """The objects of a label map.

    Args:
        labels: (H, W) integers; value i stands for ``names[i]``.
        background: the value that is no object, or None.
        evidence: with it, the score of an object is the mean margin of its pixels, and parts can be split at peaks of the attention.

    Returns:
        In the order of the names; connected parts of one class (4-connected) from the largest to the smallest.
    """
    values = labels
    owners = np.arange(len(names))
    parts = options.instances or options.smallest_area > 1
    if parts:
        values = connected_parts(labels)
        if options.split == "shape":
            values = split_by_shape(values)
        elif options.split == "attention" and evidence is not None and evidence.attention is not None:
            values = split_by_attention(values, evidence.attention)
        owners = np.zeros(int(values.max()) + 1, dtype=np.int64)
        owners[values.reshape(-1)] = labels.reshape(-1)
    areas = np.bincount(values.reshape(-1), minlength=len(owners))
    wanted = areas >= max(1, options.smallest_area)
    if parts and not options.instances:  # one object per class again, without the small parts
        rest = len(names)
        values = np.where(wanted, owners, rest)[values]
        owners, wanted = np.arange(rest + 1), np.arange(rest + 1) < rest
        areas = np.bincount(values.reshape(-1), minlength=rest + 1)
    if background is not None:
        wanted &= owners != background
    wanted &= areas > 0
    sums = None if evidence is None else np.bincount(values.reshape(-1), evidence.margin.reshape(-1), len(owners))
    order = sorted(np.flatnonzero(wanted).tolist(), key=lambda value: (owners[value], -areas[value], value))
    runs, size = runs_of_values(values, order), (labels.shape[0], labels.shape[1])
    return tuple(
        AnnotatedObject(
            names[owners[value]], size, compress(run_counts(*runs[value], values.size)),
            score=None if sums is None else float(sums[value] / areas[value]),
        )
        for value in order
    )  # fmt: skip
