"""Both trainings of Mask-Adapter, and what its warm-up makes of true masks (imported by ``mask_adapter``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from golden_runners import fcclip, maft_model
from golden_runners.fcclip_losses import read_targets
from golden_runners.mask_losses import picked
from ovseg.checkpoint.loading import Weights, load
from ovseg.contract import Words
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.mixed_masks import AdapterRule
from ovseg.meta_arch.adaptable_model import AdaptableModel
from ovseg.meta_arch.mask_model import semantic_target

HEAD = {"conv_dim": 32, "hidden_dim": 32, "mask_dim": 32, "num_queries": 2, "nheads": 2}
LAYERS = {"enc_ffn": 8, "enc_layers": 1, "dec_ffn": 8, "dec_layers": 1}
"""Of the head, which the warm-up has not."""
VOID, WARM_VOID = "void_embedding.weight", "warm_void.weight"
BuildAdapter = Callable[..., Any]


def build_rule(config: Any) -> AdapterRule:
    """Return how the adapter of a case is trained."""
    if config["part"] != "train_step":
        weights = (config.get("weight_ce", 2.0), 0.0)
        return AdapterRule(
            adapter_stage="ground-truth", adapter_true_masks=config["num_masks"], adapter_loss_weights=weights
        )
    return AdapterRule(
        adapter_true_masks=config["num_gt_masks"],
        adapter_matched_masks=config["num_pred_masks"],
        adapter_overlap=config["iou_threshold"],
        adapter_inside=config["pred_binarisation"],
        adapter_target_gradient=not config["cosine_target_detached"],
        adapter_loss_weights=(config["weight_ce"], config["weight_cosine"]),
    )


def build_model(case: Any, build_adapter: BuildAdapter) -> tuple[AdaptableModel, Words]:
    """Build the model of a case and its words; a head that it has not is a tiny random one."""
    config, state = case.config, case.group("state_dict")
    rule, threshold = build_rule(config), config.get("mask_threshold", 0.5)
    adapter = build_adapter(config["adapter"], threshold)
    whole = {"head": {**HEAD, **LAYERS, "clip_dim": config["clip"]["embed_dim"]}, "alpha": 0.7, "beta": 0.9, **config}
    parts, made = {"adapter": adapter, "adapter_rule": rule, "weights": None}, replace(case, config=whole)
    model: AdaptableModel
    if config.get("cdt_params"):
        model, words = maft_model.build_model(made, SetCriterion(), **parts)
    else:
        model, words = fcclip.build_model(made, **parts), fcclip.words_of(made)
    if rule.warms_up:  # the original has no head there, whose "no object" could be left alone
        state[WARM_VOID] = state.pop(VOID)
    own = {model.official.name_of(key): value for key, value in model.state_dict().items()}
    load(model, Weights({**own, **state}, "the golden case"), model.official)
    return model.eval(), words


def training_step(case: Any, build_adapter: BuildAdapter) -> dict[str, Tensor]:
    """Return the losses of a batch, and the gradients of all that is trained."""
    inputs, config = case.group("input"), case.config
    model, words = build_model(case, build_adapter)
    names = {model.official.name_of(name): value for name, value in model.named_parameters() if value.requires_grad}
    names = {VOID if name == WARM_VOID else name: value for name, value in names.items()}
    if strange := sorted(set(names).symmetric_difference(config["trainable_parameters"])):
        raise ValueError(f"{strange[0]} is trained by one of the two only")
    targets, seen = read_targets(inputs), dict[str, Tensor]()
    images = [inputs[f"image.{i}"] for i in range(len(targets))]
    batch = model.training_batch([{"image": image} for image in images])
    size = (batch.shape[2], batch.shape[3])
    targets = [one._replace(masks=_padded(one.masks, size)) for one in targets]
    with torch.enable_grad():
        _watch(model, seen)
        losses = model.adapter_losses(model.adapter, batch, targets, words, picked(inputs))
        total = torch.stack(list(losses.values())).sum()
        gradients = torch.autograd.grad(total, list(names.values()))
    found = {f"output.{name}": value.detach() for name, value in losses.items()}
    found |= {f"output.grad.{name}": value for name, value in zip(names, gradients, strict=True)}
    return {**found, "output.total": total.detach(), **seen}


def ground_truth(case: Any, build_adapter: BuildAdapter) -> dict[str, Tensor]:
    """Name the true masks of an image, one of each class that it shows; the original takes a softmax twice."""
    inputs, seen = case.group("input"), dict[str, Tensor]()
    model, words = build_model(case, build_adapter)
    batch = model.training_batch([{"image": inputs["image.0"]}])
    target = semantic_target(inputs["gt_sem_seg.0"], (batch.shape[2], batch.shape[3]))
    _watch(model, seen)
    dense = model.clip.levels(batch)["dense"]
    features = model.image_features(dense)
    embeddings = model.embed_masks(model.adapter, dense, features, target.masks[None])
    rows = model.rows_before(words, model.warm_void)
    logits = model.clip_logits(embeddings, model.texts(features, rows), words)[0]
    shares = logits.softmax(-1).softmax(-1)[:, :-1]
    high, wide = inputs["image.0"].shape[1:]
    maps = torch.einsum("qk,qhw->khw", shares, target.masks[:, :high, :wide].float())
    seen["intermediate.adapter_masks"] = target.masks[None].to(torch.uint8)
    return {"output.sem_seg": maps, **seen}


def _padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))


def _watch(model: AdaptableModel, seen: dict[str, Tensor]) -> None:
    """Keep what a model computes on the way by the names of the cases."""
    classify = model.clip_logits

    def clip_logits(pooled: Tensor, texts: Tensor, words: Words) -> Tensor:
        logits = classify(pooled, texts, words)
        seen["intermediate.pooled_embedding"], seen["intermediate.clip_logits"] = pooled.detach(), logits.detach()
        return logits

    def keep(module: Any, inputs: tuple[Tensor, Tensor], maps: Tensor) -> None:
        seen["intermediate.dense_embedding"], seen["intermediate.maps"] = inputs[0].detach(), maps.detach()

    model.clip_logits = clip_logits  # type: ignore[method-assign]
    model.adapter.register_forward_hook(keep)
