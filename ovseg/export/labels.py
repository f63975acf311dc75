"""From patch scores or masks to a label for every pixel, as parts of a graph.

Unlike in `ovseg.labelling` nothing is streamed: a graph holds one number for every word and every pixel at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.labelling.scores import ScoreRule
from ovseg.ops.any_size import AnyAxis, join, linear_matrix

Size = tuple[int, int]


def label_patches(
    scores: Tensor, axes: tuple[AnyAxis, AnyAxis], size: Size, query_to_class: Tensor, rule: ScoreRule
) -> tuple[Tensor, Tensor]:
    """Label every pixel by its best word.

    Args:
        scores: (N, T, h, w) of the windows of an image.
        axes: Its windows.
        size: Height and width of the result.
        query_to_class: (T,), -1 for words of the background.
        rule: Scale, softmax, and the threshold of the model itself.

    Returns:
        Labels (H, W) int32, -1 for no class, and scores (H, W) float32.
    """
    cells = (scores.shape[2], scores.shape[3])
    rows, columns = (axis.matrix(side, count) for axis, side, count in zip(axes, size, cells, strict=True))
    patches = join(scores, *axes).float() * (1 if rule.min_max else rule.logit_scale)
    maps = rows @ patches @ columns.mT
    maps = _stretched(maps, patches, rule)
    best, place = maps.max(0)
    score = (best - maps.logsumexp(0)).exp() if rule.softmax else best.clamp(0, 1)
    labels = query_to_class[place]
    if rule.prob_threshold > 0:
        labels = labels.where(score >= rule.prob_threshold, rule.threshold_label)
    return labels.int(), score


def _stretched(maps: Tensor, patches: Tensor, rule: ScoreRule) -> Tensor:
    """Stretch whole maps (T, H, W), as `ScoreRule` says of ``keep_peak`` and ``min_max``."""
    tiny = torch.finfo(torch.float32).tiny
    if rule.keep_peak:
        now, wanted = (one.amax((1, 2), keepdim=True).clamp_min(tiny) for one in (maps, patches))
        maps = maps * (wanted / now)
    if rule.min_max:
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        maps = (maps - low) / (high - low + (1e-6 if rule.keep_peak else tiny)) * rule.logit_scale
    return maps


def label_masks(
    shares: Tensor, masks: Tensor, sizes: tuple[Size, Size, Size], query_to_class: Tensor, sigmoid_first: bool
) -> tuple[Tensor, Tensor]:
    """Label every pixel by the largest sum over masks of class times mask probability.

    Args:
        shares: Class probabilities (Q, T + 1), "no object" last.
        masks: Logits (Q, h, w).
        sizes: Heights and widths of the padded image, of the image in it, and of the result.
        query_to_class: (T,), -1 for words of the background.
        sigmoid_first: See `ovseg.labelling.mask_resize.plan_resize`.

    Returns:
        Labels (H, W) int32, -1 for no class, and scores (H, W) float32, cut at 1.
    """
    ways = []
    for grid, padded, image, output in zip((masks.shape[1], masks.shape[2]), *sizes, strict=True):
        ways.append((linear_matrix(grid, padded)[:image], linear_matrix(image, output)))
    (rows, rows_after), (columns, columns_after) = ways
    if sigmoid_first:
        inside = _sigmoid(rows.float() @ masks @ columns.float().mT)
        inside = rows_after.float() @ inside @ columns_after.float().mT
    else:
        inside = _sigmoid((rows_after @ rows).float() @ masks @ (columns_after @ columns).float().mT)
    sums = shares[:, :-1].mT @ inside.flatten(1)
    best, place = sums.max(0)
    labels = query_to_class[place].reshape(inside.shape[1:])
    return labels.int(), best.clamp(0, 1).reshape(inside.shape[1:])


def label_maps(logits: Tensor, size: Size, query_to_class: Tensor) -> tuple[Tensor, Tensor]:
    """Label every pixel by its most probable word.

    Args:
        logits: (T, h, w) of all words on the whole image.
        size: Height and width of the result.
        query_to_class: (T,), -1 for words of the background.

    Returns:
        Labels (H, W) int32, -1 for no class, and scores (H, W) float32.
    """
    ways = zip(logits.shape[1:], size, strict=True)
    rows, columns = (linear_matrix(cells, side).float() for cells, side in ways)
    best, place = (rows @ _sigmoid(logits) @ columns.mT).max(0)
    return query_to_class[place].int(), best.clamp(0, 1)


def _sigmoid(logits: Tensor) -> Tensor:
    """Return the sigmoid, also of logits below -18: there that of ONNX Runtime ends, and all masks would be equal."""
    small = (-logits.abs()).exp()
    return torch.where(logits < 0, small, 1.0) / (1 + small)
