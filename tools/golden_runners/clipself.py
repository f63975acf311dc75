"""CLIPSelf: dense features, pooled boxes and masks, loss and gradients; and how images are cut by a grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip
from golden_runners.eva_clip import eva_clip
from ovseg.checkpoint.eva import open_clip_name
from ovseg.clip import ViTClip
from ovseg.data.grid_crops import GridCrops, grid_choices
from ovseg.losses.self_distillation import cosine_loss
from ovseg.meta_arch.tuned_clip.recipes.clipself import dense_map
from ovseg.ops.box_pooling import pool_boxes, pool_masks


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs of a case."""
    return cut(case) if "image_uint8" in case.group("input") else learn(case)


def cut(case: Any) -> dict[str, Tensor]:
    """Cut an image; places beyond the cells are zero, and their flags too."""
    config, inputs = case.config, case.group("input")
    view = GridCrops(
        config["det_image_size"],
        config["crop_size"],
        tuple(config["mean"]),
        tuple(config["std"]),
        config["max_boxes"],
        config["max_split"],
        config["crop_scale"],
    )
    image = inputs["image_uint8"].permute(1, 2, 0).contiguous().numpy()
    found = view.cut(image, tuple(config["grid_rows_cols"]), inputs["order"].numpy())
    boxes = torch.cat([found["boxes"], torch.ones(len(found["boxes"]), 1)], 1)
    missing = config["max_boxes"] - len(boxes)
    return {
        "output.image": found["square"],
        "output.normed_boxes": F.pad(boxes, (0, 0, 0, missing)),
        "output.image_crops": F.pad(found["crops"], (0, 0, 0, 0, 0, 0, 0, missing)),
        "output.grid_choices": torch.tensor(grid_choices(config["max_split"])),
    }


def learn(case: Any) -> dict[str, Tensor]:
    """Take the loss of a case, and its gradients."""
    inputs, config = case.group("input"), case.config
    student = build(config, case.group("state_dict"))
    state = case.group("teacher_state_dict")
    teacher = build(config, state) if state else build(config, case.group("state_dict"))
    valid = inputs["normed_boxes"][..., 4] > 0.5
    boxes = [own[flags, :4] for own, flags in zip(inputs["normed_boxes"], valid, strict=True)]
    masks = [inputs[f"masks.{i}"] for i in range(len(boxes)) if f"masks.{i}" in inputs]
    crops = inputs["image_crops"][valid]
    name = open_clip_name if config["arch"] == "eva" else str
    weights = dict(student.model.named_parameters())
    trained = {key: weights[name(key)].requires_grad_(True) for key in config["trainable_parameters"]}
    with torch.enable_grad():
        dense = dense_map(student, inputs["images"])
        own = pool_boxes(dense, boxes)
        wanted = teacher.dense(crops).cls.detach()
        loss = cosine_loss(own, wanted)
        loss.backward()
    found = {
        "output.dense_features": dense,
        "output.roi_features": own,
        "output.image_features": student.dense(inputs["images"]).cls,
        "output.student_crop_features": student.dense(crops).cls,
        "output.teacher_crop_features": wanted,
        "output.loss_cosine": loss,
    }
    if masks:
        found["output.mask_pooled"] = pool_masks(dense, masks)
    for key, weight in trained.items():
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        found |= {f"output.grad.{key}": grad, f"output.grad_norm.{key}": grad.norm()}
    return {key: value.detach() for key, value in found.items()}


def build(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case."""
    if config["arch"] == "eva":
        return eva_clip(config, state)
    side = config["image_size"] // config["patch_size"]
    own = {
        **config,
        "pretrain_grid": [side, side],
        "heads": config["width"] // config["head_width"],
        "activation": "quick_gelu" if config["quick_gelu"] else "gelu",
        "ln_eps": config["eps_layernorm"],
    }
    return build_clip(own, state)
