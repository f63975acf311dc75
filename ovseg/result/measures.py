"""Regions of a label map and their measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ovseg.vocabulary import ClassEntry, Vocabulary

_PIXELS = 2**21  # of a map that are measured at a time


@dataclass(frozen=True)
class Segment:
    """All pixels of one class.

    Attributes:
        class_id: Position of the class in the user's list.
        name: Display name of the class.
        area: Pixels.
        area_fraction: ``area`` over all pixels of the image, 0..1.
        score: Mean score over its pixels, 0..1.
        bbox: Left, top, width, height in pixels.
    """

    class_id: int
    name: str
    area: int
    area_fraction: float
    score: float
    bbox: tuple[int, int, int, int]


def find_segments(labels: np.ndarray, scores: np.ndarray, vocabulary: Vocabulary) -> list[Segment]:
    """Measure every class of a label map.

    Args:
        labels: ``(H, W)`` int32; -1 = no class.
        scores: ``(H, W)`` float32.
        vocabulary: The classes, for their names.

    Returns:
        The segments of the classes that are present, by ascending class id.
    """
    measures = measure(labels, scores, len(vocabulary) + 1, shift=1)  # slot 0 is "no class"
    return [
        Segment(slot - 1, vocabulary[slot - 1].name, found.area, found.area / labels.size, found.score, found.bbox)
        for slot, found in measures.items()
        if slot
    ]


class Measures(NamedTuple):
    """Area in pixels, mean score in 0..1, and left, top, width and height in pixels of a region."""

    area: int
    score: float
    bbox: tuple[int, int, int, int]


def measure(ids: np.ndarray, scores: np.ndarray, count: int, shift: int = 0) -> dict[int, Measures]:
    """Measure all regions of a map in one pass over its horizontal runs, some rows at a time.

    Args:
        ids: ``(H, W)`` of any integer dtype, 0..count - 1 behind the shift.
        scores: ``(H, W)`` float32 in 0..1.
        count: How many ids there may be.
        shift: Is added to the ids.

    Returns:
        The regions that are present, by ascending id.
    """
    width = ids.shape[1]
    areas, sums = np.zeros(count, dtype=np.int64), np.zeros(count)
    low = np.full((2, count), ids.size)  # smallest column and row of each region
    high = np.zeros((2, count), dtype=np.int64)  # one beyond the largest
    step = max(1, _PIXELS // width)
    for top in range(0, len(ids), step):
        part = ids[top : top + step] + shift
        begins = np.ones(part.shape, dtype=bool)  # where a run of one id in one row begins
        np.not_equal(part[:, 1:], part[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        slot = part.ravel()[starts]
        lengths = np.diff(starts, append=part.size)
        areas += np.bincount(slot, weights=lengths, minlength=count).astype(np.int64)
        own = np.add.reduceat(scores[top : top + step].ravel(), starts, dtype=np.float64)
        sums += np.bincount(slot, weights=own, minlength=count)
        rows, lefts = np.divmod(starts, width)
        rows += top
        for axis, (first, last) in enumerate([(lefts, lefts + lengths), (rows, rows + 1)]):
            np.minimum.at(low[axis], slot, first)
            np.maximum.at(high[axis], slot, last)
    present = np.flatnonzero(areas)
    boxes = np.concatenate([low, high - low]).T[present].tolist()
    means = (sums[present] / areas[present]).clip(0, 1).tolist()
    return {
        i: Measures(area, mean, (x, y, w, h))
        for i, area, mean, (x, y, w, h) in zip(present.tolist(), areas[present].tolist(), means, boxes, strict=True)
    }


def summarise(number: int, entry: ClassEntry, segment: Segment | None) -> dict[str, Any]:
    """Describe one class, present or not, in JSON values; an absent class has no score."""
    return {
        "id": number,
        "name": entry.name,
        "synonyms": list(entry.names[1:]),
        "is_thing": entry.is_thing,
        "color": list(entry.color),
        "area": segment.area if segment else 0,
        "area_fraction": segment.area_fraction if segment else 0.0,
        "score": segment.score if segment else None,
        "bbox": list(segment.bbox) if segment else None,
        **pictures_of(entry),
    }


def pictures_of(entry: ClassEntry) -> dict[str, Any]:
    """Say by which pictures a class is known, and whether its names count, too; nothing of a class without pictures."""
    if not entry.examples:
        return {}
    return {"examples": [{"name": one.name, "hash": one.hash} for one in entry.examples], "by_name": entry.by_name}
