"""Pixel-adaptive mask refinement, a parameter-free smoothing of score maps along the colours of the image.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020; github.com/visinf/1-stage-wseg.
Neighbours are visited one by one, so memory is a few maps whatever the number of dilations. Everything runs in float32:
the guard of 1e-8 would vanish in half precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.refinement.neighbours import add_up, maps_at_once

_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def pamr(image: Tensor, mask: Tensor, steps: int = 10, dilations: Sequence[int] = (8, 16)) -> Tensor:
    """Refine score maps by the affinities of an image.

    Args:
        image: (B, K, H, W), of any range; usually the normalised network input.
        mask: (B, C, h, w) logits or probabilities; resized to the image with ``align_corners=True`` where it differs.
        steps: Rounds of smoothing; 0 only resizes.
        dilations: Distances in pixels at which the eight neighbours are taken.

    Returns:
        (B, C, H, W) float32, within the range of the mask.

    Raises:
        ConfigError: ``steps`` is negative, or a dilation is below 1, or there is none.
    """
    mask = mask.float()
    if mask.shape[2:] != image.shape[2:]:
        mask = F.interpolate(mask, size=image.shape[2:], mode="bilinear", align_corners=True)
    return propagate(mask, affinity(image, dilations), steps, dilations)


def affinity(image: Tensor, dilations: Sequence[int] = (8, 16)) -> Tensor:
    """Return what each pixel takes from each neighbour: (B, 8 * len(dilations), H, W) float32, dim 1 sums to 1.

    Args:
        image: (B, K, H, W), of any range.
        dilations: Distances in pixels; neighbours are ordered dilation by dilation, row by row.

    Raises:
        ConfigError: A dilation is below 1, or there is none.
    """
    image = image.float()
    spread = deviation(image, dilations).mul_(0.1).add_(1e-8)
    scores = [-(image - neighbour).abs_().div_(spread).mean(1) for neighbour in _neighbours(image, dilations)]
    return torch.stack(scores, dim=1).softmax(1)


def deviation(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Return the unbiased standard deviation (B, K, H, W) over the 3 x 3 neighbourhoods of all dilations pooled.

    The centre counts once per dilation, as in the original.
    """
    image = image.float()
    samples = 9 * len(dilations)
    mean = image * len(dilations)
    for neighbour in _neighbours(image, dilations):
        mean += neighbour
    mean /= samples
    squares = (image - mean).square_().mul_(len(dilations))
    for neighbour in _neighbours(image, dilations):
        squares += (neighbour - mean).square_()
    return squares.div_(samples - 1).sqrt_()


@torch.no_grad()
def propagate(mask: Tensor, weights: Tensor, steps: int, dilations: Sequence[int]) -> Tensor:
    """Replace every pixel of maps (B, C, H, W) by the weighted mean of its neighbours, ``steps`` times.

    A few maps take all their steps before the next ones are touched, and on the CPU a strip of rows sees all neighbours
    before the next: sums, neighbours and weights stay in the cache, and nothing of the size of all maps is made but the
    result.

    Args:
        mask: Float32 maps; not changed.
        weights: What `affinity` returned for the same dilations.
        steps: Rounds; the weights stay the same.
        dilations: Distances in pixels.

    Raises:
        ConfigError: ``steps`` is negative, or the dilations are none that `affinity` takes.
    """
    if steps < 0:
        raise ConfigError(f"pamr_steps is {steps}; expected 0 (off) or more")
    offsets, margin = _offsets(dilations), max(dilations)
    if not steps:
        return mask
    refined = torch.empty_like(mask)
    chunk = maps_at_once(mask.device)
    for maps, target in zip(mask.split(chunk, dim=1), refined.split(chunk, dim=1), strict=True):
        source = F.pad(maps, (margin,) * 4, mode="replicate")
        other = torch.empty_like(source) if steps > 1 else source
        for _ in range(steps - 1):
            add_up(source, weights, offsets, other[..., margin:-margin, margin:-margin])
            _repeat_border(other, margin)
            source, other = other, source
        add_up(source, weights, offsets, target)
    return refined


def _repeat_border(padded: Tensor, margin: int) -> None:
    """Repeat the outermost pixels of the maps inside a border of ``margin`` pixels over it: columns, then rows."""
    inner = padded[:, :, margin:-margin]
    inner[..., :margin] = inner[..., margin : margin + 1]
    inner[..., -margin:] = inner[..., -margin - 1 : -margin]
    padded[:, :, :margin] = padded[:, :, margin : margin + 1]
    padded[:, :, -margin:] = padded[:, :, -margin - 1 : -margin]


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """Return rows and columns to the neighbours, dilation by dilation."""
    if not dilations or min(dilations) < 1:
        raise ConfigError(f"pamr_dilations are {tuple(dilations)}; expected one or more distances of at least 1 pixel")
    return [(distance * dy, distance * dx) for distance in dilations for dy, dx in _AROUND]


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield maps (B, C, H, W) as seen from each pixel's neighbours; outside the image the border repeats."""
    height, width = maps.shape[2:]
    offsets, margin = _offsets(dilations), max(dilations)
    padded = F.pad(maps, (margin,) * 4, mode="replicate")
    for dy, dx in offsets:
        yield padded[..., margin + dy : margin + dy + height, margin + dx : margin + dx + width]
