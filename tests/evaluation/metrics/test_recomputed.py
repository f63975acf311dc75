"""mIoU, PQ and AP computed once more from their definitions, slowly and pixel by pixel, on random predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.data.dataset import Segments
from ovseg.evaluation import InstanceEvaluator, InstanceMasks, PanopticEvaluator, SemanticEvaluator

SIZE = (12, 16)
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def blocks(rng: np.random.Generator, low: int, high: int) -> np.ndarray:
    return np.kron(rng.integers(low, high, (3, 4)), np.ones((4, 4), int)).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(rngs, st.integers(1, 5))
def test_miou(rng: np.random.Generator, classes: int) -> None:
    pairs = [(blocks(rng, -1, classes), blocks(rng, -1, classes)) for _ in range(3)]
    evaluator = SemanticEvaluator(classes)
    for truth, guess in pairs:
        evaluator.add(truth, guess)
    truth, guess = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    truth, guess = truth[truth >= 0], guess[truth >= 0]
    ious = [np.sum((truth == c) & (guess == c)) / np.sum((truth == c) | (guess == c)) for c in np.unique(truth)]
    found = evaluator.evaluate()
    assert found.miou_present == pytest.approx(np.mean(ious) if ious else np.nan, abs=1e-12, nan_ok=True)
    assert found.miou_all == pytest.approx(np.sum(ious) / classes if ious else np.nan, abs=1e-12, nan_ok=True)


def segments(ids: np.ndarray, classes: np.ndarray) -> Segments:
    present = np.unique(ids[ids >= 0])
    places = np.append(np.searchsorted(present, np.arange(len(classes))), -1)
    return Segments(places[ids].astype(np.int32), classes[present], np.zeros(len(present), bool))


@settings(max_examples=60, deadline=None)
@given(rngs, st.integers(1, 4))
def test_pq(rng: np.random.Generator, classes: int) -> None:
    evaluator = PanopticEvaluator(classes)
    sums = {c: [0.0, 0, 0, 0] for c in range(classes)}  # IoU of matches, matches, false positives, misses
    for _ in range(3):
        truth = segments(blocks(rng, -1, 4), rng.integers(0, classes, 4))
        moved = np.where(rng.random(SIZE) < 0.1, -1, truth.ids)
        kinds = np.where(rng.random(len(truth.classes)) < 0.7, truth.classes, rng.integers(0, classes))
        guess = segments(moved, kinds)
        evaluator.add(truth, guess)
        matched = set()
        for i, c in enumerate(truth.classes):
            hit = [j for j, d in enumerate(guess.classes) if d == c and iou(truth, i, guess, j) > 0.5]
            sums[c][0] += sum(iou(truth, i, guess, j) for j in hit)
            sums[c][1 if hit else 3] += 1
            matched |= set(hit)
        for j, c in enumerate(guess.classes):
            lost = np.mean(truth.ids[guess.ids == j] < 0) > 0.5  # mostly where there is no ground truth
            sums[c][2] += j not in matched and not lost
    values = [s / (hits + (wrong + missed) / 2) for s, hits, wrong, missed in sums.values() if hits + wrong + missed]
    if values:
        assert evaluator.evaluate().overall.pq == pytest.approx(np.mean(values), abs=1e-12)


def iou(truth: Segments, i: int, guess: Segments, j: int) -> float:
    one, other = truth.ids == i, (guess.ids == j) & (truth.ids >= 0)
    return float(np.sum(one & other) / np.sum(one | other))


@settings(max_examples=40, deadline=None)
@given(rngs, st.integers(1, 3))
def test_ap(rng: np.random.Generator, classes: int) -> None:
    evaluator = InstanceEvaluator(classes)
    images = []
    for image in range(3):
        truth = boxes(rng, 4), rng.integers(0, classes, 4), np.ones(4)
        masks = np.array([np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) for mask in truth[0]])
        kinds = np.where(rng.random(4) < 0.8, truth[1], rng.integers(0, classes, 4))
        guess = masks, kinds, (rng.permutation(4) * 3 + image + 1) / 20  # no ties
        evaluator.add(image, InstanceMasks.from_masks(*truth), InstanceMasks.from_masks(*guess))
        images.append((truth, guess))
    wanted = [average_precision(images, c) for c in range(classes)]
    assert evaluator.evaluate().class_ap == pytest.approx(np.array(wanted), abs=1e-12, nan_ok=True)


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    masks = np.zeros((count, *SIZE), bool)
    for mask in masks:
        top, left = rng.integers(0, 6, 2)
        mask[top : top + rng.integers(3, 7), left : left + rng.integers(3, 9)] = True
    return masks


def average_precision(images: list, kind: int) -> float:
    """COCO's: greedy by score, the interpolated precision at 101 recalls, the mean over ten thresholds."""
    total = sum(int((truth[1] == kind).sum()) for truth, _ in images)
    if not total:
        return float("nan")
    means = []
    for threshold in np.linspace(0.5, 0.95, 10):
        found = []
        for truth, guess in images:
            free = [mask for mask, c in zip(truth[0], truth[1], strict=True) if c == kind]
            own = [(score, mask) for mask, c, score in zip(*guess, strict=True) if c == kind]
            for score, mask in sorted(own, key=lambda pair: -pair[0]):
                ious = [np.sum(mask & one) / np.sum(mask | one) for one in free]
                hit = bool(ious) and max(ious) >= threshold
                found.append((score, hit))
                if hit:
                    free.pop(max(range(len(ious)), key=lambda place: (ious[place], place)))  # of equals the last
        hits = np.cumsum([hit for _, hit in sorted(found, key=lambda pair: -pair[0])])
        precision = hits / np.arange(1, len(hits) + 1)
        at = [max(precision[hits / total >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]
        means.append(np.mean(at))
    return float(np.mean(means))
