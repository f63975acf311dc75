"""The mask-aware loss of MAFT+ (Jiao et al., ECCV 2024; github.com/jiaosiyu1999/MAFT-Plus).

The class probability of a region shall follow how well the region fits the object. The authors' code calls it the
ranking loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.losses.matcher import Target
from ovseg.ops.bilinear import bilinear_matrix


def mask_aware_loss(class_logits: Tensor, mask_logits: Tensor, targets: Sequence[Target]) -> Tensor:
    """Compare the probability of each target's class with how well each query's mask fits the target.

    Args:
        class_logits: (B, Q, K + 1), "no object" last, which is left out before the softmax.
        mask_logits: (B, Q, h, w); no gradient reaches them.
        targets: One an image; images without targets are fine.

    Returns:
        Smooth L1 loss, the mean over all targets and queries; 0 where the batch has no target (the original cannot).
    """
    probabilities = class_logits[..., :-1].float().softmax(-1)
    found = torch.cat([x[:, target.labels].mT for x, target in zip(probabilities, targets, strict=True)])
    fits = [fit_of_masks(x, target.masks) for x, target in zip(mask_logits, targets, strict=True)]
    if not len(found):
        return found.sum() + class_logits.sum() * 0
    return F.smooth_l1_loss(found, spread(torch.cat(fits)))


@torch.no_grad()
def fit_of_masks(mask_logits: Tensor, masks: Tensor) -> Tensor:
    """Return the soft intersection over union (T, Q) float32 of every target with every query's mask.

    Probabilities are upsampled bilinearly to the targets. As that is linear, the targets are brought to the queries'
    resolution by the transposed map instead, which gives the same sums without upsampling any query.

    Args:
        mask_logits: (Q, h, w).
        masks: Targets (T, H, W) of any dtype.
    """
    shares = mask_logits.float().sigmoid().flatten(1)
    sides = zip(mask_logits.shape[1:], masks.shape[1:], strict=True)
    rows, columns = (bilinear_matrix(*side).float().to(mask_logits.device) for side in sides)
    with torch.autocast(mask_logits.device.type, enabled=False):  # sums over all pixels need float32
        truth = torch.stack([rows.mT @ mask.float() @ columns for mask in masks]) if len(masks) else masks.new_zeros(0)
        truth = truth.float().view(len(masks), shares.shape[1])
        pixels = (rows.sum(0)[:, None] * columns.sum(0)).flatten()  # how many pixels each cell stands for
        both = truth @ shares.mT
        return both / (truth.sum(1, keepdim=True) + shares @ pixels - both + 1e-7)


def spread(fits: Tensor) -> Tensor:
    """Stretch the fits (T, Q) of each target to 0..1 over the queries."""
    low, high = fits.aminmax(dim=1, keepdim=True)
    return (fits - low) / (high - low + 1e-8)
