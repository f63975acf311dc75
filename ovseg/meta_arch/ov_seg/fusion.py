"""How OVSeg mixes the classifier of its proposals with the CLIP that looks at what is cut out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Which of both classifiers counts how much.

    Attributes:
        clip_weight: Exponent w of CLIP's probability, that of the other is 1 - w. As in the original, 0 is CLIP alone.
        clip_ensemble: Whether CLIP counts at all; without it nothing is cut out.
        best_only: The rule of the original demo: of each class the best mask alone, with hard edges.

    Raises:
        ConfigError: The weight is out of range.
    """

    clip_weight: float = 0.7
    clip_ensemble: bool = True
    best_only: bool = False

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.clip_weight <= 1:
            raise ConfigError(f"clip_weight is {self.clip_weight}; expected a number in 0..1 (0: CLIP alone)")

    def scores(self, trained: Tensor, own: Tensor, valid: Tensor) -> Tensor:
        """Mix two classifiers.

        Args:
            trained: Logits (Q, K + 1) of the one of the proposals, "no object" last.
            own: Logits (Q, K) of CLIP for what is cut out.
            valid: Bool (Q,), which masks have a pixel; CLIP says nothing of the others.

        Returns:
            Class scores (Q, K + 1) float32 that do not add up to 1; last the first classifier's "no object".
        """
        inside, void = trained.float().softmax(-1).split([trained.shape[-1] - 1, 1], -1)
        if not self.clip_ensemble:
            return torch.cat([inside, void], -1)
        outside = own.float().softmax(-1)
        if self.clip_weight == 0:
            found = outside * valid[:, None]
        else:
            seen = torch.where(valid[:, None], outside, 1.0)
            found = inside ** (1 - self.clip_weight) * seen**self.clip_weight
        return torch.cat([found, void], -1)

    def best(self, scores: Tensor, columns: Tensor | None = None) -> Tensor:
        """Keep of scores (Q, K + 1) the best mask of each class; of columns (K,) that are False no mask."""
        classes = scores[:, :-1]
        kept = torch.zeros_like(classes, dtype=torch.bool).scatter_(0, classes.argmax(0, keepdim=True), True)
        rows = (kept if columns is None else kept & columns).any(1)
        return scores * rows[:, None]
