"""Two answers for one photograph, compared by the names of their classes."""

from __future__ import annotations

from collections import Counter
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
        names = [[*(entry.name for entry in result.classes), _NOTHING] for result in (self.first, self.second)]
        labels = self.first.labels[self.changed].astype(int), self.second.labels[self.changed].astype(int)
        width = len(names[1])
        pairs = Counter(((labels[0] % len(names[0])) * width + labels[1] % width).tolist())
        size = self.changed.size
        found = [(names[0][pair // width], names[1][pair % width], count / size) for pair, count in pairs.items()]
        return sorted(found, key=lambda change: (-change[2], change[:2]))

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """A number for each name, by class id; the last place is that of label -1."""
        known: dict[str, int] = {}
        one, other = (
            np.array([*(known.setdefault(entry.name.casefold(), len(known)) for entry in result.classes), -1])
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
