"""Validation while training: the test sets through the same path as every image of a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm

from ovseg.data.dataset import Dataset
from ovseg.data.registration import register_dataset
from ovseg.evaluation import SemanticEvaluator
from ovseg.evaluation.runs.run import fit, look
from ovseg.evaluation.runs.sources import ModelSource
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.segmenter import Segmenter
from ovseg.vocabulary import Vocabulary


def load_test_sets(names: Sequence[str], vocabulary: str) -> list[Dataset]:
    """Register the sets of ``DATASETS.TEST``; each has its own classes, or those of ``DATASETS.VOCABULARY``.

    Raises:
        OvsegError: As `register_dataset` and `Dataset.with_classes`.
    """
    found = [register_dataset(name) for name in names]
    return [dataset.with_classes(Vocabulary.parse(vocabulary)) for dataset in found] if vocabulary else found


def validate(model: WordedModel, datasets: Sequence[Dataset]) -> dict[str, dict[str, Any]]:
    """Evaluate a model on data sets, with the images shared out over the processes; its mode is put back afterwards.

    Returns:
        For each data set the numbers of `SemanticResult.to_json`.

    Raises:
        InputError: A file cannot be used.
    """
    training = model.training
    device = next(model.parameters()).device
    segmenter = Segmenter(model, type(model).__name__, device, torch.float32)
    try:
        return {dataset.name: _evaluate(segmenter, dataset) for dataset in datasets}
    finally:
        model.train(training)


def _evaluate(segmenter: Segmenter, dataset: Dataset) -> dict[str, Any]:
    source, every = ModelSource(segmenter, dataset.classes), np.arange(len(dataset.classes))
    evaluator = SemanticEvaluator(len(dataset.classes), [entry.is_thing for entry in dataset.classes])
    for record in dataset.records[comm.get_rank() :: comm.get_world_size()]:
        seen = look(dataset, record)
        found = fit(source(seen.image, every, seen.present), seen.truth.ids.shape, seen.image.name)
        evaluator.add(seen.truth.semantic(), found.labels)
    if comm.get_world_size() > 1:
        device = segmenter.device
        counts = torch.from_numpy(evaluator.confusion).to(device)
        dist.all_reduce(counts)
        evaluator.confusion = np.asarray(counts.cpu())
    return evaluator.evaluate().to_json()
