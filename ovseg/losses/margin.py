"""Classification against texts with a margin that is the wider the less two texts are alike (CLIPood).

Shu et al., CLIPood: Generalizing CLIP to Out-of-Distributions, ICML 2023, arXiv 2302.00864; github.com/thuml/CLIPood.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MARGIN = 0.3
"""Of the paper."""


def margin_logits(features: Tensor, texts: Tensor, labels: Tensor, scale: float | Tensor, margin: float) -> Tensor:
    """Return logits ``scale * (f - margin * t_y) . t_j``, which ask for a lead of ``margin * (1 - t_y . t_j)``.

    What has the right class loses the whole margin, another class as much of it as its text is like the right one. The
    row is not scaled to unit length again.

    Args:
        features: Unit rows (N, D).
        texts: Unit rows (C, D), one a class.
        labels: (N,) int64, the class of each row.
        scale: CLIP's logit scale, 100 in the released models.
        margin: 0 is the usual softmax.

    Returns:
        (N, C).
    """
    return scale * (features - margin * texts[labels]) @ texts.mT


def margin_loss(
    features: Tensor, texts: Tensor, labels: Tensor, scale: float | Tensor = 100.0, margin: float = MARGIN
) -> Tensor:
    """Return the mean cross entropy of `margin_logits`, ()."""
    return F.cross_entropy(margin_logits(features, texts, labels, scale, margin), labels)
