"""Masks without names, grouped on-line: an even assignment to clusters, and what a class of masks should look like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError


def sinkhorn(logits: Tensor, iterations: int = 3) -> Tensor:
    """Share clusters out evenly over masks (PixelCLIP, arXiv 2409.19846; the softmax stands before the iterations).

    Args:
        logits: (N, K), of each mask and each cluster.
        iterations: How often clusters, then masks, are brought to equal shares.

    Returns:
        (N, K) not negative; the rows sum to 1 where there is at least one iteration.

    Raises:
        ConfigError: The count of iterations is negative.
    """
    if iterations < 0:
        raise ConfigError(f"iterations is {iterations}; expected at least 0")
    shares = logits.float().softmax(-1).T
    clusters, masks = shares.shape
    total = shares.sum()
    shares = shares / total
    for _ in range(iterations):
        shares = shares / shares.sum(1, keepdim=True) / clusters
        shares = shares / shares.sum(0, keepdim=True) / total
    return (shares * total).T if masks else shares.T


def pool_masks(features: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of features (C, H, W) inside of each of masks (N, H, W), none of them empty: (N, C)."""
    inside = masks.flatten(1).to(features.dtype)
    return inside @ features.flatten(1).T / inside.sum(1, keepdim=True)


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring masks (N, H, W) to a size by nearest pixels, and drop those that keep one pixel or none: (n, h, w) bool."""
    small = F.interpolate(masks[:, None].float(), size, mode="nearest")[:, 0].bool()
    return small[small.flatten(1).sum(1) > 1]


def merged_targets(masks: Sequence[Tensor], chosen: Tensor, clusters: int) -> Tensor:
    """Return the union of the masks of each image that chose a cluster: (B, K, H, W) float32 of 0 and 1.

    Args:
        masks: For each image (n, H, W) bool; at least one image.
        chosen: Cluster (N,) of all masks of the batch, in order.
        clusters: How many there are, K.
    """
    own = chosen.split([len(one) for one in masks])
    found = []
    for one, clusters_of in zip(masks, own, strict=True):
        member = F.one_hot(clusters_of, clusters).float().T
        merged = member @ one.flatten(1).float()
        found.append(merged.clamp(max=1).unflatten(1, one.shape[1:]))
    return torch.stack(found)


def cluster_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross entropy () of maps (B, K, h, w) at pixels that any target (B, K, H, W) covers.

    The maps are resized bilinearly to the targets.
    """
    resized = F.interpolate(logits.float(), targets.shape[2:], mode="bilinear", align_corners=False)
    covered = targets.amax(1, keepdim=True)
    apart = F.binary_cross_entropy_with_logits(resized, targets, reduction="none") * covered
    return apart.sum() / (covered.sum() * targets.shape[1]).clamp_min(1)


def group_tokens(tokens: Tensor, groups: int, iterations: int = 10) -> Tensor:
    """Return the group (B, N) int64 of each of tokens (B, N, C): k-means of directions, started far apart.

    The first centre is the token farthest from the mean, each next one that farthest from those there are.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    batch = torch.arange(len(unit), device=unit.device)
    near = F.cosine_similarity(unit, unit.mean(1, keepdim=True), dim=-1)
    places = []
    for _ in range(min(groups, unit.shape[1])):
        places.append(near.argmin(1))
        own = (unit @ unit[batch, places[-1]][..., None])[..., 0]
        near = own if len(places) == 1 else torch.maximum(near, own)
    centres = torch.stack([unit[batch, place] for place in places], dim=1)
    for _ in range(iterations):
        member = F.one_hot((unit @ centres.mT).argmax(-1), centres.shape[1]).float()
        centres = F.normalize(member.mT @ unit + 1e-6 * centres, dim=-1)
    return (unit @ centres.mT).argmax(-1)
