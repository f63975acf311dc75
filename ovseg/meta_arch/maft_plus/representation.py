"""The representation compensation loss of MAFT+ (Jiao et al., ECCV 2024; github.com/jiaosiyu1999/MAFT-Plus).

It keeps the dense features of a tuned CLIP near those of the frozen one, seen through pooled rows and columns at
several scales, as in PLOP (Douillard et al., CVPR 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import InputError

SCALES = (1, 2, 4)


def representation_loss(student: Tensor, teacher: Tensor, scales: tuple[int, ...] = SCALES) -> Tensor:
    """Return the smooth L1 loss, a mean, between the pooled features of student and teacher.

    Args:
        student: Dense features (B, C, h, w) before the embedding head.
        teacher: The same of the frozen CLIP; no gradient reaches them.
        scales: See `strip_pool`.

    Raises:
        InputError: The map is narrower than the largest scale.
    """
    return F.smooth_l1_loss(strip_pool(student, scales), strip_pool(teacher.detach(), scales))


def strip_pool(features: Tensor, scales: tuple[int, ...] = SCALES) -> Tensor:
    """Sum the rows and the columns of positive features that are averaged over cells of several sizes.

    The cells have the side ``w // scale`` with the width of the map as it is given, although maps that are not square
    are stretched to the longer side first: so a tall map has more cells, as in the original.

    Args:
        features: (B, C, h, w); negative values count as 0.
        scales: How many cells the width is cut into.

    Returns:
        (B, C * cells) float32: for each scale the sums over rows, then those over columns.

    Raises:
        InputError: The map is narrower than the largest scale.
    """
    height, width = features.shape[2:]
    if width < max(scales):
        raise InputError(
            f"the feature map is {width} cells wide; expected at least {max(scales)}: train on wider images"
        )
    maps = features.float().clamp(min=0)
    if height != width:
        maps = F.interpolate(maps, (max(height, width),) * 2, mode="bilinear", align_corners=False)
    parts = []
    for scale in scales:
        cells = F.avg_pool2d(maps, width // scale)
        parts += [cells.sum(2).flatten(1), cells.sum(3).flatten(1)]
    return torch.cat(parts, dim=1)
