"""The semantic evaluator: hand-computed numbers, both denominators, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
from ovseg.evaluation import SemanticEvaluator

VOID = 65535


def score(target: list[list[int]], labels: list[list[int]], classes: int, things: list[bool] | None = None):
    evaluator = SemanticEvaluator(classes, things)
    evaluator.process([{"sem_seg": np.array(target)}], [{"labels": np.array(labels)}])
    return evaluator.evaluate()


def test_hand_computed() -> None:
    # class 0: 2 hits, 3 in truth, 2 predicted: 2/3. Class 1: 1 hit, 2 in truth, 2 predicted: 1/3. Class 2 never occurs.
    result = score([[0, 0, 0, 1], [1, VOID, VOID, VOID]], [[0, 0, 1, 1], [-1, 2, 2, 1]], 3)
    assert result.iou[:2] == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(result.iou[2])
    assert result.miou_present == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert result.miou_all == pytest.approx((2 / 3 + 1 / 3) / 3)
    assert (result.present, result.total) == (2, 3)
    assert result.pixel_accuracy == pytest.approx(3 / 5)


def test_false_positives_of_an_absent_class_lower_only_the_mean_over_all() -> None:
    result = score([[0, 0]], [[0, 1]], 2)
    assert result.iou == pytest.approx([0.5, 0.0])
    assert result.miou_present == pytest.approx(0.5)
    assert result.miou_all == pytest.approx(0.25)


def test_foreground_is_the_mean_over_things() -> None:
    result = score([[0, 0, 1, 1]], [[0, 0, 1, 0]], 2, things=[False, True])
    assert result.foreground_miou == pytest.approx(0.5)


def test_nothing_labelled_is_nan_not_a_crash() -> None:
    result = score([[VOID]], [[0]], 2)
    assert np.isnan(result.miou_present) and np.isnan(result.pixel_accuracy) and result.present == 0


@pytest.mark.parametrize(
    ("target", "labels", "words"),
    [([[0]], [[0, 1]], "expected equal sizes"), ([[0]], [[5]], "expected -1..1"), ([[0]], [[-2]], "expected -1..1")],
)
def test_wrong_predictions_are_errors(target: list[list[int]], labels: list[list[int]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        score(target, labels, 2)


maps = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(maps, st.integers(1, 6))
def test_order_and_splitting_do_not_matter_and_perfect_is_one(rng: np.random.Generator, classes: int) -> None:
    targets = [rng.integers(0, classes, (5, 7)) for _ in range(3)]
    labels = [rng.integers(-1, classes, (5, 7)) for _ in range(3)]
    forward, backward, perfect = (SemanticEvaluator(classes) for _ in range(3))
    for target, label in zip(targets, labels, strict=True):
        forward.add(target, label)
        perfect.add(target, target)
    for target, label in zip(targets[::-1], labels[::-1], strict=True):
        backward.add(target, label)
    assert np.array_equal(forward.confusion, backward.confusion)
    assert perfect.evaluate().miou_present == perfect.evaluate().pixel_accuracy == 1


@settings(max_examples=40, deadline=None)
@given(maps, st.integers(1, 6))
def test_an_absent_class_changes_all_and_not_present(rng: np.random.Generator, classes: int) -> None:
    target, labels = rng.integers(0, classes, (6, 6)), rng.integers(0, classes, (6, 6))
    small, large = SemanticEvaluator(classes), SemanticEvaluator(classes + 1)
    small.add(target, labels)
    large.add(target, labels)
    assert small.evaluate().miou_present == pytest.approx(large.evaluate().miou_present)
    expected = small.evaluate().miou_all * classes / (classes + 1)
    assert large.evaluate().miou_all == pytest.approx(expected)
