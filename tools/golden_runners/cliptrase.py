"""CLIPtrase: attention, encoder, clusters, and the segmentors of the script and of the Detectron2 port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_runners.common import build_clip, empty_context, resize
from golden_runners.product import make_words
from ovseg.clip import Context, DenseFeatures, Tower, ViTClip
from ovseg.clip.open_clip_internals import OpenClipBlock
from ovseg.clip.tokens import CLASS_TOKEN
from ovseg.contract import Words
from ovseg.labelling.scores import ScoreRule, segment_map
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import plan_windows
from ovseg.recalibration import Recalibration, build_recalibration
from ovseg.recalibration.cliptrase.clustering import cluster_means, dbscan
from ovseg.recalibration.cliptrase.method import Affinity, denoise, self_correlation, self_self
from ovseg.regions import vote
from ovseg.regions.voting import region_means


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs of a case, whatever its stage, and those intermediates that it has."""
    inputs, config = case.group("input"), case.config
    if "num_heads" in config:
        found = attention(inputs["x"], config["num_heads"], case.group("state_dict"))
    elif "features" in inputs:
        found = segment(case, given(inputs, config["grid"]), tuple(config["image_size"]))
    else:
        clip = clip_of(config, case.group("state_dict"))
        if "size_divisibility" in config:
            found = detectron2(case, clip)
        else:
            found = encoder(clip, inputs["image"])
            if "text_embeddings" in inputs:
                dense = clip.dense(inputs["image"], method_of(config))
                found |= segment(case, dense, tuple(inputs["image"].shape[2:]))
    return {key: value for key, value in found.items() if key in case.tensors}


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
        options |= {"cls_modulation": config["cls_modulation"]}
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

    has = frozenset({CLASS_TOKEN})


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


def logits_of(case: Any, method: Recalibration, dense: DenseFeatures, texts: Words) -> Tensor:
    """Return the logits (T, h, w): both factors of a modulated score have the scale."""
    scale = case.config["logit_scale"]
    return method.patch_scores(dense, texts)[0] * (scale**2 if case.config["cls_modulation"] else scale)


def clusters(
    case: Any, method: Recalibration, dense: DenseFeatures, texts: Words, size: tuple[int, int]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Return the region of each pixel (None if all patches are noise), and what leads to it."""
    affinity, maps = dense.context.kept(Affinity).of_patches[0], method.region_maps(dense, texts)[0]
    labels = dbscan(affinity, case.config["dbscan_eps"], case.config["dbscan_min_samples"])
    found: dict[str, Tensor] = {}
    for group in ("output", "intermediate"):
        found |= {f"{group}.affinity": affinity, f"{group}.dbscan_labels": labels, f"{group}.cluster_smooth": maps}
    if not len(maps):
        return None, found
    regions = winners(maps, size, torch.arange(len(maps)))
    found |= {"output.cluster_argmax": regions, "intermediate.cluster_argmax": regions}
    found["intermediate.cluster_maps"] = cluster_means(affinity, labels)
    found["intermediate.cluster_full"] = resize(maps[None], size)[0]
    return regions, found


def winners(maps: Tensor, size: tuple[int, int], ids: Tensor) -> Tensor:
    """Return the id of the largest map (T, h, w) at each pixel (H, W)."""
    rows, columns = (bilinear_matrix(*pair).float() for pair in zip(maps.shape[1:], size, strict=True))
    return segment_map(maps, rows, columns, ids, ScoreRule(logit_scale=1.0))[0].long()


def segment(case: Any, dense: DenseFeatures, size: tuple[int, int]) -> dict[str, Tensor]:
    """Label pixels, find clusters, vote; background is the label behind the last class."""
    method, texts = method_of(case.config), texts_of(case)
    logits = logits_of(case, method, dense, texts)
    labels = winners(logits, size, texts.query_to_class)
    regions, found = clusters(case, method, dense, texts, size)
    voted = labels if regions is None else vote(labels.int(), regions).long()
    background = case.config["num_classes"]
    cls = F.normalize(dense.cls, dim=1) @ texts.embeddings.mT
    return found | {
        "output.logits": resize(logits[None], size)[0],
        "output.label_map": voted.where(voted >= 0, background),
        "intermediate.label_map_before_vote": labels.where(labels >= 0, background),
        "intermediate.cls_logits": case.config["logit_scale"] * cls,
    }


def detectron2(case: Any, clip: ViTClip) -> dict[str, Tensor]:
    """Run the port: padded and halved input, features at their length, means of the logits in each cluster."""
    config, size = case.config, tuple(case.config["output_size"])
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    image = ((case.group("input")["image"] - mean) / std)[None]
    plan = plan_windows(tuple(image.shape[2:]), clip.patch_size, padding="corner", multiple=config["size_divisibility"])
    entering = plan.cut(image)
    if config["asymetric_input"]:
        factor = config["clip_resolution"]
        entering = F.interpolate(entering, scale_factor=factor, mode="bilinear", align_corners=False)
    method, texts = method_of(config, normalise=False), texts_of(case)
    dense = clip.dense(entering, method)
    logits = logits_of(case, method, dense, texts)
    regions, found = clusters(case, method, dense, texts, size)
    scores = resize(logits[None], size)[0]
    if regions is not None:
        rows, columns = (bilinear_matrix(*pair).float() for pair in zip(dense.grid, size, strict=True))
        scores = region_means(logits, rows, columns, regions)[regions].permute(2, 0, 1)
    plain = build_recalibration("cliptrase", normalise=False).patch_scores(dense, texts)[0]
    tokens = torch.cat([dense.cls[:, None], dense.features.flatten(2).mT], dim=1)
    return found | {
        "output.sem_seg": scores,
        "output.label_map": scores.argmax(0),
        "intermediate.clip_input": entering,
        "intermediate.features": tokens,
        "intermediate.patch_logits_grid": config["logit_scale"] * plain,
    }
