"""Running an evaluation: images shared out over processes, logged one by one, resumed after a kill, summed exactly.

Each process runs every N-th of the images that are not in the log yet and appends what it measures. The sums are made
afterwards from the log, in the order of the data set, so that neither the number of processes nor an interruption
changes a bit of them. The first process compares what makes the numbers with what the folder holds
(`ovseg.evaluation.runs.claim`); the others make sure that they have loaded the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg.data.dataset import Dataset
from ovseg.errors import ConfigError, InputError, OvsegError
from ovseg.evaluation.runs.claim import RESUME, check_unchanged, claim
from ovseg.evaluation.runs.folder import read_kept
from ovseg.evaluation.runs.image_log import ImageRecord, Log, appending, close_log, read_log
from ovseg.evaluation.runs.job import LABELS, Job, Models, Opened, Report, open_jobs
from ovseg.evaluation.runs.measures import Measures
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.worker import Worker
from ovseg.jobs.identity import made_by, refuse_strange, versions
from ovseg.jobs.share import Tell, share_out
from ovseg.system.device import peak_memory
from ovseg.system.files import atomic_write
from ovseg.system.lock import only_here
from ovseg.system.processes import leave_group
from ovseg.system.values import changes

__all__ = ["Job", "Run", "evaluate"]


IMAGES = "images"
"""What a `Report` of the work counts."""

Item = tuple[int, int]
"""Number of a job and place of an image in its data set."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        plan: What was asked for.
        folder: Where it is kept.
        dataset: With the words of the evaluation and the records that were evaluated.
        log: What was measured.
        measures: Evaluators for its sums.
        total: Images of the data set, those beyond the limit, too.
        before: Images that were done before this call; all of them if it found a finished run.
        notes: What could not be compared when a run of an earlier version was taken over.
    """

    plan: Plan
    folder: Path
    dataset: Dataset
    log: Log
    measures: Measures
    total: int
    before: int = 0
    notes: tuple[str, ...] = ()


def evaluate(
    jobs: Sequence[Job], processes: int = 1, report: Report | None = None, begin: str = RESUME
) -> list[Run] | None:
    """Evaluate all images that are not in the logs yet.

    Under torchrun every process calls this; `processes` is not looked at then.

    Args:
        jobs: What to evaluate; a model that several in a row share is loaded once.
        processes: On this machine; each loads the model.
        report: Told about progress: of the images, and before that of looking at their files.
        begin: What becomes of runs that the folders hold: see `ovseg.evaluation.runs.claim`.

    Returns:
        The runs; None on all processes of torchrun but the first.

    Raises:
        InputError: A folder holds numbers of something else, which the line says, or another process is at work in it.
        OvsegError: A plan cannot be carried out; images that cannot be evaluated are in the logs instead.
    """
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; expected at least 1")
    opened = open_jobs(jobs)
    tell = report or _silent
    with contextlib.ExitStack() as held:
        if torch.distributed.is_torchelastic_launched():
            missing = _run_own_part(opened, tell, begin, held)
            if missing is None:
                return None
        else:
            models = Models()
            opened = _begin(opened, begin, models, tell, held)
            missing = _missing(opened)
            if processes == 1 or len(missing) < 2:
                work(opened, missing, tell, models)
            else:
                models.let_go()
                done = itertools.count(1)
                share_out(
                    partial(_work_alone, opened), missing, processes, lambda _: tell(next(done), len(missing), IMAGES)
                )
        if missing:
            check_unchanged(opened, tell)
        return [_close(one, [number for number, _ in missing].count(place)) for place, one in enumerate(opened)]


def _silent(_done: int, _total: int, _what: str) -> None:
    pass


def _begin(
    opened: Sequence[Opened], begin: str, models: Models, report: Report, held: contextlib.ExitStack
) -> list[Opened]:
    """Keep others out of the folders for as long as `held` says, and claim them."""
    for one in opened:
        held.enter_context(only_here(one.job.folder))
    return claim(opened, begin, models, report)


def _close(opened: Opened, fresh: int) -> Run:
    job, dataset, held = opened.job, opened.dataset, read_kept(opened.job.folder)
    if len(held.log.images) < len(dataset.records):
        raise InputError(
            f"{len(held.log.images)} of {len(dataset.records)} images are done; run the same command again to go on"
        )
    close_log(job.folder, held.log)
    before, notes = len(dataset.records) - fresh, tuple(held.adopted)
    return Run(job.plan, job.folder, dataset, held.log, opened.measures, len(opened.names), before, notes)


def work(opened: Sequence[Opened], items: Sequence[Item], report: Report, models: Models, rank: int = 0) -> None:
    """Evaluate images in this process.

    Args:
        opened: The jobs, claimed.
        items: Number of the job and place of the image in its data set, job by job.
        report: Told how many of `items` are done.
        models: Load what gives the labels.
        rank: Number of this process, which chooses its accelerator.

    Raises:
        InputError: What was loaded is not what the first process has compared.
    """
    done = 0
    for number, group in itertools.groupby(items, key=lambda item: item[0]):
        one = opened[number]
        worker = Worker(one.job.plan, one.dataset, one.measures, models.source(one, rank))
        refuse_strange(rank, changes(one.made_by, made_by(worker.source.description)))
        source = {**worker.source.description, "versions": versions()}
        with appending(one.job.folder, source, str(rank)) as append:
            for _, index in group:
                append(dataclasses.replace(_evaluate(worker, index, one), peak=peak_memory(models.device)))
                done += 1
                report(done, len(items), IMAGES)


def _work_alone(opened: Sequence[Opened], items: Sequence[Item], rank: int, tell: Tell) -> None:
    """Evaluate images in a process of its own."""
    work(opened, items, lambda done, _total, _what: tell(done), Models(), rank)


def _evaluate(worker: Worker, index: int, opened: Opened) -> ImageRecord:
    """Measure one image and keep its labels; what is wrong with it is said in its record."""
    try:
        record, labels = worker.measure(index)
        path = opened.job.folder / LABELS / opened.label_files[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_labels(path, labels)
    except InputError as error:
        return ImageRecord(index, worker.name(index), error=str(error))
    return dataclasses.replace(record, labels=opened.label_files[index])


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write labels (H, W) as a 16-bit PNG, 65535 for no class; quick rather than small.

    Raises:
        InputError: The place cannot be written to.
    """
    from PIL import Image

    from ovseg.result.formats.labels import PNG_NO_CLASS

    values = np.where(labels < 0, PNG_NO_CLASS, labels).astype(np.uint16)
    with atomic_write(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", compress_level=1)


def _missing(opened: Sequence[Opened]) -> list[Item]:
    """Return the images to evaluate: those without a record, those that failed, and those whose labels are gone."""
    items: list[Item] = []
    for number, one in enumerate(opened):
        labels = one.job.folder / LABELS
        done = {record.index for record in read_log(one.job.folder).good if (labels / record.labels).is_file()}
        items += [(number, index) for index in range(len(one.dataset.records)) if index not in done]
    return items


def _run_own_part(opened: list[Opened], report: Report, begin: str, held: contextlib.ExitStack) -> list[Item] | None:
    """Run the part of this process of torchrun; returns all that was missing on the first one, when all are done."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    models = Models()
    try:
        opened[:] = _claim_together(opened, begin, models, rank, report, held)
        missing = _missing(opened)
        torch.distributed.barrier()  # before anybody writes: all must see the same logs
        local = int(os.environ.get("LOCAL_RANK", rank))
        work(opened, missing[rank::world], report if rank == 0 else _silent, models, local)
        torch.distributed.barrier()
    finally:
        leave_group()
    return missing if rank == 0 else None


def _claim_together(
    opened: list[Opened], begin: str, models: Models, rank: int, report: Report, held: contextlib.ExitStack
) -> list[Opened]:
    """Claim the folders in the first process, and tell the others; its mistakes are those of all."""
    told: list[Any] = [None]
    if rank == 0:
        try:
            opened = _begin(opened, begin, models, report, held)
            told = [[one.made_by for one in opened]]
        except OvsegError as error:
            told = [error]
    torch.distributed.broadcast_object_list(told)
    if isinstance(told[0], OvsegError):
        raise told[0]
    return [dataclasses.replace(one, made_by=made) for one, made in zip(opened, told[0], strict=True)]
