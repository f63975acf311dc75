"""PixelCLIP: the even assignment alone, a step of training, and scores of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import MAPS, build_method, resize, show
from golden_runners.product import ensemble
from ovseg.clip import ViTClip
from ovseg.clip.normalise import normalise
from ovseg.clip.open_clip_internals import build_model
from ovseg.clip.prompted import embed_sentences, place_prompts
from ovseg.losses.cluster_head import MapHead
from ovseg.losses.clusters import cluster_loss, merged_targets, pool_masks, shrink_masks, sinkhorn
from ovseg.recalibration.pixelclip import PixelCLIP

CLIP, TEACHER, PROMPTS = (
    "sem_seg_head.predictor.clip_model.",
    "teacher_encoder.",
    "sem_seg_head.predictor.prompt_tokens",
)


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    if "logits" in inputs:
        shares = sinkhorn(inputs["logits"], config["n_iters"])
        return {"output.assignment": shares, "output.hard_assignment": shares.argmax(-1)}
    state = case.group("state_dict")
    student = build(config, {key.removeprefix(CLIP): own for key, own in state.items() if key.startswith(CLIP)})
    found = answered(student, inputs, config)
    if PROMPTS in state and "output.loss_masks" in case.tensors:
        found |= trained(student, state, inputs, config)
    return found


def trained(
    student: ViTClip, state: Mapping[str, Tensor], inputs: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Take the step of a case up to its gradients."""
    own = {key.removeprefix(TEACHER): value for key, value in state.items() if key.startswith(TEACHER)}
    teacher = build(config, {key: own.get(key, value) for key, value in student.model.state_dict().items()})
    head, prompts = MapHead(), state[PROMPTS].clone().requires_grad_(True)
    head.load_state_dict({key.removeprefix("head."): own for key, own in state.items() if key.startswith("head.")})
    weights = {CLIP + key: value for key, value in student.model.named_parameters()}
    weights |= {f"head.{key}": value for key, value in head.named_parameters()} | {PROMPTS: prompts}
    method = PixelCLIP(grid=0)
    PixelCLIP.follow(teacher, student, config["momentum"])
    slow = teacher.dense(prepared(inputs["image"], config), method).features
    size = tuple(config["mask_resolution"])
    masks = [shrink_masks(inputs[f"masks.{index}"], size) for index in range(len(slow))]
    features = F.interpolate(slow, size, mode="bilinear", align_corners=False)
    pooled = torch.cat([pool_masks(*both) for both in zip(features, masks, strict=True)])
    for key in config["trainable_parameters"]:
        weights[key].requires_grad_(True)
    with torch.enable_grad():
        holes = inputs["template_token"][0] == config["placeholder_token_id"]
        sentences = place_prompts(inputs["prompt_template"][0], holes, prompts)
        centres = embed_sentences(student.model, sentences, int(inputs["template_token"][0].argmax()))
        logits = config["eps"] * F.normalize(pooled, dim=-1) @ F.normalize(centres, dim=-1).T
        shares = sinkhorn(logits.detach(), config["sinkhorn_iterations"])
        targets = merged_targets(masks, shares.argmax(-1), len(prompts))
        seen = student.dense(prepared(inputs.get("image_strong", inputs["image"]), config), method)
        cosines = torch.einsum("bdhw,kd->bkhw", F.normalize(seen.features, dim=1), F.normalize(centres, dim=-1))
        maps = head(cosines)
        loss = cluster_loss(maps, targets)
        loss.backward()
    found = {
        "output.loss_masks": loss,
        "output.prompted_text_embeddings": centres,
        "output.assignment": shares,
        "output.hard_assignment": shares.argmax(-1),
        "output.clustered_targets": targets,
        "output.mask_logits_lowres": maps,
        "intermediate.cluster_logits": logits,
        "intermediate.teacher_features": slow,
        "intermediate.cost_volume": cosines,
    }
    found = {key: value.detach() for key, value in found.items()}
    for key in config["trainable_parameters"]:
        grad = weights[key].grad
        found[f"output.grad.{key}"] = torch.zeros_like(weights[key]) if grad is None else grad
        found[f"output.grad_norm.{key}"] = found[f"output.grad.{key}"].norm()
    after = {f"output.after_step.{TEACHER}{key}": value for key, value in teacher.model.named_parameters()}
    return found | after


def answered(student: ViTClip, inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what inference makes of the first image, by the product's own path."""
    image = prepared(inputs["image"], config)
    found = {"output.image_embedding": student.dense(image).cls}
    dense = student.dense(image[:1], PixelCLIP(grid=0)).features
    found["output.dense_features"] = dense.permute(0, 2, 3, 1)
    if "text_features_test" in inputs:
        method = PixelCLIP(grid=config["inference_grid"][0])
        shown = show(build_method(student, method, rule=MAPS), image[:1], ensemble(inputs["text_features_test"]))
        found["output.sem_seg"] = resize(shown.scores, tuple(config["output_hw"]))[0]
    return found


def prepared(images: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Normalise images (B, 3, H, W) in 0..255 and bring them to the size that CLIP sees."""
    mean, std = config["clip_pixel_mean"], config["clip_pixel_std"]
    size = tuple(config["clip_resolution"])
    return F.interpolate(normalise(images.float(), mean, std), size, mode="bilinear", align_corners=False)


def build(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case; its table of tokens is left out, so one of zeros stands in."""
    model_cfg = {
        "embed_dim": config["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": config["native"],
            "patch_size": config["patch_size"],
            "layers": config["layers"],
            "width": config["width"],
            "head_width": config["width"] // config["heads"],
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 8,
            "width": config["text_width"],
            "heads": config["text_heads"],
            "layers": config["text_layers"],
        },
    }
    model = build_model(model_cfg, "golden case").state_dict()
    rest = {key: torch.zeros_like(value) for key, value in model.items() if key not in state}
    return ViTClip.from_config(model_cfg, {**rest, **state}, "golden case")
