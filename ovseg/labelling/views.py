"""ITACLIP's image engineering: one image seen in several ways, for any training-free method.

Aydin et al., CVPR Workshops 2025; github.com/m-arda-aydn/ITACLIP. The image, its grey and its blurred copy are one
half of the ensemble, its two flips the other. Five passes take the place of one.

The original averages the unit features of the first half and the upsampled scores of the second. Cosines are linear in
unit features, so scores are averaged here in both; that is the same, and it is defined for methods whose scores are no
cosines. Bilinear upsampling commutes with flips, so the patch scores are flipped back, not the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)
BLUR_KERNEL, BLUR_SIGMA = 11, 5.0  # pixels, whatever the size of the image
_FLIPS = (-2, -1)


def views(images: Tensor, regions: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Return the images of the ensemble, with their regions: as they are, grey, blurred, and the two flips.

    Args:
        images: Normalised images (B, 3, H, W); the views are made of these numbers, as in the original.
        regions: Region ids (B, H, W) of their pixels, or None.
    """
    upright = [(view, regions) for view in (images, grey(images), blur(images))]
    flipped = [(images.flip(axis), None if regions is None else regions.flip(axis)) for axis in _FLIPS]
    return upright + flipped


def mix(scores: Sequence[Tensor], share: float) -> Tensor:
    """Mix the scores of an ensemble.

    Args:
        scores: Of each of the `views`, (B, T, h, w).
        share: Weight of the mean of the unflipped views in 0..1; the rest is that of the mean of the flipped ones.

    Returns:
        Scores (B, T, h, w).
    """
    upright = sum(scores[: -len(_FLIPS)], start=torch.zeros_like(scores[0])) / (len(scores) - len(_FLIPS))
    back = [one.flip(axis) for one, axis in zip(scores[-len(_FLIPS) :], _FLIPS, strict=True)]
    return share * upright + (1 - share) * torch.stack(back).mean(0)


def grey(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) with the luma of their channels in all three; normalised values stay as they are."""
    weights = torch.tensor(GREY, dtype=torch.float32, device=images.device).view(3, 1, 1)
    return (images.float() * weights).sum(1, keepdim=True).to(images.dtype).expand_as(images)


def blur(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) under a Gaussian, mirrored at the border without repeating it.

    Sides must be longer than half the kernel, five pixels.
    """
    half, channels = BLUR_KERNEL // 2, images.shape[1]
    places = torch.arange(-half, half + 1, dtype=torch.float32, device=images.device)
    weights = torch.exp(-places.square() / (2 * BLUR_SIGMA**2))
    kernel = (weights / weights.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(images.float(), (half,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=channels)
    return F.conv2d(rows, kernel.mT, groups=channels).to(images.dtype)
