"""The classes of a segmentation: an ordered, immutable list of names with synonyms, thing flags and colours."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from ovseg.errors import VocabularyError
from ovseg.system.values import short_hash
from ovseg.vocabulary.colors import Color, spread_colors
from ovseg.vocabulary.names import check_unique, clean_name
from ovseg.vocabulary.parsing import parse_classes
from ovseg.vocabulary.preset_files import is_preset

_UNCHOSEN: Color = (-1, -1, -1)


@dataclasses.dataclass(frozen=True)
class ClassEntry:
    """One class.

    Attributes:
        names: The display name, then synonyms; each is a query of its own and the best one counts.
        is_thing: Countable object (True) or stuff such as sky and grass (False).
        color: sRGB, 0..255; left out, the vocabulary chooses it, see `ovseg.vocabulary.colors`.
    """

    names: tuple[str, ...]
    is_thing: bool = True
    color: Color = dataclasses.field(default=_UNCHOSEN, compare=False)

    def __post_init__(self) -> None:
        """Trim and check the names.

        Raises:
            VocabularyError: No name, or a name that is not allowed.
        """
        if isinstance(self.names, str) or not self.names:
            raise VocabularyError(f"a class has the names {self.names!r}; expected a non-empty tuple of names")
        object.__setattr__(self, "names", tuple(clean_name(name, "a class name") for name in self.names))

    @property
    def name(self) -> str:
        """The display name."""
        return self.names[0]


@dataclasses.dataclass(frozen=True)
class Vocabulary(Sequence[ClassEntry]):
    """The user's classes in the user's order: the id of a class is its position. Nothing is added or dropped.

    Build one with `Vocabulary.parse`. Equality and `hash` depend on names, their order and the thing flags.
    """

    classes: tuple[ClassEntry, ...]

    def __post_init__(self) -> None:
        """Refuse empty lists and duplicates, and give classes that would look alike different colours.

        Raises:
            VocabularyError: No class at all, or a name that stands twice (the message names it).
        """
        classes = tuple(self.classes)
        if not classes:
            raise VocabularyError("the vocabulary has no classes; give at least one name, such as 'cat, sofa'")
        check_unique([(name, f"class {i}") for i, entry in enumerate(classes) for name in entry.names])
        # A colour that was given, or that another vocabulary has chosen, stays; the others keep away from it.
        given = {i: entry.color for i, entry in enumerate(classes) if entry.color != _UNCHOSEN}
        if len(given) < len(classes):
            colors = spread_colors([entry.name for entry in classes], given)
            classes = tuple(dataclasses.replace(entry, color=c) for entry, c in zip(classes, colors, strict=True))
        object.__setattr__(self, "classes", classes)

    @classmethod
    def parse(cls, source: str | Path | Vocabulary | Iterable[Any] | dict[str, Any]) -> Vocabulary:
        """Read classes from what a user gives.

        Args:
            source: One of
                - a list: each entry a name, ``"name|synonym"``, a list of names, or a dict
                  ``{"name": ..., "synonyms": [...], "is_thing": true}``;
                - a text with a comma or pipe: ``"cat|kitten, sofa"``. One comma at its end is allowed and marks a
                  lone word as a word: ``"voc20,"`` is a class of that name;
                - a text without either: a preset (``"ade150"``), a ``.txt`` or ``.json`` file, else a single class;
                - a `Path`: a ``.txt`` file (a class a line, synonyms separated by ``|``) or a ``.json`` file
                  (any of the lists above, or ``{"categories": [...]}`` as COCO writes it);
                - a `Vocabulary`, returned as it is.

        Commas never mean synonyms. A comma inside a list entry or a line of a file is an error, because readers of
        such files disagree about it; inside a list of names or a dict it is an ordinary character of the name.

        Raises:
            VocabularyError: The source, a name, or the list as a whole is not allowed; the message says which.
            UnknownNameError: A lone word that resembles a preset but is none.
        """
        if isinstance(source, Vocabulary):
            return source
        return cls(tuple(ClassEntry(raw.names, raw.is_thing) for raw in parse_classes(source)))

    @property
    def names(self) -> list[str]:
        """Display names, class by class."""
        return [entry.name for entry in self.classes]

    @property
    def queries(self) -> list[str]:
        """All names of all classes, class by class: what the text tower is asked."""
        return [name for entry in self.classes for name in entry.names]

    @property
    def query_to_class(self) -> list[int]:
        """The class id of each query; as long as `queries`, never decreasing."""
        return [i for i, entry in enumerate(self.classes) for _ in entry.names]

    @functools.cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of names, order and thing flags; the same in every process."""
        return short_hash(json.dumps([[entry.names, entry.is_thing] for entry in self.classes]))

    def format(self) -> str:
        """Return the names as a text that `parse` reads back, such as ``"cat|kitten, sofa"`` (without thing flags).

        Raises:
            VocabularyError: A name holds a comma, which such a text cannot carry.
        """
        for name in self.queries:
            if "," in name:
                raise VocabularyError(f"the name {name!r} holds a comma; a text cannot carry it, use to_json()")
        text = ", ".join("|".join(entry.names) for entry in self.classes)
        # A closing comma keeps words that name a preset or look like a file from being read as such.
        plain = len(self.queries) > 1 and not text.lower().endswith((".txt", ".json")) and not is_preset(*self.names)
        return text if plain else f"{text},"

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data that `parse` reads back without loss."""
        return [{"name": e.name, "synonyms": list(e.names[1:]), "is_thing": e.is_thing} for e in self.classes]

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
