"""SCLIP: last block, windows, several names per class, area rule, threshold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from golden_runners.common import build_clip, build_method, last_block, protocol, show, usual_outputs
from ovseg.recalibration import build_recalibration


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    method = build_recalibration("sclip", residual=config["residual"], feed_forward=config["ffn"])
    image = inputs["image"]
    shown = show(build_method(clip, method), image, inputs.get("text_embeddings"))
    found = usual_outputs(shown, tuple(image.shape[2:]))
    found["output.cls_embedding"] = shown.tokens[:, 0]
    tokens = last_block(clip, method, image)
    found["intermediate.pos_embed"] = clip.tower.position(shown.dense[0].grid, method.pos_resize)
    found["intermediate.last_block_input"] = tokens.entering.transpose(0, 1)
    found["intermediate.attention"] = tokens.attention.flatten(0, 1)
    found["intermediate.last_block_output"] = tokens.leaving
    if "postprocess" in config:
        settings = config["postprocess"]
        if not settings.get("crop"):  # the original reaches its refinement only from windows
            settings = {**settings, "pamr_steps": 0}
        logits, probabilities, labels = protocol(clip, method, inputs, settings, "none")
        found |= {"output.slide_logits": logits, "output.seg_probs": probabilities, "output.seg_pred": labels}
    return found
