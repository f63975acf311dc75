"""What is to be evaluated and where it is kept, with its data set read once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ovseg._version import __version__
from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.evaluation.runs.measures import VERSION, Measures, choose_tasks
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.saved import SavedSource
from ovseg.evaluation.runs.sources import Source
from ovseg.system.device import CPU, device_of_process, free_accelerator
from ovseg.system.files import check_writable
from ovseg.system.paths import relative_names

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

LABELS = "labels"
"""Folder of the predicted labels, 16-bit PNGs in the ids of the evaluation's vocabulary (65535 no class)."""


Report = Callable[[int, int, str], None]
"""Told about progress: how many are done, of how many, and of what."""


@dataclass(frozen=True)
class Job:
    """A plan and the folder that its run is kept in."""

    plan: Plan
    folder: Path


@dataclass(frozen=True, eq=False)
class Opened:
    """A job with what it works on.

    Attributes:
        job: The plan and the folder.
        dataset: With the words of the evaluation and the records that are evaluated.
        measures: Evaluators of it.
        names: What all images of the data set are called, those beyond the limit, too.
        made_by: What makes the predictions, once it is known to be what the folder's run is made by.
    """

    job: Job
    dataset: Dataset
    measures: Measures
    names: tuple[str, ...]
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """What the evaluated images are called, in order."""
        return self.names[: len(self.dataset.records)]

    @cached_property
    def label_files(self) -> list[str]:
        """Where below the folder of labels those of each evaluated image are: named as `relative_names` has it."""
        return [f"{name}.png" for name in relative_names(self.names, ".")][: len(self.dataset.records)]

    def request(self, plan: Plan | None = None) -> dict[str, Any]:
        """Return what of a plan, or of the job's, makes numbers besides the model and the data, as JSON values."""
        plan = plan or self.job.plan
        classes, condition = self.dataset.classes, plan.condition
        novel = plan.novel_flags(classes)
        return {
            "ovseg": __version__,
            "measures": VERSION,
            "tasks": list(choose_tasks(self.dataset, plan.tasks)),
            "novel": None if novel is None else [name for name, new in zip(classes.names, novel, strict=True) if new],
            "boundary": plan.boundary,
            "distractors": plan.distractors,
            "seed": plan.seed,
            "condition": [condition.FAMILY, condition.key, condition.seed],
        }


class Models:
    """The model in use; jobs in a row that ask for the same share it."""

    def __init__(self) -> None:
        """Hold none yet."""
        self._key: tuple[str, str] | None = None
        self._held: Segmenter | None = None

    def source(self, opened: Opened, rank: int = 0) -> Source:
        """Open what gives the labels of a job, in the process of this number.

        Raises:
            OvsegError: As `Plan.load`, `Plan.open_source` and `SavedSource`.
        """
        plan = opened.job.plan
        if plan.predictions:
            dataset, folder = opened.dataset, Path(os.path.expanduser(plan.predictions))
            saved = SavedSource(folder, dataset.classes, opened.names, dataset.rest_class)
            saved.check(opened.evaluated)
            return saved
        key = plan.model_key, device_of_process(plan.device, rank)
        if self._held is None or key != self._key:
            self.let_go()
            self._held, self._key = plan.load(key[1]), key
        return plan.open_source(opened.dataset, opened.measures, self._held)

    @property
    def device(self) -> torch.device:
        """Where the model is; the processor where there is none."""
        return CPU if self._held is None else self._held.device

    def let_go(self) -> None:
        """Free the model, for others that will hold it themselves."""
        if self._held is not None:
            self._held = self._key = None
            free_accelerator()


def open_jobs(jobs: Sequence[Job]) -> list[Opened]:
    """Check jobs before any work starts; those of the same images and words share one data set, read once.

    Raises:
        OvsegError: As `Plan.check`, `Plan.open_dataset` and `Plan.open_measures`, or a folder cannot be written to.
        InputError: A folder is the data set.
    """
    read: dict[str, tuple[Dataset, tuple[str, ...]]] = {}
    cut: dict[tuple[str, int | None], Dataset] = {}
    found = []
    for job in jobs:
        plan = job.plan
        plan.check()
        if job.folder.resolve() == Path(os.path.expanduser(plan.dataset)).resolve():
            raise InputError(f"--output '{job.folder}' is the data set, which results would mix with; choose another")
        if plan.dataset_key not in read:
            dataset = plan.open_dataset()
            read[plan.dataset_key] = dataset, tuple(map(dataset.image_name, dataset.records))
        whole, names = read[plan.dataset_key]
        key = plan.dataset_key, plan.limit
        if key not in cut:
            cut[key] = dataclasses.replace(whole, records=whole.records[: plan.limit])
        found.append(Opened(job, cut[key], plan.open_measures(cut[key]), names))
        check_writable(job.folder / LABELS)
    return found
