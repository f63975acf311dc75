"""The losses and the post-processing of FC-CLIP (imported by ``fcclip``; the draws also by ``maft_plus``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from golden_runners.mask_losses import StageDraws, inspect_stage, with_gradients
from golden_runners.product import instance_outputs, panoptic_outputs
from ovseg.labelling.mask_objects import instances, panoptic
from ovseg.labelling.mask_resize import MaskResize, plan_resize
from ovseg.labelling.masks import class_maps
from ovseg.labelling.objects import MaskRule
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Prediction, Target


def build_criterion(config: Mapping[str, Any]) -> SetCriterion:
    """Build the criterion of a case; whole training steps do not name the costs, which are those of the losses."""
    weights = [config[f"weight_{part}"] for part in ("ce", "mask", "dice")]
    costs = [
        config.get(f"cost_{part}", weight) for part, weight in zip(("class", "mask", "dice"), weights, strict=True)
    ]
    return SetCriterion(
        points=config["num_points"],
        oversample=config["oversample_ratio"],
        importance=config["importance_sample_ratio"],
        void_weight=config["eos_coef"],
        loss_weights=tuple(weights),
        matching_weights=tuple(costs),
    )


def read_targets(inputs: Mapping[str, Tensor]) -> list[Target]:
    """Return the targets of all images of a case."""
    images = sum(key.startswith("labels.") for key in inputs)
    return [Target(inputs[f"labels.{i}"], inputs[f"gt_masks.{i}"]) for i in range(images)]


def stage_draws(inputs: Mapping[str, Tensor], stages: int) -> list[StageDraws]:
    """Return the random points of all predictions of a case, the final one last."""
    images = len(read_targets(inputs))
    return [
        StageDraws(
            [inputs[f"rand.{stage}.match.{i}"] for i in range(images)],
            inputs[f"rand.{stage}.oversampled"],
            inputs[f"rand.{stage}.random"],
        )
        for stage in range(stages)
    ]


def run_losses(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a ``losses`` case."""
    inputs, criterion = case.group("input"), build_criterion(case.config)
    stages, targets = case.config["num_predictions"], read_targets(inputs)
    predictions = [Prediction(inputs[f"pred_logits.{i}"], inputs[f"pred_masks.{i}"]) for i in range(stages)]
    draws = stage_draws(inputs, stages)
    losses, total, gradients = with_gradients(criterion, predictions, targets, draws)
    found = {"output.total_weighted": total}
    for stage, (prediction, drawn) in enumerate(zip(predictions, draws, strict=True)):
        suffix = "" if stage == stages - 1 else f"_{stage}"
        for part in ("loss_ce", "loss_mask", "loss_dice"):
            found[f"output.{part}.{stage}"] = losses[f"{part}{suffix}"]
        found[f"output.grad_logits.{stage}"], found[f"output.grad_masks.{stage}"] = gradients[stage]
        costs, matches, found[f"intermediate.points.{stage}"] = inspect_stage(criterion, prediction, targets, drawn)
        for i, (cost, pairs) in enumerate(zip(costs, matches, strict=True)):
            found[f"intermediate.cost.{stage}.{i}"] = cost
            found[f"output.match.{stage}.{i}.query"], found[f"output.match.{stage}.{i}.target"] = pairs
    return found


def run_postprocess(case: Any) -> dict[str, Tensor]:
    """Return all outputs of a ``postprocess`` case; its masks have the output's size already."""
    inputs, config = case.group("input"), case.config
    size = (inputs["mask_pred"].shape[1], inputs["mask_pred"].shape[2])
    settings = {"instance_on": True, **config, "num_test_classes": config["num_classes"]}
    settings["topk"] = config.get("topk_per_image", TOP_K)
    resize = plan_resize(size, size, size, size)
    found = whole_results(inputs["mask_cls"], inputs["mask_pred"], resize, settings)
    return {f"output.{key}": value for key, value in found.items()}


TOP_K = 100
"""What a case has that does not name how many instances there are, for it has none."""


def mask_rule(config: Mapping[str, Any]) -> MaskRule:
    """Return what the settings of a case make of masks."""
    return MaskRule(
        config.get("topk", TOP_K),
        panoptic=config.get("panoptic_on", False),
        instances=config.get("instance_on", False),
        object_threshold=config.get("object_mask_threshold", 0.0),
        overlap_threshold=config.get("overlap_threshold", 0.0),
    )


def whole_results(
    class_scores: Tensor, mask_logits: Tensor, resize: MaskResize, config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the semantic results of one image, and those of objects that are on, by the names of the cases.

    Args:
        class_scores: Log-probabilities (Q, K + 1).
        mask_logits: (Q, h, w).
        resize: The way of the masks to the output.
        config: The settings of a case.
    """
    probabilities, rule = class_scores.softmax(-1), mask_rule(config)
    things = torch.zeros(config["num_test_classes"], dtype=torch.bool)
    things[config.get("thing_class_ids", [])] = True
    found = {"sem_seg": class_maps(probabilities, mask_logits, resize)}
    if rule.panoptic:
        thresholds = rule.object_threshold, rule.overlap_threshold
        found |= panoptic_outputs(*panoptic(probabilities, mask_logits, resize, things, *thresholds))
    if rule.instances:
        wanted = things if rule.panoptic else None
        objects = instances(probabilities, mask_logits, resize, rule.top_k, wanted)
        found |= instance_outputs(objects, resize.size)
    return found
