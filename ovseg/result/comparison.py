"""Two answers for one photograph, compared by the names of their classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from ovseg.errors import InputError
from ovseg.result.legend import percent
from ovseg.result.notebook import SIDE, figure, image, overlay_html, png, table
from ovseg.result.parts import Result

_SHOWN = 8  # changes that a notebook lists
_SAME, _OTHER = 235, 40  # grey of pixels in the map
_NOTHING = "no class"
_ROWS = 256  # that are counted at a time


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Where two answers differ: classes meet by name, case ignored, whatever their places in the two lists are.

    Attributes:
        first: An answer.
        second: Another one for the same photograph.
        changed: ``(H, W)`` bool; the pixels that have another name.

    Raises:
        InputError: They are of different sizes.
    """

    first: Result
    second: Result

    def __post_init__(self) -> None:
        """Refuse answers for different photographs, as far as sizes tell."""
        if self.first.labels.shape != self.second.labels.shape:
            raise InputError(
                f"the answers are of {self.first.labels.shape} and {self.second.labels.shape} pixels; expected two for "
                "one photograph"
            )

    @cached_property
    def changed(self) -> np.ndarray:
        """``(H, W)`` bool; the pixels that have another name in the second answer."""
        one, other = self._numbers
        return np.asarray(one[self.first.labels] != other[self.second.labels])

    @property
    def share(self) -> float:
        """Share of the pixels that have another name, 0..1."""
        return float(self.changed.mean())

    @property
    def changes(self) -> list[tuple[str, str, float]]:
        """Name in the first answer, name in the second, share of the pixels; the largest first."""
        names, others = ([*(entry.name for entry in one.classes), _NOTHING] for one in (self.first, self.second))
        counts = np.zeros(len(names) * len(others), dtype=np.int64)
        for top in range(0, len(self.changed), _ROWS):  # pairs of all pixels at once would be larger than the answers
            rows = np.s_[top : top + _ROWS]
            changed = self.changed[rows]
            before, after = self.first.labels[rows][changed], self.second.labels[rows][changed]
            pairs = before.astype(np.int64) % len(names) * len(others) + after % len(others)
            counts += np.bincount(pairs, minlength=len(counts))
        found = [
            (names[pair // len(others)], others[pair % len(others)], int(counts[pair]) / self.changed.size)
            for pair in np.flatnonzero(counts).tolist()
        ]
        return sorted(found, key=lambda change: (-change[2], change[:2]))

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """A number for each name, by class id; the last place is that of label -1."""
        known: dict[str, int] = {}
        one, other = (
            np.array([*(known.setdefault(entry.name.casefold(), len(known)) for entry in result.classes), -1], np.int32)
            for result in (self.first, self.second)
        )
        return one, other

    def __repr__(self) -> str:
        """Say how much differs, and what most."""
        most = "".join(f"; {one} -> {other} {percent(share)}" for one, other, share in self.changes[:3])
        return f"Comparison({percent(self.share)} of the pixels have another name{most})"

    def _repr_html_(self) -> str:
        """Show both answers, where they differ, and the largest changes."""
        (first, said), (second, _) = overlay_html(self.first, SIDE // 2), overlay_html(self.second, SIDE // 2)
        grey = Image.fromarray(np.where(self.changed, _OTHER, _SAME).astype(np.uint8))
        grey.thumbnail((SIDE // 2, SIDE // 2))
        where = image(png(grey), "dark where the names differ")
        changes = self.changes
        rows = [(None, (one, other, percent(share))) for one, other, share in changes[:_SHOWN]]
        lines = [f"{percent(self.share)} of the pixels have another name (dark in the last picture)"]
        lines += [f"and {len(changes) - _SHOWN} smaller changes"] if len(changes) > _SHOWN else []
        listed = table(("first", "second", "share"), rows) if rows else ""
        return figure([first, second, where, listed], [*lines, *([said] if said else [])])
