"""Detectron2's interface: ground truth found by file name, all layouts, and results gathered from two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

from ovseg.data.coco_json import read_coco_json
from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.evaluation import InstanceEvaluator, InstanceMasks, true_instances
from ovseg.evaluation.metrics.detectron2_adapters import (
    InstanceDatasetEvaluator,
    PanopticDatasetEvaluator,
    PromptDatasetEvaluator,
    ReferringDatasetEvaluator,
    SemanticDatasetEvaluator,
)

SIZE = (8, 10)
CATEGORIES = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]


def write_panoptic(folder: Path, images: int) -> Dataset:
    """Two cats on a sky in each image; a void corner."""
    listed, annotations = [], []
    for number in range(images):
        ids = np.full(SIZE, 5)
        ids[2:5, 1:4], ids[4:8, 6 : 8 + number % 2], ids[0, 0] = 300, 7, 0
        rgb = np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{number}.png")
        Image.fromarray(rgb).save(folder / f"{number}.jpg")
        infos = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((5, 9), (300, 3), (7, 3))]
        listed.append({"id": number, "file_name": f"{number}.jpg", "height": SIZE[0], "width": SIZE[1]})
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    path = folder / "panoptic.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": CATEGORIES}))
    return read_coco_json(path, folder, folder)


def perfect(dataset: Dataset, record: dict[str, Any]) -> dict[str, Any]:
    """What a model returns that knows the truth."""
    segments = dataset.read_segments(record, SIZE)
    cats = np.flatnonzero(segments.classes == 0)
    objects = Instances(
        SIZE,
        pred_masks=torch.from_numpy(np.stack([segments.ids == i for i in cats])),
        pred_classes=torch.zeros(len(cats), dtype=torch.long),
        scores=torch.ones(len(cats)),
    )
    infos = [{"id": i + 1, "category_id": int(c), "isthing": c == 0} for i, c in enumerate(segments.classes)]
    return {
        "labels": torch.from_numpy(segments.semantic()),
        "panoptic_seg": (torch.from_numpy(segments.ids + 1), infos),
        "instances": objects,
    }


def inputs(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"file_name": record["file_name"], "height": SIZE[0], "width": SIZE[1]}]


def test_perfect_results_have_a_hundred_percent(tmp_path: Path) -> None:
    dataset = write_panoptic(tmp_path, 3)
    evaluators = [
        SemanticDatasetEvaluator(dataset, novel=[True, False], boundary=True),
        PanopticDatasetEvaluator(dataset, novel=[True, False]),
        InstanceDatasetEvaluator(dataset, novel=[True, False]),
    ]
    for evaluator in evaluators:
        evaluator.reset()
        for record in dataset.records:
            evaluator.process(inputs(record), [perfect(dataset, record)])
    semantic, panoptic, instance = (evaluator.evaluate() for evaluator in evaluators)
    assert semantic["sem_seg"]["miou_all"] == semantic["sem_seg"]["novel_miou"] == 100
    assert semantic["sem_seg"]["boundary_miou"] == 100 and semantic["sem_seg"]["total"] == 2
    assert panoptic["panoptic_seg"]["pq_stuff"] == panoptic["panoptic_seg"]["pq_novel"] == 100
    assert instance["segm"]["ap"] == pytest.approx(100) and instance["segm"]["ap_base"] is None
    assert evaluators[0].evaluate() == semantic  # asking twice counts nothing twice


def test_scores_of_all_classes_are_labelled_by_the_best(tmp_path: Path) -> None:
    dataset = write_panoptic(tmp_path, 1)
    scores = torch.zeros(2, *SIZE)
    scores[1] = 1
    evaluator = SemanticDatasetEvaluator(dataset)
    evaluator.process(inputs(dataset.records[0]), [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["pixel_accuracy"] == pytest.approx(100 * 62 / 79, abs=1e-4)


def test_an_image_of_another_data_set_is_named(tmp_path: Path) -> None:
    evaluator = SemanticDatasetEvaluator(write_panoptic(tmp_path, 1))
    with pytest.raises(InputError, match=r"image 'other\.jpg' is not in"):
        evaluator.process([{"file_name": "other.jpg", "height": 8, "width": 10}], [{}])


def test_prompts_bring_their_masks_along() -> None:
    mask, void = torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    mask[:2], void[0, :3] = True, True
    scores = torch.full((4, 6), 0.2)
    scores[:3] = 0.8  # 9 right and 6 wrong of those that count
    prompts, referring = PromptDatasetEvaluator(), ReferringDatasetEvaluator()
    prompts.process([{"mask": mask, "void": void}], [{"scores": scores}])
    referring.process([{"mask": mask, "void": void}], [{"found": scores > 0.5}])
    assert prompts.evaluate()["prompts"]["miou"] == referring.evaluate()["referring"]["mean_iou"] == 60
    assert prompts.evaluate()["prompts"]["ap"] == 60 and referring.evaluate()["referring"]["expressions"] == 1
    prompts.reset()
    assert prompts.evaluate()["prompts"]["prompts"] == 0
    with pytest.raises(InputError, match=r"inputs have \['mask'\] and outputs \[\]; expected 'mask' and 'scores'"):
        prompts.process([{"mask": mask}], [{}])


def test_overlapping_outlines_of_instances_stay_whole(tmp_path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "0.jpg")
    boxes = {9: [0, 0, 8, 0, 8, 8, 0, 8], 3: [2, 2, 6, 2, 6, 6, 2, 6]}
    annotations = [
        {"id": i, "image_id": 0, "category_id": c, "segmentation": [outline], "iscrowd": 0}
        for i, (c, outline) in enumerate(boxes.items(), 1)
    ]
    path = tmp_path / "instances.json"
    images = [{"id": 0, "file_name": "0.jpg", "height": SIZE[0], "width": SIZE[1]}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    dataset = read_coco_json(path, tmp_path)
    truth = true_instances(dataset, dataset.records[0], SIZE)
    assert truth.classes.tolist() == [1, 0] and truth.areas.tolist() == [64, 16]
    evaluator = InstanceEvaluator(2)
    evaluator.add(0, truth, InstanceMasks(SIZE, truth.rles, truth.classes, np.ones(2), truth.crowd, truth.areas))
    assert evaluator.evaluate().ap == pytest.approx(1)


TWO = """
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("adapters", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
import torch.distributed as dist
from ovseg.engine.launch import leave_group
rank, folder = int(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
dataset = tests.read_coco_json(folder / "panoptic.json", folder, folder)
kinds = tests.SemanticDatasetEvaluator, tests.PanopticDatasetEvaluator, tests.InstanceDatasetEvaluator
found = []
for kind in kinds:
    evaluator = kind(dataset)
    for record in dataset.records[rank::2]:
        evaluator.process(tests.inputs(record), [tests.perfect(dataset, dataset.records[0])])
    found.append(evaluator.evaluate())
assert all(one is None for one in found) == bool(rank)
if not rank:
    (folder / "found.json").write_text(json.dumps(found))
leave_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    dataset = write_panoptic(tmp_path, 3)
    command = [sys.executable, "-c", TWO, __file__]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    expected = []
    for kind in (SemanticDatasetEvaluator, PanopticDatasetEvaluator, InstanceDatasetEvaluator):
        evaluator = kind(dataset)
        for record in dataset.records:
            evaluator.process(inputs(record), [perfect(dataset, dataset.records[0])])
        expected.append(evaluator.evaluate())
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert json.loads((tmp_path / "found.json").read_text()) == expected
    assert 50 < expected[0]["sem_seg"]["miou_present"] < 100
