"""The lists of a COCO file: ids that find their entries however they are spelled, and values that may be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry")


def id_key(value: Any) -> int | str | None:
    """Return what an id is looked up by: 3, 3.0 and "3" are one number, other texts are themselves.

    None is for what can be no id: a missing one, a truth value, a fraction, NaN, a list.
    """
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.removeprefix("-").isdecimal() and len(text) < 19 else text or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class Index(Generic[Entry]):
    """Entries by id.

    An id finds the entry that is spelled like it; where there is none, the only one of the same number. An id that two
    entries share finds neither.
    """

    def __init__(self, entries: Iterable[tuple[Any, Entry]]) -> None:
        """Take pairs of an id and an entry."""
        self._by_key: dict[int | str, list[tuple[Any, Entry]]] = {}
        for number, entry in entries:
            key = id_key(number)
            if key is not None:
                self._by_key.setdefault(key, []).append((number, entry))
        self.respelled: dict[tuple[str, str], int] = {}
        """How often an id was found though spelled otherwise, by what was asked for and what was found."""

    def find(self, number: Any) -> Entry | None:
        """Return the entry of an id; None where there is none, or more than one."""
        found = self._meant(number)
        if len(found) != 1:
            return None
        if type(found[0][0]) is not type(number):
            pair = (repr(number), repr(found[0][0]))
            self.respelled[pair] = self.respelled.get(pair, 0) + 1
        return found[0][1]

    def shared(self, number: Any) -> bool:
        """Whether several entries have an id, so that it finds none of them."""
        return len(self._meant(number)) > 1

    def _meant(self, number: Any) -> list[tuple[Any, Entry]]:
        key = id_key(number)
        group = self._by_key.get(key, []) if key is not None else []
        return [pair for pair in group if type(pair[0]) is type(number) and pair[0] == number] or group

    def respelling(self, what: str) -> list[str]:
        """Return the line that says that ids are spelled in two ways; empty when none is."""
        if not self.respelled:
            return []
        (asked, found), total = next(iter(self.respelled)), sum(self.respelled.values())
        return [
            f"{what} are written otherwise than where they are listed ({asked} for {found}; {total} in all); taken as "
            "the same, write them alike"
        ]


def whole(value: Any, least: int) -> int | None:
    """Return a whole number, also of text or a float, if it is not below a bound; None where it is none."""
    key = id_key(value)
    return key if isinstance(key, int) and key >= least else None


def flag(value: Any) -> bool | None:
    """Return a truth value as COCO writes it (0 or 1; null is 0); None where it is none."""
    number = 0 if value is None else int(value) if isinstance(value, bool) else id_key(value)
    return {0: False, 1: True}.get(number) if isinstance(number, int) else None


def dicts(values: Sequence[Any], what: str, problems: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a list with their places; a problem for each that is none."""
    for place, one in enumerate(values):
        if not isinstance(one, dict):
            problems.append(f"{what} number {place + 1} is left out: it is no object with keys ({type(one).__name__})")
    return [(place, one) for place, one in enumerate(values) if isinstance(one, dict)]
