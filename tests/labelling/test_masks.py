"""Streamed results against literal ones: whole tensors, one rule after another, as the papers' code goes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ovseg.errors import ConfigError
from ovseg.labelling import mask_objects, mask_resize
from ovseg.labelling import masks as mask_postprocess
from ovseg.labelling.mask_objects import instances, panoptic, panoptic_and_instances
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.masks import class_maps, first_max, labels_and_maps, semantic_map
from ovseg.result.objects import PanopticSegment

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "queries": st.integers(1, 9),
        "classes": st.integers(1, 6),
        "grid": st.tuples(st.integers(1, 7), st.integers(1, 7)),
        "padded": st.tuples(st.integers(8, 24), st.integers(8, 24)),
        "cut": st.tuples(st.integers(0, 6), st.integers(0, 6)),
        "output": st.tuples(st.integers(1, 70), st.integers(1, 70)),
        "after": st.booleans(),
    }
)


def make(case):
    """Return probabilities (Q, K + 1), mask logits, the plan, and the literal masks (Q, H, W) and their logits."""
    torch.manual_seed(case["seed"])
    probabilities = (torch.randn(case["queries"], case["classes"] + 1) * 2).softmax(-1)
    logits = torch.randn(case["queries"], *case["grid"]) * 4
    image = tuple(p - c for p, c in zip(case["padded"], case["cut"], strict=True))
    plan = plan_resize(case["grid"], case["padded"], image, case["output"], case["after"])

    def resize(maps, size):
        return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]

    at_image = resize(logits.double(), case["padded"])[:, : image[0], : image[1]]
    whole = resize(at_image, case["output"])
    masks = resize(at_image.sigmoid(), case["output"]) if case["after"] else whole.sigmoid()
    return probabilities, logits, plan, masks, whole


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles and groups of classes so small that every seam is crossed."""
    monkeypatch.setattr(mask_resize, "_CPU_TILE", (16, 16))
    monkeypatch.setattr(mask_postprocess, "_CPU_CLASSES", 2)
    monkeypatch.setattr(mask_objects, "_MASK_PIXELS", 3000)


@settings(max_examples=60)
@given(CASES)
def test_semantic(case):
    probabilities, logits, plan, masks, _ = make(case)
    sums = torch.einsum("qk,qhw->khw", probabilities[:, :-1].double(), masks)
    torch.testing.assert_close(class_maps(probabilities, logits, plan).double(), sums, atol=1e-5, rtol=1e-5)
    labels, scores = semantic_map(probabilities, logits, plan)
    assert labels.dtype == torch.int32 and labels.shape == plan.size == case["output"]
    torch.testing.assert_close(sums.gather(0, labels[None].long())[0], sums.amax(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.double(), sums.amax(0).clamp(0, 1), atol=1e-5, rtol=1e-5)


def literal_panoptic(probabilities, masks, is_thing, threshold, overlap, column_class):
    """Follow the rules of Mask2Former pixel by pixel of whole maps."""
    ids = torch.zeros(masks.shape[1:], dtype=torch.int32)
    void = probabilities.shape[1] - 1
    kept = [q for q in range(len(probabilities)) if probabilities[q].argmax() != void]
    kept = [q for q in kept if probabilities[q].max() > threshold]
    if not kept:
        return ids, []
    owner = torch.stack([probabilities[q].max() * masks[q] for q in kept]).argmax(0)
    segments, stuff = [], {}
    for place, q in enumerate(kept):
        won, own = owner == place, masks[q] >= 0.5
        both = won & own
        class_id = int(column_class[probabilities[q].argmax()])
        if class_id < 0 or not both.any() or won.sum() / own.sum() < overlap:
            continue
        score = float(probabilities[q].max())
        if class_id in stuff and not is_thing[class_id]:
            known = segments[stuff[class_id] - 1]
            segments[stuff[class_id] - 1] = (*known[:3], max(known[3], score))
            ids[both] = stuff[class_id]
            continue
        segments.append((len(segments) + 1, class_id, bool(is_thing[class_id]), score))
        ids[both] = stuff[class_id] = len(segments)
    return ids, [PanopticSegment(*segment) for segment in segments]


@settings(max_examples=60)
@given(CASES, st.sampled_from([0.0, 0.3, 0.6]), st.sampled_from([0.0, 0.3, 0.8]), st.booleans())
def test_panoptic(case, threshold, overlap, words):
    probabilities, logits, plan, _, _ = make(case)
    everything = (slice(0, plan.size[0]), slice(0, plan.size[1]))
    masks = plan.probabilities(logits, everything)  # the same rounding, for owners of ties
    is_thing = torch.arange(case["classes"]) % 2 == 0
    column_class = torch.arange(case["classes"])
    if words and case["classes"] > 1:
        column_class[-1] = -1
    wanted_ids, wanted = literal_panoptic(probabilities, masks, is_thing, threshold, overlap, column_class)
    ids, segments = panoptic(probabilities, logits, plan, is_thing, threshold, overlap, column_class)
    assert [(s.id, s.class_id, s.is_thing) for s in segments] == [(s.id, s.class_id, s.is_thing) for s in wanted]
    assert [s.score for s in segments] == pytest.approx([s.score for s in wanted])
    assert (ids == wanted_ids).float().mean() > 0.99  # tiles may round a tie another way


@settings(max_examples=60)
@given(CASES, st.integers(1, 12), st.booleans())
def test_instances(case, top_k, only_things):
    probabilities, logits, plan, _, whole = make({**case, "after": False})
    things = torch.arange(case["classes"]) % 2 == 0
    got = instances(probabilities, logits, plan, top_k, things if only_things else None)
    flat = probabilities[:, :-1].flatten()
    wanted = []
    for pair in flat.topk(min(top_k, len(flat))).indices.tolist():
        query, class_id = divmod(pair, case["classes"])
        if only_things and not things[class_id]:
            continue
        mask = whole[query] > 0
        score = flat[pair] * (whole[query].sigmoid() * mask).sum() / (mask.sum() + 1e-6)
        wanted.append((float(score), class_id, mask))
    wanted.sort(key=lambda own: -own[0])
    assert len(got) == len(wanted)
    assert [own.score for own in got] == pytest.approx([score for score, _, _ in wanted], abs=1e-4)
    assert all(a.score >= b.score for a, b in itertools.pairwise(got))
    for own in got:
        rows, columns = own.mask().nonzero()
        around = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) if len(rows) else (0, 0, 0, 0)
        assert own.bbox == around and own.area == len(rows)


def test_masks_go_with_their_scores():
    probabilities = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])
    logits = torch.full((2, 2, 2), -5.0)
    logits[0, :, 0], logits[1, :, 1] = 5, 5
    got = instances(probabilities, logits, plan_resize((2, 2), (8, 8), (8, 8), (8, 8)), top_k=2)
    assert [own.class_id for own in got] == [0, 1]
    assert got[0].mask()[:, :4].all() and not got[0].mask()[:, 4:].any()
    assert [own.bbox for own in got] == [(0, 0, 4, 8), (4, 0, 4, 8)]


def test_no_class_by_threshold_and_by_words():
    probabilities = torch.tensor([[0.9, 0.0, 0.1], [0.0, 0.6, 0.4]])
    logits = torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]])
    plan = plan_resize((1, 2), (1, 2), (1, 2), (1, 2))
    labels, scores = semantic_map(probabilities, logits, plan)
    assert labels.tolist() == [[0, 1]]
    assert scores[0].tolist() == pytest.approx([0.9, 0.6], abs=1e-3)
    assert semantic_map(probabilities, logits, plan, threshold=0.7)[0].tolist() == [[0, -1]]
    columns = torch.tensor([0, -1])
    assert semantic_map(probabilities, logits, plan, column_class=columns)[0].tolist() == [[0, -1]]
    assert [own.class_id for own in instances(probabilities, logits, plan, column_class=columns)] == [0, 0]
    ids, segments = panoptic(probabilities, logits, plan, torch.tensor([True]), 0.5, 0.5, columns)
    assert ids.tolist() == [[1, 0]] and [segment.class_id for segment in segments] == [0]


def test_equal_sums_go_to_the_first_class():
    probabilities = torch.tensor([[0.1, 0.3, 0.3, 0.3, 0.0]])
    labels, _ = semantic_map(probabilities, torch.ones(1, 2, 2), plan_resize((2, 2), (4, 4), (4, 4), (5, 5)))
    assert labels.unique().tolist() == [1]


def test_scores_stay_within_one_where_queries_agree():
    labels, scores = semantic_map(
        torch.tensor([[1.0, 0.0]] * 3), torch.full((3, 1, 1), 9.0), plan_resize((1, 1), (2, 2), (2, 2), (3, 3))
    )
    assert scores.max() == 1 and not labels.any()


def test_nothing_but_no_object():
    probabilities, plan = torch.tensor([[0.1, 0.9]]), plan_resize((1, 1), (2, 2), (2, 2), (3, 3))
    ids, segments = panoptic(probabilities, torch.ones(1, 1, 1), plan, torch.tensor([True]))
    assert not ids.any() and ids.shape == (3, 3) and segments == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    probabilities, logits = torch.randn(5, 4).softmax(-1).to(dtype), torch.randn(5, 4, 4).to(dtype)
    plan = plan_resize((4, 4), (8, 8), (8, 8), (20, 20))
    labels, scores = semantic_map(probabilities, logits, plan)
    exact, _ = semantic_map(probabilities.float(), logits.float(), plan)
    assert scores.dtype == torch.float32 and torch.equal(labels, exact)


def test_no_object_of_a_thing():
    plan = plan_resize((2, 2), (4, 4), (4, 4), (4, 4))
    assert instances(torch.ones(1, 2), torch.ones(1, 2, 2), plan, is_thing=torch.tensor([False])) == ()


def test_mistakes():
    plan = plan_resize((2, 2), (4, 4), (4, 4), (5, 5))
    with pytest.raises(ConfigError, match=r"expected \(Q, K \+ 1\), \(Q, 2, 2\)"):
        semantic_map(torch.ones(3, 2), torch.ones(2, 2, 2), plan)
    with pytest.raises(ConfigError, match="none of them empty"):
        class_maps(torch.ones(0, 2), torch.ones(0, 2, 2), plan)
    with pytest.raises(ConfigError, match="expected image <= batch"):
        plan_resize((2, 2), (4, 4), (5, 4), (5, 5))
    late = plan_resize((2, 2), (4, 4), (4, 4), (5, 5), sigmoid_first=True)
    with pytest.raises(ConfigError, match="sigmoid_first=False"):
        instances(torch.ones(1, 2), torch.ones(1, 2, 2), late)


class LargestCopies(TorchDispatchMode):
    """Counts the tensors that operations make with as many values as whole masks have."""

    def __init__(self, values):
        super().__init__()
        self.values, self.count = values, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.index.Tensor and found.numel() >= self.values:
            self.count += 1
        return found


@pytest.mark.parametrize("work", ["panoptic", "instances", "both"])
def test_whole_masks_are_not_copied(work):
    """When all masks may win everywhere, each tile takes its cells of them and not them."""
    torch.manual_seed(0)
    probabilities, logits = (torch.randn(6, 4) / 100).softmax(-1), torch.randn(6, 40, 40) / 100 + 1
    plan, things = plan_resize((40, 40), (80, 80), (80, 80), (90, 100)), torch.ones(3, dtype=torch.bool)
    with LargestCopies(logits.numel()) as copies:
        if work == "panoptic":
            panoptic(probabilities, logits, plan, things, 0.0)
        elif work == "instances":
            instances(probabilities, logits, plan, top_k=18)
        else:
            panoptic_and_instances(probabilities, logits, plan, things, 0.0, 0.8, 18, False)
    assert copies.count == 0


@settings(max_examples=60)
@given(CASES, st.floats(0, 1), st.booleans())
def test_one_pass_gives_what_two_give(case, threshold, things_alone):
    probabilities, logits, plan, _, _ = make({**case, "after": False})
    things = torch.arange(case["classes"]) % 2 == 0
    ids, segments, objects = panoptic_and_instances(
        probabilities, logits, plan, things, threshold, 0.5, 7, things_alone, torch.arange(case["classes"])
    )
    own_ids, own_segments = panoptic(probabilities, logits, plan, things, threshold, 0.5)
    assert torch.equal(ids, own_ids) and segments == own_segments
    assert objects == instances(probabilities, logits, plan, 7, things if things_alone else None)


@settings(max_examples=60)
@given(CASES, st.integers(1, 6))
def test_labels_beside_class_scores_are_those_of_their_sums(case, count):
    probabilities, logits, plan, _, _ = make(case)
    columns = torch.arange(case["classes"]).where(torch.arange(case["classes"]) < count, -1)
    labels, scores, every = labels_and_maps(probabilities, logits, plan, 0.0, columns, False)
    whole = class_maps(probabilities, logits, plan)
    assert torch.equal(every, whole[: min(count, case["classes"])])
    torch.testing.assert_close(scores, whole.amax(0))
    winner = labels.long().where(labels >= 0, whole[count:].argmax(0) + count if count < case["classes"] else 0)
    torch.testing.assert_close(whole.gather(0, winner[None])[0], whole.amax(0))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_first_max_is_the_first_of_equal_ones(rows, columns, seed, named):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 3, (rows, columns), generator=generator).float()  # many are equal
    names = torch.randperm(50, generator=generator)[:rows] if named else None
    literal = torch.arange(rows) if names is None else names
    best, found = first_max(values.clone(), names)
    assert torch.equal(best, values.amax(0))
    for column in range(columns):
        assert int(found[column]) == min(literal[values[:, column] == best[column]].tolist())
