"""Panoptic quality by the rules of COCO, without a loop over masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovseg.data.dataset import Segments
from ovseg.errors import InputError
from ovseg.evaluation.metrics.common import (
    UNIT,
    check_same_shape,
    class_flags,
    flag_list,
    mean,
    pair_counts,
    plain,
    runs,
    sums,
)
from ovseg.evaluation.metrics.state import Evaluator, Record


@dataclass(frozen=True)
class Quality:
    """Means over a group of classes, 0..1 and NaN without any.

    Attributes:
        pq: Panoptic quality.
        sq: Segmentation quality, mean IoU of matched segments; 0 for a class without.
        rq: Recognition quality, F1 of segments.
        classes: Number of classes averaged: those that occur in ground truth or predictions (COCO's rule).
    """

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True, eq=False)
class PanopticResult:
    """Scores of one data set; 0..1.

    Attributes:
        overall: All classes, as COCO reports PQ.
        things: Things only.
        stuff: Stuff only.
        base: Classes that are not novel; empty without a split.
        novel: Novel classes.
        pq_present: Mean PQ over the classes in the ground truth.
        pq_all: Mean PQ over all classes of the list, those that do not occur 0.
        present: Number of classes in the ground truth.
        total: Number of classes in the list.
        pq: (K,) float64, NaN for classes in neither ground truth nor predictions.
        sq: (K,) float64, likewise.
        rq: (K,) float64, likewise.
        counts: (3, K) int64, true positives, false positives and false negatives.
    """

    overall: Quality
    things: Quality
    stuff: Quality
    base: Quality
    novel: Quality
    pq_present: float
    pq_all: float
    present: int
    total: int
    pq: np.ndarray
    sq: np.ndarray
    rq: np.ndarray
    counts: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return the numbers without the per-class lists: ``pq``, ``pq_things``, ``sq_novel``, ...; None for NaN."""
        numbers: dict[str, Any] = {}
        for name in ("overall", "things", "stuff", "base", "novel"):
            suffix = "" if name == "overall" else f"_{name}"
            numbers |= {f"{key}{suffix}": value for key, value in plain(getattr(self, name)).items()}
        return {**numbers, **plain(self)}


@dataclass(frozen=True, eq=False)
class PanopticRecord(Record):
    """One image: what matched and what did not.

    Attributes:
        matched: (N,) int64, class of each matched pair of segments.
        iou: (N,) int64, its IoU in units of 2^-40.
        wrong: (P,) int64, class of each predicted segment that is a false positive.
        missed: (M,) int64, class of each segment of the ground truth that was not found.
    """

    matched: np.ndarray
    iou: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray

    def table(self, num_classes: int) -> np.ndarray:
        """Return IoUs in units of 2^-40, matches, false positives and misses of each class, (4, K) int64."""
        ones = [(classes, np.ones_like(classes)) for classes in (self.matched, self.wrong, self.missed)]
        return np.stack([sums(*pair, num_classes) for pair in ((self.matched, self.iou), *ones)])

    def pq(self) -> float:
        """Return the mean PQ over the classes of the image or of its predictions; NaN without any. Ranks images."""
        classes = np.concatenate([self.matched, self.wrong, self.missed])
        iou, hits, wrong, missed = self.table(int(classes.max(initial=-1)) + 1)
        seen = hits + wrong + missed > 0
        return mean(iou[seen] / UNIT / (hits + (wrong + missed) / 2)[seen])


class PanopticEvaluator(Evaluator[PanopticResult]):
    """Accumulates matches, misses and IoUs of each class; memory does not grow with the number of images.

    Rules of COCO (panopticapi; arXiv:1801.00868): a pair of one class matches if its IoU, without the prediction's
    pixels on void, is above one half. Crowds match nothing and are not missed. A prediction without a match is no false
    positive if more than half of it lies on void and on crowds of its class (on all of them, where an image has
    several). Pixels of no predicted segment only take away from IoUs. Areas are counted in the map.
    """

    SUMS: ClassVar[tuple[str, ...]] = ("counts", "iou")

    def __init__(
        self, num_classes: int, things: Sequence[bool] | None = None, novel: Sequence[bool] | None = None
    ) -> None:
        """Start empty.

        Args:
            num_classes: K, length of the class list.
            things: For each class whether it is a thing; all are without it.
            novel: For each class whether training has not seen it; without it there is no split.

        Raises:
            InputError: Flags do not fit the number of classes.
        """
        self.num_classes = num_classes
        flags = class_flags(things, num_classes, "things")
        self.things = np.ones(num_classes, bool) if flags is None else flags
        self.novel = class_flags(novel, num_classes, "novel")
        self.reset()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        flags = {"things": flag_list(self.things), "novel": flag_list(self.novel)}
        return {"kind": "panoptic", "num_classes": self.num_classes, **flags}

    def reset(self) -> None:
        """Forget all images."""
        self.counts = np.zeros((3, self.num_classes), np.int64)  # true positives, false positives, false negatives
        self.iou = np.zeros(self.num_classes, np.int64)  # of the true positives, in units of 2^-40

    def add(self, truth: Segments, prediction: Segments) -> PanopticRecord:
        """Measure and count one image; see `measure`."""
        record = self.measure(truth, prediction)
        self.count(record)
        return record

    def count(self, record: PanopticRecord) -> None:
        """Count an image that was measured.

        Raises:
            InputError: It has classes that are not in the list.
        """
        self._check(np.concatenate([record.matched, record.wrong, record.missed]), "record")
        iou, *counts = record.table(self.num_classes)
        self.iou += iou
        self.counts += np.stack(counts)

    def measure(self, truth: Segments, prediction: Segments) -> PanopticRecord:
        """Compare the segments of one image with its ground truth.

        Args:
            truth: Ground truth, from `Dataset.read_segments`.
            prediction: From `ovseg.evaluation.metrics.segments`, or read from files like the truth.

        Raises:
            InputError: Sizes differ, a class is not in the list, or a predicted segment has no pixel.
        """
        check_same_shape(truth.ids, prediction.ids)
        self._check(truth.classes, "ground truth")
        self._check(prediction.classes, "prediction")
        left, right, pixels = pair_counts(*runs(truth.ids, prediction.ids))
        true_area, area = sums(left, pixels, len(truth.classes)), sums(right, pixels, len(prediction.classes))
        if not area.all():
            raise InputError(
                f"predicted segment {int(area.argmin())} has no pixel in the map; expected at least one, drop it"
            )
        on_void = sums(right[left < 0], pixels[left < 0], len(area))
        both = (left >= 0) & (right >= 0)
        left, right, pixels = left[both], right[both], pixels[both]
        alike = truth.classes[left] == prediction.classes[right]
        crowd = truth.crowd[left]
        iou = pixels / (true_area[left] + area[right] - pixels - on_void[right])
        hit = alike & ~crowd & (iou > 0.5)
        missed, wrong = (
            ~truth.crowd,
            on_void + sums(right[alike & crowd], pixels[alike & crowd], len(area)) <= area / 2,
        )
        missed[left[hit]] = False
        wrong[right[hit]] = False
        units = np.rint(iou[hit] * UNIT).astype(np.int64)
        return PanopticRecord(truth.classes[left[hit]], units, prediction.classes[wrong], truth.classes[missed])

    def evaluate(self) -> PanopticResult:
        """Return the scores of all images added so far."""
        hits, wrong, missed = self.counts
        seen, present = hits + wrong + missed > 0, hits + missed > 0
        iou, weight = self.iou / UNIT, hits + (wrong + missed) / 2
        with np.errstate(invalid="ignore"):
            pq, rq = iou / weight, hits / weight
        sq = np.where(seen, iou / np.maximum(hits, 1), np.nan)
        none = np.zeros_like(seen)

        def group(members: np.ndarray) -> Quality:
            chosen = members & seen
            return Quality(mean(pq[chosen]), mean(sq[chosen]), mean(rq[chosen]), int(chosen.sum()))

        return PanopticResult(
            overall=group(seen),
            things=group(self.things),
            stuff=group(~self.things),
            base=group(none if self.novel is None else ~self.novel),
            novel=group(none if self.novel is None else self.novel),
            pq_present=mean(pq[present]),
            pq_all=mean(pq[seen], self.num_classes),
            present=int(present.sum()),
            total=self.num_classes,
            pq=pq,
            sq=sq,
            rq=rq,
            counts=self.counts.copy(),
        )

    def _check(self, classes: np.ndarray, what: str) -> None:
        """Refuse classes that are not in the list."""
        if classes.size and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise InputError(
                f"{what} has segments of classes {classes.min()}..{classes.max()}; expected 0..{self.num_classes - 1}"
            )
