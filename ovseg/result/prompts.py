"""Where somebody points, and which connected region of labels that means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ovseg.errors import InputError
from ovseg.result.components import find_components


class Found(NamedTuple):
    """What a prompt means.

    Attributes:
        mask: (H, W) bool.
        scores: (C,) of the columns of the words.
    """

    mask: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Prompt:
    """Where somebody points.

    Attributes:
        places: Row, column and whether the object is there, for each point.
        box: Left, top, right and bottom in pixels, the last two outside; None for none.
    """

    places: tuple[tuple[int, int, bool], ...] = ()
    box: tuple[float, float, float, float] | None = None

    @classmethod
    def read(
        cls,
        points: Sequence[tuple[int, int]],
        away: Sequence[tuple[int, int]],
        boxes: Sequence[tuple[float, float, float, float]],
        size: tuple[int, int],
    ) -> Prompt:
        """Check where somebody points on an image of a height and width.

        Raises:
            InputError: It is nowhere, out of the image, or means several objects.
        """
        places = [(row, column, inside) for own, inside in ((points, True), (away, False)) for row, column in own]
        if not points and not boxes:
            raise InputError("nothing is pointed at; give points=[(row, column)] or boxes=[(left, top, right, bottom)]")
        if len(boxes) > 1:
            raise InputError(f"got {len(boxes)} boxes; expected one, for each call is about one object")
        for row, column, _ in places:
            if not (0 <= row < size[0] and 0 <= column < size[1]):
                raise InputError(
                    f"the point is in row {row}, column {column}; expected rows below {size[0]}, columns below "
                    f"{size[1]}, both from 0"
                )
        for left, top, right, bottom in boxes:
            if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
                raise InputError(
                    f"the box is {left}, {top}, {right}, {bottom}; expected left < right <= {size[1]} and "
                    f"top < bottom <= {size[0]}"
                )
        box: Any = tuple(boxes[0]) if boxes else None
        return cls(tuple(places), box)


def of_labels(labels: np.ndarray, prompt: Prompt) -> np.ndarray:
    """Find the connected regions of labels (H, W) that a prompt means: (H, W) bool.

    Those that hold a point, without those that hold a point away; of a box the one that overlaps it most (IoU).
    """
    regions = find_components(labels).parts
    own = {int(regions[row, column]) for row, column, inside in prompt.places if inside}
    own -= {int(regions[row, column]) for row, column, inside in prompt.places if not inside}
    if prompt.box is not None:
        left, top, right, bottom = (round(edge) for edge in prompt.box)
        areas = np.bincount(regions.ravel())
        both = np.bincount(regions[top:bottom, left:right].ravel(), minlength=len(areas))
        own.add(int((both / (areas + (bottom - top) * (right - left) - both)).argmax()))
    return np.isin(regions, list(own))
