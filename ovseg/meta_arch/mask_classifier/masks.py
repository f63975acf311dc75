"""Masks that come from elsewhere: of a region generator, of files; and which of them are parts of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import InputError

SURE = 12.0
"""Logit of a pixel inside of a given mask; outside it is as far below zero."""


def of_ids(ids: Tensor) -> Tensor:
    """Return the masks (Q, H, W) bool of a map of ids (H, W); negative ids belong to none."""
    found = ids.unique()
    return ids == found[found >= 0][:, None, None]


def checked(masks: Any, size: tuple[int, int] | None = None) -> Tensor:
    """Return masks as (Q, H, W) bool.

    Args:
        masks: Array or tensor (Q, H, W), where anything but 0 is inside; or a map of ids (H, W) of integers, where each
            value is a mask and 0 is none.
        size: Height and width of the image that they are of.

    Raises:
        InputError: They have another shape or size, or there is none, or one is empty.
    """
    found = torch.as_tensor(np.ascontiguousarray(masks) if isinstance(masks, np.ndarray) else masks)
    if found.ndim == 2 and found.dtype is not torch.bool:
        ids = found.long()
        found = of_ids(ids.where(ids > 0, -1))
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or not len(found):
        raise InputError(
            f"got masks of shape {tuple(found.shape)}; expected (Q, H, W) with at least one mask, or ids (H, W)"
        )
    if size is not None and tuple(found.shape[1:]) != tuple(size):
        raise InputError(
            f"masks are {found.shape[1]} x {found.shape[2]} and the image is {size[0]} x {size[1]}; give masks of its size"
        )
    found = found != 0
    empty = (~found.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"mask {empty[0]} of {len(found)} has no pixel; leave it out")
    return found


def read(path: Path) -> Tensor:
    """Read masks (Q, H, W) bool from a file: ``.npy`` or ``.npz`` (first array), or a picture whose values are ids.

    Raises:
        InputError: It cannot be read, or holds no masks.
    """
    from PIL import Image

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                array = file[file.files[0]]
        elif path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as picture:
                array = np.array(picture if picture.mode in ("L", "P", "I", "I;16") else picture.convert("L"))
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"masks of {path} cannot be read ({error}); expected .npy, .npz or a picture of ids"
        ) from error
    return checked(array.astype(np.int64) if array.dtype != bool else array)


def resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (Q, H, W) bool at another size; what would vanish keeps the pixel of its middle."""
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    soft = F.interpolate(masks[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]
    return soft >= soft.flatten(1).amax(1).clamp(max=0.5)[:, None, None]


def logits_of(masks: Tensor) -> Tensor:
    """Return mask logits (Q, H, W) float32 of masks (bool)."""
    return SURE * (2 * masks.float() - 1)


def find_parts(masks: Tensor, classes: Tensor, scores: Tensor, share: float) -> Tensor:
    """Tell which masks are but parts of others of their class that score higher (BIRDet, arXiv 2410.08645).

    Args:
        masks: (Q, H, W) bool.
        classes: (Q,).
        scores: (Q,).
        share: Above this share of its own area inside of the other, a mask is a part; the default 0.8 of the sheet is
            ours, and 0 finds none.

    Returns:
        (Q,) bool.
    """
    if not share:
        return torch.zeros_like(classes, dtype=torch.bool)
    flat = masks.flatten(1).float()
    inside = flat @ flat.mT / flat.sum(1, keepdim=True).clamp(min=1)
    better = (scores[None] > scores[:, None]) & (classes[None] == classes[:, None])
    return (better & (inside > share)).any(1)
