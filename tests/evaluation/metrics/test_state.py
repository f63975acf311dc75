"""What all evaluators share: records and states that go through files to the bit, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.data.dataset import Segments
from ovseg.errors import InputError
from ovseg.evaluation import (
    InstanceEvaluator,
    InstanceMasks,
    InstanceRecord,
    PanopticEvaluator,
    PanopticRecord,
    PromptEvaluator,
    PromptRecord,
    ReferringEvaluator,
    ReferringRecord,
    SemanticEvaluator,
    SemanticRecord,
    from_labels,
    load_states,
    save_states,
)

CLASSES = 5
RECORDS = {
    "semantic": SemanticRecord,
    "panoptic": PanopticRecord,
    "instance": InstanceRecord,
    "prompt": PromptRecord,
    "referring": ReferringRecord,
}
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def evaluators() -> dict[str, Any]:
    flags = [True, False, True, False, False]
    return {
        "semantic": SemanticEvaluator(CLASSES, flags, flags, boundary=True),
        "panoptic": PanopticEvaluator(CLASSES, flags, flags),
        "instance": InstanceEvaluator(CLASSES, flags),
        "prompt": PromptEvaluator(),
        "referring": ReferringEvaluator(),
    }


def add(all_of_them: dict[str, Any], rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Let all evaluators see an image; returns its records."""
    truth = np.kron(rng.integers(-1, CLASSES, (3, 3)), np.ones((4, 4), int)).astype(np.int32)
    labels = np.where(rng.random(truth.shape) < 0.2, rng.integers(-1, CLASSES), truth).astype(np.int32)

    def objects(segments: Segments) -> InstanceMasks:
        masks = np.array([segments.ids == i for i in range(len(segments.classes))]).reshape(-1, *truth.shape)
        return InstanceMasks.from_masks(masks, segments.classes, rng.random(len(masks)))

    return {
        "semantic": all_of_them["semantic"].add(truth, labels),
        "panoptic": all_of_them["panoptic"].add(from_labels(truth), from_labels(labels)),
        "instance": all_of_them["instance"].add(
            f"{number}.jpg", objects(from_labels(truth)), objects(from_labels(labels))
        ),
        "prompt": all_of_them["prompt"].add(truth == 0, rng.random(truth.shape)),
        "referring": all_of_them["referring"].add(truth == 0, labels == 0),
    }


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    states = [{name: one.state() for name, one in side.items()} for side in (first, second)]
    same = all(np.array_equal(states[0][n][key], states[1][n][key]) for n in first for key in states[0][n])
    return same and all(first[n].evaluate().to_json() == second[n].evaluate().to_json() for n in first)


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(0, 4))
def test_a_killed_evaluation_goes_on_to_the_bit(rng: np.random.Generator, done: int) -> None:
    images = [int(n) for n in rng.integers(0, 2**32, 4)]
    whole, killed, resumed, replayed = (evaluators() for _ in range(4))
    log = []
    for number, seed in enumerate(images):
        records = add(whole, np.random.default_rng(seed), number)
        log.append(json.dumps({name: record.to_json() for name, record in records.items()}))
    for number, seed in enumerate(images[:done]):
        add(killed, np.random.default_rng(seed), number)
    for name, one in resumed.items():
        one.restore({key: value.copy() for key, value in killed[name].state().items()})
    for number, seed in list(enumerate(images))[done:]:
        add(resumed, np.random.default_rng(seed), number)
    for line in log:
        for name, values in json.loads(line).items():
            replayed[name].count(RECORDS[name].from_json(values))
    assert equal(whole, resumed) and equal(whole, replayed)


def test_states_go_through_a_file(tmp_path: Path) -> None:
    first, second = evaluators(), evaluators()
    rng = np.random.default_rng(0)
    for number in range(3):
        add(first, rng, number)
    save_states(tmp_path / "state.npz", first, note="three")
    add(second, rng, 9)  # is forgotten
    assert load_states(tmp_path / "state.npz", second) == "three"
    assert equal(first, second) and (tmp_path / "state.npz").stat().st_size < 10_000
    add(second, rng, 9)
    assert not equal(first, second)


def test_a_state_is_a_copy() -> None:
    one = evaluators()
    state = one["semantic"].state()
    add(one, np.random.default_rng(0), 0)
    assert state["confusion"].sum() == 0 and one["semantic"].confusion.sum() > 0


def test_states_of_others_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save_states(path, {"semantic": SemanticEvaluator(3)})
    mine = SemanticEvaluator(4)
    mine.add(np.zeros((2, 2), int), np.zeros((2, 2), int))
    with pytest.raises(InputError, match=r"counts evaluators of 4 and 3 classes or of different flags .*num_classes"):
        load_states(path, {"semantic": mine})
    with pytest.raises(InputError, match=r"has \['semantic'\]; expected \['panoptic'\]"):
        load_states(path, {"panoptic": PanopticEvaluator(3)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read"):
        load_states(path, {"semantic": mine})
    with pytest.raises(InputError, match="cannot be read"):
        load_states(tmp_path / "none.npz", {"semantic": mine})
    assert mine.evaluate().miou_present == 1


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_an_error(name: str) -> None:
    values = add(evaluators(), np.random.default_rng(0), 0)[name].to_json()
    for damaged in ({}, {"other": 1}, {**values, next(iter(values)): "x"} if name != "instance" else {"truth": 3}):
        with pytest.raises(InputError, match="record of"):
            RECORDS[name].from_json(damaged)


def test_records_of_other_classes_are_refused() -> None:
    records = {name: add(evaluators(), np.random.default_rng(3), 0)[name] for name in ("semantic", "panoptic")}
    with pytest.raises(InputError, match=r"record has classes -1\.\.4; expected 0\.\.1"):
        SemanticEvaluator(2).count(records["semantic"])
    with pytest.raises(InputError, match="record has segments of classes"):
        PanopticEvaluator(2).count(records["panoptic"])


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_a_record_has_what_the_image_alone_would_score(rng: np.random.Generator) -> None:
    alone = evaluators()
    records = add(alone, rng, 0)
    semantic, panoptic = alone["semantic"].evaluate(), alone["panoptic"].evaluate()
    hits, truth, predicted = records["semantic"].table(CLASSES)
    assert np.array_equal(truth, semantic.truth_pixels) and np.array_equal(predicted, semantic.predicted_pixels)
    assert np.array_equal(hits, np.diag(alone["semantic"].confusion))
    assert records["semantic"].miou() == pytest.approx(semantic.miou_present, nan_ok=True)
    assert records["panoptic"].pq() == pytest.approx(panoptic.overall.pq, nan_ok=True)
    assert np.array_equal(records["panoptic"].table(CLASSES)[1:], panoptic.counts)
