"""Patch scores that PAMR refines before they come to the photograph: at the size of the network input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ovseg.labelling.scores import upsample
from ovseg.ops.late_scores import Scores, make_scores, some_of
from ovseg.ops.windows import WindowPlan
from ovseg.refinement import affinity, propagate

QUERIES_PER_REFINEMENT = 64


def refined(
    scores: Scores, plan: WindowPlan, image: Tensor, steps: int, dilations: Sequence[int], windows: bool
) -> Scores:
    """Return scores (T, h, w) at the size of the network input, all at once where these are not too many.

    Args:
        scores: Patch scores (T, ...) of all windows side by side.
        plan: The windows.
        image: The normalised network input (3, h, w).
        steps: See `ovseg.refinement.propagate`.
        dilations: Likewise.
        windows: Whether each window is refined by itself, before they are averaged.
    """
    make = _in_windows if windows else _whole
    size = (image.shape[1], image.shape[2])
    own = partial(make, scores, plan, image, steps, dilations)
    return make_scores(own, (len(scores), *size), scores.device)


def _whole(
    scores: Scores, plan: WindowPlan, image: Tensor, steps: int, dilations: Sequence[int], queries: Tensor
) -> Tensor:
    """Refine the scores of some queries: (t, h, w)."""
    weights = affinity(image[None].float(), dilations)
    rows, columns = plan.matrices((image.shape[1], image.shape[2]), (scores.shape[1], scores.shape[2]))
    found = torch.empty(len(queries), *image.shape[1:], device=scores.device)
    own = some_of(scores, queries)
    for part, target in zip(own.split(QUERIES_PER_REFINEMENT), found.split(QUERIES_PER_REFINEMENT), strict=True):
        target.copy_(propagate(upsample(part, rows, columns)[None], weights, steps, dilations)[0])
    return found


def _in_windows(
    scores: Scores, plan: WindowPlan, image: Tensor, steps: int, dilations: Sequence[int], queries: Tensor
) -> Tensor:
    """Refine the scores of some queries in each window, and average these: (t, h, w)."""
    high, wide = scores.shape[1] // len(plan.rows.starts), scores.shape[2] // len(plan.columns.starts)
    rows, columns = plan.rows.own(high).float(), plan.columns.own(wide).float()
    total, every = torch.zeros(len(queries), *image.shape[1:], device=scores.device), some_of(scores, queries)
    count = total.new_zeros(image.shape[1:])
    for i, top in enumerate(plan.rows.starts):
        for j, left in enumerate(plan.columns.starts):
            own = slice(top, top + plan.rows.size), slice(left, left + plan.columns.size)
            weights = affinity(image[:, own[0], own[1]][None].float(), dilations)
            cells = every[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            for part, target in zip(
                cells.split(QUERIES_PER_REFINEMENT), total.split(QUERIES_PER_REFINEMENT), strict=True
            ):
                maps = upsample(part, rows, columns)[None]
                target[:, own[0], own[1]] += propagate(maps, weights, steps, dilations)[0]
            count[own] += 1
    return total.div_(count)
