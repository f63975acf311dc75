"""Probabilities of classes, one at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovseg.labelling.scores import ScoreRule, class_probabilities
from ovseg.labelling.shares import ClassShares
from ovseg.ops.bilinear import bilinear_matrix

CLASSES = torch.tensor([0, 0, 1, 2, -1, 2, -1])


def made(rule: ScoreRule, seed: int = 0, size: tuple[int, int] = (9, 7)) -> tuple[ClassShares, Tensor]:
    """Return the probabilities of three classes and of words of none, and those of the classes all at once."""
    logits = torch.rand(7, 3, 4, generator=torch.Generator().manual_seed(seed))
    matrices = (bilinear_matrix(3, size[0]).float(), bilinear_matrix(4, size[1]).float())
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))
    arguments = (logits, *matrices, CLASSES, rule, image)
    return ClassShares(*arguments), class_probabilities(*arguments)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"softmax": False},
        {"pamr_steps": 2},
        {"min_max": True},
        {"score_threshold": 0.98},
        {"area_threshold": 0.3},
        {"area_threshold": 0.3, "area_exempt": 1},
        {"score_threshold": 0.98, "area_threshold": 0.5, "softmax": False},
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_all_at_once(options, seed, monkeypatch):
    monkeypatch.setattr("ovseg.labelling.scores._CHUNK", 9 * 7 * 2)  # two maps at a time
    shares, wanted = made(ScoreRule(30.0, **options), seed)
    torch.testing.assert_close(torch.stack([shares.of(index) for index in range(3)]), wanted)
    assert set(range(3)) - set(shares.classes) == {index for index in range(3) if not wanted[index].any()}


def test_words_of_no_class_compete():
    assert made(ScoreRule(30.0))[0].classes == [-1, 0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 50),
    st.floats(0, 1),
    st.sampled_from([(9, 7), (2, 3), (30, 40), (1, 1)]),
    st.sampled_from([{}, {"softmax": False, "logit_scale": 1.0}, {"pamr_steps": 1}, {"score_threshold": 0.9}]),
)
def test_no_class_that_is_likely_somewhere_is_missed(seed, least, size, options):
    shares, wanted = made(ScoreRule(**{"logit_scale": 30.0, **options}), seed, size)
    likely = shares.likely(least)
    assert set(likely) <= set(shares.classes)
    for index in set(shares.classes) - set(likely):
        assert shares.of(index).max() < least
        assert index < 0 or wanted[index].max() < least


def test_classes_that_are_likely_nowhere_are_known_by_their_patches():
    logits = torch.zeros(3, 4, 4)
    logits[1, 2, 2] = logits[2, 0, 0] = 1
    matrices = (bilinear_matrix(4, 16).float(), bilinear_matrix(4, 16).float())
    shares = ClassShares(logits, *matrices, torch.arange(3), ScoreRule(40.0))
    assert shares.likely(0.2) == [0, 1, 2]
    assert shares.likely(0.8) == [1, 2]  # three share the rest, and two the surroundings of the peaks
    logits[1] -= 1.2
    assert ClassShares(logits, *matrices, torch.arange(3), ScoreRule(40.0)).likely(0.2) == [0, 2]
