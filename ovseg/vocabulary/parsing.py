"""Turns what a user gives (text, lists, files, preset names) into raw classes; `Vocabulary.parse` tells the rules."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovseg.errors import VocabularyError, unknown_name
from ovseg.vocabulary.names import clean_name, shown
from ovseg.vocabulary.preset_files import find_preset, is_preset

_FILE_LIKE = re.compile(r".*\.(txt|json|csv|tsv|ya?ml|xml|xlsx?|docx?|md|names|list)", re.IGNORECASE)
_PATH_START = ("/", "./", "../", "~", ".\\", "..\\")
_EXPECTED = "expected a list of names, a text such as 'cat|kitten, sofa', a .txt or .json file, or a preset name"


class RawClass(NamedTuple):
    """Names and thing flag of a class before it becomes a `ClassEntry`."""

    names: tuple[str, ...]
    is_thing: bool = True


def parse_classes(source: object) -> list[RawClass]:
    """Read the classes of any accepted source, in its order.

    Raises:
        VocabularyError: See `Vocabulary.parse`.
        UnknownNameError: See `Vocabulary.parse`.
    """
    if isinstance(source, str):
        return _from_text(source.strip())
    if isinstance(source, Path):
        return _from_file(source)
    if isinstance(source, Mapping):
        return _from_data(source, "the vocabulary")
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, set, frozenset)):
        return [_entry(item, f"class {i}") for i, item in enumerate(source)]
    why = " (a set has no order)" if isinstance(source, (set, frozenset)) else ""
    raise VocabularyError(f"the vocabulary is {shown(source)} of type {type(source).__name__}{why}; {_EXPECTED}")


def split_words(text: str) -> list[str]:
    """Split at commas; one comma at the end is allowed."""
    words = text.split(",")
    if len(words) > 1 and not words[-1].strip():
        words.pop()
    return words


def _from_text(text: str) -> list[RawClass]:
    if not text:
        raise VocabularyError(f"the vocabulary is an empty text; {_EXPECTED}")
    if "," not in text and "|" not in text:
        return _from_lone_word(text)
    words = split_words(text)
    if not text.endswith(","):
        if text.lower().endswith((".txt", ".json")):
            raise VocabularyError(
                f"{shown(text)} may be words or a file; give a file with such a name as a Path, end words with a comma"
            )
        if is_preset(*words):
            raise VocabularyError(f"{shown(text)} mixes a preset with words; give one of them, or end with a comma")
    return [_entry(word, f"class {i}") for i, word in enumerate(words)]


def _from_lone_word(word: str) -> list[RawClass]:
    """Read a text without comma and pipe: a preset, a file, else a single class."""
    if word.startswith(_PATH_START) or _FILE_LIKE.fullmatch(word):
        return _from_file(Path(os.path.expanduser(word)))
    preset = find_preset(word)
    return _from_file(preset) if preset else [_entry(word, "class 0")]


def _from_file(path: Path) -> list[RawClass]:
    if path.suffix.lower() not in (".txt", ".json"):
        raise VocabularyError(f"vocabulary file {shown(str(path))} is not .txt or .json; convert it to one of these")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise VocabularyError(f"vocabulary file {shown(str(path))} does not exist; check the path") from None
    except UnicodeDecodeError:
        raise VocabularyError(f"vocabulary file {shown(str(path))} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VocabularyError(f"vocabulary file {shown(str(path))} cannot be read: {reason}") from None
    if path.suffix.lower() == ".txt":
        return _from_lines(text, path.name)
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise VocabularyError(f"vocabulary file {shown(str(path))} is not valid JSON: {error}") from None
    return _from_data(data, path.name)


def _from_lines(text: str, name: str) -> list[RawClass]:
    """Read a class a line. Blank lines are allowed at the end only: elsewhere one may be a class that got lost."""
    if not text.strip():
        raise VocabularyError(f"vocabulary file {name} is empty; write one class a line")
    return [_entry(line, f"{name} line {i}") for i, line in enumerate(text.rstrip().split("\n"), 1)]


def _from_data(data: object, name: str) -> list[RawClass]:
    """Read what a JSON file holds: a list of entries, or COCO's ``{"categories": [...]}``."""
    coco = isinstance(data, Mapping)
    entries = data.get("categories") if isinstance(data, Mapping) else data
    if not isinstance(entries, list):
        raise VocabularyError(f"{name} holds {shown(data)}; expected a list of classes or {{'categories': [...]}}")
    return [_entry(item, f"{name} class {i}", coco) for i, item in enumerate(entries)]


def _entry(item: object, where: str, coco: bool = False) -> RawClass:
    """Read one class: a name, ``"name|synonym"``, a list of names, or a dict."""
    if isinstance(item, Mapping):
        return _from_dict(item, where, coco)
    if isinstance(item, (list, tuple)):
        if not item:
            raise VocabularyError(f"{where} is an empty list; expected at least one name, fill it or remove it")
        return RawClass(tuple(clean_name(name, where) for name in item))
    if not isinstance(item, str):
        raise VocabularyError(
            f"{where} is {shown(item)} ({type(item).__name__}); expected a name, a list of names or a dict"
        )
    if "," in item:
        raise VocabularyError(
            f"{where} ({shown(item)}) holds a comma, which may mean classes or synonyms; "
            "write synonyms as 'a|b', separate classes as entries of their own"
        )
    return RawClass(tuple(clean_name(name, where) for name in item.split("|")))


def _from_dict(item: Mapping[Any, Any], where: str, coco: bool) -> RawClass:
    """Read ``{"name", "synonyms", "is_thing"}``; COCO writes ``isthing`` and keeps other keys, which say nothing here.

    Outside a COCO file an unknown key is an error, for it is most likely a misspelt one.
    """
    known = ("name", "synonyms", "is_thing", "isthing")
    for key in item:
        if not coco and key not in known:
            raise unknown_name(f"key in {where}", str(key), known)
    synonyms = item.get("synonyms", [])
    if not isinstance(synonyms, (list, tuple)):
        raise VocabularyError(f"{where} has synonyms {shown(synonyms)}; expected a list of names")
    thing = item.get("is_thing", item.get("isthing", True))
    if thing not in (True, False):  # 0 and 1 included
        raise VocabularyError(f"{where} has is_thing {shown(thing)}; expected true or false")
    return RawClass(tuple(clean_name(name, where) for name in (item.get("name"), *synonyms)), bool(thing))
