"""Validation while training: the test sets by the way and the measures of `ovseg eval`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.utils import comm

from ovseg.data.dataset import Dataset
from ovseg.data.registration import choose_classes, register_dataset
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.worker import Worker
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.segmenter import Segmenter

Scores = dict[str, dict[str, Any]]
"""For each task that a data set can judge the numbers of its result, as in ``result.json``."""


def load_test_sets(names: Sequence[str], vocabulary: str, rename: str = "") -> list[Dataset]:
    """Register the sets of ``DATASETS.TEST``; each has its own classes, or those of ``DATASETS.VOCABULARY``.

    Raises:
        OvsegError: As `register_dataset` and `choose_classes`.
    """
    return choose_classes([register_dataset(name) for name in names], vocabulary, rename)


def validate(model: WordedModel, datasets: Sequence[Dataset]) -> dict[str, Scores]:
    """Evaluate a model on data sets, with the images shared out over the processes; its mode is put back afterwards.

    Returns:
        The scores of each data set; nothing on all processes but the first.

    Raises:
        OvsegError: A file cannot be used, or as `Plan.open_measures` and `Plan.open_source`.
    """
    training = model.training
    device = next(model.parameters()).device
    segmenter = Segmenter(model, type(model).__name__, device, torch.float32)
    try:
        found = {dataset.name: _evaluate(segmenter, dataset) for dataset in datasets}
    finally:
        model.train(training)
    return found if comm.is_main_process() else {}


def _evaluate(segmenter: Segmenter, dataset: Dataset) -> Scores:
    plan = Plan(dataset.name)
    measures = plan.open_measures(dataset)
    worker = Worker.open(plan, dataset, measures, segmenter)
    own = [worker.measure(index)[0] for index in range(len(dataset.records))[comm.get_rank() :: comm.get_world_size()]]
    every = sorted(itertools.chain.from_iterable(comm.gather(own)), key=lambda record: record.index)
    return {task: result.to_json() for task, result in measures.results(every).items()}
