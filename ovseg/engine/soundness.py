"""Which images of a data set can be used: all of them are read before the first step, and remembered by content.

What was read once is kept in the cache folder, by the hashes of the files, so that the next start looks only at their
sizes and times. What cannot be used is not remembered: it is read again, and said again.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from ovseg.data.checking import Report, Seen, judge, read_masks, see
from ovseg.data.contents import Contents, ImageContents, contents_of, read_contents, write_contents
from ovseg.data.dataset import Dataset, Segments
from ovseg.engine.pace import Pace, log
from ovseg.errors import EnvironmentProblem, InputError
from ovseg.evaluation.runs.measures import TASKS
from ovseg.evaluation.runs.worker import look
from ovseg.system.cache_dir import cache_dir
from ovseg.system.files import atomic_write
from ovseg.system.values import dump, short_hash

FORMAT = 2


@dataclass(frozen=True, eq=False)
class Examined:
    """A data set, all of whose images were read.

    Attributes:
        dataset: With all its records.
        contents: Its files by content, in the order of the records.
        faults: Why an image cannot be used, by its place.
        report: All that `ovseg datasets check` says of it.
    """

    dataset: Dataset
    contents: Contents
    faults: dict[int, str]
    report: Report

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

    Raises:
        InputError: No image of it can be meant: its labels have another scale, or show none of its classes.
    """
    log.info(f"looking at '{dataset.name}': {len(dataset.records)} images")
    store = _Store(dataset, judging)
    contents = contents_of(dataset, store.contents(), Pace(f"files of '{dataset.name}'"))
    keys = [store.key(name, one) for name, one in contents.images.items()]
    known = comm.all_gather(store.seen() if comm.is_main_process() else {})[0]  # one view of what is to be read
    missing = [place for place, key in enumerate(keys) if key not in known]
    own = missing[comm.get_rank() :: comm.get_world_size()]
    every = comm.all_gather(_read(dataset, own, judging))
    found = {place: seen for part in every for place, seen in part.items()}
    found |= {place: Seen(*known[key]) for place, key in enumerate(keys) if place not in found}
    sound = {keys[place]: seen for place, seen in found.items() if not seen.fault}
    if missing and comm.is_main_process():
        store.write(contents, sound)
    faults = {place: seen.fault for place, seen in sorted(found.items()) if seen.fault}
    report = judge(dataset, dict(sorted(found.items())), _twins(dataset, contents))
    if report.broken:
        raise InputError(f"'{dataset.name}': {report.broken[0]}")
    return Examined(dataset, contents, faults, report)


def _read(dataset: Dataset, places: Sequence[int], judging: bool) -> dict[int, Seen]:
    """Return what some images show."""
    pace, found = Pace(f"reading '{dataset.name}'"), {}
    threads = max(1, (os.cpu_count() or 1) // comm.get_local_size())
    read = _read_judging if judging else read_masks
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda place: see(dataset, dataset.records[place], read), places)
        for done, (place, seen) in enumerate(zip(places, results, strict=True), start=1):
            found[place] = seen
            pace(done, len(places))
    return found


def _read_judging(dataset: Dataset, record: dict[str, Any]) -> Segments:
    return look(dataset, record, TASKS[dataset.kind]).truth


def _twins(dataset: Dataset, contents: Contents) -> list[list[str]]:
    """Return groups of image files that hold the same bytes."""
    groups = defaultdict[str, dict[str, None]](dict)
    for record, one in zip(dataset.records, contents.images.values(), strict=True):
        groups[one.image.hash][record["file_name"]] = None  # several records may share a file
    return [list(group) for key, group in groups.items() if key and len(group) > 1]


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

    def seen(self) -> dict[str, Seen]:
        """Return what the sound images show."""
        try:
            text = self.path.with_suffix(".json").read_text(encoding="utf-8") if self.path else "{}"
            found: dict[str, Seen] = json.loads(text)
        except (OSError, ValueError):
            return {}
        return found

    def write(self, contents: Contents, seen: dict[str, Seen]) -> None:
        """Remember; where that is not possible the next start reads all images again."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_contents(self.path.with_suffix(".files"), [contents])
            with atomic_write(self.path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(seen), encoding="utf-8")
        except (OSError, InputError) as error:
            warnings.warn(f"{error}; all images are read at the next start, too", RuntimeWarning, stacklevel=2)
