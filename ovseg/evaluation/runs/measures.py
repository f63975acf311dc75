"""What is measured on an image, whatever made its labels, and the sums over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovseg import contract
from ovseg.data.dataset import INSTANCE, PANOPTIC, PROMPTS, SEMANTIC, Dataset, Segments, draw_outline
from ovseg.errors import ConfigError
from ovseg.evaluation.metrics.calibration import CalibrationEvaluator, CalibrationRecord
from ovseg.evaluation.metrics.common import mean
from ovseg.evaluation.metrics.instance import InstanceEvaluator, InstanceRecord
from ovseg.evaluation.metrics.instance_masks import InstanceMasks, true_instances
from ovseg.evaluation.metrics.panoptic import PanopticEvaluator, PanopticRecord
from ovseg.evaluation.metrics.prompts import PromptEvaluator, PromptRecord, ReferringEvaluator, ReferringRecord
from ovseg.evaluation.metrics.segments import from_labels
from ovseg.evaluation.metrics.semantic import SemanticEvaluator, SemanticRecord
from ovseg.evaluation.runs.image_log import ImageRecord

VERSION = 1
"""Of all that turns ground truth and predictions into numbers; raised with every change that changes a number, so that
no run goes on with numbers of both kinds (tests/evaluation/runs/test_measures.py holds the numbers of each version)."""

CALIBRATION = "calibration"
PROMPT, REFERRING = "prompt", "referring"
TASKS = {
    SEMANTIC: (SEMANTIC,),
    PANOPTIC: (SEMANTIC, PANOPTIC, INSTANCE),
    INSTANCE: (SEMANTIC, INSTANCE),
    PROMPTS: (PROMPT, REFERRING),
}
"""What the ground truth of each kind of data set can judge."""
THRESHOLD = 0.5
"""From here on a pixel is what a prompt asks for."""

RECORDS: dict[str, Any] = {
    SEMANTIC: SemanticRecord,
    PANOPTIC: PanopticRecord,
    INSTANCE: InstanceRecord,
    CALIBRATION: CalibrationRecord,
    PROMPT: PromptRecord,
    REFERRING: ReferringRecord,
}


@dataclass(frozen=True, eq=False)
class Found:
    """What was predicted for one image, in the ids of the data set's classes.

    Attributes:
        labels: (H, W) int32; -1 no class.
        scores: (H, W) float32 in 0..1, -1 where a class was given without one; None where they were not kept.
        segments: What a model that tells objects apart calls segments; None from others.
        objects: Objects, which may overlap; None from models that give none.
        seconds: Time of the model; 0 for what was read from files.
        notes: What the reader of the result should know.
        prompts: For each class that was asked for by itself its scores (H, W) float32 in 0..1; None where all were
            asked for at once.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    segments: Segments | None = None
    objects: InstanceMasks | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    prompts: dict[int, np.ndarray] | None = None


def choose_tasks(dataset: Dataset, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks to evaluate: those that are wanted, or all that the ground truth can judge.

    Raises:
        ConfigError: A task is unknown or the ground truth cannot judge it.
    """
    possible = TASKS[dataset.kind]
    for task in wanted:
        if task not in possible:
            raise ConfigError(
                f"task '{task}' cannot be judged by the {dataset.kind} ground truth of '{dataset.name}'; expected "
                f"--tasks {','.join(possible)}"
            )
    return tuple(task for task in possible if task in wanted) if wanted else possible


class Measures:
    """The evaluators of a run. A run measures images in any process and counts their records in order in one."""

    def __init__(
        self,
        dataset: Dataset,
        tasks: Sequence[str],
        novel: Sequence[bool] | None = None,
        boundary: bool = False,
    ) -> None:
        """Start empty; `novel` are flags by class, `boundary` asks for Boundary IoU.

        Raises:
            InputError: Flags do not fit the number of classes.
            ConfigError: Flags or Boundary IoU are asked for, and there are prompts.
        """
        self.dataset, count = dataset, len(dataset.classes)
        things = [entry.is_thing for entry in dataset.classes]
        self.things = np.array(things, bool)
        self.evaluators: dict[str, Any]
        if dataset.kind == PROMPTS:  # as many words as prompts: no table of pairs of them
            if boundary or novel is not None:
                raise ConfigError(
                    f"'{dataset.name}' has prompts; --boundary and --novel measure classes, so leave them out"
                )
            asked: dict[str, Any] = {PROMPT: PromptEvaluator(), REFERRING: ReferringEvaluator()}
            self.evaluators = {task: asked[task] for task in tasks}
            return
        every: dict[str, Any] = {
            SEMANTIC: SemanticEvaluator(count, things, novel, boundary),
            PANOPTIC: PanopticEvaluator(count, things, novel),
            INSTANCE: InstanceEvaluator(count, novel),
        }
        self.evaluators = {task: every[task] for task in tasks}
        self.evaluators[CALIBRATION] = CalibrationEvaluator(count)

    @property
    def want(self) -> frozenset[str]:
        """What is asked of a model, by the names of `ovseg.contract.WANTS`."""
        judged = {PANOPTIC: contract.PANOPTIC, INSTANCE: contract.INSTANCES}
        return contract.LABELS | {name for task, name in judged.items() if task in self.evaluators}

    def measure(
        self, record: dict[str, Any], truth: Segments, found: Found
    ) -> tuple[dict[str, Any], dict[str, float | None]]:
        """Compare one image with its ground truth.

        Returns:
            For each task its record as JSON values, and the numbers of the image alone.

        Raises:
            InputError: The prediction does not fit the ground truth.
        """
        if found.prompts is not None:
            return self._measure_prompts(record, found.prompts, found.labels.shape)
        target, rows = truth.semantic(), {}
        scores: dict[str, float | None] = {}
        if SEMANTIC in self.evaluators:
            rows[SEMANTIC] = self.evaluators[SEMANTIC].measure(target, found.labels)
            scores |= self._image_scores(rows[SEMANTIC])
        if PANOPTIC in self.evaluators:
            segments = from_labels(found.labels) if found.segments is None else found.segments
            rows[PANOPTIC] = self.evaluators[PANOPTIC].measure(truth, segments)
            scores["pq"] = _json(rows[PANOPTIC].pq())
        if INSTANCE in self.evaluators and found.objects is not None:
            own = true_instances(self.dataset, record, target.shape)
            # One of its own, for the checks: objects are counted later.
            rows[INSTANCE] = InstanceEvaluator(len(self.things)).add(record["image_id"], own, found.objects)
        if found.scores is not None:
            rows[CALIBRATION] = self.evaluators[CALIBRATION].measure(target, found.labels, found.scores)
        return {task: row.to_json() for task, row in rows.items()}, scores

    def _measure_prompts(
        self, record: dict[str, Any], prompts: dict[int, np.ndarray], size: tuple[int, ...]
    ) -> tuple[dict[str, Any], dict[str, float | None]]:
        """Compare each prompt of an image with its mask; there is a record for each."""
        rows: dict[str, list[Any]] = {task: [] for task in self.evaluators}
        ious = []
        for annotation in record["annotations"]:
            place = int(self.dataset.remap[annotation["category_id"]])
            if place < 0:
                continue
            mask = draw_outline(record, annotation, (size[0], size[1]))
            for task, evaluator in self.evaluators.items():
                given = prompts[place] if task == PROMPT else prompts[place] >= THRESHOLD
                rows[task].append(evaluator.measure(mask, given).to_json())
            ious.append(ReferringEvaluator().measure(mask, prompts[place] >= THRESHOLD).iou())
        return dict(rows), {"miou": _json(mean(np.array(ious, np.float64)))}

    def _image_scores(self, row: SemanticRecord) -> dict[str, float | None]:
        hits, truth, predicted = row.table(len(self.things))
        shown = truth > 0
        iou = hits[shown] / (truth + predicted - hits)[shown]
        return {
            "miou": _json(mean(iou)),
            "things_miou": _json(mean(iou[self.things[shown]])),
            "pixel_accuracy": _json(float(hits.sum() / truth.sum()) if shown.any() else float("nan")),
        }

    def results(self, images: Sequence[ImageRecord]) -> dict[str, Any]:
        """Sum over images.

        Returns:
            For each task that has images what its evaluator gives (`SemanticResult`, ...).
        """
        found = {}
        for task, evaluator in self.evaluators.items():
            measured = [image.measured[task] for image in images if task in image.measured]
            rows = [RECORDS[task].from_json(one) for part in measured for one in _each(part)]
            evaluator.reset()
            for row in rows:
                evaluator.count(row)
            if rows:
                found[task] = evaluator.evaluate()
        return found


def _each(measured: Any) -> list[Any]:
    """Return the records of an image: one, or one for each of its prompts."""
    return measured if isinstance(measured, list) else [measured]


def _json(value: float) -> float | None:
    """Return a number as JSON has it: None for NaN."""
    return float(value) if np.isfinite(value) else None
