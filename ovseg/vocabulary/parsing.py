"""Turns what a user gives (text, lists, files, preset names) into raw classes; docs/words.md lists the forms."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ovseg.errors import VocabularyError
from ovseg.vocabulary.entries import PIPES, RawClass, check_ids, find_divider, read_entries, read_names, say_underscores
from ovseg.vocabulary.names import check_unique, shown
from ovseg.vocabulary.pasted import check_lone, split_text
from ovseg.vocabulary.preset_files import find_preset, is_preset
from ovseg.vocabulary.records import read_data
from ovseg.vocabulary.word_files import read_file, read_lines

_SUFFIXES = "txt|json|csv|tsv|ya?ml|xml|xlsx?|docx?|pdf|md|names|list|lst|labels|pbtxt"
_FILE_LIKE = re.compile(rf".*\.({_SUFFIXES})", re.IGNORECASE)
_PATH_START = re.compile(r"/|\.{1,2}[/\\]|~|[A-Za-z]:[/\\]")
_EXPECTED = "expected a list of names, a text such as 'cat|kitten, sofa', a file, or a preset name"


class Reading(NamedTuple):
    """Classes in the user's order, and one line for everything that was read as something else than it says."""

    classes: list[RawClass]
    notes: list[str]


def parse_classes(source: object) -> Reading:
    """Read the classes of any accepted source, in its order.

    Raises:
        VocabularyError: See `Vocabulary.parse`.
        UnknownNameError: See `Vocabulary.parse`.
    """
    notes: list[str] = []
    classes = _parse(source, notes)
    check_ids(classes)
    check_unique([(name, one.where) for one in classes for name in one.names])
    say_underscores(classes, notes)
    ids = [one.id for one in classes]
    if any(own not in (None, place) for place, own in enumerate(ids)):
        told = ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")
        notes.append(f"the ids of the list are kept ({told}); label maps have them with --own-ids, else count from 0")
    return Reading(classes, notes)


def parse_words(source: str | Iterable[object], kind: str, notes: list[str]) -> list[str]:
    """Read words that stand for no class, such as those of the background, by the same forms.

    Args:
        source: A text, or a list.
        kind: What messages call one of them.
        notes: As in `read_entries`.

    Raises:
        VocabularyError: As `Vocabulary.parse`, or a word has synonyms.
    """
    if not isinstance(source, str):
        found = read_entries([(item, f"{kind} {i}") for i, item in enumerate(source)], notes)
    else:
        found = _words_of_text(source.strip(), kind, notes)
    for one in found:
        if len(one.names) > 1:
            names = shown("|".join(one.names))
            raise VocabularyError(f"{one.where} ({names}) has synonyms; give them as words of their own")
    say_underscores(found, notes)
    return [one.names[0] for one in found]


def _words_of_text(text: str, kind: str, notes: list[str]) -> list[RawClass]:
    if (classes := _from_file_name(text, notes)) is not None:
        return classes
    found = split_text(text, notes)
    if isinstance(found, str):
        return read_lines(found, f"{kind} ", notes)
    if isinstance(found, dict):
        return read_data(found, kind, notes)
    return read_entries([(item, f"{kind} {i}") for i, item in enumerate(found or [text])], notes)


def is_list(text: str) -> bool:
    """Return whether a text is more than a lone word: a list in any form, or the name of a file."""
    named = bool(_PATH_START.match(text) or _FILE_LIKE.fullmatch(text))
    return named or split_text(text, []) is not None or find_divider(text) is not None


def _parse(source: object, notes: list[str]) -> list[RawClass]:
    if isinstance(source, str):
        return _from_text(source.strip(), notes)
    if isinstance(source, Path):
        return read_file(source, notes)
    if isinstance(source, Mapping):
        return read_data(source, "the vocabulary", notes)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, set, frozenset)):
        return read_entries([(item, f"class {i}") for i, item in enumerate(source)], notes)
    why = " (a set has no order)" if isinstance(source, (set, frozenset)) else ""
    raise VocabularyError(f"the vocabulary is {shown(source)} of type {type(source).__name__}{why}; {_EXPECTED}")


def _from_text(text: str, notes: list[str]) -> list[RawClass]:
    if not text:
        raise VocabularyError(f"the vocabulary is an empty text; {_EXPECTED}")
    if (classes := _from_file_name(text, notes)) is not None:
        return classes
    found = split_text(text, notes)
    if found is None and not any(pipe in text for pipe in PIPES):
        return _from_lone_word(text, notes)
    if isinstance(found, str):
        return read_lines(found, "", notes)
    if isinstance(found, dict):
        return read_data(found, "the vocabulary", notes)
    words = [text] if found is None else found
    if isinstance(found, list) and not text.endswith((",", "]", ")", "}")):
        _check_list(text, words)
    return read_entries([(word, f"class {i}") for i, word in enumerate(words)], notes)


def _check_list(text: str, words: list[str]) -> None:
    """Refuse a list that may be the name of a file, or that has a preset in it."""
    if text.lower().endswith((".txt", ".json")):
        raise VocabularyError(
            f"{shown(text)} may be words or a file; give a file with such a name as a Path, end words with a comma"
        )
    if is_preset(*words):
        raise VocabularyError(f"{shown(text)} mixes a preset with words; give one of them, or end with a comma")


def _from_file_name(text: str, notes: list[str]) -> list[RawClass] | None:
    """Read the file that a text names; None where it names none.

    Raises:
        VocabularyError: It may as well be a word, or the file cannot be used.
    """
    if any(divider in text for divider in ",|\n\r"):
        return None
    path = Path(os.path.expanduser(text))
    if _PATH_START.match(text) or _FILE_LIKE.fullmatch(text):
        return read_file(path, notes)
    if not os.path.isfile(text):
        return None
    if len(path.parts) > 1:
        return read_file(path, notes)
    raise VocabularyError(
        f"{shown(text)} is a word and also a file in this folder; write {shown('./' + text)} for the file, or "
        f"{shown(text + ',')} for the word"
    )


def _from_lone_word(word: str, notes: list[str]) -> list[RawClass]:
    """Read a text that names no file and has nothing that divides: a preset, else a single class."""
    if preset := find_preset(word):
        # Ids of our own files are places in the list, and no ids that a user has given.
        return [one._replace(id=None) for one in read_file(preset, notes)]
    check_lone(word, notes)
    return read_names([(word, "class 0")], notes)
