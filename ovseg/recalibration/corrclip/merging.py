"""Region ids on coarser grids, and regions that look alike made one; for whole batches at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_ids(ids: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize region ids (B, H, W) to a grid (h, w) by the nearest pixel: (B, h, w) int64."""
    return F.interpolate(ids[:, None].float(), size=grid, mode="nearest")[:, 0].long()


def renumber(ids: Tensor) -> tuple[Tensor, int]:
    """Number the regions of each image from 0 on, in the order of their ids.

    Args:
        ids: (B, M) int64; negative ones are no region and become -1.

    Returns:
        New ids (B, M), and the number of regions of the image that has most.
    """
    known, places = ids.clamp(min=-1).unique(return_inverse=True)
    present = torch.zeros(len(ids), len(known), dtype=torch.bool, device=ids.device).scatter_(1, places, True)
    present &= known >= 0
    ranks = (present.long().cumsum(1) - 1).where(present, -1)
    return ranks.gather(1, places), int(present.sum(1).max())


def merge_regions(ids: Tensor, features: Tensor, distance: float) -> Tensor:
    """Make one of the regions that a chain of likeness joins.

    Two regions are neighbours in the chain if the cosine of their mean features is at most ``distance`` below the
    largest cosine of the image. The chains are what DBSCAN finds if single points count as clusters.

    Args:
        ids: Region ids (B, M) int64; negative ones are no region and stay so.
        features: Unit vectors (B, M, C) float32 of the same places.
        distance: From 0, which joins equal means only, to 2.

    Returns:
        New ids (B, M) int64, those of an image counted from 0; -1 for no region.
    """
    ids, count = renumber(ids)
    if count == 0:
        return ids
    members = F.one_hot(ids + 1, count + 1)[..., 1:].to(features.dtype)  # (B, M, R); no region: a row of zeros
    means = F.normalize(members.mT @ features, dim=-1)
    cosines = means @ means.mT
    real = members.any(1)
    real = real[:, :, None] & real[:, None]
    largest = cosines.masked_fill(~real, -torch.inf).amax((1, 2), keepdim=True)
    itself = torch.eye(count, dtype=torch.bool, device=ids.device)
    joined = ((largest - cosines <= distance) & real | itself).to(features.dtype)
    for _ in range(max(count - 1, 1).bit_length()):  # each squaring doubles the length of the chains
        joined = (joined @ joined).clamp(max=1)
    first = joined.argmax(2)  # the smallest region of the chain names it
    merged = first.gather(1, ids.clamp(min=0)).where(ids >= 0, -1)
    return renumber(merged)[0]
