"""Zero-guidance: the Ward tree and its cuts, segments through masked attention, merging with stand-in features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.square_clip import square_clip
from ovseg.clip import ViTClip
from ovseg.recalibration.zero_guidance.method import Zero_Guidance
from ovseg.recalibration.zero_guidance.segment_embedding import embed_segments, subtraction_weight
from ovseg.recalibration.zero_guidance.sibling_merging import merge_siblings, pair_similarity
from ovseg.recalibration.zero_guidance.ward_tree import over_segments, soft_masks, tree_above, ward_splits

OF_THRESHOLDS = ("segments_", "tree_ids_", "centroids_")


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    if "descriptors" in inputs:
        return cluster_tree(inputs, config, case.group("output"))
    if "feature_map" in inputs:
        return merging(inputs, config)
    return global_subtraction(square_clip(case), inputs, config)


def cluster_tree(inputs: Mapping[str, Tensor], config: Mapping[str, Any], wanted: Any) -> dict[str, Tensor]:
    """Cut a tree at every threshold that an output is named by."""
    descriptors, parts = F.normalize(inputs["descriptors"], dim=1), config["num_parts"]
    splits = ward_splits(descriptors, parts)
    found = {"output.split_masks": splits.masks.long(), "output.split_similarity": splits.similarity}
    used = (parts + 1) // 2 if "first" in config.get("splits_used", "first") else None
    for threshold in sorted({name.rpartition("_")[2] for name in wanted if name.startswith(OF_THRESHOLDS)}):
        leaves = over_segments(descriptors, splits, float(threshold), used)
        labels = leaves.labels.view(1, 1, *config["grid"]).double()
        found[f"output.segments_{threshold}"] = F.interpolate(labels, config["label_size"])[0, 0].long()
        found[f"output.tree_ids_{threshold}"] = torch.tensor(leaves.nodes[: leaves.leaves])
        found[f"output.centroids_{threshold}"] = leaves.centroids
    return found


def global_subtraction(clip: ViTClip, inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Embed segments with and without subtraction, and the whole image."""
    image = inputs["image"]
    ids, places = inputs["segments"].unique(return_inverse=True)
    method = Zero_Guidance(mask_from=config["mask_from_layer"], sd=config.get("sd_global_subtraction"))
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    own = clip.blocks[-method.blocks_of(clip.depth) :]
    for block in clip.blocks[: -len(own)]:
        tokens = block(tokens)
    masks = soft_masks(places, grid, len(ids))
    arguments = (tokens, masks.flatten(1), own, clip)
    embeddings, saliency = embed_segments(*arguments, method.sd)
    found = {
        "output.embedding": embeddings,
        "output.embedding_no_subtraction": embed_segments(*arguments, None)[0],
        "output.embedding_plain": clip.dense(image).cls[0],
        "intermediate.soft_masks": masks,
    }
    if method.sd is not None:
        found["intermediate.saliency_cos"] = saliency
        found["intermediate.weight"] = subtraction_weight(saliency, method.sd)
    return found


def merging(inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Merge the leaves of a case; a segment's embedding is a weighted mean, its word the nearest prototype."""
    ids, features = inputs["tree_ids"].tolist(), inputs["feature_map"]
    segments = tree_above(ids, inputs["segments"], features)
    side = round(len(features) ** 0.5)
    masks = segments.masks((side, side))
    images = masks @ features / masks.sum(1, keepdim=True)
    words = (F.normalize(images, dim=1) @ inputs["word_image_prototypes"].mT).argmax(1)
    texts = inputs["word_text_features"][words]
    weight = {"mix": config["merge_weight"], "image": 1.0, "text": 0.0}[config["merge_choice"]]
    similarity = pair_similarity(images, texts, weight)
    merged = merge_siblings(segments, similarity, config["merge_thres"])
    leaves = [row for row in merged.stored if row < segments.leaves]
    score = F.cosine_similarity(images, texts, dim=1)
    return {
        "output.merged": segments.under[merged.final].int().argmax(0)[segments.labels],
        "output.merged_word": words[merged.final],
        "output.merged_clip_score": score[merged.final],
        "output.merged_img_feats": images[merged.final],
        "output.merge_similarities": torch.tensor(merged.similarities),
        "intermediate.leaf_word": words[leaves],
        "intermediate.leaf_clip_score": score[leaves],
        "intermediate.node_ids": torch.tensor([segments.nodes[row] for row in merged.stored]),
    }
