"""How alike SAM takes the cells of an image to be: its last attention, where its values agree, too."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST, _INSTEAD = 0.9, 0.6


def correlation(weights: Iterable[Tensor], values: Tensor, factor: float, keep_negative: bool) -> Tensor:
    """Return by what each cell is mixed (Shi et al., Trident, ICCV 2025; github.com/YuHengsss/Trident).

    Args:
        weights: Attention (M, M) of each head, one after the other.
        values: Of the heads (heads, M, d).
        factor: Pairs count in a head whose values have a larger cosine than so many times the mean of their row over
            all heads, at most 0.9.
        keep_negative: Whether bounds below 0 stay, or become 0.6.

    Returns:
        (M, M) float32; rows sum to 1.
    """
    unit = F.normalize(values.float(), dim=-1)
    bound = row_bounds(unit, factor)
    bound = (bound if keep_negative else bound.masked_fill(bound < 0, _INSTEAD)).clamp(max=_MOST)
    total = torch.zeros(unit.shape[1], unit.shape[1], device=unit.device)
    for own, vectors in zip(weights, unit, strict=True):
        total += own.float() * (vectors @ vectors.mT > bound[:, None])
    return total / total.sum(-1, keepdim=True)


def row_bounds(unit: Tensor, factor: float) -> Tensor:
    """Return the bound (M,) of each row of unit values (heads, M, d), before it is cut."""
    return factor * (unit @ unit.mean(1)[..., None])[..., 0].mean(0)
