"""Corrections by hand: connected regions of a label map that get another name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np

from ovseg.contract import Words, check_point
from ovseg.errors import InputError
from ovseg.result.formats.labels import NO_CLASS
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import ClassEntry, Vocabulary

MOST = 1000
"""Corrections of one photograph."""


class Correction(NamedTuple):
    """A region that got another name.

    Attributes:
        row, column: A pixel of it.
        name: Of the class; empty for none.
    """

    row: int
    column: int
    name: str


@dataclass(frozen=True, eq=False)
class Corrected:
    """An answer, and what was corrected in it; each correction makes a new one.

    Attributes:
        model: Who gave the answer, as it was asked for.
        asked: The words and the background, as they were typed.
        words: The words.
        result: The answer itself.
        seconds: From the request to the answer, without waiting for a worker.
        seen_before: Whether the photograph had been looked at before.
        corrections: In order.
        edited: The answer with the corrections; None where there are none.
        turn: Tells this one from all others of this process.
    """

    model: str
    asked: tuple[str, str]
    words: Words
    result: Segmentation
    seconds: float = 0.0
    seen_before: bool = False
    corrections: tuple[Correction, ...] = ()
    edited: Segmentation | None = None
    turn: int = field(init=False, default_factory=itertools.count(1).__next__)

    @property
    def bytes(self) -> int:
        """Roughly, without the photograph."""
        own = self.result
        maps = own.labels.nbytes + own.scores.nbytes + (own.panoptic.ids.nbytes if own.panoptic else 0)
        return maps * (2 if self.corrections else 1) + self.words.embeddings.nbytes

    def correct(self, row: int, column: int, name: str) -> Corrected:
        """Give the connected region of a pixel another name.

        Args:
            row: Of the pixel, from 0.
            column: Likewise.
            name: Of a class of the list, or a new one; empty for no class.

        Raises:
            InputError: There is no such pixel, the region has this name already, or there are too many corrections.
            VocabularyError: The name cannot be used.
        """
        check_point((row, column), self.result.labels.shape)
        if len(self.corrections) >= MOST:
            raise InputError(f"there are {MOST} corrections, as many as are kept; export them, and begin anew")
        corrections = (*self.corrections, Correction(row, column, name.strip()))
        edited = _edited(self.current, corrections[-1:], self.result, corrections)
        if edited.labels[row, column] == self.current.labels[row, column]:
            raise InputError(f"this region is called {name.strip() or 'no class'!r} already; choose another name")
        return replace(self, corrections=corrections, edited=edited)

    def undo(self) -> Corrected:
        """Take the last correction back.

        Raises:
            InputError: There is none.
        """
        if not self.corrections:
            raise InputError("there is no correction to take back")
        left = self.corrections[:-1]
        return replace(self, corrections=left, edited=_edited(self.result, left, self.result, left) if left else None)

    @property
    def current(self) -> Segmentation:
        """The answer with all corrections; segments and objects of the model are no part of it any more."""
        return self.edited or self.result


def _edited(
    start: Segmentation, new: tuple[Correction, ...], plain: Segmentation, corrections: tuple[Correction, ...]
) -> Segmentation:
    """Return a result with more corrections.

    Args:
        start: What is corrected.
        new: How.
        plain: The result without any.
        corrections: All, with those of `start`.
    """
    labels, scores, classes = start.labels.copy(), start.scores.copy(), start.classes
    for own in new:
        classes, label = _with_class(classes, own.name)
        region = region_at(labels, own.row, own.column)
        labels[region], scores[region] = label, 1.0
    count = len(corrections)
    notes = [f"{count} region{'s were' if count > 1 else ' was'} given another name by hand, with score 1"]
    if plain.panoptic is not None or plain.instances is not None:
        notes.append("segments and objects are those of the model, and left out of what was corrected")
    meta = dict(plain.meta)
    meta["notes"] = [*meta.get("notes", []), *notes]
    meta["corrections"] = [one._asdict() for one in corrections]
    return Segmentation.from_labels(labels, scores, classes, plain.image, meta)


def region_at(labels: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return which pixels (H, W) bool are connected with one, along sides, by its label."""
    found = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.uint8)  # OpenCV wants a rim
    cv2.floodFill(labels, found, (column, row), 0, flags=4 | cv2.FLOODFILL_MASK_ONLY)
    return found[1:-1, 1:-1].astype(bool)


def _with_class(classes: Vocabulary, name: str) -> tuple[Vocabulary, int]:
    """Return the classes, with one more if none has this name, and its label."""
    if not name:
        return classes, NO_CLASS
    known = [i for i, entry in enumerate(classes) if name.casefold() in (own.casefold() for own in entry.names)]
    if known:
        return classes, known[0]
    entry = ClassEntry((name,), id=None if classes.ids is None else max(classes.ids) + 1)
    return replace(classes, classes=(*classes.classes, entry)), len(classes)
