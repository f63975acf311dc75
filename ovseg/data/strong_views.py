"""What the student of PixelCLIP sees: other colours, and a hole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)


def other_colours(images: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of images (B, 3, h, w) in 0..1; a fifth of them becomes grey."""
    draw = 0.5 + torch.rand(3, len(images), 1, 1, 1, device=images.device)
    weights = images.new_tensor(_GREY).view(1, 3, 1, 1)
    found = (images * draw[0]).clamp(0, 1)
    mean = (found * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    found = (mean + draw[1] * (found - mean)).clamp(0, 1)
    grey = (found * weights).sum(1, keepdim=True)
    without = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.2
    saturation = torch.where(without, torch.zeros_like(draw[2]), draw[2])
    return (grey + saturation * (found - grey)).clamp(0, 1)


def cut_out(images: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Blank out a rectangle of each image (B, 3, h, w), 10 to 50 % a side, and of its masks (n, h, w) bool."""
    height, width = images.shape[2:]
    draw = torch.rand(4, len(images), device=images.device)
    high, wide = 0.1 + 0.4 * draw[0], 0.1 + 0.4 * draw[1]
    top, left = draw[2] * (1 - high), draw[3] * (1 - wide)
    rows = torch.arange(height, device=images.device) / height
    columns = torch.arange(width, device=images.device) / width
    down = (rows >= top[:, None]) & (rows < (top + high)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    whole = ~(down[:, :, None] & across[:, None])
    return images * whole[:, None], [own & seen for own, seen in zip(masks, whole, strict=True)]
