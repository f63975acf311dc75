"""Keep tuned rows near those of a frozen model, by way of a branch that lets them move (FROSTER).

Huang et al., FROSTER: Frozen CLIP is a Strong Teacher for Open-Vocabulary Action Recognition, ICLR 2024,
arXiv 2402.03241; github.com/Visual-AI/FROSTER (CC BY-NC-SA; read for facts, the code here is ours).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import at_least

SHARE = 0.1
RATIO = 2.0
"""Of the paper: the share of the branch, and the weight of the distillation beside the loss of the task."""


class ResidualBranch(nn.Sequential):
    """``x + share * P(x)``, where P is a linear layer, GELU and a linear layer that starts at zero; neither has a bias.

    So a new branch gives its input. It belongs to the distillation alone: classes are found by rows without it.
    """

    def __init__(self, dim: int, share: float = SHARE) -> None:
        """Build it for rows of a length; the second layer starts at zero, the first as Kaiming et al. have it.

        Raises:
            ConfigError: The length is not positive.
        """
        at_least("dim", dim, 1)
        first, last = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        super().__init__(first, nn.GELU(), last)
        self.share = share
        nn.init.kaiming_normal_(first.weight)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return rows (..., D) with their branch, not of unit length."""
        return x + self.share * super().forward(x)


def residual_distance(rows: Tensor, frozen: Tensor, branch: nn.Module) -> Tensor:
    """Return how far rows with their branch are from frozen ones: the mean of ``1 - cosine``, ().

    Args:
        rows: Unit rows (N, D) of what is tuned.
        frozen: The same of the frozen model.
        branch: A `ResidualBranch`.
    """
    return (1 - F.cosine_similarity(branch(rows), frozen, dim=-1)).mean()


class ResidualDistillation(nn.Module):
    """The distances of images and of texts, each with a branch of its own."""

    def __init__(self, dim: int, *, share: float = SHARE, ratio: float = RATIO) -> None:
        """Build both branches.

        Args:
            dim: Length of rows.
            share: Of the branches.
            ratio: Weight of the sum.

        Raises:
            ConfigError: A number is out of range.
        """
        super().__init__()
        self.images, self.texts = ResidualBranch(dim, share), ResidualBranch(dim, share)
        self.ratio = float(at_least("ratio", ratio, 0))

    def forward(
        self, images: Tensor, frozen_images: Tensor, texts: Tensor | None = None, frozen_texts: Tensor | None = None
    ) -> Tensor:
        """Return the weighted sum, (); texts (C, D) are left out where the text tower is not tuned."""
        found = residual_distance(images, frozen_images, self.images)
        if texts is not None and frozen_texts is not None:
            found = found + residual_distance(texts, frozen_texts, self.texts)
        return torch.as_tensor(self.ratio) * found
