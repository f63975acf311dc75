"""Running an evaluation: images shared out over processes, logged one by one, resumed after a kill, summed exactly.

Each process runs every N-th of the images that are not in the log yet and appends what it measures. The sums are made
afterwards from the log, in the order of the data set, so that neither the number of processes nor an interruption
changes a bit of them.
"""

from __future__ import annotations

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
from ovseg.data.dataset import SEMANTIC, Dataset, Segments
from ovseg.data.images import LoadedImage, read_image
from ovseg.device import device_of_process, peak_memory, resolve_device
from ovseg.errors import ConfigError, EnvironmentProblem, InputError, OvsegError
from ovseg.evaluation.image_log import ImageRecord, Log, appending, close_log, read_log
from ovseg.evaluation.measures import Found, Measures
from ovseg.evaluation.plan import Plan, claim
from ovseg.evaluation.sources import Source
from ovseg.files import atomic_write, check_writable

LABELS = "labels"
"""Folder of the predicted labels, 16-bit PNGs in the ids of the evaluation's vocabulary (65535 no class)."""

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and of all."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        plan: What was asked for.
        dataset: With the words of the evaluation and the records that were evaluated.
        log: What was measured.
        measures: Evaluators for its sums.
    """

    plan: Plan
    dataset: Dataset
    log: Log
    measures: Measures


def evaluate(plan: Plan, folder: Path, processes: int = 1, report: Report | None = None) -> Run | None:
    """Evaluate all images that are not in the folder's log yet.

    Under torchrun every process calls this; `processes` is not looked at then.

    Args:
        plan: What to evaluate.
        folder: Of the run; made if need be.
        processes: On this machine; each loads the model.
        report: Told about progress.

    Returns:
        The run; None on all processes of torchrun but the first.

    Raises:
        OvsegError: The plan cannot be carried out; images that cannot be evaluated are in the log instead.
    """
    plan.check()
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; expected at least 1")
    dataset = plan.open_dataset()
    measures = plan.open_measures(dataset)
    check_writable(folder / LABELS)
    claim(folder, plan, dataset)
    tell = report or (lambda done, total: None)
    if torch.distributed.is_torchelastic_launched():
        if not _run_own_part(plan, folder, dataset, measures, tell):
            return None
    else:
        missing = _missing(folder, dataset)
        if processes == 1 or len(missing) < 2:
            work(plan, folder, dataset, measures, missing, tell)
        else:
            _spawn(plan, folder, missing, min(processes, len(missing)), tell)
    log = read_log(folder)
    if len(log.images) < len(dataset.records):
        raise InputError(
            f"{len(log.images)} of {len(dataset.records)} images are done; run the same command again to go on"
        )
    close_log(folder, log)
    return Run(plan, dataset, log, measures)


def work(
    plan: Plan,
    folder: Path,
    dataset: Dataset,
    measures: Measures,
    indices: Sequence[int],
    report: Report,
    rank: int = 0,
) -> None:
    """Evaluate images in this process.

    Args:
        plan: What to evaluate.
        folder: Of the run.
        dataset: Of the plan.
        measures: Of the plan.
        indices: Places of the images in the data set.
        report: Told how many of `indices` are done.
        rank: Number of this process, which chooses its accelerator.
    """
    if not indices:
        return
    source = plan.open_source(dataset, device_of_process(plan.device, rank))
    device = torch.device("cpu") if plan.predictions else resolve_device(device_of_process(plan.device, rank))
    with appending(folder, {**source.description, "versions": versions()}, str(rank)) as append:
        for done, index in enumerate(indices, 1):
            append(_evaluate_image(plan, folder, dataset, measures, source, device, index))
            report(done, len(indices))


def _evaluate_image(
    plan: Plan, folder: Path, dataset: Dataset, measures: Measures, source: Source, device: torch.device, index: int
) -> ImageRecord:
    """Evaluate one image; what is wrong with it is said in its record."""
    record = dataset.records[index]
    path = Path(record["file_name"])
    name = f"{path.parent.name}/{path.name}"
    torch.manual_seed(plan.seed + index)  # methods that draw must not depend on what was drawn before a kill
    try:
        image = read_image(path)
        truth, notes = read_truth(dataset, record, image, tuple(measures.evaluators))
        ids = plan.class_ids(index, np.unique(truth.classes), len(dataset.classes))
        found = fit(source(image, ids), truth.ids.shape, name)
        measured, scores = measures.measure(record, truth, found)
        save_labels(folder / LABELS / f"{path.stem}.png", found.labels)
    except InputError as error:
        return ImageRecord(index, name, error=str(error))
    height, width = truth.ids.shape
    memory = peak_memory(device)
    notes = (*notes, *found.notes)
    return ImageRecord(index, name, (height, width), "", found.seconds, memory, notes, scores, measured)


def read_truth(
    dataset: Dataset, record: dict[str, Any], image: LoadedImage, tasks: Sequence[str] = (SEMANTIC,)
) -> tuple[Segments, tuple[str, ...]]:
    """Read the ground truth of an image at its own size.

    Where only labels are compared it may have another size than the image, with the same proportions: predictions are
    then brought to it, and never the other way.

    Returns:
        The masks, and what the reader of the result should know.

    Raises:
        InputError: It is missing, broken or of other proportions.
    """
    height, width = image.pixels.shape[:2]
    size = _truth_size(record) or (height, width)
    alike = abs(size[0] * width - size[1] * height) <= max(*size, height, width)  # equal but for a rounded pixel
    if size == (height, width) or not alike or set(tasks) - {SEMANTIC, "calibration"}:
        return dataset.read_segments(record, (height, width)), ()
    note = f"ground truth is {size[1]}x{size[0]}, the image {width}x{height}"
    return dataset.read_segments(record, size), (note,)


def _truth_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """Return height and width of a ground truth picture; None where there is none, or none that can be read."""
    from PIL import Image

    path = record.get("sem_seg_file_name") or record.get("pan_seg_file_name")
    try:
        with Image.open(path) as picture:  # type: ignore[arg-type]
            return picture.height, picture.width
    except Exception:  # decoders raise nearly anything; reading it says what is wrong
        return None


def fit(found: Found, size: tuple[int, ...], name: str) -> Found:
    """Bring labels to the size of the ground truth, nearest pixel; segments and objects are left as they are.

    Raises:
        InputError: The proportions differ.
    """
    height, width = found.labels.shape
    if (height, width) == size:
        return found
    if abs(size[0] * width - size[1] * height) > max(*size, height, width):
        raise InputError(
            f"prediction of '{name}' is {width}x{height} pixels, its ground truth {size[1]}x{size[0]}; expected equal "
            "sizes, make it anew"
        )
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, (height, width), strict=True)
    )
    scores = None if found.scores is None else found.scores[rows[:, None], columns]
    note = f"labels of {width}x{height} were brought to {size[1]}x{size[0]}"
    return Found(found.labels[rows[:, None], columns], scores, None, None, found.seconds, (*found.notes, note))


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write labels (H, W) as a 16-bit PNG, 65535 for no class; quick rather than small.

    Raises:
        InputError: The place cannot be written to.
    """
    from PIL import Image

    from ovseg.segmentation import PNG_NO_CLASS

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


def _missing(folder: Path, dataset: Dataset) -> list[int]:
    """Return the places of the images to evaluate: those without a record, and those that failed."""
    log = read_log(folder)
    done = {record.index for record in log.good}
    return [index for index in range(len(dataset.records)) if index not in done]


def _run_own_part(plan: Plan, folder: Path, dataset: Dataset, measures: Measures, report: Report) -> bool:
    """Run the part of this process of torchrun; True on the first one, when all are done."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    try:
        missing = _missing(folder, dataset)
        torch.distributed.barrier()  # before anybody writes: all must see the same log
        own = missing[rank::world]
        local = int(os.environ.get("LOCAL_RANK", rank))
        work(plan, folder, dataset, measures, own, report if rank == 0 else lambda done, total: None, local)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
    return rank == 0


def _spawn(plan: Plan, folder: Path, indices: Sequence[int], processes: int, report: Report) -> None:
    """Run images in several processes of their own.

    Raises:
        OvsegError: A process could not go on; what was done is in the log.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    parts = [list(indices[rank::processes]) for rank in range(processes)]
    threads = max(1, torch.get_num_threads() // processes)
    workers = [
        context.Process(target=_work_in_process, args=(plan, folder, part, rank, threads, queue), daemon=True)
        for rank, part in enumerate(parts)
    ]
    for worker in workers:
        worker.start()
    for done, message in enumerate(_messages(workers, queue), 1):
        if isinstance(message, OvsegError):
            for worker in workers:
                worker.terminate()
            raise message
        report(done, len(indices))
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


def _work_in_process(plan: Plan, folder: Path, indices: list[int], rank: int, threads: int, queue: Any) -> None:
    """Run in a process of its own; a user's mistake goes to the first process instead of a traceback."""
    torch.set_num_threads(threads)
    try:
        dataset = plan.open_dataset()
        measures = plan.open_measures(dataset)
        work(plan, folder, dataset, measures, indices, lambda done, total: queue.put(done), rank)
    except OvsegError as error:
        queue.put(error)
