"""Whole models of MAFT+, from pixels to results, and a step of their training (imported by ``maft_plus``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golden_runners.fcclip_clip import build_clip, query_to_class
from golden_runners.fcclip_losses import build_criterion, mask_rule, read_targets, stage_draws
from golden_runners.mask_losses import in_order
from golden_runners.product import answers, encode_together, make_words, maps_of_classes, padded_batch
from ovseg.checkpoint.loading import Weights
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.losses.criterion import SetCriterion
from ovseg.meta_arch.maft_plus.content_transfer import ContentTransfer
from ovseg.meta_arch.maft_plus.model import MAFTPlus
from ovseg.meta_arch.maft_plus.weights import official_name
from ovseg.proposals.masked_decoder import MaskedDecoder
from ovseg.proposals.pixel_decoder import PixelDecoder

STUDENT, TEACHER = "backbone.clip_model.", "backbone_t.clip_model."
LOSSES = {"loss_ma": "ranking_loss", "loss_rc": "rc_loss"}
"""Our names of losses that the original calls otherwise."""


def below(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the tensors whose names start so, without the start."""
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def build_model(case: Any, criterion: SetCriterion, **parts: Any) -> tuple[MAFTPlus, Words]:
    """Build the whole model of a case, and its words; text towers, which the cases lack, are tiny random ones.

    Args:
        case: The case.
        criterion: Its losses.
        parts: What takes the place of the usual parts, for another runner.
    """
    config, inputs, state = case.config, case.group("input"), case.group("state_dict")
    head = config["head"]
    clip = build_clip(config["clip"], below(state, STUDENT))
    teacher, whole = below(state, TEACHER), clip.model.state_dict()
    for start in (STUDENT, TEACHER) if teacher else (STUDENT,):
        state = {**{f"{start}{key}": value for key, value in whole.items()}, **state}
    width = {"dim": head["conv_dim"], "mask_dim": head["mask_dim"], "heads": head["nheads"]}
    usual: dict[str, Any] = dict(
        clip=clip,
        pixel_decoder=PixelDecoder(
            clip.channels, **width, encoder_ffn=head["enc_ffn"], encoder_layers=head["enc_layers"]
        ),
        decoder=MaskedDecoder(
            head["clip_dim"],
            **width,
            queries=head["num_queries"],
            decoder_ffn=head["dec_ffn"],
            decoder_layers=head["dec_layers"],
        ),
        size_rule=SizeRule(800, 1333),
        rule=mask_rule(config),
        criterion=criterion,
        templates="vild14",
        background="none",
        transfer=ContentTransfer(
            config["cdt_params"][0],
            transfer_heads=config["cdt_params"][1],
            panoptic_transfer=config.get("panoptic_on", False),
        ),
        original=partial(build_clip, config["clip"], teacher),
        rc_weight=config.get("rc_weights", 0.1),
        weights=Weights(state, "the golden case"),
    )
    classes, model = query_to_class(inputs["num_templates"]), MAFTPlus(**{**usual, **parts})
    return model, make_words(inputs["text_classifier"], classes, things=config.get("thing_class_ids"))


def full_model(case: Any, **parts: Any) -> dict[str, Tensor]:
    """Run whole images, from pixels to results; ``parts`` as of `build_model`."""
    config, inputs = case.config, case.group("input")
    model, words = build_model(case, SetCriterion(), **parts)
    images = [inputs[f"image.{i}"] for i in range(len(config["output_sizes"]))]
    encoded = encode_together(model.eval(), images)
    levels, proposals = model.network(padded_batch(model, images))
    trained = model.trained_logits(proposals.embeddings, words)
    named = [model.class_scores(seen, trained[i : i + 1], words) for i, seen in enumerate(encoded.images)]
    features = torch.stack([seen.looks for seen in encoded.images])
    found = {
        "intermediate.pred_logits": trained,
        "intermediate.pred_masks": proposals.masks,
        "intermediate.pooled_embedding": torch.stack([seen.pooled for seen in encoded.images]),
        "intermediate.mask_cls": torch.cat(named),
        "intermediate.clip_vis_dense": levels["dense"],
        "intermediate.img_feat": features,
        "intermediate.text_out": model.transfer(features, model.rows(words)),
    }
    before = config.get("post_before", model.rule.objects)
    for i, results in enumerate(answers(model, encoded, config["output_sizes"], words)):
        if before != model.rule.objects:  # as in FC-CLIP
            results["sem_seg"] = maps_of_classes(named[i][0], encoded, i, config["output_sizes"][i], before)
        found |= {f"output.{i}.{key}": value for key, value in results.items()}
    return found


def training_step(case: Any) -> dict[str, Tensor]:
    """Return the losses of a batch, and the gradients of those parameters that the case has."""
    inputs, config = case.group("input"), case.config
    model, words = build_model(case, build_criterion(config))
    model.train()
    names = {official_name(name): name for name, value in model.named_parameters() if value.requires_grad}
    if sorted(names) != sorted(case.strings["trainable"]):
        strange = sorted(set(names).symmetric_difference(case.strings["trainable"]))
        raise ValueError(f"{strange[0]} is trained by one of the two only")
    batch = [training_input(inputs, i) for i in range(len(read_targets(inputs)))]
    draw = in_order(stage_draws(inputs, config["final_prediction"] + 1))
    with torch.enable_grad():
        losses = model.losses(batch, words, draw)
        total = torch.stack(list(losses.values())).sum()
        wanted = [key.removeprefix("output.grad.") for key in case.tensors if key.startswith("output.grad.")]
        parameters = [model.get_parameter(names[name]) for name in wanted]
        gradients = torch.autograd.grad(total, parameters) if wanted else ()
    found = {f"output.loss.{LOSSES.get(key, key)}": value.detach() for key, value in losses.items()}
    found |= {f"output.grad.{name}": value for name, value in zip(wanted, gradients, strict=True)}
    return {**found, "output.total": total.detach()}


def training_input(inputs: Mapping[str, Tensor], index: int) -> dict[str, Any]:
    """Return an image with its targets in Detectron2's format."""
    from detectron2.structures import Instances

    image, target = inputs[f"image.{index}"], read_targets(inputs)[index]
    instances = Instances((image.shape[1], image.shape[2]), gt_classes=target.labels, gt_masks=target.masks)
    return {"image": image, "instances": instances}
