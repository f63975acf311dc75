"""GEM: the second stream, its temperatures and self-self attention, and the min-max maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from golden_runners.common import MAPS, build_clip, build_method, empty_context, show, usual_outputs
from ovseg.clip import ViTClip
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.gem import GEM


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    image, texts = inputs["image"], inputs.get("text_embeddings")
    method = GEM(depth=config["gem_depth"], iterations=config["ss_attn_iter"], temperature=config["ss_attn_temp"])
    # The unmodified stream of the original is plain CLIP under GEM's rule for position embeddings.
    original = build_recalibration("clip", pos_resize=method.pos_resize)
    size, stretched = tuple(image.shape[2:]), replace(MAPS, min_max=True)
    shown, plain = (show(build_method(clip, one, rule=stretched), image, texts) for one in (method, original))
    raw = usual_outputs(shown.otherwise(rule=MAPS), size)
    found = {"output.gem_features": shown.tokens, "output.ori_features": plain.tokens}
    if texts is not None:
        found |= {key: raw[key] for key in ("output.patch_logits", "output.logits")}
        found |= {"output.pred_raw": raw["output.pred"], "output.pred": shown.labels(size)}
        found |= {"output.heatmaps": shown.class_scores(size), "output.heatmaps_ori": plain.class_scores(size)}
    return found | intermediates(clip, method, image)


def intermediates(clip: ViTClip, method: GEM, image: Tensor) -> dict[str, Tensor]:
    """Return both streams before the last norm, and the attention of the last block."""
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    found = {"intermediate.pos_embed": clip.tower.position(grid, method.pos_resize)}
    for block in clip.blocks[: -method.blocks]:
        tokens = block(tokens)
    own = clip.blocks[-method.blocks :]
    found["intermediate.gem_pre_ln_post"] = method.run(tokens, own, empty_context(clip, grid, image))
    for block in own[:-1]:
        tokens = block(tokens)
    sharpness = method.sharpness(tokens, own[-1])
    shown = sharpness if isinstance(sharpness, Tensor) else torch.full((len(image), 1, 1, 1), float(sharpness))
    for name, z in zip("qkv", own[-1].qkv(tokens), strict=True):
        z = method.regroup(z, sharpness)
        found[f"intermediate.attention_{name * 2}"] = (sharpness * z @ z.mT).softmax(-1)
    return found | {"intermediate.inv_temp": shown, "intermediate.ori_pre_ln_post": own[-1](tokens)}
