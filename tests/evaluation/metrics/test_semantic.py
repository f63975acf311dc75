"""The semantic evaluator: hand-computed numbers, all denominators, Detectron2's numbers, and properties."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import InputError
from ovseg.evaluation import SemanticEvaluator, SemanticResult
from ovseg.evaluation.metrics import common
from ovseg.evaluation.metrics.semantic import contour_band

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
from benchmarks.evaluation import Labels, detectron2_evaluator, detectron2_numbers, make_scene

VOID = 65535


def score(
    target: list[list[int]], labels: list[list[int]], classes: int, things: list[bool] | None = None
) -> SemanticResult:
    evaluator = SemanticEvaluator(classes, things)
    evaluator.add(np.array(target), np.array(labels))
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


def test_the_split_into_base_and_novel_and_the_other_means() -> None:
    evaluator = SemanticEvaluator(4, novel=[False, False, True, True])
    evaluator.add(np.array([[0, 0, 1, 2, VOID]]), np.array([[0, 1, 1, -1, 3]], np.int32))
    result = evaluator.evaluate()
    assert (result.base_miou, result.novel_miou) == (0.5, 0)  # IoUs 1/2, 1/2 and 0; class 3 is absent
    assert (result.base_present, result.novel_present, result.present, result.seen) == (2, 1, 3, 3)
    assert result.mean_accuracy == pytest.approx((0.5 + 1 + 0) / 3)
    assert result.frequency_weighted_iou == pytest.approx((2 * 0.5 + 0.5 + 0) / 4)
    assert (result.void_share, result.no_class_share) == (0.2, 0.25)
    assert result.truth_pixels.tolist() == [2, 1, 1, 0] and result.predicted_pixels.tolist() == [1, 2, 0, 0]


def test_json_is_json_and_has_no_lists() -> None:
    numbers = score([[0]], [[0]], 1).to_json()
    assert numbers["miou_present"] == 1 and numbers["base_miou"] is None and "iou" not in numbers
    json.dumps(numbers, allow_nan=False)


@pytest.mark.parametrize("dtypes", [(np.uint8, np.int32), (np.uint16, np.uint8), (float, np.int32)])
def test_labels_never_pass_through_eight_bits(dtypes: tuple[type, type]) -> None:
    with pytest.raises(InputError, match="cannot hold 300 classes; expected wider integers"):
        SemanticEvaluator(300).add(np.zeros((2, 2), dtypes[0]), np.zeros((2, 2), dtypes[1]))


def test_high_labels_of_many_classes_count() -> None:
    evaluator = SemanticEvaluator(1000)
    evaluator.add(np.array([[999, 998]], np.uint16), np.array([[999, 998 - 256]], np.int16))
    result = evaluator.evaluate()
    assert (result.iou[999], result.iou[998], result.iou[742]) == (1, 0, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", [3, 300])
def test_numbers_are_those_of_detectron2_by_both_of_its_rules(classes: int) -> None:
    truth, labels = make_scene((120, 160), classes, 20, seed=classes).labels()
    theirs, ours = detectron2_evaluator(truth, classes), SemanticEvaluator(classes)
    theirs.process([{"file_name": "image"}], [{"sem_seg": Labels(labels)}])
    ours.add(truth, labels)
    numbers = detectron2_numbers(theirs)
    assert {key: getattr(ours.evaluate(), key) for key in numbers} == pytest.approx(numbers, abs=1e-12)


def band_by_erosion(mask: np.ndarray, width: int) -> np.ndarray:
    """The definition's: what erosion with 3 x 3, again and again, takes from a mask (H, W) in a frame of zeros."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask & (cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1] == 0)


@pytest.mark.parametrize("high", [0, 70000])
def test_the_band_is_what_erosion_takes_of_each_class(high: int) -> None:
    labels = make_scene((90, 110), 5, 9, seed=1).labels()[1]
    labels[labels == 4] = high - 1
    for width in (1, 4, 60):
        expected = np.any([band_by_erosion(labels == label, width) for label in np.unique(labels)], 0)
        assert np.array_equal(contour_band(labels, width), expected)


def test_boundary_iou_is_the_definition_class_by_class() -> None:
    truth, labels = make_scene((150, 200), 4, 12, seed=2).labels()
    labels[:9, :9] = -1
    evaluator = SemanticEvaluator(4, boundary=True)
    evaluator.add(truth, labels)
    for label, found in enumerate(evaluator.evaluate().boundary_iou):
        near = band_by_erosion(truth == label, 5)  # 2 % of a diagonal of 250
        guess = band_by_erosion(labels == label, 5) & (truth < 4)
        assert found == pytest.approx((near & guess).sum() / (near | guess).sum())


def test_only_equal_evaluators_merge() -> None:
    with pytest.raises(InputError, match="cannot merge evaluators of 2 and 3 classes"):
        SemanticEvaluator(2).merge(SemanticEvaluator(3))
    with pytest.raises(InputError, match="of different flags"):
        SemanticEvaluator(2).merge(SemanticEvaluator(2, novel=[True, False]))
    with pytest.raises(InputError, match="novel has 1 flags; expected one for each of the 2 classes"):
        SemanticEvaluator(2, novel=[True])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0, 2**22]))
def test_pairs_are_counted_alike_by_tables_and_by_sorting(seed: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    first, second, weights = rng.integers(-1, 9, 30), rng.integers(-1, 900, 30) // 300 * 400, rng.integers(1, 9, 30)
    found: dict[tuple[int, int], int] = {}
    for a, b, weight in zip(first.tolist(), second.tolist(), weights.tolist(), strict=True):
        found[a, b] = found.get((a, b), 0) + weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "_MOST_CELLS", cells)
        rows = [column.tolist() for column in common.pair_counts(first, second, weights)]
    assert dict(zip(zip(*rows[:2], strict=True), rows[2], strict=True)) == found
    assert list(zip(*rows[:2], strict=True)) == sorted(found)


maps = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(maps, st.integers(1, 6))
def test_order_and_processes_do_not_matter_and_perfect_is_one(rng: np.random.Generator, classes: int) -> None:
    pairs = [(rng.integers(0, classes + 1, (5, 7)), rng.integers(-1, classes, (5, 7))) for _ in range(4)]
    pairs.append((np.zeros((5, 7), int), np.zeros((5, 7), int)))
    whole, first, second, perfect = (SemanticEvaluator(classes, boundary=True) for _ in range(4))
    for target, label in pairs:
        whole.add(target, label)
        perfect.add(target, np.where(target < classes, target, -1))
    for place in rng.permutation(5):
        (first if place % 2 else second).add(*pairs[place])
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.evaluate().to_json() == whole.evaluate().to_json()
    assert np.array_equal(first.confusion, whole.confusion) and np.array_equal(first.bands, whole.bands)
    result = perfect.evaluate()
    assert result.miou_present == result.pixel_accuracy == result.mean_accuracy == 1
    assert result.frequency_weighted_iou == result.boundary_miou == 1


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
    assert small.evaluate().miou_seen == pytest.approx(large.evaluate().miou_seen)
