"""What models share that make a map for every word: which names count, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from ovseg.contract import CLASS_SCORES, Answer, Evidence, Words
from ovseg.labelling.evidence import of_queries
from ovseg.labelling.row_maps import RowMaps, at_pixel, class_maps, label_rows
from ovseg.labelling.sliding import Sliding
from ovseg.meta_arch.by_example import Glimpse, pooled
from ovseg.meta_arch.counted import ALL, FIRST, note_of_left, note_of_most, with_first
from ovseg.meta_arch.trained_model import TrainedModel
from ovseg.vocabulary import Background, ClassEntry, Vocabulary

NAMES = (ALL, FIRST)


class CostModel(TrainedModel):
    """A model that makes a map of probabilities for every word; probabilities of words do not add up to one.

    Attributes:
        names: Which names of a class count, see `words`.
        cut: Why a word may have no map of an image, for the note of its answer.
        most: A view is compared with so many words, the nearest ones; 0 for all.
        sliding: The windows that the views of an image are; None where there is one, of the whole image.
    """

    kind: ClassVar[str] = "maps"
    cut: ClassVar[str]
    names: str
    most: int = 0
    sliding: Sliding | None = None

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
        counting, notes = with_first(vocabulary) if self.names == FIRST else (vocabulary, ())
        found = super().words(counting, background, templates)
        notes += note_of_most(self.most, len(found.query_to_class))
        return replace(found, vocabulary=vocabulary, notes=(*found.notes, *notes))

    def views(self, images: Tensor) -> Tensor:
        """Return what CLIP sees (B * V, 3, r, r) of normalised images (B, 3, h, w), images outermost."""
        raise NotImplementedError

    def maps(self, seen: Any, words: Words) -> RowMaps:
        """Return the probabilities of all words on an image that `see` has seen."""
        raise NotImplementedError

    def look_at(self, seen: Any, network_size: tuple[int, int], mask: Tensor) -> Glimpse:
        """Average CLIP's features in all views; see `WordedModel.look_at`."""
        features = seen.features if seen.features.ndim == 4 else seen.features[None]
        views = self.views(mask.to(features)[None, None].expand(-1, 3, -1, -1))
        return pooled(features, views[:, :1].clamp(0, 1))

    def label(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, want: frozenset[str]
    ) -> Answer:
        """Label every pixel by its most probable word; see `WordedModel.label`.

        A note says how many words have no map, where there are such.
        """
        return label_maps(self.maps(seen, words), words, size, want, self.cut)

    def evidence(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Look at one pixel of all maps; see `WordedModel.evidence`."""
        return of_queries(at_pixel(self.maps(seen, words), len(words.query_to_class), size, point), words)


def label_maps(maps: RowMaps, words: Words, size: tuple[int, int], want: frozenset[str], cut: str) -> Answer:
    """Label every pixel by its most probable word.

    Args:
        maps: Probabilities of the words of an image.
        words: All of them.
        size: Height and width of the result.
        want: What to compute.
        cut: Why a word may have no map, for a note that says how many have none.
    """
    labels, scores = label_rows(maps, words.query_to_class, size, words.background.threshold)
    every = class_maps(maps, words.query_to_class, size) if CLASS_SCORES in want else None
    notes = note_of_left(len(words.query_to_class), len(maps.words), cut)
    return Answer(labels, scores, class_scores=every, notes=notes)


def first_names(vocabulary: Sequence[ClassEntry]) -> list[str]:
    """Return what the text tower is asked for each class in a training: what it is called, without synonyms."""
    return [entry.queries[0] for entry in vocabulary]
