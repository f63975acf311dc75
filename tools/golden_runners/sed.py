"""SED: its decoder, CLIP's dense pass, texts, whole images with and without rejection, and a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.fcclip_clip import build_clip
from golden_runners.product import make_words
from ovseg.aggregation.classes import ClassAggregation
from ovseg.aggregation.cost import cost_maps
from ovseg.checkpoint.loading import Weights
from ovseg.checkpoint.strict import translate
from ovseg.clip.conv_clip import ConvClip
from ovseg.config import find_config, load_config
from ovseg.data.preprocessing import SizeRule
from ovseg.engine.optimizer import parameter_groups
from ovseg.losses.class_maps import ClassMapCriterion
from ovseg.meta_arch.mask_model import read_targets
from ovseg.meta_arch.sed.decoder import Decoder, Stage, View
from ovseg.meta_arch.sed.model import SED
from ovseg.meta_arch.sed.weights import official_name
from ovseg.vocabulary import TextEmbedder

CLIP = "sem_seg_head.predictor.clip_model."
LEVELS = ("res5", "res4", "res3", "res2")


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return PARTS[case.config["part"]](case)


def decoder_of(config: Mapping[str, Any], embed_dim: int) -> Decoder:
    """Build the decoder of a case."""
    pools = tuple(config["pooling_size"])
    channels = dict(zip(LEVELS, (1, *config["decoder_guidance_dims"]), strict=True))
    return Decoder(
        embed_dim,
        channels,
        prompts=config.get("prompt_channel", config["decoder_corr_guidance_dims"][0]),
        hidden=config["hidden_dim"],
        heads=config["nheads"],
        decoder_dims=tuple(config["decoder_dims"]),
        decoder_guidance=tuple(config["decoder_guidance_proj_dims"]),
        kernels=tuple(config["kernel_size"]),
        text_guidance=bool(config["text_guidance_dim"]),
        pooling=pools,
        train_pooling=pools,
        attention=config["attention_type"],
        fast=config["fast_inference"],
        top=config["topK"],
    )


def fill_part(module: Any, case: Any, ours: str, start: str) -> None:
    """Load a part from the keys of its case: where it stands in our model, and in theirs."""
    own = {f"{ours}{key}": value for key, value in module.state_dict().items()}
    state = {f"{start}{key}": value for key, value in case.group("state_dict").items()}
    found = translate(own, state, official_name, case.name, "the part")
    module.load_state_dict({key.removeprefix(ours): value for key, value in found.items()})
    module.eval()


def aggregator(case: Any) -> dict[str, Tensor]:
    """Return the logits of all classes and those of the heads before each stage, or what rejection leaves."""
    config, inputs = case.config, case.group("input")
    module = decoder_of(config, inputs["img_feats"].shape[1])
    fill_part(module, case, "decoder.", "sem_seg_head.predictor.transformer.")
    levels = {name: inputs[f"guidance.{i}"] for i, name in enumerate(LEVELS)}
    views = [View(*own) for own in zip(*module.look(inputs["img_feats"], levels), strict=True)]
    found = [module(view, texts) for view, texts in zip(views, inputs["text_feats"], strict=True)]
    if module.top:
        (only,), count = found, inputs["text_feats"].shape[1]
        whole = only.maps.new_zeros(1, count, *only.maps.shape[1:])
        whole[0, only.classes] = only.maps.sigmoid()
        kept = {f"intermediate.kept_{i}": own for i, own in enumerate(only.left)}
        return {"output.probabilities": whole, **kept}
    texts = inputs["text_feats"][0]
    cost = cost_maps(views[0].features, texts)
    embedded = module.embed(cost)
    stage: Any = module.stages[0]
    text = module.text_guidance(texts)
    grown = stage.cnext(embedded)
    both = stage.aggregate(embedded.clone(), None if text is None else text[0], 0)
    return {
        "output.logits": torch.stack([one.maps for one in found]),
        **{f"output.head{i}": torch.stack([one.early[i] for one in found]) for i in range(3)},
        "intermediate.cosine": cost.transpose(0, 1)[None],
        "intermediate.conv1": embedded,
        "intermediate.cnext_1": grown[:2],
        "intermediate.class_1": both.transpose(0, 1)[None],
        "intermediate.decoder1": module._upwards(both, cost, 0, views[0], 0)[:2],
    }


def decoder_block(case: Any) -> dict[str, Tensor]:
    """Return what one stage makes of maps."""
    config, inputs = case.config, case.group("input")
    pools = (config["pooling_size"][0], config["pooling_size"][1])
    classes = ClassAggregation(config["in_dim"], 0, config["heads"], pools, pools)
    module = Stage(config["in_dim"], config["out_dim"], config["guidance_dim"], config["kernel"], classes)
    fill_part(module, case, "decoder.stages.0.", "sem_seg_head.predictor.transformer.decoder1.")
    both = module.aggregate(inputs["x"].clone(), None, 2)
    return {
        "output.y": module.up(both, module.up.share(inputs["guidance"]), inputs["corr_guidance"]),
        "intermediate.cnext": module.cnext(inputs["x"]),
        "intermediate.attention": both.transpose(0, 1)[None],
        "intermediate.up": module.up.up(both),
    }


def clip_of(
    config: Mapping[str, Any], state: Mapping[str, Tensor], pixels: Mapping[str, Any] | None = None
) -> ConvClip:
    """Build the CLIP of a case; see `cat_seg_model.clip_of`."""
    text = {name: config[name] for name in ("context_length", "vocab_size")}
    text |= {name: config[f"text_{name}"] for name in ("width", "heads", "layers")}
    clip = build_clip({**config, "text_cfg": text}, state)
    if pixels is not None:
        clip.mean, clip.std = (tuple(v / 255 for v in pixels[f"clip_pixel_{key}"]) for key in ("mean", "std"))
    return clip


def clip_dense(case: Any) -> dict[str, Tensor]:
    """Return CLIP's levels and its dense features."""
    clip = clip_of(case.config["clip"], case.group("state_dict"))
    levels = clip.levels(case.group("input")["image"])
    dense = levels["dense"]
    found = clip.tower.embed(dense.flatten(2).mT).mT.unflatten(2, dense.shape[2:])
    return {"output.clip_vis_dense": found, **{f"intermediate.{name}": levels[name] for name in LEVELS}}


class RecordedTexts:
    """A text tower that knows the rows of some texts."""

    name, weights_hash = "golden case", ""

    def __init__(self, texts: list[str], rows: Tensor) -> None:
        self.known = dict(zip(texts, rows, strict=True))

    def text(self, texts: list[str]) -> Tensor:
        """Look up (N, D)."""
        return torch.stack([self.known[one] for one in texts])


def text(case: Any) -> dict[str, Tensor]:
    """Return the rows of each class in each template."""
    strings = case.strings
    clip = clip_of(case.config["clip"], case.group("state_dict"))
    tower = RecordedTexts(strings["prompts"], clip.learn_texts(case.group("input")["tokens"]))
    embedder = TextEmbedder(tower, strings["templates"])
    groups = [name.split(", ") for name in strings["class_names"]]
    rows = [F.normalize(embedder.embed_apart(own).mean(0), dim=-1) for own in groups]
    return {"output.text": torch.stack(rows)}


def build(case: Any) -> SED:
    """Build the model of a case."""
    config, state = case.config, case.group("state_dict")
    clip = clip_of(config["clip"], {k.removeprefix(CLIP): v for k, v in state.items() if k.startswith(CLIP)}, config)
    whole = {f"{CLIP}{key}": value for key, value in clip.model.state_dict().items()}
    if config["clip_resolution"][0] != config["clip_resolution"][1]:
        raise ValueError("CLIP sees no square")
    model = SED(
        clip=clip,
        decoder=decoder_of(config["aggregator"], config["clip"]["embed_dim"]),
        criterion=ClassMapCriterion(),
        size_rule=SizeRule(1, 1),
        templates="openai80",
        background="none",
        weights=Weights({**whole, **state}, case.name),
        resolution=config["clip_resolution"][0],
        tuned="visual" if config.get("finetune", "full") == "full" else "none",
    )
    return model.eval()


def full(case: Any) -> dict[str, Tensor]:
    """Run a whole image, from pixels to labels, by the product's own path."""
    inputs, size = case.group("input"), case.config["output_size"]
    model = build(case)
    words, encoded = make_words(inputs["text"]), model.encode([inputs["image"]])
    answer = model.answer(encoded, 0, (size[0], size[1]), words, model.gives)
    levels = model.clip.levels(model.views(model.normalise(inputs["image"][None])))
    decoded = model.decoder(encoded.images[0], inputs["text"])
    found = {
        "output.sem_seg": answer.class_scores,
        "output.labels": answer.labels.to(torch.int16),
        "intermediate.clip_vis_dense": encoded.images[0].features[None],
        "intermediate.res4": levels["res4"],
        **{f"intermediate.kept_{i}": own for i, own in enumerate(decoded.left)},
    }
    return found if decoded.left else {**found, "intermediate.logits": decoded.maps[None]}


def train_step(case: Any) -> dict[str, Tensor]:
    """Return the losses of a batch, all gradients, and check what is trained and how fast."""
    inputs, config = case.group("input"), case.config
    model = build(case).train()
    names = {official_name(name): name for name, value in model.named_parameters() if value.requires_grad}
    if strange := set(names).symmetric_difference(config["trainable_parameters"]):
        raise ValueError(f"{min(strange)} is trained by one of the two only")
    count, ignore = sum(key.startswith("image.") for key in inputs), config.get("ignore_value", 255)
    entries = [
        {"image": inputs[f"image.{i}"], "sem_seg": inputs[f"sem_seg.{i}"].long(), "ignore_label": ignore}
        for i in range(count)
    ]
    images = model.training_batch(entries)
    with torch.enable_grad():
        losses = model.compare(images, read_targets(entries, images), inputs["text"])
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    gradients = {name: model.get_parameter(own).grad for name, own in names.items()}
    gradients = {name: own for name, own in gradients.items() if own is not None}
    _check_rates(model, names, config)
    return {
        **{f"output.{name}": value.detach() for name, value in losses.items()},
        **{f"output.grad.{name}": value for name, value in gradients.items()},
        "output.total": total.detach(),
        "output.grad_norm": torch.stack([value.norm() for value in gradients.values()]).norm(),
    }


def _check_rates(model: SED, names: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Compare learning rates and decays by the shipped recipe with those of the original."""
    cfg = load_config(find_config("sed/sed-b.yaml"))
    own = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(model, cfg) for p in g["params"]}
    for name, (rate, decay) in config.get("param_groups_lr_wd", {}).items():
        found = own[id(model.get_parameter(names[name]))]
        if abs(found[0] - rate) > 1e-9 or abs(found[1] - decay) > 1e-9:
            raise ValueError(f"{name} has learning rate and decay {found}, expected {(rate, decay)}")


PARTS = {
    "aggregator": aggregator,
    "decoder_block": decoder_block,
    "clip_dense": clip_dense,
    "text": text,
    "full": full,
    "full_fast": full,
    "train_step": train_step,
}
