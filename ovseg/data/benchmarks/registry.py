"""All benchmarks by name, and their splits as data sets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ovseg.data.benchmarks.base import BENCHMARKS, Benchmark, Place
from ovseg.data.benchmarks.manifest import read_manifest
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


def find_places(name: str, root: Path) -> list[Place]:
    """Return the splits that a name means: the first split of a benchmark, or the named one.

    Raises:
        UnknownNameError: There is no such benchmark or split.
    """
    splits = benchmark_names()
    if name in splits:
        return [Place(*splits[name], root)]
    benchmark = find(KIND, name, splits)
    return [Place(benchmark, next(iter(benchmark.splits)), root)]


def read_benchmark(name: str, root: Path) -> Dataset:
    """Read a split by its name in the catalogs.

    Images that did not pass the checks of ``ovseg datasets prepare`` are left out.

    Raises:
        InputError: It is not there, or has to be prepared first; the line says how.
        UnknownNameError: There is no such benchmark or split.
    """
    place = find_places(name, root)[0]
    place.rules.require(place)
    manifest = read_manifest(place)
    if place.rules.converts(place) and not (manifest and manifest["complete"]):
        raise InputError(f"'{name}' is not prepared; run {place.command}, it converts the labels once")
    broken = set(manifest["broken"]) if manifest else set()
    dataset = place.rules.read(place)
    records = [record for record in dataset.records if str(record["image_id"]) not in broken]
    return replace(dataset, name=name, records=records)
