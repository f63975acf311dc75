"""Why a pixel has its label: every model says the same of one pixel as of all, without another pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovseg.contract import CLASS_SCORES
from ovseg.errors import ConfigError, InputError
from ovseg.labelling.scores import ScoreRule, class_probabilities, query_probabilities
from ovseg.meta_arch.dense_model import DenseModel
from tests.meta_arch import tester
from tests.meta_arch.models import words
from tests.meta_arch.tester import NAMES, pictures

SIZE = (70, 90)
POINTS = ((0, 0), (69, 89), (31, 44), (12, 71))


@pytest.mark.parametrize("background", ["none", "sky, wall"])
def test_one_pixel_is_as_in_the_maps_of_all_classes(model, background):
    own, encoded = model.words(words(*NAMES), background), model.encode(pictures()[:1])
    every = model.answer(encoded, 0, SIZE, own, frozenset({CLASS_SCORES})).class_scores
    for point in POINTS:
        found = model.explain(encoded, 0, SIZE, own, point)
        classes = found.scores[own.column_class >= 0]
        torch.testing.assert_close(classes, every[:, point[0], point[1]].cpu(), atol=1e-5, rtol=1e-4)
        assert len(found.scores) == len(found.rows) == len(own.column_class)
        assert torch.equal(own.columns[found.rows], torch.arange(len(own.column_class)))


def test_the_name_that_won_wins_alone_too(model):
    """Of the two names of a class the one is named that scores higher when both are classes of their own."""
    both, apart = model.words(words(*NAMES)), model.words(words("cat", "kitten", *NAMES[1:]))
    encoded = model.encode(pictures()[:1])
    if isinstance(model, DenseModel):
        for point in POINTS:
            won = both.texts[int(model.explain(encoded, 0, SIZE, both, point).rows[0])]
            cat, kitten = model.explain(encoded, 0, SIZE, apart, point).scores[:2].tolist()
            assert cat == kitten or won == ("cat" if cat > kitten else "kitten")
    assert {both.texts[int(model.explain(encoded, 0, SIZE, both, point).rows[0])] for point in POINTS} <= {
        "cat",
        "kitten",
    }


def test_nothing_is_encoded_and_nothing_stays_behind(case, model):
    own, encoded = model.words(words(*NAMES)), model.encode(pictures()[:1])
    before = tester.state_of(model)

    def forbidden(method):
        def run(*arguments, **options):
            raise AssertionError("the image was encoded a second time")

        return run

    with tester.replaced(model, case.inside[0], forbidden):
        model.explain(encoded, 0, SIZE, own, POINTS[2])
    assert tester.changes(before, tester.state_of(model)) == []


def test_no_map_of_all_classes_is_made(case, model):
    many = model.words(words(*(f"thing number {i}" for i in range(case.many))))
    encoded = model.encode(pictures()[:1])
    with tester.Largest() as largest:
        model.explain(encoded, 0, (256, 256), many, (100, 200))
    assert largest.numbers < case.many * 256 * 256


@pytest.mark.parametrize("point", [(-1, 0), (70, 0), (0, 90)])
def test_a_pixel_that_is_not_there_is_refused(model, point):
    own, encoded = model.words(words(*NAMES)), model.encode(pictures()[:1])
    with pytest.raises(InputError, match=rf"row {point[0]}, column {point[1]}; expected rows below 70, columns below"):
        model.explain(encoded, 0, SIZE, own, point)


def test_words_of_another_model_are_refused(built):
    own, encoded = built.words(words(*NAMES)), built.encode(pictures()[:1])
    with pytest.raises(ConfigError, match="embedded by weights another"):
        built.explain(encoded, 0, SIZE, replace(own, embedded_by="another"), (0, 0))


@pytest.mark.parametrize(
    "rule",
    [
        ScoreRule(logit_scale=40.0),
        ScoreRule(logit_scale=10.0, min_max=True),
        ScoreRule(logit_scale=1.0, keep_peak=True, softmax=False, score_threshold=0.3),
        ScoreRule(logit_scale=40.0, pamr_steps=2, pamr_dilations=(1, 2)),
    ],
    ids=["plain", "stretched", "peaks", "refined"],
)
def test_every_rule_says_the_same_of_one_pixel_as_of_all(rule):
    generator = torch.Generator().manual_seed(0)
    logits, image = torch.rand(5, 4, 6, generator=generator), torch.rand(3, 20, 30, generator=generator)
    rows, columns = torch.rand(20, 4, generator=generator) / 4, torch.rand(30, 6, generator=generator) / 6
    every = class_probabilities(logits, rows, columns, torch.arange(5), rule, image)
    for point in ((0, 0), (19, 29), (7, 11)):
        found = query_probabilities(logits, rows, columns, rule, point, image)
        torch.testing.assert_close(found, every[:, point[0], point[1]], atol=1e-6, rtol=1e-5)
