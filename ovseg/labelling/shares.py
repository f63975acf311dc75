"""Probabilities of classes at the output size, one class at a time: for whoever looks at few of many."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.labelling.scores import ScoreRule, Stream
from ovseg.ops.late_scores import Scores


class ClassShares:
    """What `ovseg.labelling.scores.class_probabilities` has, without a map of every class at once.

    Attributes:
        classes: Ids of the classes, and -1 where words of no class compete.
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
        self._queries, self._softmax = query_to_class.to(patch_logits.device), rule.softmax
        self.classes: list[int] = sorted(set(query_to_class.tolist()))
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
        logits = self._stream.some((self._queries == index).nonzero().flatten()).amax(0)
        return logits if self._top is None or self._total is None else (logits - self._top).exp() / self._total
