"""Attention that a first labelling feeds back, as in ResCLIP (github.com/yvhangyang/ResCLIP).

Patches of one label attend to each other, less so where the straight line between them crosses another label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.features import Context
from ovseg.labelling.scores import ScoreRule, segment_map
from ovseg.ops.bilinear import bilinear_matrix


def label_feedback(scores: Tensor, context: Context, rule: ScoreRule, std: float, lines: bool) -> Tensor:
    """Return the bias of attention (B, 1, N, N) by labels of patch scores (B, T, h, w): peak 1.

    Tokens that are no patches take no part. Other arguments as in `patch_labels` and `label_attention`.
    """
    labels = patch_labels(scores, context.images, context.tower.patch_size, rule)
    weights = label_attention(labels, std, lines)
    return context.tower.with_leading(weights / weights.amax((1, 2), keepdim=True))[:, None]


def patch_labels(scores: Tensor, images: Tensor, patch: int, rule: ScoreRule) -> Tensor:
    """Label every patch by the query that most of its pixels have.

    Args:
        scores: Patch scores (B, T, h, w).
        images: (B, 3, H, W) normalised, by which the rule refines.
        patch: Side of a patch in pixels; ``h = H // patch``.
        rule: How the scores of pixels become labels.

    Returns:
        (B, h, w) int64: indices of queries. Ties go to the smallest.
    """
    height, width = scores.shape[2:]
    rows, columns = (bilinear_matrix(*pair).float() for pair in zip(scores.shape[2:], images.shape[2:], strict=True))
    ids = torch.arange(scores.shape[1])
    pixels = torch.stack(
        [
            segment_map(one, rows, columns, ids, rule, image.float())[0]
            for one, image in zip(scores, images, strict=True)
        ]
    )
    cells = pixels[:, : height * patch, : width * patch].unflatten(2, (width, patch)).unflatten(1, (height, patch))
    return cells.transpose(2, 3).flatten(3).mode().values.long()


def label_attention(labels: Tensor, std: float, lines: bool = True) -> Tensor:
    """Return how much patches of one label attend to each other.

    Args:
        labels: (B, h, w) int64.
        std: Of the Gaussian along the order of the patches by which rows are smoothed, in patches.
        lines: Whether pairs whose connecting line crosses another label are weakened by their distance.

    Returns:
        (B, h * w, h * w) float32; rows sum to 1.
    """
    flat = labels.flatten(1)
    weights = (flat[:, :, None] == flat[:, None]).float()
    if lines:
        weights = weights * _line_factors(labels)
    size = min(flat.shape[1], int(6 * std + 1)) // 2 * 2 + 1
    places = torch.arange(size, device=labels.device) - size // 2
    kernel = (-(places**2) / (2 * std**2)).exp()
    rows = F.conv1d(weights.flatten(0, 1)[:, None], (kernel / kernel.sum())[None, None], padding=size // 2)
    return F.normalize(rows[:, 0].view_as(weights), p=1.0, dim=-1, eps=1e-8)


def _line_factors(labels: Tensor) -> Tensor:
    """Return the factor (B, N, N) of each pair: 1, or less where the line from the first meets another label.

    As in the original all lines are sampled at steps of the longest, but only as many samples are looked at as the pair
    is apart, so that short lines are checked near their first patch alone.
    """
    height, width = labels.shape[1:]
    longest = max(height, width, 2) - 1
    flat, crossed = labels.flatten(1), torch.zeros((), dtype=torch.bool, device=labels.device)
    rows, columns = (torch.arange(side, device=labels.device, dtype=torch.float32) for side in (height, width))
    down, right = rows - rows[:, None], columns - columns[:, None]
    distance = torch.maximum(down.abs()[:, None, :, None], right.abs()[None, :, None]).flatten(2).flatten(0, 1)
    for step, share in enumerate(torch.linspace(0, 1, longest + 1).tolist()):
        row, column = (rows[:, None] + share * down).round(), (columns[:, None] + share * right).round()
        met = (row[:, None, :, None] * width + column[None, :, None]).long().flatten(2).flatten(0, 1)
        crossed = crossed | ((flat[:, met] != flat[:, :, None]) & (distance >= step))
    return torch.where(crossed, (-distance / longest).exp(), 1.0)
