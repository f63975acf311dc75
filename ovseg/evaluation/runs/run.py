"""Running an evaluation: images shared out over processes, logged one by one, resumed after a kill, summed exactly.

Each process runs every N-th of the images that are not in the log yet and appends what it measures. The sums are made
afterwards from the log, in the order of the data set, so that neither the number of processes nor an interruption
changes a bit of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from ovseg._version import __version__
from ovseg.data.dataset import Dataset
from ovseg.errors import ConfigError, EnvironmentProblem, InputError, OvsegError
from ovseg.evaluation.runs.image_log import ImageRecord, Log, appending, close_log, read_log
from ovseg.evaluation.runs.measures import Measures
from ovseg.evaluation.runs.plan import Plan, claim
from ovseg.evaluation.runs.worker import Worker
from ovseg.system.device import CPU, device_of_process, peak_memory
from ovseg.system.files import atomic_write, check_writable
from ovseg.system.processes import ctrl_c_is_ours, leave_group

LABELS = "labels"
"""Folder of the predicted labels, 16-bit PNGs in the ids of the evaluation's vocabulary (65535 no class)."""

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and of all."""

Item = tuple[int, int]
"""Number of a job and place of an image in its data set."""


Opened = tuple[Dataset, Measures]
"""The data set of a job, which jobs of the same images and words share, and what measures it."""


@dataclass(frozen=True)
class Job:
    """A plan and the folder that its run is kept in."""

    plan: Plan
    folder: Path


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        plan: What was asked for.
        folder: Where it is kept.
        dataset: With the words of the evaluation and the records that were evaluated.
        log: What was measured.
        measures: Evaluators for its sums.
    """

    plan: Plan
    folder: Path
    dataset: Dataset
    log: Log
    measures: Measures


def evaluate(jobs: Sequence[Job], processes: int = 1, report: Report | None = None) -> list[Run] | None:
    """Evaluate all images that are not in the logs yet.

    Under torchrun every process calls this; `processes` is not looked at then.

    Args:
        jobs: What to evaluate; a model that several in a row share is loaded once.
        processes: On this machine; each loads the model.
        report: Told about progress.

    Returns:
        The runs; None on all processes of torchrun but the first.

    Raises:
        OvsegError: A plan cannot be carried out; images that cannot be evaluated are in the logs instead.
    """
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; expected at least 1")
    opened = _open(jobs)
    tell = report or (lambda done, total: None)
    if torch.distributed.is_torchelastic_launched():
        if not _run_own_part(jobs, opened, tell):
            return None
    else:
        missing = _missing(jobs, opened)
        if processes == 1 or len(missing) < 2:
            work(jobs, opened, missing, tell)
        else:
            _spawn(jobs, opened, missing, min(processes, len(missing)), tell)
    return [_close(job, dataset, measures) for job, (dataset, measures) in zip(jobs, opened, strict=True)]


def _open(jobs: Sequence[Job]) -> list[Opened]:
    """Check the jobs before any work starts; those of the same images and words share one data set, read once."""
    read: dict[str, Dataset] = {}
    found = []
    for job in jobs:
        plan = job.plan
        plan.check()
        if plan.dataset_key not in read:
            read[plan.dataset_key] = plan.open_dataset()
        dataset = read[plan.dataset_key]
        found.append((dataset, plan.open_measures(dataset)))
        check_writable(job.folder / LABELS)
        claim(job.folder, plan, dataset)
    return found


def _close(job: Job, dataset: Dataset, measures: Measures) -> Run:
    log = read_log(job.folder)
    if len(log.images) < len(dataset.records):
        raise InputError(
            f"{len(log.images)} of {len(dataset.records)} images are done; run the same command again to go on"
        )
    close_log(job.folder, log)
    return Run(job.plan, job.folder, dataset, log, measures)


def work(jobs: Sequence[Job], opened: Sequence[Opened], items: Sequence[Item], report: Report, rank: int = 0) -> None:
    """Evaluate images in this process.

    Args:
        jobs: What to evaluate.
        opened: For each job its data set and measures.
        items: Number of the job and place of the image in its data set, job by job.
        report: Told how many of `items` are done.
        rank: Number of this process, which chooses its accelerator.
    """
    segmenter, key, done = None, "", 0
    for number, group in itertools.groupby(items, key=lambda item: item[0]):
        job = jobs[number]
        device = device_of_process(job.plan.device, rank)
        if key != job.plan.model_key:
            segmenter, key = job.plan.load(device), job.plan.model_key
        dataset, measures = opened[number]
        worker = Worker.open(job.plan, dataset, measures, segmenter)
        where = CPU if segmenter is None else segmenter.device
        with appending(job.folder, {**worker.source.description, "versions": versions()}, str(rank)) as append:
            for _, index in group:
                append(dataclasses.replace(_evaluate(worker, index, job.folder), peak=peak_memory(where)))
                done += 1
                report(done, len(items))


def _evaluate(worker: Worker, index: int, folder: Path) -> ImageRecord:
    """Measure one image and keep its labels; what is wrong with it is said in its record."""
    try:
        record, labels = worker.measure(index)
        save_labels(folder / LABELS / f"{Path(record.name).stem}.png", labels)
    except InputError as error:
        return ImageRecord(index, worker.name(index), error=str(error))
    return record


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


def versions() -> dict[str, str]:
    """Return the versions of what makes the numbers."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "ovseg": __version__}
    for package in ("torch", "torchvision", "open_clip_torch", "detectron2", "numpy", "pycocotools"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # such as Detectron2's Python part
            found[package] = str(getattr(sys.modules.get(package), "__version__", "not installed"))
    return found


def _missing(jobs: Sequence[Job], opened: Sequence[Opened]) -> list[Item]:
    """Return the images to evaluate: those without a record, and those that failed."""
    items: list[Item] = []
    for number, (job, (dataset, _)) in enumerate(zip(jobs, opened, strict=True)):
        done = {record.index for record in read_log(job.folder).good}
        items += [(number, index) for index in range(len(dataset.records)) if index not in done]
    return items


def _run_own_part(jobs: Sequence[Job], opened: Sequence[Opened], report: Report) -> bool:
    """Run the part of this process of torchrun; True on the first one, when all are done."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    try:
        missing = _missing(jobs, opened)
        torch.distributed.barrier()  # before anybody writes: all must see the same logs
        local = int(os.environ.get("LOCAL_RANK", rank))
        work(jobs, opened, missing[rank::world], report if rank == 0 else lambda done, total: None, local)
        torch.distributed.barrier()
    finally:
        leave_group()
    return rank == 0


def _spawn(
    jobs: Sequence[Job], opened: Sequence[Opened], items: Sequence[Item], processes: int, report: Report
) -> None:
    """Run images in several processes of their own.

    Raises:
        OvsegError: A process could not go on; what was done is in the logs.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    threads = max(1, torch.get_num_threads() // processes)
    workers = [
        context.Process(
            target=_work_in_process, args=(jobs, opened, items[rank::processes], rank, threads, queue), daemon=True
        )
        for rank in range(processes)
    ]
    try:
        with ctrl_c_is_ours():
            for worker in workers:
                worker.start()
        for done, message in enumerate(_messages(workers, queue), 1):
            if isinstance(message, OvsegError):
                raise message
            report(done, len(items))
    finally:
        for worker in workers:
            if worker.is_alive():  # after an error or ctrl-C
                worker.terminate()
    for rank, worker in enumerate(workers):
        worker.join()
        if worker.exitcode:
            raise EnvironmentProblem(
                f"process {rank + 1} of {processes} ended with {worker.exitcode} (memory?); what was done is kept, run "
                "the same command again to go on, or with fewer --processes"
            )


def _messages(workers: Sequence[Any], queue: Any) -> Iterator[Any]:
    """Yield what the processes say until all of them have ended."""
    while True:
        alive = any(worker.is_alive() for worker in workers)
        try:
            yield queue.get(timeout=0.5 if alive else 0.1)
        except Empty:
            if not alive:
                return


def _work_in_process(
    jobs: Sequence[Job], opened: Sequence[Opened], items: Sequence[Item], rank: int, threads: int, queue: Any
) -> None:
    """Run in a process of its own; a user's mistake goes to the first process instead of a traceback."""
    torch.set_num_threads(threads)
    try:
        work(jobs, opened, items, lambda done, total: queue.put(done), rank)
    except OvsegError as error:
        queue.put(error)
