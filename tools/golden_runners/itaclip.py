"""ITACLIP: attention, encoder, image engineering, mixed texts, labelling with closing, and the whole segmentor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from golden_runners.common import WHOLE, build_clip, build_method, protocol, resize, score_rule, show
from golden_runners.product import ensemble
from ovseg.clip import Need, ViTClip
from ovseg.clip.open_clip_vit import OpenClipBlock
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.labelling.labeller import Labeller
from ovseg.labelling.views import blur, grey
from ovseg.labelling.views import mix as mix_views
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.itaclip import ITACLIP
from ovseg.vocabulary.engineering import mix

CLOSING = 3  # fixed in the original; the cases have it in words


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case; what it gives tells its kind."""
    inputs, config = case.group("input"), case.config
    if "saved_attention" in inputs:
        return attention(inputs, config, case.group("state_dict"))
    if "query_raw" in inputs:
        return texts(inputs, config)
    if "logits" in inputs:
        return labels(inputs, config)
    vision = config["vision"]
    side = vision["input_resolution"] // vision["patch_size"]
    fixed = {"pretrain_grid": (side, side), "activation": "quick_gelu", "mlp_ratio": 4.0, "ln_eps": 1e-5}
    clip = build_clip({**fixed, **vision, "embed_dim": vision["output_dim"]}, case.group("state_dict"))
    method = ITACLIP(
        mid_layers=tuple(layer - 1 for layer in config["mid_layers_1based"]), attn_self=config["attn_self"]
    )
    if "text_embeddings" not in inputs:
        return encoder(clip, method, inputs["image"])
    if "logit_size" in config:
        return views(clip, method, inputs, config)
    return segmentor(clip, method, inputs, config)


def attention(
    inputs: Mapping[str, Tensor], config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return maps and outputs of one attention module, by itself and with a given map."""
    attn = nn.MultiheadAttention(config["embed_dim"], config["num_heads"])
    attn.load_state_dict(dict(state))
    block = OpenClipBlock(SimpleNamespace(attn=attn, ln_1=nn.Identity(), ls_1=nn.Identity(), mlp=nn.Identity()))
    q, k, v = block.qkv(inputs["x"].transpose(0, 1))
    given = inputs["saved_attention"].unflatten(0, (len(q), -1))
    found = {"output.saved_out": block.project(given @ v).transpose(0, 1)}
    for name, attn_self in (("self", True), ("qk", False)):
        method = ITACLIP(attn_self=attn_self)
        found[f"output.{name}_weights"] = method.own(q, k, identity(q)).flatten(0, 1)
        found[f"output.{name}_out"] = block.project(method.own(q, k, v)).transpose(0, 1)
    return found


def identity(tokens: Tensor) -> Tensor:
    """Return what turns a mix of values into its weights, for tokens (B, heads, N, d)."""
    return torch.eye(tokens.shape[2]).expand(*tokens.shape[:2], -1, -1)


def encoder(clip: ViTClip, method: ITACLIP, image: Tensor) -> dict[str, Tensor]:
    """Return the features, and the maps and tokens of the last block."""
    dense = clip.dense(image, method)
    features = torch.cat([dense.cls[:, None], dense.features.flatten(2).mT], dim=1)
    plain = build_recalibration("clip", pos_resize=method.pos_resize)  # the blocks before the last run as they are
    entering = clip.dense(image, plain, Need(hidden=(-2,))).context.hidden[clip.depth - 2]
    q, k, v = clip.blocks[-1].qkv(entering)
    mixed, last = method.weights(q, k, v, dense.context), method.own(q, k, identity(q))
    leaving = method.run_block(entering, clip.blocks[-1], dense.context)
    return {
        "output.features": features,
        "output.mixed_attention": mixed.flatten(0, 1),
        "intermediate.mid_attention_mean": (2 * mixed - last).flatten(0, 1),
        "intermediate.last_attention": last.flatten(0, 1),
        "intermediate.tokens_before_last": entering,
        "intermediate.tokens_after_last": leaving,
        "intermediate.tokens_ln_post": clip.tower.visual.ln_post(leaving),
    }


def views(clip: ViTClip, method: ITACLIP, inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the logits of one crop with all its views, of either half of them, and of the crop alone."""
    image, size = inputs["image"], (config["logit_size"][0], config["logit_size"][1])
    engineered = replace(WHOLE, image_engineering=share_of(config))
    shown = show(build_method(clip, method, engineered), image, inputs["text_embeddings"])
    parts = [method.patch_scores(dense.at(clip), shown.words) for dense in shown.encoded.images[0].parts[0]]
    return {
        "output.logits": shown.maps(size),
        "output.logits_plain": resize(parts[0], size),
        "intermediate.logits_first_category": resize(mix_views(parts, 1.0), size),
        "intermediate.logits_second_category": resize(mix_views(parts, 0.0), size),
        "intermediate.gray": grey(image),
        "intermediate.blur": blur(image),
    }


def share_of(config: Mapping[str, Any]) -> float:
    """Return the share of the unflipped views, just above 0 for 0, which switches the product's views off."""
    return config["img_eng_coefficient"] or torch.finfo(torch.float32).tiny


def texts(inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the queries mixed with the auxiliary texts of their classes; a background has none."""
    query, auxiliary = ensemble(inputs["query_raw"]), ensemble(inputs["aux_raw"])
    classes = inputs["query_idx"] - int(config["has_background"])
    return {
        "output.query_features": mix(query, auxiliary, classes, config["def_coefficient"]),
        "intermediate.query_ensembled": query,
        "intermediate.aux_ensembled": auxiliary,
    }


def labels(inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return class scores and labels of logits that are already at the size of the output."""
    logits = inputs["logits"][0]
    size = (logits.shape[1], logits.shape[2])
    before, closed = (
        Labeller(
            WHOLE, score_rule({**config, "closing": side}), inputs["query_idx"], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        ).label(logits, WHOLE.plan(size, patch=1), torch.zeros(3, *size), size, None, LABELS | {CLASS_SCORES})
        for side in (0, CLOSING)
    )
    return {
        "output.class_scores": before.class_scores,
        "output.label_map": closed.labels[None],
        "intermediate.label_map_before_closing": before.labels,
    }


def segmentor(
    clip: ViTClip, method: ITACLIP, inputs: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return logits, class scores and labels of an image, from the windows on."""
    settings = {
        **config,
        "ori": config["ori_shape"],
        "crop": config["slide_crop"] if config.get("slide") else 0,
        "stride": config.get("slide_stride"),
        "image_engineering": share_of(config) if config.get("img_engineering") else 0.0,
        "pamr_steps": config["pamr_steps"] if config.get("pamr_applied") else 0,
    }
    logits, probabilities, before = protocol(clip, method, inputs, settings, "none")
    return {
        "output.logits": logits,
        "output.class_scores": probabilities,
        "output.label_map": protocol(clip, method, inputs, {**settings, "closing": CLOSING}, "none")[2],
        "intermediate.label_map_before_closing": before[0],
        "intermediate.logits_before_pamr": protocol(clip, method, inputs, {**settings, "pamr_steps": 0}, "none")[0],
    }
