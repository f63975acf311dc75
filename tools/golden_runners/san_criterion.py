"""SAN's criterion: matching, losses and gradients, with the random draws of the original (imported by ``san``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from golden_runners.mask_losses import StageDraws, in_order, inspect_stage, with_gradients
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Prediction, Target
from ovseg.losses.points import Draw


def build_criterion(config: Mapping[str, Any]) -> SetCriterion:
    """Build the criterion of a case."""
    weights = config["weights"]
    return SetCriterion(
        points=config["num_points"],
        oversample=config["oversample_ratio"],
        importance=config["importance_sample_ratio"],
        void_weight=config["eos_coef"],
        loss_weights=(weights["loss_ce"], weights["loss_mask"], weights["loss_dice"]),
        matching_weights=(config["cost_class"], config["cost_mask"], config["cost_dice"]),
    )


def read_targets(inputs: Mapping[str, Tensor]) -> list[Target]:
    """Return the targets of all images of a case."""
    images = sum(key.startswith("labels_image") for key in inputs)
    return [Target(inputs[f"labels_image{i}"], inputs[f"masks_image{i}"]) for i in range(images)]


def stage_names(stages: int) -> list[str]:
    """Return how a case calls the stages of a model, the final one last."""
    return [*(f"aux{i}" for i in range(stages - 1)), "main"]


def stage_draws(inputs: Mapping[str, Tensor], stages: int) -> list[StageDraws]:
    """Return the random points of all stages of a case."""
    images = len(read_targets(inputs))
    return [
        StageDraws(
            [inputs[f"points_matcher_{stage}_image{i}"] for i in range(images)],
            inputs[f"points_oversampled_{stage}"],
            inputs[f"points_random_{stage}"],
        )
        for stage in stage_names(stages)
    ]


def case_draws(inputs: Mapping[str, Tensor], stages: int) -> Draw:
    """Return the draws of a case in the order in which the criterion asks for them."""
    return in_order(stage_draws(inputs, stages))


def inspect(
    criterion: SetCriterion, predictions: Sequence[Prediction], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return costs, matches and points of all stages, by the names of the case."""
    targets, found = read_targets(inputs), {}
    names, draws = stage_names(len(predictions)), stage_draws(inputs, len(predictions))
    for stage, prediction, drawn in zip(names, predictions, draws, strict=True):
        costs, matches, points = inspect_stage(criterion, prediction, targets, drawn)
        for i, (cost, pairs) in enumerate(zip(costs, matches, strict=True)):
            found[f"intermediate.cost_{stage}_image{i}"] = cost
            found[f"output.match_query_{stage}_image{i}"] = pairs.queries
            found[f"output.match_target_{stage}_image{i}"] = pairs.targets
        found[f"intermediate.point_coords_{stage}"] = points
    return found


def run_criterion(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a ``criterion`` case."""
    inputs, config = case.group("input"), case.config
    criterion, stages = build_criterion(config), config["num_aux"] + 1
    names = [*(f"aux{i}_" for i in range(stages - 1)), ""]
    predictions = [Prediction(inputs[f"{name}pred_logits"], inputs[f"{name}pred_masks"]) for name in names]
    losses, total, gradients = with_gradients(criterion, predictions, read_targets(inputs), stage_draws(inputs, stages))
    found = inspect(criterion, predictions, inputs)
    found |= {f"output.{key}": value for key, value in losses.items()} | {"output.total_weighted": total}
    for name, gradient in zip(names, gradients, strict=True):
        found[f"output.grad_{name}pred_logits"] = gradient.class_logits
        found[f"output.grad_{name}pred_masks"] = gradient.mask_logits
    return found
