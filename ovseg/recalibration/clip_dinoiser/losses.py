"""The losses of CLIP-DINOiser's heads (Wysoczanska et al., ECCV 2024; github.com/wysoczanska/clip_dinoiser)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def correlation_loss(predicted: Tensor, teacher: Tensor, gamma: float = 0.2) -> Tensor:
    """Teach which patches belong together: binary cross entropy on every pair.

    As in the original the cosine itself is the logit, and negative ones count as 0 without a gradient.

    Args:
        predicted: Cosines (B, N, N) in -1..1 of the vectors that the head gives.
        teacher: Cosines (B, N, N) of the teacher's features; pairs of at least gamma belong together.
        gamma: Threshold in 0..1; at 0 a cosine of 0 does not count.

    Returns:
        The mean, a scalar.
    """
    target = (teacher >= gamma) & (teacher > 0)
    return F.binary_cross_entropy_with_logits(predicted.clamp(min=0), target.to(predicted.dtype))


def objectness_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Teach where objects are: the mean binary cross entropy of logits and a teacher's verdict, a scalar.

    Args:
        logits: (B, 1, h, w).
        teacher: Probability (B, 1, h, w) in 0..1 of showing an object; above one half it counts as one.
    """
    return F.binary_cross_entropy_with_logits(logits, (teacher > 0.5).to(logits.dtype))
