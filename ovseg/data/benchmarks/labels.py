"""Splits of label images: pairs of files, and the conversion of labels into class ids, which goes on after a kill."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ovseg.data.benchmarks.base import Decoder, Layout, Place, Rule, Split
from ovseg.data.benchmarks.manifest import read_manifest
from ovseg.data.dataset import LABEL_VALUES, SEMANTIC, UNLISTED, VOID, Dataset, identity_lookup, read_label_image
from ovseg.errors import InputError
from ovseg.system.files import atomic_write

SAMPLES = 4
"""So many labels, evenly spread, are decoded again whenever a prepared split is read."""
LARGE = 50_000_000
"""Bytes of a file of all labels from which on none of them is decoded for that."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LabelSplit(Split):
    """Images with label images, in one of several layouts.

    Attributes:
        count: Images that the benchmark has.
        layouts: In order of preference; the first whole one is used.
        also: Further counts that are in use.
    """

    count: int
    layouts: tuple[Layout, ...]
    also: tuple[int, ...] = ()

    def complete(self, folder: Path) -> bool:
        """Whether a folder has one of the layouts."""
        return any(not layout.absent(folder) for layout in self.layouts)

    def require(self, place: Place) -> None:
        """Find the layout; see `Split.require`."""
        self.layout(place)

    def layout(self, place: Place) -> Layout:
        """Return the first whole layout.

        Raises:
            Missing: There is none; what the nearest one lacks is named.
        """
        absent = [(layout, layout.absent(place.folder)) for layout in self.layouts]
        whole = next((layout for layout, lacks in absent if not lacks), None)
        if whole is None:  # the nearest one, rather as published than as others make it
            _, lacks = min(absent, key=lambda pair: (len(pair[1]), pair[0].rule is None))
            raise place.missing(lacks[0])
        return whole

    def converts(self, place: Place) -> bool:
        """Whether the labels of the layout at hand are no class ids yet."""
        return self.layout(place).rule is not None

    def convert(self, place: Place) -> dict[str, str]:
        """Write the class ids of all labels, but what is there already; see `Split.convert`."""
        layout = self.layout(place)
        if layout.rule is None:
            return {}
        decode, count = layout.rule(place, layout.labels), len(place.classes())
        stems = list_stems(place.folder, layout)[0]
        for folder in {converted(place, stem).parent for stem in stems}:
            folder.mkdir(parents=True, exist_ok=True)
        done = in_threads(partial(_convert, place, layout, decode, count), stems, place.name)
        return {stem: problem for stem, problem in zip(stems, done, strict=True) if problem}

    def outdated(self, place: Place, every: bool) -> dict[str, str]:
        """Decode published labels again; see `Split.outdated`."""
        layout, manifest = self.layout(place), read_manifest(place)
        if layout.rule is None or not manifest:
            return {}
        stems = [stem for stem in manifest["files"] if converted(place, stem).is_file()]
        if not every:
            few = set() if _heavy(place, layout) else set(stems[:: max(len(stems) // SAMPLES, 1)])
            stems = [stem for stem in stems if stem in few or _younger(place, layout, stem)]
        if not stems:
            return {}
        work = partial(_differs, place, layout.rule(place, layout.labels), len(place.classes()))
        found = zip(stems, in_threads(work, stems, place.name), strict=True)
        return {stem: line for stem, line in found if line}

    def read(self, place: Place) -> Dataset:
        """List the pairs; see `Split.read`."""
        layout, classes, manifest = self.layout(place), place.classes(), read_manifest(place)
        if manifest and manifest["complete"]:
            stems, problems = sorted(manifest["files"] | manifest["broken"]), list[str]()
        else:
            stems, problems = list_stems(place.folder, layout)
            problems = [] if place.subset else problems
        records: list[dict[str, Any]] = []
        for stem in stems:
            label = place.folder / layout.labels.format(stem) if layout.rule is None else converted(place, stem)
            image = place.folder / layout.images.format(stem)
            records.append({"file_name": str(image), "image_id": stem, "sem_seg_file_name": str(label)})
        lookup, remap = identity_lookup(len(classes)), np.arange(len(classes), dtype=np.int32)
        root = str(place.folder / layout.images.partition("{}")[0].rpartition("/")[0])
        return Dataset(place.name, classes, SEMANTIC, records, lookup, remap, tuple(problems), root=root)


def converted(place: Place, stem: str) -> Path:
    """Return the file of a stem's class ids."""
    return place.made / "labels" / f"{stem}.png"


def list_stems(folder: Path, layout: Layout) -> tuple[list[str], list[str]]:
    """Pair the images and labels of a layout.

    Returns:
        The stems of the pairs, sorted, and one line for each file without its partner.
    """
    images = _stems(folder, layout.images)
    labels = _stems(folder, layout.labels) if "{}" in layout.labels else images
    wanted = set(layout.listed(folder)) if layout.listed else images | labels
    problems = [
        f"image '{folder / layout.images.format(stem)}' is missing; unpack its archive again"
        for stem in sorted(wanted - images)
    ]
    problems += [
        f"label '{folder / layout.labels.format(stem)}' is missing; unpack its archive again"
        for stem in sorted(wanted - labels)
    ]
    return sorted(wanted & images & labels), problems


def _stems(folder: Path, pattern: str) -> set[str]:
    """Return what ``{}`` stands for in the files of a pattern."""
    before, after = pattern.split("{}")
    start = folder / before.rpartition("/")[0]
    found = (path.relative_to(folder).as_posix() for path in start.rglob(f"*{after}"))
    return {path[len(before) : len(path) - len(after)] for path in found if path.startswith(before)}


def _convert(place: Place, layout: Layout, decode: Decoder, count: int, stem: str) -> str:
    """Write the class ids of one stem, unless they are there; return what went wrong."""
    path = converted(place, stem)
    try:
        ids = decode(stem)
    except InputError as error:
        return str(error)
    if ids.size and not (ids.min() >= VOID and ids.max() < count):
        return f"label of '{stem}' holds class {ids.max()}; expected -1 to {count - 1}"
    if not holds(path, ids, count):
        write_labels(path, ids, count)
    elif _younger(place, layout, stem):
        path.touch()  # it was looked at, so that it need not be at each reading
    return ""


def _differs(place: Place, decode: Decoder, count: int, stem: str) -> str:
    """Say that a converted label is not what would be made now; empty when it is."""
    try:
        same = holds(converted(place, stem), decode(stem), count)
        reason = "is not what would be made of the published one now"
    except InputError as error:
        same, reason = False, f"was made of one that is broken now ({error})"
    return "" if same else f"label '{converted(place, stem)}' {reason}; run {place.command}, it is converted anew"


def _heavy(place: Place, layout: Layout) -> bool:
    """Whether all labels are in one file that takes seconds to read."""
    whole = place.folder / layout.labels
    return "{}" not in layout.labels and whole.is_file() and whole.stat().st_size > LARGE


def _younger(place: Place, layout: Layout, stem: str) -> bool:
    """Whether the published file of a label may have been written after the converted one.

    The time of the last change of its entry counts too: a file that is unpacked or moved there may be dated back. The
    clocks of files tick in milliseconds, so that equal times count.
    """
    try:
        source, made = (path.stat() for path in (place.folder / layout.labels.format(stem), converted(place, stem)))
    except OSError:
        return False  # where the rule looks elsewhere, `SAMPLES` are compared
    return max(source.st_mtime_ns, source.st_ctime_ns) >= max(made.st_mtime_ns, made.st_ctime_ns)


def holds(path: Path, ids: np.ndarray, count: int) -> bool:
    """Whether a file has just what `write_labels` would write."""
    try:
        values, bits = read_label_image(path)
    except InputError:
        return False
    wanted = _encoded(ids, count)
    return bits == 8 * wanted.itemsize and np.array_equal(values, wanted)


def write_labels(path: Path, ids: np.ndarray, count: int) -> None:
    """Write classes (H, W) as a PNG: 8 bits and void 255 up to 255 classes, else 16 bits and void 65535."""
    with atomic_write(path) as temporary:
        Image.fromarray(_encoded(ids, count)).save(temporary)


def _encoded(ids: np.ndarray, count: int) -> np.ndarray:
    dtype, void = (np.uint8, 255) if count <= 255 else (np.uint16, 65535)
    return np.where(ids < 0, void, ids).astype(dtype)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], what: str) -> list[Result]:
    """Do work on many items, with a progress bar on a terminal; results are in the order of the items."""
    from rich.progress import track

    todo = list(items)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        results = pool.map(work, todo)
        return list(track(results, what, total=len(todo), disable=not sys.stderr.isatty()))
    finally:
        pool.shutdown(cancel_futures=True)  # ctrl-C does not wait for what has not begun


def by_value(table: np.ndarray) -> Rule:
    """Make the rule of label images whose values are looked up in a table (65536,) int32, see `Dataset.lookup`."""
    return partial(_value_decoder, table)


def _value_decoder(table: np.ndarray, place: Place, pattern: str) -> Decoder:
    def decode(stem: str) -> np.ndarray:
        path = place.folder / pattern.format(stem)
        values = read_label_image(path)[0]
        ids: np.ndarray = table[values]
        if (ids == UNLISTED).any():
            wrong = values[ids == UNLISTED]
            allowed = np.flatnonzero(table != UNLISTED)
            raise InputError(
                f"label '{path}' holds the value {wrong[0]} ({(wrong == wrong[0]).sum()} pixels); expected one of the "
                f"{len(allowed)} values {allowed[0]} to {allowed[-1]} of {place.benchmark.name}; is it of this set?"
            )
        return ids

    return decode


def table_of(values: dict[int, int]) -> np.ndarray:
    """Make a table (65536,) int32 from the class of each value; all other values are mistakes."""
    table = np.full(LABEL_VALUES, UNLISTED, np.int32)
    table[list(values)] = list(values.values())
    return table


def counted_from_one(count: int) -> np.ndarray:
    """Make the table of labels that count classes from 1; 0 and 255 (beyond 254 classes 65535) are void."""
    return table_of({0: VOID, 255 if count < 255 else 65535: VOID, **{i + 1: i for i in range(count)}})


def lines(path: str) -> Callable[[Path], list[str]]:
    """Make a reader of the stems that a text file lists, one a line (its first word)."""

    def read(folder: Path) -> list[str]:
        text = (folder / path).read_text(encoding="utf-8")
        return [line.split()[0].removesuffix(".jpg") for line in text.splitlines() if line.strip()]

    return read
