"""What the files of a data set are, by content: what a run was made of, kept beside it and compared when it goes on.

Of each image the bytes of its file and of those of its ground truth count, and what its record itself says of the
ground truth (COCO's segments, outlines, prompts), with the classes and what the values of the files mean. Folders do
not count, nor do times: a data set that is copied, moved or touched is the same.

Hashes are made once, by a pass over the files before the work starts: images are read for the work anyway, so that the
pass mostly brings them into memory, and what a run is made of is known before its first number. After that a file is
read again only in doubt, when its size or one of its times is another; with nothing changed 100,000 images cost a
look at each file.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.system.files import atomic_write, file_hash
from ovseg.system.values import dump, short_hash
from ovseg.vocabulary import Vocabulary

FORMAT = 1
PREDICTIONS = "predictions"
"""The `Contents.kind` of what was saved in place of a ground truth."""
NAMED = 3
"""So many images are named in a line on what changed; the others are counted."""
_YOUNG = 2_000_000_000  # ns: a file this young may be written to again without that its times, as kept, would show it
_AT_ONCE = 64  # images that a thread looks at before it tells


class Stamp(NamedTuple):
    """A file: its size in bytes, its times of change in ns (``mtime``, ``ctime``), and what it holds.

    `hash` is empty where there is no such file, or none that can be read.
    """

    size: int
    mtime: int
    ctime: int
    hash: str


class ImageContents(NamedTuple):
    """One image: its file, those of its ground truth, and the hash of what its record says without any file."""

    image: Stamp
    truth: tuple[Stamp, ...]
    record: str

    def same_truth(self, other: ImageContents) -> bool:
        """Tell whether both have the same ground truth."""
        return (self.record, [one.hash for one in self.truth]) == (other.record, [one.hash for one in other.truth])

    def same(self, other: ImageContents) -> bool:
        """Tell whether both are the same image with the same ground truth."""
        return self.image.hash == other.image.hash and self.same_truth(other)


@dataclass(frozen=True, eq=False)
class Contents:
    """A data set by content.

    Attributes:
        name: What it was called; it does not count.
        kind: Of its ground truth, see `Dataset.kind`.
        classes: Names, synonyms and thing flags in order.
        values: Hash of what the values of its files stand for (`Dataset.lookup`, `Dataset.remap`).
        images: What there is of each image, by its name (`Dataset.image_name`), in order.
    """

    name: str
    kind: str
    classes: Vocabulary
    values: str
    images: dict[str, ImageContents]


def contents_of(
    dataset: Dataset, known: Contents | None = None, report: Callable[[int, int], None] | None = None
) -> Contents:
    """Look at all files of a data set; those that are as they were known are not read.

    Args:
        dataset: With the classes and the records that a run uses.
        known: What `read_contents` gave of an earlier run on it, wherever it lay then.
        report: Told how many images are done, and of how many.
    """
    earlier = {} if known is None else known.images
    images = _look_at_all(list(_named(dataset).items()), lambda name, record: _look(record, earlier.get(name)), report)
    meaning = np.ascontiguousarray(dataset.lookup).tobytes() + np.ascontiguousarray(dataset.remap).tobytes()
    return Contents(dataset.name, dataset.kind, dataset.classes, short_hash(meaning), images)


def contents_of_files(
    name: str,
    classes: Vocabulary,
    files: Mapping[str, Sequence[Path]],
    known: Contents | None = None,
    kind: str = PREDICTIONS,
    report: Callable[[int, int], None] | None = None,
) -> Contents:
    """Look at files that are of no data set as `contents_of` does at one: saved predictions, the inputs of a job.

    Args:
        name: What they are called.
        classes: That they count in.
        files: By the name of each image its file, and what tells the classes of that; empty where there is none.
        known: What `read_contents` gave of them.
        kind: See `Contents.kind`.
        report: Told how many images are done, and of how many.
    """

    def look(image: str, paths: Sequence[Path]) -> ImageContents:
        before = known.images.get(image) if known else None
        stamps = () if before is None else (before.image, *before.truth)
        first, *rest = [_stamp(str(path), stamps[i : i + 1]) for i, path in enumerate(paths)] or [_NOTHING]
        return ImageContents(first, tuple(rest), "")

    return Contents(name, kind, classes, "", _look_at_all(list(files.items()), look, report))


def differences(before: Contents, now: Contents, of: Collection[str] | None = None) -> list[str]:
    """Say what is not the same in two looks at a data set.

    Args:
        before: What it was.
        now: What it is.
        of: Names of the images whose files count; None for all. Images that came or went always count.

    Returns:
        One line for each kind of change with the first few names and the number; empty where nothing has changed.
    """
    return [*class_differences(before.classes, now.classes), *file_differences(before, now, of)]


def file_differences(before: Contents, now: Contents, of: Collection[str] | None = None) -> list[str]:
    """Say what is not the same in two looks but for the names of classes; as `differences`."""
    found = []
    if before.kind != now.kind:
        found.append(f"ground truth: was {before.kind}, is {now.kind}")
    if before.values != now.values and before.classes == now.classes:
        found.append("classes: the values of the files stand for others of them")
    both = [name for name in now.images if name in before.images]
    pairs = {name: (before.images[name], now.images[name]) for name in both if of is None or name in of}
    gone = [name for name, (was, is_) in pairs.items() if was.image.hash and not is_.image.hash]
    for name in gone:
        del pairs[name]
    image, truth = ("predictions", "classes of predictions") if now.kind == PREDICTIONS else ("images", "labels")
    changes = {
        f"{image}: {{}} added": [name for name in now.images if name not in before.images],
        f"{image}: {{}} removed": [name for name in before.images if name not in now.images],
        f"{image}: {{}} without their file": gone,
        f"{image}: {{}} changed": [name for name, (was, is_) in pairs.items() if was.image.hash != is_.image.hash],
        f"{truth}: {{}} changed": [name for name, (was, is_) in pairs.items() if not was.same_truth(is_)],
    }
    found += [f"{text.format(len(names))} ({_some(names)})" for text, names in changes.items() if names]
    if both != [name for name in before.images if name in now.images]:
        found.append(f"{image}: in another order")
    return found


def class_differences(before: Vocabulary, now: Vocabulary) -> list[str]:
    """Say what is not the same in two lists of classes, a line for each kind of change."""
    was, is_ = before.names, now.names
    old, new = set(was), set(is_)
    gone, come = [name for name in was if name not in new], [name for name in is_ if name not in old]
    renamed = [(a, b) for a, b in zip(was, is_, strict=False) if a not in new and b not in old]
    found = []
    if renamed and len(was) == len(is_) and len(renamed) == len(gone):
        found.append(f"classes: {len(renamed)} renamed ({_some([f'{a} -> {b}' for a, b in renamed])})")
        gone, come = [], []
    for what, names in (("added", come), ("removed", gone)):
        if names:
            found.append(f"classes: {len(names)} {what} ({_some(names)})")
    kept = zip((name for name in was if name in new), (name for name in is_ if name in old), strict=True)
    moved = [(a, b) for a, b in kept if a != b]
    if moved:
        found.append(
            f"classes: {len(moved)} in another order ({_some([a for a, _ in moved])} -> {_some([b for _, b in moved])})"
        )
    entries = {entry.name: entry for entry in before}
    for what, field in (("other synonyms", "names"), ("other thing flags", "is_thing")):
        other = [e.name for e in now if e.name in entries and getattr(entries[e.name], field) != getattr(e, field)]
        if other:
            found.append(f"classes: {len(other)} with {what} ({_some(other)})")
    return found


def write_contents(path: Path, every: Sequence[Contents]) -> None:
    """Write data sets as lines of JSON: of each a head and then its images.

    Raises:
        InputError: The place cannot be written to.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for one in every:
            head = {"format": FORMAT, "data": one.name, "kind": one.kind, "classes": one.classes.to_json()}
            file.write(dump({**head, "values": one.values}) + "\n")
            file.writelines(dump([name, *image]) + "\n" for name, image in one.images.items())


def read_contents(path: Path) -> list[Contents]:
    """Read what `write_contents` has written.

    Raises:
        InputError: There is no such file, or it is of another format.
    """
    found: list[Contents] = []
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):
            row = json.loads(line) if line else None
            if isinstance(row, dict):
                if row["format"] != FORMAT:
                    raise ValueError(f"format {row['format']}")
                classes = Vocabulary.parse(row["classes"])
                found.append(Contents(row["data"], row["kind"], classes, row["values"], {}))
            elif row:
                name, image, truth, record = row
                found[-1].images[name] = ImageContents(Stamp(*image), tuple(Stamp(*one) for one in truth), record)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"'{path}' does not tell what a run's data were ({' '.join(str(error).split())[:80]}); expected what the "
            "run has written"
        ) from error
    return found


_NOTHING = Stamp(-1, 0, 0, "")


def _named(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return the records by the names of their images; an image that is there again is numbered."""
    seen = Counter[str]()
    found = {}
    for record in dataset.records:
        name = dataset.image_name(record)
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} ({seen[name]})"] = record
    return found


def _look_at_all(
    items: Sequence[tuple[str, Any]],
    look: Callable[[str, Any], ImageContents],
    report: Callable[[int, int], None] | None,
) -> dict[str, ImageContents]:
    """Look at named things in threads, in order."""
    parts = [items[i : i + _AT_ONCE] for i in range(0, len(items), _AT_ONCE)]
    images: dict[str, ImageContents] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(lambda part: {name: look(name, one) for name, one in part}, parts):
            images |= found
            if report:
                report(len(images), len(items))
    return images


def _look(record: dict[str, Any], known: ImageContents | None) -> ImageContents:
    """Look at the files of one image."""
    own, paths = _parted({key: value for key, value in record.items() if key not in ("file_name", "image_id")})
    before = () if known is None else known.truth
    truth = tuple(_stamp(path, before[i : i + 1]) for i, path in enumerate(paths))
    image = _stamp(record["file_name"], () if known is None else (known.image,))
    return ImageContents(
        image, truth, short_hash(json.dumps(own, sort_keys=True, default=lambda value: value.tolist()))
    )


def _parted(value: Any) -> tuple[Any, list[str]]:
    """Return what a record says without its files, and the paths of those, in order of their keys."""
    paths: list[str] = []

    def strip(part: Any) -> Any:
        if isinstance(part, dict):
            paths.extend(str(part[key]) for key in sorted(part) if key.endswith("file_name") and part[key])
            return {key: strip(one) for key, one in part.items() if not key.endswith("file_name")}
        if isinstance(part, list) and part and isinstance(part[0], dict):  # lists of numbers are long
            return [strip(one) for one in part]
        return part

    return strip(value), paths


def _stamp(path: str, known: Sequence[Stamp]) -> Stamp:
    """Look at a file, and into it unless it is as it was known."""
    try:
        found = os.stat(path)
        for one in known:
            if one[:3] == (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
                return one
        # Times are looked up before and judged before the file is read: who writes to it meanwhile is found out later.
        young = max(found.st_mtime_ns, found.st_ctime_ns) > time.time_ns() - _YOUNG
        return Stamp(found.st_size, 0 if young else found.st_mtime_ns, found.st_ctime_ns, file_hash(path)[:16])
    except OSError:
        return _NOTHING


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
