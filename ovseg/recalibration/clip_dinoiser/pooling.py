"""Pooling of features over the patches that a guide correlates."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import DenseFeatures
from ovseg.guides.base import unit_patches


def correlations(vectors: Tensor) -> Tensor:
    """Return the cosines (B, h * w, h * w) in float32 of all pairs of patches of vectors (B, C, h, w)."""
    unit = unit_patches(vectors)
    return unit @ unit.mT


def correlation_pool(dense: DenseFeatures, vectors: Tensor, gamma: float | None) -> DenseFeatures:
    """Replace every patch by the mean of all, weighted by their correlations with it.

    Args:
        dense: Features (B, D, a, b); resized (bilinear) if they are on another grid than the vectors.
        vectors: (B, C, h, w) whose cosines are the correlations.
        gamma: Smaller correlations do not count; None keeps all, negative ones too.

    Returns:
        The same with pooled features (B, D, h, w), in the dtype they had.
    """
    grid, features = (vectors.shape[2], vectors.shape[3]), dense.features
    if grid != dense.grid:
        features = F.interpolate(features, grid, mode="bilinear", align_corners=False)
    weights = correlations(vectors)
    if gamma is not None:
        weights = weights.masked_fill(weights < gamma, 0)
    pooled = weights @ features.float().flatten(2).mT / (weights.sum(-1, keepdim=True) + 1e-6)
    return replace(dense, features=pooled.mT.unflatten(-1, grid).to(features.dtype), grid=grid)
