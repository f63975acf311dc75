"""From what phrases find to their scores at a pixel: the semantic map, the masks of queries, and how sure all is."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError, one_of

SEGEARTH, CONCEPTBANK, ARGMAX = "segearth", "conceptbank", "argmax"
FUSIONS = (SEGEARTH, CONCEPTBANK, ARGMAX)


@dataclass(frozen=True, eq=False)
class PhraseMaps:
    """What some phrases (k) find in an image or window; only queries (n) that count have a mask.

    Attributes:
        presence: (k,) probability of the phrase being there.
        semantic: Logits (k, h, w).
        masks: Logits (n, h, w), those of a phrase one after another.
        strength: (n,) how sure each of them is, 0..1.
        owner: (n,) int64, the phrase of each.
    """

    presence: Tensor
    semantic: Tensor
    masks: Tensor
    strength: Tensor
    owner: Tensor


@dataclass(frozen=True)
class Fusion:
    """How the parts of an answer become the score of a phrase at a pixel.

    P is the presence, S the semantic map, c the class probability of a query and M its mask, all in 0..1.

    - ``segearth`` (SegEarth-OV3, arXiv 2512.08730): ``P max(S, max_q s M)`` with ``s = c P``, so that presence counts
      twice in masks and once in the semantic map;
    - ``conceptbank`` (ConceptBank, arXiv 2602.06333): ``max(P S, max_q s M)``;
    - ``argmax``: ``P S``, of probabilities that are resized as those of transformers are.

    Attributes:
        fusion: Of `FUSIONS`.
        confidence: Queries count that are surer (``s``) than this.
        top_k: So many queries of each phrase may count, the first by ``c``; 0 is all. ConceptBank has 30.
        semantic: Whether the semantic map counts.
        instance: Whether masks count; never in ``argmax``.
        presence: Whether presence counts beyond the ``s`` of ``segearth``; in ``conceptbank`` whether ``s`` has it.
    """

    _: KW_ONLY
    fusion: str = SEGEARTH
    confidence: float = 0.3
    top_k: int = 0
    semantic: bool = True
    instance: bool = True
    presence: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed, or nothing is left that could count.
        """
        one_of("fusion", self.fusion, FUSIONS)
        if not 0 <= self.confidence <= 1 or self.top_k < 0:
            raise ConfigError(
                f"confidence is {self.confidence} and top_k {self.top_k}; expected a share in 0..1 and a number from 0"
            )
        if not self.semantic and (not self.instance or self.fusion == ARGMAX):
            raise ConfigError(
                f"semantic is off, and fusion {self.fusion} has nothing else to go by; set one of them on"
            )

    @property
    def uses_masks(self) -> bool:
        """Whether scores are made of masks."""
        return self.instance and self.fusion != ARGMAX

    @property
    def sigmoid_first(self) -> bool:
        """Whether maps become probabilities before they are resized."""
        return self.fusion == ARGMAX

    def strengths(self, presence: Tensor, scores: Tensor) -> Tensor:
        """Return how sure queries are (k, Q), zero for those that do not count.

        Args:
            presence: Probabilities (k,).
            scores: Class logits (k, Q).
        """
        given = scores.sigmoid()
        inside = self.presence or self.fusion != CONCEPTBANK
        sure = given * presence[:, None] if inside else given
        counts = sure > self.confidence
        if 0 < self.top_k < given.shape[1]:
            first = torch.zeros_like(counts).scatter_(1, given.topk(self.top_k, 1).indices, True)
            counts &= first
        return sure.where(counts, 0)

    def mix(self, presence: Tensor, semantic: Tensor, masks: Tensor) -> Tensor:
        """Return scores (k, p) of pixels.

        It never falls where an input grows, so of the largest inputs it gives a bound.

        Args:
            presence: (k,).
            semantic: Probabilities (k, p).
            masks: The largest (k, p) of how sure a query is times its mask; zero where there is none.
        """
        sure = presence[:, None]
        semantic = semantic if self.semantic else torch.zeros_like(semantic)
        if self.fusion == CONCEPTBANK:
            return torch.maximum(semantic * sure, masks)
        best = semantic if self.fusion == ARGMAX else torch.maximum(semantic, masks)
        return best * sure if self.presence else best
