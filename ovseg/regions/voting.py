"""Labels that follow regions: each region takes the label that most of its pixels have, or that its mean score has."""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.ops.late_scores import Scores, all_of

_BAND = 64  # rows of pixels whose weights are summed at once


def vote(labels: Tensor, regions: Tensor) -> Tensor:
    """Give every region the label that most of its pixels have.

    Args:
        labels: (H, W) int32; negative ones (no class) vote too. Ties go to the smallest label, "no class" loses them.
        regions: (H, W) int64; pixels of negative ids keep their labels.

    Returns:
        New labels (H, W) int32.
    """
    inside = regions >= 0
    if not inside.any():
        return labels.clone()
    classes = int(labels.max()) + 2  # the last column is "no class"
    own = labels[inside].long()
    own = own.where(own >= 0, classes - 1)
    ids, places = regions[inside].unique(return_inverse=True)
    counts = torch.bincount(places * classes + own, minlength=len(ids) * classes).view(len(ids), classes)
    winners = counts.argmax(1)
    winners = winners.where(winners < classes - 1, -1)
    voted = labels.clone()
    voted[inside] = winners[places].to(labels.dtype)
    return voted


def mean_labels(
    scores: Scores, rows: Tensor, columns: Tensor, regions: Tensor, query_to_class: Tensor, labels: Tensor
) -> Tensor:
    """Give every region the class of the query with the best mean score over its pixels.

    The mean of an upsampled map is linear in the map: one weight per region and cell does it, and no map is upsampled.

    Args:
        scores: Patch scores (T, h, w), or what makes some of them.
        rows: Interpolation matrix (H, h).
        columns: Interpolation matrix (W, w).
        regions: (H, W) int64; pixels of negative ids keep their labels.
        query_to_class: (T,) class ids, -1 for none.
        labels: (H, W) int32.

    Returns:
        New labels (H, W) int32.
    """
    means = region_means(scores, rows, columns, regions)
    if not len(means):
        return labels.clone()
    winners = query_to_class.to(means.device)[means.argmax(1)].to(labels.dtype)
    return winners[regions.clamp(min=0)].where(regions >= 0, labels)


def region_means(scores: Scores, rows: Tensor, columns: Tensor, regions: Tensor) -> Tensor:
    """Return the mean upsampled scores (R, T) of the regions 0..R-1; NaN for ids without a pixel. See `mean_labels`."""
    rows, columns = rows.to(scores.device, torch.float32), columns.to(scores.device, torch.float32)
    count = int(regions.max()) + 1
    ids = regions.where(regions >= 0, count)  # one more row takes the pixels of no region
    weights = torch.zeros(count + 1, rows.shape[1], columns.shape[1], device=scores.device)
    for near, band in zip(rows.split(_BAND), ids.split(_BAND), strict=True):
        place = (count + 1) * torch.arange(len(band), device=ids.device)[:, None] + band
        sums = torch.zeros((count + 1) * len(band), columns.shape[1], device=scores.device)
        sums.index_add_(0, place.flatten(), columns.repeat(len(band), 1))
        weights += torch.einsum("yi,yrj->rij", near, sums.unflatten(0, (len(band), count + 1)))
    areas = ids.flatten().bincount(minlength=count + 1)
    sums = torch.cat([torch.einsum("rhw,thw->rt", weights, part.float()) for part in all_of(scores)], dim=1)
    return (sums / areas[:, None])[:count]
