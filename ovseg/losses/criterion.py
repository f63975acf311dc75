"""The losses of a set of masks (MaskFormer, Mask2Former: Cheng et al., CVPR 2022), shared by SAN, FC-CLIP and MAFT+."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.losses.matcher import WEIGHTS, LossWeights, Match, Prediction, Target, match, matching_costs
from ovseg.losses.points import Draw, sample_masks, sample_points, uncertain_points, uniform_points


class MatchedPoints(NamedTuple):
    """All matched pairs of a batch, image by image.

    Attributes:
        points: Where they are compared, (N, P, 2) in 0..1.
        logits: (N, P) float32.
        truth: (N, P) float32 in 0..1.
    """

    points: Tensor
    logits: Tensor
    truth: Tensor


@dataclass(frozen=True)
class SetCriterion:
    """Cross entropy over all queries, binary cross entropy and dice at points of the matched ones.

    The defaults are those of SAN, FC-CLIP and MAFT+. It holds no parameters.

    Attributes:
        oversample: Candidates for each uncertain point.
        importance: Share of the points that are the most uncertain candidates.
        matching_weights: Of the three parts of the matching cost; None: those of the losses.
        points: Points at which a mask is compared.
        void_weight: Weight of queries without a target in the cross entropy.
        loss_weights: Of the three losses: class, mask, dice.
    """

    oversample: float = 3.0
    importance: float = 0.75
    matching_weights: tuple[float, float, float] | None = None
    _: KW_ONLY
    points: int = 12544
    void_weight: float = 0.1
    loss_weights: tuple[float, float, float] = (WEIGHTS.label, WEIGHTS.mask, WEIGHTS.dice)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            got = f"points {self.points}, oversample {self.oversample}, importance {self.importance}"
            raise ConfigError(f"mask loss with {got}; expected points >= 1, oversample >= 1, importance in 0..1")

    @property
    def costs(self) -> LossWeights:
        """The shares of the three parts of the matching cost."""
        return LossWeights(*self.matching_weights or self.loss_weights)

    def __call__(
        self, predictions: Sequence[Prediction], targets: Sequence[Target], draw: Draw = uniform_points
    ) -> dict[str, Tensor]:
        """Return the weighted losses of all stages, scalars for the trainer to add up.

        Args:
            predictions: One a stage, the final one last.
            targets: One an image; images without targets are fine, and so is a batch of them.
            draw: Gives the random points; it is asked for the final stage first, then for the others in order: one set
                an image for the matching, then the candidates, then the rest.

        Returns:
            ``loss_ce``, ``loss_mask`` and ``loss_dice`` of the final stage; those of stage i end in ``_i``.

        Raises:
            ConfigError: A target's class is not among the K of the predictions.
        """
        losses = self.losses(predictions, targets, draw)
        weights = dict(zip(("loss_ce", "loss_mask", "loss_dice"), self.loss_weights, strict=True))
        return {key: loss * weights["_".join(key.split("_")[:2])] for key, loss in losses.items()}

    def losses(
        self, predictions: Sequence[Prediction], targets: Sequence[Target], draw: Draw = uniform_points
    ) -> dict[str, Tensor]:
        """Return the same without their weights."""
        check_labels(targets, predictions[-1].class_logits.shape[-1] - 1)
        count = average_targets(targets, predictions[-1].mask_logits.device)
        last = len(predictions) - 1
        found = {}
        for stage in (last, *range(last)):
            suffix = "" if stage == last else f"_{stage}"
            prediction = predictions[stage]
            matches = self.match(prediction, targets, draw)
            found[f"loss_ce{suffix}"] = self.class_loss(prediction.class_logits, targets, matches)
            matched = self.matched_points(prediction.mask_logits, targets, matches, draw)
            found[f"loss_mask{suffix}"] = mask_bce(matched.logits, matched.truth) / count
            found[f"loss_dice{suffix}"] = mask_dice(matched.logits, matched.truth) / count
        return found

    def match(self, prediction: Prediction, targets: Sequence[Target], draw: Draw = uniform_points) -> list[Match]:
        """Match the queries of one stage to the targets of each image."""
        device = prediction.mask_logits.device
        points = torch.cat([draw(1, self.points, device) for _ in targets])
        return match(matching_costs(prediction, targets, points, self.costs))

    def class_loss(self, class_logits: Tensor, targets: Sequence[Target], matches: Sequence[Match]) -> Tensor:
        """Return the weighted mean of the cross entropy of class logits (B, Q, K + 1) over all queries."""
        void = class_logits.shape[-1] - 1
        wanted = torch.full(class_logits.shape[:2], void, dtype=torch.long, device=class_logits.device)
        for row, target, pairs in zip(wanted, targets, matches, strict=True):
            row[pairs.queries] = target.labels[pairs.targets]
        weights = torch.ones(void + 1, device=class_logits.device)
        weights[void] = self.void_weight
        return F.cross_entropy(class_logits.float().flatten(0, 1), wanted.flatten(), weights)

    def matched_points(
        self, mask_logits: Tensor, targets: Sequence[Target], matches: Sequence[Match], draw: Draw = uniform_points
    ) -> MatchedPoints:
        """Read mask logits (B, Q, h, w) and the targets of the matched pairs where the logits are least certain."""
        images = torch.cat([torch.full_like(pairs.queries, index) for index, pairs in enumerate(matches)])
        logits = mask_logits[images, torch.cat([pairs.queries for pairs in matches])]
        points = uncertain_points(logits, self.points, self.oversample, self.importance, draw)
        parts = zip(targets, matches, points.split([len(pairs.queries) for pairs in matches]), strict=True)
        truth = torch.cat([sample_masks(target.masks, pairs.targets, part) for target, pairs, part in parts])
        return MatchedPoints(points, sample_points(logits[:, None], points)[:, 0], truth)


def mask_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the binary cross entropy of (N, P), the mean over the points and the sum over the pairs; 0 for none."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()


def mask_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return one minus the smoothed dice coefficient of (N, P), the sum over the pairs; 0 for none."""
    shares = logits.sigmoid()
    both = (shares * truth).sum(1)
    return (1 - (2 * both + 1) / (shares.sum(1) + truth.sum(1) + 1)).sum()


def average_targets(targets: Sequence[Target], device: torch.device) -> Tensor:
    """Return how many targets a process has on average, matched or not, at least 1; a scalar."""
    count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)


def check_labels(targets: Sequence[Target], classes: int) -> None:
    """Refuse class ids that the model does not have; on an accelerator they would end the process."""
    labels = torch.cat([target.labels for target in targets])
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        low, high = int(labels.min()), int(labels.max())
        raise ConfigError(f"target classes range from {low} to {high}; expected 0 to {classes - 1}, the vocabulary's")
