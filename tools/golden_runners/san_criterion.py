"""SAN's criterion: matching, losses and gradients, with the random draws of the original (imported by ``san``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import LossWeights, Match, Prediction, Target, match, matching_costs
from ovseg.losses.points import Draw


def build_criterion(config: Mapping[str, Any]) -> SetCriterion:
    """Build the criterion of a case."""
    weights = config["weights"]
    return SetCriterion(
        points=config["num_points"],
        oversample=config["oversample_ratio"],
        importance=config["importance_sample_ratio"],
        void_weight=config["eos_coef"],
        weights=LossWeights(weights["loss_ce"], weights["loss_mask"], weights["loss_dice"]),
        costs=LossWeights(config["cost_class"], config["cost_mask"], config["cost_dice"]),
    )


def read_targets(inputs: Mapping[str, Tensor]) -> list[Target]:
    """Return the targets of all images of a case."""
    images = sum(key.startswith("labels_image") for key in inputs)
    return [Target(inputs[f"labels_image{i}"], inputs[f"masks_image{i}"]) for i in range(images)]


def recorded(draws: list[Tensor]) -> Draw:
    """Return a `Draw` that gives recorded points in order."""
    queue = iter(draws)

    def draw(sets: int, points: int, device: torch.device) -> Tensor:
        found = next(queue)
        if found.shape != (sets, points, 2):
            raise ValueError(f"recorded points are {tuple(found.shape)}; the criterion asks for {(sets, points, 2)}")
        return found.to(device)

    return draw


def stage_names(stages: int) -> list[str]:
    """Return how a case calls the stages of a model, the final one last."""
    return [*(f"aux{i}" for i in range(stages - 1)), "main"]


def case_draws(inputs: Mapping[str, Tensor], stages: int) -> Draw:
    """Return the draws of a case in the order in which the criterion asks: the final stage first."""
    images = len(read_targets(inputs))
    draws = []
    for stage in ("main", *stage_names(stages)[:-1]):
        draws += [inputs[f"points_matcher_{stage}_image{i}"] for i in range(images)]
        draws += [inputs[f"points_oversampled_{stage}"], inputs[f"points_random_{stage}"]]
    return recorded(draws)


def inspect(criterion: SetCriterion, predictions: list[Prediction], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return costs, matches and points of all stages, by the names of the case."""
    targets, found = read_targets(inputs), {}
    for stage, prediction in zip(stage_names(len(predictions)), predictions, strict=True):
        points = torch.cat([inputs[f"points_matcher_{stage}_image{i}"] for i in range(len(targets))])
        costs = matching_costs(prediction, targets, points, criterion.costs)
        matches: list[Match] = match(costs)
        for i, (cost, pairs) in enumerate(zip(costs, matches, strict=True)):
            found[f"intermediate.cost_{stage}_image{i}"] = cost
            found[f"output.match_query_{stage}_image{i}"] = pairs.queries
            found[f"output.match_target_{stage}_image{i}"] = pairs.targets
        draw = recorded([inputs[f"points_oversampled_{stage}"], inputs[f"points_random_{stage}"]])
        matched = criterion.matched_points(prediction.mask_logits, targets, matches, draw)
        found[f"intermediate.point_coords_{stage}"] = matched.points
    return found


def run_criterion(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a ``criterion`` case."""
    inputs, config = case.group("input"), case.config
    criterion, stages = build_criterion(config), config["num_aux"] + 1
    names = [*(f"aux{i}_" for i in range(stages - 1)), ""]
    with torch.enable_grad():
        predictions = [
            Prediction(*(inputs[f"{name}pred_{part}"].clone().requires_grad_() for part in ("logits", "masks")))
            for name in names
        ]
        targets = read_targets(inputs)
        losses = criterion.losses(predictions, targets, case_draws(inputs, stages))
        total = sum(criterion(predictions, targets, case_draws(inputs, stages)).values())
        assert isinstance(total, Tensor)
        total.backward()
    found = inspect(criterion, predictions, inputs)
    found |= {f"output.{key}": value.detach() for key, value in losses.items()}
    found["output.total_weighted"] = total.detach()
    for name, prediction in zip(names, predictions, strict=True):
        for part, tensor in (("logits", prediction.class_logits), ("masks", prediction.mask_logits)):
            assert tensor.grad is not None
            found[f"output.grad_{name}pred_{part}"] = tensor.grad
    return found
