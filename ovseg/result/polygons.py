"""Outlines of the regions of a map as polygons that meet along shared lines.

Coordinates are corners of pixels: pixel (x, y) reaches from x to x + 1 and from y to y + 1. That is COCO's convention:
pycocotools takes a pixel as inside where its middle is, column by column, and polygons without tolerance give the map
back exactly.

A line between two regions is made simpler once, for both sides, so no gap and no overlap comes between them. (That is
the idea of shared arcs in topological map formats.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovseg.result.components import Components, find_components
from ovseg.result.objects import mask_areas


@dataclass(frozen=True)
class Part:
    """A connected part of a region.

    Attributes:
        outer: ``(N, 2)`` int; x and y of the corners of its outline, clockwise as it is seen.
        holes: Those of its holes, the other way round.
    """

    outer: np.ndarray
    holes: tuple[np.ndarray, ...] = ()

    def ring(self, inset: float = 0.0) -> np.ndarray:
        """Return one line around the part ``(N, 2)``, with a bridge to and from each hole.

        A bridge is passed in both directions, so it has no area: readers that count crossings see the hole.

        Args:
            inset: How far corners are moved into the part, in pixels, less than 0.4. Those of readers who cut
                fractions off and draw the line, too, as OpenCV and Pillow do, then are the outermost pixels of the
                part; for COCO's rule nothing changes.
        """
        ring = _moved(self.outer, inset)
        for hole in sorted(self.holes, key=lambda one: (one[:, 0].min(), one[:, 1].min())):
            ring = _bridged(ring, _moved(hole, inset))
        return ring


@dataclass(frozen=True)
class Outlines:
    """The polygons of a map.

    Attributes:
        parts: Of each value that is not void, in ascending order; the parts in the order of their first pixel.
        overlap: Intersection over union of each value's polygons, drawn again, with its pixels. 1 without tolerance.
    """

    parts: dict[int, list[Part]]
    overlap: dict[int, float]


def find_outlines(ids: np.ndarray, void: int, tolerance: float = 0.0) -> Outlines:
    """Return the outlines of all values of a map.

    Polygons of different values share no pixel, and every part keeps one. Where simpler lines would cross others, or
    leave a part nothing, the lines near by stay as they were.

    Args:
        ids: ``(H, W)`` of any integer dtype.
        void: The value of pixels that have none.
        tolerance: How far a polygon may leave the outline, in pixels.

    Returns:
        The polygons.
    """
    lines = _Lines(find_components(ids))
    if tolerance == 0:
        parts, _ = lines.parts(void, 0.0)
        return Outlines(parts, dict.fromkeys(parts, 1.0))
    while True:
        parts, lost = lines.parts(void, tolerance)
        shared, overlap = _judge(parts, ids) if not lost else (np.zeros(ids.shape, bool), {})
        if not (lost or shared.any()):
            return Outlines(parts, overlap)
        lines.keep(lost, shared, tolerance)


def _judge(parts: dict[int, list[Part]], ids: np.ndarray) -> tuple[np.ndarray, dict[int, float]]:
    """Return pixels ``(H, W)`` that several values have or a part has lost, and how well each value's polygons fit."""
    from pycocotools import mask as coco_mask

    wrong, covered, overlap = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool), {}
    for value, own in parts.items():
        single = [_draw(part, ids.shape) for part in own]
        for part in (part for part, area in zip(own, mask_areas(single).tolist(), strict=True) if not area):
            (left, top), (right, bottom) = part.outer.min(axis=0), part.outer.max(axis=0)
            wrong[top : bottom + 1, left : right + 1] = True
        drawn, mask = coco_mask.decode(coco_mask.merge(single)).astype(bool), ids == value
        overlap[value] = float((drawn & mask).sum() / (drawn | mask).sum())
        wrong |= drawn & covered
        covered |= drawn
    return wrong, overlap


def _draw(part: Part, size: tuple[int, ...]) -> dict[str, Any]:
    """Draw a part as COCO does; return run lengths of a mask of ``size`` (height, width)."""
    from pycocotools import mask as coco_mask

    found: dict[str, Any] = coco_mask.frPyObjects([part.ring().ravel().tolist()], *size)[0]
    return found


def _moved(line: np.ndarray, inset: float) -> np.ndarray:
    """Move the corners of a closed line ``(N, 2)``, which has its part to the right, into the part."""
    if not inset:
        return line
    step = np.roll(line, -1, axis=0) - line
    inward = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.abs(step).max(axis=1, keepdims=True)
    return line + inset * (inward + np.roll(inward, 1, axis=0)).clip(-1, 1)


def _bridged(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Join a hole to a ring by a level line to the left, through the middle of a row of pixels, where no corner is."""
    hole = np.roll(hole, -int(np.lexsort((hole[:, 1], hole[:, 0]))[0]), axis=0)  # its leftmost corner first
    after, before = hole[1, 1] - hole[0, 1], hole[-1, 1] - hole[0, 1]
    height = np.floor(hole[0, 1] + 0.5) + 0.5 * np.sign(after if abs(after) >= abs(before) else before)
    if not (after or before):  # only a tolerance leaves such a corner
        near = int(((ring - hole[0]) ** 2).sum(axis=1).argmin())
        return np.concatenate([ring[: near + 1], hole, hole[:1], ring[near:]])
    if abs(after) < abs(before):
        hole = np.roll(hole, 1, axis=0)
    at = np.array([[_crossing(hole[:1], hole[1:2], height)[0], height]])
    ends = np.roll(ring, -1, axis=0)
    level = np.flatnonzero((ring[:, 1] > height) != (ends[:, 1] > height))
    found = _crossing(ring[level], ends[level], height)
    level, found = level[found <= at[0, 0]], found[found <= at[0, 0]]
    edge, foot = 0, ring[:1]  # a tolerance may leave nothing to the left
    if len(level):
        edge, foot = int(level[found.argmax()]), np.array([[found.max(), height]])
    return np.concatenate([ring[: edge + 1], foot, at, np.roll(hole, -1, axis=0), at, foot, ring[edge + 1 :]])


def _crossing(first: np.ndarray, second: np.ndarray, height: float) -> np.ndarray:
    """Return x where lines from point to point ``(N, 2)`` have this y."""
    found: np.ndarray = first[:, 0] + (second - first)[:, 0] * (height - first[:, 1]) / (second - first)[:, 1]
    return found


class _Lines:
    """The lines between the regions of a map, as sides of pixels.

    A side is one of a pixel that has another region beyond it; it runs so that its pixel lies to the right. All sides
    of a region make closed rings.
    """

    def __init__(self, found: Components) -> None:
        self._found = found
        outside = len(found.values)
        grid = np.pad(found.parts, 1, constant_values=outside)
        width = found.parts.shape[1]
        inner = grid[1:-1, 1:-1]
        beyond = [grid[:-2, 1:-1], grid[1:-1, 2:], grid[2:, 1:-1], grid[1:-1, :-2]]  # above, right, below, left
        there = np.stack([inner != one for one in beyond])
        number = (np.cumsum(there.ravel()) - 1).reshape(there.shape)
        side, rows, columns = np.nonzero(there)
        self.part = inner[rows, columns]
        self.beyond = np.stack(beyond)[there]
        steps = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])  # where each side begins, x and y from its pixel
        self.start = np.stack([columns, rows], axis=1) + steps[side]
        self.side = side
        corners = (width + 1) * self.start[:, 1] + self.start[:, 0]
        self.node = _nodes(grid)[self.start[:, 1], self.start[:, 0]]
        self.corner = corners
        self._rings = [*self._find_rings(_successors(there, number, side, rows, columns).tolist())]
        self._kept = np.zeros(len(side), dtype=bool)  # sides that begin at a corner which no tolerance moves

    def keep(self, parts: list[int], pixels: np.ndarray, tolerance: float) -> None:
        """Keep all corners of some regions, and those near some pixels, from now on.

        Args:
            parts: Numbers of regions.
            pixels: ``(H, W)`` bool. What a tolerance has moved over them lay within twice the tolerance.
            tolerance: In pixels.
        """
        import cv2

        before = int(self._kept.sum())
        self._kept[np.isin(self.part, parts) | np.isin(self.beyond, parts)] = True
        reach = 2 * (2 * math.ceil(tolerance) + 1) + 1
        near = cv2.dilate(np.pad(pixels, (0, 1)).astype(np.uint8), np.ones((reach, reach), np.uint8))
        self._kept |= near[self.start[:, 1], self.start[:, 0]].astype(bool)
        corners = np.zeros(near.shape, bool)  # the same for the sides of both regions
        corners[self.start[self._kept, 1], self.start[self._kept, 0]] = True
        self._kept = corners[self.start[:, 1], self.start[:, 0]]
        if int(self._kept.sum()) == before:
            self._kept[:] = True

    def parts(self, void: int, tolerance: float) -> tuple[dict[int, list[Part]], list[int]]:
        """Return the parts of each value, and regions that the tolerance leaves no area."""
        outer: dict[int, np.ndarray] = {}
        holes: dict[int, list[np.ndarray]] = {}
        lost = []
        for ring in self._rings:
            part = int(self.part[ring[0]])
            if self._found.values[part] == void:
                continue
            line = self._line(ring, tolerance)
            if len(line) < 3:
                lost.append(int(self.beyond[ring[0]]) if part in outer else part)
            if part in outer:  # rings come by their first sides from above, so the outer one of a region is its first
                holes.setdefault(part, []).append(line)
            else:
                outer[part] = line
        found: dict[int, list[Part]] = {}
        for part in sorted(outer):
            own = found.setdefault(int(self._found.values[part]), [])
            own.append(Part(outer[part], tuple(holes.get(part, ()))))
        return dict(sorted(found.items())), lost

    def _find_rings(self, after: list[int]) -> Iterator[np.ndarray]:
        """Yield the rings of sides, each from its first side in the order of rows."""
        seen = bytearray(len(after))
        for first in range(len(after)):  # sides of pixels that look up come first, in the order of rows
            if seen[first]:
                continue
            ring, at = [], first
            while not seen[at]:
                seen[at] = 1
                ring.append(at)
                at = after[at]
            yield np.array(ring)

    def _line(self, ring: np.ndarray, tolerance: float) -> np.ndarray:
        """Return the corners of a ring ``(N, 2)`` that stay."""
        if tolerance == 0:
            return self.start[ring][self.side[ring] != np.roll(self.side[ring], 1)]
        kept = self._kept[ring]
        ends = self.node[ring] | (kept & ~(np.roll(kept, 1) & np.roll(kept, -1)))  # where what stays begins and ends
        nodes = np.flatnonzero(ends)
        if len(nodes):
            ring, nodes = np.roll(ring, -nodes[0]), nodes - nodes[0]
        else:  # two regions alone share it
            ring = np.roll(ring, -int(self.corner[ring].argmin()))
            away = ((self.start[ring] - self.start[ring[0]]) ** 2).sum(axis=1)
            far = np.flatnonzero(away == away.max())
            nodes = np.array([0, int(far[self.corner[ring[far]].argmin()])])
        round_trip = np.append(ring, ring[0])
        points, kept = self.start[round_trip], self._kept[round_trip]
        pieces = [
            _simpler(points[begin : end + 1], 0.0 if kept[begin : end + 1].all() else tolerance)[:-1]
            for begin, end in zip(nodes.tolist(), [*nodes[1:].tolist(), len(ring)], strict=True)
        ]
        line = np.concatenate(pieces)
        return line[(line != np.roll(line, 1, axis=0)).any(axis=1)]  # a loop that has become a point


def _successors(
    there: np.ndarray, number: np.ndarray, side: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the side that follows each in its ring: around the corner, straight on, or back around the next pixel."""
    ahead = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])[side]  # row and column in the direction of the side
    aside = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])[side]  # and to the left of it
    turn, back = (side + 1) % 4, (side + 3) % 4
    row, column = rows + ahead[:, 0], columns + ahead[:, 1]
    around = there[turn, rows, columns]
    within = np.where(around, rows, row), np.where(around, columns, column)  # no pixel beyond the image is asked
    straight = there[side, within[0], within[1]]
    far_row, far_column = within[0] + aside[:, 0], within[1] + aside[:, 1]
    corner = around | straight
    far = np.where(corner, rows, far_row), np.where(corner, columns, far_column)
    follows = np.where(straight, number[side, within[0], within[1]], number[back, far[0], far[1]])
    return np.where(around, number[turn, rows, columns], follows)


def _nodes(grid: np.ndarray) -> np.ndarray:
    """Return the corners ``(H + 1, W + 1)`` at which more than two lines end; ``grid`` has a margin of one."""
    up, down = grid[:-1, :-1] != grid[:-1, 1:], grid[1:, :-1] != grid[1:, 1:]
    left, right = grid[:-1, :-1] != grid[1:, :-1], grid[:-1, 1:] != grid[1:, 1:]
    count: np.ndarray = up.astype(np.int8) + down + left + right
    return count > 2


def _simpler(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Leave points of a line ``(N, 2)`` out; its ends stay, and the result is the same from both ends."""
    import cv2

    forth, back = points.ravel().tolist(), points[::-1].ravel().tolist()
    turned = back < forth
    line = points[::-1] if turned else points
    if tolerance > 0 and len(line) > 2:
        line = cv2.approxPolyDP(line.astype(np.int32)[:, None], tolerance, closed=False)[:, 0]
    else:
        step = np.diff(line, axis=0)
        bend = np.concatenate([[True], (step[1:] != step[:-1]).any(axis=1), [True]])
        line = line[bend]
    return line[::-1] if turned else line
