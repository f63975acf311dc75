"""The classes of a segmentation: an ordered, immutable list of names with synonyms, thing flags and colours."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from ovseg.errors import OvsegError, VocabularyError
from ovseg.system.values import short_hash
from ovseg.vocabulary.colors import Color, spread_colors
from ovseg.vocabulary.examples import Example
from ovseg.vocabulary.names import check_unique, clean_name, shown, spoken
from ovseg.vocabulary.parsing import parse_classes

_UNCHOSEN: Color = (-1, -1, -1)


@dataclasses.dataclass(frozen=True)
class ClassEntry:
    """One class.

    Attributes:
        names: The display name, then synonyms; each is a query of its own and the best one counts.
        is_thing: Countable object (True) or stuff such as sky and grass (False).
        color: sRGB, 0..255; left out, the vocabulary chooses it, see `ovseg.vocabulary.colors`.
        id: The class in the user's own files, such as a COCO category's, from 0; None where the user gave none. What
            labels count is the position all the same, so two classes of different ids are equal.
        examples: Pictures of it; see `ovseg.data.examples.with_examples`.
        by_name: Whether its names are asked for, too; false for a class that is known by its pictures alone.
    """

    names: tuple[str, ...]
    is_thing: bool = True
    color: Color = dataclasses.field(default=_UNCHOSEN, compare=False)
    id: int | None = dataclasses.field(default=None, compare=False)
    examples: tuple[Example, ...] = ()
    by_name: bool = True

    def __post_init__(self) -> None:
        """Trim and check the names.

        Raises:
            VocabularyError: No name, a name that is not allowed, an id below 0, or nothing that it is known by.
        """
        if isinstance(self.names, str) or not self.names:
            raise VocabularyError(f"a class has the names {self.names!r}; expected a non-empty tuple of names")
        object.__setattr__(self, "names", tuple(clean_name(name, "a class name") for name in self.names))
        if self.id is not None and self.id < 0:
            raise VocabularyError(f"class {self.names[0]!r} has the id {self.id}; expected a whole number from 0")
        if not self.by_name and not self.examples:
            raise VocabularyError(f"class {self.names[0]!r} is known neither by name nor by pictures; give an example")

    @property
    def name(self) -> str:
        """The display name."""
        return self.names[0]

    @property
    def queries(self) -> tuple[str, ...]:
        """What the text tower is asked for each of the names: the same, with spaces for underscores."""
        return tuple(spoken(name) for name in self.names)


@dataclasses.dataclass(frozen=True)
class Vocabulary(Sequence[ClassEntry]):
    """The user's classes in the user's order: the id of a class is its position. Nothing is added or dropped.

    Build one with `Vocabulary.parse`. Equality and `hash` depend on names, their order and the thing flags; ids,
    colours and notes change no number and are no part of them.

    Attributes:
        classes: The classes.
        notes: What `parse` read as something else than it says, a line each; results repeat them.
    """

    classes: tuple[ClassEntry, ...]
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuse empty lists and duplicates, and give classes that would look alike different colours.

        Raises:
            VocabularyError: No class at all, or a name or id that stands twice (the message names it).
        """
        classes = tuple(self.classes)
        if not classes:
            raise VocabularyError("the vocabulary has no classes; give at least one name, such as 'cat, sofa'")
        ids = [entry.id for entry in classes if entry.id is not None]
        if len(set(ids)) < len(ids):
            twice = next(own for own in ids if ids.count(own) > 1)
            raise VocabularyError(f"the id {twice} stands twice in the vocabulary; every class has its own")
        check_unique([(name, f"class {i}") for i, entry in enumerate(classes) for name in entry.names])
        # A colour that was given, or that another vocabulary has chosen, stays; the others keep away from it.
        given = {i: entry.color for i, entry in enumerate(classes) if entry.color != _UNCHOSEN}
        if len(given) < len(classes):
            colors = spread_colors([entry.name for entry in classes], given)
            classes = tuple(dataclasses.replace(entry, color=c) for entry, c in zip(classes, colors, strict=True))
        object.__setattr__(self, "classes", classes)

    @classmethod
    def parse(cls, source: str | Path | Vocabulary | Iterable[Any] | dict[str, Any]) -> Vocabulary:
        """Read classes from what a user gives; docs/words.md is the table of all forms, with what is refused and why.

        Args:
            source: One of
                - a list: each entry a name, ``"name|synonym"``, a list of names, or a dict
                  ``{"name": ..., "synonyms": [...], "is_thing": true, "id": 7}``;
                - a text with a comma or pipe: ``"cat|kitten, sofa"``. One comma at its end is allowed and marks a
                  lone word as a word: ``"voc20,"`` is a class of that name;
                - a text without either: a preset (``"ade150"``), a file, else a single class;
                - a `Path`: a file of lines (a class each, synonyms separated by ``|``), a table, JSON or YAML;
                - a dict, or such a file: ``{"categories": [...]}`` as COCO writes it, ids with names, names with ids;
                - a `Vocabulary`, returned as it is.

        Commas never mean synonyms. A comma inside a list entry or a line of a file is an error, because readers of
        such files disagree about it; inside a list of names or a dict it is an ordinary character of the name.

        Raises:
            VocabularyError: The source, a name, or the list as a whole is not allowed; the message says which.
            UnknownNameError: A lone word that resembles a preset but is none.
        """
        if isinstance(source, Vocabulary):
            return source
        found = parse_classes(source)
        entries = tuple(ClassEntry(raw.names, raw.is_thing, id=raw.id) for raw in found.classes)
        return cls(entries, tuple(found.notes))

    @property
    def names(self) -> list[str]:
        """Display names, class by class."""
        return [entry.name for entry in self.classes]

    @property
    def queries(self) -> list[str]:
        """What the text tower is asked for all names of all classes, class by class."""
        return [text for entry in self.classes for text in entry.queries]

    @property
    def ids(self) -> list[int] | None:
        """The ids of the user's own files, class by class; None unless every class has one."""
        found = [entry.id for entry in self.classes if entry.id is not None]
        return found if len(found) == len(self.classes) else None

    @property
    def query_to_class(self) -> list[int]:
        """The class id of each query; as long as `queries`, never decreasing."""
        return [i for i, entry in enumerate(self.classes) for _ in entry.names]

    @functools.cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of names, order, thing flags and examples; the same in every process."""
        return short_hash(json.dumps([_identity(entry) for entry in self.classes]))

    def format(self) -> str:
        """Return the names as a text that `parse` reads back, such as ``"cat|kitten, sofa"`` (names alone).

        Raises:
            VocabularyError: A name cannot stand in such a text, as one with a comma.
        """
        text = ", ".join("|".join(entry.names) for entry in self.classes)
        names = [entry.names for entry in self.classes]
        # A closing comma keeps words that name a preset or look like a file from being read as such.
        for candidate in (text, f"{text},"):
            with contextlib.suppress(OvsegError):
                if len(self.queries) == 1 and candidate == text:
                    continue
                if [one.names for one in parse_classes(candidate).classes] == names:
                    return candidate
        raise VocabularyError(f"{shown(text)} holds a comma or what else divides names; use to_json()")

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data that `parse` reads back without loss, but for pictures."""
        return [
            {"name": e.name, "synonyms": list(e.names[1:]), "is_thing": e.is_thing}
            | ({} if e.id is None else {"id": e.id})
            for e in self.classes
        ]

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    def __iter__(self) -> Iterator[ClassEntry]:
        """Iterate over the classes in id order."""
        return iter(self.classes)

    @overload
    def __getitem__(self, index: int) -> ClassEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ClassEntry, ...]: ...
    def __getitem__(self, index: int | slice) -> ClassEntry | tuple[ClassEntry, ...]:
        """Return the class with this id, or a tuple of classes for a slice."""
        return self.classes[index]


def _identity(entry: ClassEntry) -> list[Any]:
    """Return what of a class makes numbers, as JSON values."""
    pictures = [[one.hash for one in entry.examples], entry.by_name] if entry.examples else []
    return [entry.names, entry.is_thing, *pictures]
