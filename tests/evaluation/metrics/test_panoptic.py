"""Panoptic quality: COCO's definition, written out and as kept by others, hand-made cases, and properties."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg.data.dataset import Segments
from ovseg.errors import InputError
from ovseg.evaluation import PanopticEvaluator, from_ids, from_labels

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
from benchmarks.evaluation import PanopticReference, Scene, make_scene


def read(ids: np.ndarray, infos: list[dict]) -> Segments:
    """Read a map of segments and Detectron2's list of them."""
    return from_ids(np.asarray(ids), [info["id"] for info in infos], [info["category_id"] for info in infos])


def segments(ids: list[list[int]], classes: list[int], crowd: list[bool] | None = None) -> Segments:
    flags = np.array(crowd or [False] * len(classes), bool)
    return Segments(np.array(ids, np.int32), np.array(classes, np.int64), flags)


def random_scene(rng: np.random.Generator, classes: int) -> Scene:
    """Blocks, so that many segments match; some void, and at most one crowd of a class."""

    def draw() -> tuple[np.ndarray, list[dict]]:
        ids = np.kron(rng.integers(0, 7, (3, 4)), np.ones((3, 3), int)).astype(np.int32)
        return ids, [{"id": int(i), "category_id": int(rng.integers(classes))} for i in np.unique(ids[ids > 0])]

    truth, infos = draw()
    ids, guesses = draw()
    if rng.random() < 0.7:
        ids, guesses = truth.copy(), [{**i, "category_id": int(rng.integers(classes))} for i in infos]
        ids[rng.random(ids.shape) < 0.3] = rng.choice(np.unique(ids))
        present = set(np.unique(ids).tolist())
        guesses = [info for info in guesses if info["id"] in present]
    crowds: set[int] = set()
    for info in infos:
        info["iscrowd"] = int(rng.random() < 0.3 and info["category_id"] not in crowds)
        info["area"] = int((truth == info["id"]).sum())
        if info["iscrowd"]:
            crowds.add(info["category_id"])
    return Scene(truth, infos, ids, guesses)


def add(evaluator: PanopticEvaluator, scene: Scene) -> None:
    crowd = np.array([bool(info["iscrowd"]) for info in scene.truth_infos], bool)
    truth = dataclasses.replace(read(scene.truth, scene.truth_infos), crowd=crowd)
    evaluator.add(truth, read(scene.ids, scene.infos))


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 4))
def test_numbers_are_those_of_the_definition(rng: np.random.Generator, classes: int) -> None:
    ours, reference = PanopticEvaluator(classes), PanopticReference(classes)
    for _ in range(3):
        scene = random_scene(rng, classes)
        add(ours, scene)
        reference.add(scene)
    assert ours.counts.tolist() == [reference.hits, reference.wrong, reference.missed]
    if ours.counts.any():
        found = ours.evaluate().overall
        assert {key: getattr(found, key) for key in ("pq", "sq", "rq")} == pytest.approx(reference.evaluate(), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_panopticapi(seed: int, tmp_path: Path) -> None:
    api = pytest.importorskip("panopticapi.evaluation", reason="panopticapi-lite is not installed")
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, 4) for _ in range(10)] + [make_scene((60, 80), 4, 12, seed)]
    things = [True, True, False, False]
    ours = PanopticEvaluator(4, things)
    pairs = []
    for number, scene in enumerate(scenes):
        add(ours, scene)
        pair = []
        for side, ids, infos in (("truth", scene.truth, scene.truth_infos), ("found", scene.ids, scene.infos)):
            name = f"{side}{number}.png"
            rgb = np.stack([ids % 256, ids // 256, ids // 65536], -1).astype(np.uint8)
            Image.fromarray(rgb).save(tmp_path / name)
            pair.append({"image_id": number, "file_name": name, "segments_info": [dict(info) for info in infos]})
        pairs.append(tuple(pair))
    categories = {i: {"id": i, "isthing": int(thing)} for i, thing in enumerate(things)}
    stat = api.pq_compute_single_core(0, pairs, str(tmp_path), str(tmp_path), categories)
    result = ours.evaluate()
    for group, flag in ((result.overall, None), (result.things, True), (result.stuff, False)):
        wanted, _ = stat.pq_average(categories, flag)
        assert (group.pq, group.sq, group.rq) == pytest.approx([wanted[k] for k in ("pq", "sq", "rq")], abs=1e-9)
        assert group.classes == wanted["n"]


def test_hand_computed() -> None:
    truth = segments([[0, 0, 0, 1, 1, -1]], [0, 1])
    found = segments([[0, 0, 1, 1, 1, 1]], [0, 1])  # IoUs 2/3 and 2/3: the void pixel does not count
    evaluator = PanopticEvaluator(4, things=[True, False, True, False], novel=[False, True, False, False])
    evaluator.add(truth, found)
    result = evaluator.evaluate()
    assert result.things.pq == result.stuff.pq == result.base.sq == result.novel.sq == pytest.approx(2 / 3)
    assert result.overall.rq == 1 and result.overall.classes == 2
    assert (result.present, result.total) == (2, 4)
    assert result.pq_present == pytest.approx(2 / 3) and result.pq_all == pytest.approx(1 / 3)
    assert np.isnan(result.pq[2:]).all()
    numbers = result.to_json()
    assert (numbers["pq_novel"], numbers["classes_base"]) == (0.666667, 1) and "counts" not in numbers
    json.dumps(numbers, allow_nan=False)


def test_half_is_no_match_and_costs_twice() -> None:
    evaluator = PanopticEvaluator(1)
    evaluator.add(segments([[0, 0]], [0]), segments([[0, -1]], [0]))
    assert evaluator.counts.tolist() == [[0], [1], [1]]
    assert evaluator.evaluate().overall.pq == evaluator.evaluate().overall.sq == 0


def test_what_lies_mostly_on_void_or_on_a_crowd_of_its_class_is_not_wrong() -> None:
    truth = segments([[-1, 0, 0, 1]], [0, 1], crowd=[True, False])
    for classes, wrong in (([0], 0), ([1], 1)):  # 3 of 4 pixels are ignored for class 0, only 1 for class 1
        evaluator = PanopticEvaluator(2)
        evaluator.add(truth, segments([[0, 0, 0, 0]], classes))
        assert evaluator.counts[1].sum() == wrong and evaluator.counts[2].tolist() == [0, 1]


def test_only_a_false_positive_counts_as_seen_but_not_as_present() -> None:
    evaluator = PanopticEvaluator(2)
    evaluator.add(segments([[0, 0, 0]], [0]), segments([[0, 0, 1]], [0, 1]))
    result = evaluator.evaluate()
    assert (result.overall.classes, result.present) == (2, 1)
    assert result.overall.pq == pytest.approx(1 / 3) and result.pq_present == pytest.approx(2 / 3)


def test_nothing_is_nan_and_none() -> None:
    result = PanopticEvaluator(2).evaluate()
    assert np.isnan(result.overall.pq) and result.to_json()["pq"] is None and result.to_json()["pq_all"] == 0


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 4))
def test_order_and_processes_do_not_matter(rng: np.random.Generator, classes: int) -> None:
    scenes = [random_scene(rng, classes) for _ in range(6)]
    whole, first, second = (PanopticEvaluator(classes) for _ in range(3))
    for scene in scenes:
        add(whole, scene)
    for place in rng.permutation(6):
        add(first if place % 2 else second, scenes[place])
    first.merge(pickle.loads(pickle.dumps(second)))
    assert np.array_equal(first.iou, whole.iou)  # to the last bit
    assert first.evaluate().to_json() == whole.evaluate().to_json()


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 4))
def test_perfect_is_one_and_an_absent_class_changes_only_the_mean_over_all(
    rng: np.random.Generator, classes: int
) -> None:
    scene = random_scene(rng, classes)
    if not scene.truth_infos:
        return
    small, large = PanopticEvaluator(classes), PanopticEvaluator(classes + 1)
    perfect = read(scene.truth, scene.truth_infos)
    for evaluator in (small, large):
        evaluator.add(perfect, perfect)
    found = small.evaluate(), large.evaluate()
    assert found[0].overall.pq == found[0].overall.sq == found[0].overall.rq == 1
    assert found[0].overall == found[1].overall and found[0].pq_present == found[1].pq_present == 1
    assert found[1].pq_all == pytest.approx(found[0].pq_all * classes / (classes + 1))


@pytest.mark.parametrize(
    ("truth", "found", "words"),
    [
        (segments([[0]], [0]), segments([[0, 0]], [0]), "expected equal sizes"),
        (segments([[0]], [0]), segments([[0]], [2]), r"prediction has segments of classes 2\.\.2; expected 0\.\.1"),
        (segments([[0]], [-1]), segments([[0]], [0]), "ground truth has segments of classes"),
        (segments([[0]], [0]), segments([[0]], [0, 1]), "predicted segment 1 has no pixel"),
    ],
)
def test_mistakes(truth: Segments, found: Segments, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PanopticEvaluator(2).add(truth, found)


def test_only_equal_evaluators_merge() -> None:
    with pytest.raises(InputError, match="cannot merge evaluators of 2 and 3 classes"):
        PanopticEvaluator(2).merge(PanopticEvaluator(3))


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1), (7, 70000), (70000, 7)])
def test_segments_of_any_numbering_are_read(numbers: tuple[int, int]) -> None:
    ids = [[0, numbers[0], numbers[0]], [numbers[1], 0, numbers[0]]]
    found = from_ids(np.array(ids), numbers, (5, 3))
    assert found.ids.tolist() == [[-1, 0, 0], [1, -1, 0]] and found.ids.dtype == np.int32
    assert found.classes.tolist() == [5, 3]


@pytest.mark.parametrize(
    ("ids", "numbers", "words"),
    [
        ([[1, 2]], [1], "shows segment 2, which its list of segments lacks"),
        ([[0, -1]], [1], "shows segment -1"),
        ([[9]], [], "shows segment 9"),
        ([[1]], [1, 1], r"have the ids \[1, 1\]; expected different ones"),
        ([[1]], [1, 0], "and 0 for void"),
    ],
)
def test_segments_that_do_not_fit_their_list(ids: list[list[int]], numbers: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_ids(np.array(ids), numbers, [0] * len(numbers))


def test_a_label_map_is_one_segment_per_class() -> None:
    found = from_labels(np.array([[4, -1, 2], [2, 2, 4]]))
    assert found.ids.tolist() == [[1, -1, 0], [0, 0, 1]] and found.classes.tolist() == [2, 4]
    assert from_labels(np.full((1, 2), -1)).ids.tolist() == [[-1, -1]]
