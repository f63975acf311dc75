"""FC-CLIP: deformable attention, decoders, both classifiers, ensemble, texts, losses, post-processing, whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from golden_runners.fcclip_clip import build_clip, load_part, query_to_class, seen_names
from golden_runners.fcclip_losses import mask_rule, run_losses, run_postprocess
from golden_runners.product import answers, encode_together, make_words, maps_of_classes, padded_batch
from ovseg.checkpoint.loading import Weights
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.known import seen_columns
from ovseg.losses.criterion import SetCriterion
from ovseg.meta_arch.fcclip.model import FCCLIP, Ensemble, valid_masks
from ovseg.ops import mask_pool, ms_deform_attn, resize_masks
from ovseg.proposals.classifier import LARGEST_SCALE, class_logits, class_scale
from ovseg.proposals.masked_decoder import MaskedDecoder
from ovseg.proposals.pixel_decoder import DeformableAttention, PixelDecoder
from ovseg.vocabulary import ClassEntry, TextEmbedder, Vocabulary, parse_background

CLIP = "backbone.clip_model."


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    runners = {
        "msdeform_attn_core": deformable_core,
        "msdeform_attn_module": deformable_module,
        "pixel_decoder": pixel_decoder,
        "decoder": decoder,
        "out_of_vocabulary": out_of_vocabulary,
        "ensemble": ensemble,
        "text_names": text_names,
        "text_tower": text_tower,
        "losses": run_losses,
        "postprocess": run_postprocess,
        "full_model": full_model,
    }
    return runners[case.config["part"]](case)


def deformable_core(case: Any) -> dict[str, Tensor]:
    """Run the operation alone."""
    inputs = case.group("input")
    shapes = [(h, w) for h, w in inputs["spatial_shapes"].tolist()]
    found = ms_deform_attn(inputs["value"], shapes, inputs["sampling_locations"], inputs["attention_weights"])
    return {"output.output": found}


def deformable_module(case: Any) -> dict[str, Tensor]:
    """Run the attention with its projections; places are the same for all images and levels."""
    inputs, config = case.group("input"), case.config
    module = DeformableAttention(config["d_model"], config["heads"], config["levels"], config["points"])
    original = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn."
    load_part(module, case.group("state_dict"), "pixel_decoder.layers.0.attention.", original)
    shapes = [(h, w) for h, w in inputs["spatial_shapes"].tolist()]
    places = inputs["reference_points"][0, :, 0]
    return {"output.output": module(inputs["query"], places, inputs["input_flatten"], shapes)}


def pixel_decoder(case: Any) -> dict[str, Tensor]:
    """Decode the levels of a backbone."""
    config = case.config
    module = PixelDecoder(
        config["in_channels"],
        dim=config["conv_dim"],
        mask_dim=config.get("mask_dim", 0),
        heads=config["nheads"],
        encoder_ffn=config["enc_ffn"],
        encoder_layers=config["enc_layers"],
    )
    load_part(module, case.group("state_dict"), "pixel_decoder.", "sem_seg_head.pixel_decoder.")
    found: dict[str, Tensor] = {}
    for index, layer in enumerate(module.layers):
        layer.register_forward_hook(
            lambda _m, _i, out, key=index: found.update({f"intermediate.encoder_layer.{key}": out})
        )
    mask_features, levels = module(case.group("input"))
    found["output.mask_features"] = mask_features
    return found | {f"output.multi_scale.{i}": level for i, level in enumerate(levels)}


def decoder(case: Any) -> dict[str, Tensor]:
    """Decode masks and classify them by the trained classifier."""
    inputs, config = case.group("input"), case.config
    module = MaskedDecoder(
        config["clip_dim"],
        dim=config.get("conv_dim", config["hidden_dim"]),
        mask_dim=config["hidden_dim"],
        queries=config["num_queries"],
        heads=config["nheads"],
        decoder_ffn=config["dec_ffn"],
        decoder_layers=config["dec_layers"],
    )
    load_part(module, case.group("state_dict"), "decoder.", "sem_seg_head.predictor.")
    found: dict[str, Tensor] = {}
    for index, layer in enumerate(module.layers):
        hook = lambda _m, _i, out, key=index: found.update({f"intermediate.queries.{key}": out.transpose(0, 1)})  # noqa: E731
        layer.register_forward_hook(hook)
    levels = [inputs[f"multi_scale.{i}"] for i in range(3)]
    classes, scale = query_to_class(inputs["num_templates"]), class_scale(module.log_scale)
    for index, (embeddings, masks) in enumerate(module(levels, inputs["mask_features"], every=True)):
        logits = class_logits(embeddings, inputs["text_classifier"], scale, classes, void=True)
        found |= {f"output.pred_logits.{index}": logits, f"output.pred_masks.{index}": masks}
    return found


def out_of_vocabulary(case: Any) -> dict[str, Tensor]:
    """Run the CLIP and classify masks by it."""
    inputs, state = case.group("input"), case.group("state_dict")
    clip = build_clip(case.config["clip"], {key.removeprefix("clip_model."): value for key, value in state.items()})
    levels, masks = clip.levels(inputs["image"]), inputs["mask_logits"]
    dense = levels.pop("dense")
    grid = (dense.shape[2], dense.shape[3])
    pooled, classes = clip.pool(dense, masks), query_to_class(inputs["num_templates"])
    scale = min(clip.logit_scale, LARGEST_SCALE)
    valid = valid_masks(masks, grid)
    found = {
        "output.clip_vis_dense": dense,
        "output.pooled_embedding": pooled,
        "output.logits": class_logits(pooled, inputs["text_classifier"], scale, classes, void=True),
        "output.valid_mask": valid,
        "intermediate.mask_for_pooling": resize_masks(masks, grid),
        "intermediate.stem": levels.pop("stem"),
        **{f"output.{name}": level for name, level in levels.items()},
    }
    if "intermediate.mask_pooled" in case.tensors:
        found["intermediate.mask_pooled"] = mask_pool(dense, masks)
    return found


def ensemble(case: Any) -> dict[str, Tensor]:
    """Mix the logits of both classifiers."""
    inputs, config = case.group("input"), case.config
    only_valid = config.get("ensemble_on_valid_mask", False)
    mix = Ensemble(alpha=config["alpha"], beta=config["beta"], valid_masks_only=only_valid)
    seen, found = inputs["category_overlapping_mask"].bool(), {}
    if "mask_logits" in inputs:
        found["intermediate.valid_mask"] = valid_masks(inputs["mask_logits"], tuple(config["clip_size"]))
    valid = found["intermediate.valid_mask"] if only_valid else None
    scores = mix.scores(inputs["in_vocab_logits"], inputs["out_vocab_logits"], seen, valid)
    return found | {"output.mask_cls": scores, "output.semantic_cls_probs": scores.softmax(-1)[..., :-1]}


def read_names(lines: list[str]) -> list[tuple[str, ...]]:
    """Return the names of each class as the class files of the original give them."""
    return [tuple(line.replace(", ", ",").split(",")) for line in lines]


class RecordedTower:
    """A text tower that knows the prompts of a case, and counts on being asked no others."""

    name, weights_hash = "golden case", "none"

    def __init__(self, prompts: list[str], features: Tensor) -> None:
        """Take the prompts and their features (N, D)."""
        self.known = dict(zip(prompts, features, strict=True))

    def text(self, texts: list[str], /) -> Tensor:
        """Return the features of prompts."""
        return torch.stack([self.known[text] for text in texts])


def text_names(case: Any) -> dict[str, Tensor]:
    """Embed the names of a vocabulary and say which of its classes are seen."""
    strings, inputs = case.strings, case.group("input")
    names, trained = read_names(strings["class_names"]), read_names(strings["train_class_names"])
    embedder = TextEmbedder(RecordedTower(strings["prompts"], inputs["prompt_features"]), "vild14")
    vocabulary = Vocabulary(tuple(ClassEntry(own) for own in names))
    queries = embedder.embed_vocabulary(vocabulary, parse_background("none"))
    words = replace(make_words(queries.embeddings, queries.query_to_class), vocabulary=vocabulary, texts=queries.texts)
    seen = seen_columns(words, frozenset(name for own in trained for name in own))
    return {
        "output.text_classifier": words.embeddings,
        "output.num_templates": words.query_to_class.bincount(),
        "output.category_overlapping_mask": seen.long(),
    }


def text_tower(case: Any) -> dict[str, Tensor]:
    """Run the text tower on tokens."""
    state = {key.removeprefix("clip_model."): value for key, value in case.group("state_dict").items()}
    clip = build_clip({"text_cfg": case.config["text_cfg"]}, state, case.config["embed_dim"])
    return {"output.text_features": clip.model.encode_text(case.group("input")["tokens"])}


def build_model(case: Any, **parts: Any) -> FCCLIP:
    """Build the whole model of a case; ``parts`` of it that another runner has take the place of the usual ones."""
    config, inputs, state = case.config, case.group("input"), case.group("state_dict")
    own = {key.removeprefix(CLIP): value for key, value in state.items() if key.startswith(CLIP)}
    clip = build_clip(config["clip"], own)
    head = config["head"]
    width = {"dim": head["conv_dim"], "mask_dim": head["mask_dim"], "heads": head["nheads"]}
    text = {f"{CLIP}{key}": value for key, value in clip.model.state_dict().items() if f"{CLIP}{key}" not in state}
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
        criterion=SetCriterion(),
        templates="vild14",
        background="none",
        ensemble=Ensemble(alpha=config["alpha"], beta=config["beta"], valid_masks_only=config.get("on_valid", False)),
        trained_names=seen_names(inputs),
        weights=Weights({**state, **text}, "the golden case"),
    )
    return FCCLIP(**{**usual, **parts}).eval()


def words_of(case: Any) -> Words:
    """Return the words of a case of a whole model."""
    inputs, things = case.group("input"), case.config.get("thing_class_ids")
    return make_words(inputs["text_classifier"], query_to_class(inputs["num_templates"]), things=things)


def full_model(case: Any, **parts: Any) -> dict[str, Tensor]:
    """Run whole images, from pixels to results; ``parts`` as of `build_model`."""
    config, inputs, model = case.config, case.group("input"), build_model(case, **parts)
    words = words_of(case)
    images = [inputs[f"image.{i}"] for i in range(len(config["output_sizes"]))]
    encoded = encode_together(model, images)
    levels, proposals = model.network(padded_batch(model, images))
    trained = model.trained_logits(proposals.embeddings, words)
    named = [model.class_scores(seen, trained[i : i + 1], words) for i, seen in enumerate(encoded.images)]
    found = {
        "intermediate.pred_logits": trained,
        "intermediate.pred_masks": proposals.masks,
        "intermediate.pooled_embedding": torch.stack([seen.pooled for seen in encoded.images]),
        "intermediate.mask_cls": torch.cat(named),
        "intermediate.clip_vis_dense": levels["dense"],
        "intermediate.res2": levels["res2"][:, :4],
    }
    before = config.get("post_before", model.rule.objects)
    for i, results in enumerate(answers(model, encoded, config["output_sizes"], words)):
        if before != model.rule.objects:  # an answer resizes masks before it names pixels only where it gives objects
            results["sem_seg"] = maps_of_classes(named[i][0], encoded, i, config["output_sizes"][i], before)
        found |= {f"output.{i}.{key}": value for key, value in results.items()}
    return found
