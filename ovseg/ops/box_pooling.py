"""Means of dense features inside boxes and masks, as CLIPSelf takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_boxes(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Pool features inside boxes by RoIAlign of one cell, with as many samples as a box needs.

    Args:
        features: (B, D, h, w).
        boxes: For each image (n, 4) x0, y0, x1, y1 in shares 0..1 of its width and height.

    Returns:
        (sum n, D), image by image.
    """
    from torchvision.ops import roi_align

    high, wide = features.shape[2:]
    scale = torch.tensor([wide, high, wide, high], dtype=features.dtype, device=features.device)
    own = [part.to(features) * scale for part in boxes]
    return roi_align(features, own, (1, 1), spatial_scale=1.0, sampling_ratio=-1, aligned=True).flatten(1)


def pool_masks(features: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Return the unit mean of features (B, D, h, w) inside the masks (n, h, w) of each image: (sum n, D)."""
    found = []
    for feature, own in zip(features, masks, strict=True):
        weights = own.to(feature).flatten(1)
        found.append(weights @ feature.flatten(1).mT / (weights.sum(1, keepdim=True) + 1e-12))
    return F.normalize(torch.cat(found), dim=-1)
