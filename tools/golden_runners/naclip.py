"""NACLIP: neighbourhood attention and its variants, windows, PAMR, threshold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from golden_runners.common import build_clip, build_method, last_block, renormalised, show, usual_outputs
from ovseg.recalibration import Recalibration, build_recalibration
from ovseg.recalibration.base import neighbourhood

VARIANT = "output.patch_features_"


def build(arch: str, attention: str, std: float) -> Recalibration:
    """Build the method as the original's ``set_params`` would."""
    vanilla = arch == "vanilla"
    return build_recalibration("naclip", attention=attention, gaussian_std=std, residual=vanilla, feed_forward=vanilla)


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    std, image = config.get("gaussian_std") or 5.0, inputs["image"]  # not every attention has one
    method = build(config["arch"], config["attn_strategy"], std)
    shown = show(build_method(clip, method), image, inputs.get("text_embeddings"))
    found = usual_outputs(shown, tuple(image.shape[2:]))
    tokens = last_block(clip, method, image)
    found["intermediate.pos_embed"] = clip.tower.position(shown.dense[0].grid, method.pos_resize)
    found["intermediate.last_block_input"] = tokens.entering.transpose(0, 1)
    found["intermediate.attention"] = tokens.attention.flatten(0, 1)
    found["intermediate.last_block_output"] = tokens.leaving
    if "intermediate.omega" in case.tensors:
        found["intermediate.omega"] = clip.with_leading(neighbourhood(shown.dense[0].grid, std))[None]
    for key in case.tensors:
        if key.startswith(VARIANT):
            variant = build(*key[len(VARIANT) :].split("_"), std)
            found[key] = clip.dense(image, variant).features.flatten(2).mT
    if "postprocess" in config:
        found |= renormalised(clip, method, inputs, config["postprocess"])
    return found
