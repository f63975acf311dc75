"""GEM: the second stream, its temperatures and self-self attention, and the min-max maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.common import build_clip, dense_outputs, empty_context
from ovseg.clip import ViTClip
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.gem import GEM


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    image, texts = inputs["image"], inputs["text_embeddings"]
    method = GEM(depth=config["gem_depth"], iterations=config["ss_attn_iter"], temperature=config["ss_attn_temp"])
    # The unmodified stream of the original is plain CLIP under GEM's rule for position embeddings.
    original = build_recalibration("clip", pos_resize=method.pos_resize)
    size = tuple(image.shape[2:])
    dense = clip.dense(image, method)
    found = dense_outputs(dense, texts, size)
    found.pop("output.patch_features")
    found["output.gem_features"] = torch.cat([dense.cls[:, None], dense.features.flatten(2).mT], dim=1)
    plain = clip.dense(image, original)
    found["output.ori_features"] = torch.cat([plain.cls[:, None], plain.features.flatten(2).mT], dim=1)
    found["output.heatmaps"] = min_max(found["output.logits"])
    found["output.heatmaps_ori"] = min_max(dense_outputs(plain, texts, size)["output.logits"])
    found["output.pred_raw"] = found["output.pred"]
    found["output.pred"] = found["output.heatmaps"].argmax(1).int()
    return found | intermediates(clip, method, image)


def min_max(maps: Tensor) -> Tensor:
    """Stretch every map (B, T, H, W) to 0..1."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


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
