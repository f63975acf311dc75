"""How a projection is taught: captions find their images among others, by what the best of DINO's heads has seen.

Barsellotti et al., Talk2DINO, ICCV 2025; github.com/lorebianchi98/Talk2DINO, src/model.py and src/loss.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import one_of

SCALE = 1 / 0.07
"""Of the cosines; the original declares it trainable and never trains it."""


def best_heads(texts: Tensor, heads: Tensor) -> Tensor:
    """Return which head (B,) int64 of each image fits its own text best; of unit texts (B, D) and heads (B, H, D)."""
    return torch.einsum("bd,bhd->bh", texts, heads).argmax(1)


def max_score(texts: Tensor, heads: Tensor) -> Tensor:
    """Compare texts with one head of each image, the best for its own text: (B, B), rows are texts."""
    chosen = best_heads(texts, heads)
    return texts @ heads[torch.arange(len(heads), device=heads.device), chosen].mT


def weighted_avg(texts: Tensor, heads: Tensor) -> Tensor:
    """Compare texts with the mean of heads, weighted by how well they fit the own text: (B, B), rows are texts."""
    shares = torch.einsum("bd,bhd->bh", texts, heads).softmax(-1)
    return texts @ (shares[..., None] * heads).mean(1).mT


def mean(texts: Tensor, heads: Tensor) -> Tensor:
    """Compare images with texts by the mean over heads: (B, B), rows are images."""
    return torch.einsum("ihd,td->iht", heads, texts).mean(1)


def total(texts: Tensor, heads: Tensor) -> Tensor:
    """As `mean`, by the sum."""
    return torch.einsum("ihd,td->iht", heads, texts).sum(1)


def max_row_sum(texts: Tensor, heads: Tensor) -> Tensor:
    """As `mean`, by the best head for each pair."""
    return torch.einsum("ihd,td->iht", heads, texts).amax(1)


ALIGNMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max_score": max_score,
    "weighted_avg": weighted_avg,
    "mean": mean,
    "sum": total,
    "max-row_sum": max_row_sum,
}
"""By the names of the original; released heads are taught by the first."""


def scores(projected: Tensor, heads: Tensor, alignment: str = "max_score") -> Tensor:
    """Compare projected captions (B, D) with the heads (B, H, D) of their images; neither of unit length: (B, B).

    Raises:
        ConfigError: There is no such alignment.
    """
    return ALIGNMENTS[one_of("alignment", alignment, tuple(ALIGNMENTS))](
        F.normalize(projected, dim=-1), F.normalize(heads, dim=-1)
    )


def contrast(cosines: Tensor) -> Tensor:
    """Return the loss of cosines (B, B) of texts and images, whose diagonal belongs together.

    Both directions of cross entropy, over 2 B^2: the original divides a mean by the number of pairs once more, which
    Adam does not feel.
    """
    own = torch.arange(len(cosines), device=cosines.device)
    both = F.cross_entropy(SCALE * cosines, own) + F.cross_entropy(SCALE * cosines.mT, own)
    return both / 2 / len(cosines) ** 2


def train_step(
    projection: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    texts: Tensor,
    heads: Tensor,
    alignment: str = "max_score",
) -> Tensor:
    """Take one step with captions (B, C) and the heads (B, H, D) of their images; returns the loss before it, ()."""
    loss = contrast(scores(projection(texts), heads, alignment))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
