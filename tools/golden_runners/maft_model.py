"""Whole models of MAFT+, from pixels to results, and a step of their training (imported by ``maft_plus``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golden_runners.fcclip_clip import build_clip, query_to_class
from golden_runners.fcclip_losses import build_criterion, read_targets, stage_draws, whole_results
from golden_runners.mask_losses import in_order
from ovseg.checkpoint.loading import Weights
from ovseg.checkpoint.maft_plus import official_name
from ovseg.losses.criterion import SetCriterion
from ovseg.mask_postprocess import class_maps
from ovseg.meta_arch.maft_plus import MAFTPlus
from ovseg.meta_arch.mask_model import SizeRule
from ovseg.meta_arch.mask_results import MaskRule
from ovseg.proposals.content_transfer import ContentTransfer
from ovseg.proposals.masked_decoder import MaskedDecoder
from ovseg.proposals.pixel_decoder import PixelDecoder
from ovseg.vocabulary import Queries

STUDENT, TEACHER = "backbone.clip_model.", "backbone_t.clip_model."
LOSSES = {"loss_ma": "ranking_loss", "loss_rc": "rc_loss"}
"""Our names of losses that the original calls otherwise."""


def below(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the tensors whose names start so, without the start."""
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def build_model(case: Any, criterion: SetCriterion) -> MAFTPlus:
    """Build the whole model of a case, with its words; text towers, which the cases lack, are tiny random ones."""
    config, inputs, state = case.config, case.group("input"), case.group("state_dict")
    head = config["head"]
    clip = build_clip(config["clip"], below(state, STUDENT))
    teacher, whole = below(state, TEACHER), clip.model.state_dict()
    for start in (STUDENT, TEACHER) if teacher else (STUDENT,):
        state = {**{f"{start}{key}": value for key, value in whole.items()}, **state}
    dim, heads = head["conv_dim"], head["nheads"]
    model = MAFTPlus(
        clip=clip,
        pixel_decoder=PixelDecoder(clip.channels, dim, heads, head["enc_ffn"], head["enc_layers"]),
        decoder=MaskedDecoder(head["clip_dim"], dim, head["num_queries"], heads, head["dec_ffn"], head["dec_layers"]),
        protocol=SizeRule(800, 1333),
        rule=MaskRule(),
        criterion=criterion,
        templates="vild14",
        background="none",
        transfer=ContentTransfer(*config["cdt_params"], config["panoptic_on"]),
        original=partial(build_clip, config["clip"], teacher),
        compensation=config["rc_weights"],
        weights=Weights(state, "the golden case"),
    )
    model.queries = Queries(inputs["text_classifier"], query_to_class(inputs["num_templates"]))
    return model


def full_model(case: Any) -> dict[str, Tensor]:
    """Run whole images, from pixels to results."""
    config, inputs = case.config, case.group("input")
    model = build_model(case, SetCriterion()).eval()
    batch = model.batch(
        [{"image": inputs[f"image.{i}"], "height": h, "width": w} for i, (h, w) in enumerate(config["output_sizes"])]
    )
    levels = model.clip.levels(batch.images)
    dense, proposals = levels["dense"], model.propose(levels)[-1]
    trained = model.trained_logits(proposals)
    scores = model.class_scores(levels, proposals, trained)
    features = model.image_features(dense)
    found = {
        "intermediate.pred_logits": trained,
        "intermediate.pred_masks": proposals.masks,
        "intermediate.pooled_embedding": model.clip.pool(dense, proposals.masks),
        "intermediate.mask_cls": scores,
        "intermediate.clip_vis_dense": dense,
        "intermediate.img_feat": features,
        "intermediate.text_out": model.transfer(features, model.rows()),
    }
    objects = config["panoptic_on"] or config["instance_on"]
    for i, (one, masks) in enumerate(zip(scores, proposals.masks, strict=True)):
        resize = model.resize(batch, i, masks, sigmoid_first=not objects)
        results = (
            whole_results(one, masks, resize, config)
            if objects
            else {"sem_seg": class_maps(one.softmax(-1), masks, resize)}
        )
        wanted = {f"output.{i}.{key}": value for key, value in results.items()}
        found |= {key: value for key, value in wanted.items() if key in case.tensors}
    return found


def training_step(case: Any) -> dict[str, Tensor]:
    """Return the losses of a batch, and the gradients of those parameters that the case has."""
    inputs, config = case.group("input"), case.config
    model = build_model(case, build_criterion(config)).train()
    names = {official_name(name): name for name, value in model.named_parameters() if value.requires_grad}
    if sorted(names) != sorted(case.strings["trainable"]):
        strange = sorted(set(names).symmetric_difference(case.strings["trainable"]))
        raise ValueError(f"{strange[0]} is trained by one of the two only")
    batch = [training_input(inputs, i) for i in range(len(read_targets(inputs)))]
    draw = in_order(stage_draws(inputs, config["final_prediction"] + 1))
    with torch.enable_grad():
        losses = model.losses(batch, draw)
        total = torch.stack(list(losses.values())).sum()
        wanted = [key.removeprefix("output.grad.") for key in case.tensors if key.startswith("output.grad.")]
        gradients = torch.autograd.grad(total, [model.get_parameter(names[name]) for name in wanted])
    found = {f"output.loss.{LOSSES.get(key, key)}": value.detach() for key, value in losses.items()}
    found |= {f"output.grad.{name}": value for name, value in zip(wanted, gradients, strict=True)}
    return {**found, "output.total": total.detach()}


def training_input(inputs: Mapping[str, Tensor], index: int) -> dict[str, Any]:
    """Return an image with its targets in Detectron2's format."""
    from detectron2.structures import Instances

    image, target = inputs[f"image.{index}"], read_targets(inputs)[index]
    instances = Instances((image.shape[1], image.shape[2]), gt_classes=target.labels, gt_masks=target.masks)
    return {"image": image, "instances": instances}
