"""Class names as people mistype them, and as they would say the same in other words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ovseg.errors import InputError
from ovseg.evaluation.robustness.condition import Condition
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold
from ovseg.vocabulary.vocabulary import ClassEntry

# Without an article at the front, because templates bring their own: "a photo of a thing called cat."
PARAPHRASES = (
    "thing called {}",
    "thing that people call {}",
    "thing known as {}",
    "thing one would describe as {}",
    "thing whose name is {}",
)
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_TRIES = 50


@dataclass(frozen=True)
class Typos(Condition):
    """Every name and synonym has `severity` mistakes: two letters swapped, one dropped, doubled, or hit beside its key.

    No name becomes another one of the vocabulary. A name without letters or digits to mistype stays as it is.
    """

    FAMILY: ClassVar[str] = "names"

    name: str = "typos"
    severity: int = 1

    def __post_init__(self) -> None:
        """Check the number of mistakes.

        Raises:
            InputError: It is below 1.
        """
        if self.severity < 1:
            raise InputError(f"typos has {self.severity} mistakes for each name; expected 1 or more")

    def vocabulary(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return the misspelt names; they depend on the name and the seed, not on their place in the list."""
        taken = {fold(name) for name in vocabulary.queries}
        classes = []
        for entry in vocabulary:
            names = []
            for name in entry.names:
                wrong = self._misspelt(name, taken)
                taken.add(fold(wrong))
                names.append(wrong)
            classes.append(replace(entry, names=tuple(names)))
        return Vocabulary(tuple(classes))

    def _misspelt(self, name: str, taken: set[str]) -> str:
        for attempt in range(_TRIES):
            wrong = misspell(name, self.severity, self.rng(name, attempt))
            if fold(wrong) not in taken:
                return wrong
        return name


def misspell(name: str, count: int, rng: np.random.Generator) -> str:
    """Make mistakes in a name, one after the other; words keep their first letter and at least two, spaces stay."""
    for _ in range(count):
        kinds: list[Callable[[str, int, np.random.Generator], str]] = [_swap, _drop, _double, _neighbour]
        places = [i for i in range(len(name)) if name[i].isalnum() and i and name[i - 1].isalnum()]
        if not places:  # nothing but single letters: double one
            places, kinds = [i for i in range(len(name)) if name[i].isalnum()], [_double]
        if not places:
            return name
        name = kinds[rng.integers(len(kinds))](name, places[rng.integers(len(places))], rng)
    return name


def _swap(name: str, place: int, rng: np.random.Generator) -> str:
    """Swap a letter with the next one of its word, or with the one before at the end of a word."""
    other = place + 1 if name[place + 1 : place + 2].isalnum() else place - 1
    first, second = sorted((place, other))
    return name[:first] + name[second] + name[first] + name[second + 1 :]


def _drop(name: str, place: int, rng: np.random.Generator) -> str:
    word = name[:place].split()[-1] + name[place:].split()[0]
    return name[:place] + name[place + 1 :] if len(word) > 2 else _double(name, place, rng)


def _double(name: str, place: int, rng: np.random.Generator) -> str:
    return name[: place + 1] + name[place:]


def _neighbour(name: str, place: int, rng: np.random.Generator) -> str:
    """Hit the key beside (QWERTY); letters that the keyboard lacks are doubled."""
    letter = name[place].lower()
    row = next((row for row in _ROWS if letter in row), "")
    if not row:
        return _double(name, place, rng)
    at = row.index(letter)
    beside = [row[i] for i in (at - 1, at + 1) if 0 <= i < len(row)]
    hit = beside[rng.integers(len(beside))]
    return name[:place] + (hit.upper() if name[place].isupper() else hit) + name[place + 1 :]


@dataclass(frozen=True)
class Paraphrase(Condition):
    """Every class is asked by one other wording: its synonym number `severity`, or a sentence where it has fewer.

    Sentences are `PARAPHRASES`, used in turn: the first for severity 1.
    """

    FAMILY: ClassVar[str] = "names"

    name: str = "paraphrase"
    severity: int = 1

    def __post_init__(self) -> None:
        """Check the number of the wording.

        Raises:
            InputError: There is no such sentence.
        """
        if not 1 <= self.severity <= len(PARAPHRASES):
            raise InputError(f"paraphrase has number {self.severity}; expected 1 to {len(PARAPHRASES)}")

    def vocabulary(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return the paraphrased names."""

        def other(entry: ClassEntry) -> str:
            if len(entry.names) > self.severity:
                return entry.names[self.severity]
            return PARAPHRASES[self.severity - 1].replace("{}", entry.name)

        return Vocabulary(tuple(replace(entry, names=(other(entry),)) for entry in vocabulary))
