"""SAM 3 as a dense labeller: its network, by the names of transformers and of the authors, and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ovseg.contract import CLASS_SCORES, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.protocol import Protocol
from ovseg.meta_arch.sam3.asking import maps
from ovseg.meta_arch.sam3.concept_bank import crop, fuse
from ovseg.meta_arch.sam3.fusion import ARGMAX, CONCEPTBANK, Fusion
from ovseg.meta_arch.sam3.labels import Thresholds, plan_canvas, scores_in
from ovseg.meta_arch.sam3.model import SAM3
from ovseg.meta_arch.sam3.network import Found, Sam3Network, SeenImage, build_network
from ovseg.meta_arch.sam3.objects import ObjectRule
from ovseg.meta_arch.sam3.texts import Phrases, pack
from ovseg.meta_arch.sam3.weights import fill, to_transformers
from ovseg.ops.windows import plan_windows
from ovseg.vocabulary import Vocabulary, parse_background
from ovseg.zoo import model_config

IGNORED = 255
REFERENCES = "detr_decoder.reference_points.weight"


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    return PARTS[case.config["part"]](case)


def model_part(case: Any) -> dict[str, Tensor]:
    """Run the network of transformers: an image once, all phrases together."""
    network = build_network(case.config["sam3_config"], "the case", empty=True)
    fill(network, case.group("state_dict"), "the case")
    inputs = case.group("input")
    kept = network.see(inputs["pixel_values"])
    mask = inputs["attention_mask"].bool()
    tokens = network.read(inputs["input_ids"], mask)
    seen, asked, counted = SeenImage(*(one[0] for one in kept)), tokens, mask
    found: dict[str, Tensor] = {"intermediate.text_features": tokens}
    if "input_boxes" not in inputs:
        seen = seen._replace(geometry=None)
    elif bool((inputs["input_boxes_labels"] != -10).any()):
        geometry, real = boxes(network, inputs)
        seen, asked, counted = (
            seen._replace(geometry=None),
            torch.cat([tokens, geometry], 1),
            torch.cat([mask, real], 1),
        )
        found |= {"intermediate.geometry_features": geometry, "intermediate.geometry_mask": real}
    attended = kept[0] - network.model.vision_encoder.neck.fpn_layers[2](levels(network, inputs)).flatten(2).mT
    found["intermediate.encoder_layer0_self_attn"] = attended.expand(len(tokens), -1, -1)
    answer = network.ask(seen, asked, counted)
    found["intermediate.pixel_embed"] = answer.pixels
    return found | outputs(network, answer)


def levels(network: Sam3Network, inputs: dict[str, Tensor]) -> Tensor:
    """Return what leaves the vision transformer of a network."""
    return network.model.vision_encoder.backbone(inputs["pixel_values"]).last_hidden_state.mT.unflatten(
        2, [inputs["pixel_values"].shape[2] // 14] * 2
    )


def boxes(network: Sam3Network, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the tokens (k, B + 1, C) of boxes, and which of them count: what a prompt may hold besides a text."""
    count, model = len(inputs["input_boxes"]), network.model
    neck = model.vision_encoder.neck(levels(network, inputs))
    maps, places = ([one.expand(count, -1, -1, -1) for one in part[:-1]] for part in neck)
    labels = inputs["input_boxes_labels"]
    real = labels != -10
    told = model.geometry_encoder(inputs["input_boxes"], real, labels.where(real, 0), maps, places)
    return told.last_hidden_state, told.attention_mask


def outputs(network: Sam3Network, answer: Found) -> dict[str, Tensor]:
    """Return what transformers gives, by its names."""
    every = torch.arange(answer.scores.shape[1])
    return {
        "output.pred_masks": torch.stack([network.masks(answer, own, every) for own in range(len(answer.scores))]),
        "output.pred_boxes": corners(answer.boxes),
        "output.pred_logits": answer.scores,
        "output.presence_logits": answer.presence[:, None],
        "output.semantic_seg": network.semantic(answer)[:, None],
    }


def corners(boxes: Tensor) -> Tensor:
    """Return left, top, right and bottom (k, Q, 4) of boxes by centre and size."""
    centre, size = boxes.split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def native(case: Any) -> dict[str, Tensor]:
    """Run the network on the weights of the authors' code; their text tower is padded by the token 0."""
    network = build_network(case.config["transformers_config"], "the case", empty=True)
    inputs, state = case.group("input"), to_transformers(case.group("state_dict"))
    mask = inputs["token_ids"] != 0
    if REFERENCES not in state:
        state[REFERENCES] = torch.zeros(case.config["transformers_config"]["detr_decoder_config"]["num_queries"], 4)
        fill(network, state, "the case")
        state[REFERENCES] = references(network, inputs, mask, case.tensors["output.pred_boxes"])
    fill(network, state, "the case")
    seen = SeenImage(*(one[0] for one in network.see(inputs["pixel_values"])))
    tokens = network.read(inputs["token_ids"], torch.ones_like(mask))
    found = outputs(network, network.ask(seen, tokens, mask))
    return found | {
        "intermediate.language_features": tokens,
        "intermediate.geometry_tokens": seen.geometry[None].expand(len(tokens), -1, -1),
    }


def references(network: Sam3Network, inputs: dict[str, Tensor], mask: Tensor, wanted: Tensor) -> Tensor:
    """Find the boxes that queries start from, which the case was stored without, by its first phrase's boxes.

    They are four numbers a query, and nothing else of the case is used to find them: the boxes of the other phrases,
    all logits and all masks then show whether they are right.
    """
    network.double()
    seen = SeenImage(*(one[0] for one in network.see(inputs["pixel_values"].double())))
    tokens = network.read(inputs["token_ids"][:1], mask[:1]).double()
    place = network.model.detr_decoder.reference_points.weight

    def miss(given: Tensor) -> Tensor:
        place.copy_(given.view_as(place))
        return (corners(network.ask(seen, tokens, mask[:1]).boxes) - wanted[:1]).flatten()

    middle, size = (wanted[0, :, :2] + wanted[0, :, 2:]) / 2, wanted[0, :, 2:] - wanted[0, :, :2]
    given, step = torch.logit(torch.cat([middle, size], -1), 1e-3).double().flatten(), 1e-6
    for _ in range(30):
        now = miss(given)
        slopes = torch.stack([(miss(given + step * one) - now) / step for one in torch.eye(len(given)).double()], 1)
        given = given - torch.linalg.lstsq(slopes, now[:, None]).solution[:, 0]
    network.float()
    return given.view_as(place).float()


class Recorded(Sam3Network):
    """A network that gives the answers of a case in the place of its own: one for each window."""

    def __init__(self, side: int, answers: list[dict[str, Tensor]]) -> None:
        """Take the answers, window by window."""
        super().__init__(build_network(TINY, "the case").model)
        self.answers, self.own_side = answers, side

    @property
    def side(self) -> int:
        """That of the case."""
        return self.own_side

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keep which window it is, and the size of its maps; windows come in their order."""
        height, width = self.answers[0]["semantic_seg"].shape[2:]
        self.entering = pixels
        number = torch.arange(len(pixels)).view(-1, 1, 1)
        return number, number[..., None], torch.zeros(len(pixels), 1, height, width), number

    def ask(self, seen: SeenImage, tokens: Tensor, mask: Tensor) -> Found:
        """Return the answers to the phrases, whose only token is their number."""
        own, which = self.answers[int(seen.attended)], tokens[:, 0, 0].round().long()
        given = own["pred_masks"][which], own["semantic_seg"][which]
        return Found(own["presence_logit_dec"][which, 0], own["pred_logits"][which, :, 0], *given, given[0])

    def semantic(self, found: Found) -> Tensor:
        """Return those of the case."""
        return found.boxes[:, 0]

    def masks(self, found: Found, phrase: int, queries: Tensor) -> Tensor:
        """Return those of the case."""
        return found.pixels[phrase, queries]


TINY = {
    "vision_config": {
        "backbone_config": {
            **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
            **{"image_size": 28, "window_size": 2, "global_attn_indexes": [0], "pretrain_image_size": 28},
            "model_type": "sam3_vit_model",
        },
        "fpn_hidden_size": 8,
    },
    "text_config": {
        **{"model_type": "clip_text_model", "vocab_size": 64, "hidden_size": 8, "intermediate_size": 8},
        **{"num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8, "projection_dim": 8},
    },
    **{
        f"{part}_config": {"hidden_size": 8, "num_attention_heads": 1, "num_layers": 1, "intermediate_size": 8}
        for part in ("geometry_encoder", "detr_encoder", "detr_decoder")
    },
    "mask_decoder_config": {"hidden_size": 8, "num_attention_heads": 1},
}
"""A network whose answers are never asked for."""


def build(network: Sam3Network, config: dict[str, Any], fusion: Fusion) -> SAM3:
    """Build the model of a case, as it is shipped but for what the case says."""
    crop_side, shipped = config.get("slide_crop", 0), model_config("sam3/sam3.yaml").MODEL.PROTOCOL
    per_class = config.get("bg_thr_per_class") or ()
    return SAM3(
        network,
        fusion,
        Thresholds(
            config.get("prob_thd", config.get("bg_thr", 0.0)),
            config.get("bg_idx", -1),
            class_thresholds=dict(zip(map(class_name, range(len(per_class))), per_class, strict=True))
            if any(value > 1e-6 for value in per_class)
            else None,
            ignore_threshold=config.get("ig_thr", 0.0),
        ),
        ObjectRule(),
        SizeRule(shipped.SHORT_SIDE, shipped.LONG_SIDE, shipped.ASPECT),
        Protocol(crop_side, config.get("slide_stride", 0), "none", "twice"),
        "none",
        "none",
        geometry_token=config.get("geometry_cls", True),
    ).eval()


def class_name(number: int) -> str:
    """Return what a class is called of which a case has no word."""
    return f"class {number}"


def make_words(rows: Tensor, names: list[str], classes: list[int], model: SAM3) -> Words:
    """Wrap the phrases of a case."""
    own: dict[int, list[str]] = {}
    for name, class_id in zip(names, classes, strict=True):
        own.setdefault(class_id, []).append(name)
    return Phrases(
        embeddings=rows,
        query_to_class=torch.tensor(classes),
        texts=tuple(names),
        vocabulary=Vocabulary.parse([own[class_id] for class_id in sorted(own)]),
        background=parse_background("none"),
        templates="none",
        embedded_by=model.clip.weights_hash,
    )


def numbered(count: int, channels: int) -> Tensor:
    """Return rows of phrases that have one token, their number."""
    tokens = torch.arange(count).float().view(-1, 1, 1).expand(-1, 1, channels)
    return pack(tokens, torch.ones(count, 1, dtype=torch.bool))


def segearth(config: dict[str, Any]) -> Fusion:
    """Return the fusion of SegEarth-OV3 with the switches of a case."""
    return Fusion(
        confidence=config["confidence_threshold"],
        semantic=config["use_sem_seg"],
        instance=config["use_transformer_decoder"],
        presence=config["use_presence_score"],
    )


def fused(case: Any, model: SAM3, words: Words, size: tuple[int, int]) -> dict[str, Tensor]:
    """Label the image of a case, and give the scores of its phrases, which are those of as many classes."""
    image = case.group("input")["image"]
    own = (image.shape[1], image.shape[2])
    encoded = model.encode([image])
    answer = model.answer(encoded, 0, size, words, frozenset({CLASS_SCORES}))
    apart = replace(
        words, query_to_class=torch.arange(len(words.texts)), vocabulary=Vocabulary.parse(list(words.texts))
    )
    phrases = model.answer(encoded, 0, own, apart, frozenset({CLASS_SCORES}))
    return {
        "output.query_scores": phrases.class_scores,
        "output.class_scores": answer.class_scores,
        "output.pred": answer.labels.long(),
    }


def fusion(case: Any) -> dict[str, Tensor]:
    """Fuse raw answers, of the whole image or of windows."""
    config, inputs = case.config, case.group("input")
    windows = sorted({int(key.split(".")[0][4:]) for key in inputs if key.startswith("crop")})
    answers = [case.group(f"input.crop{i}") for i in windows] if windows else [inputs]
    first = case.tensors.get("intermediate.preprocessed_0")
    network = Recorded(28 if first is None else first.shape[-1], answers)
    model = build(network, config, segearth(config))
    rows = numbered(len(config["query_words"]), network.channels)
    words = make_words(rows, config["query_words"], config["query_idx"], model)
    found = fused(case, model, words, tuple(config["ori_shape"]))
    return found | {"intermediate.preprocessed_0": network.entering[:1]}


def end_to_end(case: Any) -> dict[str, Tensor]:
    """Go the whole way of the product, from the photograph to labels."""
    config, inputs = case.config, case.group("input")
    network = build_network(config["sam3_config"], "the case", empty=True)
    fill(network, case.group("state_dict"), "the case")
    image = inputs["image"]
    model = build(network, config, segearth(config))
    mask = inputs["attention_mask"].bool()
    rows = pack(network.read(inputs["input_ids"], mask), mask)
    words = make_words(rows, config["query_words"], config["query_idx"], model)
    found = fused(case, model, words, (image.shape[1], image.shape[2]))
    squeezed = network.squeeze(image[None]).float() / 255
    return found | {"intermediate.pixel_values": (squeezed - 0.5) / 0.5}


def conceptbank(case: Any) -> dict[str, Tensor]:
    """Fuse as ConceptBank does, one prompt a class."""
    config, inputs = case.config, case.group("input")
    size = (inputs["image"].shape[1], inputs["image"].shape[2])
    network = Recorded(28, [inputs])
    rule = Fusion(
        fusion=CONCEPTBANK,
        confidence=config["confidence_threshold"],
        top_k=max(config["topk_inst"], 0),
        semantic=config["use_sem_seg"],
        presence=config["use_presence_instance"],
    )
    model = build(network, config, rule)
    names = [class_name(i) for i in range(len(inputs["pred_logits"]))]
    words = make_words(numbered(len(names), network.channels), names, list(range(len(names))), model)
    found = fused(case, model, words, size)
    found["output.pred"][found["output.pred"] < 0] = IGNORED
    return found


def tokens(case: Any) -> dict[str, Tensor]:
    """Fuse prompts, cut out a class, and rate phrases on it."""
    config, inputs = case.config, case.group("input")
    mask, weights = ~inputs["language_mask"], inputs["weights"]
    features, counted = fuse(inputs["language_features"], mask, weights)
    cut = crop(inputs["image"], inputs["labels"], config["class_id"], config["pad_ratio"], config["min_crop_size"])
    rule = Fusion(fusion=CONCEPTBANK, confidence=config["confidence_threshold"], top_k=config["topk_inst"])
    return {
        "output.fused_features": features,
        "output.fused_mask": ~counted,
        "output.fused_embeds": fuse(inputs["language_embeds"], mask, weights)[0],
        "output.crop_box": torch.tensor(cut.box),
        "output.context_view": cut.context.permute(1, 2, 0),
        "output.masked_view": cut.alone.permute(1, 2, 0),
        "output.crop_mask": cut.mask.to(torch.uint8),
        "output.prob_map": maps_of(inputs, rule, tuple(cut.mask.shape)),
    }


def maps_of(inputs: dict[str, Tensor], rule: Fusion, size: tuple[int, int]) -> Tensor:
    """Return the scores (k, H, W) of phrases by a rule."""
    network = Recorded(28, [inputs])
    rows = torch.arange(len(inputs["pred_logits"]))
    seen = SeenImage(*(one[0] for one in network.see(torch.zeros(1, 3, 28, 28))))
    found = network.ask(seen, rows.view(-1, 1, 1).float(), torch.ones(len(rows), 1))
    parts = [maps(network, found, rule, rule.uses_masks)]
    grid = tuple(inputs["semantic_seg"].shape[2:])
    canvas = plan_canvas(plan_windows(size, 1), size, size, grid, rule, True)
    return scores_in(canvas, (slice(0, size[0]), slice(0, size[1])), parts, rule, rows)


def pre_and_post(case: Any) -> dict[str, Tensor]:
    """Squeeze an image, and resize maps in both orders."""
    config, inputs = case.config, case.group("input")
    size = tuple(config["target_size"])
    network = Recorded(config["size"], [inputs])
    squeezed = (network.squeeze(inputs["image"][None]).float() / 255 - 0.5) / 0.5
    plain = maps_of(inputs, Fusion(fusion=ARGMAX, presence=False), size)
    sure = maps_of(inputs, Fusion(fusion=ARGMAX), size)
    after = maps_of(inputs, Fusion(instance=False, presence=False), size)
    found = {
        "output.pixel_values_transformers": squeezed,
        "output.pixel_values_authors": squeezed,
        "output.semantic_scores_transformers": plain,
        "output.semantic_scores_authors": after,
        "output.argmax_plain": plain.argmax(0),
        "output.argmax_presence": sure.argmax(0),
        "output.binary_semantic": (plain > 0.5).to(torch.uint8),
    }
    strengths = Fusion(confidence=config["instance_threshold"]).strengths(
        inputs["presence_logit_dec"][:, 0].sigmoid(), inputs["pred_logits"][..., 0]
    )
    grid = tuple(inputs["pred_masks"].shape[2:])
    resize = plan_resize(grid, grid, grid, size, sigmoid_first=True)
    for own, (strength, masks) in enumerate(zip(strengths, inputs["pred_masks"], strict=True)):
        kept = strength > 0
        whole = resize.probabilities(masks[kept], (slice(0, size[0]), slice(0, size[1])))
        found[f"output.instance_scores_{own}"] = strength[kept]
        found[f"output.instance_masks_{own}"] = (whole > config["mask_threshold"]).to(torch.uint8)
    return found


PARTS = {
    "model": model_part,
    "native_model": native,
    "fusion": fusion,
    "fusion_slide": fusion,
    "end_to_end": end_to_end,
    "conceptbank_fusion": conceptbank,
    "conceptbank_tokens": tokens,
    "pre_and_post_processing": pre_and_post,
}
"""By the part that a case holds."""
