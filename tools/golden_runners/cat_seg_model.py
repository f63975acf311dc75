"""Whole models of CAT-Seg, from pixels to results, and a step of their training (imported by ``cat_seg``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.product import make_words
from ovseg.checkpoint.loading import Weights
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.clip.open_clip_vit import split_weights
from ovseg.config import find_config, load_config
from ovseg.data.preprocessing import SizeRule
from ovseg.engine.optimizer import parameter_groups
from ovseg.labelling.sliding import Logits, Sliding
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.losses.matcher import Target
from ovseg.meta_arch.cat_seg.aggregator import Aggregator, View
from ovseg.meta_arch.cat_seg.decoder import Decoder
from ovseg.meta_arch.cat_seg.model import CATSeg
from ovseg.meta_arch.cat_seg.weights import official_name
from ovseg.meta_arch.mask_model import read_targets


def clip_of(config: Mapping[str, Any], state: Mapping[str, Tensor], pixels: Mapping[str, Any] | None = None) -> ViTClip:
    """Build the CLIP of a case with its weights; towers that the case lacks stay random.

    Args:
        config: Its sizes.
        state: Its weights by the names of the original.
        pixels: The config that says how images are normalised.
    """
    text = {name: config[name] for name in ("context_length", "vocab_size")}
    text |= {name: config[f"text_{name}"] for name in ("width", "heads", "layers")}
    vision = {
        "image_size": config["image_resolution"],
        "patch_size": config["patch"],
        "layers": config["layers"],
        "width": config["width"],
        "head_width": config["width"] // config["heads"],
        "norm_kwargs": {"eps": config["ln_eps"]},
    }
    quick = "1.702" in config["activation"]
    model_cfg = {"embed_dim": config["embed_dim"], "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}
    model = build_model(model_cfg, "golden case")
    split_weights(model)
    own = model.state_dict()
    if strange := set(state) - set(own):
        raise ValueError(f"{min(strange)} has no place")
    model.load_state_dict({**own, **state})
    mean, std = ([value / 255 for value in (pixels or {}).get(key, standard)] for key, standard in PIXELS)
    return ViTClip(model, model_cfg, "golden case", tuple(mean), tuple(std))


PIXELS = (("clip_pixel_mean", [0, 0, 0]), ("clip_pixel_std", [255, 255, 255]))


def aggregator_of(config: Mapping[str, Any], classes: int, most: int | None = None) -> Aggregator:
    """Build the aggregator of a case."""
    grid, pools = config["feature_resolution"], tuple(config["pooling_size"])
    fill = config.get("pad_len", 256)
    return Aggregator(
        config.get("appearance_guidance_dim", 1),
        (grid[0], grid[1]),
        decoder_of(config),
        hidden=config["hidden_dim"],
        layers=config["num_layers"],
        heads=config["nheads"],
        swin_window=config["window_size"],
        guidance=config["appearance_guidance_proj_dim"],
        text_guidance=config["text_guidance_proj_dim"] if config["text_guidance_dim"] else 0,
        prompts=config.get("prompt_channel", 1),
        pooling=pools,
        train_pooling=pools,
        attention=config["attention_type"],
        fill=fill,
        most=fill if most is None else most,
    )


def decoder_of(config: Mapping[str, Any]) -> Decoder:
    """Build the decoder of a case."""
    return Decoder(
        hidden=config["hidden_dim"],
        decoder_dims=tuple(config["decoder_dims"]),
        decoder_guidance=tuple(config["decoder_guidance_proj_dims"]),
        up_channels=tuple(config["decoder_guidance_dims"]),
    )


FORGOTTEN = -100.0
"""The logit that the original gives a class that was left out."""


def with_forgotten(logits: Logits, count: int) -> Tensor:
    """Return the logits (T, h, w) of all classes of a view."""
    if logits.classes is None:
        return logits.maps
    found = logits.maps.new_full((count, *logits.maps.shape[1:]), FORGOTTEN)
    found[logits.classes] = logits.maps
    return found


def dense_of(clip: ViTClip, image: Tensor, taps: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
    """Return all tokens (B, 1 + h * w, D) behind the dense last block, and those behind some blocks."""
    tokens, grid = clip.embed(image, "bicubic")
    *blocks, last = clip.blocks_on(grid)
    found = {}
    for index, block in enumerate(blocks):
        tokens = block(tokens)
        if index in taps:
            found[index] = tokens
    return clip.patches_to_joint(CATSeg.keep_values(clip, last, tokens)), found


def build(case: Any, sliding: Sliding | None = None) -> tuple[CATSeg, Tensor]:
    """Build the model of a case, and the rows (T, D) of its texts."""
    config, state = case.config, case.group("state_dict")
    grid = config["aggregator"]["feature_resolution"]
    if config["clip_resolution"][0] != config["clip_resolution"][1] or grid[0] != grid[1]:
        raise ValueError("CLIP sees no square")
    clip_state = {key.removeprefix(CLIP): value for key, value in state.items() if key.startswith(CLIP)}
    clip = clip_of(config["clip"], clip_state, config)
    model = CATSeg(
        clip=clip,
        aggregator=aggregator_of(config["aggregator"], config["num_classes"]),
        sliding=sliding,
        criterion=ClassMapCriterion(),
        size_rule=SizeRule(1, 1),
        templates="cat_seg",
        background="none",
        weights=Weights(
            {**{f"{CLIP}{key}": value for key, value in clip.model.state_dict().items()}, **state}, case.name
        ),
        resolution=config["clip_resolution"][0],
        taps=tuple(config["guidance_blocks"]),
        size_divisibility=config.get("size_divisibility", 32),
        padding_stays=True,
        tuned={"attention": "attention", "full": "full"}.get(config.get("finetune", "attention"), "none"),
    )
    return model.eval(), F.normalize(model.clip.learn_texts(case.group("input")["tokens"]), dim=-1)


CLIP = "sem_seg_head.predictor.clip_model."


def full_whole(case: Any) -> dict[str, Tensor]:
    """Run a whole image, from pixels to labels, by the product's own path."""
    return _answer(case, *build(case))


def full_sliding(case: Any) -> dict[str, Tensor]:
    """Run the windows of an image and the whole of it, from pixels to labels, by the product's own path."""
    config = case.config
    if config["out_res"][0] != config["out_res"][1]:
        raise ValueError("windows are cut from no square")
    sliding = Sliding(config["out_res"][0], config["kernel"], config["overlap"])
    if sliding.stride != config["stride"]:
        raise ValueError("the windows are others")
    return _answer(case, *build(case, sliding))


def _answer(case: Any, model: CATSeg, rows: Tensor) -> dict[str, Tensor]:
    words, image = make_words(rows), case.group("input")["image"]
    encoded = model.encode([image])
    seen = encoded.images[0]
    size = (case.config["output_size"][0], case.config["output_size"][1])
    answer = model.answer(encoded, 0, size, words, model.gives)
    views = [View(*own) for own in zip(*seen, strict=True)]
    logits = [with_forgotten(model.aggregator(view, rows[:, None]), len(rows)) for view in views]
    features, first, _ = model.look(model.views(model.normalise(image[None]))[:1])
    return {
        "output.sem_seg": answer.class_scores,
        "output.labels": answer.labels.to(torch.int16),
        "intermediate.clip_dense_0": features,
        "intermediate.text": rows[None, :, None],
        "intermediate.guidance_1_0": model.upsample[0](first),
        "intermediate.logits": torch.stack([logits[0], logits[-1]] if len(logits) > 1 else logits),
    }


def train_step(case: Any) -> dict[str, Tensor]:
    """Return the loss of a batch, all gradients, and check what is trained and how fast."""
    inputs, config = case.group("input"), case.config
    model, _ = build(case)
    model.train()
    names = {official_name(name): name for name, value in model.named_parameters() if value.requires_grad}
    if strange := set(names).symmetric_difference(config["trainable_parameters"]):
        raise ValueError(f"{min(strange)} is trained by one of the two only")
    count = sum(key.startswith("image.") for key in inputs)
    entries = [
        {
            "image": inputs[f"image.{i}"],
            "sem_seg": inputs[f"sem_seg.{i}"].long(),
            "ignore_label": config.get("ignore_value", 255),
        }
        for i in range(count)
    ]
    images = model.training_batch(entries)
    targets: list[Target] = read_targets(entries, images)
    with torch.enable_grad():
        rows = model.clip.learn_texts(inputs["tokens"])
        loss = model.compare(images, targets, rows)["loss_sem_seg"]
        loss.backward()
        views = model.predict(images)
    gradients = {name: model.get_parameter(own).grad for name, own in names.items()}
    found = {f"output.grad.{name}": value for name, value in gradients.items()}
    norm = torch.stack([value.norm() for value in gradients.values()]).norm()
    with torch.no_grad():
        logits = torch.stack([model.aggregator.compare(view, rows[:, None]) for view in views])
    _check_rates(model, names, config)
    return {**found, "output.loss_sem_seg": loss.detach(), "output.grad_norm": norm, "intermediate.logits": logits}


def _check_rates(model: CATSeg, names: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Compare learning rates and decays by the shipped recipe with those of the original."""
    wanted = config.get("param_groups_lr_wd")
    if wanted is None:
        return
    cfg = load_config(find_config("cat_seg/catseg-b.yaml"))
    own = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, cfg) for p in g["params"]}
    for name, (rate, decay) in wanted.items():
        found = own[id(model.get_parameter(names[name]))]
        if abs(found[0] - rate) > 1e-9 or abs(found[1] - decay) > 1e-9:
            raise ValueError(f"{name} has learning rate and decay {found}, expected {(rate, decay)}")
