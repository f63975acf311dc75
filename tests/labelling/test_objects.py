"""Segments and objects of masks, and the same in Detectron2's format, as its evaluators take them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ovseg.contract import Answer
from ovseg.errors import ConfigError
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.objects import MaskRule, object_results
from ovseg.meta_arch.detectron2_format import to_detectron2
from tests.words import make_words

PLAN = plan_resize((8, 8), (32, 32), (30, 28), (45, 42))
WORDS = make_words(torch.eye(4), torch.tensor([0, 1, 2, -1]), things=[0, 2])


def outputs(want, **rule):
    torch.manual_seed(0)
    probabilities = (torch.randn(12, 5) * 3).softmax(-1)
    return object_results(probabilities, torch.randn(12, 8, 8) * 4, PLAN, MaskRule(**rule), WORDS, frozenset(want))


def test_only_what_is_wanted():
    both = {"panoptic": True, "instances": True}
    assert outputs([], **both) == {} and MaskRule(**both).objects and not MaskRule().objects
    assert list(outputs(["panoptic"], **both)) == ["panoptic"]
    assert list(outputs(["instances"], **both)) == ["instances"]


def test_panoptic():
    found = outputs(["panoptic"], panoptic=True, object_threshold=0.0, overlap_threshold=0.1)["panoptic"]
    assert found.ids.shape == (45, 42) and found.segments
    for segment in found.segments:
        assert segment.is_thing is (segment.class_id in (0, 2)) and 0 <= segment.score <= 1
    stuff = [segment.class_id for segment in found.segments if not segment.is_thing]
    assert len(stuff) == len(set(stuff))


def test_instances():
    every = outputs(["instances"], instances=True, top_k=20)["instances"]
    assert len(every) == 20 and all(own.mask().shape == (45, 42) for own in every)
    assert {own.class_id for own in every} == {0, 1, 2}
    things = outputs(["instances"], panoptic=True, instances=True, top_k=20)["instances"]
    assert {own.class_id for own in things} == {0, 2}


def test_detectron2s_evaluators_take_them():
    found = outputs(["panoptic", "instances"], panoptic=True, instances=True, object_threshold=0.0, top_k=20)
    answer = Answer(torch.zeros(45, 42, dtype=torch.int32), torch.zeros(45, 42), **found)
    output = to_detectron2(answer)
    ids, infos = output["panoptic_seg"]
    assert torch.equal(ids, torch.from_numpy(found["panoptic"].ids))
    assert [info["id"] for info in infos] == [segment.id for segment in found["panoptic"].segments]
    objects = output["instances"]
    assert objects.image_size == (45, 42) and objects.pred_masks.shape == (len(objects), 45, 42)
    for own, mask, box in zip(found["instances"], objects.pred_masks, objects.pred_boxes.tensor.tolist(), strict=True):
        assert np.array_equal(own.mask(), mask.numpy())
        assert box == [own.bbox[0], own.bbox[1], own.bbox[0] + own.bbox[2], own.bbox[1] + own.bbox[3]]
    lines = instances_to_coco_json(objects, 7)
    assert len(lines) == len(objects) and lines[0]["image_id"] == 7 and lines[0]["score"] >= lines[-1]["score"]
    empty = to_detectron2(Answer(answer.labels, answer.scores, instances=()))["instances"]
    assert len(empty) == 0 and empty.pred_masks.shape == (0, 45, 42)


@pytest.mark.parametrize("wrong", [{"object_threshold": 1.5}, {"overlap_threshold": -0.1}, {"top_k": 0}])
def test_mistakes(wrong):
    with pytest.raises(ConfigError, match=r"expected shares in 0\.\.1"):
        MaskRule(**wrong)
