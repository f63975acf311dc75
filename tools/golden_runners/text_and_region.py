"""Losses and rules of text_and_region: CLIP-IQA, CLIPood, FROSTER, LABCLIP and RegionCLIP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.engine.beta_average import BetaAverage, beta_weights
from ovseg.labelling.yes_or_no import probability_of_yes
from ovseg.losses.margin import margin_loss
from ovseg.losses.region_text import (
    concept_contrast,
    focal_loss,
    head_scores,
    image_text,
    name_regions,
    teacher_divergence,
)
from ovseg.losses.residual_distillation import ResidualDistillation
from ovseg.vocabulary.text_linear import Fit, apply_linear, caption_loss

Numbers = Mapping[str, Tensor]


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    parts = {"CLIP-IQA": paired, "CLIPood": margin, "FROSTER": residual, "LABCLIP": linear, "RegionCLIP": regions}
    own: Callable[..., dict[str, Tensor]] = parts[case.config["part"].split()[0]]
    with torch.enable_grad():
        found = own(case.group("input"), case.group("state_dict"), case.config)
    return {key: value.detach() for key, value in found.items()}


def paired(inputs: Numbers, state: Numbers, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the first of each pair of anchors, which alternate."""
    logits = in_order(config["logit_scale"] * inputs["image"], inputs["anchors"])
    found = probability_of_yes(logits[:, ::2], logits[:, 1::2], 1.0)
    return {"output.scores": found[:, 0] if len(config["names"]) == 1 else found}


def in_order(left: Tensor, right: Tensor) -> Tensor:
    """Return the products (N, M) of rows (N, D) and (M, D) in single precision, summed one channel after another.

    So the reference was computed: scaled first, each sum rounded once. Logits near 100 have five decimals there, and by
    other orders of the sums, or without rounding, scores are 7e-6 away, which is more than the tolerance.
    """
    found = torch.zeros(len(left), len(right))
    for one, other in zip(left.mT, right.mT, strict=True):
        found = (one[:, None].double() * other.double() + found.double()).float()
    return found


def margin(inputs: Numbers, state: Numbers, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Train the layer of a case, and average its weights on the way."""
    wide, narrow = inputs["text"].shape[1], inputs["x"].shape[2]
    model = nn.Sequential(nn.Linear(narrow, wide))
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    steps = config["total_steps"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    average = BetaAverage(model, steps, config["beta"])
    losses = []
    for step, (batch, labels) in enumerate(zip(inputs["x"], inputs["labels"], strict=True)):
        optimizer.param_groups[0]["lr"] = config["lr"] * (1 + math.cos(math.pi * step / steps)) / 2
        rows = F.normalize(model(batch), dim=-1)
        loss = margin_loss(rows, inputs["text"], labels, config["temperature"], config["lam"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model, step + 1)
        losses.append(loss.detach())
    found = {"output.losses": torch.stack(losses), "output.bma_weights": beta_weights(steps, config["beta"]).float()}
    found |= {f"output.final_{key[2:]}": value for key, value in model.state_dict().items()}
    return found | {f"output.average_{key[2:]}": value for key, value in average.values.items()}


def residual(inputs: Numbers, state: Numbers, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the distillation beside a classification that knows nothing of its branches."""
    images, texts = (inputs[key].clone().requires_grad_() for key in ("image", "text"))
    kept = ResidualDistillation(config["dim"], share=config["alpha"], ratio=config["ratio"])
    names = {"projector_v": "images", "projector_t": "texts"}
    kept.load_state_dict({f"{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": value for key, value in state.items()})
    distance = kept(images, inputs["frozen_image"], texts, inputs["frozen_text"])
    loss = distance + F.cross_entropy(config["logit_scale"] * images @ texts.mT, inputs["labels"])
    loss.backward()
    return {
        "output.mixed_image": kept.images(images),
        "output.mixed_text": kept.texts(texts),
        "output.distillation": distance / config["ratio"],
        "output.loss": loss,
        "output.grad_image": images.grad,
        "output.grad_text": texts.grad,
        "output.grad_projector_v.2": kept.images[2].weight.grad,
    }


def linear(inputs: Numbers, state: Numbers, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Fit the map of a case."""
    images, texts, negatives = inputs["image"], inputs["text"], inputs.get("negative_text")
    fit, size = Fit(config["dim"], config["lr"]), config["batch"]
    first = None if negatives is None else negatives[:size]
    start = caption_loss(images[:size], apply_linear(texts[:size], fit.matrix), first, fit.scale)
    train = [fit.epoch(images, texts, negatives, size) for _ in range(config["epochs"])]
    mapped = apply_linear(texts, fit.matrix)
    return {
        "output.initial_loss_first_batch": start,
        "output.matrix": fit.matrix,
        "output.t": fit.scale,
        "output.mapped_text": mapped,
        "output.logits": images @ mapped.mT,
        "output.train_loss_last_epoch": torch.tensor(train[-1]),
        "output.val_loss_last_epoch": torch.tensor(fit.mean_loss(images, texts, negatives, size)),
    }


def regions(inputs: Numbers, state: Numbers, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the losses of pre-training and their gradients, and those of the head that is tuned after it."""
    student, whole = (inputs[key].clone().requires_grad_() for key in ("student_regions", "global_features"))
    concepts, heat = inputs["concepts"], config["temperature"]
    named = name_regions(inputs["teacher_regions"], inputs["teacher_concepts"], config["concept_threshold"], heat)
    losses = {
        "output.loss_region_distill": teacher_divergence(student[named.kept], concepts, named.probabilities, heat),
        "output.loss_concept_contrastive": concept_contrast(student[named.kept], concepts, named.names, heat),
        "output.loss_img_txt_level": image_text(whole, inputs["captions"], heat),
    }
    torch.stack(list(losses.values())).sum().backward()
    scores = head_scores(student, concepts, heat)
    return losses | {
        "output.keep": named.kept,
        "output.target": named.names,
        "output.grad_student": student.grad,
        "output.grad_global": whole.grad,
        "output.head_scores": scores,
        "output.head_focal_loss": focal_loss(
            scores, inputs["head_targets"], config["gamma"], config["background_weight"]
        ),
        "intermediate.teacher_scores": named.probabilities,
    }
