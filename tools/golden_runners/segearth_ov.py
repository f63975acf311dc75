"""SegEarth-OV: upsamplers step by step; windows, upsampling and labels of a whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip, build_method, score_rule, show
from golden_runners.product import make_words
from ovseg.labelling.protocol import Protocol
from ovseg.recalibration.segearth_ov.method import SegEarth_OV
from ovseg.recalibration.segearth_ov.upsamplers import Upsampler, build_upsampler, step_up

NETWORK, UPSAMPLER = "net.", "upsampler."


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, state = case.group("input"), case.group("state_dict")
    if case.config["part"] == "upsampler":
        return steps(build_upsampler(state, case.name), inputs)
    own = {key: value for key, value in state.items() if key.startswith(UPSAMPLER)}
    return full(build_upsampler(own, case.name) if own else None, case, inputs)


def steps(upsampler: Upsampler, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the features behind every step, and the parts of the first kernels."""
    maps, image = inputs["features"], inputs["image"]
    grid = (maps.shape[2], maps.shape[3])
    first = upsampler.steps[0]
    kernels = upsampler.kernels(image, grid)
    found = {
        "intermediate.range_kernel_1": first.by_colour(F.adaptive_avg_pool2d(image, (2 * grid[0], 2 * grid[1]))),
        "intermediate.spatial_kernel": first.by_distance(),
    }
    linear, bias = upsampler.mixed(maps)
    found["output.upsampled"] = upsampler.spread(linear, kernels) + bias[:, None, None]
    for index, (weights, step) in enumerate(zip(kernels, upsampler.steps, strict=True)):
        maps = step_up(maps, weights, step)
        every = 2**index
        found[f"intermediate.level_{index + 1}"] = maps[..., ::every, ::every]
    return found


def full(upsampler: Upsampler | None, case: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the answer of the product, and what the first window shows."""
    config, own, state = case.config, case.config["clip"], case.group("state_dict")
    named = {**own, "patch_size": own["patch"], "activation": "quick_gelu" if own["quick_gelu"] else "gelu"}
    visual = {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)}
    clip = build_clip(named, visual)
    method = SegEarth_OV(
        upsampler=upsampler or "",
        global_weight=config["cls_token_lambda"],
        residual=not config["ignore_residual"],
        feed_forward=not config["ignore_residual"],
    )
    crop = config["slide_crop"]
    protocol = Protocol(window=crop, stride=config["slide_stride"] if crop else 0, padding="even", resize="twice")
    rule = score_rule({**config, "threshold_label": config["bg_idx"]})
    words = make_words(inputs["text_embeddings"], torch.tensor(config["query_idx"]))
    shown = show(build_method(clip, method, protocol, rule), inputs["image"], words)
    size = tuple(config["ori_shape"])
    (answer,), (dense,) = shown.answers(size), [one.rows(slice(0, 1)) for one in shown.dense]
    scores = method.patch_scores(dense, words)
    window = (dense.grid[0] * own["patch"], dense.grid[1] * own["patch"])
    return {
        "output.class_scores": answer.class_scores,
        "output.pred": answer.labels[None],
        "intermediate.logits": shown.maps(size),
        "intermediate.window0_cls": dense.cls,
        "intermediate.window0_patches": dense.features.flatten(2).mT,
        "intermediate.window0_logits": F.interpolate(scores, window, mode="bilinear", align_corners=False),
    }
