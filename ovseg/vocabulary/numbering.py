"""Numbers that people write beside names: ``0: sand``, ``1 dog``, ``2. cat``, ``sand,1``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ovseg.errors import VocabularyError
from ovseg.vocabulary.names import fold, shown, some

# A mark between number and name makes it a number beside the name; a lone space may be part of it ("2 door car").
_ID = "(?P<id>[0-9\uff10-\uff19]{1,9})"
_OPEN = r"(?:[(\[\uff08](?=[0-9]+[)\]\uff09]))?"
_BEFORE = re.compile(
    _OPEN + _ID + r"(?P<mark>\s*(?:[)\]\t;\uff09\uff1a]|[:=.,](?![0-9]))\s*|\s+-\s+|\s+)(?P<name>\S.*)"
)
_BEHIND = re.compile(r"(?P<name>.*[^\s0-9:=,;\uff1a])(?P<mark>\s*[:=\t,;\uff1a]\s*)" + _ID)
_AGAIN = re.compile(r"[\s;\uff1b,][0-9]{1,9}\s*(?:[:=)](?![0-9])|\.\s)\s*\S|[:=]\s*[0-9]{1,9}\s*[;\uff1b,]")
_COLOR = re.compile(r".*(?:\s[0-9]+){3}|[0-9]+\s+[0-9]+\s.*")
_TITLED = re.compile(
    r"(?:id|idx|index|class|label|category)\s*#?\s*(?P<id>[0-9]+)\s*[:=]\s*(?P<name>\S.*)", re.IGNORECASE
)


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
        if not any(marked) and len({fold(match["name"]) for match in found}) < len(found):
            # "1 dollar bill, 5 dollar bill": without the numbers they would be one
            notes.append(f"numbers at the start were read as parts of the names: {some([m.string for m in found])}")
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
        if _COLOR.fullmatch(match["name"]):
            raise VocabularyError(
                f"{where} ({shown(text)}) has several numbers with a name; give such a table a first line that names "
                "its columns, such as 'id,name,r,g,b', with commas or tabs between all of them"
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
    """Refuse numbers between names, where they are most likely ids, and words that call a number an id."""
    for text, where in items:
        if titled := _TITLED.fullmatch(text):
            raise VocabularyError(
                f"{where} ({shown(text)}) has words about an id before its name; write "
                f"{shown(titled['id'] + ': ' + titled['name'])}"
            )
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
