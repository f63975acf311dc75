"""MaskCLIP: value features of a padded image, prompt denoising, key smoothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.common import build_clip, empty_context
from golden_runners.product import make_words
from ovseg.labelling.scores import upsample
from ovseg.ops.windows import plan_windows
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.maskclip import Keys

REFINED = {"_pd": ("logits", True, False), "_ks": ("scores", False, True), "_pd_ks": ("scores", True, True)}


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    size = tuple(inputs["image"].shape[2:])
    plan = plan_windows(size, clip.patch_size, padding="corner")
    rows, columns = plan.matrices(size)
    image = plan.cut(inputs["image"])
    found: dict[str, Tensor] = {}
    for suffix, (kind, denoise, smooth) in {"": ("logits", False, False), **REFINED}.items():
        method = build_recalibration(
            "maskclip",
            pd_thresh=config["pd_thresh"] if denoise else 0.0,
            ks_thresh=config["ks_thresh"] if smooth else 0.0,
        )
        dense = clip.dense(image, method)
        scores = method.patch_scores(dense, make_words(inputs["text_embeddings"]))
        full = torch.stack([upsample(one, rows, columns) for one in scores])
        found[f"output.patch_{kind}{suffix}"] = scores
        found[f"output.{kind}{suffix}"] = full
        found[f"output.pred{suffix}"] = full.argmax(1).int()
        if smooth:
            found["intermediate.k"] = dense.context.kept(Keys).of_patches
    found["output.patch_features"] = dense.features
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    for block in clip.blocks[:-1]:
        tokens = block(tokens)
    value = clip.tower.visual.ln_post(method.run(tokens, clip.blocks[-1:], empty_context(clip, grid, image)))
    found["intermediate.v"] = value[:, 1:].mT.unflatten(-1, grid)
    found["intermediate.pos_embed"] = clip.tower.position(grid, method.pos_resize)
    return found
