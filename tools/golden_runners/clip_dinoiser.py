"""CLIP-DINOiser: the whole inference with its heads, and one step of their training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from train_clip_dinoiser import make_optimizer, train_step

from golden_runners.common import build_clip, resize
from golden_runners.product import make_words
from ovseg.clip.normalise import normalise
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_dinoiser.heads import LightHeads
from ovseg.recalibration.clip_dinoiser.method import Inner
from ovseg.recalibration.clip_dinoiser.pooling import correlations

TOWER = "clip_backbone.backbone."


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    state = case.group("state_dict")
    own = {key: value for key, value in state.items() if key.startswith(("obj_proj.", "bkg_decoder."))}
    dim, channels, kernel, _ = own["obj_proj.weight"].shape
    heads = LightHeads(channels, dim, kernel)
    heads.load_state_dict(own)
    return trained(case, heads) if "corr_lr" in case.config else inferred(case, heads, state)


def inferred(case: Any, heads: LightHeads, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a whole image, padded before it is normalised, through MaskCLIP and the heads."""
    inputs, config = case.group("input"), case.config
    visual = {key[len(TOWER) :]: value for key, value in state.items() if key.startswith(TOWER)}
    clip = build_clip(clip_config(config, visual), visual)
    height, width = inputs["image"].shape[2:]
    padded = F.pad(inputs["image"], (0, -width % clip.patch_size, 0, -height % clip.patch_size))
    image, texts = normalise(padded, clip.mean, clip.std), make_words(inputs["class_embeddings"])
    options = {"weights": heads, "feats_idx": config["feats_idx"], "gamma": config["gamma"] or None}
    method = build_recalibration("clip_dinoiser", **options, delta=config["delta"])
    dense = clip.dense(image, method)
    plain = method.patch_scores(dense, texts)
    if config["apply_found"]:
        method = build_recalibration("clip_dinoiser", **options, delta=config["delta"], found_class=0)
    scores = method.patch_scores(dense, texts)
    maskclip = clip.dense(image, build_recalibration("maskclip", pos_resize=method.pos_resize))
    inner = dense.context.kept(Inner).features
    vectors, logits = heads(inner)
    labels = resize(scores, (padded.shape[2], padded.shape[3]))[..., :height, :width].argmax(1)
    return {
        "output.probs": scores,
        "output.probs_no_bkg": plain,
        "output.label": labels[0],
        "output.bkg_logits": logits,
        "intermediate.clip_feats": maskclip.features,
        "intermediate.inter_feats": inner,
        "intermediate.corrs": correlations(vectors).unflatten(2, dense.grid),
        "intermediate.pooled": dense.features,
        "intermediate.maskclip_probs": (config["softmax_scale"] * maskclip.cosines(texts.embeddings)).softmax(1),
    }


def trained(case: Any, heads: LightHeads) -> dict[str, Tensor]:
    """Take one step of the training."""
    inputs, config = case.group("input"), case.config
    features, grid = inputs["inter_feats"], tuple(config["grid"])
    vectors, logits = heads(features)
    teacher = correlations(inputs["dino_feats"].unflatten(2, grid))
    found = {
        "intermediate.corrs": correlations(vectors).unflatten(2, grid),
        "intermediate.bkg_logits": logits,
        "intermediate.dino_corrs": teacher.masked_fill(teacher < config["gamma"], 0).unflatten(2, grid),
    }
    optimizer = make_optimizer(heads, config["corr_lr"], config["found_lr"])
    with torch.enable_grad():
        losses = train_step(heads, optimizer, features, teacher, inputs["found_prob"], config["gamma"])
    found |= {
        "output.loss_dino": losses["correlation"],
        "output.loss_found": losses["objectness"],
        "output.loss_total": losses["loss"],
    }
    for name, parameter in heads.named_parameters():
        found |= {f"output.grad.{name}": parameter.grad, f"output.updated.{name}": parameter.detach()}
    return found


def clip_config(config: dict[str, Any], visual: dict[str, Tensor]) -> dict[str, Any]:
    """Translate the config of a case to the names that the other methods' cases have."""
    grid = config["img_size"] // config["patch_size"]
    return {
        **config,
        "embed_dim": config["output_dim"],
        "pretrain_grid": [grid, grid],
        "activation": "quickgelu" if config["act"].startswith("quick") else "gelu",
        "mlp_ratio": len(visual["visual.transformer.resblocks.0.mlp.c_fc.bias"]) / config["width"],
    }
