"""CLIPtrase: attention, encoder, clusters, and the segmentors of the script and of the Detectron2 port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_runners.common import WHOLE, build_clip, build_method, empty_context, resize, show
from golden_runners.product import make_words
from ovseg.clip import Context, DenseFeatures, Tower, ViTClip
from ovseg.clip.normalise import normalise
from ovseg.clip.open_clip_vit import OpenClipBlock
from ovseg.clip.tokens import CLASS_TOKEN
from ovseg.contract import LABELS, Words
from ovseg.labelling.labeller import Labeller, region_ids
from ovseg.labelling.scores import ScoreRule
from ovseg.recalibration import Recalibration, build_recalibration
from ovseg.recalibration.cliptrase.clustering import cluster_means, dbscan
from ovseg.recalibration.cliptrase.method import Affinity, denoise, self_correlation, self_self
from ovseg.regions.voting import region_means

VOTE, MEAN = (replace(WHOLE, region_rule=rule) for rule in ("vote", "mean"))


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs of a case, whatever its stage, and those intermediates that it has."""
    inputs, config = case.group("input"), case.config
    if "num_heads" in config:
        found = attention(inputs["x"], config["num_heads"], case.group("state_dict"))
    elif "features" in inputs:
        found = labelled_features(case, given(inputs, config["grid"]), tuple(config["image_size"]))
    else:
        clip = clip_of(config, case.group("state_dict"))
        if "size_divisibility" in config:
            found = detectron2(case, clip)
        else:
            found = encoder(clip, inputs["image"])
            if "text_embeddings" in inputs:
                found |= segmentor(case, clip)
    return found


def clip_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case; the port has names of its own for the image tower, and a text tower."""
    vision = config["vision"]
    side = vision["input_resolution"] // vision["patch_size"]
    named = {
        key.replace("clip_visual_extractor.resblocks", "visual.transformer.resblocks").replace(
            "clip_visual_extractor", "visual"
        ): value
        for key, value in state.items()
    }
    return build_clip(
        {
            **vision,
            "embed_dim": vision["output_dim"],
            "pretrain_grid": [side, side],
            "activation": config.get("act", "QuickGELU").lower(),
            "mlp_ratio": config.get("mlp_ratio", 4),
            "ln_eps": 1e-5,
        },
        {key: value for key, value in named.items() if key.startswith("visual.")},
    )


def method_of(config: Mapping[str, Any], **options: Any) -> Recalibration:
    """Build the method by the settings of a case; those of an encoder alone have none."""
    if "dbscan_eps" in config:
        options |= {"eps": config["dbscan_eps"], "min_samples": config["dbscan_min_samples"]}
        options |= {"cls_modulation": config.get("cls_modulation", False)}
    return build_recalibration("cliptrase", **options)


def attention(x: Tensor, heads: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run one attention module in its three modes; tokens (L, B, E) come normed."""
    module = nn.Module()
    module.attn = nn.MultiheadAttention(x.shape[2], heads)
    module.attn.load_state_dict(dict(state))
    module.ln_1 = module.ls_1 = module.mlp = nn.Identity()
    block = OpenClipBlock(module)
    query, key, value = block.qkv(x.transpose(0, 1))
    plain = block.project(F.scaled_dot_product_attention(query, key, value)).transpose(0, 1)
    correlation = self_correlation(query, key, value)
    return {
        "output.plain_out": plain,
        "output.plain_weights": (query @ key.mT * block.scale).mean(1),
        "output.affinity_layer_out": plain,
        "output.affinity_layer_weights": correlation,
        "output.self_self_out": block.project(self_self(query, key, value)).transpose(0, 1),
        "output.self_self_weights": correlation,
    }


def encoder(clip: ViTClip, image: Tensor) -> dict[str, Tensor]:
    """Run the image tower and show the correlations on the way."""
    method = build_recalibration("cliptrase")
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    first = clip.blocks[0]
    query, key, _ = first.qkv(tokens)
    found = {"intermediate.attn_layer1": (query @ key.mT * first.scale).mean(1)}
    for block in clip.blocks[:-2]:
        tokens = block(tokens)
    context = empty_context(clip, grid, image)
    leaving = method.run(tokens, clip.blocks[-2:], context)
    features = clip.tower.head(leaving)[0]
    return found | {
        "output.features": features,
        "output.attn_recalibrated": self_correlation(*clip.blocks[-2].qkv(tokens)),
        "output.affinity": context.kept(Affinity).of_patches[0],
        "intermediate.attn_last": self_correlation(*clip.blocks[-1].qkv(clip.blocks[-2](tokens))),
        "intermediate.tokens_last_block": leaving,
        "intermediate.tokens_ln_post": clip.tower.visual.ln_post(leaving),
        "intermediate.features_unit": F.normalize(features, dim=-1),
    }


class GivenTower(Tower):
    """Says no more than that the class token comes first."""

    name, has = "given", frozenset({CLASS_TOKEN})


def given(inputs: Mapping[str, Tensor], grid: list[int]) -> DenseFeatures:
    """Wrap tokens and correlations that a case gives."""
    height, width = grid
    features = inputs["features"]
    context = Context((height, width), features, GivenTower(), (0, 0, 0), (1, 1, 1))
    context.keep(Affinity(denoise(context.tower, inputs["attn_recalibrated"])))
    return DenseFeatures(features[:, 1:].mT.unflatten(-1, (height, width)), features[:, 0], (height, width), context)


def texts_of(case: Any) -> Words:
    """Return the texts of a case; those of the background are no class."""
    inputs = case.group("input")
    classes = torch.arange(len(inputs["text_embeddings"]))
    extra = inputs.get("background_embeddings", torch.empty(0, inputs["text_embeddings"].shape[1]))
    ids = torch.cat([classes, torch.full((len(extra),), -1)])
    return make_words(torch.cat([inputs["text_embeddings"], extra]), ids)


def rule_of(config: Mapping[str, Any]) -> ScoreRule:
    """Return how logits become labels: both factors of a modulated score have the scale."""
    scale = config["logit_scale"]
    return ScoreRule(logit_scale=scale**2 if config.get("cls_modulation") else scale)


def segmentor(case: Any, clip: ViTClip) -> dict[str, Tensor]:
    """Label an image, with and without the vote of its clusters."""
    image, config = case.group("input")["image"], case.config
    shown = show(build_method(clip, method_of(config), VOTE, rule_of(config)), image, texts_of(case))
    size = tuple(image.shape[2:])
    labels, before = shown.labels(size)[0], shown.otherwise(protocol=WHOLE).labels(size)[0]
    return shown_outputs(case, shown.dense[0], size, labels, before)


def labelled_features(case: Any, dense: DenseFeatures, size: tuple[int, int]) -> dict[str, Tensor]:
    """Label features that a case gives, by the labeller alone, for there is no image to encode."""
    method, texts, config = method_of(case.config), texts_of(case), case.config
    scores, maps = method.patch_scores(dense, texts)[0], method.region_maps(dense, texts)[0]
    image = torch.zeros(3, *size)
    labels = {}
    for protocol in (VOTE, WHOLE):
        labeller = Labeller(protocol, rule_of(config), texts.query_to_class, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        plan = protocol.plan(size, config["patch_size"])
        labels[protocol] = labeller.label(scores, plan, image, size, maps, LABELS).labels
    return shown_outputs(case, dense, size, labels[VOTE], labels[WHOLE])


def shown_outputs(
    case: Any, dense: DenseFeatures, size: tuple[int, int], labels: Tensor, before: Tensor
) -> dict[str, Tensor]:
    """Return labels (H, W), those before the vote, and what led to them; background is the label behind the last."""
    config, texts, background = case.config, texts_of(case), case.config["num_classes"]
    logits = rule_of(config).logit_scale * method_of(config).patch_scores(dense, texts)
    return clusters(case, dense, texts, size) | {
        "output.logits": resize(logits, size)[0],
        "output.label_map": labels.where(labels >= 0, background),
        "intermediate.label_map_before_vote": before.where(before >= 0, background),
        "intermediate.cls_logits": config["logit_scale"] * F.normalize(dense.cls, dim=1) @ texts.embeddings.mT,
    }


def clusters(case: Any, dense: DenseFeatures, texts: Words, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the region of each pixel, unless all patches are noise, and what leads to it."""
    config, method = case.config, method_of(case.config)
    affinity, maps = dense.context.kept(Affinity).of_patches[0], method.region_maps(dense, texts)[0]
    labels = dbscan(affinity, config["dbscan_eps"], config["dbscan_min_samples"])
    shown = {"affinity": affinity, "dbscan_labels": labels, "cluster_smooth": maps}
    found: dict[str, Tensor] = {}
    if len(maps):
        shown["cluster_argmax"] = region_ids(maps, size)
        found["intermediate.cluster_maps"] = cluster_means(affinity, labels)
        found["intermediate.cluster_full"] = resize(maps[None], size)[0]
    return found | {f"{group}.{key}": value for group in ("output", "intermediate") for key, value in shown.items()}


def detectron2(case: Any, clip: ViTClip) -> dict[str, Tensor]:
    """Run the port: features at their length, means of the logits in each cluster.

    The port pads before it halves, and stretches the grid of the padded image over the output. A model is given images
    that are already as small as they shall be, so padding and halving are done here, as part of the preparation.
    """
    config, inputs = case.config, case.group("input")
    size, scale = (config["output_size"][0], config["output_size"][1]), rule_of(config).logit_scale
    entering = port_input(inputs["image"], config)
    # Texts of the background, if there are any, are classes of their own.
    words = make_words(texts_of(case).embeddings)
    method = method_of(config, normalise=False)
    shown = show(build_method(clip, method, MEAN, rule_of(config)), entering, words)
    found = clusters(case, shown.dense[0], words, size)
    sem_seg, regions = shown.maps(size)[0], found.get("output.cluster_argmax")
    if regions is not None:  # an answer has the labels of the regions alone
        matrices = shown.encoded.images[0].plan.matrices(size)
        sem_seg = region_means(shown.scores[0], *matrices, regions)[regions].permute(2, 0, 1)
    unmodulated = build_recalibration("cliptrase", normalise=False)
    return found | {
        "output.sem_seg": scale * sem_seg,
        "output.label_map": shown.labels(size)[0],
        "intermediate.clip_input": entering,
        "intermediate.features": shown.tokens,
        "intermediate.patch_logits_grid": config["logit_scale"] * shown.otherwise(method=unmodulated).scores[0],
    }


def port_input(image: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Normalise an image (3, h, w) in 0..255, pad it with zeros at the right and the bottom, and make it smaller."""
    height, width = image.shape[1:]
    divisor = config["size_divisibility"]
    padded = F.pad(normalise(image, config["mean"], config["std"]), (0, -width % divisor, 0, -height % divisor))[None]
    if not config.get("asymetric_input"):
        return padded
    return F.interpolate(padded, scale_factor=config["clip_resolution"], mode="bilinear", align_corners=False)
