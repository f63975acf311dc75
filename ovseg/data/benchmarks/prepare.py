"""Preparing a split: fetch, convert what is not converted, read every image and label once, write ``manifest.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import PIL

from ovseg._version import __version__
from ovseg.data.benchmarks.base import Missing, Place, Source
from ovseg.data.benchmarks.fetch import fetch, unfinished
from ovseg.data.benchmarks.labels import in_threads
from ovseg.data.benchmarks.manifest import read_manifest, write_manifest
from ovseg.data.benchmarks.parts import count_here, mask_file, part_notes, read_here, shortage
from ovseg.data.dataset import INSTANCE, Dataset, missing_image
from ovseg.data.images import read_image
from ovseg.errors import InputError
from ovseg.system.files import atomic_write, check_writable, file_hash


@dataclass(frozen=True)
class Outcome:
    """What came of preparing a split.

    Attributes:
        place: The split.
        images: Sound pairs of image and label.
        present: Classes that occur.
        total: Classes of the list.
        problems: One line each; empty when all is as it should be.
        notes: What is no fault and has to be known: that it is a part.
    """

    place: Place
    images: int
    present: int
    total: int
    problems: list[str]
    notes: list[str] = field(default_factory=list)


def prepare(place: Place) -> Outcome:
    """Prepare a split; what an earlier run has done is not done again, except that all is read and checked.

    Raises:
        InputError: Files are missing; the line says what mends it.
    """
    check_writable(place.root)
    problems = _fetch_all(place)
    place = replace(place)  # its folder is looked for anew
    place.rules.require(place)
    classes = place.classes()
    head = {
        "name": place.name,
        "folder": place.folder.relative_to(place.root).as_posix(),
        "expected": place.rules.count,
        "classes": len(classes),
        "vocabulary": classes.hash,
        "rule": place.benchmark.rule,
        "subset": place.subset,
    }
    earlier = read_manifest(place)
    if earlier is None or earlier["vocabulary"] != classes.hash:
        rmtree(place.made / "labels", ignore_errors=True)  # of another list of classes, or by another rule
    write_manifest(place, {**head, "complete": False, "broken": {}})
    unusable = place.rules.convert(place)
    dataset = read_here(place)
    found = verify(dataset, unusable)
    listing = dict.fromkeys((*dataset.problems, *dataset.left_out, *found.broken.values()))  # each line once
    problems += [*listing, *count_problems(place, dataset)]
    present = int(found.present.sum())
    with atomic_write(place.made / "classes.json") as temporary:
        temporary.write_text(json.dumps(classes.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    counts = {"images": len(found.files), "present": present, "void": dataset.ignore_label}
    lists = {"problems": problems, "broken": found.broken, "files": found.files}
    versions = {"ovseg": __version__, "numpy": np.__version__, "pillow": PIL.__version__}
    head["subset"] = bool(part_notes(place, dataset)) and place.subset  # a whole one is none, whatever the flag says
    write_manifest(place, {**head, "complete": True, **counts, "versions": versions, **lists})
    return Outcome(place, len(found.files), present, len(classes), problems, part_notes(place, dataset))


def _fetch_all(place: Place) -> list[str]:
    """Fetch what is missing; a source that fails does not keep the others from coming.

    Returns:
        One line for each source that failed though there is enough to go on.

    Raises:
        InputError: A source failed, and without it there is nothing to prepare.
    """
    broken_off = [source for source in place.sources() if unfinished(place, source).exists()]
    problems = _fetch(place, broken_off, again=True)
    for again in (False, True):  # first what is not there at all, then the archive of what still is not
        try:
            place.rules.require(replace(place))
        except Missing as error:
            if problems:
                raise InputError(problems[0]) from error
            problems += _fetch(place, list(error.sources) if again else place.sources(), again)
    if problems and not place.rules.complete(replace(place).folder):
        raise InputError(problems[0])
    return problems


def _fetch(place: Place, sources: list[Source], again: bool) -> list[str]:
    problems = []
    for source in sources:
        try:
            fetch(place, source, again)
        except InputError as error:
            problems.append(str(error))
    return problems


def check_only(place: Place) -> Outcome:
    """Look at what is there and change nothing: the tree, the counts, and the checksums of what was made.

    Raises:
        InputError: Files are missing; the line says what mends it.
    """
    place.rules.require(place)
    manifest = read_manifest(place)
    place = replace(place, subset=place.subset or bool(manifest and manifest.get("subset")))
    total = len(place.classes())
    if not (manifest and manifest["complete"]):
        return Outcome(place, 0, 0, total, [f"{place.name} is there but not prepared; run {place.command}"])
    dataset = read_here(place)
    problems = [*manifest["problems"]]
    problems += [one for one in count_problems(place, dataset) if one not in problems]
    changed = in_threads(partial(_changed, manifest["files"]), dataset.records, place.name)
    keys = [str(record["image_id"]) for record in dataset.records]
    found = place.rules.outdated(place, every=True) | {
        key: line for key, line in zip(keys, changed, strict=True) if line
    }
    problems += found.values()
    return Outcome(place, manifest["images"], manifest["present"], total, problems, part_notes(place, dataset))


def _changed(files: dict[str, str], record: dict[str, Any]) -> str:
    """Say what is wrong with a pair that was sound; empty when it still is."""
    if not Path(record["file_name"]).is_file():
        return f"image '{record['file_name']}' is missing; unpack its archive again"
    path, expected = mask_file(record), files.get(str(record["image_id"]))
    if path is None or expected is None or (path.is_file() and file_hash(path) == expected):
        return ""
    return f"label '{path}' is not what it was when it was checked; delete it and prepare again"


def count_problems(place: Place, dataset: Dataset) -> list[str]:
    """Compare the number of pairs with that of the benchmark; a subset may have fewer."""
    line = shortage(place, dataset)
    return [line] if line and not (place.subset and count_here(place, dataset) < place.rules.count) else []


@dataclass(eq=False)
class Verified:
    """What reading a data set has shown: checksums of its masks, lines on what is broken, (K,) classes present."""

    files: dict[str, str]
    broken: dict[str, str]
    present: np.ndarray


def verify(dataset: Dataset, unusable: dict[str, str]) -> Verified:
    """Read every image and its masks, but those that are known to be unusable (lines by ``image_id``)."""
    found = Verified({}, dict(unusable), np.zeros(len(dataset.classes), bool))
    records = [record for record in dataset.records if str(record["image_id"]) not in unusable]
    for key, digest, problem, classes in in_threads(partial(_verify, dataset), records, dataset.name):
        if problem:
            found.broken[key] = problem
        else:
            found.files[key] = digest
            found.present[classes] = True
    return found


def _verify(dataset: Dataset, record: dict[str, Any]) -> tuple[str, str, str, np.ndarray]:
    """Return the id of an image, the checksum of its masks, what is wrong, and its classes."""
    key = str(record["image_id"])
    if not Path(record["file_name"]).exists():
        return key, "", missing_image(record["file_name"]), np.zeros(0, np.int64)
    try:
        segments = dataset.read_segments(record, read_image(record["file_name"]).pixels.shape[:2])
    except InputError as error:
        return key, "", str(error), np.zeros(0, np.int64)
    path = None if dataset.kind == INSTANCE else mask_file(record)
    return key, file_hash(path) if path else "", "", segments.classes
