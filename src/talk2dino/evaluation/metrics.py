"""Confusion matrix, IoU and accuracy.

Formulas, with C[t, p] the number of pixels of truth t predicted as p (p = N: predicted as none of the classes):
    IoU_c = C[c, c] / (sum_p C[c, p] + sum_t C[t, c] - C[c, c]),  accuracy_c = C[c, c] / sum_p C[c, p]
    mIoU = mean of IoU over the classes that occur in truth or prediction; overall accuracy = trace(C) / sum(C)
A class that occurs in neither has no IoU (nan) and takes no part in the mean, as in mmsegmentation and in
torchmetrics' MulticlassJaccardIndex(average="macro").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from talk2dino.errors import DataError, InputError, ShapeError

IGNORE = 255
#: Predicted value for "none of the classes": a miss for the true class and a false alarm for no class.
NONE = -1


@dataclass(frozen=True)
class Metrics:
    """Figures of one run, from 0 to 1; nan where a figure does not exist.

    Attributes:
        names: N class names.
        iou, accuracy: (N,) per class. pixels: (N,) pixels of the truth per class.
        miou, mean_accuracy: means over the classes that have a figure. overall_accuracy: share of correct pixels.
    """

    names: tuple[str, ...]
    iou: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray

    @property
    def miou(self) -> float:
        return mean_of_present(self.iou)

    @property
    def mean_accuracy(self) -> float:
        return mean_of_present(self.accuracy)

    @property
    def overall_accuracy(self) -> float:
        total = self.pixels.sum()
        return float(np.nansum(self.accuracy * self.pixels) / total) if total else float("nan")

    def miou_of(self, classes: Sequence[int]) -> float:
        """Mean IoU of some of the classes."""
        return mean_of_present(self.iou[list(classes)])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in percent, None for nan."""
        return {
            "miou": percent(self.miou),
            "mean_accuracy": percent(self.mean_accuracy),
            "overall_accuracy": percent(self.overall_accuracy),
            "classes": [
                {"name": name, "iou": percent(iou), "accuracy": percent(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in zip(self.names, self.iou, self.accuracy, self.pixels, strict=True)
            ],
        }


class ConfusionMatrix:
    """Pixel counts, ``counts[truth, prediction]``. Matrices of parts of a data set add up to that of the whole.

    The last column counts pixels that were predicted as none of the classes (:data:`NONE`).

    Args:
        names: N class names, in label order.
        ignore_index: truth value of pixels that do not count.
        counts: (N, N + 1) int64 to begin with.
    """

    def __init__(self, names: Sequence[str], *, ignore_index: int = IGNORE, counts: np.ndarray | None = None) -> None:
        self.names = tuple(names)
        self.ignore_index = ignore_index
        self.counts = np.zeros((len(names), len(names) + 1), dtype=np.int64) if counts is None else counts

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count one image.

        Args:
            prediction: (H, W) integers below N, or NONE.
            truth: (H, W) integers below N, or ignore_index.

        Raises:
            ShapeError: the two differ in size. DataError: a value lies outside the class list.
        """
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if prediction.shape != truth.shape:
            raise ShapeError(f"the prediction {prediction.shape} and the label {truth.shape} differ in size")
        size = len(self.names)
        counted = truth != self.ignore_index
        truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        given = {f"label values (besides {self.ignore_index}, which is ignored)": truth}
        for what, values in {**given, "predicted values": prediction[prediction != NONE]}.items():
            outside = np.unique(values[(values < 0) | (values >= size)])
            if outside.size:
                shown = ", ".join(map(str, outside[:8]))
                raise DataError(f"{what} must lie in 0..{size - 1}, the class list; found {shown}")
        prediction[prediction == NONE] = size
        self.counts += np.bincount(truth * (size + 1) + prediction, minlength=self.counts.size).reshape(size, size + 1)

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The sum of both matrices."""
        if (self.names, self.ignore_index) != (other.names, other.ignore_index):
            raise InputError("confusion matrices of different class lists or ignored values cannot be merged")
        return ConfusionMatrix(self.names, ignore_index=self.ignore_index, counts=self.counts + other.counts)

    def metrics(self) -> Metrics:
        diagonal = np.diag(self.counts).astype(np.float64)
        truth, predicted = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Metrics(self.names, diagonal / (truth + predicted - diagonal), diagonal / truth, truth)


def mean_of_present(values: np.ndarray) -> float:
    """Mean without nan; nan if nothing else is left."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def percent(share: float) -> float | None:
    """A share in percent; None for nan, which JSON lacks."""
    return None if np.isnan(share) else round(100.0 * float(share), 4)
