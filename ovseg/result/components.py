"""Connected regions of a map of values, which of them touch, and small ones given to their neighbours.

Pixels are connected by their four sides, so two regions never cross each other at a corner.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """The connected regions of a map.

    Attributes:
        parts: ``(H, W)`` int32; the number of the region, from 0 by its first pixel.
        values: ``(N,)``; the value of each.
        areas: ``(N,)`` int64; pixels.
    """

    parts: np.ndarray
    values: np.ndarray
    areas: np.ndarray

    def borders(self) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of regions that touch ``(P, 2)``, smaller number first, and the pixel sides that they share."""
        parts = self.parts.astype(np.int64)
        keys = []
        for one, other in ((parts[:, :-1], parts[:, 1:]), (parts[:-1], parts[1:])):
            apart = one != other
            first, second = one[apart], other[apart]
            keys.append(np.minimum(first, second) * len(self.values) + np.maximum(first, second))
        found, lengths = np.unique(np.concatenate(keys), return_counts=True)
        return np.stack(np.divmod(found, len(self.values)), axis=1), lengths


def find_components(ids: np.ndarray) -> Components:
    """Find the connected regions of a map ``(H, W)`` of any integer dtype."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    begins = np.ones(ids.shape, dtype=bool)  # where a run of one value in one row begins
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    runs = (np.cumsum(begins.ravel()) - 1).reshape(ids.shape)
    count = int(runs[-1, -1]) + 1
    below = (ids[1:] == ids[:-1]) & (begins[1:] | begins[:-1])  # once for each pair of runs that touch
    pairs = runs[:-1][below], runs[1:][below]
    graph = coo_matrix((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(count, count))
    regions, of_run = connected_components(graph, directed=False)
    lengths = np.diff(np.flatnonzero(begins), append=ids.size)
    values = np.empty(regions, dtype=ids.dtype)
    values[of_run] = ids[begins]
    areas = np.bincount(of_run, weights=lengths, minlength=regions).astype(np.int64)
    return Components(of_run[runs].astype(np.int32, copy=False), values, areas)


def sieve(ids: np.ndarray, least: int, void: int) -> tuple[np.ndarray, int]:
    """Give regions of fewer pixels to the neighbour with which they share the longest border, smallest first.

    "No value" is a neighbour like others: a speck that lies in it becomes part of it. Its own regions stay. A region
    without a neighbour, which is the whole image, stays, too.

    Args:
        ids: ``(H, W)`` of any integer dtype.
        least: Pixels of a region that stays.
        void: The value of pixels that have none.

    Returns:
        The map, and how many regions were given away.
    """
    found = find_components(ids)
    small = (found.areas < least) & (found.values != void)
    if not small.any():
        return ids, 0
    merger = _Merger(found)
    waiting = [(int(found.areas[i]), int(i)) for i in np.flatnonzero(small)]
    heapq.heapify(waiting)
    given = 0
    while waiting:
        area, part = heapq.heappop(waiting)
        if merger.root(part) != part or merger.areas[part] != area:
            continue  # it has grown, and waits with its new area, or is part of another
        into = merger.give(part)
        if into is None:
            continue
        given += 1
        if merger.areas[into] < least and merger.values[into] != void:
            heapq.heappush(waiting, (merger.areas[into], into))
    roots = [merger.root(i) for i in range(len(found.values))]
    return np.array(merger.values, dtype=ids.dtype)[roots][found.parts], given


class _Merger:
    """Regions that become parts of others."""

    def __init__(self, found: Components) -> None:
        self.values: list[int] = found.values.tolist()
        self.areas: list[int] = found.areas.tolist()
        self._into = list(range(len(self.values)))
        self._borders: list[dict[int, int]] = [{} for _ in self.values]
        pairs, lengths = found.borders()
        for (one, other), length in zip(pairs.tolist(), lengths.tolist(), strict=True):
            self._borders[one][other] = self._borders[other][one] = length

    def root(self, part: int) -> int:
        """Return what a region is part of now."""
        while self._into[part] != part:
            self._into[part] = self._into[self._into[part]]
            part = self._into[part]
        return part

    def give(self, part: int) -> int | None:
        """Give a region to a neighbour, and make one of all neighbours that it has connected."""
        borders = self._borders[part]
        if not borders:
            return None
        best = max(borders, key=lambda other: (borders[other], self.areas[other], -other))
        self.values[part] = self.values[best]
        whole = part
        for other in [other for other in borders if self.values[other] == self.values[best]]:
            whole = self._join(whole, other)
        return whole

    def _join(self, one: int, other: int) -> int:
        """Make one region of two that touch; the one with more neighbours stays."""
        if len(self._borders[one]) < len(self._borders[other]):
            one, other = other, one
        self._into[other] = one
        self.areas[one] += self.areas[other]
        mine, theirs = self._borders[one], self._borders[other]
        self._borders[other] = {}
        for third, length in theirs.items():
            if third != one:
                mine[third] = self._borders[third][one] = mine.get(third, 0) + length
                del self._borders[third][other]
        del mine[other]
        return one


def fill_holes(ids: np.ndarray, void: int) -> tuple[np.ndarray, int]:
    """Give regions without a value to what surrounds them, if that is one value, and the edge of the image no part.

    Args:
        ids: ``(H, W)`` of any integer dtype.
        void: The value of pixels that have none.

    Returns:
        The map, and how many holes were filled.
    """
    found = find_components(ids)
    hole = found.values == void
    for edge in (found.parts[0], found.parts[-1], found.parts[:, 0], found.parts[:, -1]):
        hole[edge] = False
    if not hole.any():
        return ids, 0
    pairs, _ = found.borders()
    both = np.concatenate([pairs, pairs[:, ::-1]])
    own, around = both[:, 0], found.values[both[:, 1]]
    low, high = np.full(len(hole), np.iinfo(ids.dtype).max), np.full(len(hole), np.iinfo(ids.dtype).min)
    np.minimum.at(low, own, around)
    np.maximum.at(high, own, around)
    hole &= low == high
    return np.where(hole, low, found.values).astype(ids.dtype)[found.parts], int(hole.sum())
