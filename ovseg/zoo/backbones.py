"""Image-text models that any method runs on, by name: which weights there are, and under which licence."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import yaml

from ovseg.zoo.card import PACKAGE

FILE = "assets/backbones.yaml"
WIDTH = 100
LEGEND = (
    "With a method before it: --model clearclip/ViT-B-16-quickgelu/metaclip_400m. FILE is your file.",
    "The second column is the licence of the weights, the third the languages that they read.",
)


@dataclass(frozen=True)
class Backbone:
    """A family of image-text models.

    Attributes:
        name: As its paper calls it.
        paper: Where it is from.
        licence: Of the weights, as their page states it; ``unknown`` where it states none.
        languages: Which it reads.
        write: What stands behind ``METHOD/`` for each of its weights; FILE is a path of the user's.
        note: What else to know.
    """

    name: str
    paper: str
    licence: str
    languages: str
    write: tuple[str, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "write": list(self.write)}


@cache
def list_backbones() -> tuple[Backbone, ...]:
    """Return all families, in the order of the file."""
    rows = yaml.safe_load((PACKAGE / FILE).read_text(encoding="utf-8"))
    return tuple(Backbone(**{**row, "write": tuple(row["write"])}) for row in rows)


def as_text() -> str:
    """Return all families as text of at most 100 columns: what they are, then a line for each weights file."""
    lines = []
    for family in list_backbones():
        lines.append(f"{family.name}{f' ({family.paper})' if family.paper else ''}")
        lines += textwrap.wrap(family.note, WIDTH, initial_indent="    ", subsequent_indent="    ")
        lines += [f"  {write:<54}{family.licence:<20}{family.languages}" for write in family.write]
    return "\n".join([*lines, "", *LEGEND])
