"""Parts of MAFT+: its mask-aware and representation losses, and the transfer of content (imported by ``maft_plus``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.fcclip_losses import read_targets
from ovseg.meta_arch.maft_plus.content_transfer import ContentTransfer
from ovseg.meta_arch.maft_plus.mask_aware import fit_of_masks, mask_aware_loss, spread
from ovseg.meta_arch.maft_plus.representation import representation_loss, strip_pool
from ovseg.proposals.classifier import class_logits

TRANSFER_KEYS = {"multihead_attn": "attention", "MLP": "linear", "norm": "norm"}
"""The original's names of the parts of the transfer, below ``cross_atten``, and ours."""


def run_mask_aware(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of an ``ma_loss`` case."""
    inputs = case.group("input")
    targets = read_targets(inputs)
    fits = torch.cat(
        [fit_of_masks(logits, target.masks) for logits, target in zip(inputs["mask_logits"], targets, strict=True)]
    )
    with torch.enable_grad():
        logits = inputs["logits"].clone().requires_grad_()
        loss = mask_aware_loss(logits, inputs["mask_logits"], targets)
        (gradient,) = torch.autograd.grad(loss, logits)
    return {
        "output.loss": loss.detach(),
        "output.grad_logits": gradient,
        "intermediate.soft_iou": fits,
        "intermediate.normalised_iou": spread(fits),
    }


def run_representation(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of an ``rc_loss`` case."""
    inputs, scales, found = case.group("input"), tuple(case.config["scales"]), {}
    for index in range(sum(key.startswith("student.") for key in inputs)):
        with torch.enable_grad():
            student = inputs[f"student.{index}"].clone().requires_grad_()
            loss = representation_loss(student, inputs[f"teacher.{index}"], scales)
            (gradient,) = torch.autograd.grad(loss, student)
        found[f"output.loss.{index}"], found[f"output.grad_student.{index}"] = loss.detach(), gradient
        found[f"intermediate.pooled_student.{index}"] = strip_pool(student.detach(), scales)
    return found


def run_transfer(case: Any) -> dict[str, Tensor]:
    """Return all outputs of a ``cdt`` case."""
    inputs, config = case.group("input"), case.config
    module = ContentTransfer(
        config["d_model"], transfer_heads=config["nhead"], panoptic_transfer=config.get("panoptic_on", False)
    )
    state = {}
    for key, value in case.group("state_dict").items():
        _, part, rest = key.split(".", 2)
        state[f"{TRANSFER_KEYS[part]}.{rest}"] = value
    module.load_state_dict(state)
    texts = module(inputs["img_feat"], inputs["text_classifier"])
    names = torch.tensor(config["num_templates"])
    classes = torch.arange(len(names)).repeat_interleave(names)
    logits = class_logits(inputs["region_embedding"], texts, config["logit_scale_exp"], classes, void=True)
    return {"output.text_out": texts, "output.logits": logits}
