"""What a click or a box means: one of the masks that a model proposes, or a connected region of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import InputError
from ovseg.labelling.mask_resize import MaskResize, tiles
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
        return cls(tuple(places), tuple(boxes[0]) if boxes else None)


def of_proposals(shares: Tensor, masks: Tensor, resize: MaskResize, prompt: Prompt) -> Found:
    """Find the proposed mask that a prompt means.

    It is the one with the largest product of: its probability at the points, one minus that at the points away, its
    overlap (IoU) with the box, how sure it is of its own pixels, and how probably it is an object. The mean certainty
    keeps large vague masks and small noisy ones from winning, which the smallest mask around a point does not.

    Its names are those of all proposals, each counted by how much of the mask it covers: of several proposals for one
    object often another one has the right name.

    Args:
        shares: Class probabilities (Q, C + 1), "no object" last.
        masks: Logits (Q, h, w).
        resize: Their way to the photograph.
        prompt: On the photograph.
    """
    value = 1 - shares[:, -1].float()
    for row, column, inside in prompt.places:
        here = resize.probabilities(masks, (slice(row, row + 1), slice(column, column + 1))).flatten()
        value = value * (here if inside else 1 - here)
    # Certainty and areas are read on the masks' own cells: a photograph has many times as many pixels.
    own = masks.float().sigmoid()
    inside = own > 0.5
    area = inside.flatten(1).sum(1)
    value = value * (own * inside).flatten(1).sum(1) / area.clamp(min=1)
    if prompt.box is not None:
        value = value * _overlap(masks, resize, prompt.box)
    best = value.argmax()[None]
    full = torch.zeros(resize.size, dtype=torch.bool, device=masks.device)
    for tile in tiles(resize.size, masks.device):
        full[tile] = resize.probabilities(masks, tile, best)[0] > 0.5
    chosen = inside[best[0]]
    covers = (own * chosen).flatten(1).sum(1) / chosen.sum().clamp(min=1)
    return Found(full, covers @ shares[:, :-1].float())


def _overlap(masks: Tensor, resize: MaskResize, box: tuple[float, float, float, float]) -> Tensor:
    """Return the IoU (Q,) of masks with a box on the photograph, counted in pixels tile by tile."""
    left, top, right, bottom = (round(edge) for edge in box)
    both, either = (torch.zeros(len(masks), device=masks.device) for _ in range(2))
    for rows, columns in tiles(resize.size, masks.device):
        own = resize.probabilities(masks, (rows, columns)) > 0.5
        drawn = torch.zeros(own.shape[1:], dtype=torch.bool, device=masks.device)
        drawn[max(0, top - rows.start) : max(0, bottom - rows.start), max(0, left - columns.start) :] = True
        drawn[:, max(0, right - columns.start) :] = False
        both += (own & drawn).flatten(1).sum(1)
        either += (own | drawn).flatten(1).sum(1)
    return both / either.clamp(min=1)


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
