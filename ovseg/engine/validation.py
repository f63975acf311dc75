"""Validation while training: the test sets by the way and the measures of `ovseg eval`.

It stands beside the training and never in its way: an image that cannot be used is left out, named and counted, and
whatever else fails here is said and ends nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.utils import comm

from ovseg.data.dataset import INSTANCE, PANOPTIC, SEMANTIC
from ovseg.engine.pace import Pace, log
from ovseg.engine.run_data import TestSet
from ovseg.errors import InputError
from ovseg.evaluation.reports.page import percent
from ovseg.evaluation.runs.image_log import ImageRecord
from ovseg.evaluation.runs.measures import PROMPT, REFERRING
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.worker import Worker
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.segmenter import Segmenter
from ovseg.system.values import some

Scores = dict[str, dict[str, Any]]
"""For each task that a data set can judge the numbers of its result, as in ``result.json``."""

BESIDES = (
    (PANOPTIC, "pq", "PQ"),
    (INSTANCE, "ap", "AP"),
    (PROMPT, "miou", "mIoU of prompts"),
    (REFERRING, "overall_iou", "oIoU"),
)
"""What the line of a validation says beside the semantic numbers: task, name and text."""


@dataclass(frozen=True)
class Outcome:
    """What a validation on a data set has brought.

    Attributes:
        scores: By task.
        images: So many were measured.
        failed: Why each of the others was not, by its name.
        trained_on: So many of its images are training images.
        problem: Why there are no scores at all; empty if there are.
    """

    scores: Scores = field(default_factory=dict)
    images: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    trained_on: int = 0
    problem: str = ""

    def flat(self) -> dict[str, Any]:
        """Return the numbers for the log: by the names that they always had, and by task for what is not semantic."""
        found = flat(self.scores)
        counts = {"images_failed": len(self.failed), "images_trained_on": self.trained_on}
        return found | {key: count for key, count in counts.items() if count}

    def line(self, name: str) -> str:
        """Return the line for people."""
        if self.problem:
            return f"{name}: validation failed, there is no number: {self.problem}"
        said = [f"{name}: {_numbers(self.scores)}"]
        if self.failed:
            named = some([f"'{image}' ({reason})" for image, reason in self.failed.items()])
            said.append(f"{len(self.failed)} of {self.images + len(self.failed)} images left out: {named}")
        if self.trained_on:
            said.append(f"{self.trained_on} of its images were trained on: this is no measure of how new ones fare")
        return "; ".join(said)


def flat(scores: Scores) -> dict[str, Any]:
    """Return numbers by name, those of tasks that are not semantic behind the name of the task."""
    return {
        name if task == SEMANTIC else f"{task}/{name}": value
        for task, numbers in scores.items()
        for name, value in numbers.items()
        if value is not None
    }


def _numbers(scores: Scores) -> str:
    said = []
    if semantic := scores.get(SEMANTIC):
        present, every, pixels = (percent(semantic[key], 2) for key in ("miou_present", "miou_all", "pixel_accuracy"))
        said.append(f"mIoU {present} over the {semantic['present']} classes present, {every} over all")
        said[-1] += f" {semantic['total']}; pixel accuracy {pixels}"
    said += [f"{text} {percent(scores[task][key], 2)}" for task, key, text in BESIDES if task in scores]
    return "; ".join(said) or "nothing was measured"


def validate(model: WordedModel, tests: Sequence[TestSet]) -> dict[str, Outcome]:
    """Evaluate a model on data sets, with the images shared out over the processes; its mode is put back afterwards.

    Returns:
        What each data set has brought; nothing on all processes but the first.
    """
    training = model.training
    device = next(model.parameters()).device
    segmenter = Segmenter(model, type(model).__name__, device, torch.float32)
    try:
        found = {label(test): _evaluate(segmenter, test) for test in tests}
    finally:
        model.train(training)
    return found if comm.is_main_process() else {}


def label(test: TestSet) -> str:
    """Return what a test set is called in logs."""
    return f"{test.dataset.name} ({test.share} held out)" if test.share else test.dataset.name


def _evaluate(segmenter: Segmenter, test: TestSet) -> Outcome:
    """Evaluate on one data set; every process comes to the gathering, whatever happens to it on its way."""
    dataset, records, problem, measures = test.dataset, list[ImageRecord](), "", None
    log.info(f"validating on '{label(test)}': {len(dataset.records)} images, {len(dataset.classes)} classes")
    try:
        plan = Plan(dataset.name)
        measures = plan.open_measures(dataset)
        worker = Worker.open(plan, dataset, measures, segmenter)
        own = range(len(dataset.records))[comm.get_rank() :: comm.get_world_size()]
        pace = Pace(f"validating on '{label(test)}'")
        for done, index in enumerate(own, start=1):
            records.append(_measure(worker, index))
            pace(done * comm.get_world_size(), len(dataset.records))
    except Exception as error:
        problem = _one_line(error)
    gathered = comm.gather((records, problem))
    if not gathered:
        return Outcome()
    problem = next((said for _, said in gathered if said), "")
    every = sorted(itertools.chain.from_iterable(part for part, _ in gathered), key=lambda record: record.index)
    good = [record for record in every if not record.error]
    failed = {record.name: record.error for record in every if record.error}
    scores: Scores = {}
    try:
        if not problem and measures is not None:
            scores = {task: result.to_json() for task, result in measures.results(good).items()} if good else {}
    except Exception as error:
        problem = _one_line(error)
    return Outcome(scores, len(good), failed, test.trained_on, problem)


def _measure(worker: Worker, index: int) -> ImageRecord:
    try:
        return worker.measure(index)[0]
    except InputError as error:
        return ImageRecord(index, worker.name(index), error=str(error))
    except (RuntimeError, MemoryError) as error:  # does not fit into memory, or has a shape that a model cannot take
        return ImageRecord(index, worker.name(index), error=_one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def describe_tests(tests: Sequence[TestSet], period: int) -> list[str]:
    """Return lines that say, before the first step, what is validated on and when; or that nothing is, and why."""
    if not tests:
        return [
            "no validation: no data were named for it, and training images tell nothing; give --val DIR, or hold out a "
            "part of them by --val 10%"
        ]
    when = f"every {period} steps and at the end" if period > 0 else "at the end"
    lines = []
    for test in tests:
        line = f"validation {when} on '{label(test)}': {len(test.dataset.records)} images"
        if test.trained_on:
            line += f", {test.trained_on} of which are trained on: its numbers measure nothing new"
        lines.append(line)
    return lines
