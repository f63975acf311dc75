"""What CAT-Seg and SED share: labels of maps of all words, and the loss by which such maps are learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.contract import CLASS_SCORES, Answer, Evidence, Words
from ovseg.errors import one_of
from ovseg.labelling.evidence import of_queries
from ovseg.labelling.row_maps import RowMaps, at_pixel, class_maps, label_rows
from ovseg.losses.matcher import Target
from ovseg.meta_arch.trained_model import TrainedModel
from ovseg.system.values import some
from ovseg.vocabulary import Background, ClassEntry, Vocabulary

NAMES = ("all", "first")
VOID = ("negative", "left_out")


class CostModel(TrainedModel):
    """A model that makes a map of probabilities for every word; probabilities of words do not add up to one.

    Attributes:
        names: Which names of a class count, see `words`.
        void: What pixels without a label are to the loss, see `binary_loss`.
    """

    kind: ClassVar[str] = "maps"
    names: str
    void: str

    def choose(self, names: str, void: str) -> None:
        """Keep two options.

        Raises:
            ConfigError: One is another word.
        """
        self.names, self.void = one_of("names", names, NAMES), one_of("void", void, VOID)

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Embed the words of a request; see `WordedModel.words`.

        With ``names`` at ``first`` synonyms are left out, as the original measures: what a class is called counts and
        nothing else. Results say so.
        """
        if self.names == "all" or len(vocabulary.queries) == len(vocabulary):
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
        """Label every pixel by its most probable word; see `WordedModel.label`."""
        maps = self.maps(seen, words)
        labels, scores = label_rows(maps, words.query_to_class, size, words.background.threshold)
        every = class_maps(maps, words.query_to_class, size) if CLASS_SCORES in want else None
        return Answer(labels, scores, class_scores=every)

    def evidence(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Look at one pixel of all maps; see `WordedModel.evidence`."""
        return of_queries(at_pixel(self.maps(seen, words), len(words.query_to_class), size, point), words)


def first_names(vocabulary: Sequence[ClassEntry]) -> list[str]:
    """Return what the text tower is asked for each class in a training: what it is called, without synonyms."""
    return [entry.queries[0] for entry in vocabulary]


def binary_loss(logits: Tensor, target: Target, classes: Tensor | None, void: str) -> tuple[Tensor, Tensor]:
    """Compare maps with the masks of an image: each pixel of each map is a question of its own.

    Args:
        logits: (K, h, w), resized bilinearly to the masks.
        target: What the image shows, masks (N, H, W).
        classes: The class (K,) of each map; None where all classes have one.
        void: What pixels are to which no mask belongs: ``negative``, they show no class, as in the originals of CAT-Seg
            and SED, where what was not labelled counts so; or ``left_out``.

    Returns:
        The sum of binary cross entropies and the number of questions, both ().
    """
    size = target.masks.shape[1:]
    resized = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    wanted = torch.zeros_like(resized)
    names = range(len(logits)) if classes is None else classes.tolist()
    places = {name: place for place, name in enumerate(names)}
    for name, mask in zip(target.labels.tolist(), target.masks, strict=True):
        if name in places:
            wanted[places[name]].masked_fill_(mask.bool(), 1.0)
    every = F.binary_cross_entropy_with_logits(resized, wanted, reduction="none")
    if void == "negative":
        return every.sum(), torch.tensor(float(every.numel()), device=every.device)
    known = target.masks.any(0).to(every)
    return (every * known).sum(), known.sum() * len(logits)
