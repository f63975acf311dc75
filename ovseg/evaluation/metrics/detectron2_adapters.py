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
from ovseg.evaluation.metrics.instance import InstanceEvaluator
from ovseg.evaluation.metrics.instance_masks import InstanceMasks, true_instances
from ovseg.evaluation.metrics.panoptic import PanopticEvaluator
from ovseg.evaluation.metrics.prompts import PromptEvaluator, ReferringEvaluator
from ovseg.evaluation.metrics.segments import from_ids
from ovseg.evaluation.metrics.semantic import SemanticEvaluator

Results = OrderedDict[str, dict[str, float | None]]


class _Gathered(DatasetEvaluator):
    """One of our evaluators behind Detectron2's interface."""

    task: str

    def __init__(self, evaluator: Any) -> None:
        self.evaluator = evaluator

    def reset(self) -> None:
        """Forget all images."""
        self.evaluator.reset()

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


class _Compared(_Gathered):
    """With the ground truth of a data set."""

    def __init__(self, dataset: Dataset, evaluator: Any) -> None:
        super().__init__(evaluator)
        self.dataset = dataset
        self.records = {record["file_name"]: record for record in dataset.records}

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

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        raise NotImplementedError


class SemanticDatasetEvaluator(_Compared):
    """mIoU and its kin of ``labels`` (H, W), or of the argmax of ``sem_seg`` (K, H, W) where a model has no labels."""

    task = "sem_seg"

    def __init__(self, dataset: Dataset, novel: Sequence[bool] | None = None, boundary: bool = False) -> None:
        """Start empty; see `SemanticEvaluator`."""
        super().__init__(dataset, SemanticEvaluator(len(dataset.classes), _things(dataset), novel, boundary))

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        labels = output["labels"] if "labels" in output else output["sem_seg"].argmax(0)
        truth = self.dataset.read_segments(record, size).semantic()
        self.evaluator.add(truth, _array(labels))


class PanopticDatasetEvaluator(_Compared):
    """PQ, SQ and RQ of ``panoptic_seg``, whose ``category_id`` is the position of the class in the list."""

    task = "panoptic_seg"

    def __init__(self, dataset: Dataset, novel: Sequence[bool] | None = None) -> None:
        """Start empty; see `PanopticEvaluator`."""
        super().__init__(dataset, PanopticEvaluator(len(dataset.classes), _things(dataset), novel))

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        ids, infos = output["panoptic_seg"]
        order, classes = ([int(info[key]) for info in infos] for key in ("id", "category_id"))
        self.evaluator.add(self.dataset.read_segments(record, size), from_ids(_array(ids), order, classes))


class InstanceDatasetEvaluator(_Compared):
    """AP and AR of ``instances``: their ``pred_masks``, ``pred_classes`` and ``scores``."""

    task = "segm"

    def __init__(self, dataset: Dataset, novel: Sequence[bool] | None = None) -> None:
        """Start empty; see `InstanceEvaluator`."""
        super().__init__(dataset, InstanceEvaluator(len(dataset.classes), novel))

    def _add(self, record: dict[str, Any], size: tuple[int, int], output: dict[str, Any]) -> None:
        found = output["instances"]
        prediction = InstanceMasks.from_masks(found.pred_masks, found.pred_classes, found.scores)
        self.evaluator.add(record["file_name"], true_instances(self.dataset, record, size), prediction)


class _Prompted(_Gathered):
    """With ground truth that comes along in the inputs: ``mask`` (H, W) bool, and ``void`` where some do not count."""

    compared: str

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add prompts.

        Args:
            inputs: One dict for each pair of an image and a prompt.
            outputs: What the model returned for them.

        Raises:
            InputError: An input has no mask, an output lacks what is compared, or sizes differ.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            if "mask" not in entry or self.compared not in output:
                raise InputError(
                    f"inputs have {sorted(entry)} and outputs {sorted(output)}; expected 'mask' and '{self.compared}'"
                )
            void = entry.get("void")
            self.evaluator.add(
                _array(entry["mask"]), _array(output[self.compared]), None if void is None else _array(void)
            )


class PromptDatasetEvaluator(_Prompted):
    """mIoU, FgIoU and AP of ``scores`` (H, W), 0..1, one prompt at a time."""

    task, compared = "prompts", "scores"

    def __init__(self, threshold: float = 0.5, steps: int = 101) -> None:
        """Start empty; see `PromptEvaluator`."""
        super().__init__(PromptEvaluator(threshold, steps))


class ReferringDatasetEvaluator(_Prompted):
    """Overall and mean IoU of ``found`` (H, W) bool, one expression at a time."""

    task, compared = "referring", "found"

    def __init__(self) -> None:
        """Start empty."""
        super().__init__(ReferringEvaluator())


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)


def _things(dataset: Dataset) -> list[bool]:
    return [entry.is_thing for entry in dataset.classes]
