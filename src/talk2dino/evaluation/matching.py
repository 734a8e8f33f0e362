"""Clusters to classes over a whole run: what systems without words need before their figures can be read off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from talk2dino.errors import MissingExtraError
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
    return assign(matrix.counts[:, :-1].T)


def permuted(matrix: ConfusionMatrix, classes: np.ndarray) -> ConfusionMatrix:
    """The matrix with predicted cluster i counted as class ``classes[i]``; -1 counts as none of the classes."""
    counts = np.zeros_like(matrix.counts)
    np.add.at(counts.T, classes, matrix.counts[:, :-1].T)  # -1 is the last column
    counts[:, -1] += matrix.counts[:, -1]
    return ConfusionMatrix(matrix.names, ignore_index=matrix.ignore_index, counts=counts)


def match_segments(segments: np.ndarray, truth: np.ndarray, class_count: int, *, ignore: int = 255) -> np.ndarray:
    """Give segments classes by Hungarian matching with the truth: one to one, most pixels in agreement.

    Args:
        segments: (H, W) integers. truth: (H, W) class indices with ``ignore``.

    Returns:
        (H, W) class indices, -1 where a segment was matched to no class (or only to a class without a shared pixel).
    """
    counted = truth != ignore
    most = int(segments.max(initial=0)) + 1
    pairs = segments[counted].astype(np.int64) * class_count + truth[counted]
    agreement = np.bincount(pairs, minlength=most * class_count).reshape(most, class_count)
    return assign(agreement)[segments]


def assign(agreement: np.ndarray) -> np.ndarray:
    """Hungarian matching: (S, N) pixels of segment s in class n to the class of each segment, -1 for none."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError.of("scipy", "freeda", "matching segments to classes") from None
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    table = np.full(len(agreement), -1, dtype=np.int32)
    found = agreement[rows, columns] > 0
    table[rows[found]] = columns[found]
    return table
