"""A model that is no CLIP at all: it sees eight colours and knows words by the colour that their letters make.

It owns up to nothing but what `ovseg.contract.SegmentationModel` asks, so it shows that the API, the command line and
the evaluation ask for nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.contract import (
    CLASS_SCORES,
    INSTANCES,
    LABELS,
    PANOPTIC,
    Answer,
    Encoded,
    Evidence,
    Words,
    check_point,
    check_want,
    identity,
)
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError
from ovseg.labelling.evidence import of_queries
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.vocabulary import Background, Vocabulary, parse_background
from ovseg.vocabulary.embedder import words_of_no_class
from tests.meta_arch.models import Case

NAMES = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")
"""Number n has the bits of red, green and blue of n."""


class Colours:
    """Labels each pixel by the word whose colour it has; other words than `NAMES` have the colour of their hash."""

    gives = LABELS | {CLASS_SCORES, PANOPTIC, INSTANCES}
    weights_hash = "eight colours"
    notes = ()

    def __init__(self, cfg: Any = None) -> None:
        self.size_rule = SizeRule(48, 96)

    @property
    def settings(self) -> dict[str, Any]:
        return {"architecture": "Colours", "size_rule": [48, 96]}

    def place(self, device: torch.device, dtype: torch.dtype) -> Colours:
        return self

    def pack(self) -> None:
        raise ConfigError("Colours has no weights to pack; leave packing out")

    def compile_network(self, backend: str = "inductor") -> None:
        raise ConfigError("Colours has no network to compile; leave compile out")

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        policy = parse_background(background)
        extra, notes = words_of_no_class(vocabulary, policy)
        texts = (*vocabulary.queries, *extra)
        numbers = [NAMES.index(t) if t in NAMES else hashlib.sha256(t.encode()).digest()[0] % 8 for t in texts]
        return Words(
            embeddings=F.one_hot(torch.tensor(numbers), 8).float(),
            query_to_class=torch.tensor([*vocabulary.query_to_class, *[-1] * len(extra)]),
            texts=texts,
            notes=tuple(notes),
            vocabulary=vocabulary,
            background=policy,
            templates=templates or "none",
        )

    def encode(self, images: Sequence[Tensor]) -> Encoded:
        """Keep of each image one-hot masks (8, h, w)."""
        bits = torch.tensor([4, 2, 1]).view(3, 1, 1)
        numbers = [((image.float() >= 128) * bits).sum(0) for image in images]
        seen = tuple(F.one_hot(one, 8).permute(2, 0, 1).float() for one in numbers)
        return Encoded(seen, tuple((image.shape[1], image.shape[2]) for image in images), identity(self))

    def answer(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, want: frozenset[str] = LABELS
    ) -> Answer:
        wanted = check_want(want, self.gives, "Colours")
        encoded.check(self)
        masks = F.interpolate(encoded.images[index][None], size, mode="nearest")[0]
        seen = masks.argmax(0)
        table = torch.stack([words.embeddings[words.columns == i].amax(0) for i in range(len(words.column_class))])
        best, column = table.max(0)  # of each of the eight colours
        scores = best[seen]
        labels = words.column_class[column][seen].masked_fill(scores < words.background.threshold, -1).int()
        found = Answer(labels, scores)
        if CLASS_SCORES in wanted:
            found = replace(found, class_scores=table[: len(words.vocabulary), seen])
        return replace(found, **_objects(labels, words.vocabulary, wanted))

    def explain(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        check_point(point, size)
        encoded.check(self)
        seen = F.interpolate(encoded.images[index][None], size, mode="nearest")[0].argmax(0)[point]
        return of_queries(words.embeddings[:, seen], words)


def _objects(labels: Tensor, vocabulary: Vocabulary, want: frozenset[str]) -> dict[str, Any]:
    """All pixels of a class are one object."""
    own = [class_id for class_id in labels.unique().tolist() if class_id >= 0]
    found: dict[str, Any] = {}
    if PANOPTIC in want:
        ids = torch.zeros_like(labels)
        for number, class_id in enumerate(own, 1):
            ids[labels == class_id] = number
        things = [vocabulary[class_id].is_thing for class_id in own]
        segments = (PanopticSegment(n, c, t, 1.0) for n, (c, t) in enumerate(zip(own, things, strict=True), 1))
        found[PANOPTIC] = Panoptic(ids.numpy(), tuple(segments))
    if INSTANCES in want:
        found[INSTANCES] = tuple(Instance.from_mask((labels == c).numpy(), c, 1.0) for c in own)
    return found


class _Colours(Case):
    def build(self, folders: Any = None, seed: int | None = None) -> Colours:
        return Colours()


COLOURS = _Colours(
    "no-clip", "", "", without_golden="there is no original", gives=Colours.gives, inside=("encode", "answer")
)
