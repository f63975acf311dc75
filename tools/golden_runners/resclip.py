"""ResCLIP: the attention of middle blocks, the first labelling, the feedback, the features of each stage, windows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import Shown, build_clip, build_method, renormalised, show, usual_outputs
from ovseg.clip import ViTClip
from ovseg.labelling.scores import class_probabilities
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.recalibration.resclip.method import ResCLIP
from ovseg.recalibration.resclip.semantic_feedback import label_attention, patch_labels

LAYERS = (5, 6, 7, 8)  # whatever the depth


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip({"mlp_ratio": 4.0, **config}, case.group("state_dict"))
    image, method = inputs["image"], build(config)
    shown = show(build_method(clip, method), image, inputs.get("text_embeddings"))
    found = usual_outputs(shown, tuple(image.shape[2:]))
    found["output.patch_features_rcs"] = found["output.patch_features"]
    found["output.patch_features_base"] = clip.dense(image, build(config, use_rcs=False)).features.flatten(2).mT
    if method.use_rcs:
        kept = shown.dense[0].context.attention
        found["intermediate.attention_rcs"] = torch.stack([kept[layer] for layer in LAYERS]).mean(0)[0]
    if shown.words is not None and method.use_sfr:
        found |= feedback(clip, method, shown)
    if "postprocess" in config:
        found |= renormalised(clip, method, inputs, config["postprocess"])
    return found


def feedback(clip: ViTClip, method: ResCLIP, shown: Shown) -> dict[str, Tensor]:
    """Return the features of the second run, and the labels of the first and what is made of them."""
    first, texts, image = shown.dense, shown.words, shown.images
    again = torch.cat([method.with_feedback(dense, texts).features for dense in first])
    found = {"output.patch_features": again.flatten(2).mT}
    context, cosines = first[0].context, first[0].cosines(texts.embeddings)
    labels = patch_labels(cosines, image[:1], clip.patch_size, method.first_rule)
    weights = label_attention(labels, method.gaussian_std, method.delete_same_entity)
    rows, columns = (bilinear_matrix(*p).float() for p in zip(context.grid, image.shape[2:], strict=True))
    arguments = (cosines[0], rows, columns, texts.query_to_class, method.first_rule, image[0])
    found["intermediate.first_pass_probs"] = class_probabilities(*arguments)[None]
    found["intermediate.patch_label"] = labels[0].int()
    found["intermediate.attention_sfr"] = F.pad(weights, (1, 0, 1, 0))
    return found


def build(config: Any, use_rcs: bool = True) -> ResCLIP:
    """Build the method by the settings of the original, which rounds its feedback; a stage without weights is off."""
    whole = config["arch"] != "wo_resi"
    rcs, sfr = config.get("attn_rcs_weights"), config.get("attn_sfr_weights")
    return ResCLIP(
        attention=config["attn_strategy"],
        gaussian_std=config["gaussian_std"],
        layers=LAYERS,
        use_rcs=use_rcs and bool(rcs),
        **(dict(zip(("rcs_tau", "rcs_lambda"), rcs, strict=True)) if rcs else {}),
        use_sfr=bool(sfr),
        **(dict(zip(("sfr_tau", "sfr_lambda"), sfr, strict=True)) if sfr else {}),
        temp_thd=config.get("temp_thd") or 0.0,
        logit_scale=config["logit_scale"],
        delete_same_entity=config.get("delete_same_entity", True),
        half_feedback=True,
        residual=whole,
        feed_forward=whole,
    )
