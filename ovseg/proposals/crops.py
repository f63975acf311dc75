"""Masks as pictures of their own: what a mask covers is cut out, filled up around, and resized for a CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovseg.errors import ConfigError, InputError, one_of

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
FILLS = ("mean", "zero")
SHARPNESS = -0.75  # of PyTorch's bicubic kernel
AT_A_TIME = 2**25  # values of what is filled at once


@dataclass(frozen=True, kw_only=True)
class CropRule:
    """How masks are cut out, as OVSeg does it (Liang et al., CVPR 2023, arXiv 2210.04150).

    Attributes:
        threshold: A pixel belongs to a mask where its probability is larger, 0..1.
        expand: Sides of a crop, in sides of the tight box of its mask.
        fill: What is around a mask: ``mean``, the mean colour of CLIP, or ``zero``, black.
        matting: Whether the probabilities blend mask and fill, instead of one or the other.

    Raises:
        ConfigError: A value is out of range.
    """

    threshold: float = 0.5
    expand: float = 1.0
    fill: str = "mean"
    matting: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("fill", self.fill, FILLS)
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"crops have threshold {self.threshold}; expected a number in 0..1, below 1")
        if self.expand <= 0:
            raise ConfigError(f"crops are expanded by {self.expand}; expected a factor above 0, 1 for the tight box")


class Crops(NamedTuple):
    """Masks cut out of an image; N of its Q masks have a pixel.

    Attributes:
        regions: (N, 3, S, S), normalised for CLIP.
        masks: (N, 1, S, S), 0..1: which pixels of them belong to the mask.
        valid: Bool (Q,), which masks have a pixel.
        tight: Their boxes (N, 4) int64, x0, y0, x1, y1, right and bottom exclusive.
        boxes: What was cut out, (N, 4) int64.
    """

    regions: Tensor
    masks: Tensor
    valid: Tensor
    tight: Tensor
    boxes: Tensor


def crop_masks(image: Tensor, masks: Tensor, size: int, rule: CropRule | None = None) -> Crops:
    """Cut masks out of an image; sides are not kept in proportion.

    Args:
        image: (3, H, W), RGB, 0..255.
        masks: Probabilities (Q, H, W), or bool.
        size: Side of the crops in pixels.
        rule: How; that of `CropRule` unless given.

    Raises:
        InputError: The masks do not lie on the image.
    """
    rule = rule or CropRule()
    if image.ndim != 3 or image.shape[0] != 3 or masks.ndim != 3 or masks.shape[1:] != image.shape[1:]:
        raise InputError(
            f"got an image {tuple(image.shape)} and masks {tuple(masks.shape)}; expected (3, H, W) and (Q, H, W)"
        )
    inside = masks if masks.dtype == torch.bool else masks > rule.threshold
    valid = inside.flatten(1).any(1)
    inside = inside[valid]
    tight = tight_boxes(inside)
    boxes = expand_boxes(tight, rule.expand, (image.shape[1], image.shape[2]))
    weights = masks[valid].float() if rule.matting else inside.float()
    regions, cut = _resized(image, weights, boxes, size, rule.fill)
    return Crops(regions, cut, valid, tight, boxes)


def tight_boxes(masks: Tensor) -> Tensor:
    """Return the boxes (N, 4) int64 of bool masks (N, H, W), each with a pixel: x0, y0, x1, y1, the last exclusive."""
    columns, rows = masks.any(1), masks.any(2)
    ends = []
    for hit in (columns, rows):
        first = hit.int().argmax(1) if hit.shape[0] else hit.new_zeros(0, dtype=torch.long)
        last = hit.shape[1] - (hit.flip(1).int().argmax(1) if hit.shape[0] else first)
        ends.append((first, last))
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], 1)


def expand_boxes(boxes: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """Expand boxes (N, 4) about their centres, whole pixels towards zero, within an image of a size (h, w)."""
    exact = boxes.float()
    centre, half = (exact[:, :2] + exact[:, 2:]) / 2, (exact[:, 2:] - exact[:, :2]) * factor / 2
    grown = torch.cat([centre - half, centre + half], 1).trunc().long()
    most = torch.tensor([size[1], size[0]] * 2, device=boxes.device)
    grown = grown.clamp(min=0).minimum(most)
    # A factor below 1 may leave nothing of a small box; one pixel stays.
    low = grown[:, :2].minimum(most[:2] - 1)
    return torch.cat([low, grown[:, 2:].maximum(low + 1)], 1)


def _resized(image: Tensor, weights: Tensor, boxes: Tensor, size: int, fill: str) -> tuple[Tensor, Tensor]:
    """Return the crops (N, 3, S, S) of an image under weights (N, H, W), and those of the weights (N, 1, S, S)."""
    height, width = image.shape[1:]
    mean = (255 * torch.tensor(MEAN, device=image.device))[:, None, None]
    std = (255 * torch.tensor(STD, device=image.device))[:, None, None]
    around = (mean if fill == "mean" else torch.zeros_like(mean)).sub(mean) / std
    normal = (image.float() - mean) / std
    down, across = cubic_matrices(boxes[:, 1::2], height, size), cubic_matrices(boxes[:, ::2], width, size)
    regions = image.new_zeros(len(boxes), 3, size, size, dtype=torch.float32)
    step = max(1, AT_A_TIME // (3 * height * width))
    for start in range(0, len(boxes), step):
        part = slice(start, start + step)
        filled = weights[part, None] * normal + (1 - weights[part, None]) * around
        regions[part] = down[part, None] @ filled @ across[part, None].mT
    rows, columns = nearest_indices(boxes[:, 1::2], size), nearest_indices(boxes[:, ::2], size)
    each = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    return regions, weights[each, rows[:, :, None], columns[:, None]][:, None]


def cubic_matrices(spans: Tensor, length: int, size: int) -> Tensor:
    """Return what resizes spans of an axis, as PyTorch's bicubic does without smoothing and aligned corners.

    Args:
        spans: Begin and end (N, 2) of what is resized; what is outside of a span does not count.
        length: Of the axis.
        size: Of the result.

    Returns:
        (N, size, length) float32; rows add up to 1.
    """
    begin, extent = spans[:, :1], (spans[:, 1:] - spans[:, :1])
    places = (torch.arange(size, device=spans.device) + 0.5) * (extent.float() / size) - 0.5
    floor = places.floor()
    share = (places - floor)[..., None]
    steps = torch.arange(-1, 3, device=spans.device)
    taps = (floor.long()[..., None] + steps).clamp(min=0).minimum(extent[..., None] - 1) + begin[..., None]
    found = torch.zeros(len(spans), size, length, device=spans.device)
    return found.scatter_add_(2, taps, _kernel((share - steps).abs()))


def _kernel(distance: Tensor) -> Tensor:
    """Return the cubic convolution kernel at distances 0..2 (Keys, 1981)."""
    near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * SHARPNESS - 4 * SHARPNESS
    return torch.where(distance <= 1, near, far)


def nearest_indices(spans: Tensor, size: int) -> Tensor:
    """Return the pixels (N, size) that PyTorch's ``nearest`` takes of spans (N, 2) of an axis."""
    extent = spans[:, 1:] - spans[:, :1]
    places = (torch.arange(size, device=spans.device) * (extent.float() / size)).floor().long()
    return places.minimum(extent - 1) + spans[:, :1]
