"""MaskCLIP: value features of a padded image, prompt denoising, key smoothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.common import build_clip, build_method, empty_context, show
from ovseg.labelling.protocol import Protocol
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.maskclip import Keys

REFINED = {"_pd": ("logits", True, False), "_ks": ("scores", False, True), "_pd_ks": ("scores", True, True)}


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    size = tuple(inputs["image"].shape[2:])
    padded = Protocol(window=0, stride=0, padding="corner")
    found: dict[str, Tensor] = {}
    for suffix, (kind, denoise, smooth) in {"": ("logits", False, False), **REFINED}.items():
        method = build_recalibration(
            "maskclip",
            pd_thresh=config.get("pd_thresh") or 0.0 if denoise else 0.0,
            ks_thresh=config.get("ks_thresh") or 0.0 if smooth else 0.0,
        )
        shown = show(build_method(clip, method, padded), inputs["image"], inputs.get("text_embeddings"))
        if shown.words is not None:
            found[f"output.patch_{kind}{suffix}"] = shown.scores
            found[f"output.{kind}{suffix}"] = shown.maps(size)
            found[f"output.pred{suffix}"] = shown.labels(size)
        if method.ks_thresh:
            found["intermediate.k"] = torch.cat([dense.context.kept(Keys).of_patches for dense in shown.dense])
    found["output.patch_features"] = shown.features
    image = shown.entering
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    for block in clip.blocks[:-1]:
        tokens = block(tokens)
    value = clip.tower.visual.ln_post(method.run(tokens, clip.blocks[-1:], empty_context(clip, grid, image)))
    found["intermediate.v"] = value[:, 1:].mT.unflatten(-1, grid)
    found["intermediate.pos_embed"] = clip.tower.position(grid, method.pos_resize)
    return found
