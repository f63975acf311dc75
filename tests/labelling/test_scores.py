"""The streamed labelling against softmax and argmax over whole maps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ConfigError
from ovseg.labelling.scores import ScoreRule, class_probabilities, segment_map, upsample
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import plan_windows
from ovseg.refinement import pamr


def plain(patches, rows, columns, classes, rule, image=None):
    """Return labels and scores by the definition, with all maps in memory."""
    maps = upsample(patches, rows, columns)
    if rule.pamr_steps:
        maps = pamr(image[None], maps[None], rule.pamr_steps, rule.pamr_dilations)[0]
    if rule.min_max:
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        maps = (maps - low) / (high - low)
    probabilities = (maps.double() * rule.logit_scale).softmax(0)  # float32 underflows at the larger scales
    if rule.area_threshold:
        labels = classes[probabilities.argmax(0)]
        counted = [c for c in classes.unique().tolist() if c >= 0 and c != rule.area_exempt]
        areas = {c: (labels == c).sum() for c in counted}
        dropped = [c for c in counted if areas[c] <= rule.area_threshold * sum(areas.values())]
        probabilities[torch.isin(classes, torch.tensor(dropped, dtype=classes.dtype))] = 0
    scores, winners = probabilities.max(0)
    labels = classes[winners].masked_fill(scores < rule.prob_threshold, rule.threshold_label)
    return labels.masked_fill(scores == 0, rule.threshold_label).int(), scores.float()


def example(queries, size=(75, 290), seed=0, classes=None, spread=0.2):
    generator = torch.Generator().manual_seed(seed)
    plan = plan_windows((48, 64), 8, 32, 24)
    rows, columns = plan.matrices(size)
    patches = torch.randn(queries, rows.shape[1], columns.shape[1], generator=generator) * spread
    found = torch.arange(queries) if classes is None else torch.tensor(classes)
    return patches, rows, columns, found


def check(arguments, rule, image=None):
    labels, scores = segment_map(*arguments, rule, image)
    expected, probability = plain(*arguments, rule, image)
    assert labels.dtype == torch.int32
    assert labels.shape == scores.shape == expected.shape
    assert (labels != expected).float().mean() < 1e-4  # ties within rounding
    torch.testing.assert_close(scores, probability, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("queries", [1, 2, 7, 8, 9, 130])
@pytest.mark.parametrize("size", [(75, 290), (1, 1), (33, 2)])
def test_equals_the_plain_path(queries, size):
    check(example(queries, size), ScoreRule(40.0))


@settings(max_examples=25, deadline=None)
@given(
    classes=st.lists(st.integers(-1, 5), min_size=1, max_size=30).map(sorted),
    seed=st.integers(0, 99),
    prob=st.sampled_from([0.0, 0.2, 0.6]),
    area=st.sampled_from([0.0, 0.1, 0.4]),
    exempt=st.sampled_from([-1, 0]),
    scale=st.sampled_from([1.0, 40.0, 400.0]),
)
def test_rules_equal_the_plain_path(classes, seed, prob, area, exempt, scale):
    rule = ScoreRule(scale, prob, area, area_exempt=exempt)
    check(example(len(classes), (40, 50), seed, classes), rule)


@pytest.mark.parametrize("rule", [ScoreRule(10.0, min_max=True), ScoreRule(40.0, 0.1, pamr_steps=2)])
def test_whole_map_rules(rule):
    image = torch.randn(3, 75, 290, generator=torch.Generator().manual_seed(5))
    check(example(11, classes=[0, 0, 1, 2, 2, 2, 3, 4, 5, -1, -1]), rule, image)


def test_strong_smooth_maps_take_the_short_cut():
    """Where few queries can win, the others only add to the sum; the result is the same."""
    patches, rows, columns, classes = example(400, spread=0.01)
    patches[::57] += 0.3
    check((patches, rows, columns, classes), ScoreRule(100.0))


def test_background_and_threshold():
    patches, rows, columns, _ = example(3)
    patches[2] = 5.0
    classes = torch.tensor([0, 1, -1])
    labels, scores = segment_map(patches, rows, columns, classes, ScoreRule(40.0))
    assert (labels == -1).all()
    assert scores.min() > 0.99
    labels, _ = segment_map(patches[:2], rows, columns, classes[:2], ScoreRule(1e-3, 0.9, threshold_label=0))
    assert (labels == 0).all()


def test_extreme_logits_stay_finite():
    patches, rows, columns, classes = example(20)
    patches[3] = -100.0
    labels, scores = segment_map(patches * 50, rows, columns, classes, ScoreRule(100.0))
    assert scores.isfinite().all()
    assert scores.max() <= 1
    assert not (labels == 3).any()


def test_a_constant_map_survives_min_max():
    patches, rows, columns, classes = example(2)
    patches[1] = 0.3
    _, scores = segment_map(patches, rows, columns, classes, ScoreRule(10.0, min_max=True))
    assert scores.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 37.0])
def test_of_several_maps_at_their_peak_the_first_wins(scale):
    """All are 1 there, whatever their range was: the plateau at the corner of an image is wide."""
    rows, columns = bilinear_matrix(3, 48).float(), bilinear_matrix(4, 64).float()
    rule = ScoreRule(scale, min_max=True, softmax=False)
    for seed in range(20):
        patches = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(seed))
        patches[:, 0, 0] = torch.tensor([0.0, 1.1, 1.2, 1.3, 1.4])
        labels, _ = segment_map(patches, rows, columns, torch.arange(5), rule)
        assert (labels[:8, :8] == 1).all()


def test_class_probabilities():
    arguments = example(6, classes=[0, 0, 1, 2, 2, -1])
    rule = ScoreRule(20.0)
    found = class_probabilities(*arguments, rule)
    probabilities = (upsample(*arguments[:3]) * 20).softmax(0)
    expected = torch.stack([probabilities[:2].amax(0), probabilities[2], probabilities[3:5].amax(0)])
    torch.testing.assert_close(found, expected)
    labels, _ = segment_map(*arguments, rule)
    inside = labels >= 0
    assert torch.equal(found.argmax(0)[inside].int(), labels[inside])


def test_class_probabilities_drop_the_classes_that_labels_drop():
    """Pixels of the background are nobody's, whatever class is the best of the classes there."""
    patches = torch.zeros(3, 4, 4)
    patches[2] = 1  # the background
    patches[0, 0, 0], patches[1] = 2, 0.1
    rule = ScoreRule(20.0, area_threshold=0.4)
    arguments = (patches, torch.eye(4), torch.eye(4), torch.tensor([0, 1, -1]), rule)
    assert set(segment_map(*arguments)[0].unique().tolist()) == {-1, 0}
    assert (class_probabilities(*arguments).amax((1, 2)) > 0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prob_threshold": 1.5}, "prob_threshold is 1.5"),
        ({"area_threshold": -0.1}, "area_threshold is -0.1"),
        ({"logit_scale": 0.0}, "logit_scale 0.0"),
        ({"pamr_steps": -1}, "pamr_steps is -1"),
        ({"closing": 2}, r"closing is 2; expected 0 \(off\) or an odd side"),
    ],
)
def test_wrong_rules(options, message):
    with pytest.raises(ConfigError, match=message):
        ScoreRule(**{"logit_scale": 40.0, **options})


def test_wrong_arguments():
    patches, rows, columns, classes = example(3)
    with pytest.raises(ConfigError, match="got 3 queries and 2 classes"):
        segment_map(patches, rows, columns, classes[:2], ScoreRule(40.0))
    with pytest.raises(ConfigError, match="got 0 queries"):
        segment_map(patches[:0], rows, columns, classes[:0], ScoreRule(40.0))
    with pytest.raises(ConfigError, match="no image to refine by"):
        segment_map(patches, rows, columns, classes, ScoreRule(40.0, pamr_steps=2))


def test_memory_does_not_grow_with_classes():
    """Label a 1200 x 900 image with 400 classes in a process of its own: a plain path would need 1.7 GB."""
    code = """
import resource, torch
from ovseg.labelling.scores import ScoreRule, segment_map
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import plan_windows
rows, columns = plan_windows((480, 360), 16).matrices((1200, 900))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
arguments = torch.randn(400, 30, 22) * 0.1, rows, columns, torch.arange(400)
segment_map(arguments[0][:4], *arguments[1:3], arguments[3][:4], ScoreRule(40.0))
before = peak()
segment_map(*arguments, ScoreRule(40.0))
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100


def test_the_area_rule_drops_classes_that_win_nothing():
    """Also where their ids lie above those of all winners: else they inherit the pixels of classes that are dropped."""
    patches = torch.zeros(3, 4, 4)
    patches[0] = 1.0  # class 0 wins everywhere but in one cell, which goes to class 1 with class 2 behind it
    patches[:, 0, 0] = torch.tensor([1.0, 3.0, 2.0])
    identity = torch.eye(4)
    arguments = patches, identity, identity, torch.arange(3)
    rule = ScoreRule(1.0, area_threshold=0.1)
    assert (segment_map(*arguments, rule)[0] == 0).all()
    assert (class_probabilities(*arguments, rule)[1:] == 0).all()


def test_closing_comes_last():
    patches = torch.zeros(2, 5, 5)
    patches[1] = 1.0
    patches[:, 2, 2] = torch.tensor([1.0, 0.0])
    identity = torch.eye(5)
    rules = ScoreRule(9.0), ScoreRule(9.0, closing=3)
    before, after = (segment_map(patches, identity, identity, torch.arange(2), rule) for rule in rules)
    assert before[0][2, 2] == 0
    assert (after[0] == 1).all() and after[0].dtype == torch.int32
    assert torch.equal(before[1], after[1])


def test_negative_scores_are_labelled_without_a_threshold():
    scores = torch.tensor([[[-0.2]], [[-0.1]]])
    rule = ScoreRule(logit_scale=1.0, softmax=False)
    labels, best = segment_map(scores, torch.ones(2, 1), torch.ones(3, 1), torch.tensor([0, 1]), rule)
    assert (labels == 1).all() and (best == 0).all()
