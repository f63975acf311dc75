"""From similarity maps to point prompts: where a promptable segmenter such as SAM should look, and where not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError


def stretch(maps: Tensor) -> Tensor:
    """Stretch maps (..., h, w) to 0..1 each; a constant map becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def prompt_points(
    maps: Tensor, size: tuple[int, int], threshold: float = 0.8, down_sample: int = 2
) -> tuple[Tensor, Tensor]:
    """Return points on what texts name, and as many points off it as its mean map has strong cells.

    Each map gives positive points: its highest cells, as many as reach the threshold, at most half of them. Negative
    points are the lowest cells of the mean of the stretched maps, counted by the same rule. One map is one text;
    several are texts that together name one thing ("person" and "bicycle").

    Args:
        maps: Similarities (T, h, w) of T texts, on any scale.
        size: Height and width in pixels of the image in which the points lie.
        threshold: On a map stretched to 0..1.
        down_sample: The grid is coarsened by it first, so that points keep apart.

    Returns:
        Points (P, 2) int32 as x, y in pixels, and labels (P,) int32, 1 on the thing and 0 off it; positive ones first,
        text by text, from the weakest to the strongest. A constant map gives none.

    Raises:
        ConfigError: There is no map, or ``down_sample`` is below 1.

    Source: CLIP Surgery, github.com/xmed-lab/CLIP_Surgery.
    """
    if maps.ndim != 3 or not len(maps) or down_sample < 1:
        raise ConfigError(
            f"got maps of shape {tuple(maps.shape)} and down_sample {down_sample}; expected (T, h, w) and at least 1"
        )
    maps = stretch(maps.float())
    maps = torch.cat([maps, maps.mean(0, keepdim=True)])
    grid = (max(maps.shape[1] // down_sample, 1), max(maps.shape[2] // down_sample, 1))
    cells = stretch(F.interpolate(maps[None], grid, mode="bilinear", align_corners=False)[0]).flatten(1)
    ranks = cells.argsort(dim=1, stable=True)
    counts = (cells >= threshold).sum(1).clamp(max=cells.shape[1] // 2).tolist()
    positive = torch.cat([rank[len(rank) - count :] for rank, count in zip(ranks[:-1], counts, strict=False)])
    negative = ranks[-1, : counts[-1]]
    labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return _centres(torch.cat([positive, negative]), grid, size), labels.int()


def _centres(cells: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the pixels (P, 2) int32, x before y, in the centres of cells (P,) of a grid over an image."""
    x = ((cells % grid[1] + 0.5) * (size[1] / grid[1])).clamp(max=size[1] - 1)
    y = ((cells // grid[1] + 0.5) * (size[0] / grid[0])).clamp(max=size[0] - 1)
    return torch.stack([x, y], dim=1).int()
