"""The score of a phrase at a pixel, by the formulas of the papers; and the race, against all scores at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ConfigError, UnknownNameError
from ovseg.meta_arch.sam3.fusion import FUSIONS, Fusion, PhraseMaps
from ovseg.meta_arch.sam3.labels import Race, Thresholds, plan_canvas, scores_in
from ovseg.ops.windows import plan_windows
from ovseg.system.device import CPU
from ovseg.vocabulary import Vocabulary

WHOLE = (slice(0, 30), slice(0, 41))


def some_maps(seed: int, phrases: int = 9, grid: int = 6) -> PhraseMaps:
    """Return what phrases find, some of them nothing."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, phrases, (phrases,), generator=generator).sort().values
    maps = torch.randn(2, phrases, grid, grid, generator=generator) * 4
    strength = torch.rand(phrases, generator=generator)
    return PhraseMaps(torch.rand(phrases, generator=generator), maps[0], maps[1], strength, owner)


def resized(maps):
    return F.interpolate(maps[None], (30, 41), mode="bilinear", align_corners=False)[0]


def by_formula(maps: PhraseMaps, rule: Fusion):
    """The scores (k, 30, 41), spelled out."""
    sure = maps.presence[:, None, None]
    if rule.fusion == "argmax":
        semantic = resized(maps.semantic.sigmoid())
        return semantic * sure if rule.presence else semantic
    semantic, masks = resized(maps.semantic).sigmoid(), torch.zeros(len(maps.presence), 30, 41)
    for owner, strength, mask in zip(maps.owner, maps.strength, resized(maps.masks).sigmoid(), strict=True):
        if rule.instance:
            masks[owner] = torch.maximum(masks[owner], strength * mask)
    semantic = semantic if rule.semantic else torch.zeros_like(semantic)
    if rule.fusion == "conceptbank":
        return torch.maximum(semantic * sure, masks)
    best = torch.maximum(semantic, masks)
    return best * sure if rule.presence else best


RULES = [
    Fusion(fusion=name, semantic=semantic, instance=instance, presence=presence)
    for name in FUSIONS
    for semantic, instance in ((True, True), (True, False), (False, True))
    for presence in (True, False)
    if semantic or name != "argmax"
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_scores_are_those_of_the_papers_and_the_race_finds_the_best(rule):
    maps, rows = some_maps(3), torch.arange(9)
    canvas = plan_canvas(plan_windows((7, 7), 1), (7, 7), (30, 41), (6, 6), rule, True)
    wanted = by_formula(maps, rule)
    torch.testing.assert_close(scores_in(canvas, WHOLE, [maps], rule, rows), wanted, atol=1e-5, rtol=0)
    race = Race(canvas, rule, rows, CPU, True)
    race.add(rows, [maps])
    labels, scores = race.finish(Thresholds())
    torch.testing.assert_close(scores, wanted.amax(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(race.every, wanted, atol=1e-5, rtol=0)
    clear = wanted.topk(2, dim=0).values
    clear = clear[0] - clear[1] > 1e-5
    assert torch.equal(labels[clear].long(), wanted.argmax(0)[clear])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from(RULES))
def test_the_race_does_not_depend_on_how_many_run_at_a_time(seed, step, rule):
    maps, classes = some_maps(seed), torch.tensor([0, 0, 1, 2, 2, 2, 3, -1, -1])
    canvas = plan_canvas(plan_windows((7, 7), 1), (7, 7), (30, 41), (6, 6), rule, True)
    results = []
    for size in (9, step):
        race = Race(canvas, rule, classes, CPU, False)
        for rows in torch.arange(9).split(size):
            own = (maps.owner >= rows[0]) & (maps.owner <= rows[-1])
            part = PhraseMaps(
                maps.presence[rows], maps.semantic[rows], maps.masks[own], maps.strength[own], maps.owner[own] - rows[0]
            )
            race.add(rows, [part])
        results.append(race.finish(Thresholds()))
    (labels, scores), (others, other_scores) = results
    torch.testing.assert_close(scores, other_scores, atol=1e-5, rtol=0)
    assert (labels != others).float().mean() < 0.002  # ties


def test_windows_are_averaged_where_they_meet_and_then_go_to_the_photograph():
    rule, rows = Fusion(), torch.arange(9)
    plan = plan_windows((10, 14), 1, 10, 4)
    parts = [some_maps(seed) for seed in range(len(plan))]
    assert len(plan) == 2
    total, count = torch.zeros(9, 10, 14), torch.zeros(10, 14)
    alone = plan_canvas(plan_windows((10, 10), 1), (10, 10), (10, 10), (6, 6), rule, True)
    for left, maps in zip((0, 4), parts, strict=True):
        total[:, :, left : left + 10] += scores_in(alone, (slice(0, 10), slice(0, 10)), [maps], rule, rows)
        count[:, left : left + 10] += 1
    canvas = plan_canvas(plan, (10, 14), (30, 41), (6, 6), rule, False)
    wanted = resized(total / count)
    torch.testing.assert_close(scores_in(canvas, WHOLE, parts, rule, rows), wanted, atol=1e-5, rtol=0)
    race = Race(canvas, rule, rows, CPU, False)
    race.add(rows, parts)
    torch.testing.assert_close(race.finish(Thresholds())[1], wanted.amax(0), atol=1e-5, rtol=0)


def test_queries_count_by_presence_confidence_and_rank():
    presence, scores = torch.tensor([0.5, 0.9]), torch.tensor([[2.0, 0.0, -9.0], [1.0, 3.0, 2.0]])
    given = scores.sigmoid()
    sure = given * presence[:, None]
    found = Fusion(confidence=0.3).strengths(presence, scores)
    assert torch.equal(found > 0, sure > 0.3) and torch.equal(found[found > 0], sure[sure > 0.3])
    first = Fusion(confidence=0.0, top_k=1).strengths(presence, scores)
    assert (first > 0).tolist() == [[True, False, False], [False, True, False]]
    apart = Fusion(fusion="conceptbank", confidence=0.0, presence=False).strengths(presence, scores)
    assert torch.equal(apart, given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "mean"}, "fusion is 'mean'; expected one of segearth, conceptbank, argmax"),
        ({"confidence": 1.5}, r"confidence is 1.5 and top_k 0; expected a share in 0..1"),
        ({"top_k": -1}, "top_k -1"),
        ({"semantic": False, "instance": False}, "semantic is off, and fusion segearth has nothing else"),
        ({"semantic": False, "fusion": "argmax"}, "semantic is off, and fusion argmax has nothing else"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Fusion(**options)


def test_thresholds():
    labels, scores = torch.tensor([[0, 1, 1, -1]], dtype=torch.int32), torch.tensor([[0.1, 0.3, 0.6, 0.9]])
    assert Thresholds(0.5, 2).apply(labels.clone(), scores).tolist() == [[2, 2, 1, -1]]
    own = Thresholds(0.1, -1, class_thresholds={"Cat": 0.0, "traffic light": 0.5}, ignore_threshold=0.05)
    for names, wanted in (
        (["cat", "traffic light"], [[0, -1, 1, -1]]),
        (["traffic light", "cat"], [[-1, 1, 1, -1]]),
        (["traffic light", "sofa", "cat"], [[-1, 1, 1, -1]]),
    ):
        assert own.apply(labels.clone(), scores, own.of(Vocabulary.parse(names))).tolist() == wanted
    assert Thresholds(0.4).of(Vocabulary.parse(["cat"])) == ()
    with pytest.raises(UnknownNameError, match="unknown class of CLASS_THRESHOLDS 'traffic light'; did you mean"):
        own.of(Vocabulary.parse(["cat", "traffic lights"]))
    with pytest.raises(ConfigError, match="CLASS_THRESHOLDS has a class twice: Cat, cat"):
        Thresholds(class_thresholds={"Cat": 0.1, "cat": 0.2})
    with pytest.raises(ConfigError, match=r"a threshold of scores is 1\.5"):
        Thresholds(class_thresholds={"cat": 1.5})
    with pytest.raises(ConfigError, match="a threshold of scores is 2"):
        Thresholds(2.0)
