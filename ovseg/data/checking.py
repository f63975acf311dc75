"""What is wrong with a data set, one line per problem, and what is in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ovseg.data.dataset import SEMANTIC, Dataset, read_label_image
from ovseg.data.images import read_image
from ovseg.errors import InputError


@dataclass(eq=False)
class Report:
    """What was found.

    Attributes:
        dataset: That was read.
        problems: One line each.
        images: How many images were read without a problem.
        in_images: (K,) int64, in how many of them each class occurs.
        pixels: (K,) int64, pixels of each class.
        void: Pixels of no class.
        depths: Files by bits per pixel of their labels; of label images only.
    """

    dataset: Dataset
    problems: list[str]
    images: int = 0
    in_images: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    void: int = 0
    depths: Counter[int] = field(default_factory=Counter)


def check_dataset(dataset: Dataset, limit: int | None = None) -> Report:
    """Read the images and masks of a data set and collect what is wrong.

    Args:
        dataset: To be read.
        limit: Read only so many, evenly spread; None reads all.
    """
    count = len(dataset.classes)
    report = Report(dataset, list(dataset.problems))
    report.in_images, report.pixels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for index in spread(len(dataset.records), limit):
        _check_image(report, index)
    return report


def require_sound(dataset: Dataset, limit: int) -> None:
    """Refuse to train on a data set with problems; all pairs of files are looked at, and some of their contents.

    Raises:
        InputError: There is a problem; the first one is in the message.
    """
    problems = list(dataset.problems) or check_dataset(dataset, limit).problems
    if problems:
        more = f" (and {len(problems) - 1} more; see `ovseg datasets check {dataset.name}`)" if problems[1:] else ""
        raise InputError(f"{problems[0]}{more}")


def spread(total: int, limit: int | None) -> list[int]:
    """Return `limit` indices below `total`, evenly spread; all where there are no more."""
    if limit is None or limit >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, limit)]


def _check_image(report: Report, index: int) -> None:
    dataset, record = report.dataset, report.dataset.records[index]
    try:
        size = read_image(record["file_name"]).pixels.shape[:2]
        if dataset.kind == SEMANTIC:
            report.depths[read_label_image(record["sem_seg_file_name"])[1]] += 1
        labels = dataset.read_segments(record, size).semantic()
    except InputError as error:
        if str(error) not in report.problems:
            report.problems.append(str(error))
        return
    areas = np.bincount((labels + 1).ravel(), minlength=len(dataset.classes) + 1)
    report.images += 1
    report.void += int(areas[0])
    report.pixels += areas[1:]
    report.in_images += areas[1:] > 0
