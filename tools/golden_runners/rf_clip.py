"""RF-CLIP: streams, gathered patches and features; words that follow the image, windows and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from golden_runners.common import Shown, build_clip, build_method, empty_context, score_rule, show
from golden_runners.product import make_words
from ovseg.clip import ViTClip
from ovseg.guides.base import unit_patches
from ovseg.labelling.protocol import Protocol
from ovseg.recalibration.rf_clip import RF_CLIP, stream
from ovseg.recalibration.rf_clip.following_words import groups, lean
from ovseg.recalibration.rf_clip.sink_tokens import refocused


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    own = config["clip"]
    clip = build_clip({**own, "patch_size": own["patch"]}, case.group("state_dict"))
    method = RF_CLIP(
        sink_channels=tuple(config["sink_channels"]),
        sigma=config["sigma"],
        alpha=config["alpha"],
        likeness=config["enhance_beta"],
        refocus=config["strategy"] == "refocus",
        global_weight=config.get("global_semantics_weight", 0.0),
        global_of="window" if "cityscapes" in config.get("dataset", "").lower() else "image",
        patch_weight=config.get("mean_vector_weight", 0.0),
        group_distance=config.get("h_threshold", 0.0),
    )
    if config["part"] == "visual":
        return visual(clip, method, inputs["image"])
    return full(clip, method, inputs, config)


def visual(clip: ViTClip, method: RF_CLIP, image: Tensor) -> dict[str, Tensor]:
    """Return features, and what the original has between its blocks."""
    shown = show(build_method(clip, method), image)
    (dense,) = shown.dense
    found = {"output.patch_features": dense.features.flatten(2).mT, "output.class_feature": dense.cls}
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    context = empty_context(clip, grid, image)
    query, key, _ = clip.blocks[0].qkv(tokens)
    weights = (query @ key.mT * clip.blocks[0].scale).softmax(-1)
    found["intermediate.attention_0"] = refocused(weights, clip) if method.refocus else weights
    streams = [tokens]
    for block in clip.blocks[:-1]:
        streams.append(stream.layer(streams[-1], block, context, method.sinks(clip))[0])
    ordinary = replace(method.sinks(clip), refocus=False)
    streams.append(stream.layer(streams[-1], clip.blocks[-1], context, ordinary)[0])
    found |= {f"intermediate.denoised_{i}": one.transpose(0, 1) for i, one in enumerate(streams[1:])}
    mean = torch.stack(streams[1:]).mean(0)
    near = stream.likeness(mean, clip)
    both = [stream.gather(one, near, method.likeness, clip) for one in (streams[-2], mean)]
    found |= {f"intermediate.enhanced_{i}": one.transpose(0, 1) for i, one in enumerate(both, start=1)}
    # The original gathers in place, so what it shows of the stream before the last block is what has gathered.
    found[f"intermediate.denoised_{clip.depth - 2}"] = found["intermediate.enhanced_1"]
    key = clip.blocks[-1].qkv(both[1])[1]
    found["intermediate.kk_last"] = (key @ key.mT * clip.blocks[-1].scale).softmax(-1)[0]
    return found | {"intermediate.similarity": near}


def full(clip: ViTClip, method: RF_CLIP, inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the answer of the product, and what the first window shows."""
    steps = config["pamr"] or {}
    rule = score_rule(
        {**config, "pamr_steps": steps.get("steps", 0), "pamr_dilations": steps.get("dilations", (8, 16))}
    )
    crop = config["slide_crop"]
    protocol = Protocol(window=crop, stride=config["slide_stride"] if crop else 0, padding="none", resize="twice")
    words = make_words(inputs["text_embeddings"], torch.tensor(config["query_idx"]))
    shown = show(build_method(clip, method, protocol, rule), inputs["image"], words)
    size = tuple(config["ori_shape"])
    answer = shown.answers(size)[0]
    return first_window(shown, method) | {
        "output.class_scores": answer.class_scores,
        "output.pred": answer.labels[None],
        "intermediate.logits": shown.maps(size),
    }


def first_window(shown: Shown, method: RF_CLIP) -> dict[str, Tensor]:
    """Return what the first window of the image shows."""
    dense, rows = shown.dense[0].rows(slice(0, 1)), shown.words.embeddings
    fits, members = method.fits(dense, rows[None]), groups(rows, method.group_distance)
    patches = unit_patches(dense.features)
    return {
        "intermediate.clusters": members,
        "intermediate.window0_features": patches,
        "intermediate.window0_class_cosine": fits,
        "intermediate.window0_text": lean(rows[None], fits, members, patches, method.patch_weight)[0],
        "intermediate.window0_logits": method.patch_scores(dense, shown.words).flatten(2).mT,
    }
