"""What is mixed across windows by SAM, cell by cell of its encoder; the photograph is encoded once for all uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg.guides.sam_image import SamImage, cells, last_attention, look
from ovseg.recalibration.trident.correlation import correlation
from ovseg.recalibration.trident.splicing import resize


def whole_patches(photo: np.ndarray, patch: int) -> np.ndarray:
    """Resize a photograph (H, W, 3) uint8 so that both sides are multiples of a patch, rounded up."""
    import cv2  # by whose bilinear rule the original has it

    height, width = (-(-side // patch) * patch for side in photo.shape[:2])
    return photo if (height, width) == photo.shape[:2] else cv2.resize(photo, (width, height))


def mix(
    sam: Any, canvas: Tensor, photo: np.ndarray, factor: float, keep_negative: bool, halves: bool
) -> tuple[Tensor, SamImage | None]:
    """Bring a map to SAM's cells, and mix those that SAM takes to be alike.

    Args:
        sam: A SAM of segment_anything.
        canvas: (C, h, w) float32 of the whole image.
        photo: RGB (H, W, 3) uint8, of `whole_patches`.
        factor: See `correlation`.
        keep_negative: Likewise.
        halves: Whether SAM sees the left and the right half apart, each with cells of its own.

    Returns:
        The map (C, gh, gw), and what SAM has seen of the whole photograph; None where it saw halves.
    """
    if halves:
        middle, cut = canvas.shape[2] // 2, photo.shape[1] // 2  # a canvas of one column is in both halves
        left, right = (
            mix(sam, part, np.ascontiguousarray(own), factor, keep_negative, False)[0]
            for part, own in ((canvas[..., : max(middle, 1)], photo[:, :cut]), (canvas[..., middle:], photo[:, cut:]))
        )
        return torch.cat([left, right], dim=2), None
    image, tokens = look(sam, photo)
    grid = cells(sam, image)
    with torch.autocast(canvas.device.type, enabled=False):
        weights, values = last_attention(sam, tokens, grid)
        pairs = correlation(weights, values, factor, keep_negative)
        mixed = pairs @ resize(canvas, grid).flatten(1).mT
    return mixed.mT.unflatten(1, grid), image
