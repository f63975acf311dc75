"""From single entries (of a list, a text, the lines of a file) to raw classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from ovseg.errors import VocabularyError, unknown_name
from ovseg.vocabulary.marks import bare
from ovseg.vocabulary.names import clean_name, fold, shown, some
from ovseg.vocabulary.numbering import Numbered, take_numbers

Item = tuple[object, str]
"""An entry and where it stands, such as ``"class 3"``."""

_NAMES = ("name", "title", "label")  # COCO and most others, Supervisely, lists of programs
_MEANT = ("synonyms", "is_thing", "isthing", "id")
# What COCO and LVIS say of a category besides; it changes nothing here.
_UNUSED = (
    *("supercategory", "color", "keypoints", "skeleton", "frequency", "synset", "def", "image_count"),
    "instance_count",
)
COMMAS = ",\uff0c\u3001\u060c\ufe50\uff64"
"""The comma, and what stands for it in Chinese, Japanese and Arabic."""

PIPES = "|\uff5c"
"""What divides synonyms, and its full-width form."""

# What may divide classes or synonyms and is not ours; each with what messages call it.
_FOREIGN = {
    re.compile(rf"\s*[{COMMAS}]\s*"): "a comma",
    re.compile("\\s*[;\uff1b\u061b]\\s*"): "a semicolon",
    re.compile(r"\s*\t\s*"): "a tab",
    re.compile(r"\s+\.(?:\s+|$)"): "a dot between words",
    re.compile(r"\s*\\[nrt]\s*"): "a line break written as a backslash and a letter",
}


class RawClass(NamedTuple):
    """A class before it becomes a `ClassEntry`, and where it stands."""

    names: tuple[str, ...]
    is_thing: bool = True
    id: int | None = None
    where: str = ""


def read_entries(items: Sequence[Item], notes: list[str]) -> list[RawClass]:
    """Read classes, each a name, ``"name|synonym"``, a list of names, or a dict.

    Args:
        items: Entries.
        notes: Gets a line for everything that was read as something else than it says.

    Raises:
        VocabularyError: An entry is none of these, or could be read in two ways.
        UnknownNameError: A key of a dict is most likely misspelt.
    """
    texts = [(item, where) for item, where in items if isinstance(item, str)]
    if len(texts) == len(items):
        return read_names(texts, notes)
    found = []
    for item, where in items:
        if isinstance(item, Mapping):
            found.append(read_dict(item, where, notes))
        elif isinstance(item, (list, tuple)):
            if not item:
                raise VocabularyError(f"{where} is an empty list; expected at least one name, fill it or remove it")
            found.append(RawClass(tuple(clean_name(name, where) for name in item), where=where))
        elif isinstance(item, str):
            found.append(RawClass(_split_synonyms(item, where), where=where))
        else:
            hint = f', in quotes: "{item}"' if isinstance(item, (int, float)) else ""
            raise VocabularyError(
                f"{where} is {shown(item)} ({type(item).__name__}); expected a name{hint}, a list of names or a dict"
            )
    return found


def read_names(items: Sequence[tuple[str, str]], notes: list[str]) -> list[RawClass]:
    """Read classes that are one text each, whose bullets, quotes and numbers are no part of the names.

    Raises:
        VocabularyError: See `read_entries`.
    """
    texts = bare(items, notes)
    numbered = take_numbers(texts, notes)
    if numbered is None:
        return [RawClass(_split_synonyms(text, where), where=where) for text, where in texts]
    return [read_numbered(one, notes) for one in numbered]


def read_numbered(one: Numbered, notes: list[str]) -> RawClass:
    """Read the class of an id. What has one id is one class, so what divides its text divides synonyms.

    Raises:
        VocabularyError: A name is not allowed, or a number stands among them.
    """
    word, parts = find_divider(one.text.strip()) or ("", [])
    if len(parts) < 2:
        return RawClass(_split_synonyms(one.text, one.where), id=one.id, where=one.where)
    _check_numbers(parts, one.text, one.where)
    _say_once(notes, f"one id is one class, so {word} was read as between synonyms", one.text)
    names = _first_of_each([clean_name(part, one.where) for part in parts])
    return RawClass(tuple(names), id=one.id, where=one.where)


def read_dict(item: Mapping[Any, Any], where: str, notes: list[str]) -> RawClass:
    """Read ``{"name", "synonyms", "is_thing", "id"}``; COCO writes ``isthing``, and LVIS the name among the synonyms.

    What other tools write besides is left out.

    Raises:
        VocabularyError: A value is not allowed.
        UnknownNameError: A key is most likely misspelt.
    """
    own = next((key for key in _NAMES if key in item), "name")
    foreign = [str(key) for key in item if key not in (own, *_MEANT, *_UNUSED)]
    for key in foreign:
        if key not in _NAMES and get_close_matches(key.lower(), _MEANT, cutoff=0.75):
            raise unknown_name(f"key in {where}", key, _MEANT)
    if foreign:
        _say_once(notes, f"keys that mean nothing here were left out, such as {foreign[0]}", str(item.get(own)))
    if own not in item:
        raise VocabularyError(f"{where} ({shown(dict(item))}) has no name; give it one by the key 'name'")
    synonyms = item.get("synonyms", [])
    if not isinstance(synonyms, (list, tuple)):
        raise VocabularyError(f"{where} has synonyms {shown(synonyms)}; expected a list of names")
    thing = item.get("is_thing", item.get("isthing", True))
    if isinstance(thing, str):  # YAML is read as text
        thing = {"true": True, "false": False, "1": True, "0": False}.get(thing.lower(), thing)
    if thing not in (True, False):  # 0 and 1 included
        raise VocabularyError(f"{where} has is_thing {shown(thing)}; expected true or false")
    names = [clean_name(name, where) for name in (item[own], *synonyms)]
    kept = tuple(_first_of_each(names))
    if len(kept) < len(names):
        _say_once(notes, "synonyms that repeat a name of their own class were left out", names[0])
    return RawClass(kept, bool(thing), read_id(item.get("id"), where), where)


def read_id(value: object, where: str) -> int | None:
    """Read the id of a class; None stays None, and digits in quotes are a number.

    Raises:
        VocabularyError: It is no whole number from 0.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise VocabularyError(f"{where} has the id {shown(value)}; expected a whole number from 0")
    return value


def check_ids(classes: Sequence[RawClass]) -> None:
    """Refuse ids that stand twice, or that only some classes have.

    Raises:
        VocabularyError: Says which, and where.
    """
    owners: dict[int, str] = {}
    for one in classes:
        if one.id is None:
            continue
        if one.id in owners:
            raise VocabularyError(
                f"the id {one.id} stands twice, in {owners[one.id]} and {one.where}; every class has its own"
            )
        owners[one.id] = one.where
    without = [one.where for one in classes if one.id is None]
    if owners and without:
        raise VocabularyError(
            f"{without[0]} has no id and {next(iter(owners.values()))} has one; give every class an id, or none"
        )


def say_underscores(classes: Sequence[RawClass], notes: list[str]) -> None:
    """Note names with underscores, which text towers are shown as spaces."""
    if written := [name for one in classes for name in one.names if "_" in name.strip("_")]:
        notes.append(f"underscores are shown to the model as spaces: {some(written)}")


def _first_of_each(names: Sequence[str]) -> list[str]:
    """Leave out names that count as the same as an earlier one."""
    kept: dict[str, str] = {}
    for name in names:
        kept.setdefault(fold(name), name)
    return list(kept.values())


def _say_once(notes: list[str], told: str, example: str) -> None:
    """Note what holds for many classes once, with the first of them."""
    if not any(note.startswith(told) for note in notes):
        notes.append(f"{told}: {shown(example)}")


def find_divider(text: str) -> tuple[str, list[str]] | None:
    """Return what divides a text and is not ours, in words, and the parts between; None where nothing does."""
    for divider, word in _FOREIGN.items():
        if divider.search(text):
            return word, [part for part in divider.split(text) if part.strip()]
    return None


def _split_synonyms(text: str, where: str) -> tuple[str, ...]:
    """Split ``"name|synonym"``; what divides elsewhere could mean classes or synonyms and is refused.

    Raises:
        VocabularyError: The text has such a divider, or a name is not allowed.
    """
    found = find_divider(text)
    names = re.split(f"[{PIPES}]", text)
    _check_numbers(found[1] if found else names, text, where)
    if found and len(found[1]) == 1:
        raise VocabularyError(f"{where} ({shown(text)}) holds {found[0]} beside the name; remove it")
    if found and found[1]:
        synonyms = "|".join(found[1])
        raise VocabularyError(
            f"{where} ({shown(text)}) holds {found[0]}, which may mean classes or synonyms; write synonyms as "
            f"{shown(synonyms if len(synonyms) <= 40 else 'a|b')}, and separate classes as entries (lines) of their own"
        )
    return tuple(clean_name(name, where) for name in names)


def _check_numbers(parts: Sequence[str], text: str, where: str) -> None:
    """Refuse numbers among the names of one class: they are cells of a table.

    Raises:
        VocabularyError: Says how to write such a table.
    """
    numbers = [part.strip() for part in parts if any(map(str.isdigit, part)) and not any(map(str.isalpha, part))]
    if numbers and len(numbers) < len(parts):
        raise VocabularyError(
            f"{where} ({shown(text)}) has the number {numbers[0]} among its names; give such a table a first line that "
            "names its columns, such as 'id,name', with commas or tabs between them"
        )
