"""From single entries (of a list, a text, the lines of a file) to raw classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ovseg.errors import VocabularyError, unknown_name
from ovseg.vocabulary.names import clean_name, fold, shown, some
from ovseg.vocabulary.numbering import Numbered, take_numbers

Item = tuple[object, str]
"""An entry and where it stands, such as ``"class 3"``."""

_KNOWN = ("name", "synonyms", "is_thing", "isthing", "id")
# What COCO and LVIS say of a category besides; it changes nothing here.
_UNUSED = (
    *("supercategory", "color", "keypoints", "skeleton", "frequency", "synset", "def", "image_count"),
    "instance_count",
)
COMMAS = ",\uff0c\u3001\u060c\ufe50\uff64"
"""The comma, and what stands for it in Chinese, Japanese and Arabic."""

PIPES = "|\uff5c"
"""What divides synonyms, and its full-width form."""

_QUOTES = {**{q: q for q in "\"'`"}, "\u201c": "\u201d", "\u2018": "\u2019", "\u201e": "\u201c", "\xab": "\xbb"}
_QUOTES |= {"\u300c": "\u300d", "\u300e": "\u300f"}  # corner brackets, as in Japanese
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


def read_entries(items: Sequence[Item], notes: list[str], foreign_keys: bool = False) -> list[RawClass]:
    """Read classes, each a name, ``"name|synonym"``, a list of names, or a dict.

    Args:
        items: Entries.
        notes: Gets a line for everything that was read as something else than it says.
        foreign_keys: Whether a dict may have keys that mean nothing here; elsewhere they are most likely misspelt.

    Raises:
        VocabularyError: An entry is none of these, or could be read in two ways.
        UnknownNameError: A key of a dict is unknown.
    """
    texts = [(item, where) for item, where in items if isinstance(item, str)]
    if len(texts) == len(items):
        return read_names(texts, notes)
    found = []
    for item, where in items:
        if isinstance(item, Mapping):
            found.append(read_dict(item, where, notes, foreign_keys))
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
    """Read classes that are one text each, whose quotes and numbers are no part of the names.

    Raises:
        VocabularyError: See `read_entries`.
    """
    bare = [(_unquote(text.strip(), where), where) for text, where in items]
    if quoted := [text for (one, _), (text, _) in zip(bare, items, strict=True) if one != text.strip()]:
        notes.append(f"quotation marks were left out: {some(quoted)}")
    numbered = take_numbers(bare, notes)
    if numbered is None:
        return [RawClass(_split_synonyms(text, where), where=where) for text, where in bare]
    return [read_numbered(one, notes) for one in numbered]


def read_numbered(one: Numbered, notes: list[str]) -> RawClass:
    """Read the class of an id. What has one id is one class, so what divides its text divides synonyms.

    Raises:
        VocabularyError: A name is not allowed, or a number stands among them.
    """
    word, parts = find_divider(one.text.strip()) or ("", [])
    if len(parts) < 2:
        return RawClass(_split_synonyms(one.text, one.where), id=one.id, where=one.where)
    numbers = [part for part in parts if any(c.isdigit() for c in part) and not any(c.isalpha() for c in part)]
    if numbers:
        raise VocabularyError(
            f"{one.where} ({shown(one.text)}) has the number {numbers[0]} among its names; give such a table a "
            "first line that names its columns, such as 'id,name'"
        )
    _say_once(notes, f"one id is one class, so {word} was read as between synonyms", one.text)
    names = _first_of_each([clean_name(part, one.where) for part in parts])
    return RawClass(tuple(names), id=one.id, where=one.where)


def read_dict(item: Mapping[Any, Any], where: str, notes: list[str], foreign_keys: bool) -> RawClass:
    """Read ``{"name", "synonyms", "is_thing", "id"}``; COCO writes ``isthing``, and LVIS the name among the synonyms.

    Raises:
        VocabularyError: A value is not allowed.
        UnknownNameError: A key is unknown.
    """
    for key in item:
        if not foreign_keys and key not in _KNOWN and key not in _UNUSED:
            raise unknown_name(f"key in {where}", str(key), _KNOWN)
    synonyms = item.get("synonyms", [])
    if not isinstance(synonyms, (list, tuple)):
        raise VocabularyError(f"{where} has synonyms {shown(synonyms)}; expected a list of names")
    thing = item.get("is_thing", item.get("isthing", True))
    if isinstance(thing, str):  # YAML is read as text
        thing = {"true": True, "false": False, "1": True, "0": False}.get(thing.lower(), thing)
    if thing not in (True, False):  # 0 and 1 included
        raise VocabularyError(f"{where} has is_thing {shown(thing)}; expected true or false")
    names = [clean_name(name, where) for name in (item.get("name"), *synonyms)]
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
    if found and len(found[1]) == 1:
        raise VocabularyError(f"{where} ({shown(text)}) holds {found[0]} beside the name; remove it")
    if found and found[1]:
        synonyms = "|".join(found[1])
        raise VocabularyError(
            f"{where} ({shown(text)}) holds {found[0]}, which may mean classes or synonyms; write synonyms as "
            f"{shown(synonyms if len(synonyms) <= 40 else 'a|b')}, and separate classes as entries (lines) of their own"
        )
    return tuple(clean_name(name, where) for name in re.split(f"[{PIPES}]", text))


def _unquote(text: str, where: str) -> str:
    """Take quotation marks off a text that stands in them.

    Raises:
        VocabularyError: One of a pair is missing.
    """
    close = _QUOTES.get(text[:1])
    if close and len(text) > 2 and text.endswith(close) and close not in text[1:-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    if len(text) > 1 and (close or text[-1] in '"`\u201d\xbb'):
        raise VocabularyError(
            f"{where} ({shown(text)}) has a quotation mark without another at the other end of the name; remove it"
        )
    return text
