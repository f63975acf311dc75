"""What is wrong with a data set, what may be, one line each, and what is in it.

A problem is a fault: a file that cannot be used, labels that cannot be meant. What is left out is a fault, too, and one
that reading got around; a hint is what sound data may show.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovseg.data.dataset import PANOPTIC, PROMPTS, SEMANTIC, VOID, Dataset, Segments, missing_image
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
        problems: Faults that training refuses, one line each.
        left_out: Faults that reading got around, see `Dataset.left_out`.
        hints: Doubts, one line each.
        broken: Those of the problems that are of the data set as a whole: no image of it can be meant.
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
    left_out: list[str]
    hints: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
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
    def faults(self) -> list[str]:
        """All that is wrong."""
        return [*self.problems, *self.left_out]

    @property
    def notes(self) -> list[str]:
        """What became of the classes, and the share of pixels that this costs."""
        return [*self.dataset.notes, *self.dataset.tell_dropped(self.dropped, self.total)]

    @property
    def kinds(self) -> dict[str, dict[str, int]]:
        """How many problems and hints there are of each kind (`ovseg.data.findings`)."""
        return {"problems": kinds(self.faults), "hints": kinds(self.hints)}


class Seen(NamedTuple):
    """What one image and its masks show, whatever words stand in the place of the classes of its files.

    Attributes:
        areas: Pairs of a class of the files (`VOID` for none) and its pixels; empty where they cannot be read.
        values: Of its label image; empty without one.
        bits: Of a pixel of that; 0 without one.
        digest: Of all its pixels; empty without one.
        fault: Why it cannot be used; empty if it can.
        empty: See `Segments.empty`.
    """

    areas: Sequence[Sequence[int]] = ()
    values: Sequence[int] = ()
    bits: int = 0
    digest: str = ""
    fault: str = ""
    empty: Sequence[str] = ()


def read_masks(dataset: Dataset, record: dict[str, Any]) -> Segments:
    """Read an image, and its masks at the size of it.

    Raises:
        InputError: Either is missing or broken, or they are of different sizes.
    """
    height, width = read_image(record["file_name"]).pixels.shape[:2]
    return dataset.read_segments(record, (height, width))


def see(
    dataset: Dataset, record: dict[str, Any], read: Callable[[Dataset, dict[str, Any]], Segments] = read_masks
) -> Seen:
    """Look at one image and its masks.

    Args:
        dataset: Of the record.
        record: Of the image.
        read: Reads the masks.
    """
    filed = replace(dataset, classes=dataset.file_classes, remap=np.arange(len(dataset.remap), dtype=np.int32))
    values, bits, digest = np.zeros(0, np.int64), 0, ""
    if not Path(record["file_name"]).exists():
        return Seen(fault=missing_image(record["file_name"]))
    try:
        if dataset.kind == SEMANTIC:
            labels, bits = read_label_image(record["sem_seg_file_name"])
            values, digest = np.unique(labels), hashlib.sha256(labels.tobytes()).hexdigest()[:16]
        segments = read(filed, record)
    except InputError as error:
        return Seen((), values.tolist(), bits, digest, str(error))
    areas = np.stack(np.unique(segments.semantic(), return_counts=True), 1)
    return Seen(areas.tolist(), values.tolist(), bits, digest, "", segments.empty)


def check_dataset(dataset: Dataset, limit: int | None = None) -> Report:
    """Read the images and masks of a data set and collect what is wrong.

    Args:
        dataset: To be read.
        limit: Read only so many, evenly spread; None reads all.
    """
    places = spread(len(dataset.records), limit)
    twins = same_files({dataset.records[place]["file_name"]: None for place in places})
    return judge(dataset, {place: see(dataset, dataset.records[place]) for place in places}, twins)


def judge(dataset: Dataset, seen: Mapping[int, Seen], twins: Iterable[Sequence[str]]) -> Report:
    """Collect what is wrong with a data set from what its images show.

    Args:
        dataset: With the classes that count.
        seen: By the places of their records; where it is not all of them, others may have what these lack.
        twins: Groups of images that hold the same bytes.
    """
    count = len(dataset.classes)
    report = Report(dataset, list(dataset.problems), list(dataset.left_out))
    report.in_images, report.pixels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    report.dropped = np.zeros(len(dataset.remap), np.int64)
    for place, one in seen.items():
        _add(report, dataset.records[place], one)
    if dataset.kind == SEMANTIC:
        report.broken += label_faults(dataset, report.values)
        report.hints += label_hints(dataset, report.values)
    if report.images:
        whole = len(seen) == len(dataset.records)
        (report.broken if whole else report.hints).extend(area_faults(dataset, report.pixels))
        lost = int(report.dropped.sum())
        report.hints += area_hints(dataset, report.in_images, report.void - lost, report.total, report.images)
    report.problems = list(dict.fromkeys((*report.broken, *report.problems)))  # several images may share a file
    labels = {one.digest for one in seen.values()} - {""}
    if len(labels) == 1 and report.images > 2:
        report.hints.append(f"all {report.images} label images are equal; are they those of these images?")
    for group in twins:
        named = ", ".join(f"'{name}'" for name in group)
        report.hints.append(f"{len(group)} images hold the same bytes: {named}")
    return report


def spread(total: int, limit: int | None) -> list[int]:
    """Return `limit` indices below `total`, evenly spread; all where there are no more."""
    if limit is None or limit >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, limit)]


def _add(report: Report, record: dict[str, Any], seen: Seen) -> None:
    """Add what an image shows to a report."""
    dataset = report.dataset
    report.problems += [seen.fault] if seen.fault else []
    # Outlines of an object smaller than a pixel are usual; who draws segments has no such reason.
    (report.left_out if dataset.kind == PANOPTIC else report.hints).extend(seen.empty)
    if seen.values:
        report.depths[seen.bits] += 1
        report.values.add(dataset, np.array(seen.values))
    if not seen.areas:
        return
    report.images += 1
    shown = set()
    for value, pixels in seen.areas:
        place = int(dataset.remap[value]) if value >= 0 else VOID
        if place >= 0:
            report.pixels[place] += pixels
            shown.add(place)
        else:
            report.void += pixels
            report.dropped[value] += pixels if value >= 0 else 0
    report.in_images[list(shown)] += 1
    if dataset.kind != PROMPTS and all(value < 0 for value, _ in seen.areas):
        report.hints.append(f"image '{record['file_name']}' has no pixel with a class")
