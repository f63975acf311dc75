"""OVSeg: mask prompts, crops, heads that propose masks, and both classifiers."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip
from ovseg.clip import ViTClip
from ovseg.clip.mask_prompts import MaskPrompts, kept_patches
from ovseg.proposals.crops import CropRule, crop_masks

VISUAL = "clip_adapter.clip_model."
PROMPTS = f"{VISUAL}visual.mask_embedding"


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    runners = {"input_resolution": prompts, "mask_fill": crops}
    return next(runner for key, runner in runners.items() if key in case.config)(case)


def build_vit(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[ViTClip, MaskPrompts]:
    """Build the CLIP of a case and its mask prompts."""
    side, patch = config["input_resolution"], config["patch_size"]
    clip = build_clip(
        {
            "pretrain_grid": [side // patch, side // patch],
            "patch_size": patch,
            "embed_dim": config["output_dim"],
            "activation": "quick_gelu",
            "layers": config["layers"],
            "width": config["width"],
            "heads": config["heads"],
            "mlp_ratio": 4.0,
            "ln_eps": 1e-5,
        },
        {key.removeprefix(VISUAL): value for key, value in state.items() if key.startswith(VISUAL) and key != PROMPTS},
    )
    found = MaskPrompts((side // patch) ** 2, config["width"], config["mask_prompt_depth"])
    if found.depth:
        found.load_state_dict({"embedding": state[PROMPTS]})
    return clip, found


def prompts(case: Any) -> dict[str, Tensor]:
    """Embed crops with prompts, and without."""
    inputs = case.group("input")
    clip, own = build_vit(case.config, case.group("state_dict"))
    found: dict[str, Tensor] = {}
    if "masks" in inputs:
        handles = [
            block.module.ln_1.register_forward_pre_hook(
                lambda _m, given, key=f"intermediate.block{i}_in": found.update({key: given[0]})
            )
            for i, block in enumerate(clip.blocks)
        ]
        masked = own(clip, inputs["crops"], inputs["masks"])
        for handle in handles:
            handle.remove()
        found |= {"output.embedding_masked": masked, "output.embedding_masked_unit": F.normalize(masked, dim=-1)}
        found["intermediate.patch_keep"] = kept_patches(inputs["masks"], case.config["patch_size"]).float()
    return found | {"output.embedding_nomask": own(clip, inputs["crops"])}


def crop_rule(config: dict[str, Any]) -> CropRule:
    """Return how a case cuts masks out."""
    return CropRule(
        threshold=config["mask_thr"],
        expand=config["mask_expand_ratio"],
        fill=config["mask_fill"],
        matting=config["mask_matting"],
    )


def crops(case: Any) -> dict[str, Tensor]:
    """Cut masks out."""
    inputs, config = case.group("input"), case.config
    found = crop_masks(inputs["image"], inputs["mask_prob"], config["clip_input_size"], crop_rule(config))
    return {
        "output.valid": found.valid,
        "output.regions": found.regions,
        "output.region_masks": found.masks,
        "intermediate.tight_boxes": found.tight.float(),
        "intermediate.crop_boxes": found.boxes,
    }
