"""The evaluators in Detectron2's loops: ground truth from a data set of ours, results gathered from all processes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.evaluation.instance import InstanceEvaluator, InstanceMasks, true_instances
from ovseg.evaluation.panoptic import PanopticEvaluator
from ovseg.evaluation.segments import from_panoptic_seg
from ovseg.evaluation.semantic import SemanticEvaluator

Results = OrderedDict[str, dict[str, float | None]]


class _Gathered(DatasetEvaluator):
    """One of our evaluators behind Detectron2's interface."""

    task: str

    def __init__(self, dataset: Dataset, evaluator: Any) -> None:
        self.dataset = dataset
        self.evaluator = evaluator
        self.records = {record["file_name"]: record for record in dataset.records}

    def reset(self) -> None:
        """Forget all images."""
        self.evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add images.

        Args:
            inputs: Detectron2's dataset dicts; ``file_name`` finds the ground truth, ``height`` and ``width`` its size.
            outputs: What the model returned for them.

        Raises:
            InputError: An image is not in the data set, or its result does not fit its ground truth.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            if entry["file_name"] not in self.records:
                raise InputError(
                    f"image '{entry['file_name']}' is not in '{self.dataset.name}'; expected one of its own"
                )
            self._add(self.records[entry["file_name"]], (entry["height"], entry["width"]), output)

    def evaluate(self) -> Results | None:
        """Return the numbers in percent, with counts as they are; None on all processes but the first."""
        comm.synchronize()
        parts = comm.gather(self.evaluator)
        if not comm.is_main_process():
            return None
        whole = copy.deepcopy(parts[0])
        for part in parts[1:]:
            whole.merge(part)
        numbers = whole.evaluate().to_json()
        return OrderedDict({self.task: {k: 100 * v if isinstance(v, float) else v for k, v in numbers.items()}})

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        raise NotImplementedError


class SemanticDatasetEvaluator(_Gathered):
    """mIoU and its kin of ``labels`` (H, W), or of the argmax of ``sem_seg`` (K, H, W) where a model has no labels."""

    task = "sem_seg"

    def __init__(self, dataset: Dataset, novel: Sequence[bool] | None = None, boundary: bool = False) -> None:
        """Start empty; see `SemanticEvaluator`."""
        super().__init__(dataset, SemanticEvaluator(len(dataset.classes), _things(dataset), novel, boundary))

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        labels = output["labels"] if "labels" in output else output["sem_seg"].argmax(0)
        truth = self.dataset.read_segments(record, size).semantic()
        self.evaluator.add(truth, np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels))


class PanopticDatasetEvaluator(_Gathered):
    """PQ, SQ and RQ of ``panoptic_seg``, whose ``category_id`` is the position of the class in the list."""

    task = "panoptic_seg"

    def __init__(self, dataset: Dataset, novel: Sequence[bool] | None = None) -> None:
        """Start empty; see `PanopticEvaluator`."""
        super().__init__(dataset, PanopticEvaluator(len(dataset.classes), _things(dataset), novel))

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        self.evaluator.add(self.dataset.read_segments(record, size), from_panoptic_seg(*output["panoptic_seg"]))


class InstanceDatasetEvaluator(_Gathered):
    """AP and AR of ``instances``: their ``pred_masks``, ``pred_classes`` and ``scores``."""

    task = "segm"

    def __init__(self, dataset: Dataset, novel: Sequence[bool] | None = None) -> None:
        """Start empty; see `InstanceEvaluator`."""
        super().__init__(dataset, InstanceEvaluator(len(dataset.classes), novel))

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        found = output["instances"]
        prediction = InstanceMasks.from_masks(found.pred_masks, found.pred_classes, found.scores)
        self.evaluator.add(record["file_name"], true_instances(self.dataset, record, size), prediction)


def _things(dataset: Dataset) -> list[bool]:
    return [entry.is_thing for entry in dataset.classes]
