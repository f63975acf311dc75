"""Cost maps: how near every place of an image is to every class, and which classes are worth a second look."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

FORGOTTEN = -100.0
"""The logit of a class that was left out, as CAT-Seg has it: its probability is zero but for rounding."""


def cost_maps(features: Tensor, texts: Tensor) -> Tensor:
    """Return the cosines (T, P, h, w) of dense features (D, h, w) and texts (T, P, D), both of any length."""
    places = F.normalize(features, dim=0).flatten(1)
    rows = F.normalize(texts.to(places), dim=-1)
    return (rows.flatten(0, 1) @ places).view(*texts.shape[:2], *features.shape[1:])


def nearest_classes(cost: Tensor, count: int) -> Tensor | None:
    """Return the indices (count,) of the classes whose best cosine in cost maps (T, P, h, w) is largest, in order.

    None where there are no more than so many; ``count`` 0 is no bound.
    """
    if not 0 < count < len(cost):
        return None
    return cost.detach().amax((1, 2, 3)).topk(count).indices.sort().values
