"""A method on each member of an ensemble: their scores are summed by the weights that the words of a request have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.ensemble import Ensemble, Seen
from ovseg.clip.features import DenseFeatures, Kept
from ovseg.clip.tokens import TokenTower
from ovseg.clip.tower import Tower
from ovseg.recalibration import Recalibration

if TYPE_CHECKING:
    from ovseg.contract import Answer, Words
    from ovseg.labelling.shares import ClassShares


class Overviews(Kept):
    """What each member has seen of whole images; see `Recalibration.overview`."""

    def __init__(self, members: Sequence[Kept | None]) -> None:
        self.members = list(members)

    def rows(self, rows: slice) -> Overviews:
        """Return what was seen of some of the images."""
        return Overviews([None if one is None else one.rows(rows) for one in self.members])


@dataclass(frozen=True)
class OfMembers:
    """What a method has found out from the words in the space of each member; see `Recalibration.of_words`."""

    members: tuple[object | None, ...]


class OverMembers(Recalibration):
    """Runs a method on all members of an `Ensemble`, as if each were alone.

    Whatever a method makes of features and texts, scores are the weighted sum of the members'. Regions that share
    labels (`region_maps`) are those of the first member.
    """

    not_compiled = "several CLIPs look at an image"

    def __init__(self, method: Recalibration) -> None:
        """Take over what a method says of itself."""
        super().__init__()
        self.method = method
        self.requires, self.pos_resize, self.own_values = method.requires, method.pos_resize, method.own_values
        self.sees_photo = method.sees_photo
        self.__dict__.update(uses_regions=method.uses_regions, whole_image=method.whole_image)

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.method.name

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method."""
        return self.method.options

    def blocks_of(self, depth: int) -> int:
        """Return how many of the last blocks are handed over."""
        return self.method.blocks_of(depth)

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Let the method encode images by every member; see `Recalibration.encode`."""
        return _ensemble(clip).seen_by(self.method.encode, images, regions)

    def see_photos(self, clip: Tower, photos: Sequence[np.ndarray]) -> list[Any]:
        """Let the method look at photographs, once for all members; see `Recalibration.see_photos`."""
        return list(self.method.see_photos(clip, photos))

    def encode_photos(self, clip: Tower, images: Tensor, seen: Iterable[Any]) -> DenseFeatures:
        """Let the method encode images by every member; see `Recalibration.encode_photos`."""

        def see(tower: Tower, own: Tensor, regions: Tensor | None) -> DenseFeatures:
            return self.method.encode_photos(tower, own, seen)

        return _ensemble(clip).seen_by(see, images, None)

    @property
    def finishes(self) -> bool:
        """Whether the method changes answers."""
        return self.method.finishes

    def finish(self, dense: DenseFeatures, answer: Answer, shares: Callable[[], ClassShares]) -> Answer:
        """Let the method finish the answer by what the first member has seen."""
        first = _ensemble(dense.context.tower).towers[0]
        return self.method.finish(_seen(dense)[0].at(first), answer, shares)

    def check_tower(self, tower: TokenTower) -> None:
        """Let the method refuse a member."""
        self.method.check_tower(tower)

    def remarks(self, tower: TokenTower) -> tuple[str, ...]:
        """Return what the method says of each member."""
        return tuple(line for member in _ensemble(tower).towers for line in self.method.remarks(member))

    def overview(self, clip: Tower, images: Tensor) -> Overviews | None:
        """Return what the method sees of whole images by each member; see `Recalibration.overview`."""
        members = _ensemble(clip)
        found = [self.method.overview(tower, members.shown(tower, images, None)[0]) for tower in members.towers]
        return Overviews(found) if any(found) else None

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return the weighted sum (B, T, h, w) of the members' scores."""
        return self._summed(dense, words, self.method.patch_scores)

    @property
    def finer(self) -> int:
        """How many times as fine as the grid of the features scores are."""
        return self.method.finer

    def some_scores(self, dense: DenseFeatures, words: Words, queries: Tensor) -> Tensor:
        """Return the weighted sum (B, t, H, W) of the members' scores of some queries."""
        return self._summed(dense, words, lambda seen, own: self.method.some_scores(seen, own, queries))

    def _summed(self, dense: DenseFeatures, words: Words, ask: Callable[[DenseFeatures, Words], Tensor]) -> Tensor:
        clip = _ensemble(dense.context.tower)
        parts = zip(clip.towers, _known(dense), _words_of(clip, words), strict=True)
        return torch.stack([ask(seen.at(tower), own) * weight for tower, seen, (own, weight) in parts]).sum(0)

    def of_words(self, clip: TokenTower, words: Words) -> OfMembers:
        """Return what the method finds out from the words in the space of each member."""
        members = _ensemble(clip)
        own = zip(members.towers, _words_of(members, words), strict=True)
        return OfMembers(tuple(self.method.of_words(tower, part) for tower, (part, _) in own))

    def region_maps(self, dense: DenseFeatures, words: Words) -> list[Tensor]:
        """Return the soft maps of the first member."""
        clip = _ensemble(dense.context.tower)
        own, _ = _words_of(clip, words)[0]
        return self.method.region_maps(_seen(dense)[0].at(clip.towers[0]), own)


def _seen(dense: DenseFeatures) -> list[DenseFeatures]:
    return dense.context.kept(Seen).members


def _known(dense: DenseFeatures) -> list[DenseFeatures]:
    """Return what each member has seen, with what its windows are to know of the whole image."""
    seen = _seen(dense)
    whole = dense.context.kept(Overviews, Overviews([None] * len(seen))).members
    return [one if known is None else one.keeping(known) for one, known in zip(seen, whole, strict=True)]


def _ensemble(clip: Any) -> Ensemble:
    if not isinstance(clip, Ensemble):
        raise TypeError(f"expected an Ensemble, got {type(clip).__name__}")
    return clip


def _words_of(clip: Ensemble, words: Words) -> list[tuple[Words, float]]:
    """Return the words in the space of each member, and its weight in them; see `Ensemble.weigh`."""
    rows, weights = clip.words_of(words.embeddings)
    found = words.found.members if isinstance(words.found, OfMembers) else (None,) * len(rows)
    of_each = zip(rows, found, weights, strict=True)
    return [(replace(words, embeddings=own).knowing(known), weight) for own, known, weight in of_each]
