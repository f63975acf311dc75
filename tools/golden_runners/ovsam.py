"""Open-Vocabulary SAM: the neck with its loss and gradients, and the head from prompts to fused names."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ovseg.checkpoint.strict import load_strict
from ovseg.meta_arch.ovsam.head import LOG_SCALE, UNUSED, Decoder, Pyramid, boxes_of, fuse, levels_of, regions_of
from ovseg.meta_arch.ovsam.neck import Sam2Clip
from ovseg.proposals.classifier import class_logits


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return neck(case) if "embed_channels" in case.config else head(case)


def neck(case: Any) -> dict[str, Tensor]:
    """Run the neck, forwards and backwards."""
    config, inputs, state = case.config, case.group("input"), case.group("state_dict")
    rows, columns = (side // 16 for side in config["input_size"])
    model = Sam2Clip(
        config["in_channels"],
        (rows, columns),
        config["out_channels"],
        config["layer_ids"],
        width=config["embed_channels"],
        depth=config["depth"],
        heads=config["num_heads"],
        window=config["window_size"],
        whole=config["global_attn_blocks"],
    )
    load_strict(model, state, case.name, "the neck of OVSAM")
    levels = [inputs[f"backbone_feats.{i}"] for i in range(len(config["in_channels"]))]
    found: dict[str, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, i=i: found.update({f"intermediate.after_block.{i}": out}))
        for i, block in enumerate(model.blocks)
    ]
    with torch.enable_grad():
        found["output.sam_like_feature"] = model(levels)
        for hook in hooks:
            hook.remove()
        if "teacher_feature" in inputs:
            found["output.loss_distillation"] = model.loss(levels, inputs["teacher_feature"])
            found["output.loss_distillation"].backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"output.grad_norm.{name}"] = parameter.grad.norm()
    return {name: value.detach() for name, value in found.items()}


def head(case: Any) -> dict[str, Tensor]:
    """Run the head on prompts that are embedded already."""
    config, inputs, state = case.config, case.group("input"), case.group("state_dict")
    texts = inputs["class_embeddings"]
    pyramid = Pyramid(config["fpn_in_channels"], config["transformer_dim"])
    sizes = (config["mask_decoder_depth"], config["mask_decoder_heads"], config["mask_decoder_mlp_dim"])
    decoder = Decoder(config["transformer_dim"], texts.shape[2], *sizes)
    both = torch.nn.ModuleDict({"fpn_neck": pyramid, "mask_decoder": decoder}).eval()
    load_strict(both, state, case.name, "the head of OVSAM")
    levels = pyramid([inputs[f"backbone_feats.{i}"] for i in range(len(config["fpn_in_channels"]))])
    prompts = (inputs["sparse_prompt_embeddings"], inputs["dense_prompt_embeddings"])
    masks = decoder.masks(inputs["image_embeddings"], inputs["image_pe"], *prompts)
    boxes = boxes_of(masks[:, 0], config["box_scale"])
    regions = regions_of(levels, boxes)
    rows = torch.cat([texts.flatten(0, 1), torch.zeros_like(texts[:1, 0])])
    classes = torch.arange(len(texts)).repeat_interleave(texts.shape[1])
    scale = math.exp(config.get("logit_scale_log", LOG_SCALE))
    logits = class_logits(decoder.embed(regions)[:, None], rows, scale, classes, void=True)
    found = {f"intermediate.fpn.{i}": level for i, level in enumerate(levels)}
    found |= {
        "output.mask_logits": masks,
        "output.class_logits": logits,
        "intermediate.boxes_from_masks": boxes,
        "intermediate.roi_levels": levels_of(boxes, len(levels)),
        "intermediate.roi_feats_12x12_mean": regions.mean((2, 3)),
    }
    if "clip_instance_features" in inputs:
        own = class_logits(inputs["clip_instance_features"], rows, scale, classes, void=True)
        kinds = inputs.get("base_novel_indicator", torch.full((len(texts),), 2))
        fused = fuse(logits, own, kinds == 1, (config["alpha"], config["beta"]))
        fused[..., :-1] = fused[..., :-1].masked_fill(kinds == 0, UNUSED)
        found |= {"output.fused_log_scores": fused, "output.labels": fused[:, 0, :-1].argmax(-1)}
    return found
