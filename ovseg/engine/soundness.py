"""Which images of a data set can be used: all of them are read before the first step, and remembered by content.

What was read once is kept in the cache folder, by the hashes of the files, so that the next start looks only at their
sizes and times. What cannot be used is not remembered: it is read again, and said again.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm

from ovseg.data.contents import Contents, ImageContents, contents_of, read_contents, write_contents
from ovseg.data.dataset import Dataset
from ovseg.data.images import read_image
from ovseg.engine.pace import Pace
from ovseg.errors import EnvironmentProblem, InputError
from ovseg.evaluation.runs.measures import TASKS
from ovseg.evaluation.runs.worker import look
from ovseg.system.cache_dir import cache_dir
from ovseg.system.files import atomic_write
from ovseg.system.values import dump, short_hash

FORMAT = 1
NAMED = 10
"""So many problems of a kind are named; the others are counted."""


@dataclass(frozen=True, eq=False)
class Examined:
    """A data set, all of whose images were read.

    Attributes:
        dataset: With all its records.
        contents: Its files by content, in the order of the records.
        faults: Why an image cannot be used, by its place.
        areas: (K + 1,) int64, pixels of each class of the files, and last those of none; of images that can be used.
    """

    dataset: Dataset
    contents: Contents
    faults: dict[int, str]
    areas: np.ndarray

    @property
    def problems(self) -> list[str]:
        """All that is wrong, one line each: files without a partner, then images that cannot be used."""
        return list(dict.fromkeys((*self.dataset.problems, *self.faults.values())))

    @property
    def hashes(self) -> list[str]:
        """What the file of each image holds, by its place; empty where it cannot be read."""
        return [one.image.hash for one in self.contents.images.values()]

    def part(self, places: Sequence[int]) -> tuple[Dataset, Contents]:
        """Return some of the images, and their files."""
        records = [self.dataset.records[place] for place in places]
        images = list(self.contents.images.items())
        return replace(self.dataset, records=records), replace(
            self.contents, images=dict(images[place] for place in places)
        )


def examine(dataset: Dataset, judging: bool = False) -> Examined:
    """Read every image of a data set and its masks; every process of a run reads its share.

    Args:
        dataset: To be read.
        judging: It is for evaluation, where label images may have another size than their image.
    """
    store = _Store(dataset, judging)
    contents = contents_of(dataset, store.contents(), Pace(f"files of '{dataset.name}'"))
    keys = [store.key(name, one) for name, one in contents.images.items()]
    known = comm.all_gather(store.areas() if comm.is_main_process() else {})[0]  # one view of what is to be read
    missing = [place for place, key in enumerate(keys) if key not in known]
    own = missing[comm.get_rank() :: comm.get_world_size()]
    every = comm.all_gather(_read(dataset, own, judging))
    found = {place: result for part in every for place, result in part.items()}
    faults = {place: result for place, result in sorted(found.items()) if isinstance(result, str)}
    for place, result in found.items():
        if not isinstance(result, str):
            known[keys[place]] = result
    if missing and comm.is_main_process():
        store.write(contents, {key: known[key] for key in keys if key in known})
    areas = np.zeros(len(dataset.remap) + 1, np.int64)
    for place, key in enumerate(keys):
        for value, pixels in () if place in faults else known[key]:
            areas[value] += pixels  # VOID is the last one
    return Examined(dataset, contents, faults, areas)


Areas = list[list[int]]
"""Pairs of a class of the files (`VOID` for none) and its pixels."""


def _read(dataset: Dataset, places: Sequence[int], judging: bool) -> dict[int, Areas | str]:
    """Return for some images the areas of their classes, or why they cannot be used."""
    raw = replace(dataset, remap=np.arange(len(dataset.remap), dtype=np.int32))  # as the files have them
    pace, found = Pace(f"reading '{dataset.name}'"), {}
    threads = max(1, (os.cpu_count() or 1) // comm.get_local_size())
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda place: _read_one(raw, raw.records[place], judging), places)
        for done, (place, result) in enumerate(zip(places, results, strict=True), start=1):
            found[place] = result
            pace(done, len(places))
    return found


def _read_one(raw: Dataset, record: dict[str, Any], judging: bool) -> Areas | str:
    try:
        if judging:
            truth = look(raw, record, TASKS[raw.kind]).truth
        else:
            height, width = read_image(record["file_name"]).pixels.shape[:2]
            truth = raw.read_segments(record, (height, width))
    except InputError as error:
        return str(error)
    values, pixels = np.unique(truth.semantic(), return_counts=True)
    return [[int(value), int(count)] for value, count in zip(values, pixels, strict=True)]


class _Store:
    """What is remembered of a data set in the cache folder."""

    def __init__(self, dataset: Dataset, judging: bool) -> None:
        self.rule = [
            FORMAT,
            dataset.kind,
            len(dataset.remap),
            judging and dataset.kind,
            short_hash(dataset.lookup.tobytes()),
        ]
        self.path: Path | None = None
        try:
            place = short_hash(dump([str(Path(dataset.root).resolve()), self.rule]))
            self.path = cache_dir() / "examined" / place
        except EnvironmentProblem as problem:
            warnings.warn(f"{problem}; all images are read at every start", RuntimeWarning, stacklevel=2)

    def key(self, name: str, one: ImageContents) -> str:
        """Return what an image is remembered by; those with a file that cannot be read share none."""
        hashes = [one.image.hash, *(stamp.hash for stamp in one.truth)]
        return short_hash(dump([name, hashes, one.record])) if all(hashes) else f"unreadable {name}"

    def contents(self) -> Contents | None:
        """Return the files as they were last time."""
        try:
            return read_contents(self.path.with_suffix(".files"))[0] if self.path else None
        except (InputError, IndexError):  # there is nothing yet, or of another version
            return None

    def areas(self) -> dict[str, Areas]:
        """Return the areas of the images that could be used."""
        try:
            text = self.path.with_suffix(".json").read_text(encoding="utf-8") if self.path else "{}"
            found: dict[str, Areas] = json.loads(text)
        except (OSError, ValueError):
            return {}
        return found

    def write(self, contents: Contents, areas: dict[str, Areas]) -> None:
        """Remember; where that is not possible the next start reads all images again."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_contents(self.path.with_suffix(".files"), [contents])
            with atomic_write(self.path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(areas), encoding="utf-8")
        except (OSError, InputError) as error:
            warnings.warn(f"{error}; all images are read at the next start, too", RuntimeWarning, stacklevel=2)


def brief(problems: Sequence[str]) -> list[str]:
    """Return problems with at most `NAMED` of a kind, and how many more there are of it."""
    seen, lines = Counter[str](), []
    for problem in problems:
        kind = _kind(problem)
        seen[kind] += 1
        if seen[kind] <= NAMED:
            lines.append(problem)
    return lines + [f"... and {count - NAMED} more like: {kind}" for kind, count in seen.items() if count > NAMED]


def _kind(problem: str) -> str:
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'...'", problem))


def dropped(before: Dataset, after: Dataset, areas: np.ndarray) -> str:
    """Say which classes other words have left out, with their shares of the labelled pixels; empty if there are none.

    Args:
        before: The data set with its own classes.
        after: The same with others.
        areas: Of `Examined`.
    """
    lost = (before.remap >= 0) & (after.remap < 0)
    pixels = np.bincount(before.remap[lost], areas[:-1][lost], minlength=len(before.classes))
    whole = areas[:-1][before.remap >= 0].sum()
    if not lost.any():
        return ""
    gone = np.unique(before.remap[lost])
    order = sorted(gone, key=lambda place: (-pixels[place], place))
    named = [f"{before.classes.names[place]} {_percent(pixels[place], whole)}" for place in order[:NAMED]]
    more = f" and {len(order) - NAMED} more" if len(order) > NAMED else ""
    return (
        f"'{after.name}': {len(gone)} of its {len(before.classes)} classes are not among the {len(after.classes)} "
        f"words; {_percent(pixels.sum(), whole)} of the labelled pixels become void: {', '.join(named)}{more}"
    )


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / max(whole, 1):.2f} %"
