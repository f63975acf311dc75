"""Semantic segmentation: mIoU from one confusion matrix, over present classes and over all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from ovseg.errors import InputError


@dataclass(frozen=True)
class SemanticResult:
    """Scores of one data set; IoUs and means are in 0..1.

    The field reports the mean over two different denominators under one name (Detectron2 changed its rule in July 2022
    without a new version), so both are here: over the classes that occur in the ground truth, and over all classes of
    the list, where one that does not occur counts 0.

    Attributes:
        iou: (K,) float64, NaN for classes in neither ground truth nor predictions.
        miou_present: Mean IoU over classes that occur in the ground truth.
        miou_all: Mean IoU over all classes, absent ones 0.
        present: Number of classes in the ground truth.
        total: Number of classes in the list.
        pixel_accuracy: Share of labelled pixels that are right; "no class" is wrong.
        foreground_miou: Mean IoU over the thing classes in the ground truth; NaN without any.
    """

    iou: np.ndarray
    miou_present: float
    miou_all: float
    present: int
    total: int
    pixel_accuracy: float
    foreground_miou: float

    def to_json(self) -> dict[str, Any]:
        """Return the numbers without the per-class list."""
        return {k: (round(v, 6) if isinstance(v, float) else v) for k, v in vars(self).items() if k != "iou"}


class SemanticEvaluator(DatasetEvaluator):
    """Accumulates a (K, K + 1) confusion matrix; memory does not grow with the number of images.

    Ground truth outside 0..K-1 is void and counts nowhere. Predictions of no class (-1) are an extra column: they miss
    their ground-truth class and are nobody's false positive.
    """

    def __init__(self, num_classes: int, things: Sequence[bool] | None = None) -> None:
        """Start empty.

        Args:
            num_classes: K, length of the class list.
            things: For each class whether it is a thing; all are without it.
        """
        self.num_classes = num_classes
        self.things = np.ones(num_classes, bool) if things is None else np.asarray(things, bool)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add images.

        Args:
            inputs: Each with ``sem_seg`` (H, W) integer ground truth.
            outputs: Each with ``labels`` (H, W) integer predictions, -1 for no class.

        Raises:
            InputError: Sizes differ, or a prediction is no class of the list.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            self.add(np.asarray(entry["sem_seg"]), np.asarray(output["labels"]))

    def add(self, target: np.ndarray, labels: np.ndarray) -> None:
        """Add one image: (H, W) ground truth and (H, W) predictions."""
        if target.shape != labels.shape:
            raise InputError(f"prediction is {labels.shape} but ground truth {target.shape}; expected equal sizes")
        if labels.size and not -1 <= labels.min() <= labels.max() < self.num_classes:
            raise InputError(
                f"prediction has labels {labels.min()}..{labels.max()}; expected -1..{self.num_classes - 1} (class ids)"
            )
        valid = (target >= 0) & (target < self.num_classes)
        columns = np.where(labels[valid] < 0, self.num_classes, labels[valid]).astype(np.int64)
        pairs = target[valid].astype(np.int64) * (self.num_classes + 1) + columns
        self.confusion += np.bincount(pairs, minlength=self.confusion.size).reshape(self.confusion.shape)

    def evaluate(self) -> SemanticResult:
        """Return the scores of all images added so far."""
        matrix = self.confusion
        hits = np.diag(matrix).astype(np.float64)
        truth, predicted = matrix.sum(1), matrix[:, :-1].sum(0)
        with np.errstate(invalid="ignore"):
            iou = hits / (truth + predicted - hits)
        present = truth > 0
        foreground = present & self.things
        return SemanticResult(
            iou=iou,
            miou_present=_mean(iou[present]),
            miou_all=float(np.nan_to_num(iou).sum() / max(self.num_classes, 1)),
            present=int(present.sum()),
            total=self.num_classes,
            pixel_accuracy=float(hits.sum() / truth.sum()) if truth.sum() else float("nan"),
            foreground_miou=_mean(iou[foreground]),
        )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
