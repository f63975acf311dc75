"""What the evaluators share: runs of equal pairs in two maps, flags of classes, means, and results as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ovseg.errors import InputError

# IoUs are summed as integers in units of 2^-40: in any order and over any processes the sum is the same. There is room
# for eight million of them.
UNIT = 2.0**40

_MOST_CELLS = 2**22


def runs(*maps: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shorten maps of one size to their common runs: pixels in reading order where none of them changes.

    Masks are mostly flat, so there are far fewer runs than pixels, and what is counted over them is cheap. No copy of
    another dtype is made.

    Args:
        *maps: (H, W) integers each.

    Returns:
        For each map its values (R,) in the runs; last, their lengths (R,) int64 in pixels, which sum to H * W.
    """
    flat = [one.ravel() for one in maps]
    begins = np.ones(flat[0].size, bool)
    np.not_equal(flat[0][1:], flat[0][:-1], out=begins[1:])
    for one in flat[1:]:
        begins[1:] |= one[1:] != one[:-1]
    starts = np.flatnonzero(begins)
    return *(one[starts] for one in flat), np.diff(starts, append=len(begins))


def sums(places: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Add up integers (N,) by their places 0..count-1, exactly; what is at -1 is left out.

    Returns:
        (count,) int64.
    """
    totals = np.zeros(count + 1, np.int64)
    np.add.at(totals, places, values)
    return totals[:count]


def pair_counts(
    first: np.ndarray, second: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add up integers by pairs of ids; without sorting, unless an image has thousands of segments.

    Args:
        first: (R,) integers, -1 and up.
        second: (R,) integers, -1 and up.
        weights: (R,) int64 to add up; sums stay exact below 2^53.

    Returns:
        The distinct pairs, (N,) int64 each, in ascending order, and their sums (N,) int64.
    """
    (rows, row_of), (columns, column_of) = (_compact(one) for one in (first, second))
    keys, cells = row_of * len(columns) + column_of, len(rows) * len(columns)
    if cells > _MOST_CELLS:
        found, place = np.unique(keys, return_inverse=True)
        totals = sums(place, weights, len(found))
    else:
        table = np.bincount(keys, weights, cells).astype(np.int64)
        found = np.flatnonzero(table)
        totals = table[found]
    return rows[found // max(1, len(columns))], columns[found % max(1, len(columns))], totals


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids (N,) int64 in ascending order, and the place (R,) int64 of each among them."""
    shifted = ids.astype(np.int64) + 1
    known = np.bincount(shifted) > 0
    return np.flatnonzero(known) - 1, (known.cumsum() - 1)[shifted]


def check_same_shape(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Refuse maps of different sizes.

    Raises:
        InputError: They differ, or are no maps.
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise InputError(
            f"prediction is {prediction.shape} but ground truth {truth.shape}; expected equal sizes (H, W), resize "
            "scores to the ground truth before labelling"
        )


def class_flags(flags: Sequence[bool] | np.ndarray | None, num_classes: int, what: str) -> np.ndarray | None:
    """Return one flag per class as (K,) bool, None for None.

    Raises:
        InputError: There are more or fewer flags than classes.
    """
    if flags is None:
        return None
    if len(flags) != num_classes:
        raise InputError(f"{what} has {len(flags)} flags; expected one for each of the {num_classes} classes")
    return np.asarray(flags, bool)


def flag_list(flags: np.ndarray | None) -> list[int] | None:
    """Return flags as JSON values, None for None."""
    return None if flags is None else flags.astype(int).tolist()


def mean(values: np.ndarray, over: int | None = None) -> float:
    """Return the sum over their number, or over a given one; NaN without any."""
    count = values.size if over is None else over
    return float(values.sum() / count) if count else float("nan")


def share(part: float, whole: float) -> float:
    """Return part / whole; NaN for a whole of 0."""
    return float(part / whole) if whole else float("nan")


def plain(result: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are single numbers; NaN, which JSON has not, becomes None."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {
        name: (round(value, 6) if np.isfinite(value) else None) if isinstance(value, float) else value
        for name, value in values.items()
        if isinstance(value, int | float)
    }
