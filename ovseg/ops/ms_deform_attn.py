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
        locations: (B, M, heads, levels, points, 2) as (x, y), where 0..1 spans a level; single precision even where
            the values are half, which would be off by a share of a pixel.
        weights: (B, M, heads, levels, points).

    Returns:
        (B, M, heads * d), head by head, in the dtype of the values.
    """
    sample = sample_bags if value.device.type == "cpu" else sample_grids
    return sample(value, shapes, locations, weights)


def sample_grids(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample map by map with `grid_sample`; arguments as `ms_deform_attn`."""
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


def sample_bags(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Sample as one weighted sum of rows for each query and head; arguments as `ms_deform_attn`.

    The CPU adds up whole rows several times faster than it interpolates map by map. A frame of zeros around every level
    stands for what lies outside of it.
    """
    batch, _, heads, dim = value.shape
    device, levels = value.device, zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    framed = [F.pad(own.flatten(2).unflatten(1, shape), (0, 0, 1, 1, 1, 1)).flatten(1, 2) for own, shape in levels]
    table = torch.cat(framed, 1)
    starts = torch.tensor([0, *(part.shape[1] for part in framed)], device=device).cumsum(0)[:-1, None]
    sizes = torch.tensor([(w, h) for h, w in shapes], device=device)[:, None]  # of each level, without the frame
    places = (locations * sizes + 0.5).clamp(min=0).minimum(sizes + 1.0)  # in pixels of the framed level
    corner = places.detach().floor().minimum(sizes)
    x, y = (places - corner).unbind(-1)
    left, top = corner.long().unbind(-1)
    wide = sizes[..., 0] + 2
    image, head = torch.arange(batch, device=device), torch.arange(heads, device=device)
    first = top * wide + left + starts + image.view(-1, 1, 1, 1, 1) * table.shape[1]
    below, right = wide * heads, torch.full_like(wide, heads)  # one step in the table, whose rows are pixel by head
    steps = torch.stack([torch.zeros_like(wide), right, below, below + right], -1)
    rows = (first * heads + head.view(-1, 1, 1))[..., None] + steps
    lower = weights * y
    upper = weights - lower
    lower_right, upper_right = lower * x, upper * x
    shares = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], -1)
    found = F.embedding_bag(
        rows.flatten(3).flatten(0, 2),
        table.view(-1, dim),
        per_sample_weights=shares.flatten(3).flatten(0, 2).to(value.dtype),
        mode="sum",
    )
    return found.view(batch, -1, heads * dim)


def pixel_centres(shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """Return the centres (N, 2) of all pixels of all levels as (x, y) in 0..1, float32, in the order of the values."""
    found = []
    for height, width in shapes:
        rows = (torch.arange(height, device=device) + 0.5) / height
        columns = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        found.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(found)
