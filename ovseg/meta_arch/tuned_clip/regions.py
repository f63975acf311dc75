"""What recipes that learn from masks share: images, masks on the grid of patches, and a row for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip import Tower
from ovseg.clip.normalise import normalise
from ovseg.contract import Words
from ovseg.recalibration.maskclip import MaskCLIP


def images_of(clip: Tower, batch: Sequence[dict[str, Any]]) -> Tensor:
    """Return the normalised images (B, 3, H, W) of samples, padded to whole patches of the largest."""
    unit = clip.patch_size
    images = [normalise(sample["image"].to(clip.device).float() / 255, clip.mean, clip.std) for sample in batch]
    high, wide = (-(-max(sides) // unit) * unit for sides in zip(*(one.shape[1:] for one in images), strict=True))
    padded = [F.pad(one, (0, wide - one.shape[2], 0, high - one.shape[1])) for one in images]
    return torch.stack(padded).to(clip.dtype)


def patches_of(clip: Tower, images: Tensor) -> Tensor:
    """Return the features (B, D, h, w) float32 of patches, each token for itself in the last block."""
    return clip.dense(images, MaskCLIP()).features.float()


def masks_of(sample: dict[str, Any], size: tuple[int, int], grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return which share of each patch each mask of a sample covers, (N, h, w) in 0..1.

    Args:
        sample: Of the mapper, with ``instances``.
        size: Of the padded images in pixels.
        grid: Of their patches.
        like: Of the device and dtype that are wanted.
    """
    masks = getattr(sample["instances"].gt_masks, "tensor", sample["instances"].gt_masks)
    padded = F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1])).to(like)
    return F.adaptive_avg_pool2d(padded, grid)


def class_rows(words: Words, like: Tensor) -> Tensor:
    """Return the unit row of the first name of each class, (K, D)."""
    classes = words.query_to_class
    first = [int((classes == index).nonzero()[0]) for index in range(int(classes.max()) + 1)]
    return F.normalize(words.embeddings[first].to(like), dim=1)


def pooled(features: Tensor, masks: Tensor) -> Tensor:
    """Return the unit mean (N, D) of unit features (D, h, w) under masks (N, h, w)."""
    rows = F.normalize(features.flatten(1).mT, dim=1)
    return F.normalize(masks.flatten(1) @ rows, dim=1)
