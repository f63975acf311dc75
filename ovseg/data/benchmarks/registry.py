"""All benchmarks by name, and their splits as data sets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ovseg.data.benchmarks.base import BENCHMARKS, Benchmark, Place
from ovseg.data.benchmarks.manifest import read_manifest
from ovseg.data.benchmarks.parts import count_here, part_notes, read_here, shortage
from ovseg.data.dataset import Dataset
from ovseg.errors import InputError
from ovseg.system.registry import Kind, find

KIND = Kind("benchmark", BENCHMARKS)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of all data sets: the given one, else ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(os.path.expanduser(root or os.environ.get("DETECTRON2_DATASETS") or "datasets"))


def benchmark_names() -> dict[str, tuple[Benchmark, str]]:
    """Return the benchmark and split of every name that the catalogs know, aliases included."""
    found = {}
    for benchmark in BENCHMARKS.values():
        for split in benchmark.splits:
            for name in (f"{benchmark.name}_{split}", *benchmark.aliases.get(split, ())):
                found[name] = (benchmark, split)
    return found


def find_places(name: str, root: Path, subset: bool = False) -> list[Place]:
    """Return the splits that a name means: the first split of a benchmark, or the named one.

    Args:
        name: Of a benchmark or a split.
        root: Folder of the benchmarks.
        subset: Whether they are parts on purpose.

    Raises:
        UnknownNameError: There is no such benchmark or split.
    """
    splits = benchmark_names()
    if name in splits:
        return [Place(*splits[name], root, subset)]
    benchmark = find(KIND, name, splits)
    return [Place(benchmark, next(iter(benchmark.splits)), root, subset)]


def read_benchmark(name: str, root: Path, whole: bool = True) -> Dataset:
    """Read a split by its name in the catalogs.

    Images that did not pass the checks of ``ovseg datasets prepare`` are left out; `Dataset.notes` say so, and that the
    split is a part of the benchmark.

    Args:
        name: Of a split.
        root: Folder of the benchmarks.
        whole: Refuse a part that was not prepared as one, with ``--subset``.

    Raises:
        InputError: It is not there in full, has to be prepared first, or was and has changed; the line says how.
        UnknownNameError: There is no such benchmark or split.
    """
    place = find_places(name, root)[0]
    place.rules.require(place)
    manifest = read_manifest(place)
    if manifest:
        place = replace(place, subset=manifest.get("subset", False))
    if place.rules.converts(place):
        if not (manifest and manifest["complete"]):
            raise InputError(f"'{name}' is not prepared; run {place.command}, it converts the labels once")
        if (manifest["vocabulary"], manifest["rule"]) != (place.classes().hash, place.benchmark.rule):
            raise InputError(f"'{name}' was prepared by another list of classes or rule; run {place.command}")
        if changed := place.rules.outdated(place, every=False):
            raise InputError(next(iter(changed.values())))
    broken = set(manifest["broken"]) if manifest else set()
    dataset = read_here(place)
    problem = shortage(place, dataset)
    if problem and whole and not place.subset and count_here(place, dataset) < place.rules.count:
        raise InputError(problem)
    records = [record for record in dataset.records if str(record["image_id"]) not in broken]
    lost = len(dataset.records) - len(records)
    left = f"{lost} images of {place.name} are broken and left out: `ovseg datasets check {place.name}` names them"
    notes = (*dataset.notes, *part_notes(place, dataset), *([left] if lost else []))
    return replace(dataset, name=name, records=records, notes=notes, rest=place.benchmark.background)
