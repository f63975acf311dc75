"""Cost maps: how near every place of an image is to every class, and which classes are worth a second look."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cost_maps(features: Tensor, texts: Tensor) -> Tensor:
    """Return the cosines (T, P, h, w) of dense features (D, h, w) and texts (T, P, D), both of any length."""
    places = F.normalize(features, dim=0).flatten(1)
    rows = texts.to(places)
    lengths = rows.norm(dim=-1).clamp_min(1e-12)  # their products are divided, so that no texts are copied
    cost = (rows.flatten(0, 1) @ places).view(*rows.shape[:2], -1) / lengths[..., None]
    return cost.unflatten(2, features.shape[1:])


@torch.no_grad()
def nearness(features: Tensor, texts: Tensor) -> Tensor:
    """Return the largest cosine (T,) of texts (T, P, D) anywhere in dense features (D, h, w)."""
    return cost_maps(features, texts).amax((1, 2, 3))


def nearest_classes(cost: Tensor, count: int) -> Tensor | None:
    """Return the indices (count,) of the classes whose best cosine in cost maps (T, P, h, w) is largest, in order.

    None where there are no more than so many; ``count`` 0 is no bound.
    """
    if not 0 < count < len(cost):
        return None
    return cost.detach().amax((1, 2, 3)).topk(count).indices.sort().values
