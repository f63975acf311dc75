"""CLIP_Decomposition: contributions by patch, head and layer, heatmaps and masks; and TextSpan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.common import build_method, show
from golden_runners.square_clip import square_clip
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_decomposition.ledger import decompose
from ovseg.recalibration.clip_decomposition.method import heatmap, relevance
from ovseg.recalibration.clip_decomposition.text_span import text_span


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    if "head_outputs" in inputs:
        span = text_span(inputs["head_outputs"], inputs["text_features"], config["iters"], config["rank"])
        # On a CPU the rows of the original's reconstruction share memory, so that all are that of the last image.
        last = span.reconstruction[-1].expand_as(span.reconstruction)
        return {"output.reconstruction": last, "output.selected": span.selected}
    clip = square_clip(case)
    image, texts = inputs["image"], inputs["classifier"].mT
    shown = show(build_method(clip, build_recalibration("clip_decomposition")), image)
    cls, heat = shown.tokens[:, 0], torch.cat([heatmap(dense, texts) for dense in shown.dense])
    chosen = (cls @ texts.mT).argmax(1)
    # An answer labels every pixel; the figures of the paper cut the map of one class at its own mean.
    maps, mask = relevance(heat, chosen, clip.patch_size)
    parts = decompose(clip, image, layers=[clip.depth - 1])
    return {
        "output.representation": cls,
        "output.heatmap": heat,
        "output.chosen_class": chosen,
        "output.relevance": maps,
        "output.mask": mask.byte(),
        "intermediate.attn_contrib_per_patch": parts.tokens,
        "intermediate.attn_contrib_per_head": parts.heads,
        "intermediate.mlp_contrib": parts.mlps,
        "intermediate.attn_contrib_layer_last": parts.layers[clip.depth - 1],
    }
