"""Pooling of feature maps over masks of another size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError, InputError
from ovseg.ops.library import define, load_kernels
from ovseg.system.device import is_cpu

WEIGHTS = ("inside", "sigmoid", "softmax")
RESIZES = ("bilinear", "max")
MASKS = 64
"""So many masks are pooled at a time in plain PyTorch."""


def resize_masks(mask_logits: Tensor, size: tuple[int, int], resize: str = "bilinear") -> Tensor:
    """Resize mask logits (B, Q, H, W) to (B, Q, h, w) in float32, float64 stays.

    Args:
        mask_logits: Of any floating point type.
        size: Rows and columns (h, w).
        resize: ``bilinear``, pixel centres at (i + 0.5) / n; ``max``, the largest of a window, windows may be uneven.
    """
    wide = mask_logits if mask_logits.dtype == torch.float64 else mask_logits.float()
    if tuple(wide.shape[-2:]) == tuple(size):
        return wide
    if resize == "max":
        return F.adaptive_max_pool2d(wide, size)
    return F.interpolate(wide, size, mode="bilinear", align_corners=False)


def mask_pool(features: Tensor, mask_logits: Tensor, weights: str = "inside", resize: str = "bilinear") -> Tensor:
    """Average features over masks, whose logits may have another size; no mask is written at the features' size.

    FC-CLIP and MAFT+ pool with the defaults: the mean over pixels whose resized logit is positive. SAN brings its
    biases to the features by ``resize="max"`` and weighs pixels by ``weights="softmax"``.

    Args:
        features: (B, C, h, w).
        mask_logits: (B, Q, H, W).
        weights: Of a pixel, from its resized logit: ``inside`` is 1 where it is positive, else 0, and no gradient
            reaches the masks; ``sigmoid`` of it; ``softmax`` over the mask's pixels.
        resize: As of `resize_masks`.

    Returns:
        (B, Q, C) in the dtype of the features, under autocast too; zeros for a mask whose weights are all zero.

    Raises:
        InputError: The tensors do not fit each other, or are no floating point numbers of one device.
        ConfigError: There are no such weights or resize.
    """
    _check(features, mask_logits)
    for got, known in ((weights, WEIGHTS), (resize, RESIZES)):
        if got not in known:
            raise ConfigError(f"mask pooling got '{got}'; expected one of {', '.join(known)}")
    options = WEIGHTS.index(weights), RESIZES.index(resize)
    if not is_cpu(features.device) and torch.float64 in (features.dtype, mask_logits.dtype):
        return mask_pool_plain(features, mask_logits, *options)  # graphics cards' kernels add up in single precision
    load_kernels()
    found: Tensor = torch.ops.ovseg.mask_pool(features, mask_logits, *options)
    return found


def _check(features: Tensor, mask_logits: Tensor) -> None:
    sizes = f"features {tuple(features.shape)} and mask logits {tuple(mask_logits.shape)}"
    if features.ndim != 4 or mask_logits.ndim != 4 or len(features) != len(mask_logits):
        raise InputError(f"mask pooling got {sizes}; expected (B, C, h, w) and (B, Q, H, W)")
    if 0 in mask_logits.shape[2:] and 0 not in features.shape[2:]:
        raise InputError(f"mask pooling got {sizes}; expected masks of a pixel or more")
    pair = (features, mask_logits)
    if not all(x.is_floating_point() for x in pair) or features.device != mask_logits.device:
        kinds = " and ".join(f"{x.dtype} on {x.device}" for x in pair)
        raise InputError(f"mask pooling got {kinds}; expected floating point numbers on one device")


def mask_pool_plain(features: Tensor, mask_logits: Tensor, weights: int, resize: int) -> Tensor:
    """Pool in plain PyTorch, some masks at a time; as `mask_pool`, with indices of `WEIGHTS` and `RESIZES`."""
    parts = mask_logits.split(MASKS, 1)
    return torch.cat([_pool(features, part, weights, resize) for part in parts], 1)


def _pool(features: Tensor, mask_logits: Tensor, weights: int, resize: int) -> Tensor:
    share = _shares(features, mask_logits, weights, resize)[1]
    dtype = _wide(features, share) if torch.float64 in (features.dtype, share.dtype) else features.dtype
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("bqn,bcn->bqc", share.to(dtype), features.to(dtype).flatten(2)).to(features.dtype)


def _shares(features: Tensor, mask_logits: Tensor, weights: int, resize: int) -> tuple[Tensor, Tensor]:
    """Return resized logits and the share of each pixel (B, Q, h * w) in its mask."""
    logits = resize_masks(mask_logits, (features.shape[2], features.shape[3]), RESIZES[resize]).flatten(2)
    if WEIGHTS[weights] == "softmax":
        return logits, logits.softmax(-1)
    found = logits.sigmoid() if WEIGHTS[weights] == "sigmoid" else (logits > 0).to(logits.dtype)
    # The originals divide by count + 1e-8, which is the same number in single precision and 0 / 0 in half.
    total = found.sum(-1, keepdim=True)
    return logits, found / torch.where(total == 0, 1, total)


def _wide(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def _shape(features: Tensor, mask_logits: Tensor, weights: int, resize: int) -> Tensor:
    return features.new_empty(features.shape[0], mask_logits.shape[1], features.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    features, mask_logits, ctx.weights, ctx.resize = inputs
    ctx.save_for_backward(features, mask_logits)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    """Differentiate a mean with weights w(logit) / sum of w; the weights are made again, not kept since the forward."""
    features, mask_logits = ctx.saved_tensors
    dtype = _wide(features, mask_logits)
    logits, share = _shares(features, mask_logits, ctx.weights, ctx.resize)
    share, grad = share.to(dtype), grad.to(dtype)
    of_features = of_masks = None
    if ctx.needs_input_grad[0]:
        of_features = torch.einsum("bqn,bqc->bcn", share, grad).view_as(features).to(features.dtype)
    if ctx.needs_input_grad[1] and WEIGHTS[ctx.weights] != "inside":
        of_share = torch.einsum("bqc,bcn->bqn", grad, features.to(dtype).flatten(2))
        of_logits = share * (of_share - (share * of_share).sum(-1, keepdim=True))
        if WEIGHTS[ctx.weights] == "sigmoid":
            of_logits = of_logits * (-logits).sigmoid()
        size, resize = (features.shape[2], features.shape[3]), RESIZES[ctx.resize]
        pull = torch.func.vjp(lambda masks: resize_masks(masks, size, resize), mask_logits)[1]
        of_masks = pull(of_logits.to(logits.dtype).view_as(logits).unflatten(-1, size))[0]
    return of_features, of_masks, None, None


define("mask_pool(Tensor features, Tensor mask_logits, int weights, int resize) -> Tensor", mask_pool_plain, _shape)
torch.library.register_autograd("ovseg::mask_pool", _backward, setup_context=_save)
