"""What the criterion cases of SAN, FC-CLIP and MAFT+ share: recorded draws, costs, matches and points of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Match, Prediction, Target, match, matching_costs
from ovseg.losses.mixed_masks import Pick
from ovseg.losses.points import Draw


class StageDraws(NamedTuple):
    """The random points of one stage.

    Attributes:
        match: (1, P, 2) of each image.
        candidates: (N, 3P, 2).
        rest: (N, P', 2).
    """

    match: list[Tensor]
    candidates: Tensor
    rest: Tensor


class Found(NamedTuple):
    """What the criterion does within one stage: costs and matches of each image, and the points (N, P, 2)."""

    costs: list[Tensor]
    matches: list[Match]
    points: Tensor


def recorded(draws: Sequence[Tensor]) -> Draw:
    """Return a `Draw` that gives recorded points in order."""
    queue = iter(draws)

    def draw(sets: int, points: int, device: torch.device) -> Tensor:
        found = next(queue)
        if found.shape != (sets, points, 2):
            raise ValueError(f"recorded points are {tuple(found.shape)}; the criterion asks for {(sets, points, 2)}")
        return found.to(device)

    return draw


def in_order(stages: Sequence[StageDraws]) -> Draw:
    """Return the draws of all stages, the final one last, in the order in which the criterion asks for them."""
    final_first = [stages[-1], *stages[:-1]]
    return recorded([points for stage in final_first for points in (*stage.match, stage.candidates, stage.rest)])


def picked(inputs: Mapping[str, Tensor]) -> Pick:
    """Return a `Pick` that gives the recorded draws of a case, ``draw.0`` and on, in order."""
    numbers = iter(range(len(inputs)))

    def pick(among: int, count: int) -> Tensor:
        found = inputs[f"draw.{next(numbers)}"][:count]
        if len(found) != count or int(found.max()) >= among:
            raise ValueError(f"recorded draws are {found.tolist()}; asked for are {count} below {among}")
        return found

    return pick


def inspect_stage(
    criterion: SetCriterion, prediction: Prediction, targets: Sequence[Target], draws: StageDraws
) -> Found:
    """Return costs, matches and points of one stage."""
    costs = matching_costs(prediction, targets, torch.cat(draws.match), criterion.costs)
    matches = match(costs)
    draw = recorded([draws.candidates, draws.rest])
    return Found(costs, matches, criterion.matched_points(prediction.mask_logits, targets, matches, draw).points)


def with_gradients(
    criterion: SetCriterion, predictions: Sequence[Prediction], targets: Sequence[Target], stages: Sequence[StageDraws]
) -> tuple[dict[str, Tensor], Tensor, list[Prediction]]:
    """Return the losses without their weights, the weighted total, and its gradients by the predictions."""
    with torch.enable_grad():
        leaves = [Prediction(*(part.clone().requires_grad_() for part in stage)) for stage in predictions]
        losses = criterion.losses(leaves, targets, in_order(stages))
        total = torch.stack(list(criterion(leaves, targets, in_order(stages)).values())).sum()
        gradients = torch.autograd.grad(total, [part for stage in leaves for part in stage])
    pairs = [Prediction(*gradients[i : i + 2]) for i in range(0, len(gradients), 2)]
    return {key: value.detach() for key, value in losses.items()}, total.detach(), pairs
