"""Semantic segmentation: all numbers from one confusion matrix and the pixels near contours, with stated rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ovseg.errors import InputError
from ovseg.evaluation.metrics.common import (
    check_same_shape,
    class_flags,
    flag_list,
    mean,
    pair_counts,
    plain,
    runs,
    share,
    sums,
)
from ovseg.evaluation.metrics.state import Evaluator, Record

BOUNDARY_RATIO = 0.02
"""Width of the band along contours, as a share of the image's diagonal (Boundary IoU, arXiv:2103.16562)."""


@dataclass(frozen=True, eq=False)
class SemanticResult:
    """Scores of one data set; shares and means are in 0..1, NaN where there is nothing to average.

    The field reports the mean over different denominators under one name (Detectron2 changed its rule in July 2022
    without a new version), so all are here: over the classes that occur in the ground truth (Detectron2 since), over
    those that occur in ground truth or predictions (Detectron2 0.6 and its wheels), and over all classes of the list.
    A class that is absent from the ground truth counts 0 wherever it is in the denominator.

    Attributes:
        iou: (K,) float64, NaN for classes in neither ground truth nor predictions.
        accuracy: (K,) float64, share of a class's pixels that are right; NaN without any.
        boundary_iou: (K,) float64, as `iou` within the bands along contours; NaN if not measured.
        truth_pixels: (K,) int64, pixels of each class in the ground truth.
        predicted_pixels: (K,) int64, pixels predicted as each class, without those on void.
        miou_present: Mean IoU over classes that occur in the ground truth.
        miou_seen: Mean IoU over classes that occur in ground truth or predictions.
        miou_all: Mean IoU over all classes.
        present: Number of classes in the ground truth.
        seen: Number of classes in ground truth or predictions.
        total: Number of classes in the list.
        pixel_accuracy: pACC, share of labelled pixels that are right; "no class" is wrong.
        mean_accuracy: mACC, mean of `accuracy` over present classes.
        frequency_weighted_iou: fwIoU, mean IoU weighted by the share of pixels in the ground truth.
        boundary_miou: Mean of `boundary_iou` over present classes.
        foreground_miou: Mean IoU over present things.
        base_miou: Mean IoU over present classes that are not novel.
        novel_miou: Mean IoU over present novel classes.
        base_present: Number of present classes that are not novel; 0 without a split.
        novel_present: Number of present novel classes.
        void_share: Share of all pixels that have no ground truth, and count nowhere.
        no_class_share: Share of labelled pixels that were predicted as no class.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    boundary_iou: np.ndarray
    truth_pixels: np.ndarray
    predicted_pixels: np.ndarray
    miou_present: float
    miou_seen: float
    miou_all: float
    present: int
    seen: int
    total: int
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    boundary_miou: float
    foreground_miou: float
    base_miou: float
    novel_miou: float
    base_present: int
    novel_present: int
    void_share: float
    no_class_share: float

    def to_json(self) -> dict[str, Any]:
        """Return the numbers without the per-class lists; None for NaN."""
        return plain(self)


@dataclass(frozen=True, eq=False)
class SemanticRecord(Record):
    """One image: its confusion matrix without the zeros.

    Attributes:
        truth: (N,) int64, class in the ground truth of each pair that occurs.
        guess: (N,) int64, predicted class of the pair; -1 for no class.
        pixels: (N,) int64, how many pixels the pair has.
        void: Pixels without ground truth.
        bands: (4, M) int64 for Boundary IoU: classes, and their hits, ground truth and predictions near contours; M is
            0 where it is not measured.
    """

    truth: np.ndarray
    guess: np.ndarray
    pixels: np.ndarray
    void: int
    bands: np.ndarray

    def table(self, num_classes: int) -> np.ndarray:
        """Return hits, ground truth and predictions of each class, (3, K) int64 pixels; unions are row 1 + 2 - 0."""
        hit = self.truth == self.guess
        rows = ((self.truth[hit], self.pixels[hit]), (self.truth, self.pixels), (self.guess, self.pixels))
        return np.stack([sums(classes, pixels, num_classes) for classes, pixels in rows])

    def miou(self) -> float:
        """Return the mean IoU over the classes that the image shows; NaN if all is void. Ranks images."""
        known, place = np.unique(np.concatenate([self.truth, self.guess]), return_inverse=True)
        truth, guess = np.split(place, 2)  # "no class" becomes a class, which the ground truth does not show
        hits, true, predicted = SemanticRecord(truth, guess, self.pixels, 0, self.bands).table(len(known))
        return mean(_iou(hits, true, predicted)[true > 0])


class SemanticEvaluator(Evaluator[SemanticResult]):
    """Accumulates a (K, K + 1) confusion matrix; memory does not grow with the number of images.

    Rules: ground truth outside 0..K-1 is void and counts nowhere, whatever was predicted there. Predictions of no class
    (-1) are an extra column: they miss their ground-truth class and are nobody's false positive. For Boundary IoU a
    pixel counts if within `BOUNDARY_RATIO` of the diagonal (a square window, as erosion by 3 x 3) there is another
    label or the end of the image; void and no class are labels with contours of their own.
    """

    SUMS: ClassVar[tuple[str, ...]] = ("confusion", "bands", "void_pixels")

    def __init__(
        self,
        num_classes: int,
        things: Sequence[bool] | None = None,
        novel: Sequence[bool] | None = None,
        boundary: bool = False,
    ) -> None:
        """Start empty.

        Args:
            num_classes: K, length of the class list.
            things: For each class whether it is a thing; all are without it.
            novel: For each class whether training has not seen it; without it there is no split.
            boundary: Whether to measure Boundary IoU, which takes several times as long as the rest.

        Raises:
            InputError: Flags do not fit the number of classes.
        """
        self.num_classes = num_classes
        flags = class_flags(things, num_classes, "things")
        self.things = np.ones(num_classes, bool) if flags is None else flags
        self.novel = class_flags(novel, num_classes, "novel")
        self.boundary = boundary
        self.reset()

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        flags = {"things": flag_list(self.things), "novel": flag_list(self.novel)}
        return {"kind": "semantic", "num_classes": self.num_classes, **flags, "boundary": self.boundary}

    def reset(self) -> None:
        """Forget all images."""
        self.confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        self.bands = np.zeros((3, self.num_classes), np.int64)  # near contours: hits, ground truth, predictions
        self.void_pixels: Any = np.int64(0)

    def add(self, target: np.ndarray, labels: np.ndarray) -> SemanticRecord:
        """Measure and count one image; see `measure`."""
        record = self.measure(target, labels)
        self.count(record)
        return record

    def count(self, record: SemanticRecord) -> None:
        """Count an image that was measured.

        Raises:
            InputError: It has classes that are not in the list.
        """
        classes = np.concatenate([record.truth, record.bands[0], record.guess])
        if classes.size and not (classes.min() >= -1 and classes.max() < self.num_classes):
            raise InputError(
                f"record has classes {classes.min()}..{classes.max()}; expected 0..{self.num_classes - 1}, mend it"
            )
        self.confusion[record.truth, record.guess] += record.pixels  # each pair is there once; -1 is the last column
        self.bands[:, record.bands[0]] += record.bands[1:]
        self.void_pixels += record.void

    def measure(self, target: np.ndarray, labels: np.ndarray) -> SemanticRecord:
        """Compare the labels of one image with its ground truth.

        Args:
            target: (H, W) integer ground truth; outside 0..K-1 void.
            labels: (H, W) integer predictions; -1 for no class.

        Raises:
            InputError: Sizes differ, a prediction is no class of the list, or a dtype cannot hold all classes.
        """
        target, labels = np.asarray(target), np.asarray(labels)
        check_same_shape(target, labels)
        for what, array in (("ground truth", target), ("prediction", labels)):
            if array.dtype.kind not in "iu" or np.iinfo(array.dtype).max < self.num_classes - 1:
                raise InputError(
                    f"{what} is {array.dtype}, which cannot hold {self.num_classes} classes; expected wider integers "
                    "(int32 in memory, 16-bit PNG in files)"
                )
        truth, guess, lengths = runs(target, labels)
        if guess.size and not (guess.min() >= -1 and guess.max() < self.num_classes):
            raise InputError(
                f"prediction has labels {guess.min()}..{guess.max()}; expected -1..{self.num_classes - 1} (class ids)"
            )
        valid = self._valid(truth)
        truth, guess, lengths = (a[valid] for a in (truth, guess, lengths))
        first, second, pixels = pair_counts(truth, guess, lengths)
        bands = self._measure_bands(target, labels) if self.boundary else np.zeros((4, 0), np.int64)
        return SemanticRecord(first, second, pixels, int(target.size - lengths.sum()), bands)

    def evaluate(self) -> SemanticResult:
        """Return the scores of all images added so far."""
        hits = np.diag(self.confusion)
        truth, predicted = self.confusion.sum(1), self.confusion[:, :-1].sum(0)
        labelled, present, seen = int(truth.sum()), truth > 0, (truth > 0) | (predicted > 0)
        iou, accuracy, boundary_iou = _iou(hits, truth, predicted), _divide(hits, truth), _iou(*self.bands)
        novel = np.zeros_like(present) if self.novel is None else self.novel
        base = np.zeros_like(present) if self.novel is None else ~self.novel
        over = iou[present]
        return SemanticResult(
            iou=iou,
            accuracy=accuracy,
            boundary_iou=boundary_iou,
            truth_pixels=truth,
            predicted_pixels=predicted,
            miou_present=mean(over),
            miou_seen=mean(over, int(seen.sum())),
            miou_all=mean(over, self.num_classes),
            present=int(present.sum()),
            seen=int(seen.sum()),
            total=self.num_classes,
            pixel_accuracy=share(hits.sum(), labelled),
            mean_accuracy=mean(accuracy[present]),
            frequency_weighted_iou=share((truth[present] * over).sum(), labelled),
            boundary_miou=mean(boundary_iou[present]),
            foreground_miou=mean(iou[present & self.things]),
            base_miou=mean(iou[present & base]),
            novel_miou=mean(iou[present & novel]),
            base_present=int((present & base).sum()),
            novel_present=int((present & novel).sum()),
            void_share=share(self.void_pixels, self.void_pixels + labelled),
            no_class_share=share(self.confusion[:, -1].sum(), labelled),
        )

    def _valid(self, target: np.ndarray) -> np.ndarray:
        """Whether each value of the ground truth is a class."""
        return (target >= 0) & (target < self.num_classes)

    def _measure_bands(self, target: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Count the pixels of each class that lie near its contours; see `SemanticRecord.bands`."""
        valid = self._valid(target)
        width = max(1, round(BOUNDARY_RATIO * float(np.hypot(*target.shape))))
        near_truth = valid & contour_band(np.where(valid, target, np.int32(self.num_classes)), width)
        near_guess = valid & contour_band(labels, width)
        truth, guess, lengths = runs(
            np.where(near_truth, target, np.int32(-1)), np.where(near_guess, labels, np.int32(-1))
        )
        hit = truth == guess
        pairs = ((truth[hit], lengths[hit]), (truth, lengths), (guess, lengths))
        table = np.stack([sums(classes, pixels, self.num_classes) for classes, pixels in pairs])
        classes = np.flatnonzero(table.any(0))
        return np.concatenate([classes[None], table[:, classes]])


def contour_band(labels: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels (H, W) bool whose square window of 2 width + 1 holds another label or leaves the map.

    A window holds another label just where two neighbours in it differ, and those are counted in windows of any width
    at one price.

    Args:
        labels: (H, W) integers.
        width: Of the band, in pixels.
    """
    import cv2

    band = np.zeros(labels.shape, bool)
    if labels.size == 0:
        return band
    window = 2 * width + 1
    below, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    for differ, size in ((below, (window, window - 1)), (right, (window - 1, window))):
        pairs = np.zeros(labels.shape, np.uint8)
        pairs[: differ.shape[0], : differ.shape[1]] = differ
        anchor = (width, width)
        counts: Any = cv2.boxFilter(pairs, cv2.CV_32S, size, None, anchor, False, cv2.BORDER_CONSTANT)
        band |= counts > 0
    for edge in (band[:width], band[-width:], band[:, :width], band[:, -width:]):
        edge[:] = True
    return band


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole as float64; NaN for a whole of 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _iou(hits: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return _divide(hits, truth + predicted - hits)
