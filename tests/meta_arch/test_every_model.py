"""One tester for all models: what a request is, and that it leaves nothing behind.

Every registered architecture is in the table of `tests.meta_arch.models`; beside them runs a model that is no CLIP.
"""

from __future__ import annotations

import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from ovseg.contract import CLASS_SCORES, INSTANCES, LABELS, PANOPTIC, WANTS
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.labelling.mask_objects import instances, panoptic
from ovseg.labelling.masks import labels_and_maps
from ovseg.labelling.scores import class_probabilities
from ovseg.segmenter import Segmenter
from tests.meta_arch import tester
from tests.meta_arch.models import MODELS, picture, words
from tests.meta_arch.tester import NAMES, ask, assert_near, assert_same, pictures

ROOT = Path(__file__).resolve().parents[2]
CACHES = (".text_cache", "._tokens")
"""What a model remembers of words, by their content."""


@pytest.fixture(scope="module")
def own_words(model):
    return model.words(words(*NAMES))


@pytest.fixture(scope="module")
def segmenter(case, folders):
    return Segmenter(case.build(folders), case.name, "cpu")


def test_every_registered_architecture_is_in_the_table():
    registered = {name for name, kind in META_ARCH_REGISTRY if kind.__module__.startswith("ovseg.")}
    assert registered == {case.architecture for case in MODELS}


def test_every_model_has_a_golden_case_or_says_why_not(case):
    assert bool(case.golden) != bool(case.without_golden)
    if case.golden:
        assert list((ROOT / "tests/golden" / case.golden).glob("*.json"))
        assert (ROOT / "tools/golden_runners" / f"{case.golden}.py").is_file()


class TestEveryModel:
    def test_an_image_is_the_same_in_any_company(self, model, own_words):
        """And the pictures of these tests show several classes, or they would prove less."""
        want, shown = frozenset({CLASS_SCORES}), set()
        for image, found in zip(pictures(), ask(model, pictures(), own_words, want), strict=True):
            assert_near(found, ask(model, [image], own_words, want)[0])
            shown |= set(found.labels.unique().tolist())
        assert len(shown) > 1

    @pytest.mark.parametrize("background", ["none", "words", "sky, wall", "threshold:0.9"])
    @pytest.mark.parametrize("size", [(100, 133), (5, 4)])
    def test_what_answers_look_like(self, case, model, background, size):
        for answer in ask(model, pictures()[:2], model.words(words(*NAMES), background), case.gives, size):
            labels, scores = answer.labels, answer.scores
            assert labels.shape == scores.shape == size
            assert labels.dtype == torch.int32 and scores.dtype == torch.float32
            assert -1 <= labels.min() and labels.max() < len(NAMES) and 0 <= scores.min() and scores.max() <= 1
            assert answer.class_scores.shape == (len(NAMES), *size) and answer.class_scores.dtype == torch.float32
            assert answer.class_scores.isfinite().all() and answer.class_scores.min() >= 0
            assert not any(tensor.requires_grad for tensor in (labels, scores, answer.class_scores))
            assert (labels >= 0).all() or background != "none"
            assert (labels[scores < 0.9] == -1).all() or background != "threshold:0.9" or case.votes
            if answer.panoptic is not None:
                assert answer.panoptic.ids.shape == size
                assert all(0 <= segment.class_id < len(NAMES) for segment in answer.panoptic.segments)
            for own in answer.instances or ():
                assert own.mask().shape == size and 0 <= own.class_id < len(NAMES) and 0 <= own.score <= 1

    def test_what_is_wanted_and_nothing_else_is_computed(self, case, model, own_words, monkeypatch):
        encoded, size = model.encode(pictures()[:1]), (70, 90)
        calls = tester.watch(monkeypatch, [labels_and_maps, class_probabilities, panoptic, instances])
        scores = {"labels_and_maps", "class_probabilities"}
        of = {CLASS_SCORES: scores, PANOPTIC: {"panoptic"}, INSTANCES: {"instances"}}
        whole = model.answer(encoded, 0, size, own_words, case.gives)
        for want in [LABELS, *(frozenset({name}) for name in case.gives)]:
            calls.clear()
            found = model.answer(encoded, 0, size, own_words, want)
            assert set(calls) <= {name for wanted in want - LABELS for name in of[wanted]}
            assert {name for name in of if getattr(found, name) is not None} == want - LABELS
            assert_same(found, replace(whole, **{name: None for name in of.keys() - want}))

    def test_what_a_model_does_not_give_is_refused(self, case, model, own_words):
        encoded = model.encode(pictures()[:1])
        assert model.gives == case.gives
        for name in set(WANTS) - case.gives:
            with pytest.raises(ConfigError, match=f"gives no {name}; it gives class_scores, labels"):
                model.answer(encoded, 0, (9, 9), own_words, frozenset({name}))
        with pytest.raises(UnknownNameError, match="unknown want 'panoptik'; did you mean panoptic"):
            model.answer(encoded, 0, (9, 9), own_words, frozenset({"panoptik"}))

    def test_a_single_class_has_something_to_differ_from(self, case, model):
        alone = model.words(words("cat"))
        assert len(alone.texts) > 1 and any("contrast words" in note for note in alone.notes)
        (found,) = ask(model, pictures()[:1], alone, case.gives)
        assert set(found.labels.unique().tolist()) <= {-1, 0} and len(found.class_scores) == 1

    def test_a_single_class_with_a_threshold_is_alone_where_scores_stand_alone(self, case, model):
        alone, encoded = model.words(words("cat"), "threshold:0.4"), model.encode(pictures()[:1])
        stand_alone = case.file in ("talk2dino", "sam3", "clipseg")
        assert (len(alone.texts) == 1) == stand_alone == getattr(model, "scores_stand_alone", False)
        assert len(model.words(words("cat"), "sky, wall").texts) == 3
        if stand_alone:
            (found,) = ask(model, pictures()[:1], alone, case.gives)
            middle = float(found.class_scores.median())
            split = model.answer(encoded, 0, found.labels.shape, model.words(words("cat"), f"threshold:{middle}"))
            wanted = torch.where(found.class_scores[0] < middle, -1, 0)
            assert (split.labels == wanted).float().mean() > 0.999 and len(wanted.unique()) == 2

    def test_no_map_of_all_classes_is_made_unless_it_is_wanted(self, case, model):
        many = model.words(words(*(f"thing {i}" for i in range(case.many))))
        encoded, size = model.encode(pictures()[:1]), (200, 208)
        for want, whole in ((LABELS, False), (frozenset({CLASS_SCORES}), True)):
            with tester.Largest() as largest:
                found = model.answer(encoded, 0, size, many, want)
            assert (largest.numbers >= case.many * size[0] * size[1]) == whole
        assert found.class_scores.shape == (case.many, *size)

    def test_a_second_question_costs_no_pass_and_knows_nothing_of_the_first(self, case, model, own_words):
        others, encoded = model.words(words("river", "bread|loaf"), "sky, wall"), model.encode(pictures())
        for index, asked in ((0, own_words), (0, others), (1, others), (0, own_words)):
            found = model.answer(encoded, index, (60, 70), asked, case.gives)
            assert_same(found, model.answer(model.encode(pictures()), index, (60, 70), asked, case.gives))

    def test_a_request_stays_nowhere(self, case, model, own_words):
        model.words(words("what", "opens", "the cache"))
        before = tester.state_of(model)
        asked = model.words(words(*(f"word {i}" for i in range(5))), "words")
        encoded = model.encode(pictures())
        seen = tester.state_of(encoded)
        for index in range(len(encoded)):
            model.answer(encoded, index, (50, 60), asked, case.gives)
        changed = tester.changes(before, tester.state_of(model))
        assert [key for key in changed if not any(cache in key for cache in CACHES)] == []
        assert tester.changes(seen, tester.state_of(encoded)) == []
        assert tester.changes(tester.state_of(own_words), tester.state_of(model.words(words(*NAMES)))) == []

    def test_words_and_encoded_images_travel(self, case, model, own_words):
        encoded = model.encode(pictures()[:2])
        there = pickle.loads(pickle.dumps((own_words, encoded)))
        for index in range(2):
            found = model.answer(there[1], index, (60, 70), there[0], case.gives)
            assert_same(found, model.answer(encoded, index, (60, 70), own_words, case.gives))

    def test_an_encoded_image_brings_no_weights_along(self, model):
        weights = {
            value
            for value in tester.state_of(model).values()
            if isinstance(value, tuple) and len(value) == 3 and len(value[1]) > 1
        }
        there = pickle.loads(pickle.dumps(model.encode(pictures()[:1])))
        assert not weights & set(tester.state_of(there).values())

    def test_an_encoded_image_goes_with_its_memory(self, model, own_words):
        encoded = model.encode(pictures()[:2])
        model.answer(encoded, 0, (60, 70), own_words)
        kept = [weakref.ref(tensor) for tensor in tester.tensors_of(encoded, model)]
        assert kept
        del encoded
        assert not [one for one in kept if one() is not None]

    def test_what_another_model_has_made_is_refused(self, model, own_words):
        encoded = model.encode(pictures()[:1])
        with pytest.raises(ConfigError, match=r"the image was encoded by model 0123 and this is [0-9a-f]{16}, .*anew"):
            model.answer(replace(encoded, model="0123"), 0, (9, 9), own_words)

    def test_many_users_share_a_model(self, case, folders, tmp_path, monkeypatch):
        monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))  # so that words have to be embedded
        segmenter = Segmenter(case.build(folders), case.name, "cpu")
        vocabularies = [[f"thing {user} {i}" for i in range(2 + user % 6)] for user in range(8)]
        wants = [LABELS, case.gives - {CLASS_SCORES}, frozenset({CLASS_SCORES})]

        def requests(user):
            asked = [(tester.SIZES[(user + i) % 4], wants[(user + i) % 3]) for i in range(case.requests)]
            policy = ("none", "sky, wall")[user % 2]
            return [segmenter(picture(*size, user), vocabularies[user], policy, want=want) for size, want in asked]

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(requests, range(8)))
        segmenter = Segmenter(segmenter.model, case.name, "cpu")
        for user, results in enumerate(together):
            for found, wanted in zip(results, requests(user), strict=True):
                assert found.classes.names == wanted.classes.names == vocabularies[user]
                np.testing.assert_array_equal(found.labels, wanted.labels)
                np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
                assert found.instances == wanted.instances
                assert (found.panoptic is None) == (wanted.panoptic is None)
                if found.panoptic is not None:
                    np.testing.assert_array_equal(found.panoptic.ids, wanted.panoptic.ids)
                if found.class_scores is not None:
                    np.testing.assert_allclose(found.class_scores, wanted.class_scores, atol=1e-5)

    @pytest.mark.parametrize("part", [0, 1])
    def test_two_users_are_inside_at_once(self, case, segmenter, part):
        asked = [segmenter.words(names) for names in (["cat", "sofa"], ["river", "bread", "lamp"])]

        def request(words):
            return segmenter.encode(picture(64, 96)).answer(words)

        wanted = [request(own).labels for own in asked]
        with tester.replaced(segmenter.model, case.inside[part], tester.meeting), ThreadPoolExecutor(2) as pool:
            found = [result.labels for result in pool.map(request, asked)]
        np.testing.assert_array_equal(found, wanted)
