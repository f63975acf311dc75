"""How a mask is framed: squares around masks, cut from a picture at the size that a tower sees; no loop over masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import InputError

_AT_ONCE = 16  # squares that are cut together: each is cut at twice its size


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes (Q, 4) float32 ``x0, y0, x1, y1`` in pixels of masks (Q, H, W) bool; of an empty one, zeros."""
    rows, columns = masks.any(2), masks.any(1)
    found = []
    for line in (columns, rows):
        places = torch.arange(line.shape[1], device=masks.device)
        first = places.where(line, line.shape[1]).amin(1)
        last = places.where(line, -1).amax(1) + 1
        found.append((first.where(last > 0, 0), last))
    return torch.stack([found[0][0], found[1][0], found[0][1], found[1][1]], 1).float()


def squares(boxes: Tensor, size: tuple[int, int], margin: float) -> Tensor:
    """Enlarge boxes toward the borders of the image, and make squares of them about their centres.

    Args:
        boxes: (Q, 4) float in pixels.
        size: Height and width of the image.
        margin: 0 is the box, 1 the whole image (GC-CLIP, arXiv 2309.06581).

    Returns:
        (Q, 4); parts of a square may lie outside of the image.
    """
    height, width = size
    whole = boxes.new_tensor([0.0, 0.0, width, height])
    grown = boxes + margin * (whole - boxes)
    centre = (grown[:, :2] + grown[:, 2:]) / 2
    half = ((grown[:, 2:] - grown[:, :2]).amax(1, keepdim=True) / 2).clamp(min=0.5)
    return torch.cat([centre - half, centre + half], 1)


def cut(maps: Tensor, frames: Tensor, side: int) -> Tensor:
    """Cut squares from maps, bilinear at twice the size and averaged, so that fine patterns do not alias.

    Args:
        maps: One image for all squares (1, C, H, W), or one for each (Q, C, H, W), floating.
        frames: (Q, 4) ``x0, y0, x1, y1`` in pixels.
        side: Of the result in pixels.

    Returns:
        (Q, C, side, side); zeros where a square leaves the map.

    Raises:
        InputError: There is neither one map nor one for each square.
    """
    if len(maps) not in (1, len(frames)):
        raise InputError(f"got {len(maps)} maps for {len(frames)} squares; expected one, or one for each")
    sizes = maps.new_tensor([maps.shape[3], maps.shape[2]])
    steps = (torch.arange(2 * side, device=maps.device) + 0.5) / (2 * side)
    found = []
    for start in range(0, len(frames), _AT_ONCE):
        part = frames[start : start + _AT_ONCE].to(maps)
        low, high = (2 * edges / sizes - 1 for edges in (part[:, :2], part[:, 2:]))
        axes = low[:, :, None] + (high - low)[:, :, None] * steps
        across = axes[:, 0, None, :].expand(-1, 2 * side, -1)
        down = axes[:, 1, :, None].expand(-1, -1, 2 * side)
        own = maps.expand(len(part), -1, -1, -1) if len(maps) == 1 else maps[start : start + _AT_ONCE]
        large = F.grid_sample(own, torch.stack([across, down], -1), align_corners=False)
        found.append(F.avg_pool2d(large, 2))
    return torch.cat(found) if found else maps.new_zeros(0, maps.shape[1], side, side)
