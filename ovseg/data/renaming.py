"""Classes of a data set under other names, which are said outright: ``"cat=kitten, car=vehicle|automobile"``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ovseg.data.matching import SHOWN, Match, listed, merged
from ovseg.errors import InputError, VocabularyError, unknown_name
from ovseg.vocabulary import ClassEntry, Vocabulary
from ovseg.vocabulary.names import fold

Renames = dict[str, tuple[str, ...]]
"""The names of a class, display name first, for a name that it has in the data."""

EXPECTED = "expected 'old=new, ...', a .txt file with a line 'old = new' for each, or a .json file {\"old\": \"new\"}"


def read_renames(source: str) -> Renames:
    """Read which classes get other names.

    Args:
        source: ``"old=new, ..."`` (a new name may bring synonyms: ``old=new|synonym``), a text file of such lines, or a
            JSON file of an object, whose values are names or lists of names. Blank lines, and lines that start with
            ``#``, say nothing.

    Raises:
        InputError: The file cannot be read, an entry is no pair, or a name stands twice.
        VocabularyError: A new name cannot be used.
    """
    path = Path(os.path.expanduser(source.strip()))
    if "=" in source and path.suffix.lower() not in (".txt", ".json"):
        pairs = [_pair(part, source) for part in source.split(",") if part.strip()]
    elif path.suffix.lower() == ".json":
        pairs = _from_json(path)
    else:
        lines = [line.strip() for line in _text(path).splitlines()]
        pairs = [_pair(line, str(path)) for line in lines if line and not line.startswith("#")]
    if not pairs:
        raise InputError(f"'{source}' renames nothing; {EXPECTED}")
    found: Renames = {}
    for old, new in pairs:
        if fold(old) in map(fold, found):
            raise InputError(f"'{old}' is renamed twice; expected one new name for each class")
        found[old] = ClassEntry(tuple(new)).names
    return found


def rename_classes(own: Vocabulary, renames: Mapping[str, tuple[str, ...]], name: str) -> Match:
    """Give classes other names; those that then share a display name are merged, in the place of the first.

    Args:
        own: Classes of the data set.
        renames: Of `read_renames`; a class is called by any of its names. It keeps its kind, and no old name.
        name: Of the data set, for messages.

    Raises:
        UnknownNameError: The data set has no class of that name.
        InputError: A class is renamed twice, by two of its names.
        VocabularyError: A new name is a synonym of another class.
    """
    places = {fold(word): place for place, entry in enumerate(own) for word in entry.names}
    given: dict[int, tuple[str, ...]] = {}
    for old, new in renames.items():
        if fold(old) not in places:
            raise unknown_name(f"class of '{name}' to rename", old, [word for entry in own for word in entry.names])
        place = places[fold(old)]
        if place in given:
            raise InputError(
                f"class '{'|'.join(own[place].names)}' of '{name}' is renamed twice; expected one new name"
            )
        given[place] = new
    groups: dict[str, list[int]] = {}
    names = [given.get(place, entry.names) for place, entry in enumerate(own)]
    for place, words in enumerate(names):
        groups.setdefault(fold(words[0]), []).append(place)
    for members in groups.values():
        if len({own[place].is_thing for place in members}) > 1:
            raise InputError(
                f"renaming would merge things and stuff of '{name}' ({listed(own[i].name for i in members)}); expected "
                "classes of one kind"
            )
    classes = Vocabulary(tuple(_entry(own, names, members) for members in groups.values()))
    order = {place: new for new, members in enumerate(groups.values()) for place in members}
    found = np.array([order[place] for place in range(len(own))], np.int32)
    return Match(classes, found, (*_told(own, given), *merged(own, classes, found.tolist())))


def known_renames(own: Vocabulary, renames: Renames) -> Renames:
    """Return those of the renames whose class a data set has."""
    words = set(map(fold, [word for entry in own for word in entry.names]))
    return {old: new for old, new in renames.items() if fold(old) in words}


def _told(own: Vocabulary, given: Mapping[int, tuple[str, ...]]) -> list[str]:
    pairs = [f"{own[place].name} to {new[0]}" for place, new in given.items() if own[place].names != new]
    return [f"renamed {len(pairs)} of {len(own)} classes of the data: {listed(pairs, SHOWN)}"] if pairs else []


def _entry(own: Vocabulary, names: list[tuple[str, ...]], members: list[int]) -> ClassEntry:
    """Return the class that some classes become: as it was, or with the names of all of them."""
    first = own[members[0]]
    if len(members) == 1 and names[members[0]] == first.names:
        return first
    words: dict[str, str] = {}
    for word in (word for place in members for word in names[place]):
        words.setdefault(fold(word), word)
    return ClassEntry(tuple(words.values()), first.is_thing, id=first.id)


def _pair(text: str, where: str) -> tuple[str, list[str]]:
    old, sign, new = text.partition("=")
    if not sign or not old.strip() or not new.strip() or "=" in new:
        raise InputError(f"'{text.strip()}' in '{where}' is no renaming; {EXPECTED}")
    return old.strip(), new.split("|")


def _text(path: Path) -> str:
    if path.suffix.lower() not in (".txt", ".json"):
        raise InputError(f"'{path}' is no renaming; {EXPECTED}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"file of renames '{path}' cannot be read: {reason}; {EXPECTED}") from error


def _from_json(path: Path) -> list[tuple[str, list[str]]]:
    try:
        data = json.loads(_text(path), object_pairs_hook=list)  # so a name that stands twice is seen
    except (ValueError, RecursionError) as error:
        raise InputError(f"file of renames '{path}' is no JSON ({error}); {EXPECTED}") from error
    if not isinstance(data, list) or not all(isinstance(one, tuple) for one in data):
        raise InputError(f"file of renames '{path}' holds no object; {EXPECTED}")
    pairs: list[tuple[str, list[str]]] = []
    for old, new in data:
        names = new.split("|") if isinstance(new, str) else new
        if not isinstance(names, list) or not names or not all(isinstance(word, str) for word in names):
            raise VocabularyError(f"'{old}' in '{path}' is renamed to {new!r}; expected a name or a list of names")
        pairs.append((old, names))
    return pairs
