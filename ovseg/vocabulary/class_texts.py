"""JSON files that say more of classes than their names: ``{"cat": "a small furry animal", ...}``.

Keys are class names; a class is found by any of its names, case ignored. A file may know more classes than are asked
for. A class of the name ``background`` never has an entry.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.errors import VocabularyError
from ovseg.system.values import short_hash
from ovseg.vocabulary.names import fold, shown, some
from ovseg.vocabulary.vocabulary import ClassEntry

_FOLDER = Path(__file__).with_name("texts")


@dataclass(frozen=True)
class ClassTexts:
    """The content of one file.

    Attributes:
        file: Its name, for messages.
        hash: First 16 hex digits of the SHA-256 of its bytes, for results.
        texts: The texts of each class, by its name in the file.
    """

    file: str
    hash: str
    texts: dict[str, tuple[str, ...]]

    def of(self, classes: Sequence[ClassEntry]) -> tuple[dict[int, tuple[str, ...]], list[str]]:
        """Find the texts of classes.

        Returns:
            The texts by class id, and notes on the classes that have none.
        """
        by_name = {fold(name): name for name in self.texts}
        found: dict[int, tuple[str, ...]] = {}
        missing: list[str] = []
        for i, entry in enumerate(classes):
            keys = [by_name[fold(name)] for name in entry.names if fold(name) in by_name]
            if fold(entry.name) == "background":
                continue
            if keys:
                found[i] = self.texts[keys[0]]
            else:
                missing.append(entry.name)
        return found, [f"{self.file} has no entry for {some(missing, 5)}{self._hint(missing)}"] if missing else []

    def require(self, classes: Sequence[ClassEntry]) -> None:
        """Refuse a file that has nothing to say of any of the classes.

        Raises:
            VocabularyError: It has no entry for any of them; names that nearly match are in the message.
        """
        if not self.of(classes)[0]:
            names = [entry.name for entry in classes]
            raise VocabularyError(
                f"{self.file} has no entry for any class of {some(names, 5)}{self._hint(names)}; its entries are for"
                f" {some(list(self.texts), 5)}"
            )

    def _hint(self, missing: list[str]) -> str:
        """Name the entries that were perhaps meant for classes without one."""
        near = {name: difflib.get_close_matches(name, self.texts, n=1, cutoff=0.75) for name in missing[:5]}
        told = [f"{shown(close[0])} for {shown(name)}" for name, close in near.items() if close]
        return f" (is {', '.join(told)} meant?)" if told else ""


def list_class_texts() -> list[str]:
    """Return the names of all shipped files, sorted."""
    return sorted(path.name for path in _FOLDER.glob("*.json"))


def read_class_texts(source: str, single: bool = False) -> ClassTexts:
    """Read a file of texts.

    Args:
        source: Name of a shipped file (see `list_class_texts`), else a path; relative ones start at the current folder.
        single: Whether each class has one text and not a list of them.

    Raises:
        VocabularyError: The file is missing, is no UTF-8 JSON, or its content has another form.
    """
    path = _FOLDER / source if source in list_class_texts() else Path(os.path.expanduser(source))
    try:
        content = path.read_bytes()
        data = json.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        known = ", ".join(list_class_texts())
        raise VocabularyError(f"text file {source!r} does not exist; expected a path or one of {known}") from None
    except UnicodeDecodeError:
        raise VocabularyError(f"text file {source!r} is not UTF-8 text; save it as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise VocabularyError(f"text file {source!r} is not valid JSON: {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VocabularyError(f"text file {source!r} cannot be read: {reason}") from None
    return ClassTexts(path.name, short_hash(content), _checked(data, path.name, single))


def _checked(data: Any, file: str, single: bool) -> dict[str, tuple[str, ...]]:
    form = '{"cat": "a text"}' if single else '{"cat": ["a text", "another"]}'
    if not isinstance(data, dict) or not data:
        raise VocabularyError(f"{file} holds {shown(data)}; expected texts by class name: {form}")
    texts: dict[str, tuple[str, ...]] = {}
    places: dict[str, str] = {}
    for name, value in data.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or (single and not isinstance(value, str)):
            raise VocabularyError(f"{file} has {shown(value)} for {shown(name)}; expected {form}")
        cleaned = tuple(" ".join(text.split()) if isinstance(text, str) else "" for text in values)
        if "" in cleaned:
            bad = values[cleaned.index("")]
            raise VocabularyError(
                f"{file} has {shown(bad)} among the texts of {shown(name)}; expected words, or remove it"
            )
        key = fold(name.strip())
        if key in places:
            raise VocabularyError(
                f"{file} has {shown(places[key])} and {shown(name)}, which are one class; merge the entries"
            )
        places[key] = name
        texts[name.strip()] = cleaned
    return texts
