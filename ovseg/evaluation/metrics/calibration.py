"""How far a model's scores can be believed: the share of right pixels among those of a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovseg.evaluation.metrics.common import plain, share
from ovseg.evaluation.metrics.state import Evaluator, Record

BINS = 15
"""As in "On Calibration of Modern Neural Networks" (arXiv:1706.04599)."""

NO_SCORE = -1.0
"""In place of a score where a pixel has its class by another rule."""

_UNIT = 2**20  # scores are summed as integers in units of 2^-20, so that order and processes change nothing


@dataclass(frozen=True, eq=False)
class CalibrationRecord(Record):
    """One image.

    Attributes:
        table: (3, BINS) int64: pixels, right pixels, and sum of scores in units of 2^-20.
    """

    table: np.ndarray


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """The reliability of one data set; 0..1.

    Attributes:
        pixels: (BINS,) int64 labelled pixels by score.
        accuracy: (BINS,) float64 share of them that are right; NaN without any.
        confidence: (BINS,) float64 their mean score; NaN without any.
        expected_calibration_error: ECE, mean over labelled pixels of the gap between mean score and share of right
            pixels in 15 bins of equal width; pixels of no class are left out.
    """

    pixels: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    expected_calibration_error: float

    def to_json(self) -> dict[str, Any]:
        """Return the number without the bins; None for NaN."""
        return plain(self)


class CalibrationEvaluator(Evaluator[CalibrationResult]):
    """Counts labelled pixels by score and rightness; void and pixels of no class or without a score are left out."""

    SUMS: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(self, num_classes: int) -> None:
        """Start empty; `num_classes` is the length of the class list."""
        self.num_classes = num_classes
        self.reset()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"kind": "calibration", "num_classes": self.num_classes}

    def reset(self) -> None:
        """Forget all images."""
        self.table = np.zeros((3, BINS), np.int64)

    def measure(self, target: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> CalibrationRecord:
        """Compare one image with its ground truth.

        Args:
            target: (H, W) integer ground truth; outside 0..K-1 void.
            labels: (H, W) integer predictions; -1 for no class.
            scores: (H, W) float, 0..1, or `NO_SCORE`.
        """
        counted = (target >= 0) & (target < self.num_classes) & (labels >= 0) & (scores >= 0)
        units = np.rint(scores[counted].astype(np.float64) * _UNIT).astype(np.int64)
        places = np.minimum(units * BINS // _UNIT, BINS - 1)
        right = target[counted] == labels[counted]
        sums = np.bincount(places, units, BINS)  # exact in float64: below 2^53 for 2^33 pixels
        counts = np.bincount(places, minlength=BINS), np.bincount(places[right], minlength=BINS)
        return CalibrationRecord(np.stack([*counts, sums.astype(np.int64)]))

    def count(self, record: CalibrationRecord) -> None:
        """Count an image that was measured."""
        self.table = self.table + record.table

    def evaluate(self) -> CalibrationResult:
        """Return the curve of all images so far."""
        pixels, right, units = self.table
        some = np.maximum(pixels, 1)
        accuracy, confidence = (np.where(pixels > 0, a / some, np.nan) for a in (right, units / _UNIT))
        gaps = np.abs(right - units / _UNIT).sum()
        return CalibrationResult(pixels, accuracy, confidence, share(float(gaps), float(pixels.sum())))
