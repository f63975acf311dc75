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

_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


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


def propagate(mask: Tensor, weights: Tensor, steps: int, dilations: Sequence[int]) -> Tensor:
    """Replace every pixel of maps (B, C, H, W) by the weighted mean of its neighbours, ``steps`` times.

    Args:
        mask: Float32 maps; not changed.
        weights: What `affinity` returned for the same dilations.
        steps: Rounds; the weights stay the same.
        dilations: Distances in pixels.

    Raises:
        ConfigError: ``steps`` is negative.
    """
    if steps < 0:
        raise ConfigError(f"pamr_steps is {steps}; expected 0 (off) or more")
    for _ in range(steps):
        refined = torch.zeros_like(mask)
        for weight, neighbour in zip(weights.unbind(1), _neighbours(mask, dilations), strict=True):
            refined.addcmul_(weight[:, None], neighbour)
        mask = refined
    return mask


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield maps (B, C, H, W) as seen from each pixel's neighbours; outside the image the border repeats."""
    height, width = maps.shape[2:]
    if not dilations or min(dilations) < 1:
        raise ConfigError(f"pamr_dilations are {tuple(dilations)}; expected one or more distances of at least 1 pixel")
    for distance in dilations:
        padded = F.pad(maps, (distance,) * 4, mode="replicate")
        for dy, dx in _OFFSETS:
            top, left = distance * (1 + dy), distance * (1 + dx)
            yield padded[..., top : top + height, left : left + width]
