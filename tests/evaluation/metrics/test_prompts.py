"""Binary prompts and referring expressions: hand-made cases, plain definitions written out, and properties."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
from ovseg.evaluation import PromptEvaluator, PromptRecord, ReferringEvaluator, ReferringRecord

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
Pair = tuple[np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, steps: int) -> Pair:
    """A mask, now and then empty, and scores on the grid of thresholds."""
    truth = rng.random((5, 6)) < rng.choice([0.0, 0.3, 0.8])
    places = rng.integers(0, steps, (5, 6))
    return truth, np.linspace(0, 1, steps)[np.maximum(places, truth * rng.integers(0, steps, (5, 6)))]


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Steps of recall times precision, from the highest score down; equal scores are one step."""
    total, recall = 0.0, 0.0
    for limit in sorted(set(scores.ravel().tolist()), reverse=True):
        chosen = scores >= limit
        now = truth[chosen].sum() / truth.sum()
        total += (now - recall) * truth[chosen].mean()
        recall = now
    return total


def iou(truth: np.ndarray, found: np.ndarray) -> float:
    return (truth & found).sum() / (truth | found).sum() if (truth | found).any() else 1.0


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([11, 51, 101]))
def test_numbers_are_those_of_the_definitions(rng: np.random.Generator, steps: int) -> None:
    pairs = [draw(rng, steps) for _ in range(4)]
    evaluator = PromptEvaluator(threshold=0.3, steps=steps)
    for truth, scores in pairs:
        evaluator.add(truth, scores)
    result, limit = evaluator.evaluate(), np.linspace(0, 1, steps)[round(0.3 * (steps - 1))]
    assert result.miou == pytest.approx(np.mean([iou(t, s >= limit) for t, s in pairs]), abs=1e-10)
    truth, scores = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert result.foreground_iou == iou(truth, scores >= limit)
    assert result.binary_iou == pytest.approx((iou(truth, scores >= limit) + iou(~truth, scores < limit)) / 2)
    best = [np.mean([iou(t, s >= one) for t, s in pairs]) for one in np.linspace(0, 1, steps)]
    assert result.best_miou == pytest.approx(max(best), abs=1e-10)
    if truth.any():
        assert result.ap == pytest.approx(average_precision(truth, scores))


def test_scores_on_either_side_of_a_threshold() -> None:
    scores = np.array([[0.57, np.nextafter(np.float32(0.57), np.float32(0)), 1.0, 0.0]], np.float32)
    record = PromptEvaluator().measure(np.ones((1, 4), bool), scores)
    assert [int(record.found[i]) for i in (0, 56, 57, 58, 100)] == [4, 3, 2, 1, 1]


def test_void_counts_nowhere_and_empty_prompts_are_right_when_nothing_is_found() -> None:
    evaluator = PromptEvaluator()
    void = np.array([[False, True]])
    evaluator.add(np.array([[True, True]]), np.array([[0.9, 0.1]]), void)
    evaluator.add(np.zeros((1, 2), bool), np.zeros((1, 2)))
    result = evaluator.evaluate()
    assert result.miou == result.foreground_iou == result.ap == result.binary_iou == 1 and result.prompts == 2
    evaluator.add(np.zeros((1, 2), bool), np.ones((1, 2)))
    assert evaluator.evaluate().miou == pytest.approx(2 / 3) and evaluator.evaluate().foreground_iou == 1 / 3


def test_nothing_is_none() -> None:
    for evaluator in (PromptEvaluator(), ReferringEvaluator()):
        numbers = evaluator.evaluate().to_json()
        json.dumps(numbers, allow_nan=False)
        assert numbers.get("miou", numbers.get("mean_iou")) is None


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_order_and_processes_do_not_matter_and_perfect_is_one(rng: np.random.Generator) -> None:
    pairs = [draw(rng, 101) for _ in range(5)]
    for make, kind in ((PromptEvaluator, PromptRecord), (ReferringEvaluator, ReferringRecord)):
        whole, first, second, perfect = (make() for _ in range(4))
        for truth, scores in pairs:
            perfect.add(truth, truth.astype(float))
            record = whole.add(truth, scores if make is PromptEvaluator else scores > 0.5)
            again = kind.from_json(json.loads(json.dumps(record.to_json())))
            (first if rng.random() < 0.5 else second).count(again)
        second.merge(pickle.loads(pickle.dumps(first)))
        for name in whole.SUMS:
            assert np.array_equal(getattr(whole, name), getattr(second, name))
        numbers = perfect.evaluate().to_json()
        assert all(numbers[n] == 1 for n in numbers if "iou" in n and "threshold" not in n and numbers[n] is not None)


def test_referring_by_hand() -> None:
    evaluator = ReferringEvaluator()
    truth = np.array([[True, True, False, False]])
    evaluator.add(truth, np.array([[True, False, False, False]]))  # IoU 1/2: at the threshold
    evaluator.add(truth, np.array([[True, True, True, False]]))  # 2/3
    evaluator.add(~truth & truth, truth)  # no such object, yet one is found
    evaluator.add(~truth & truth, ~truth & truth)
    evaluator.add(truth, truth, void=np.array([[False, True, True, True]]))
    result = evaluator.evaluate()
    assert result.overall_iou == pytest.approx((1 + 2 + 1) / (2 + 3 + 2 + 1))
    assert result.mean_iou == pytest.approx((1 / 2 + 2 / 3 + 0 + 1 + 1) / 5)
    assert (result.precision_50, result.precision_60, result.precision_70) == (0.8, 0.6, 0.4)
    assert (result.no_target_accuracy, result.no_target, result.expressions) == (0.5, 2, 5)


def test_mistakes() -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(InputError, match=r"scores reach from 0 to 7; expected 0\.\.1, apply a sigmoid"):
        PromptEvaluator().add(mask, np.array([[0, 1], [7, 0]]))
    with pytest.raises(InputError, match=r"expected 0\.\.1"):
        PromptEvaluator().add(mask, np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="expected equal sizes"):
        ReferringEvaluator().add(mask, mask[:1])
    with pytest.raises(InputError, match="at least 2 steps"):
        PromptEvaluator(steps=1)
    with pytest.raises(InputError, match="record has 11 thresholds; expected 101"):
        PromptEvaluator().count(PromptEvaluator(steps=11).measure(mask, mask))
    with pytest.raises(InputError, match=r"cannot merge evaluators .*\(steps\)"):
        PromptEvaluator().merge(PromptEvaluator(steps=11))
