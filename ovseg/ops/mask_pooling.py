"""Pooling of feature maps over masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_masks(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize mask logits (B, Q, H, W) bilinearly to (B, Q, h, w), pixel centres at (i + 0.5) / n; float32."""
    if tuple(mask_logits.shape[-2:]) == tuple(size):
        return mask_logits.float()
    return F.interpolate(mask_logits.float(), size, mode="bilinear", align_corners=False)


def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Average features over the pixels whose mask logit is positive; no gradient reaches the masks.

    Args:
        features: (B, C, h, w).
        mask_logits: (B, Q, H, W); resized bilinearly to the features.

    Returns:
        (B, Q, C) in the dtype of the features; zeros for a mask without a positive pixel.
    """
    inside = resize_masks(mask_logits.detach(), (features.shape[2], features.shape[3])).flatten(2) > 0
    # The originals divide by count + 1e-8, which is the same number in single precision and 0 / 0 in half.
    share = inside / inside.sum(-1, keepdim=True).clamp(min=1)
    return torch.einsum("bqn,bcn->bqc", share.to(features.dtype), features.flatten(2))
