"""What is wrong with a data set, what may be, one line each, and what is in it.

A problem is a fault: a file that cannot be used, labels that cannot be meant. A hint is what sound data may show, too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ovseg.data.dataset import (
    PANOPTIC,
    PROMPTS,
    SEMANTIC,
    Dataset,
    Segments,
    panoptic_faults,
)
from ovseg.data.findings import kinds
from ovseg.data.images import read_image
from ovseg.data.mask_files import read_label_image
from ovseg.data.plausible import LabelValues, area_faults, area_hints, label_faults, label_hints, same_files
from ovseg.errors import InputError


@dataclass(eq=False)
class Report:
    """What was found.

    Attributes:
        dataset: That was read.
        problems: Faults, one line each.
        hints: Doubts, one line each.
        images: How many images were read without a problem.
        in_images: (K,) int64, in how many of them each class occurs.
        pixels: (K,) int64, pixels of each class.
        void: Pixels of no class.
        dropped: (F,) int64, those of them that have a class of the files which the data set leaves out.
        depths: Files by bits per pixel of their labels; of label images only.
        values: What the label images hold.
    """

    dataset: Dataset
    problems: list[str]
    hints: list[str] = field(default_factory=list)
    images: int = 0
    in_images: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    void: int = 0
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    depths: Counter[int] = field(default_factory=Counter)
    values: LabelValues = field(default_factory=LabelValues)

    @property
    def total(self) -> int:
        """All pixels of the images that were read."""
        return int(self.pixels.sum()) + self.void

    @property
    def notes(self) -> list[str]:
        """What became of the classes, and the share of pixels that this costs."""
        return [*self.dataset.notes, *self.dataset.tell_dropped(self.dropped, self.total)]

    @property
    def kinds(self) -> dict[str, dict[str, int]]:
        """How many problems and hints there are of each kind (`ovseg.data.findings`)."""
        return {"problems": kinds(self.problems), "hints": kinds(self.hints)}


def check_dataset(dataset: Dataset, limit: int | None = None) -> Report:
    """Read the images and masks of a data set and collect what is wrong.

    Args:
        dataset: To be read.
        limit: Read only so many, evenly spread; None reads all.
    """
    count = len(dataset.classes)
    report = Report(dataset, list(dataset.problems))
    report.in_images, report.pixels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    report.dropped = np.zeros(len(dataset.remap), np.int64)
    places = spread(len(dataset.records), limit)
    labels = {_check_image(report, index) for index in places} - {""}
    if dataset.kind == SEMANTIC:
        report.problems[:0] = label_faults(dataset, report.values)
        report.hints += label_hints(dataset, report.values)
    if report.images:
        whole = len(places) == len(dataset.records)  # others may have what these lack
        (report.problems if whole else report.hints).extend(area_faults(dataset, report.pixels))
        lost = int(report.dropped.sum())
        report.hints += area_hints(dataset, report.in_images, report.void - lost, report.total, report.images)
    if len(labels) == 1 and report.images > 2:
        report.hints.append(f"all {report.images} label images are equal; are they those of these images?")
    for twins in same_files({dataset.records[index]["file_name"]: None for index in places}):
        named = ", ".join(f"'{name}'" for name in twins)
        report.hints.append(f"{len(twins)} images hold the same bytes: {named}")
    return report


def require_sound(dataset: Dataset, limit: int) -> Report:
    """Refuse to train on a data set with problems; all pairs of files are looked at, and some of their contents.

    Returns:
        What was found; its `notes` and `hints` are for the log.

    Raises:
        InputError: There is a problem; the first one is in the message.
    """
    report = Report(dataset, list(dataset.problems)) if dataset.problems else check_dataset(dataset, limit)
    if report.problems:
        rest = len(report.problems) - 1
        more = f" (and {rest} more; see `ovseg datasets check {dataset.name}`)" if rest else ""
        raise InputError(f"{report.problems[0]}{more}")
    return report


def spread(total: int, limit: int | None) -> list[int]:
    """Return `limit` indices below `total`, evenly spread; all where there are no more."""
    if limit is None or limit >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, limit)]


def _check_image(report: Report, index: int) -> str:
    """Read an image and its masks into a report; returns a digest of its label image, if it has one of its own."""
    dataset, record = report.dataset, report.dataset.records[index]
    digest = ""
    try:
        size = read_image(record["file_name"]).pixels.shape[:2]
        if dataset.kind == SEMANTIC:
            values, bits = read_label_image(record["sem_seg_file_name"])
            report.depths[bits] += 1
            report.values.add(dataset, values)
            digest = hashlib.sha256(values.tobytes()).hexdigest()
        if dataset.kind == PANOPTIC:
            report.problems += panoptic_faults(record)
        segments = dataset.read_segments(record, size)
    except InputError as error:
        if str(error) not in report.problems:
            report.problems.append(str(error))
        return digest
    _count(report, segments)
    if dataset.kind != PROMPTS and not segments.dropped.any() and not (segments.ids >= 0).any():
        report.hints.append(f"image '{record['file_name']}' has no pixel with a class")
    return digest


def _count(report: Report, segments: Segments) -> None:
    areas = np.bincount((segments.semantic() + 1).ravel(), minlength=len(report.dataset.classes) + 1)
    report.images += 1
    report.void += int(areas[0])
    report.pixels += areas[1:]
    report.in_images += areas[1:] > 0
    if len(segments.dropped):
        report.dropped += segments.dropped
