"""Whether a split is whole: a part is refused, or taken on purpose and called one in every result."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovseg.data.benchmarks.base import Place
from ovseg.data.dataset import Dataset
from ovseg.errors import InputError


def mask_file(record: dict[str, Any]) -> Path | None:
    """Return the file of an image's masks; None where they are in a JSON file."""
    found = record.get("sem_seg_file_name") or record.get("pan_seg_file_name")
    return Path(found) if found else None


def is_here(place: Place, record: dict[str, Any]) -> bool:
    """Whether the published files of an image and of its masks exist; what is converted is looked at elsewhere."""
    mask = mask_file(record)
    made = mask is not None and mask.is_relative_to(place.made)
    return os.path.isfile(record["file_name"]) and (mask is None or made or mask.is_file())


def count_here(place: Place, dataset: Dataset) -> int:
    """Return how many images have all of their files."""
    return sum(is_here(place, record) for record in dataset.records)


def read_here(place: Place) -> Dataset:
    """Read a split as its files list it; of a subset what is there.

    Raises:
        OvsegError: As `Split.read`; a subset is empty.
    """
    dataset = place.rules.read(place)
    if not place.subset:
        return dataset
    records = [record for record in dataset.records if is_here(place, record)]
    if not records:
        raise InputError(f"{place.name}: no image in '{place.folder}' has its label there; unpack some of them")
    return replace(dataset, records=records)


def shortage(place: Place, dataset: Dataset) -> str:
    """Say that a split has not as many images as the benchmark; empty when it has."""
    here, count = count_here(place, dataset), place.rules.count
    if here in (count, *place.rules.also):
        return ""
    text = f"{place.name} has {here:,} images with labels in '{place.folder}', the benchmark has {count:,}"
    if here > count:
        return f"{text}; its numbers will not be comparable: is it the same release?"
    # The first mends what is meant to be whole, the second is for a part on purpose.
    subset = replace(place, subset=True).command
    return f"{text}; unpack its archives again, or take what is there as a subset: {subset}"


def part_notes(place: Place, dataset: Dataset) -> list[str]:
    """Return the line that every result on a split of another size than the benchmark's repeats."""
    if not shortage(place, dataset):
        return []
    part = f"{count_here(place, dataset):,} of {place.rules.count:,} images of {place.name}"
    return [f"{part}: numbers on them are not the benchmark's"]
