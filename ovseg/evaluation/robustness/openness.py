"""A growing vocabulary: what is lost when names that no image shows are added.

After Ren et al., "Delving into the Openness of CLIP" (ACL Findings 2023, arXiv:2206.01986): accuracy as a function of
the number of added names. Smaller sets are parts of larger ones, so that the curve tells of size alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ovseg.errors import InputError
from ovseg.evaluation.robustness.condition import Condition
from ovseg.vocabulary import Vocabulary, list_presets
from ovseg.vocabulary.names import fold
from ovseg.vocabulary.vocabulary import ClassEntry


@dataclass(frozen=True)
class Distractors(Condition):
    """`severity` names are added behind the classes; pixels labelled as one of them count as wrong, as no class.

    Attributes:
        source: Where they come from; None for all presets. A class that shares a name or synonym with the vocabulary is
            left out, for it would not be wrong.
    """

    FAMILY: ClassVar[str] = "openness"

    name: str = "distractors"
    severity: int = 1
    source: Vocabulary | None = None

    def __post_init__(self) -> None:
        """Check the number of names.

        Raises:
            InputError: It is below 1.
        """
        if self.severity < 1:
            raise InputError(f"distractors has {self.severity} added names; expected 1 or more")

    def vocabulary(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return the vocabulary with the added names at its end.

        Raises:
            InputError: There are not as many names to add.
        """
        pool = self._pool(vocabulary)
        if len(pool) < self.severity:
            where = "the presets" if self.source is None else "the given words"
            raise InputError(
                f"{self.severity} distractors are asked for, but {where} have {len(pool)} names that the vocabulary "
                "lacks; ask for fewer or give a longer list"
            )
        order = self.rng().permutation(len(pool))[: self.severity]
        return Vocabulary((*vocabulary.classes, *(pool[i] for i in order)))

    def _pool(self, vocabulary: Vocabulary) -> list[ClassEntry]:
        """Return all that can be added, sorted by name: the order of presets does not count."""
        source = _classes_of_presets() if self.source is None else self.source.classes
        taken = {fold(name) for name in vocabulary.queries}
        found: dict[str, ClassEntry] = {}
        for entry in source:
            if not taken & {fold(name) for name in entry.names}:
                found.setdefault(fold(entry.name), ClassEntry((entry.name,), entry.is_thing))
        return [found[key] for key in sorted(found)]


@functools.cache
def _classes_of_presets() -> tuple[ClassEntry, ...]:
    return tuple(entry for name in list_presets() for entry in Vocabulary.parse(name))
