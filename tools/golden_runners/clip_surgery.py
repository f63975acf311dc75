"""CLIP Surgery: both streams, the three kinds of similarity, their maps, and points for SAM."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip, empty_context, resize
from golden_runners.product import make_words
from ovseg.clip import ViTClip
from ovseg.recalibration.clip_surgery.method import CLIP_Surgery, Original
from ovseg.recalibration.clip_surgery.points import prompt_points

SURGERIES = {"": "class_set", "_plain": "none", "_redundant": "redundant"}


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    image, depth = inputs["image"], config["modified_blocks"]
    dense = clip.dense(image, CLIP_Surgery(last_n_layers=depth))
    features = torch.cat([dense.cls[:, None], dense.features.flatten(2).mT], dim=1)
    found = {"output.image_features": features, "output.features_norm": F.normalize(features, dim=-1)}
    texts = make_words(inputs["text_embeddings"])
    for suffix, surgery in SURGERIES.items():
        method = CLIP_Surgery(last_n_layers=depth, surgery=surgery)
        method.empty_texts[clip.weights_hash, clip.dtype] = inputs["redundant_text"]
        maps = method.patch_scores(dense, texts)
        found[f"output.map{suffix}"] = resize(maps, tuple(config["ori_shape"])).permute(0, 2, 3, 1)
        if surgery == "class_set":
            found["output.pred"] = found["output.map"].argmax(-1).int()
            points, labels = prompt_points(
                maps[0, :1], tuple(config["ori_shape"]), config["points_threshold"], config["points_down_sample"]
            )
            found |= {"output.points": points, "output.point_labels": labels}
        method.min_max = False
        patches = method.patch_scores(dense, texts)
        # The class token's own similarity: the same scores of a grid whose only patch is the class token.
        alone = type(dense)(dense.cls[:, :, None, None], dense.cls, (1, 1), dense.context)
        tokens = torch.cat([method.patch_scores(alone, texts).flatten(2), patches.flatten(2)], dim=2)
        found[f"output.similarity{suffix}"] = tokens.mT
        if surgery == "class_set":
            found["output.pred_similarity"] = patches.argmax(1).int()
    return found | intermediates(clip, CLIP_Surgery(last_n_layers=depth), image)


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
