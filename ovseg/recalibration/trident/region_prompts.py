"""Regions of a coarse label map, redrawn by SAM: each becomes a box, a point and a mask prompt.

Shi et al., Trident, ICCV 2025; github.com/YuHengsss/Trident, seg_utils/utils.py. Regions are found at half the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import at_least, one_of, within
from ovseg.guides.sam_image import SamImage, ask, fitted, whole_mask

if TYPE_CHECKING:
    from ovseg.contract import Answer
    from ovseg.labelling.shares import ClassShares

_NOTHING = -2  # where no class is likely enough; below "no class", which is one here
REGIONS_PER_CALL = 16
MASK_PROMPTS = ("corrected", "original")


@dataclass(frozen=True)
class Prompting:
    """Which regions are redrawn, and whose redrawing counts.

    Attributes:
        coarse_threshold: Least probability of a class in 0..1, of pixels and of its peak.
        least_area: Pixels at half the size.
        mask_factor: Of the probabilities that make the mask prompt.
        least_quality: Masks are kept that SAM takes to be better than this, in 0..1.
        mask_prompt: ``corrected`` or ``original``; see `ovseg.recalibration.trident.Trident`.

    Raises:
        ConfigError: A value is out of range.
    """

    coarse_threshold: float
    least_area: int
    mask_factor: float
    least_quality: float
    mask_prompt: str = MASK_PROMPTS[0]

    def __post_init__(self) -> None:
        """Check the values."""
        within("coarse_threshold", self.coarse_threshold, 0, 1)
        at_least("least_area", self.least_area, 0)
        at_least("mask_factor", self.mask_factor, 0)
        within("least_quality", self.least_quality, 0, 1)
        one_of("mask_prompt", self.mask_prompt, MASK_PROMPTS)


@dataclass(frozen=True)
class Regions:
    """The regions of a class at half the size.

    Attributes:
        boxes: (R, 4) x0, y0, x1, y1 in pixels, all inclusive.
        points: (R, 2) x and y of the likeliest pixel.
    """

    boxes: Tensor
    points: Tensor


def find_regions(own: Tensor, share: Tensor, least: int) -> Regions:
    """Find the regions of a class, connected by sides and corners; each is looked at inside of its box alone.

    Args:
        own: Where the class is (h, w) bool.
        share: Its probability (h, w).
        least: Pixels of the smallest that count.
    """
    import cv2

    count, parts, facts, _ = cv2.connectedComponentsWithStats(own.byte().cpu().numpy(), connectivity=8)
    likely, boxes, points = share.cpu().numpy(), [], []
    for index in range(1, count):
        left, top, wide, high, area = facts[index].tolist()
        if area < least:
            continue
        box = slice(top, top + high), slice(left, left + wide)
        y, x = divmod(int(np.where(parts[box] == index, likely[box], -np.inf).argmax()), wide)
        boxes.append([left, top, left + wide - 1, top + high - 1])
        points.append([left + x, top + y])
    found = (torch.tensor(rows, dtype=torch.float32, device=own.device) for rows in (boxes, points))
    return Regions(next(found).view(-1, 4), next(found).view(-1, 2))


def mask_prompt(share: Tensor, size: tuple[int, int], side: int, threshold: float, factor: float) -> Tensor:
    """Return the mask prompt (1, 1, side, side) of a class, in whose square the photograph's longer side is whole.

    Args:
        share: Probability (h, w).
        size: Height and width of the photograph.
        side: Of SAM's mask prompts.
        threshold: What is no more likely is left out.
        factor: Of the rest.
    """
    height, width = fitted(size, side)
    small = F.interpolate(share[None, None], (height, width), mode="bilinear", align_corners=False)
    small = torch.where(small > threshold, small * factor, 0)
    return F.pad(small, (0, side - width, 0, side - height))


def redrawn(sam: Any, image: SamImage, answer: Answer, shares: ClassShares, rule: Prompting) -> Answer:
    """Return an answer whose regions SAM has redrawn; where none of its masks that are kept lies, it is as it was.

    Scores of all classes follow suit, so that they say what labels say. (In the original they are 0 where no mask lies,
    and no less than before in regions whose mask was not kept, whatever the label is there.)

    Args:
        sam: A SAM of segment_anything.
        image: What it has seen of the photograph.
        answer: The coarse one.
        shares: Probabilities of the classes at its size.
        rule: Which regions, and whose redrawing counts.
    """
    labels, best = torch.full_like(answer.labels, -1), torch.zeros_like(answer.scores, dtype=torch.float32)
    every = None if answer.class_scores is None else torch.zeros_like(answer.class_scores)
    for index, own, share in claims(answer.labels, shares, rule):
        scores = redraw(sam, image, own, share, rule)
        better = scores > best
        labels[better], best[better] = index, scores[better]
        if every is not None and index >= 0:
            every[index] = scores
    drawn = best > 0
    if every is not None and answer.class_scores is not None:
        torch.where(drawn, every, answer.class_scores, out=every)
    return replace(
        answer,
        labels=labels.where(drawn, answer.labels),
        scores=best.to(answer.scores.dtype).where(drawn, answer.scores),
        class_scores=every,
    )


def claims(labels: Tensor, shares: ClassShares, rule: Prompting) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield every class that may have regions, with -1 like a class; arguments as of `redrawn`.

    Yields:
        A class, where it is at half the size (h, w) bool, and its probability (H, W).
    """
    half = half_size(labels)
    small = F.interpolate(labels[None, None].float(), half, mode="nearest")[0, 0].int()
    likely, best, peaks = shares.likely(rule.coarse_threshold), torch.zeros(half, device=labels.device), []
    for index in likely:  # the others change nothing below
        share = halved(shares.of(index), half)
        best = torch.maximum(best, share)
        peaks.append(share.max())
    small = small.masked_fill(best < rule.coarse_threshold, _NOTHING)
    there = set(small.unique().tolist())
    for index, peak in zip(likely, torch.stack(peaks).tolist() if peaks else (), strict=True):
        if peak >= rule.coarse_threshold and index in there:
            yield index, small == index, shares.of(index)


def half_size(labels: Tensor) -> tuple[int, int]:
    """Return half the size of a map (H, W), rounded down."""
    return max(labels.shape[0] // 2, 1), max(labels.shape[1] // 2, 1)


def halved(share: Tensor, half: tuple[int, int]) -> Tensor:
    """Return a probability (H, W) at half the size, bilinear."""
    return F.interpolate(share[None, None], half, mode="bilinear", align_corners=False)[0, 0]


def redraw(sam: Any, image: SamImage, own: Tensor, share: Tensor, rule: Prompting) -> Tensor:
    """Return the scores (H, W) of the masks of a class that are kept; 0 where none of them is.

    Args:
        sam: As in `redrawn`.
        image: Likewise.
        own: Where the class is at half the size (h, w).
        share: Its probability (H, W).
        rule: As in `redrawn`.
    """
    scores, size = torch.zeros_like(share), (share.shape[0], share.shape[1])
    for _, masks, quality in asked(sam, image, own, share, rule):
        for mask in masks[quality > rule.least_quality]:
            seen = whole_mask(sam, image, mask)
            full = F.interpolate(seen[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            scores = torch.maximum(scores, torch.where(full > 0, full.sigmoid() * share, 0))
    return scores


def asked(
    sam: Any, image: SamImage, own: Tensor, share: Tensor, rule: Prompting
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ask SAM about the regions of a class, some at a time; arguments as of `redraw`.

    Yields:
        A pixel of each region at half the size, its column and row (R, 2), and what `ask` says.
    """
    half, size = (own.shape[0], own.shape[1]), (share.shape[0], share.shape[1])
    likely = halved(share, half)
    regions = find_regions(own, likely, rule.least_area)
    prompt = mask_prompt(likely, size, 4 * image.embedding.shape[-1], rule.coarse_threshold, rule.mask_factor)
    prompt = prompt[0] if rule.mask_prompt == "original" else prompt
    for some in torch.arange(len(regions.points)).split(REGIONS_PER_CALL) if len(regions.points) else ():
        points = regions.points[some]
        yield points, *ask(sam, image, points, regions.boxes[some], prompt, half)
