"""ClearCLIP: query-query attention, the ablations of the paper, padded windows, threshold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from golden_runners.common import build_clip, build_method, last_block, protocol, show, usual_outputs
from ovseg.recalibration import Recalibration, build_recalibration

VARIANT = "output.patch_features_"


def build(model_type: str, ignore_residual: bool, last_n_layers: int) -> Recalibration:
    """Build the method by the switches of the original."""
    kept = not ignore_residual
    return build_recalibration(
        "clearclip", model_type=model_type, last_n_layers=last_n_layers, residual=kept, feed_forward=kept
    )


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    image = inputs["image"]
    method = build(config["model_type"], config["ignore_residual"], config["last_n_layers"])
    shown = show(build_method(clip, method), image, inputs.get("text_embeddings"))
    found = usual_outputs(shown, tuple(image.shape[2:]))
    tokens = last_block(clip, method, image)
    found["intermediate.pos_embed"] = clip.tower.position(shown.dense[0].grid, method.pos_resize)
    found["intermediate.pre_ln_post"] = tokens.leaving
    if method.blocks == 1:
        found["intermediate.last_block_input"] = tokens.entering.transpose(0, 1)
        found["intermediate.attention"] = tokens.attention.flatten(0, 1)
    for key in case.tensors:
        if key.startswith(VARIANT):
            model_type, residual, *last = key[len(VARIANT) :].split("_")
            variant = build(model_type, residual == "nores", int(last[0].removeprefix("last")) if last else 1)
            found[key] = clip.dense(image, variant).features.flatten(2).mT
    if "postprocess" in config:
        padding = "even" if config["postprocess"].get("crop") else "none"
        logits, probabilities, labels = protocol(clip, method, inputs, config["postprocess"], padding)
        found |= {"output.slide_logits": logits, "output.seg_probs": probabilities, "output.seg_pred": labels}
    return found
