"""The masks by which an adapter of masks learns, and its losses (Mask-Adapter, Li et al., CVPR 2025).

At first it learns on true masks alone, then on a fixed number of true ones, of proposed ones that fit a true one, and
of these true ones; an image that has fewer gets masks without a class in their place. These are empty, but the proposed
ones among them are cut out of logits of 0, as in the original: with an adapter's threshold below 0.5 (MAFT+) they are
the whole image. So they have no class to learn, and pairs of them a distance that counts in ``loss_cosine``. Every
random draw comes from a `Pick`, so that recorded draws can take its place. Source: github.com/hustvl/MaskAdapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError, at_least, one_of, within
from ovseg.losses.matcher import Target

Pick = Callable[[int, int], Tensor]
"""``pick(among, count)`` draws ``count`` different numbers (count,) int64 below ``among``."""
NO_CLASS = -1
STAGES = ("ground-truth", "mixed")


def uniform_pick(among: int, count: int) -> Tensor:
    """Draw uniformly, on the CPU; the usual `Pick`."""
    return torch.randperm(among)[:count]


@dataclass(frozen=True, kw_only=True)
class AdapterRule:
    """How an adapter is trained.

    Attributes:
        adapter_stage: ``ground-truth``, the warm-up by true masks alone, or ``mixed``.
        adapter_true_masks: How many true masks an image has at the most.
        adapter_matched_masks: How many pairs of a proposed and a true mask an image has; those it lacks are made up by
            pairs without a class, whose proposed masks are the whole image below an ``adapter_threshold`` of 0.5.
        adapter_overlap: The intersection over union above which a proposed mask fits a true one.
        adapter_inside: The probability from which on a pixel counts as proposed, for that.
        adapter_target_gradient: Whether embeddings of true masks move towards those of the proposed ones, too.
        adapter_loss_weights: Of the classes and of the embeddings.

    Raises:
        ConfigError: A value is out of range.
    """

    adapter_stage: str = "mixed"
    adapter_true_masks: int = 16
    adapter_matched_masks: int = 8
    adapter_overlap: float = 0.7
    adapter_inside: float = 0.4
    adapter_target_gradient: bool = False
    adapter_loss_weights: tuple[float, float] = (2.0, 5.0)

    def __post_init__(self) -> None:
        """Check the ranges."""
        one_of("adapter_stage", self.adapter_stage, STAGES)
        at_least("adapter_true_masks", self.adapter_true_masks, 1)
        at_least("adapter_matched_masks", self.adapter_matched_masks, 1)
        within("adapter_inside", self.adapter_inside, 0, 1)
        if not 0 <= self.adapter_overlap < 1:
            raise ConfigError(f"adapter_overlap is {self.adapter_overlap}; expected a share from 0 to below 1")
        if len(self.adapter_loss_weights) != 2:
            raise ConfigError(
                f"adapter_loss_weights is {self.adapter_loss_weights}; expected two, of classes and pairs"
            )
        for weight in self.adapter_loss_weights:
            at_least("adapter_loss_weights", weight, 0)

    @property
    def warms_up(self) -> bool:
        """Whether it learns by true masks alone."""
        return self.adapter_stage == STAGES[0]

    def losses(self, logits: Tensor, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses.

        Args:
            logits: Of the masks (B, N, K + 1), "no object" last: N true ones, or these, proposed ones and theirs.
            embeddings: Of the masks (B, N, D), of any length.
            labels: Class (B, N) int64 of each; masks of `NO_CLASS` do not count for ``loss_ce``.

        Returns:
            ``loss_ce``, and with mixed masks ``loss_cosine``: how far each proposed mask is from its true one, the
            mean over all places for pairs, those without a class too.
        """
        counted = (labels != NO_CLASS).sum().clamp(min=1)
        crossed = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=NO_CLASS, reduction="sum"
        )
        of_classes, of_pairs = self.adapter_loss_weights
        found = {"loss_ce": of_classes * crossed / counted}
        if not self.warms_up:
            pairs = self.adapter_matched_masks
            proposed, true = embeddings.float()[:, -2 * pairs :].split(pairs, 1)
            near = F.cosine_similarity(proposed, true if self.adapter_target_gradient else true.detach(), dim=-1)
            found["loss_cosine"] = of_pairs * (1 - near.mean())
        return found


class Pairs(NamedTuple):
    """Proposed masks that fit true ones, P an image; where there are fewer, the rest has no class.

    Attributes:
        logits: Of the proposed ones (B, P, h, w); 0 where there is none, which is a probability of one half.
        truth: The true ones, resized to them (B, P, h, w) float32 in 0..1; empty where there is none.
        labels: Their classes (B, P) int64; `NO_CLASS` where there is none.
    """

    logits: Tensor
    truth: Tensor
    labels: Tensor


@torch.no_grad()
def masks_to_learn(
    targets: Sequence[Target],
    mask_logits: Tensor | None,
    rule: AdapterRule,
    threshold: float,
    padded: tuple[int, int],
    size: tuple[int, int],
    pick: Pick = uniform_pick,
) -> tuple[Tensor, Tensor]:
    """Return the masks of a batch by which an adapter learns, and their classes.

    Args:
        targets: One an image.
        mask_logits: Of the proposed masks (B, Q, h, w); None where true masks are all.
        rule: How many of which.
        threshold: A proposed mask is where its probability exceeds this.
        padded: Height and width of the images.
        size: Those of the result.
        pick: Is asked for the true masks of all images first, then for the pairs.

    Returns:
        Masks (B, N, h, w) float32 in 0..1 and labels (B, N) int64, as `AdapterRule.losses` takes them.
    """
    count = rule.adapter_true_masks
    true = [draw_true(target, count, pick) for target in targets]
    masks = torch.stack([filled(resized(one.masks, size), count, 0) for one in true])
    labels = torch.stack([filled(one.labels, count, NO_CLASS) for one in true])
    if mask_logits is None:
        return masks, labels
    pairs = match_by_overlap(mask_logits, targets, rule, pick)
    both = (pairs.logits.sigmoid() > threshold).float(), pairs.truth
    # In two steps, as in the original, where they lie beside true masks of the size of the images.
    more = [torch.stack([resized(resized(own, padded), size) for own in one]) for one in both]
    return torch.cat([masks, *more], 1), torch.cat([labels, pairs.labels, pairs.labels], 1)


def draw_true(target: Target, count: int, pick: Pick = uniform_pick) -> Target:
    """Return true masks of an image that are not empty: all of them, or ``count`` that are drawn."""
    rows = target.masks.flatten(1).any(1).nonzero()[:, 0]
    if len(rows) > count:
        rows = rows[pick(len(rows), count).to(rows.device)]
    return Target(target.labels[rows], target.masks[rows])


@torch.no_grad()
def overlaps(mask_logits: Tensor, truth: Tensor, inside: float) -> Tensor:
    """Return the intersection over union (Q, T) of proposed and true masks.

    Args:
        mask_logits: (Q, h, w).
        truth: (T, h, w) in 0..1; a mask is where it exceeds one half.
        inside: The probability from which on a pixel counts as proposed.
    """
    found = (mask_logits.float().sigmoid() >= inside).flatten(1).float()
    wanted = (truth > 0.5).flatten(1).float()
    with torch.autocast(found.device.type, enabled=False):  # counts of pixels need float32
        both = found @ wanted.mT
    return both / (found.sum(1, keepdim=True) + wanted.sum(1) - both + 1e-6)


@torch.no_grad()
def match_by_overlap(
    mask_logits: Tensor, targets: Sequence[Target], rule: AdapterRule, pick: Pick = uniform_pick
) -> Pairs:
    """Draw for each true mask one of the proposed ones that fit it; if these are too many, draw among the pairs.

    A proposed mask may fit several true ones.

    Args:
        mask_logits: (B, Q, h, w).
        targets: One an image.
        rule: How.
        pick: Is asked image by image: once for each true mask that any fits, in order, then for the pairs.
    """
    size, count = (mask_logits.shape[2], mask_logits.shape[3]), rule.adapter_matched_masks
    found = []
    for logits, target in zip(mask_logits, targets, strict=True):
        truth = resized(target.masks, size)
        fits = (overlaps(logits, truth, rule.adapter_inside) > rule.adapter_overlap).cpu()
        pairs = []
        for row, column in enumerate(fits.unbind(1)):
            if len(candidates := column.nonzero()[:, 0]):
                pairs.append((int(candidates[pick(len(candidates), 1)]), row))
        if len(pairs) > count:
            pairs = [pairs[place] for place in pick(len(pairs), count).tolist()]
        queries, rows = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
        queries, rows = queries.to(logits.device), rows.to(logits.device)
        found.append(Pairs(logits[queries].float(), truth[rows], target.labels[rows]))
    return Pairs(
        torch.stack([filled(one.logits, count, 0) for one in found]),
        torch.stack([filled(one.truth, count, 0) for one in found]),
        torch.stack([filled(one.labels, count, NO_CLASS) for one in found]),
    )


def resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks (N, H, W) of any dtype bilinearly to (N, h, w) float32."""
    return F.interpolate(masks.float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def filled(rows: Tensor, count: int, value: int) -> Tensor:
    """Return as many rows (N, ...) as wanted: behind these, rows of a value."""
    return torch.cat([rows, rows.new_full((count - len(rows), *rows.shape[1:]), value)])
