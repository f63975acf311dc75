"""The classes of a data set and the words of a user, brought together by name and synonym, never by position."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovseg.errors import InputError
from ovseg.vocabulary import ClassEntry, Vocabulary
from ovseg.vocabulary.names import fold

DROPPED = -1
"""In place of a class: the data set's pixels of it become void."""
SHOWN = 10
"""Names that a line spells out; the others are counted."""

Best = tuple[int, set[int]]


@dataclass(frozen=True, eq=False)
class Match:
    """Where the classes of a data set go.

    Attributes:
        classes: The new ones.
        places: (K,) int32, place in `classes` of each class of the data set; -1 for one that is dropped.
        notes: What was matched by a synonym, merged, renamed or dropped, and words without labels; a line each.
    """

    classes: Vocabulary
    places: np.ndarray
    notes: tuple[str, ...]


def match_classes(own: Vocabulary, vocabulary: Vocabulary, name: str, kinds_known: bool) -> Match:
    """Find for each class of a data set the class of a vocabulary that has one of its names.

    Names are equal as in a vocabulary: case and Unicode variants folded. Two display names that are equal come before
    a display name that is a synonym of the other class, and that before two equal synonyms. Several classes of the
    data with one class of the vocabulary are merged in it; a class without any is dropped.

    Args:
        own: Classes of the data set.
        vocabulary: Words in their place.
        name: Of the data set, for messages.
        kinds_known: Whether the data set says which classes are things; it is right then, whatever the vocabulary says.

    Raises:
        InputError: No class has a name of the vocabulary, or one fits several of its classes equally well.
    """
    words = {
        fold(word): (place, rank) for place, entry in enumerate(vocabulary) for rank, word in enumerate(entry.names)
    }
    ranks, places = [], []
    for entry in own:
        rank, found = _best(entry, words)
        if len(found) > 1:
            fits = " and ".join(f"'{'|'.join(vocabulary[place].names)}'" for place in sorted(found))
            first = vocabulary[min(found)].name
            raise InputError(
                f"class '{'|'.join(entry.names)}' of '{name}' fits {fits} of the vocabulary equally well; expected one "
                f"of them, leave the others out or say which it is: --rename '{entry.name}={first}'"
            )
        ranks.append(rank)
        places.append(found.pop() if found else DROPPED)
    if max(places) < 0:
        raise InputError(
            f"'{name}' has {len(own)} classes ({listed(own.names, 3)}), none of them in the {len(vocabulary)} of the "
            f"vocabulary ({listed(vocabulary.names, 3)}); give one with its names, or say what is renamed: --rename "
            f"'{own.names[0]}={vocabulary.names[0]}, ...'"
        )
    classes = vocabulary
    if kinds_known:
        entries = tuple(_with_kind(own, places, place, entry) for place, entry in enumerate(vocabulary))
        classes = replace(vocabulary, classes=entries)
    notes = (
        *vocabulary.notes,
        *_synonyms(own, classes, ranks, places),
        *merged(own, classes, places),
        *_left(own, classes, places),
    )
    return Match(classes, np.array(places, np.int32), notes)


def merged(own: Vocabulary, classes: Vocabulary, places: Sequence[int]) -> list[str]:
    """Return a line for each class that several are merged into."""
    members: dict[int, list[str]] = defaultdict(list)
    for entry, place in zip(own, places, strict=True):
        members[place].append(entry.name)
    return [
        f"{len(names)} classes of the data ({listed(names)}) are merged into '{classes[place].name}'"
        for place, names in sorted(members.items())
        if place >= 0 and len(names) > 1
    ]


def listed(names: Iterable[str], count: int = SHOWN) -> str:
    """Return names in one line, of which those beyond a number are counted."""
    every = list(names)
    more = f", and {len(every) - count} more" if every[count:] else ""
    return ", ".join(every[:count]) + more


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{number} {one if number == 1 else many}"


def _best(entry: ClassEntry, words: dict[str, tuple[int, int]]) -> Best:
    """Return the classes of a vocabulary that share a name with one of the data, and how well: 0 is best.

    0 is for two display names, 1 for one, 2 for synonyms alone.
    """
    found: dict[int, set[int]] = defaultdict(set)
    for rank, name in enumerate(entry.names):
        if fold(name) in words:
            place, other = words[fold(name)]
            found[(rank > 0) + (other > 0)].add(place)
    return min(found.items(), key=lambda item: item[0]) if found else (0, set())


def _with_kind(own: Vocabulary, places: list[int], place: int, entry: ClassEntry) -> ClassEntry:
    """Return a class of the vocabulary as a thing or stuff, as the data say.

    Raises:
        InputError: Things and stuff would become one class.
    """
    members = [one for one, to in zip(own, places, strict=True) if to == place]
    kinds = {one.is_thing for one in members}
    if len(kinds) > 1:
        raise InputError(
            f"'{entry.name}' of the vocabulary would merge things and stuff of the data "
            f"({listed(one.name for one in members)}); expected classes of one kind, give it fewer synonyms"
        )
    return replace(entry, is_thing=kinds.pop()) if kinds else entry


def _synonyms(own: Vocabulary, classes: Vocabulary, ranks: list[int], places: list[int]) -> list[str]:
    pairs = [
        f"{entry.name} as {classes[place].name}"
        for entry, rank, place in zip(own, ranks, places, strict=True)
        if place >= 0 and rank
    ]
    return [f"{counted(len(pairs), 'class', 'classes')} matched by a synonym: {listed(pairs)}"] if pairs else []


def _left(own: Vocabulary, classes: Vocabulary, places: list[int]) -> list[str]:
    """Return lines for classes without a word, words without a class, and pairs of them that look meant."""
    lost = [entry.name for entry, place in zip(own, places, strict=True) if place < 0]
    extra = [entry.name for place, entry in enumerate(classes) if place not in set(places)]
    notes = []
    if lost:
        notes.append(f"dropped {len(lost)} of {len(own)} classes of the data ({listed(lost)}): their pixels are void")
    if extra:
        notes.append(
            f"{counted(len(extra), 'word', 'words')} ({listed(extra)}) {'has' if len(extra) == 1 else 'have'} no "
            "labels and can only be wrong"
        )
    plain = {_letters(word): word for word in extra}
    near = [f"{name}={plain[_letters(name)]}" for name in lost if _letters(name) in plain]
    if near:
        notes.append(f"names that differ by signs alone do not match; if they mean the same: --rename '{listed(near)}'")
    return notes


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", fold(name)) or name
