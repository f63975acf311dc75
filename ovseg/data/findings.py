"""Many lines about data, told briefly: those of one kind are counted beyond the first few."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

SHOWN = 10
"""Lines of a kind that are told; the others are counted."""
# A quotation does not begin behind a letter, nor end before one: an apostrophe in the name of a file is a part of it.
_VARIABLE = re.compile(r"(?<!\w)'.*?'(?!\w)|\([^()]*\)|\d+(\.\d+)?")


def kind_of(line: str) -> str:
    """Return what two lines about different files have in common: the line without names, numbers and reasons."""
    return _VARIABLE.sub("…", line)


def kinds(lines: Iterable[str]) -> dict[str, int]:
    """Return how many lines there are of each kind, in the order of the first of each."""
    return dict(Counter(map(kind_of, lines)))


def brief(lines: Iterable[str], most: int = SHOWN) -> list[str]:
    """Return the lines kind by kind, and in place of those beyond a number of each how many these are."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(kind_of(line), []).append(line)
    told = []
    for group in groups.values():
        told += group[:most]
        if group[most:]:
            told.append(f"and {len(group) - most:,} more of this kind")
    return told
