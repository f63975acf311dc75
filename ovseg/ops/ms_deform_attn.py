"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Gather values at a few places of every level and add them up by weight.

    Values are sampled bilinearly; pixel centres lie at (i + 0.5) / n, and outside of a level there is zero.

    Args:
        value: (B, N, heads, d), the levels one behind the other, each row by row; N is the sum of their h * w.
        shapes: Rows and columns (h, w) of each level.
        locations: (B, M, heads, levels, points, 2) as (x, y), where 0..1 spans a level.
        weights: (B, M, heads, levels, points).

    Returns:
        (B, M, heads * d), head by head, in the dtype of the values.
    """
    batch, _, heads, dim = value.shape
    count, points = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).to(value.dtype).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (levels, B*heads, M, P, 2)
    shares = weights.to(value.dtype).permute(3, 0, 2, 1, 4).reshape(-1, batch * heads, 1, count, points)
    total = value.new_zeros(batch * heads, dim, count)
    for level, own in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        maps = own.permute(0, 2, 3, 1).reshape(batch * heads, dim, *shapes[level])
        found = F.grid_sample(maps, grids[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (found * shares[level]).sum(-1)
    return total.view(batch, heads * dim, count).mT.contiguous()


def pixel_centres(shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """Return the centres (N, 2) of all pixels of all levels as (x, y) in 0..1, float32, in the order of the values."""
    found = []
    for height, width in shapes:
        rows = (torch.arange(height, device=device) + 0.5) / height
        columns = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        found.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(found)
