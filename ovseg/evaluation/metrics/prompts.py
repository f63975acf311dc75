"""One prompt, one mask: scores as CLIPSeg reports them, and referring expressions; each with its rule.

Both take pairs of an image and a text, a mask for each. Averages over prompts are sums of integers, so they are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovseg.errors import InputError
from ovseg.evaluation.metrics.common import UNIT, check_same_shape, plain, share
from ovseg.evaluation.metrics.state import Evaluator, Record


@dataclass(frozen=True, eq=False)
class PromptRecord(Record):
    """One prompt: its pixels at every threshold.

    Attributes:
        hits: (S,) int64, pixels of the ground truth whose score reaches each threshold.
        found: (S,) int64, pixels whose score reaches it.
        truth: Pixels of the ground truth.
        pixels: Pixels that count.
    """

    hits: np.ndarray
    found: np.ndarray
    truth: int
    pixels: int

    def iou(self) -> np.ndarray:
        """Return the IoU (S,) float64 at each threshold; 1 where neither side has a pixel."""
        return _iou(self.hits, self.truth + self.found - self.hits)


@dataclass(frozen=True, eq=False)
class PromptResult:
    """Scores of one data set, 0..1; NaN where there is nothing to average.

    Attributes:
        miou: Mean over prompts of the IoU at `threshold`; 1 where neither ground truth nor prediction has a pixel.
        foreground_iou: FgIoU, pixels of all prompts that are right over those of ground truth or prediction, at
            `threshold`.
        binary_iou: Mean of `foreground_iou` and the same of the background.
        ap: Area under precision and recall of the pixels of all prompts, as a sum of steps over the thresholds.
        best_miou: `miou` at the threshold where it is best, which was chosen by the ground truth.
        best_miou_threshold: That threshold.
        best_foreground_iou: `foreground_iou` where it is best, likewise.
        best_foreground_threshold: That threshold.
        threshold: Scores from here on are foreground.
        prompts: Number of prompts.
        thresholds: (S,) float64.
        precision: (S,) float64 at each threshold, 1 where nothing reaches it.
        recall: (S,) float64 at each threshold.
    """

    miou: float
    foreground_iou: float
    binary_iou: float
    ap: float
    best_miou: float
    best_miou_threshold: float
    best_foreground_iou: float
    best_foreground_threshold: float
    threshold: float
    prompts: int
    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return the numbers without the curves; None for NaN."""
        return plain(self)


class PromptEvaluator(Evaluator[PromptResult]):
    """Counts the pixels of prompts at evenly spaced thresholds, as CLIPSeg (arXiv:2112.10003) does with 51 of them.

    Rules: a score is foreground from its threshold on. Scores are compared with the thresholds as float32, so average
    precision is that of scores rounded down to them. Void pixels count nowhere.
    """

    SUMS: ClassVar[tuple[str, ...]] = ("iou", "hits", "found", "totals")

    def __init__(self, threshold: float = 0.5, steps: int = 101) -> None:
        """Start empty.

        Args:
            threshold: Of the numbers that need one; the nearest of the steps is taken.
            steps: Number of thresholds from 0 to 1.

        Raises:
            InputError: The threshold is not in 0..1, or there are less than two steps.
        """
        if not 0 <= threshold <= 1 or steps < 2:
            raise InputError(f"threshold is {threshold} of {steps} steps; expected 0..1 and at least 2 steps")
        self.thresholds = np.linspace(0, 1, steps)
        self.place = round(threshold * (steps - 1))
        self.reset()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"kind": "prompt", "threshold": float(self.thresholds[self.place]), "steps": len(self.thresholds)}

    def reset(self) -> None:
        """Forget all prompts."""
        self.iou, self.hits, self.found = (np.zeros(len(self.thresholds), np.int64) for _ in range(3))
        self.totals = np.zeros(3, np.int64)  # pixels of the ground truth, pixels, prompts

    def add(self, truth: np.ndarray, scores: np.ndarray, void: np.ndarray | None = None) -> PromptRecord:
        """Measure and count one prompt; see `measure`."""
        record = self.measure(truth, scores, void)
        self.count(record)
        return record

    def measure(self, truth: np.ndarray, scores: np.ndarray, void: np.ndarray | None = None) -> PromptRecord:
        """Compare the scores of one prompt with its mask.

        Args:
            truth: (H, W) bool.
            scores: (H, W) floats in 0..1.
            void: (H, W) bool, pixels that do not count; None for none.

        Raises:
            InputError: Sizes differ, or scores are not in 0..1.
        """
        check_same_shape(truth, scores)
        if void is not None:
            check_same_shape(truth, void)
        values, mask = np.asarray(scores, np.float32).ravel(), np.asarray(truth, bool).ravel()
        if void is not None:
            kept = ~np.asarray(void, bool).ravel()
            values, mask = values[kept], mask[kept]
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"scores reach from {values.min():g} to {values.max():g}; expected 0..1, apply a sigmoid")
        steps, limits = len(self.thresholds), self.thresholds.astype(np.float32)
        places = (values * np.float32(steps - 1)).astype(np.intp)
        places -= limits[places] > values  # the product may be rounded past a threshold, either way
        places += limits[np.minimum(places + 1, steps - 1)] <= values
        np.minimum(places, steps - 1, out=places)
        hits, found = (np.bincount(one, minlength=steps)[::-1].cumsum()[::-1] for one in (places[mask], places))
        return PromptRecord(hits, found, int(mask.sum()), int(mask.size))

    def count(self, record: PromptRecord) -> None:
        """Count a prompt that was measured.

        Raises:
            InputError: It has another number of thresholds.
        """
        if not len(record.hits) == len(record.found) == len(self.thresholds):
            raise InputError(
                f"record has {len(record.hits)} thresholds; expected {len(self.thresholds)}, measure with equal steps"
            )
        self.iou += np.rint(record.iou() * UNIT).astype(np.int64)
        self.hits += record.hits
        self.found += record.found
        self.totals += np.array([record.truth, record.pixels, 1])

    def evaluate(self) -> PromptResult:
        """Return the scores of all prompts so far."""
        truth, pixels, prompts = (int(one) for one in self.totals)
        union = truth + self.found - self.hits
        means = self.iou / UNIT / prompts if prompts else np.full(len(self.iou), np.nan)
        foreground = _iou(self.hits, union) if prompts else means
        background = _iou(pixels - union, pixels - self.hits)
        precision = np.divide(self.hits, self.found, out=np.ones(len(self.hits)), where=self.found > 0)
        recall = self.hits / truth if truth else np.full(len(self.hits), np.nan)
        at = self.place
        best, best_foreground = int(means.argmax()), int(foreground.argmax())
        return PromptResult(
            miou=float(means[at]),
            foreground_iou=float(foreground[at]),
            binary_iou=float(foreground[at] + background[at]) / 2,
            ap=float((-np.diff(recall, append=0) * precision).sum()),
            best_miou=float(means[best]),
            best_miou_threshold=float(self.thresholds[best]),
            best_foreground_iou=float(foreground[best_foreground]),
            best_foreground_threshold=float(self.thresholds[best_foreground]),
            threshold=float(self.thresholds[at]),
            prompts=prompts,
            thresholds=self.thresholds,
            precision=precision,
            recall=recall,
        )


@dataclass(frozen=True, eq=False)
class ReferringRecord(Record):
    """One expression.

    Attributes:
        hits: Pixels in the ground truth and in the prediction.
        union: Pixels in either.
        truth: Pixels of the ground truth.
    """

    hits: int
    union: int
    truth: int

    def iou(self) -> float:
        """Return the IoU; 1 where neither side has a pixel."""
        return self.hits / self.union if self.union else 1.0


@dataclass(frozen=True, eq=False)
class ReferringResult:
    """Scores of one data set, 0..1; NaN where there is nothing to average.

    Attributes:
        overall_iou: oIoU, pixels of all expressions that are right over those of ground truth or prediction; large
            objects count more.
        mean_iou: Mean over expressions of the IoU; 1 where neither ground truth nor prediction has a pixel.
        precision_50: P@0.5, share of expressions with an IoU of at least 0.5.
        precision_60: P@0.6, likewise.
        precision_70: P@0.7, likewise.
        precision_80: P@0.8, likewise.
        precision_90: P@0.9, likewise.
        no_target_accuracy: Share of the expressions without an object for which nothing was predicted.
        expressions: Number of expressions.
        no_target: Number of those without an object.
    """

    overall_iou: float
    mean_iou: float
    precision_50: float
    precision_60: float
    precision_70: float
    precision_80: float
    precision_90: float
    no_target_accuracy: float
    expressions: int
    no_target: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers; None for NaN."""
        return plain(self)


class ReferringEvaluator(Evaluator[ReferringResult]):
    """Counts intersections, unions and IoUs of referring expressions, each with one mask.

    Rules: void pixels count nowhere. Thresholds are compared in integers, so an IoU of exactly one half is a hit.
    """

    SUMS: ClassVar[tuple[str, ...]] = ("totals", "iou", "reached")

    def __init__(self) -> None:
        """Start empty."""
        self.reset()

    def settings(self) -> dict[str, Any]:
        """Return that there are no arguments."""
        return {"kind": "referring"}

    def reset(self) -> None:
        """Forget all expressions."""
        self.totals = np.zeros(5, np.int64)  # hits, union, expressions, without an object, and of these nothing found
        self.iou: Any = np.int64(0)  # in units of 2^-40
        self.reached = np.zeros(5, np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> ReferringRecord:
        """Measure and count one expression; see `measure`."""
        record = self.measure(truth, prediction, void)
        self.count(record)
        return record

    def measure(self, truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> ReferringRecord:
        """Compare the mask of one expression with its ground truth.

        Args:
            truth: (H, W) bool; empty for an expression that fits nothing.
            prediction: (H, W) bool.
            void: (H, W) bool, pixels that do not count; None for none.

        Raises:
            InputError: Sizes differ.
        """
        true, found = np.asarray(truth, bool), np.asarray(prediction, bool)
        check_same_shape(true, found)
        if void is not None:
            check_same_shape(true, void)
            kept = ~np.asarray(void, bool)
            true, found = true & kept, found & kept
        return ReferringRecord(*(int(np.count_nonzero(one)) for one in (true & found, true | found, true)))

    def count(self, record: ReferringRecord) -> None:
        """Count an expression that was measured."""
        empty = record.truth == 0
        self.totals += np.array([record.hits, record.union, 1, empty, empty and record.union == 0])
        self.iou += np.int64(round(record.iou() * UNIT))
        hits, union = (record.hits, record.union) if record.union else (1, 1)
        self.reached += np.array([10 * hits >= tenths * union for tenths in range(5, 10)])

    def evaluate(self) -> ReferringResult:
        """Return the scores of all expressions so far."""
        hits, union, count, empty, right = (int(one) for one in self.totals)
        precision = dict(zip((50, 60, 70, 80, 90), (share(int(n), count) for n in self.reached), strict=True))
        return ReferringResult(
            overall_iou=share(hits, union),
            mean_iou=share(float(self.iou / UNIT), count),
            precision_50=precision[50],
            precision_60=precision[60],
            precision_70=precision[70],
            precision_80=precision[80],
            precision_90=precision[90],
            no_target_accuracy=share(right, empty),
            expressions=count,
            no_target=empty,
        )


def _iou(hits: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Return hits / union as float64; 1 for a union of 0."""
    return np.divide(hits, union, out=np.ones(len(hits)), where=union > 0)
