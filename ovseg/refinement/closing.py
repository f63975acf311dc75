"""Morphological closing of a label map, as ITACLIP ends with (github.com/m-arda-aydn/ITACLIP)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def close_labels(labels: Tensor, side: int = 3) -> Tensor:
    """Close small gaps in a label map: its ids are taken as grey values, as in the original.

    Every pixel takes the highest id around it, then the lowest of what its neighbours took. So what is narrower than
    the square is filled where higher ids surround it, and the outcome depends on the order of the classes; "no class"
    is below all. What lies beyond the border does not count.

    Args:
        labels: (H, W) integers, -1 for no class; below 2^24.
        side: Odd side of the square in pixels.

    Returns:
        New labels (H, W) of the same dtype.
    """
    grown = F.max_pool2d(labels.float()[None], side, stride=1, padding=side // 2)
    return -F.max_pool2d(-grown, side, stride=1, padding=side // 2)[0].to(labels.dtype)
