"""Instances and panoptic segments: things from the masks of queries, stuff from the semantic maps of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from ovseg.contract import INSTANCES, PANOPTIC, Words
from ovseg.errors import ConfigError
from ovseg.labelling.mask_objects import Claims, Look, Pairs
from ovseg.labelling.mask_resize import MaskResize
from ovseg.meta_arch.sam3.fusion import PhraseMaps
from ovseg.result.objects import Panoptic


@dataclass(frozen=True)
class ObjectRule:
    """What is made of masks besides labels.

    Attributes:
        objects: As many masks of queries as are kept of an image, the surest first, and as many maps of stuff.
        object_threshold: Masks and maps compete for panoptic segments that are surer than this.
        overlap_threshold: Segments that keep less than this share of their own mask are dropped.
        same: Masks of one class that two of its names found are one object from this intersection over union on.
    """

    _: KW_ONLY
    objects: int = 200
    object_threshold: float = 0.5
    overlap_threshold: float = 0.8
    same: float = 0.5

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is out of range.
        """
        shares = (self.object_threshold, self.overlap_threshold, self.same)
        if self.objects < 1 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                f"objects is {self.objects}, thresholds of objects are {shares}; expected at least 1 and shares"
            )


class Objects:
    """The surest masks of an image so far.

    Attributes:
        rule: How they are made.
        masks: Logits (n, h, w).
        strength: (n,) how sure each is.
        rows: (n,) int64, the row of the words of each.
        stuff: Whether each (n,) is the whole map of a phrase.
    """

    def __init__(self, rule: ObjectRule, words: Words, grid: tuple[int, int], device: torch.device) -> None:
        """Begin without any."""
        self.rule, self.classes = rule, words.query_to_class.to(device)
        self.things = torch.tensor([entry.is_thing for entry in words.vocabulary], device=device)
        self.masks = torch.zeros(0, *grid, device=device)
        self.strength = torch.zeros(0, device=device)
        self.rows = torch.zeros(0, dtype=torch.long, device=device)
        self.stuff = torch.zeros(0, dtype=torch.bool, device=device)

    def add(self, rows: Tensor, maps: PhraseMaps) -> None:
        """Take over what the phrases of some rows (k,) find: the masks of things, and the maps of all others."""
        classes = self.classes[rows]
        thing = (classes >= 0) & self.things[classes.clamp(min=0)]
        own = thing[maps.owner].nonzero().flatten()
        self._keep(maps.masks[own], maps.strength[own], rows[maps.owner[own]], False)
        own = (~thing & (maps.presence > self.rule.object_threshold)).nonzero().flatten()
        self._keep(maps.semantic[own], maps.presence[own], rows[own], True)

    def _keep(self, masks: Tensor, strength: Tensor, rows: Tensor, stuff: bool) -> None:
        """Keep the surest of one kind, of equal ones the first."""
        if not len(masks):
            return
        kinds = torch.cat([self.stuff, torch.full((len(masks),), stuff, device=masks.device)])
        strengths = torch.cat([self.strength, strength])
        order = strengths.masked_fill(kinds != stuff, -1).argsort(descending=True, stable=True)
        others = (kinds != stuff).nonzero().flatten()
        kept = torch.cat([order[: len(kinds) - len(others)][: self.rule.objects], others])
        self.masks = torch.cat([self.masks, masks])[kept]
        self.strength, self.rows, self.stuff = strengths[kept], torch.cat([self.rows, rows])[kept], kinds[kept]

    def results(self, resize: MaskResize, want: frozenset[str]) -> dict[str, Any]:
        """Return what is wanted of panoptic segments and instances, as an answer has it.

        Args:
            resize: The way of masks to the photograph.
            want: See `ovseg.contract.WANTS`.
        """
        if not want & {PANOPTIC, INSTANCES}:
            return {}
        found: dict[str, Any] = {}
        order = self._distinct(self.strength.argsort(descending=True, stable=True))
        masks, strength, classes, stuff = (
            one[order] for one in (self.masks, self.strength, self.classes[self.rows], self.stuff)
        )
        if not len(order):  # the look needs a mask; one that is nowhere wins nothing
            masks = torch.full((1, *self.masks.shape[1:]), -torch.inf, device=masks.device)
            strength, classes, stuff = torch.full((1,), -1.0), torch.full((1,), -1), torch.ones(1, dtype=torch.bool)
            strength, classes, stuff = (one.to(masks.device) for one in (strength, classes, stuff))
        claims = Claims(strength.where(strength > self.rule.object_threshold, -1), classes)
        things = (~stuff).nonzero().flatten()
        look = Look(masks, resize, claims.shares if PANOPTIC in want else None, things if INSTANCES in want else None)
        if PANOPTIC in want:
            ids, segments = look.segments(claims, self.things, self.rule.overlap_threshold)
            found[PANOPTIC] = Panoptic(ids.cpu().numpy(), tuple(segments))
        if INSTANCES in want:
            found[INSTANCES] = look.objects(Pairs(strength[things], things, classes[things]), by_masks=False)
        return found

    def _distinct(self, order: Tensor) -> Tensor:
        """Leave out, of masks in an order, those that another name of the same class has found, too, and surer."""
        rows, classes = self.rows.tolist(), self.classes[self.rows].tolist()
        several = {
            own for own in set(classes) if len({row for row, its in zip(rows, classes, strict=True) if its == own}) > 1
        }
        kept: list[int] = []
        by_class: dict[int, list[int]] = {}
        for index in order.tolist():
            own, same = classes[index], by_class.setdefault(classes[index], [])
            if own in several and own >= 0 and not bool(self.stuff[index]):
                if self._is_known(index, [other for other in same if rows[other] != rows[index]]):
                    continue
                same.append(index)
            kept.append(index)
        return torch.tensor(kept, dtype=torch.long, device=order.device)

    def _is_known(self, index: int, others: Sequence[int]) -> bool:
        if not others:
            return False
        mine, theirs = self.masks[index] > 0, self.masks[list(others)] > 0
        shared = (mine & theirs).sum((1, 2)).float() / (mine | theirs).sum((1, 2)).clamp(min=1)
        return bool((shared >= self.rule.same).any())
