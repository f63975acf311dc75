"""Points at which mask losses are taken, in place of all pixels (PointRend, Kirillov et al., CVPR 2020).

Points are (x, y) in 0..1 of the whole map, so the same points serve logits and targets of different resolutions. A map
is read bilinearly, pixel centres at (i + 0.5) / n, with zeros outside (``grid_sample`` without aligned corners). Every
random draw comes from a `Draw`, so that recorded draws can take its place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Draw = Callable[[int, int, torch.device], Tensor]
"""``draw(sets, points, device)`` gives uniform points (sets, points, 2) float32 in 0..1."""


def uniform_points(sets: int, points: int, device: torch.device) -> Tensor:
    """Draw points (sets, points, 2) float32 uniformly from 0..1; the usual `Draw`."""
    return torch.rand(sets, points, 2, device=device)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps at points, with a gradient for the maps.

    Args:
        maps: (N, C, h, w) of any float dtype.
        points: (N, P, 2) in 0..1; all C maps of an entry are read at the same points.

    Returns:
        (N, C, P) float32.
    """
    grid = points.float()[:, :, None] * 2 - 1
    return F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)[..., 0]


def sample_masks(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Read targets at points, without a gradient and without a float copy of the masks, which are large.

    Args:
        masks: (T, H, W) of any dtype, such as bool.
        rows: Which mask (N,) each set of points reads.
        points: (N, P, 2) in 0..1, or (1, P, 2) where all read the same points.

    Returns:
        (N, P) float32.
    """
    height, width = masks.shape[1:]
    places = points.float() * points.new_tensor([width, height], dtype=torch.float32) - 0.5
    low = places.floor()
    share = places - low
    left, top = low.long().unbind(-1)
    found = torch.zeros(len(rows), points.shape[1], device=masks.device)
    for step_y in (0, 1):
        for step_x in (0, 1):
            x, y = left + step_x, top + step_y
            weight = (share[..., 0] if step_x else 1 - share[..., 0]) * (share[..., 1] if step_y else 1 - share[..., 1])
            weight = weight * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
            values = masks[rows[:, None], y.clamp(0, height - 1), x.clamp(0, width - 1)]
            found = found + weight * values
    return found


@torch.no_grad()
def uncertain_points(
    logits: Tensor, points: int, oversample: float = 3.0, importance: float = 0.75, draw: Draw = uniform_points
) -> Tensor:
    """Choose points, most of them where the mask is least certain.

    Args:
        logits: Mask logits (N, h, w).
        points: How many points each mask gets.
        oversample: How many candidates are drawn for each of them.
        importance: Share of the points that are the candidates with the smallest absolute logit; the rest is drawn
            anew, uniformly.
        draw: Gives the candidates first, then the rest.

    Returns:
        (N, points, 2) float32 in 0..1, the most uncertain first.
    """
    uncertain = int(importance * points)
    candidates = draw(len(logits), int(points * oversample), logits.device)
    certainty = sample_points(logits[:, None], candidates)[:, 0].abs()
    chosen = certainty.topk(uncertain, dim=1, largest=False).indices
    kept = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    if uncertain == points:
        return kept
    return torch.cat([kept, draw(len(logits), points - uncertain, logits.device)], dim=1)
