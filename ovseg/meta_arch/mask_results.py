"""The results of one image in Detectron2's format, from the queries of any model that proposes masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2 import structures
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.mask_postprocess import class_maps, instances, panoptic, plan_resize, semantic_map


@dataclass(frozen=True)
class MaskRule:
    """What is made of masks.

    Attributes:
        panoptic: Whether to return panoptic segments.
        instances: Whether to return instances.
        sigmoid_first: Whether semantic maps are made at the size of the batch and resized afterwards. Where segments or
            instances are wanted too, masks are resized first in any case, as in FC-CLIP.
        object_threshold: See `ovseg.mask_postprocess.panoptic`.
        overlap_threshold: Likewise.
        top_k: See `ovseg.mask_postprocess.instances`.
    """

    panoptic: bool = False
    instances: bool = False
    sigmoid_first: bool = False
    object_threshold: float = 0.8
    overlap_threshold: float = 0.8
    top_k: int = 100

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        if not (0 <= self.object_threshold <= 1 and 0 <= self.overlap_threshold <= 1 and self.top_k >= 1):
            got = f"object {self.object_threshold}, overlap {self.overlap_threshold}, top k {self.top_k}"
            raise ConfigError(f"thresholds of masks are {got}; expected shares in 0..1 and at least one instance")


@dataclass(frozen=True, eq=False)
class Columns:
    """Which column of the class logits stands for what.

    Attributes:
        query_to_column: Column (T,) of each query of the vocabulary; the words of no class have one each, at the end.
        column_class: Class (K,) of each column; -1 for a word of no class.
        is_thing: Bool for each class.
    """

    query_to_column: Tensor
    column_class: Tensor
    is_thing: Tensor


def plan_columns(query_to_class: Tensor, is_thing: list[bool]) -> Columns:
    """Give every class a column and every word of no class one of its own.

    Args:
        query_to_class: Class (T,) of each query, -1 for words of no class; every class has one.
        is_thing: For each class, whether it is a thing.
    """
    classes, free = len(is_thing), query_to_class < 0
    extra = torch.arange(classes, classes + int(free.sum()))
    columns = query_to_class.clone()
    columns[free] = extra
    column_class = torch.cat([torch.arange(classes), torch.full_like(extra, -1)])
    return Columns(columns, column_class, torch.tensor(is_thing))


@torch.inference_mode()
def mask_results(
    probabilities: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    image: tuple[int, int],
    output: tuple[int, int],
    rule: MaskRule,
    columns: Columns,
    threshold: float = 0.0,
    full_scores: bool = False,
) -> dict[str, Any]:
    """Make the results of one image.

    Args:
        probabilities: Class probabilities (Q, K + 1) of the queries, "no object" last.
        mask_logits: (Q, h, w).
        padded: Height and width of the batch.
        image: Those of the image in it.
        output: Those of the result.
        rule: What is wanted.
        columns: What the K columns stand for.
        threshold: Pixels with a lower score get no class; see `ovseg.mask_postprocess.semantic_map`.
        full_scores: Whether to return ``sem_seg``.

    Returns:
        ``labels`` (H, W) int32 and ``scores`` (H, W) float32; with full_scores ``sem_seg`` (classes, H, W); if the rule
        says so ``panoptic_seg``, a pair of ids (H, W) int32 and their list of dicts (``id``, ``isthing``,
        ``category_id``, ``score``), and ``instances``, Detectron2's.
    """
    grid = (mask_logits.shape[1], mask_logits.shape[2])
    both = rule.panoptic or rule.instances
    resize = plan_resize(grid, padded, image, output, rule.sigmoid_first and not both)
    column_class = columns.column_class
    labels, scores = semantic_map(probabilities, mask_logits, resize, threshold, column_class)
    found: dict[str, Any] = {"labels": labels, "scores": scores}
    if full_scores:
        named = torch.cat([column_class >= 0, torch.tensor([True])]).to(probabilities.device)
        found["sem_seg"] = class_maps(probabilities[:, named], mask_logits, resize)
    if rule.panoptic:
        thresholds = (rule.object_threshold, rule.overlap_threshold)
        ids, segments = panoptic(
            probabilities, mask_logits, resize, columns.is_thing, *thresholds, column_class=column_class
        )
        infos = [{"id": s.id, "isthing": s.is_thing, "category_id": s.class_id, "score": s.score} for s in segments]
        found["panoptic_seg"] = (ids, infos)
    if rule.instances:
        things = columns.is_thing if rule.panoptic else None
        objects = instances(probabilities, mask_logits, resize, rule.top_k, things, column_class)
        found["instances"] = structures.Instances(
            output,
            pred_masks=objects.masks,
            pred_boxes=structures.Boxes(objects.boxes),
            scores=objects.scores,
            pred_classes=objects.classes,
        )
    return found
