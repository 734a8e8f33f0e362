"""Classes for segments that have none: systems with ``facts.matched`` are matched to the truth.

Both ways assign one to one so that as many pixels as possible agree (Hungarian matching):

    benchmark   the segments of up to 200 images, without their labels, are clustered into as many clusters as there are
                classes. Each segment belongs to its nearest cluster, and clusters get classes once, over the whole run
    image       the segments of each image get the classes of that image; unmatched segments count as none of the
                classes. The truth decides which classes are in each image, so this is an upper bound: it measures how
                well the system divides an image, not how well it recognises anything

Source: Melas-Kyriazi et al., Deep spectral methods, CVPR 2022 (arXiv 2205.07839), for the matching over a benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from talk2dino.errors import MissingExtraError
from talk2dino.evaluation.journal import ImageRecord, add_up
from talk2dino.evaluation.metrics import IGNORE, ConfusionMatrix, Metrics

#: Images whose segments are clustered for the matching over a benchmark.
FIT_IMAGES = 200


def assign(agreement: np.ndarray) -> np.ndarray:
    """Hungarian matching: (S, N) pixels of segment s in class n to the (S,) class of each segment, -1 for none."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError(
            "matching segments to classes needs scipy, which is not installed: pip install scipy"
        ) from None
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    table = np.full(len(agreement), -1, dtype=np.int32)
    table[rows] = np.where(agreement[rows, columns] > 0, columns, -1)
    return table


def match_segments(segments: np.ndarray, truth: np.ndarray, class_count: int, *, ignore: int = IGNORE) -> np.ndarray:
    """Match the segments of one image to its classes.

    Args:
        segments: (H, W) integers. truth: (H, W) class indices with ``ignore``.

    Returns:
        (H, W) class indices; -1 where a segment has no class, or only one without a shared pixel.
    """
    counted = truth != ignore
    most = int(segments.max(initial=0)) + 1
    pairs = segments[counted].astype(np.int64) * class_count + truth[counted]
    agreement = np.bincount(pairs, minlength=most * class_count).reshape(most, class_count)
    return assign(agreement)[segments]


def matched_over_benchmark(config: Mapping[str, Any]) -> bool:
    """Whether the predictions of a run are clusters that still need classes."""
    return config.get("matched") == "benchmark"


def cluster_classes(matrix: ConfusionMatrix) -> np.ndarray:
    """The class of each cluster, -1 for none."""
    return assign(matrix.counts[:, :-1].T)


def permuted(matrix: ConfusionMatrix, classes: np.ndarray) -> ConfusionMatrix:
    """The matrix with predicted cluster i counted as class ``classes[i]``, -1 as none of the classes."""
    counts = np.zeros_like(matrix.counts)
    np.add.at(counts.T, classes, matrix.counts[:, :-1].T)  # -1 is the last column
    counts[:, -1] += matrix.counts[:, -1]
    return ConfusionMatrix(matrix.names, ignore_index=matrix.ignore_index, counts=counts)


def final_metrics(matrix: ConfusionMatrix, config: Mapping[str, Any]) -> Metrics:
    """The figures of a run, with clusters matched to classes where needed."""
    if not matched_over_benchmark(config):
        return matrix.metrics()
    return permuted(matrix, cluster_classes(matrix)).metrics()


def final_records(
    records: Sequence[ImageRecord], matrix: ConfusionMatrix, config: Mapping[str, Any]
) -> list[ImageRecord]:
    """The records with the mIoU of each image after the matching over the whole run."""
    if not matched_over_benchmark(config):
        return list(records)
    classes = cluster_classes(matrix)
    matrices = (permuted(add_up(matrix.names, [record]), classes) for record in records)
    return [ImageRecord.of(record.name, one) for record, one in zip(records, matrices, strict=True)]
