"""Numbers that people write beside names: ``0: sand``, ``1 dog``, ``2. cat``, ``sand,1``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ovseg.errors import VocabularyError
from ovseg.vocabulary.names import shown, some

# A mark between number and name makes it a number beside the name; a lone space may be part of it ("2 door car").
_ID = "(?P<id>[0-9\uff10-\uff19]{1,9})"
_BEFORE = re.compile(_ID + r"(?P<mark>\s*(?:[)\t;\uff09\uff1a]|[:=.,](?![0-9]))\s*|\s+-\s+|\s+)(?P<name>\S.*)")
_BEHIND = re.compile(r"(?P<name>.*[^\s0-9:=,;\uff1a])(?P<mark>\s*[:=\t,;\uff1a]\s*)" + _ID)
_AGAIN = re.compile(r"\s[0-9]{1,9}\s*(?:[:=)]|\.\s)\s*\S")


class Numbered(NamedTuple):
    """The id of a class, the text beside it, and where it stands."""

    id: int
    text: str
    where: str


def take_numbers(items: Sequence[tuple[str, str]], notes: list[str]) -> list[Numbered] | None:
    """Take the numbers off names where every name has one.

    Args:
        items: Texts, and where they stand.
        notes: Gets a line that says what was done.

    Returns:
        Ids and texts; None where the texts have no numbers beside them.

    Raises:
        VocabularyError: Some have numbers and others not, or the numbers may be part of the names.
    """
    _check_bare(items, notes)
    for pattern, side in ((_BEFORE, "before"), (_BEHIND, "behind")):
        matches = [pattern.fullmatch(text) for text, _ in items]
        found = [match for match in matches if match]
        marked = [bool(match and match["mark"].strip(" \u00a0")) for match in matches]
        if not found or not (any(marked) or side == "before"):
            continue
        if len(found) < len(items) or (not any(marked) and len(items) == 1):
            if any(marked):
                _refuse_some(items, marked, [match is None for match in matches], side)
            names = [match.string for match in found]
            notes.append(f"the number at the start was read as part of the name: {some(names)}")
            continue
        _check_clear(items, found, marked)
        notes.append(f"numbers {side} the names were read as ids: {some([match.string for match in found])}")
        places = [where for _, where in items]
        return [Numbered(int(m["id"]), m["name"], where) for m, where in zip(found, places, strict=True)]
    return None


def _check_clear(items: Sequence[tuple[str, str]], found: list[re.Match[str]], marked: list[bool]) -> None:
    """Refuse numbers that may be part of the names, and several of them with one name."""
    for match, (text, where) in zip(found, items, strict=True):
        if _AGAIN.search(match["name"]):
            raise VocabularyError(
                f"{where} ({shown(text)}) has more than one number with a name; put a comma or a line end between "
                "classes"
            )
    numbers = [int(match["id"]) for match in found]
    if not all(marked) and numbers not in (list(range(len(items))), list(range(1, len(items) + 1))):
        first = marked.index(False)
        (text, where), match = items[first], found[first]
        raise VocabularyError(
            f"{where} ({shown(text)}) begins with a number that may be an id or part of the name; write "
            f"{shown(match['id'] + ': ' + match['name'])} where it is an id, else give the names as a JSON list of "
            f"lists, such as {[[text[:30]]]}"
        )


def _check_bare(items: Sequence[tuple[str, str]], notes: list[str]) -> None:
    """Refuse numbers between names, where they are most likely ids."""
    bare = [(text, where) for text, where in items if text.isdecimal()]
    if bare and len(bare) == len(items):
        notes.append(f"all names are numbers, and the model is asked for these: {some([text for text, _ in bare])}")
    elif bare:
        (text, where), other = bare[0], next(text for text, _ in items if not text.isdecimal())
        raise VocabularyError(
            f"{where} is the number {text} between names such as {shown(other)}; write ids before the names, as in "
            f"'{text}: {other[:30]}', or remove them"
        )


def _refuse_some(items: Sequence[tuple[str, str]], marked: list[bool], without: list[bool], side: str) -> None:
    (text, where), (other, there) = items[marked.index(True)], items[without.index(True)]
    raise VocabularyError(
        f"{where} ({shown(text)}) has a number {side} the name and {there} ({shown(other)}) has none; number every "
        "class, or none"
    )
