"""Segments and objects in Detectron2's format, as its evaluators take them."""

from __future__ import annotations

import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ovseg.errors import ConfigError
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.objects import MaskRule, object_results

PLAN = plan_resize((8, 8), (32, 32), (30, 28), (45, 42))
CLASSES, THINGS = torch.tensor([0, 1, 2, -1]), [True, False, True]


def outputs(rule):
    torch.manual_seed(0)
    probabilities = (torch.randn(12, 5) * 3).softmax(-1)
    return object_results(probabilities, torch.randn(12, 8, 8) * 4, PLAN, rule, CLASSES, THINGS)


def test_only_what_is_wanted():
    assert outputs(MaskRule()) == {} and not MaskRule().objects
    assert list(outputs(MaskRule(panoptic=True))) == ["panoptic_seg"]
    assert list(outputs(MaskRule(instances=True))) == ["instances"]


def test_panoptic():
    ids, infos = outputs(MaskRule(panoptic=True, object_threshold=0.0, overlap_threshold=0.1))["panoptic_seg"]
    assert ids.shape == (45, 42) and ids.dtype == torch.int32 and infos
    assert sorted({0, *(info["id"] for info in infos)}) == sorted({0, *ids.unique().tolist()})
    for info in infos:
        assert info["isthing"] is THINGS[info["category_id"]] and 0 <= info["score"] <= 1
    stuff = [info["category_id"] for info in infos if not info["isthing"]]
    assert len(stuff) == len(set(stuff))


def test_instances():
    every = outputs(MaskRule(instances=True, top_k=20))["instances"]
    assert every.image_size == (45, 42) and len(every) == 20 and every.pred_masks.shape == (20, 45, 42)
    assert set(every.pred_classes.tolist()) == {0, 1, 2}
    things = outputs(MaskRule(panoptic=True, instances=True, top_k=20))["instances"]
    assert set(things.pred_classes.tolist()) == {0, 2}
    lines = instances_to_coco_json(every, 7)
    assert len(lines) == 20 and lines[0]["image_id"] == 7 and lines[0]["score"] >= lines[-1]["score"]


@pytest.mark.parametrize("wrong", [{"object_threshold": 1.5}, {"overlap_threshold": -0.1}, {"top_k": 0}])
def test_mistakes(wrong):
    with pytest.raises(ConfigError, match=r"expected shares in 0\.\.1"):
        MaskRule(**wrong)
