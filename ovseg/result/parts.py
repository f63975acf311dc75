"""What a result is made of, for those who draw and write it; they need not know the class that holds it together."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ovseg.result.measures import Segment
from ovseg.result.objects import Instance, Panoptic
from ovseg.vocabulary import Vocabulary

COMPACT = 2**26
"""From so many pixels on labels are int16 and scores float16: with the photograph 7 bytes a pixel, where 11 are more
than a machine may have. The notes of such a result say so."""


def nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the nearest pixel of a map ``(H, W)`` for each of another size (height, width); a map of ids stays one."""
    if array.shape == size:
        return array
    rows, columns = (
        ((np.arange(now) + 0.5) * (was / now)).astype(int) for now, was in zip(size, array.shape, strict=True)
    )
    return np.asarray(array[rows[:, None], columns])


class Result(Protocol):
    """A label and a score for every pixel of one image; `ovseg.result.segmentation.Segmentation` checks its parts."""

    @property
    def labels(self) -> np.ndarray:
        """``(H, W)`` int32, or int16 from `COMPACT` pixels on; class ids, -1 = no class."""

    @property
    def scores(self) -> np.ndarray:
        """``(H, W)`` float32, or float16 from `COMPACT` pixels on, in 0..1."""

    @property
    def classes(self) -> Vocabulary:
        """The vocabulary that the labels count in."""

    @property
    def image(self) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB; the photograph."""

    @property
    def meta(self) -> dict[str, Any]:
        """What made the result, as JSON values."""

    @property
    def panoptic(self) -> Panoptic | None:
        """Segments, from models that give them."""

    @property
    def instances(self) -> tuple[Instance, ...] | None:
        """Objects by falling score, from models that give them."""

    @property
    def class_scores(self) -> np.ndarray | None:
        """``(K, H, W)`` float32 of every class, where they were wanted."""

    @property
    def segments(self) -> list[Segment]:
        """One for each class that is present, by ascending class id."""
