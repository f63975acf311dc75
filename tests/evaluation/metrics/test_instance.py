"""Instances: pycocotools' own summary of the same objects, hand-made cases, and properties."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovseg.data.dataset import Segments
from ovseg.errors import EnvironmentProblem, InputError
from ovseg.evaluation import InstanceEvaluator, InstanceMasks

SIZE = (120, 130)
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # masks, classes, scores
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def draw(rng: np.random.Generator, classes: int, count: int) -> Drawn:
    """Ellipses of all sizes."""
    rows, columns = np.indices(SIZE)
    masks = []
    for _ in range(count):
        (y, x), (a, b) = rng.uniform(0, SIZE), rng.uniform(4, 70, 2)
        masks.append(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1)
    scores = rng.integers(1, 9, count) / 10  # with ties
    return np.array(masks, bool).reshape(-1, *SIZE), rng.integers(0, classes, count), scores


def guess(rng: np.random.Generator, truth: Drawn, classes: int) -> Drawn:
    """The truth a few pixels off, some classes wrong, and objects that are not there."""
    masks, ids, _ = truth
    moved = np.array([np.roll(m, rng.integers(-4, 5, 2), (0, 1)) for m in masks], bool).reshape(-1, *SIZE)
    kept = rng.random(len(ids)) < 0.9
    extra = draw(rng, classes, 2)
    ids = np.where(rng.random(len(ids)) < 0.2, rng.integers(0, classes, len(ids)), ids)
    scores = rng.integers(1, 9, kept.sum() + 2) / 10
    return np.concatenate([moved[kept], extra[0]]), np.concatenate([ids[kept], extra[1]]), scores


def encode(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def annotations(truth: Drawn, crowd: int = 0) -> list[dict[str, Any]]:
    """COCO's dicts of one image; its last objects are crowds."""
    masks, classes, _ = truth
    return [
        {"segmentation": encode(m), "category_id": int(c), "iscrowd": int(i >= len(masks) - crowd)}
        for i, (m, c) in enumerate(zip(masks, classes, strict=True))
    ]


def from_drawn(truth: Drawn, crowd: int = 0) -> InstanceMasks:
    return InstanceMasks.from_annotations(annotations(truth, crowd), SIZE, truth[1])


def summary(images: list[tuple[Drawn, Drawn]], classes: int, crowd: int, boxes: bool, agnostic: bool) -> np.ndarray:
    """The twelve numbers of pycocotools, by its documented way through files."""
    gt, results = [], []
    for number, (truth, found) in enumerate(images):
        for one in annotations(truth, crowd):
            rle = one["segmentation"]
            sizes = {"bbox": coco_mask.toBbox(rle).tolist(), "area": float(coco_mask.area(rle))}
            gt.append({**one, "id": len(gt) + 1, "image_id": number, **sizes})
        for mask, c, score in zip(*found, strict=True):
            rle = encode(mask)
            one = {"image_id": number, "category_id": int(c), "score": float(score)}
            results.append({**one, **({"bbox": coco_mask.toBbox(rle).tolist()} if boxes else {"segmentation": rle})})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(images))],
        "annotations": gt,
        "categories": [{"id": i} for i in range(classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), "bbox" if boxes else "segm")
        run.params.useCats = int(not agnostic)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("crowd", [0, 1])
def test_numbers_are_those_of_pycocotools(boxes: bool, agnostic: bool, crowd: int) -> None:
    rng = np.random.default_rng(crowd)
    truths = [draw(rng, 4, 5) for _ in range(6)]
    images = [(truth, guess(rng, truth, 4)) for truth in truths]
    evaluator = InstanceEvaluator(4)
    for number, (truth, found) in enumerate(images):
        evaluator.add(number, from_drawn(truth, crowd), InstanceMasks.from_masks(*found))
    result = evaluator.evaluate(boxes=boxes, class_agnostic=agnostic)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
    wanted = summary(images, 4, crowd, boxes, agnostic)
    assert [np.nan_to_num(getattr(result, name), nan=-1) for name in names] == pytest.approx(wanted[:9].tolist())
    assert 0.05 < result.ap < 0.9
    assert np.isnan(result.class_ap).all() == agnostic


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_the_faster_library_gives_the_same_numbers(boxes: bool, agnostic: bool) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    rng, evaluator = np.random.default_rng(3), InstanceEvaluator(4, novel=[True, False, True, False])
    for number in range(8):
        truth = draw(rng, 3, 5)
        evaluator.add(number, from_drawn(truth, number % 2), InstanceMasks.from_masks(*guess(rng, truth, 4)))
    slow, fast = (evaluator.evaluate(boxes, agnostic, fast) for fast in (False, True))
    assert fast.to_json() == slow.to_json() and 0.05 < fast.ap < 0.9
    assert fast.class_ap == pytest.approx(slow.class_ap, abs=1e-12, nan_ok=True)


def test_without_the_faster_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(EnvironmentProblem, match="faster-coco-eval is not installed; install it"):
        InstanceEvaluator(1).evaluate(fast=True)


def test_base_novel_present_and_all() -> None:
    rng = np.random.default_rng(0)
    masks, _, _ = draw(rng, 1, 2)
    evaluator = InstanceEvaluator(4, novel=[False, True, True, False])
    truth = from_drawn((masks, np.array([0, 1]), np.ones(2)))
    evaluator.add("a", truth, InstanceMasks.from_masks(masks[:1], [0], [0.5]))
    result = evaluator.evaluate()
    assert result.ap == pytest.approx(0.5) and result.ap_all == pytest.approx(0.25)
    assert result.ap_base == pytest.approx(1) and result.ap_novel == 0
    assert (result.present, result.total) == (2, 4)
    assert np.isnan(result.class_ap).tolist() == [False, False, True, True]
    agnostic = evaluator.evaluate(class_agnostic=True)
    assert agnostic.ar_100 == 0.5 and np.isnan(agnostic.ap_novel)
    json.dumps(agnostic.to_json(), allow_nan=False)


def test_nothing_found_is_zero_and_nothing_at_all_is_none() -> None:
    truth = from_drawn(draw(np.random.default_rng(1), 2, 2))
    nothing = InstanceMasks.from_masks(torch.zeros(0, *SIZE, dtype=torch.bool), torch.zeros(0), torch.zeros(0))
    evaluator = InstanceEvaluator(2)
    assert evaluator.evaluate().to_json()["ap"] is None
    evaluator.add(1, truth, nothing)
    assert evaluator.evaluate().ap == evaluator.evaluate().ar_100 == 0
    evaluator.reset()
    evaluator.add(1, nothing, nothing)
    assert evaluator.evaluate().present == 0 and np.isnan(evaluator.evaluate().ap)


def test_things_of_a_panoptic_truth_and_outlines_of_all_kinds_are_read() -> None:
    ids = np.array([[0, 0, 1], [2, 2, -1]], np.int32)
    segments = Segments(ids, np.array([1, 0, 1]), np.array([False, False, True]))
    found = InstanceMasks.from_segments(segments, np.array([False, True]))
    assert found.classes.tolist() == [1, 1] and found.crowd.tolist() == [False, True] and found.areas.tolist() == [2, 2]
    assert np.array_equal(coco_mask.decode(found.rles[1]), ids == 2)
    square = [[0, 0, 2, 0, 2, 1, 0, 1]]
    listed = {"size": [2, 3], "counts": [0, 1, 1, 1, 3]}  # down the columns
    found = InstanceMasks.from_annotations(
        [{"segmentation": square, "area": 7}, {"segmentation": listed}], (2, 3), [0, 0]
    )
    assert found.areas.tolist() == [7, 2]
    assert all(np.array_equal(coco_mask.decode(rle), [[1, 1, 0], [0, 0, 0]]) for rle in found.rles)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_order_and_processes_do_not_matter(rng: np.random.Generator) -> None:
    images = []
    for _ in range(5):
        truth = draw(rng, 3, 3)
        images.append((from_drawn(truth), InstanceMasks.from_masks(*guess(rng, truth, 3))))
    whole, first, second = (InstanceEvaluator(3) for _ in range(3))
    for number, pair in enumerate(images):
        whole.add(number, *pair)
    for number in rng.permutation(5).tolist():
        (first if number % 2 else second).add(number, *images[number])
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.evaluate().to_json() == whole.evaluate().to_json()


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_perfect_is_one_and_an_absent_class_changes_only_the_mean_over_all(rng: np.random.Generator) -> None:
    truth = draw(rng, 3, 4)
    small, large = InstanceEvaluator(3), InstanceEvaluator(4)
    for evaluator in (small, large):
        evaluator.add(0, from_drawn(truth), InstanceMasks.from_masks(*truth))
    if truth[0].any((1, 2)).all():  # an object that lies outside has no mask to find
        assert small.evaluate().ap == pytest.approx(1) and small.evaluate().ar_100 == 1
    assert small.evaluate().ap == large.evaluate().ap
    assert large.evaluate().ap_all == pytest.approx(small.evaluate().ap_all * 3 / 4)


def test_mistakes() -> None:
    drawn = draw(np.random.default_rng(0), 2, 2)
    truth, found = from_drawn(drawn), InstanceMasks.from_masks(*drawn)
    evaluator, other = InstanceEvaluator(2), InstanceEvaluator(2)
    evaluator.add("a", truth, found)
    other.add("a", truth, found)
    with pytest.raises(InputError, match="image 'a' was added twice"):
        evaluator.add("a", truth, found)
    with pytest.raises(InputError, match="image 'a' is in both evaluators"):
        evaluator.merge(other)
    with pytest.raises(InputError, match="cannot merge evaluators of 2 and 5 classes"):
        evaluator.merge(InstanceEvaluator(5))
    with pytest.raises(InputError, match=r"has classes 0\.\.1; expected 0\.\.0"):
        InstanceEvaluator(1).add("b", truth, InstanceMasks.from_masks(drawn[0], [1, 0], [1, 1]))
    with pytest.raises(InputError, match="scores that are not finite"):
        evaluator.add("b", truth, InstanceMasks.from_masks(drawn[0], [1, 0], [1, np.nan]))
    with pytest.raises(InputError, match=r"predicted masks of image 'b' are \(2, 2\) but ground truth"):
        evaluator.add("b", truth, InstanceMasks.from_masks(np.ones((1, 2, 2), bool), [0], [1]))
    with pytest.raises(InputError, match="with one class and score each"):
        InstanceMasks.from_masks(drawn[0], [1], [1, 1])
