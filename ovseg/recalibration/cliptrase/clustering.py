"""Regions from a matrix of affinities between patches: density clusters of its rows, smoothed to soft maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

UPSAMPLING = 4  # factor by which cluster maps grow before the median


def soft_regions(affinity: Tensor, grid: tuple[int, int], eps: float, min_samples: int) -> Tensor:
    """Cluster the rows of an affinity and return how strongly every place belongs to each cluster.

    Args:
        affinity: (N, N) float32 between ``N = h * w`` patches; it need not be symmetric.
        grid: Their rows and columns ``(h, w)``.
        eps: See `dbscan`.
        min_samples: See `dbscan`.

    Returns:
        Soft maps (R, 4 * h, 4 * w); the argmax over the first axis is the region of a place. R is 0 where no patch has
        enough neighbours. Patches of no cluster are not left out: their place goes to whichever map is largest there.

    Source: CLIPtrase, github.com/leaves162/CLIPtrase.
    """
    maps = cluster_means(affinity, dbscan(affinity, eps, min_samples))
    return smooth(maps.unflatten(1, grid))


def dbscan(rows: Tensor, eps: float, min_samples: int) -> Tensor:
    """Cluster points by density (Ester et al., KDD 1996) under the Euclidean distance.

    Distances are computed in float64 on the CPU, so that all devices find the same clusters.

    Args:
        rows: Points (N, C).
        eps: Points no farther than this are neighbours; every point is its own.
        min_samples: A point with at least so many neighbours is a core point.

    Returns:
        Cluster (N,) int64 of every point on the device of the points, -1 for noise. Clusters are numbered by their
        first core point; a point on the border of several belongs to the first.
    """
    points = rows.detach().cpu().double()
    near = (torch.cdist(points, points) <= eps).fill_diagonal_(True)
    core = near.sum(1) >= min_samples
    labels = torch.full((len(points),), -1)
    cluster = 0
    for seed in core.nonzero().flatten().tolist():
        if labels[seed] >= 0:
            continue
        labels[_reached(seed, near, core) & (labels < 0)] = cluster
        cluster += 1
    return labels.to(rows.device)


def _reached(seed: int, near: Tensor, core: Tensor) -> Tensor:
    """Return the mask (N,) of what core points reach from one of them; points that are no core are reached, not left.

    The whole frontier steps at once and every row of neighbours (N, N) is read once.
    """
    reached = near[seed].clone()
    frontier = reached & core
    frontier[seed] = False
    while frontier.any():
        found = near[frontier].any(0) & ~reached
        reached |= found
        frontier = found & core
    return reached


def cluster_means(affinity: Tensor, labels: Tensor) -> Tensor:
    """Return the mean row (R, M) of every cluster 0..R-1, of rows (N, M) with labels (N,); -1 is no cluster."""
    clusters = torch.arange(int(labels.max()) + 1, device=labels.device)
    members = (labels == clusters[:, None]).to(affinity.dtype)
    return members @ affinity / members.sum(1, keepdim=True)


def smooth(maps: Tensor, factor: int = UPSAMPLING) -> Tensor:
    """Enlarge maps (R, h, w) bilinearly and replace every value by the median of its surroundings.

    Args:
        maps: Floating point; float32 at least.
        factor: The sides grow by it; the median is over ``2 * factor - 1`` pixels a side. Beyond an edge the maps go on
            in reverse, the edge itself repeated (d c b a | a b c d | d c b a).

    Returns:
        (R, factor * h, factor * w).
    """
    if not len(maps):
        return maps.new_zeros(0, factor * maps.shape[1], factor * maps.shape[2])
    large = F.interpolate(maps[None], scale_factor=factor, mode="bilinear", align_corners=False)[0]
    reach = factor - 1
    rows, columns = (_mirrored(side, reach).to(maps.device) for side in large.shape[1:])
    return torch.stack([_median(one[rows][:, columns], 2 * reach + 1) for one in large])


def _median(padded: Tensor, side: int) -> Tensor:
    """Return the medians over windows of an odd side of a padded map."""
    windows = padded.unfold(0, side, 1).unfold(1, side, 1).flatten(2)
    return windows.kthvalue(side * side // 2 + 1, dim=-1).values


def _mirrored(length: int, reach: int) -> Tensor:
    """Return the indices of an axis that goes on in reverse beyond its ends, which must be longer than the reach."""
    places = torch.arange(-reach, length + reach)
    return torch.where(places < 0, -1 - places, torch.where(places >= length, 2 * length - 1 - places, places))
