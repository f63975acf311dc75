"""The lists of a COCO file: ids that find their entries however they are spelled, and values that may be wrong."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ovseg.errors import InputError

Entry = TypeVar("Entry")


LISTS = ("images", "annotations", "categories")


@dataclass
class Findings:
    """What was found in a file; see `ovseg.data.dataset.Dataset` for the three sorts."""

    file: str
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave(self, line: str) -> None:
        """Add a line on what was got around."""
        self.left_out.append(f"'{self.file}': {' '.join(line.split())}")


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


def load(path: Path, said: Findings) -> dict[str, Any]:
    """Return the content of a file that has the three lists.

    A key that stands twice in one object is a problem: JSON takes the last, and who wrote it may have meant the other.

    Raises:
        InputError: It has not.
    """
    twice: set[str] = set()

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.update(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return found

    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=collect)
        if not isinstance(data, dict):
            raise ValueError(f"it is a {type(data).__name__}")
        for key in LISTS:
            if not isinstance(data[key], list):
                raise ValueError(f"'{key}' is a {type(data[key]).__name__}, no list")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise InputError(
            f"'{path}' is no COCO file ({reason}); expected images, annotations (with segmentation or segments_info) "
            "and categories"
        ) from error
    said.problems += [
        f"'{path.name}': key {key!r} stands twice in one object, and only the last of them counts; delete one"
        for key in sorted(twice)
    ]
    return data


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


def is_path(value: Any) -> bool:
    """Whether a value can be the name of a file, which messages can say in one line."""
    if not isinstance(value, str) or not value.strip() or any(ord(letter) < 32 for letter in value):
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half of a character that takes two
        return False
    return True


def dicts(values: Sequence[Any], what: str, leave: Callable[[str], None]) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a list with their places; a line for each that is none."""
    for place, one in enumerate(values):
        if not isinstance(one, dict):
            leave(f"{what} number {place + 1} is left out: it is no object with keys ({type(one).__name__})")
    return [(place, one) for place, one in enumerate(values) if isinstance(one, dict)]
