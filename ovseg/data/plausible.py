"""Data that can be read and still cannot be meant: labels of another scale, classes that never occur, twins.

A fault is what no sound data set shows; a hint may be right, and its owner knows.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ovseg.data.dataset import LABEL_VALUES, SEMANTIC, UNLISTED, VOID, Dataset
from ovseg.data.mask_files import read_label_image
from ovseg.data.matching import counted, listed
from ovseg.errors import InputError
from ovseg.system.files import file_hash

SAMPLE = 16
"""Label images that are looked at where not all are read anyway."""
MOSTLY_VOID = 0.9
_TOP = (255, 65535)  # the values of white, and of no class
_FEW = 3  # label images of which less tell little
_SMOOTH = 8  # values beside the classes that no stretching explains
_HEAD = 1 << 16  # bytes
_NOTHING = "no pixel of any image has a class"


def require_plausible(dataset: Dataset) -> None:
    """Look at some label images, and refuse values that cannot be meant and data sets without a label.

    Raises:
        InputError: There is no image, they have a fault (see `label_faults`), or all files are void. Files that cannot
            be read are no matter here.
    """
    if not dataset.records:
        reason = next(iter((*dataset.problems, *dataset.left_out)), "it lists none")
        raise InputError(f"'{dataset.name}' has no image that can be used ({reason}); see `ovseg datasets check`")
    nothing = f"'{dataset.name}': {_NOTHING}; expected some of {listed(dataset.classes.names)}"
    if dataset.kind != SEMANTIC:
        if not any(record.get("annotations") or record.get("segments_info") for record in dataset.records):
            raise InputError(nothing)
        return
    values = LabelValues()
    places = np.linspace(0, len(dataset.records) - 1, min(SAMPLE, len(dataset.records))).astype(int)
    for place in places.tolist():
        try:
            values.add(dataset, read_label_image(dataset.records[place]["sem_seg_file_name"])[0])
        except InputError:
            continue
    for fault in label_faults(dataset, values):
        raise InputError(f"'{dataset.name}': {fault}")
    found = np.flatnonzero(values.found)
    if values.files == len(dataset.records) and (dataset.lookup[found] == VOID).all():
        raise InputError(nothing)


@dataclass(eq=False)
class LabelValues:
    """The values of label images.

    Attributes:
        found: (65536,) bool, which occur.
        files: Label images.
        strange: How many of them hold a value that stands for nothing.
    """

    found: np.ndarray = field(default_factory=lambda: np.zeros(LABEL_VALUES, bool))
    files: int = 0
    strange: int = 0

    def add(self, dataset: Dataset, labels: np.ndarray) -> None:
        """Take one more image."""
        present = np.unique(labels)
        present = present[(present >= 0) & (present < LABEL_VALUES)].astype(np.int64)
        self.found[present] = True
        self.files += 1
        self.strange += bool((dataset.lookup[present] == UNLISTED).any())


def label_faults(dataset: Dataset, values: LabelValues) -> list[str]:
    """Return one line where the values of all label images together are those of another scale.

    Args:
        dataset: A semantic one.
        values: Of its label images. A few files that are not like the others are no fault of all.
    """
    count = len(dataset.remap)
    # Two things say what a value stands for, and nobody knows which was looked at when the labels were made.
    if numbers := [str(entry.id) for entry in dataset.file_classes if entry.id is not None]:
        return [
            f"'classes.txt' has numbers beside the names ({listed(numbers)}), but values of labels count its classes "
            "from 0; write the names alone, in the order of the values"
        ]
    found = np.flatnonzero(values.found).tolist()
    strange = [value for value in found if dataset.lookup[value] == UNLISTED]
    hold = f"labels hold {'the values ' if len(found) > 1 else ''}{listed(map(str, found))}"
    ids = f"class ids are 0 to {count - 1}"
    if _black_and_white(dataset, found) and (count == 2 or (count > 2 and values.files >= _FEW)):
        names = listed(dataset.file_classes.names[1:], 3)
        which = f"'{names}'" if count == 2 else f"the other classes ({names})"
        mend = f"1 in place of {found[1]} (a pixel's value // {found[1]})" if count == 2 else "the class of each pixel"
        return [f"{hold} alone, and {found[1]} means no class: all of {which} would be void; {ids}, save {mend}"]
    if not strange:
        return []
    highest = max(set(found) - set(_TOP), default=0)
    if highest == count and 0 not in found:
        return [f"{hold} and no 0, but {ids}; subtract 1 from each value, the first line of the class list is 0"]
    if 2 * values.strange < max(values.files, 1):
        return []
    if all(value > 255 - count for value in found) and found[-1] == 255:
        return [f"{hold}, which are 255 and less, but {ids}; they look inverted: save 255 - value"]
    factor = _stretched(found, count)
    if factor:
        rounded = " and round" if "/" in factor else ""
        return [f"{hold}, multiples of {factor}, but {ids}; divide the values by {factor}{rounded}"]
    if highest == count:
        return [
            f"{hold}, which is one more than the {counted(count, 'class', 'classes')}, but {ids}; if 0 is background, "
            "write it as the first line of the class list, else subtract 1 and save 255 in place of 0"
        ]
    if len(strange) > max(_SMOOTH, count):
        return [
            f"labels hold {len(found)} values, {len(strange)} of them no class; they look like masks that were "
            f"smoothed, resized other than by the nearest pixel, or are no masks; {ids}"
        ]
    return []


def label_hints(dataset: Dataset, values: LabelValues) -> list[str]:
    """Return what may be wrong with the values of all label images together; see `label_faults`."""
    found, count = np.flatnonzero(values.found).tolist(), len(dataset.remap)
    if not _black_and_white(dataset, found) or label_faults(dataset, values):
        return []
    if count == 1:
        return [
            f"labels hold 0 and {found[1]} alone: 0 is '{dataset.file_classes[0].name}' and {found[1]} no class; if it "
            f"is the other way round, write background as the first line of the class list and save 1 for {found[1]}"
        ]
    return [
        f"labels hold 0 and {found[1]} alone, which is one class of {count} and no class; are they masks of one kind?"
    ]


def area_faults(dataset: Dataset, pixels: np.ndarray) -> list[str]:
    """Return a line where no pixel has a class.

    Args:
        dataset: What was read.
        pixels: (K,) integers, pixels of each class in all images.
    """
    if pixels.sum() or not dataset.records:
        return []
    words = f", and all that the files have are dropped ({listed(dataset.dropped)})" if dataset.dropped else ""
    return [f"{_NOTHING}{words}; expected some of {listed(dataset.classes.names)}"]


def area_hints(dataset: Dataset, in_images: np.ndarray, void: int, total: int, images: int) -> list[str]:
    """Return what may be wrong with how often classes occur.

    Args:
        dataset: What was read.
        in_images: (K,) integers, in how many images each class occurs.
        void: Pixels that have no class in the files.
        total: All pixels.
        images: How many were read.
    """
    hints = []
    known = np.unique(dataset.remap[dataset.remap >= 0])
    absent = [dataset.classes[place].name for place in known.tolist() if not in_images[place]]
    if absent and images:
        hints.append(
            f"{counted(len(absent), 'class occurs', 'classes occur')} in none of the {images} images: {listed(absent)}"
        )
    if total and void > MOSTLY_VOID * total:
        hints.append(
            f"{100 * void / total:.1f} % of the pixels have no class in the files; if that is background, give it a "
            "class of its own"
        )
    return hints


def same_files(paths: Iterable[str | os.PathLike[str]]) -> list[list[str]]:
    """Return groups of files that hold the same bytes; those that cannot be read are in none."""
    groups: list[list[str]] = [list(map(str, paths))]
    for mark in (_size, _head, file_hash):
        split: list[list[str]] = []
        for group in groups:
            by_mark: dict[object, list[str]] = defaultdict(list)
            for path in group:
                try:
                    by_mark[mark(Path(path))].append(path)
                except (OSError, ValueError):  # also of names that no file has
                    continue
            split += [same for same in by_mark.values() if len(same) > 1]
        groups = split
    return groups


def _black_and_white(dataset: Dataset, found: Sequence[int]) -> bool:
    return len(found) == 2 and found[0] == 0 and found[1] in _TOP and int(dataset.lookup[found[1]]) == VOID


def _stretched(found: Sequence[int], count: int) -> str:
    """Return the factor by which all values are too large, so that people see them; empty where there is none."""
    own = [value for value in found if value not in (0, 65535)]
    step = 255 / max(count - 1, 1)
    slack = int(step != int(step))  # where it is no whole number, values were rounded
    near = [value >= step - 1 and abs(value - step * round(value / step)) <= slack for value in own]
    if step > 4 and own and all(near):
        return f"{step:g}" if step == int(step) else f"255 / {count - 1}"
    rest = [value for value in own if value != 255]
    factor = math.gcd(*rest)
    return str(factor) if factor > 1 and max(rest) // factor < count else ""


def _size(path: Path) -> int:
    return path.stat().st_size


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_HEAD)).digest()
