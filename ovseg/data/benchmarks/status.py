"""Which benchmarks are below a root, and in what state; nothing but folders and manifests is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovseg.data.benchmarks.base import BENCHMARKS, Place
from ovseg.data.benchmarks.manifest import read_manifest
from ovseg.errors import InputError, OvsegError

READY, SUBSET, PROBLEMS = "ready", "subset", "problems"
UNPREPARED, PARTIAL, MISSING = "not prepared", "partial", "missing"


@dataclass(frozen=True)
class State:
    """The state of a split.

    Attributes:
        place: The split.
        state: ``ready``, ``subset`` (ready, a part on purpose), ``problems`` (prepared, with some), ``not prepared``
            (the files are there), ``partial`` (the folder is there, and something is not in it) or ``missing``.
        images: Sound images; None where it is not prepared.
        line: What mends it, or the first problem; empty when it is ready.
    """

    place: Place
    state: str
    images: int | None
    line: str


def status(root: Path) -> Iterator[State]:
    """Yield the state of every split of every benchmark."""
    for benchmark in BENCHMARKS.values():
        for split in benchmark.splits:
            yield state_of(Place(benchmark, split, root))


def state_of(place: Place) -> State:
    """Return the state of one split."""
    try:
        place.rules.require(place)
        manifest = read_manifest(place)
    except InputError as error:
        return State(place, PARTIAL if place.folder.is_dir() else MISSING, None, str(error))
    except OvsegError as error:
        return State(place, PROBLEMS, None, str(error))
    if not (manifest and manifest["complete"]):
        return State(place, UNPREPARED, None, f"run {place.command}")
    if manifest["problems"]:
        return State(place, PROBLEMS, manifest["images"], manifest["problems"][0])
    return State(place, SUBSET if manifest.get("subset") else READY, manifest["images"], "")
