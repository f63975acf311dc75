"""Pixels as networks want them, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bring images (..., 3, H, W) to mean 0 and deviation 1 of the data that a network has learnt from.

    Args:
        images: RGB, floating point, on the scale of the mean: 0..1 for those of `ovseg.clip.tower.Tower`.
        mean: Of each channel.
        std: Standard deviation of each channel.

    Returns:
        The same shape and dtype.
    """
    return (images - _channels(mean, images)) / _channels(std, images)


def denormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo `normalise`."""
    return images * _channels(std, images) + _channels(mean, images)


def _channels(values: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(3, 1, 1)
