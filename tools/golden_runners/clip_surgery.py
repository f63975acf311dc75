"""CLIP Surgery: both streams, the three kinds of similarity, their maps, and points for SAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import MAPS, Shown, build_clip, build_method, empty_context, show
from ovseg.clip import ViTClip
from ovseg.recalibration.clip_surgery.method import CLIP_Surgery, Original
from ovseg.recalibration.clip_surgery.points import prompt_points

SURGERIES = {"": "class_set", "_plain": "none", "_redundant": "redundant"}


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    method = CLIP_Surgery(last_n_layers=config["modified_blocks"])
    shown = show(build_method(clip, method, rule=MAPS), inputs["image"], inputs.get("text_embeddings"))
    found = {"output.image_features": shown.tokens, "output.features_norm": F.normalize(shown.tokens, dim=-1)}
    if shown.words is not None:
        for suffix, surgery in SURGERIES.items():
            if surgery != "redundant" or "redundant_text" in inputs:
                found |= similarities(shown, surgery, suffix, inputs, config)
    return found | intermediates(clip, method, inputs["image"])


def similarities(
    shown: Shown, surgery: str, suffix: str, inputs: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Answer by the scores of one kind of surgery, and show the scores."""
    height, width = config.get("ori_shape") or shown.images.shape[2:]
    clip, size = shown.model.clip, (height, width)
    method, plain = (
        CLIP_Surgery(last_n_layers=config["modified_blocks"], surgery=surgery, min_max=stretched)
        for stretched in (True, False)
    )
    if surgery == "redundant":
        for one in (method, plain):
            one.empty_texts[clip.weights_hash, clip.dtype] = inputs["redundant_text"]
    mapped, patches = shown.otherwise(method=method), shown.otherwise(method=plain).scores
    # The class token's own similarity: the same scores of a grid whose only patch is the class token.
    alone = [replace(dense, features=dense.cls[:, :, None, None], grid=(1, 1)) for dense in shown.dense]
    own = torch.cat([plain.patch_scores(dense, shown.words) for dense in alone])
    found = {
        f"output.map{suffix}": mapped.class_scores(size).permute(0, 2, 3, 1),
        f"output.similarity{suffix}": torch.cat([own.flatten(2), patches.flatten(2)], dim=2).mT,
    }
    if surgery == "class_set":
        if "points_threshold" in config:
            points, labels = prompt_points(
                mapped.scores[0, :1], size, config["points_threshold"], config["points_down_sample"]
            )
            found |= {"output.points": points, "output.point_labels": labels}
        found |= {"output.pred": mapped.labels(size), "output.pred_similarity": patches.argmax(1).int()}
    return found


def intermediates(clip: ViTClip, method: CLIP_Surgery, image: Tensor) -> dict[str, Tensor]:
    """Return the position embedding, both kinds of attention in the last block, and the tokens before the last norm."""
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    context = empty_context(clip, grid, image)
    for block in clip.blocks[: -method.blocks]:
        tokens = block(tokens)
    stream = method.run(tokens, clip.blocks[-method.blocks :], context)
    for block in clip.blocks[-method.blocks : -1]:
        tokens = block(tokens)
    query, key, value = clip.blocks[-1].qkv(tokens)
    scale = clip.blocks[-1].scale
    return {
        "intermediate.pos_embed": clip.tower.position(grid, method.pos_resize),
        "intermediate.attention_qk": (query @ key.mT * scale).softmax(-1),
        "intermediate.attention_vv": (value @ value.mT * scale).softmax(-1),
        "intermediate.pre_ln_post": torch.cat([context.kept(Original).tokens[:, :1], stream[:, 1:]], dim=1),
    }
