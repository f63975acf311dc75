"""What models share that make a map for every word: which names count, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ovseg.contract import CLASS_SCORES, Answer, Evidence, Words
from ovseg.labelling.evidence import of_queries
from ovseg.labelling.row_maps import RowMaps, at_pixel, class_maps, label_rows
from ovseg.meta_arch.trained_model import TrainedModel
from ovseg.system.values import some
from ovseg.vocabulary import Background, ClassEntry, Vocabulary

NAMES = ("all", "first")


class CostModel(TrainedModel):
    """A model that makes a map of probabilities for every word; probabilities of words do not add up to one.

    Attributes:
        names: Which names of a class count, see `words`.
        cut: Why a word may have no map of an image, for the note of its answer.
    """

    kind: ClassVar[str] = "maps"
    cut: ClassVar[str]
    names: str

    def is_own(self, key: str) -> bool:
        """Tell by its name whether a weight is not CLIP's; what is tuned of CLIP is in the hash of CLIP."""
        return not key.startswith("clip.model.")

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Embed the words of a request; see `WordedModel.words`.

        With ``names`` at ``first`` synonyms are left out: what a class is called counts and nothing else. Results say
        so.
        """
        if self.names != "first" or len(vocabulary.queries) == len(vocabulary):
            return super().words(vocabulary, background, templates)
        entries = tuple(replace(entry, names=entry.names[:1]) for entry in vocabulary)
        found = super().words(Vocabulary(entries, vocabulary.notes), background, templates)
        left = [name for entry in vocabulary for name in entry.names[1:]]
        note = f"synonyms do not count (NAMES: first), {len(left)} are left out: {some(left)}"
        return replace(found, vocabulary=vocabulary, notes=(*found.notes, note))

    def maps(self, seen: Any, words: Words) -> RowMaps:
        """Return the probabilities of all words on an image that `see` has seen."""
        raise NotImplementedError

    def label(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Label every pixel by its most probable word; see `WordedModel.label`.

        A note says how many words have no map, where there are such.
        """
        maps, count = self.maps(seen, words), len(words.query_to_class)
        left = count - len(maps.words)
        notes = (f"{left} of {count} words take no part in this image, {self.cut}",) if left else ()
        labels, scores = label_rows(maps, words.query_to_class, size, words.background.threshold)
        every = class_maps(maps, words.query_to_class, size) if CLASS_SCORES in want else None
        return Answer(labels, scores, class_scores=every, notes=notes)

    def evidence(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Look at one pixel of all maps; see `WordedModel.evidence`."""
        return of_queries(at_pixel(self.maps(seen, words), len(words.query_to_class), size, point), words)


def first_names(vocabulary: Sequence[ClassEntry]) -> list[str]:
    """Return what the text tower is asked for each class in a training: what it is called, without synonyms."""
    return [entry.queries[0] for entry in vocabulary]
