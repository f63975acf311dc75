"""Panoptic results as segments, whatever they come as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovseg.data.dataset import VOID, Segments
from ovseg.errors import InputError
from ovseg.evaluation.metrics.common import runs
from ovseg.result.objects import Panoptic


def from_panoptic(panoptic: Panoptic, ids: np.ndarray, rest: int = VOID) -> Segments:
    """Read the segments of a result in the ids of a data set.

    Args:
        panoptic: Its class ids are places in ``ids``.
        ids: (N,) integers; -1 for classes whose segments are dropped.
        rest: Class of the data set that pixels of no segment belong to, as one segment; -1 where they stay void.
    """
    kept = [segment for segment in panoptic.segments if ids[segment.class_id] >= 0]
    shown = np.where(np.isin(panoptic.ids, [s.id for s in kept]), panoptic.ids, 0)
    order, classes = [s.id for s in kept], [int(ids[s.class_id]) for s in kept]
    none = panoptic.ids == 0
    if rest >= 0 and none.any():
        if rest not in classes:
            order.append(1 + max((s.id for s in panoptic.segments), default=0))
            classes.append(rest)
        shown[none] = order[classes.index(rest)]
    return from_ids(shown, order, classes)


def from_ids(pixels: np.ndarray, order: Sequence[int], classes: Sequence[int]) -> Segments:
    """Read a map of segments.

    Args:
        pixels: (H, W) integers; 0 is void.
        order: Id of each segment.
        classes: Class of each segment.

    Raises:
        InputError: The map shows an id that the list lacks, or the list has one twice or 0.
    """
    if len(set(order)) != len(order) or 0 in order:
        raise InputError(f"panoptic segments have the ids {list(order)}; expected different ones, and 0 for void")
    count = len(order)
    if list(order) == list(range(1, count + 1)) and pixels.size and pixels.min() >= 0 and pixels.max() <= count:
        places = np.subtract(pixels, 1, dtype=np.int32, casting="unsafe")  # as nearly all models number them
    else:
        places = _places(pixels, np.append(np.array(order, np.int64), 0), np.append(np.arange(count), VOID))
    return Segments(places, np.array(classes, np.int64), np.zeros(count, bool))


def from_labels(labels: np.ndarray) -> Segments:
    """Read a label map (H, W): all pixels of a class are one segment, -1 is void. For models that only label."""
    values = np.unique(labels)
    classes = values[values >= 0].astype(np.int64)
    places = np.where(values >= 0, np.cumsum(values >= 0) - 1, VOID)
    return Segments(_places(labels, values, places), classes, np.zeros(len(classes), bool))


def _places(pixels: np.ndarray, values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Replace each value of a map by its place, (H, W) int32; looked up once for each run of equal pixels.

    Raises:
        InputError: The map has another value.
    """
    heads, lengths = runs(pixels)
    order = np.argsort(values)
    found = order[np.searchsorted(values, heads, sorter=order).clip(max=len(values) - 1)]
    wrong = heads[values[found] != heads]
    if wrong.size:
        raise InputError(f"panoptic map shows segment {wrong[0]}, which its list of segments lacks; mend either")
    return places[found].astype(np.int32).repeat(lengths).reshape(pixels.shape)
