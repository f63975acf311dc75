"""Prompts that are fitted to labelled pictures: one fused prompt a class in the place of its names.

ConceptBank (arXiv 2602.06333; github.com/PGSmall/ConceptBank): crops of a class near its mean, phrases rated on
them by soft Dice, and the tokens of the good ones averaged. It needs labels, and so is not free of annotation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ovseg.meta_arch.sam3.fusion import CONCEPTBANK, Fusion

PADDING, LEAST_SIDE = 0.2, 128
"""Of the square around a class, as a share of its longer side; and its least side in pixels."""
GREY = 127
NEAR_BEST, KEEP_NAME, TEMPERATURE = 0.3, 0.02, 0.05
RATING = Fusion(fusion=CONCEPTBANK, confidence=0.1, top_k=100)
"""By which phrases are rated."""


class Crop(NamedTuple):
    """A square around a class.

    Attributes:
        box: Left, top, right and bottom, the last pixels included.
        context: Its pixels (3, h, w).
        alone: The same, grey where the class is not.
        mask: (h, w) bool, where the class is.
    """

    box: tuple[int, int, int, int]
    context: Tensor
    alone: Tensor
    mask: Tensor


def crop(
    image: Tensor, labels: Tensor, class_id: int, padding: float = PADDING, least: int = LEAST_SIDE
) -> Crop | None:
    """Cut out the square around all pixels of a class; None where there are none.

    Args:
        image: (3, H, W) uint8.
        labels: (H, W) ids.
        class_id: Of the class.
        padding: See `PADDING`.
        least: Pixels of the shortest side, as far as the image has them.
    """
    mask = labels == class_id
    if not bool(mask.any()):
        return None
    (top, bottom), (left, right) = (mask.any(axis).nonzero().flatten()[[0, -1]].tolist() for axis in (1, 0))
    longer = max(bottom - top, right - left) + 1
    side = max(longer + 2 * int(padding * longer), least)
    (y1, y2), (x1, x2) = (
        _around(*ends, side, length) for ends, length in zip(((top, bottom), (left, right)), labels.shape, strict=True)
    )
    context, own = image[:, y1 : y2 + 1, x1 : x2 + 1], mask[y1 : y2 + 1, x1 : x2 + 1]
    return Crop((x1, y1, x2, y2), context, context.where(own, torch.full_like(context, GREY)), own)


def _around(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    """Return the ends of a side in the middle of two places, as far as the image goes."""
    start = (first + last) // 2 - side // 2
    return max(0, start), min(length - 1, start + side - 1)


def soft_dice(scores: Tensor, mask: Tensor) -> Tensor:
    """Return how well maps (n, h, w) in 0..1 fit a mask (h, w): (n,)."""
    truth = mask.to(scores)
    return (2 * (scores * truth).sum((1, 2)) + 1e-6) / (scores.sum((1, 2)) + truth.sum() + 1e-6)


def weigh(dice: Tensor, name: int = 0) -> Tensor:
    """Return the weights (n,) of phrases by their Dice (n,): those far below the best have none.

    Args:
        dice: Mean over crops.
        name: Place of the word of the class, which counts where it is near the best.
    """
    kept = dice >= dice.max() - NEAR_BEST
    kept[name] |= bool(dice[name] >= dice.max() - KEEP_NAME)
    return (dice / TEMPERATURE).masked_fill(~kept, -torch.inf).softmax(0)


def fuse(tokens: Tensor, mask: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Average phrases place by place, over those that have a token there.

    Args:
        tokens: (n, t, C).
        mask: Which tokens count, (n, t) bool.
        weights: (n,), 0 or more.

    Returns:
        Tokens (t, C), and which of them count (t,).
    """
    share = weights[:, None] * mask
    total = share.sum(0).clamp(min=1e-6)
    return (tokens * share[..., None]).sum(0) / total[:, None], (mask & (weights[:, None] > 0)).any(0)
