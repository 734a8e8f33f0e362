"""Clusters to classes over a whole run: what systems without words need before their figures can be read off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from talk2dino.evaluation.journal import PictureRecord, add_up
from talk2dino.evaluation.metrics import ConfusionMatrix, Metrics


def matched_over_benchmark(config: dict[str, Any]) -> bool:
    """Whether the predictions of a run are clusters that are yet to be matched to classes."""
    return config["method"] == "dino-clusters" and config["method_options"].get("matching", "benchmark") == "benchmark"


def final_metrics(matrix: ConfusionMatrix, config: dict[str, Any]) -> Metrics:
    """The figures of a run, after matching clusters to classes where that is yet to be done."""
    if not matched_over_benchmark(config):
        return matrix.metrics()
    return permuted(matrix, cluster_classes(matrix)).metrics()


def final_records(
    records: Sequence[PictureRecord], matrix: ConfusionMatrix, config: dict[str, Any]
) -> list[PictureRecord]:
    """Each picture's record with the mIoU that it has after the matching over the whole run."""
    if not matched_over_benchmark(config):
        return list(records)
    classes = cluster_classes(matrix)
    found = []
    for record in records:
        miou = permuted(add_up(matrix.names, [record]), classes).metrics().miou
        found.append(replace(record, miou=None if np.isnan(miou) else miou))
    return found


def cluster_classes(matrix: ConfusionMatrix) -> np.ndarray:
    """The class of each cluster (Hungarian matching, most pixels in agreement), -1 for none."""
    from talk2dino.methods.dino_clusters import assign

    return assign(matrix.counts[:, :-1].T)


def permuted(matrix: ConfusionMatrix, classes: np.ndarray) -> ConfusionMatrix:
    """The matrix with predicted cluster i counted as class ``classes[i]``; -1 counts as none of the classes."""
    counts = np.zeros_like(matrix.counts)
    np.add.at(counts.T, classes, matrix.counts[:, :-1].T)  # -1 is the last column
    counts[:, -1] += matrix.counts[:, -1]
    return ConfusionMatrix(matrix.names, ignore_index=matrix.ignore_index, counts=counts)
