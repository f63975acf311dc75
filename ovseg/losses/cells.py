"""Cells of images as regions without names: drawn, cut out of the image, and pooled from dense features."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_cells(count: int, most: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cut each image into equal cells, and choose some (CLIPSelf, arXiv 2310.01403).

    Rows M are 1 to ``rows``, columns half to twice as many but no more than ``rows``, all pairs alike.

    Args:
        count: Of images.
        most: Of cells of an image.
        rows: The largest number of rows and columns.
        device: Of the result.

    Returns:
        Boxes (n, 4) as x0, y0, x1, y1 in 0..1, and the image (n,) int64 of each.
    """
    pairs = [(m, n) for m in range(1, rows + 1) for n in range((m + 1) // 2, min(2 * m, rows) + 1)]
    found, owners = [], []
    for index in range(count):
        high, wide = pairs[int(torch.randint(len(pairs), ()))]
        places = torch.randperm(high * wide)[:most]
        top, left = places // wide / high, places % wide / wide
        found.append(torch.stack([left, top, left + 1 / wide, top + 1 / high], dim=1))
        owners.append(torch.full((len(places),), index))
    return torch.cat(found).to(device), torch.cat(owners).to(device)


def crop_squares(images: Tensor, boxes: Tensor, owners: Tensor, side: int) -> Tensor:
    """Cut boxes out of images: the longer side is resized, and zeros stand on both sides of the shorter one.

    Args:
        images: (B, 3, h, w) in 0..1.
        boxes: (n, 4) as x0, y0, x1, y1 in 0..1.
        owners: Image (n,) of each.
        side: Of the crops in pixels.

    Returns:
        (n, 3, side, side)
    """
    from torchvision.ops import roi_align

    own = boxes * _lengths(images)
    centre, half = (own[:, :2] + own[:, 2:]) / 2, ((own[:, 2:] - own[:, :2]) / 2).amax(1, keepdim=True)
    rows = torch.cat([owners[:, None].to(own), centre - half, centre + half], dim=1)
    crops = roi_align(images, rows, (side, side), 1.0, 2, aligned=True)
    steps = (torch.arange(side, device=images.device) + 0.5) / side * 2 - 1
    share = (own[:, 2:] - own[:, :2]) / (2 * half)  # of the square, across and down
    across, down = (steps.abs() <= share[:, axis, None] for axis in (0, 1))
    return crops * (down[:, None, :, None] & across[:, None, None, :])


def pool_boxes(features: Tensor, boxes: Tensor, owners: Tensor) -> Tensor:
    """Return the mean (n, C) of features (B, C, h, w) in boxes (n, 4), 0..1, as RoIAlign (aligned, adaptive) has it."""
    from torchvision.ops import roi_align

    rows = torch.cat([owners[:, None].to(features), boxes * _lengths(features)], dim=1)
    return roi_align(features, rows, (1, 1), 1.0, -1, aligned=True)[..., 0, 0]


def _lengths(maps: Tensor) -> Tensor:
    height, width = maps.shape[2:]
    return maps.new_tensor([width, height, width, height])
