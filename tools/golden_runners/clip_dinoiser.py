"""CLIP-DINOiser: the whole inference with its heads, and one step of their training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from train_clip_dinoiser import make_optimizer, train_step

from golden_runners.common import MAPS, build_clip, build_method, show
from ovseg.clip.normalise import normalise
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_dinoiser.heads import LightHeads
from ovseg.recalibration.clip_dinoiser.method import Inner, Objects
from ovseg.recalibration.clip_dinoiser.pooling import correlations

TOWER = "clip_backbone.backbone."


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    state = case.group("state_dict")
    own = {key: value for key, value in state.items() if key.startswith(("obj_proj.", "bkg_decoder."))}
    dim, channels, kernel, _ = own["obj_proj.weight"].shape
    heads = LightHeads(channels, dim, kernel)
    heads.load_state_dict({**heads.state_dict(), **own})  # without the rule for the background there may be no decoder
    return trained(case, heads) if "corr_lr" in case.config else inferred(case, heads, state)


def inferred(case: Any, heads: LightHeads, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a whole image through MaskCLIP and the heads.

    The original pads with black, before it normalises; the windows of the product are padded behind that, with zeros.
    So the image is padded here, as part of the preparation, and the padding is cut from its labels.
    """
    inputs, config = case.group("input"), case.config
    visual = {key[len(TOWER) :]: value for key, value in state.items() if key.startswith(TOWER)}
    clip = build_clip(clip_config(config, visual), visual)
    height, width = inputs["image"].shape[2:]
    padded = F.pad(inputs["image"], (0, -width % clip.patch_size, 0, -height % clip.patch_size))
    image = normalise(padded, clip.mean, clip.std)
    options = {"feats_idx": config["feats_idx"], "gamma": config.get("gamma") or None}
    options |= {"delta": config["delta"]} if "delta" in config else {}
    plain = build_recalibration("clip_dinoiser", weights=heads, **options)
    method = (
        build_recalibration("clip_dinoiser", weights=heads, **options, found_class=0)
        if config.get("apply_found")
        else plain
    )
    shown = show(build_method(clip, method, rule=MAPS), image, inputs["class_embeddings"])
    maskclip = build_recalibration("maskclip", pos_resize=method.pos_resize)
    below = show(build_method(clip, maskclip), image, inputs["class_embeddings"])
    context = shown.dense[0].context
    inner = context.kept(Inner).features
    return {
        "output.probs": shown.scores,
        "output.probs_no_bkg": shown.otherwise(method=plain).scores,
        "output.label": shown.labels((padded.shape[2], padded.shape[3]))[0, :height, :width],
        "output.bkg_logits": context.kept(Objects).logits,
        "intermediate.clip_feats": below.features,
        "intermediate.inter_feats": inner,
        "intermediate.corrs": correlations(heads(inner)[0]).unflatten(2, context.grid),
        "intermediate.pooled": shown.features,
        "intermediate.maskclip_probs": (config["softmax_scale"] * below.scores).softmax(1),
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
