"""SAN: side adapter, tail of CLIP, whole model, text classifier, criterion and a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.product import answers, encode_together, make_words, padded_batch
from golden_runners.san_criterion import build_criterion, case_draws, inspect, read_targets, run_criterion
from ovseg.checkpoint.loading import Weights, load
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import Encoded, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.masks import class_maps
from ovseg.losses.criterion import SetCriterion
from ovseg.losses.matcher import Prediction
from ovseg.meta_arch.san.model import SAN
from ovseg.meta_arch.san.recognition import pool_bias, run_patches, run_tail
from ovseg.meta_arch.san.side_adapter import SideAdapter
from ovseg.meta_arch.san.weights import official, official_name
from ovseg.vocabulary import TextEmbedder

HIDDEN = -100.0  # what the original adds to scores that are not to be seen


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    runners = {
        "side_adapter": side_adapter,
        "rec_head": recognition,
        "full": full,
        "text": text,
        "criterion": run_criterion,
        "train_step": train_step,
    }
    return runners[case.config["part"]](case)


def side_adapter(case: Any) -> dict[str, Tensor]:
    """Return masks, biases and tokens of all stages."""
    inputs = case.group("input")
    adapter = build(case).side_adapter
    taps = {tap: inputs[f"clip_feat_{tap}"] for tap in adapter.taps}
    found = {}
    for index, stage in enumerate(adapter(inputs["image"], taps, all_stages=True)):
        found[f"output.mask_preds_stage{index}"] = stage.masks
        found[f"intermediate.query_stage{index}"] = stage.queries
        found[f"intermediate.x_stage{index}"] = stage.features
        for layer, bias in enumerate(stage.biases):
            found[f"output.attn_bias_stage{index}_layer{layer}"] = bias
    return found


def recognition(case: Any) -> dict[str, Tensor]:
    """Return the embeddings of the tail, and the mask that the original would add to its scores."""
    inputs, config = case.group("input"), case.config
    model = build(case)
    features, tower = inputs["feat"], model.clip.tower
    tokens = torch.cat([inputs["cls_token"].transpose(0, 1), features.flatten(2).mT], dim=1)
    given = [inputs[f"attn_bias_layer{i}"] for i in range(sum(key.startswith("attn_bias_layer") for key in inputs))]
    biases = [pool_bias(bias, tuple(features.shape[2:]), model.bias_pooling) for bias in given]
    tail = tower.blocks[model.front_blocks :]
    led = run_tail(model.sls_starts(tokens), tail, run_patches(model.clip, tokens, tail, 0).seen, biases)
    embeddings = tower.visual.ln_post(led) @ tower.visual.proj
    masks = [attention_mask(bias, tower.blocks[0].heads, config.get("rec_cross_attn", False)) for bias in biases]
    return {
        "output.embeddings": F.normalize(embeddings, dim=-1),
        "intermediate.embeddings_unnormalized": embeddings,
        **{f"intermediate.attn_mask_layer{i}": mask for i, mask in enumerate(masks)},
    }


def attention_mask(bias: Tensor, heads: int, cross: bool) -> Tensor:
    """Lay biases (B, heads or 1, Q, N) into the additive mask of the original: (B * heads, ...)."""
    bias = bias.expand(-1, heads, -1, -1)
    if cross:
        return bias.flatten(0, 1)
    count, patches = bias.shape[2:]
    mask = bias.new_zeros(*bias.shape[:2], count + 1 + patches, count + 1 + patches)
    mask[..., :count] = HIDDEN
    mask[..., range(count), range(count)] = 0
    mask[..., :count, count] = HIDDEN
    mask[..., :count, count + 1 :] = bias
    return mask.flatten(0, 1)


def full(case: Any) -> dict[str, Tensor]:
    """Return everything from images to scores of classes, and the auxiliary stages of training."""
    inputs = case.group("input")
    model = build(case)
    sizes, words = output_sizes(case), make_words(inputs["text_embeddings"])
    encoded, batch = encode_together(model, images_of(case)), padded_batch(model, images_of(case))
    shrunk = model.shrink(batch)
    tower, front = model.clip.tower, model.front_blocks
    tokens, grid = tower.embed(shrunk, "bicubic_by_grid", model.position)
    kept = run_patches(model.clip, tokens, tower.blocks, front, range(front + 1)).taps
    taps = {tap: tokens[:, 1:].mT.unflatten(2, grid) for tap, tokens in kept.items()}
    found = {"intermediate.clip_input": shrunk}
    found |= {f"intermediate.clip_feat_{tap}": tokens for tap, tokens in taps.items()}
    found |= {f"intermediate.clip_feat_{tap}_cls_token": tokens[:, :1].transpose(0, 1) for tap, tokens in kept.items()}
    stage = model.side_adapter(batch, taps)[-1]
    found |= {f"intermediate.attn_bias_layer{i}": bias for i, bias in enumerate(stage.biases)}
    rows = torch.cat([inputs["text_embeddings"], model.void_row])
    found["intermediate.classifier_weight"] = model.clip.logit_scale * F.normalize(rows, dim=-1)
    found["output.mask_embeddings"] = F.normalize(torch.stack([seen.embeddings for seen in encoded.images]), dim=-1)
    stages = training_stages(model, batch, words)
    for name, prediction in zip([*(f"aux{i}_" for i in range(len(stages) - 1)), ""], stages, strict=True):
        found[f"output.{name}pred_logits"] = prediction.class_logits
        found[f"output.{name}pred_masks"] = prediction.mask_logits
    before = case.config.get("sem_seg_postprocess_before_inference", True)
    if before:
        results = [result["sem_seg"] for result in answers(model, encoded, sizes, words)]
    else:
        results = resized_last(model, encoded, batch, sizes, words)
    found |= {f"output.sem_seg_{index}": scores for index, scores in enumerate(results)}
    return found


def resized_last(
    model: SAN, encoded: Encoded, batch: Tensor, sizes: list[tuple[int, int]], words: Words
) -> list[Tensor]:
    """Return the scores of classes where masks become probabilities before they are resized to the output."""
    found = []
    for seen, own, size in zip(encoded.images, encoded.sizes, sizes, strict=True):
        logits = model.classify(seen.embeddings[None], seen.masks[None], words).class_logits[0]
        plan = plan_resize(tuple(seen.masks.shape[1:]), tuple(batch.shape[2:]), own, size, sigmoid_first=True)
        found.append(class_maps(logits.softmax(-1), seen.masks, plan))
    return found


def training_stages(model: SAN, images: Tensor, words: Words) -> list[Prediction]:
    """Return the predictions of all stages."""
    model.train()
    stages = model.predict(images, words)
    model.eval()
    return stages


def text(case: Any) -> dict[str, Tensor]:
    """Return the classifier of words, by our templates and embedder on the recorded tokens."""
    inputs, config = case.group("input"), case.config
    model = build(case)
    encoded = model.clip.model.encode_text(inputs["tokens"].flatten(0, 1)).unflatten(0, inputs["tokens"].shape[:2])
    tower = RecordedText(encoded, config["templates"], config["words"])
    rows = TextEmbedder(tower, config["templates"]).embed(config["words"])
    classifier = F.normalize(torch.cat([rows, model.void_row]), dim=-1)
    return {
        "output.classifier": classifier,
        "output.scaled_classifier": model.clip.logit_scale * classifier,
        "intermediate.per_template": F.normalize(encoded, dim=-1),
    }


class RecordedText:
    """A text tower that knows the embeddings (templates, words, D) of some texts."""

    name, weights_hash = "golden case", ""

    def __init__(self, encoded: Tensor, templates: list[str], words: list[str]) -> None:
        pairs = [(i, j) for i in range(len(templates)) for j in range(len(words))]
        self.known = {templates[i].format(words[j]): encoded[i, j] for i, j in pairs}

    def text(self, texts: list[str]) -> Tensor:
        """Look up (N, D)."""
        return torch.stack([self.known[one] for one in texts])


def train_step(case: Any) -> dict[str, Tensor]:
    """Return losses, matches and gradients of one step."""
    inputs, config = case.group("input"), case.config
    model = build(case, criterion=build_criterion({**costs_of(config), **config}))
    batch, targets = padded_batch(model, images_of(case)), read_targets(inputs)
    words = make_words(inputs["text_embeddings"])
    with torch.enable_grad():
        predictions = model.train().predict(batch, words)
        losses = model.criterion(predictions, targets, case_draws(inputs, len(predictions)))
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    plain = model.criterion.losses(predictions, targets, case_draws(inputs, len(predictions)))
    found = inspect(model.criterion, predictions, inputs)
    found |= {f"output.{key}": loss for key, loss in plain.items()}
    found |= {"output.total_weighted": total}
    found |= {"intermediate.pred_logits": predictions[-1].class_logits}
    found |= {"intermediate.pred_masks": predictions[-1].mask_logits}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            name = official_name(key, model.front_blocks)
            found[f"output.grad.{name}"] = parameter.grad
            found[f"output.gradnorm.{name}"] = parameter.grad.norm()
    trained = {key.removeprefix("output.gradnorm.") for key in found if ".gradnorm." in key}
    if strange := trained.symmetric_difference(config["trainable_parameters"]):
        raise ValueError(f"{min(strange)} is trained by one of the two only")
    return {key: value.detach() for key, value in found.items()}


def costs_of(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the costs of matching, which are the weights of the losses."""
    return {f"cost_{name}": config["weights"][f"loss_{part}"] for name, part in COSTS}


COSTS = (("class", "ce"), ("mask", "mask"), ("dice", "dice"))


def images_of(case: Any) -> list[Tensor]:
    """Return the images (3, h, w) of a case."""
    inputs = case.group("input")
    return [inputs[f"image_{i}"] for i in range(sum(key.startswith("image_") for key in inputs))]


def output_sizes(case: Any) -> list[tuple[int, int]]:
    """Return height and width of the results of a case."""
    own = [image.shape[1:] for image in images_of(case)]
    return [(height, width) for height, width in case.config.get("output_sizes", own)]


TINY = {"width": 36, "depth": 1, "heads": 1, "patch": 16, "image_size": 32, "num_queries": 1, "fusion_map": ["0->0"]}
TINY |= {"deep_supervision_idxs": [1]}
TINY_BIAS = {"num_heads": 1, "num_layers": 1, "embed_channels": 4, "mlp_channels": 4, "mlp_num_layers": 1}
TINY_CLIP = {"image_size": 32, "patch": 16, "width": 8, "layers": 2, "heads": 1, "quick_gelu": True}


def build(case: Any, criterion: SetCriterion | None = None) -> SAN:
    """Build the model of a case; what the case has no weights of stays random and takes no part."""
    config = case.config
    side = {**TINY, "num_queries": config.get("num_queries", 1), **config.get("side", {})}
    bias = {**TINY_BIAS, "rescale_attn_bias": True, **side.get("attn_bias", {})}
    clip = build_clip(config)
    adapter = SideAdapter(
        clip_width=clip.tower.width,
        clip_heads=clip.blocks[0].heads,
        width=side["width"],
        depth=side["depth"],
        heads=side["heads"],
        patch=side["patch"],
        image_size=side["image_size"],
        queries=side["num_queries"],
        fusion=side["fusion_map"],
        supervised_blocks=side["deep_supervision_idxs"],
        bias_heads=bias["num_heads"],
        bias_layers=bias["num_layers"],
        channels=bias["embed_channels"],
        hidden=bias["mlp_channels"],
        mlp_layers=bias["mlp_num_layers"],
        rescale_bias=bias["rescale_attn_bias"],
    )
    shrunk = config.get("asymetric_input", True)
    model = SAN(
        clip=clip,
        side_adapter=adapter,
        criterion=criterion or SetCriterion(),
        size_rule=SizeRule(640, 2560),
        templates="vild14",
        background="none",
        front_blocks=config.get("feature_last_layer_idx", 1),
        clip_resolution=config.get("clip_resolution", 1.0) if shrunk else 1.0,
        size_divisibility=config.get("size_divisibility", 32),
        bias_pooling=config.get("rec_downsample_method", "max"),
        sls_token=config.get("sos_token_format", "cls_token"),
    )
    layout = official(model.front_blocks)
    state = {layout.name_of(key): value for key, value in model.state_dict().items()}
    load(model, Weights({**state, **case.group("state_dict")}, case.name), layout)
    return model.eval()


def build_clip(config: Mapping[str, Any]) -> ViTClip:
    """Build the CLIP of a case with random weights."""
    text = config.get("text", {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1})
    clip = {**TINY_CLIP, "embed_dim": text.get("embed_dim", 8), **config.get("clip", {})}
    vision = {
        "image_size": clip["image_size"],
        "patch_size": clip["patch"],
        "layers": clip["layers"],
        "width": clip["width"],
        "head_width": clip["width"] // clip["heads"],
        "mlp_ratio": clip.get("mlp_ratio", 4.0),
        "norm_kwargs": {"eps": clip.get("ln_eps", 1e-5)},
    }
    names = ("context_length", "vocab_size", "width", "heads", "layers")
    model_cfg = {
        "embed_dim": clip["embed_dim"],
        "quick_gelu": clip["quick_gelu"],
        "vision_cfg": vision,
        "text_cfg": {name: text[name] for name in names},
    }
    mean, std = ([value / 255 for value in config[key]] if key in config else [0, 1] for key in PIXELS)
    return ViTClip(build_model(model_cfg, "golden case"), model_cfg, "golden case", tuple(mean), tuple(std))


PIXELS = ("pixel_mean", "pixel_std")
