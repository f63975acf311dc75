"""Sine position embeddings of images, as DETR and Mask2Former have them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position(size: tuple[int, int], channels: int, device: torch.device | None = None) -> Tensor:
    """Embed the places of a grid: half of the channels for the row, then half for the column.

    Places count from 1 to n and are scaled to 2 pi; sine and cosine alternate, with frequencies that fall to 1/10000.

    Args:
        size: Rows and columns (h, w).
        channels: A multiple of 4.
        device: Where to make them.

    Returns:
        (channels, h, w) float32, channels last in memory, as tokens are.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    frequencies = 10000 ** (2 * (steps // 2) / half)

    def axis(count: int) -> Tensor:
        places = torch.arange(1, count + 1, dtype=torch.float32, device=device) / (count + 1e-6) * (2 * math.pi)
        angles = places[:, None] / frequencies
        return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], -1).flatten(1)  # (count, half)

    height, width = size
    rows = axis(height)[:, None].expand(-1, width, -1)
    columns = axis(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).permute(2, 0, 1)
