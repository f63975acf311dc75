"""CAT-Seg: its parts, CLIP's dense pass, whole images by both of its ways, a training step and the rule of PAS-20b."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_runners.cat_seg_model import (
    aggregator_of,
    clip_of,
    decoder_of,
    dense_of,
    full_sliding,
    full_whole,
    train_step,
    with_forgotten,
)
from ovseg.aggregation.classes import ClassAggregation
from ovseg.aggregation.cost import cost_maps, nearest_classes
from ovseg.aggregation.spatial import SpatialAggregation
from ovseg.checkpoint.strict import translate
from ovseg.clip.text_tokens import TextTokens
from ovseg.evaluation.metrics.semantic import SemanticEvaluator
from ovseg.meta_arch.cat_seg.aggregator import Aggregator, View
from ovseg.meta_arch.cat_seg.weights import official_name
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.templates import TEMPLATES, fill


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return PARTS[case.config["part"]](case)


def fill_part(module: nn.Module, case: Any, ours: str) -> None:
    """Load a part from the keys of its case; ``ours`` is where it stands in our model."""
    own = {f"{ours}{key}": value for key, value in module.state_dict().items()}
    names = {key: official_name(key) for key in own}
    given = case.group("state_dict")
    start = next(name.removesuffix(key) for name in names.values() for key in given if name.endswith(f".{key}"))
    state = {f"{start}{key}": value for key, value in given.items()}
    found = translate(own, state, official_name, case.name, "the part", (r".*attn_mask",))
    module.load_state_dict({key.removeprefix(ours): value for key, value in found.items()})
    module.eval()


def spatial(case: Any) -> dict[str, Tensor]:
    """Return what each of the two blocks makes of the maps."""
    config, inputs = case.config, case.group("input")
    grid = (config["resolution"][0], config["resolution"][1])
    module = SpatialAggregation(
        config["dim"],
        config["guidance_dim"],
        grid,
        config["heads"],
        config["window"],
        int(config.get("mlp_ratio", 4)),
    )
    fill_part(module, case, "aggregator.spatial.0.")
    found: dict[str, list[Tensor]] = {"first": [], "second": [], "y": []}
    for maps, guidance in zip(inputs["x"], inputs["appearance_guidance"], strict=True):
        x, led = maps.permute(1, 2, 3, 0).flatten(1, 2), guidance.flatten(1).mT
        first = module.blocks[0](x, module.norm(led))
        found["first"].append(first)
        found["second"].append(module.blocks[1](first, module.norm(led)))
        found["y"].append(module(x, led).unflatten(1, grid).permute(3, 0, 1, 2))
    blocks = {f"intermediate.block_{i + 1}": torch.cat(found[name]) for i, name in enumerate(("first", "second"))}
    return {"output.y": torch.stack(found["y"]), **blocks}


def classes(case: Any) -> dict[str, Tensor]:
    """Return what classes make of each other, and what they take from each other on the way."""
    config, inputs = case.config, case.group("input")
    pools = (config["pooling_size"][0], config["pooling_size"][1])
    kind, count = config["attention_type"], config.get("pad_len", 0)
    guidance = config.get("guidance_dim", 0)
    ratio = config.get("mlp_ratio", 4)
    module = ClassAggregation(config["dim"], guidance, config["heads"], pools, pools, kind, count, ratio)
    fill_part(module, case, "aggregator.classes.0.")
    found, taken = [], []
    texts = inputs["guidance"] if guidance else [None] * len(inputs["x"])
    for maps, text in zip(inputs["x"], texts, strict=True):
        grid = (maps.shape[2], maps.shape[3])
        x = maps.permute(1, 2, 3, 0).flatten(1, 2)
        found.append(module(x, grid, text, step=2).unflatten(1, grid).permute(3, 0, 1, 2))
        taken.append(_taken(module, module._pool(maps.permute(1, 2, 3, 0).flatten(1, 2), grid), text))
    return {"output.y": torch.stack(found), "intermediate.attention": torch.cat(taken)}


def _taken(module: ClassAggregation, x: Tensor, text: Tensor | None) -> Tensor:
    """Return what all classes take from each other (n, T, C), also those that fill a short list up."""
    led = None if text is None else text[:, None]
    missing = max(module.fill - len(x), 0)
    rows = x if not missing else torch.cat([x, module.filling.expand(missing, x.shape[1], -1)])
    if led is not None and missing:
        led = torch.cat([led, module.filling_guidance.expand(missing, -1, -1)])
    own = text if text is None else text[:, None]
    if module.kind == "full":
        return module.full_attention(rows, led).transpose(0, 1)
    return module.linear_attention(rows, led, *module.sums(x, own)).transpose(0, 1)


def aggregator(case: Any) -> dict[str, Tensor]:
    """Return the logits of all classes, and what comes before them."""
    inputs = case.group("input")
    module = aggregator_of(case.config, case.config["num_classes"])
    fill_part(module, case, "aggregator.")
    view = module.look(inputs["img_feats"], inputs["guidance.1"], inputs["guidance.2"])
    logits, parts = [], []
    for index, texts in enumerate(inputs["text_feats"]):
        own = View(*(one[index] for one in view))
        logits.append(with_forgotten(module(own, texts), len(texts)))
        parts.append(_stages(module, own, texts))
    found = {f"intermediate.{name}": torch.stack([part[name] for part in parts]) for name in parts[0]}
    for name in ("conv1", "decoder1", "decoder2"):
        found[f"intermediate.{name}"] = found[f"intermediate.{name}"].flatten(0, 1)
    for name in ("decoder1", "decoder2"):
        found[f"intermediate.{name}"] = found[f"intermediate.{name}"][:1]
    kept = [
        nearest_classes(cost_maps(*own), module.most) for own in zip(view.features, inputs["text_feats"], strict=True)
    ]
    if kept[0] is None:
        return {"output.logits": torch.stack(logits), **found}
    wanted = case.tensors.get("intermediate.kept_classes")
    if wanted is not None and not torch.equal(torch.stack(kept), wanted.sort(1).values):
        raise ValueError("other classes are kept than the original keeps")
    found = {name: value for name, value in found.items() if name.endswith(("cosine", "projected_guidance"))}
    return {"output.logits": torch.stack(logits), **found}


def _stages(module: Aggregator, view: View, texts: Tensor) -> dict[str, Tensor]:
    """Return what comes before the logits of one view where all classes are kept."""
    cost, grid = cost_maps(view.features, texts), module.grid
    text, led = module.text_guidance(texts), view.guidance.flatten(1).mT
    embedded = module.embed(cost)
    x = embedded.flatten(2).mT.contiguous()
    found = {"cosine": cost.transpose(0, 1), "conv1": embedded, "projected_guidance": view.guidance}
    if text is not None:
        found["projected_text"] = text
    for index, (spatially, over) in enumerate(zip(module.spatial, module.classes, strict=True)):
        x = over(spatially(x, led), grid, text)
        if index == 0:
            found["layer_0"] = x.unflatten(1, grid).permute(3, 0, 1, 2)
    first = module.decoder.ups[0](x.mT.unflatten(2, grid), view.first)
    return {**found, "decoder1": first, "decoder2": module.decoder.ups[1](first, view.second)}


def decoder(case: Any) -> dict[str, Tensor]:
    """Return the logits of maps of all classes."""
    config, inputs = case.config, case.group("input")
    module = decoder_of(config)
    fill_part(module, case, "aggregator.decoder.")
    first, second = module.look(inputs["guidance.1"], inputs["guidance.2"])
    maps = inputs["x"].transpose(1, 2)  # (B, T, C, h, w)
    double = [module.ups[0](own, shared) for own, shared in zip(maps, first, strict=True)]
    led = [F.relu(guide(inputs[f"guidance.{i + 1}"])) for i, guide in enumerate(module.guides)]
    return {
        "output.logits": torch.stack([module(*own) for own in zip(maps, first, second, strict=True)]),
        "intermediate.projected_1": led[0],
        "intermediate.projected_2": led[1],
        "intermediate.up1": torch.cat([module.ups[0].up(own) for own in maps]),
        "intermediate.decoder1": double[0][:1],
        "intermediate.decoder2": module.ups[1](double[0], second[0])[:1],
    }


def clip_dense(case: Any) -> dict[str, Tensor]:
    """Return CLIP's tokens behind blocks, behind its dense last block, and its embedding of the image."""
    clip, image = clip_of(case.config["clip"], case.group("state_dict")), case.group("input")["image"]
    dense, taps = dense_of(clip, image, case.config["taps"])
    side = case.config["clip"]["image_resolution"]
    native = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
    tokens, _ = clip.embed(native, "bicubic")
    for block in clip.blocks:
        tokens = block(tokens)
    found = {f"intermediate.tap.{index}": tap.transpose(0, 1) for index, tap in taps.items()}
    return {"output.dense": dense, "output.global": clip.head(tokens)[1], **found}


def text_tower(case: Any) -> dict[str, Tensor]:
    """Return the rows of texts."""
    clip = clip_of(case.config["clip"], case.group("state_dict"))
    raw = clip.learn_texts(case.group("input")["tokens"])
    return {"output.text": F.normalize(raw, dim=-1)[:, None], "intermediate.raw": raw}


def prompt_tokens(case: Any) -> dict[str, Tensor]:
    """Return the tokens of the classes of a list as the original reads it, in its template."""
    (template,) = TEMPLATES["cat_seg"]
    if template != case.config["template"]:
        raise ValueError(f"the template is {case.config['template']!r}")
    first = [name.partition(", ")[0] for name in case.strings["class_names"]]
    texts = [fill(template, query) for query in Vocabulary.parse(first).queries]
    return {"output.tokens": TextTokens({"context_length": case.config["context_length"]})(texts)}


def eval_pas20b(case: Any) -> dict[str, Tensor]:
    """Return the numbers where all further names are names of the background."""
    config, inputs = case.config, case.group("input")
    count, background = config["scored_classes"], config["background_index"]
    names = torch.arange(config["num_text_classes"]).clamp(max=background)  # the class of each text
    evaluator, voids = SemanticEvaluator(count), torch.zeros(count + 1, dtype=torch.long)
    for index in range(sum(key.startswith("labels.") for key in inputs)):
        labels, truth = names[inputs[f"labels.{index}"].long()], inputs[f"gt.{index}"].int()
        evaluator.add(truth.numpy(), labels.int().numpy())
        voids += labels[truth == config["ignore_label"]].bincount(minlength=count + 1)
    result = evaluator.evaluate()
    confusion = torch.zeros(count + 1, count + 1, dtype=torch.long)
    confusion[:count, :count] = torch.from_numpy(evaluator.confusion[:, :-1]).T
    confusion[:, -1] = voids
    numbers = result.miou_present, result.frequency_weighted_iou, result.mean_accuracy, result.pixel_accuracy
    shares = {"iou": torch.from_numpy(result.iou), "acc": torch.from_numpy(result.accuracy)}
    absent = torch.from_numpy(result.truth_pixels == 0)
    found = {f"output.{key}_percent": (100 * own).masked_fill(absent, -1).float() for key, own in shares.items()}
    return {"output.confusion": confusion, "output.summary": 100 * torch.tensor(numbers), **found}


PARTS = {
    "spatial_aggregation": spatial,
    "class_aggregation": classes,
    "aggregator": aggregator,
    "decoder": decoder,
    "clip_dense": clip_dense,
    "text_tower": text_tower,
    "prompt_tokens": prompt_tokens,
    "full_whole": full_whole,
    "full_sliding": full_sliding,
    "train_step": train_step,
    "eval_pas20b": eval_pas20b,
}
