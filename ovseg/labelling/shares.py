"""Probabilities of classes at the output size, one class at a time: for whoever looks at few of many."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.labelling.scores import ScoreRule, Stream, kept_queries
from ovseg.ops.late_scores import LateScores, Scores

_ROUNDING = 1e-3  # of bounds of probabilities


class ClassShares:
    """What `ovseg.labelling.scores.class_probabilities` has, without a map of every class at once.

    Attributes:
        classes: Ids of the classes that the rules of scores and areas leave, and -1 where words of no class compete.
    """

    def __init__(
        self,
        patch_logits: Scores,
        rows: Tensor,
        columns: Tensor,
        query_to_class: Tensor,
        rule: ScoreRule,
        image: Tensor | None = None,
    ) -> None:
        """Sum over all queries, a few maps at a time; arguments are those of `class_probabilities`."""
        self._stream = Stream(patch_logits, rows, columns, rule, image)
        self._queries = query_to_class.to(patch_logits.device)
        self._keep = kept_queries(self._stream, query_to_class)
        self.classes: list[int] = self._queries[self._keep].unique().tolist()
        self._top: Tensor | None = None
        self._total: Tensor | None = None
        for maps in self._stream.maps() if rule.softmax else ():
            self._add(maps)

    def _add(self, maps: Tensor) -> None:
        """Take maps (t, H, W) of some queries into the largest logit and the sum of the powers below it.

        As a softmax has it, and not by its logarithm: where a class is certain, the last bit says where it is most so.
        """
        top = maps.amax(0)
        if self._top is None or self._total is None:
            self._top, self._total = top, (maps - top).exp_().sum(0)
            return
        top = torch.maximum(top, self._top)
        self._total = self._total * (self._top - top).exp() + (maps - top).exp_().sum(0)
        self._top = top

    def of(self, index: int) -> Tensor:
        """Return the probability (H, W) of a class, or of the likeliest word of none (-1)."""
        own = (self._keep & (self._queries == index)).nonzero().flatten()
        if not len(own):
            return torch.zeros(self._stream.size, device=self._queries.device)
        logits = self._stream.some(own).amax(0)
        return logits if self._top is None or self._total is None else (logits - self._top).exp() / self._total

    def likely(self, least: float) -> list[int]:
        """Return the classes that may be so likely anywhere, with -1 like a class; the others are so nowhere.

        A pixel lies between some patches, and no logit of it exceeds the largest of theirs. So no map is made, where
        pixels depend on those patches alone.
        """
        stream = self._stream
        if least <= 0 or stream.needs_whole or isinstance(stream.logits, LateScores):
            return self.classes
        bounds = stream.logits.float() * stream.rule.logit_scale
        bounds = bounds.amax((1, 2)) if self._top is None else (bounds - self._sums_of_patches()).amax((1, 2)).exp()
        found = set(self._queries[self._keep & (bounds >= least * (1 - _ROUNDING))].tolist())
        return [index for index in self.classes if index in found]

    def _sums_of_patches(self) -> Tensor:
        """Return the least logarithm (h, w) of the sum over all queries among the pixels that hang on a patch."""
        if self._top is None or self._total is None:
            raise ValueError("expected a softmax")
        sums, (rows, columns) = self._top + self._total.log(), (self._stream.rows != 0, self._stream.columns != 0)
        across = torch.stack([_least(sums[:, own], 1) for own in columns.unbind(1)], 1)
        return torch.stack([_least(across[own], 0) for own in rows.unbind(1)])


def _least(values: Tensor, dim: int) -> Tensor:
    """Return the smallest values along an axis; infinity where there is none."""
    return values.amin(dim) if values.shape[dim] else values.sum(dim) + torch.inf
