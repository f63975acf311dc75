"""Which query answers for which target: the Hungarian matching of MaskFormer and Mask2Former (Cheng et al., CVPR 2022).

Used as it is by SAN, FC-CLIP and MAFT+. Costs are taken at points (see `ovseg.losses.points`), in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.losses.points import sample_masks, sample_points


class Target(NamedTuple):
    """What is to be found in one image.

    Attributes:
        labels: Class (T,) int64 of each mask; T may be 0.
        masks: (T, H, W) bool (or 0/1 of any dtype) at the size of the padded batch.
    """

    labels: Tensor
    masks: Tensor


class Prediction(NamedTuple):
    """What one stage of a model found in a batch.

    Attributes:
        class_logits: (B, Q, K + 1), "no object" last.
        mask_logits: (B, Q, h, w) of any resolution.
    """

    class_logits: Tensor
    mask_logits: Tensor


class LossWeights(NamedTuple):
    """Shares of class, mask (binary cross entropy) and dice in a matching cost or in a loss."""

    label: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


WEIGHTS = LossWeights()
"""Those of SAN, FC-CLIP and MAFT+, for costs and losses."""


class Match(NamedTuple):
    """Pairs of one image: ``queries`` (M,) int64, ascending, and their ``targets`` (M,) int64; M = min(Q, T)."""

    queries: Tensor
    targets: Tensor


@torch.no_grad()
def matching_costs(
    prediction: Prediction, targets: Sequence[Target], points: Tensor, weights: LossWeights = WEIGHTS
) -> list[Tensor]:
    """Return for each image what it costs (Q, T) float32 to let a query answer for a target.

    Args:
        prediction: Of one stage.
        targets: One entry for each of the B images.
        points: (B, P, 2) in 0..1; all masks of an image are compared at the same points.
        weights: Of probability, binary cross entropy (mean over the points) and dice.
    """
    probabilities = prediction.class_logits.float().softmax(-1)
    logits = sample_points(prediction.mask_logits, points)
    costs = []
    with torch.autocast(logits.device.type, enabled=False):  # sums over thousands of points need float32
        for index, target in enumerate(targets):
            wanted = torch.arange(len(target.labels), device=logits.device)
            truth = sample_masks(target.masks, wanted, points[index, None])
            found = -weights.label * probabilities[index][:, target.labels]
            found = found + weights.mask * _pairwise_bce(logits[index], truth)
            costs.append(found + weights.dice * _pairwise_dice(logits[index], truth))
    return costs


def match(costs: Sequence[Tensor]) -> list[Match]:
    """Return the cheapest pairs of every image, on the device of the costs; one transfer for all images.

    Args:
        costs: (Q, T) of each image.

    Raises:
        FloatingPointError: A cost is not finite: the model's outputs have overflowed.
    """
    from scipy.optimize import linear_sum_assignment  # a fifth of a second, which inference need not wait for

    flat = torch.cat([cost.flatten() for cost in costs]).cpu()
    if not flat.isfinite().all():
        raise FloatingPointError(
            "the matching cost is not finite, as the model's outputs are not; lower the learning rate or use float32"
        )
    pairs = []
    for cost, part in zip(costs, flat.split([cost.numel() for cost in costs]), strict=True):
        found = linear_sum_assignment(part.view(cost.shape).numpy())
        pairs.append(Match(*(torch.as_tensor(side, dtype=torch.long, device=cost.device) for side in found)))
    return pairs


def _pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean binary cross entropy (Q, T) of logits (Q, P) and targets (T, P)."""
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ truth.T) / logits.shape[-1]


def _pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return one minus the smoothed dice coefficient (Q, T)."""
    shares = logits.sigmoid()
    both = shares @ truth.T
    return 1 - (2 * both + 1) / (shares.sum(-1, keepdim=True) + truth.sum(-1) + 1)
