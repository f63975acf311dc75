"""What is mixed across windows by SAM, cell by cell of its encoder, and what SAM has seen of the photograph for it."""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Sight(NamedTuple):
    """What SAM has seen of a photograph.

    Attributes:
        parts: Of the whole, or of its left and its right half: the image, and the tokens for `last_attention`.
        whole: Of the whole, for SAM's decoder; None where that is not asked.
    """

    parts: tuple[tuple[SamImage, Tensor], ...]
    whole: SamImage | None


def see(sam: Any, photo: np.ndarray, halves: bool, whole: bool) -> Sight:
    """Let SAM see a photograph.

    Args:
        sam: A SAM of segment_anything.
        photo: RGB (H, W, 3) uint8, of `whole_patches`.
        halves: Whether it sees the left and the right half apart, each with cells of its own.
        whole: Whether its decoder will be asked about the whole.
    """
    cut = photo.shape[1] // 2
    shown = (photo[:, :cut], photo[:, cut:]) if halves else (photo,)
    parts = tuple(look(sam, np.ascontiguousarray(part)) for part in shown)
    return Sight(parts, (look(sam, photo)[0] if halves else parts[0][0]) if whole else None)


def mix(sam: Any, canvas: Tensor, sight: Sight, factor: float, keep_negative: bool) -> Tensor:
    """Bring a map to SAM's cells, and mix those that SAM takes to be alike.

    Args:
        sam: A SAM of segment_anything.
        canvas: (C, h, w) float32 of the whole image.
        sight: What SAM has seen of it.
        factor: See `correlation`.
        keep_negative: Likewise.

    Returns:
        The map (C, gh, gw); halves lie side by side.
    """
    maps: tuple[Tensor, ...] = (canvas,)
    if len(sight.parts) > 1:
        middle = canvas.shape[2] // 2  # a canvas of one column is in both halves
        maps = (canvas[..., : max(middle, 1)], canvas[..., middle:])
    found = []
    for own, (image, tokens) in zip(maps, sight.parts, strict=True):
        grid = cells(sam, image)
        with torch.autocast(canvas.device.type, enabled=False):
            weights, values = last_attention(sam, tokens, grid)
            pairs = correlation(weights, values, factor, keep_negative)
            found.append((pairs @ resize(own, grid).flatten(1).mT).mT.unflatten(1, grid))
    return torch.cat(found, dim=2)
