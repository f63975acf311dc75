"""Sums over the neighbours of every pixel with weights that every pixel has for itself, the same for all maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg.system.device import is_cpu

CPU_MAPS, CPU_ROWS = 8, 16  # of a strip that stays in the cache with its neighbours and weights
MAPS = 64  # at once on other devices


def maps_at_once(device: torch.device) -> int:
    """Return how many maps are to be summed at a time."""
    return CPU_MAPS if is_cpu(device) else MAPS


def add_up(padded: Tensor, weights: Tensor, offsets: Sequence[tuple[int, int]], target: Tensor) -> None:
    """Write the weighted sum of the neighbours of every pixel to ``target`` (B, C, H, W); no gradients flow.

    Args:
        padded: The maps (B, C, H + 2 m, W + 2 m) with a border that holds all neighbours.
        weights: (B, len(offsets), H, W).
        offsets: Rows and columns from a pixel to its neighbours.
        target: Is overwritten.
    """
    height, width = target.shape[2:]
    margin = (padded.shape[3] - width) // 2
    rows = CPU_ROWS if is_cpu(target.device) else height
    for start in range(0, height, rows):
        strip = target[:, :, start : start + rows]
        for index, (dy, dx) in enumerate(offsets):
            top, left = margin + start + dy, margin + dx
            seen = padded[:, :, top : top + strip.shape[2], left : left + width]
            weight = weights[:, index, None, start : start + rows]
            if index:
                strip.addcmul_(weight, seen)
            else:
                torch.mul(weight, seen, out=strip)
