"""Mask-Adapter on FC-CLIP and MAFT+: the adapter, its maps, whole models, masks to learn by, both trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from golden_runners import fcclip, maft_model
from golden_runners.adapter_training import ground_truth, training_step
from golden_runners.fcclip_clip import build_clip, load_part, query_to_class, seen_names
from golden_runners.fcclip_losses import read_targets
from golden_runners.mask_losses import picked
from ovseg.losses.mixed_masks import AdapterRule, match_by_overlap, overlaps, resized
from ovseg.meta_arch.adaptable_model import AdaptableModel
from ovseg.meta_arch.maft_plus.model import MAFTPlus
from ovseg.proposals.classifier import LARGEST_SCALE, class_logits
from ovseg.proposals.ensemble import Ensemble
from ovseg.proposals.mask_adapter import MaskAdapter, pool_by_maps


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return PARTS[case.config["part"]](case)


def build_adapter(config: Mapping[str, Any], threshold: float = 0.5) -> MaskAdapter:
    """Build the adapter of a case, untrained."""
    sizes = (config[key] for key in ("clip_dim", "num_channels", "num_output_maps", "mask_in_chans"))
    return MaskAdapter(*sizes, threshold)


def adapter(case: Any) -> dict[str, Tensor]:
    """Make the maps of masks; of the layers within, the cases have the first two masks of all images."""
    inputs, module = case.group("input"), build_adapter(case.config)
    load_part(module, case.group("state_dict"), "adapter.", "mask_adapter.")
    parts = {"mask_downscaling": module.reading, "fuse": module.fuse, "cnext1": module.blocks[0], "norm": module.norm}
    seen: dict[str, list[Tensor]] = {name: [] for name in parts}
    for name, part in parts.items():
        part.register_forward_hook(lambda _m, _i, out, key=name: seen[key].append(out))
    maps = module(inputs["clip_feature"], inputs["masks"])
    return {"output.maps": maps, **{f"intermediate.{name}": torch.cat(found)[:2] for name, found in seen.items()}}


def only_clip(case: Any) -> Any:
    """Return what a case that has a part of CLIP needs of a model."""
    clip = build_clip(case.config["clip"], maft_model.below(case.group("state_dict"), fcclip.CLIP))
    part = SimpleNamespace(clip=clip)
    part.embed_pixels = partial(AdaptableModel.embed_pixels, part)
    return part


def dense_embedding(case: Any) -> dict[str, Tensor]:
    """Bring CLIP's features to the joint space, as FC-CLIP and as MAFT+ do."""
    part, dense = only_clip(case), case.group("input")["dense"]
    both = {"per_pixel": AdaptableModel.image_features, "reshaped": MAFTPlus.image_features}
    return {f"output.{name}": function(part, dense) for name, function in both.items()}


def pool_and_classify(case: Any) -> dict[str, Tensor]:
    """Embed what maps show, and compare it with texts."""
    inputs, config, part = case.group("input"), case.config, only_clip(case)
    maps, dense = inputs["maps"], inputs["dense"]
    adapter: Any = lambda features, masks: maps  # noqa: E731
    adapter.maps = config["num_output_maps"]
    found = AdaptableModel.embed_masks(part, adapter, dense, dense, maps)
    classes = query_to_class(torch.tensor(config["num_templates"]))
    scale = min(part.clip.logit_scale, LARGEST_SCALE)
    one_each = torch.eye(dense[0, 0].numel()).view(1, -1, *dense.shape[2:]).expand(len(dense), -1, -1, -1)
    return {
        "output.embedding": found,
        "output.logits": class_logits(found, inputs["text"], scale, classes, void=True),
        "intermediate.weights": pool_by_maps(one_each.contiguous(), maps),
        "intermediate.pooled_raw": pool_by_maps(dense, maps),
    }


def match_via_iou(case: Any) -> dict[str, Tensor]:
    """Match proposed masks to true ones, by recorded draws."""
    inputs, config = case.group("input"), case.config
    targets = read_targets({key.replace("masks.", "gt_masks.", 1): value for key, value in inputs.items()})
    rule = AdapterRule(
        adapter_overlap=config["iou_threshold"],
        adapter_matched_masks=config["max_matches"],
        adapter_inside=config["pred_binarisation"],
    )
    logits = inputs["pred_masks"]
    pairs = match_by_overlap(logits, targets, rule, picked(inputs))
    size = (logits.shape[2], logits.shape[3])
    fits = [overlaps(x, resized(one.masks, size), rule.adapter_inside) for x, one in zip(logits, targets, strict=True)]
    return {
        "output.src_masks": pairs.logits,
        "output.target_masks": pairs.truth,
        "output.labels": pairs.labels.float(),
        **{f"intermediate.iou.{i}": fit for i, fit in enumerate(fits)},
    }


def text_average(case: Any) -> dict[str, Tensor]:
    """Embed names and say which classes are seen, as FC-CLIP does."""
    tensors = {"input.prompt_features": case.tensors["input.raw"]}
    found = fcclip.text_names(replace(case, tensors=tensors))
    names = {"text": "text_classifier", "num_templates": "num_templates", "seen": "category_overlapping_mask"}
    return {f"output.{own}": found[f"output.{theirs}"] for own, theirs in names.items()}


def full_model(case: Any) -> dict[str, Tensor]:
    """Run whole images, from pixels to results."""
    config = case.config
    own = build_adapter(config["adapter"], config["mask_threshold"])
    seen: dict[str, Tensor] = {}

    def keep(module: Any, inputs: tuple[Tensor, Tensor], maps: Tensor) -> None:
        seen.update(dense_embedding=inputs[0], binary_masks=inputs[1].to(torch.uint8), maps=maps)

    own.register_forward_hook(keep)
    if config["variant"] == "fcclip":
        found = fcclip.full_model(case, adapter=own)
    else:
        mix = Ensemble(alpha=config["alpha"], beta=config["beta"])
        names = seen_names(case.group("input"))
        found = maft_model.full_model(case, adapter=own, ensemble=mix, trained_names=names)
        found["intermediate.text_adapted"] = found.pop("intermediate.text_out")
    return {**found, **{f"intermediate.{name}": value for name, value in seen.items()}}


PARTS: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "adapter": adapter,
    "dense_embedding": dense_embedding,
    "pool_and_classify": pool_and_classify,
    "match_via_iou": match_via_iou,
    "text_average": text_average,
    "full_model": full_model,
    "train_step": lambda case: training_step(case, build_adapter),
    "warmup_train": lambda case: training_step(case, build_adapter),
    "gt_mask_evaluation": lambda case: ground_truth(case, build_adapter),
}
"""What runs which ``part`` of the cases."""
