"""Pictures as prompts: what of an object and of its surroundings CLIP is shown."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import InputError

SIGMA, KERNEL, DIMMED, CONTEXT = 3.0, 15, 0.1, 0.1
"""Blur of the surroundings in pixels and the window it is cut at, their brightness, and the margin of the crop."""


def highlight(
    image: Tensor, mask: Tensor, sigma: float = SIGMA, kernel: int = KERNEL, dimmed: float = DIMMED
) -> Tensor:
    """Blur and dim what is not the object.

    Args:
        image: Normalised (3, H, W).
        mask: (H, W), 1 on the object and else 0.
        sigma: Of the Gaussian, in pixels.
        kernel: Pixels of its window, odd.
        dimmed: Brightness of the surroundings.

    Source: the prompts of CLIPSeg (arXiv 2112.10003, section 3.3).
    """
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).float().cpu().numpy())
    blurred = torch.from_numpy(cv2.GaussianBlur(pixels, (kernel, kernel), sigma)).permute(2, 0, 1).to(image)
    own = mask.to(image)
    return image * own + dimmed * blurred * (1 - own)


def crop(image: Tensor, mask: Tensor, side: int, context: float = CONTEXT) -> Tensor:
    """Cut an object out with a margin, pad the shorter side with zeros and resize to a square (3, side, side).

    The original takes rows for columns where it bounds the box, so it is this for square images alone, which is all
    that it ever sees.

    Raises:
        InputError: The mask is empty.
    """
    rows, columns = mask.bool().any(1).nonzero().flatten(), mask.bool().any(0).nonzero().flatten()
    if not len(rows):
        raise InputError("the mask of a prompt is empty; expected one with the pixels of the object")
    bounds = []
    for places, most in ((rows, mask.shape[0]), (columns, mask.shape[1])):
        first, last = int(places[0]), int(places[-1]) + 1
        margin = context * (last - first)
        bounds.append(slice(max(0, int(first - margin)), min(most, int(last + margin))))
    cut = image[:, bounds[0], bounds[1]]
    high, wide = cut.shape[1:]
    pad = max(high, wide)
    padded = F.pad(cut, ((pad - wide) // 2, -(-(pad - wide) // 2), (pad - high) // 2, -(-(pad - high) // 2)))
    return F.interpolate(padded[None], (side, side), mode="nearest")[0]


def visual_prompt(
    image: Tensor,
    mask: Tensor,
    side: int,
    sigma: float = SIGMA,
    kernel: int = KERNEL,
    dimmed: float = DIMMED,
    context: float = CONTEXT,
) -> Tensor:
    """Return what CLIP is shown of an object (3, side, side): surroundings blurred and dimmed, then cut out.

    Arguments and errors as of `highlight` and `crop`. Source: as of `highlight`, the best of the ways compared there.
    """
    return crop(highlight(image, mask, sigma, kernel, dimmed), mask, side, context)
