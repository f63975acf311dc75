"""DeCLIP: dense features of every mode, regions of student and teacher, both losses and their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.eva_clip import eva_clip
from ovseg.checkpoint.eva import open_clip_name
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.losses.alignment import backbone_tokens, context_loss, fit_tokens, likeness
from ovseg.losses.self_distillation import cosine_loss
from ovseg.ops.box_pooling import pool_boxes
from ovseg.recalibration import Recalibration, build_recalibration
from ovseg.recalibration.declip import MODES, Belonging, TaughtDeCLIP

PLAIN = {"maskclip": "maskclip", "vanilla": "clip", "sanity_check": "clip"}


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    student = build(config, case.group("state_dict"))
    teacher = build(config, case.group("teacher_state_dict")) if case.group("teacher_state_dict") else student
    images, boxes = inputs["images"], [own[own[:, 4] > 0.5, :4] for own in inputs["normed_boxes"]]
    found = {}
    for key in (key for key in case.tensors if key.startswith("output.dense.")):
        features = student.dense(images, method_of(key.removeprefix("output.dense."))).features
        found[key] = F.normalize(features, dim=1)
    found["output.roi_features_qq"] = regions(
        student.dense(images, method_of("qq")).features, boxes, config["arch"] != "eva"
    )
    crops = inputs["image_crops"].flatten(0, 1)[inputs["normed_boxes"].flatten(0, 1)[:, 4] > 0.5]
    wanted = F.normalize(teacher.dense(crops).cls, dim=-1)
    mode = config["mode"].removesuffix("_vfm_distill")
    if mode not in ("qq", "kk", "vv"):
        return found | {"output.teacher_crop_features": wanted}
    return found | taught(case, student, mode, wanted, boxes)


def taught(case: Any, student: ViTClip, mode: str, wanted: Tensor, boxes: Sequence[Tensor]) -> dict[str, Tensor]:
    """Take the losses of a case, and the lengths of their gradients."""
    inputs, config = case.group("input"), case.config
    name = open_clip_name if config["arch"] == "eva" else str
    weights = dict(student.model.named_parameters())
    trained = {key: weights[name(key)].requires_grad_(True) for key in config["trainable_parameters"]}
    with torch.enable_grad():
        dense = student.dense(inputs["images"], TaughtDeCLIP(mode=mode))
        own = regions(dense.features, boxes, config["arch"] != "eva")
        tokens = dense.context.kept(Belonging).of_patches
        other, size = vfm_tokens(inputs["vfm_features"])
        ours = likeness(fit_tokens(tokens, dense.grid, size, transposed=True))
        context = context_loss(ours, likeness(other)) * config["loss_context_weight"]
        content = cosine_loss(own, wanted) * config["loss_content_weight"]
        total = context + content
        total.backward()
    lengths = {key: torch.zeros(()) if own.grad is None else own.grad.norm() for key, own in trained.items()}
    heads = tokens.unflatten(-1, (student.blocks[-1].heads, -1)).transpose(1, 2).flatten(0, 1)
    # The class of open_clip's towers gives unit vectors also while it is taught.
    raw = dense.features if config["arch"] == "eva" else F.normalize(dense.features, dim=1)
    found = {
        "output.dense_distill_raw": raw,
        "output.student_roi_features": own,
        "output.teacher_crop_features": wanted,
        "output.loss_context_weighted": context,
        "output.loss_content_weighted": content,
        "output.loss_total": total,
        "intermediate.context.0": heads,
        "intermediate.teacher_context_similarity": likeness(other),
        "intermediate.student_context_similarity": ours,
    }
    return {key: value.detach() for key, value in found.items()} | {
        f"output.grad_norm.{key}": length for key, length in lengths.items()
    }


def method_of(mode: str) -> Recalibration:
    """Return what makes the dense features of a mode."""
    mode = mode.removesuffix("_vfm_distill")
    if mode in MODES:
        return build_recalibration("declip", mode=mode)
    return build_recalibration(PLAIN[mode], pos_resize="bicubic")


def vfm_tokens(features: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the tokens (B, N, C) of a second backbone and their grid; those of DINO have a class token before them."""
    if features.ndim == 4:
        return backbone_tokens(features), (features.shape[2], features.shape[3])
    side = int((features.shape[1] - 1) ** 0.5)
    return features[:, 1:], (side, side)


def regions(features: Tensor, boxes: Sequence[Tensor], unit: bool) -> Tensor:
    """Return unit vectors (n, D) of the boxes of each image, 0..1, in features (B, D, h, w), ``unit`` before or not."""
    return F.normalize(pool_boxes(F.normalize(features, dim=1) if unit else features, boxes), dim=-1)


def build(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case, of EVA's kind or open_clip's; a tiny text tower stands in."""
    if config["arch"] == "eva":
        return eva_clip(config, state)
    model_cfg = {
        "embed_dim": config["embed_dim"],
        "quick_gelu": bool(config["quick_gelu"]),
        "vision_cfg": {
            "image_size": config["image_size"],
            "patch_size": config["patch_size"],
            "layers": config["layers"],
            "width": config["width"],
            "head_width": config["head_width"],
            "mlp_ratio": config["mlp_ratio"],
            "norm_kwargs": {"eps": config.get("eps_layernorm", 1e-5)},
        },
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    tower = build_model(model_cfg, "golden case").state_dict()
    text = {key: value for key, value in tower.items() if not key.startswith("visual.")}
    return ViTClip.from_config(model_cfg, {**text, **state}, "golden case")
