"""The version of the measures is tied to numbers of a fixed small input: who changes the numbers has to raise it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.contract import INSTANCES
from ovseg.data.coco_json import read_coco_json
from ovseg.evaluation.metrics.instance_masks import InstanceMasks
from ovseg.evaluation.metrics.prompts import PromptEvaluator, ReferringEvaluator
from ovseg.evaluation.runs.image_log import ImageRecord
from ovseg.evaluation.runs.measures import THRESHOLD, VERSION, Found, Measures
from ovseg.system.values import plain

NUMBERS = {
    1: {
        "semantic.miou_present": 0.752052, "semantic.miou_seen": 0.752052, "semantic.miou_all": 0.752052,
        "semantic.present": 3, "semantic.seen": 3, "semantic.total": 3, "semantic.pixel_accuracy": 0.838401,
        "semantic.mean_accuracy": 0.839536, "semantic.frequency_weighted_iou": 0.748698,
        "semantic.boundary_miou": 0.176749, "semantic.foreground_miou": 0.749124, "semantic.base_miou": 0.779298,
        "semantic.novel_miou": 0.697561, "semantic.base_present": 2, "semantic.novel_present": 1,
        "semantic.void_share": 0.075, "semantic.no_class_share": 0.041667, "panoptic.pq": 0.75317,
        "panoptic.sq": 0.75317, "panoptic.rq": 1.0, "panoptic.classes": 3, "panoptic.pq_things": 0.750778,
        "panoptic.sq_things": 0.750778, "panoptic.rq_things": 1.0, "panoptic.classes_things": 2,
        "panoptic.pq_stuff": 0.757956, "panoptic.sq_stuff": 0.757956, "panoptic.rq_stuff": 1.0,
        "panoptic.classes_stuff": 1, "panoptic.pq_base": 0.780984, "panoptic.sq_base": 0.780984,
        "panoptic.rq_base": 1.0, "panoptic.classes_base": 2, "panoptic.pq_novel": 0.697543,
        "panoptic.sq_novel": 0.697543, "panoptic.rq_novel": 1.0, "panoptic.classes_novel": 1,
        "panoptic.pq_present": 0.75317, "panoptic.pq_all": 0.75317, "panoptic.present": 3, "panoptic.total": 3,
        "instance.ap": 0.550495, "instance.ap50": 1.0, "instance.ap75": 0.5, "instance.ap_small": 0.550495,
        "instance.ap_medium": None, "instance.ap_large": None, "instance.ar_1": 0.55, "instance.ar_10": 0.55,
        "instance.ar_100": 0.55, "instance.ap_all": 0.366997, "instance.ap_base": 0.70099, "instance.ap_novel": 0.4,
        "instance.present": 2, "instance.total": 3, "calibration.expected_calibration_error": 0.424506,
        "prompt.miou": 0.723787, "prompt.foreground_iou": 0.717842, "prompt.binary_iou": 0.839459,
        "prompt.ap": 0.937987, "prompt.best_miou": 0.725505, "prompt.best_miou_threshold": 0.45,
        "prompt.best_foreground_iou": 0.734848, "prompt.best_foreground_threshold": 0.45, "prompt.threshold": 0.5,
        "prompt.prompts": 2, "referring.overall_iou": 0.717842, "referring.mean_iou": 0.723787,
        "referring.precision_50": 1.0, "referring.precision_60": 1.0, "referring.precision_70": 0.5,
        "referring.precision_80": 0.0, "referring.precision_90": 0.0, "referring.no_target_accuracy": None,
        "referring.expressions": 2, "referring.no_target": 0,
    }
}  # fmt: skip
"""Of each version; a new one gets an entry of its own here, and the old one goes."""


Y, X = np.mgrid[:40, :48]


def panoptic(folder: Path) -> Path:
    """Two images of two things and one stuff class, drawn by a rule."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    y, x = Y, X
    for i in range(2):
        ids = np.ones((40, 48), np.int64)
        ids[(x - 12) ** 2 + (y - 14) ** 2 < 80 + 10 * i] = 2
        ids[(x > 28) & (y > 8 + i) & (x < 44)] = 3
        ids[:3] = 0
        Image.fromarray(np.dstack([ids, 0 * ids, 0 * ids]).astype(np.uint8)).save(folder / f"panoptic/{i}.png")
        Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(folder / f"images/{i}.png")
        segments = [
            {"id": n, "category_id": c, "iscrowd": 0, "area": int((ids == n).sum())} for n, c in enumerate((3, 1, 2), 1)
        ]
        images.append({"id": i, "file_name": f"{i}.png", "height": 40, "width": 48})
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    names = [("cat", 1), ("dog", 1), ("grass", 0)]
    categories = [{"id": n, "name": name, "isthing": thing} for n, (name, thing) in enumerate(names, 1)]
    (folder / "panoptic.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder


def found(shift: int) -> Found:
    """Predictions that are off by some pixels."""
    y, x = Y, X
    labels = np.full((40, 48), 2, np.int32)
    cat, dog = (x - 12 - shift) ** 2 + (y - 14) ** 2 < 85, (x > 30) & (y > 10 + shift) & (x < 46)
    labels[cat], labels[dog], labels[:, :2] = 0, 1, -1
    scores = ((x + y) / 100).astype(np.float32)
    objects = InstanceMasks.from_masks(np.stack([cat, dog]), np.array([0, 1]), np.array([0.9, 0.8]))
    return Found(labels, scores, objects=objects)


def numbers(folder: Path) -> dict[str, Any]:
    dataset = read_coco_json(folder / "panoptic.json", folder / "images", folder / "panoptic")
    measures = Measures(dataset, ("semantic", "panoptic", "instance"), [False, True, False], boundary=True)
    assert INSTANCES in measures.want
    images = []
    for index, record in enumerate(dataset.records):
        rows, scores = measures.measure(record, dataset.read_segments(record, (40, 48)), found(index + 1))
        images.append(ImageRecord(index, str(index), (40, 48), scores=scores, measured=json.loads(json.dumps(rows))))
    every = {task: plain(result.to_json()) for task, result in measures.results(images).items()}
    for task, evaluator in (("prompt", PromptEvaluator()), ("referring", ReferringEvaluator())):
        for radius in (50, 90):
            mask = (X - 20) ** 2 + (Y - 20) ** 2 < radius
            scores = np.clip(1 - np.hypot(X - 21, Y - 20) / 16, 0, 1).astype(np.float32)
            evaluator.count(evaluator.measure(mask, scores if task == "prompt" else scores >= THRESHOLD))
        every[task] = plain(evaluator.evaluate().to_json())
    return {f"{task}.{name}": value for task, result in every.items() for name, value in result.items()}


def test_the_numbers_are_those_of_the_version(tmp_path: Path) -> None:
    """Where this fails, a measure gives other numbers than it did: raise `measures.VERSION`, and put them here."""
    assert list(NUMBERS) == [VERSION]
    assert numbers(panoptic(tmp_path / "data")) == pytest.approx(NUMBERS[VERSION], abs=1e-9, nan_ok=True)
