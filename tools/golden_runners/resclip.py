"""ResCLIP: the attention of middle blocks, the first labelling, the feedback, and the features of each stage."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip, build_method, show, usual_outputs
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
    shown = show(build_method(clip, method), image, inputs["text_embeddings"])
    first, texts = shown.dense, shown.words
    found = usual_outputs(shown, tuple(image.shape[2:]))
    found["output.patch_features_rcs"] = found["output.patch_features"]
    again = torch.cat([method.with_feedback(dense, texts).features for dense in first])
    found["output.patch_features"] = again.flatten(2).mT
    found["output.patch_features_base"] = clip.dense(image, build(config, use_rcs=False)).features.flatten(2).mT
    context, cosines = first[0].context, first[0].cosines(texts.embeddings)
    found["intermediate.attention_rcs"] = torch.stack([context.attention[layer] for layer in LAYERS]).mean(0)[0]
    labels = patch_labels(cosines, image[:1], clip.patch_size, method.first_rule)
    weights = label_attention(labels, method.gaussian_std, method.delete_same_entity)
    rows, columns = (bilinear_matrix(*p).float() for p in zip(context.grid, image.shape[2:], strict=True))
    arguments = (cosines[0], rows, columns, texts.query_to_class, method.first_rule, image[0])
    found["intermediate.first_pass_probs"] = class_probabilities(*arguments)[None]
    found["intermediate.patch_label"] = labels[0].int()
    found["intermediate.attention_sfr"] = F.pad(weights, (1, 0, 1, 0))
    return found


def build(config: Any, use_rcs: bool = True) -> ResCLIP:
    """Build the method by the settings of the original, which rounds its feedback."""
    whole = config["arch"] != "wo_resi"
    return ResCLIP(
        attention=config["attn_strategy"],
        gaussian_std=config["gaussian_std"],
        layers=LAYERS,
        use_rcs=use_rcs,
        rcs_tau=config["attn_rcs_weights"][0],
        rcs_lambda=config["attn_rcs_weights"][1],
        sfr_tau=config["attn_sfr_weights"][0],
        sfr_lambda=config["attn_sfr_weights"][1],
        temp_thd=config["temp_thd"],
        logit_scale=config["logit_scale"],
        delete_same_entity=config["delete_same_entity"],
        half_feedback=True,
        residual=whole,
        feed_forward=whole,
    )
