"""Panoptic and instance results of one image in Detectron2's format, for all models that propose masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from detectron2 import structures
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.mask_postprocess import MaskResize, instances, panoptic


@dataclass(frozen=True)
class MaskRule:
    """What is made of masks besides labels.

    Attributes:
        top_k: See `ovseg.mask_postprocess.instances`.
        panoptic: Whether to return panoptic segments.
        instances: Whether to return instances; with panoptic segments only things.
        object_threshold: See `ovseg.mask_postprocess.panoptic`.
        overlap_threshold: Likewise.
    """

    top_k: int = 100
    _: KW_ONLY
    panoptic: bool = False
    instances: bool = False
    object_threshold: float = 0.8
    overlap_threshold: float = 0.8

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        if not (0 <= self.object_threshold <= 1 and 0 <= self.overlap_threshold <= 1 and self.top_k >= 1):
            got = f"object {self.object_threshold}, overlap {self.overlap_threshold}, top k {self.top_k}"
            raise ConfigError(f"thresholds of masks are {got}; expected shares in 0..1 and at least one instance")

    @property
    def objects(self) -> bool:
        """Whether anything is wanted but labels; masks are then resized before the sigmoid, as in FC-CLIP."""
        return self.panoptic or self.instances


def object_results(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    rule: MaskRule,
    column_class: Tensor,
    is_thing: Sequence[bool],
) -> dict[str, Any]:
    """Make the panoptic and instance results of one image.

    Args:
        probabilities: Class probabilities (Q, K + 1) of the queries, "no object" last.
        mask_logits: (Q, h, w).
        resize: Their way to the photograph.
        rule: What is wanted.
        column_class: Class (K,) of each column, -1 for words of no class; see `WordedModel.columns`.
        is_thing: For each class, whether it is a thing.

    Returns:
        If the rule says so ``panoptic_seg``, a pair of ids (H, W) int32 and their list of dicts (``id``, ``isthing``,
        ``category_id``, ``score``), and ``instances``, Detectron2's.
    """
    found: dict[str, Any] = {}
    things = torch.tensor(is_thing)
    if rule.panoptic:
        thresholds = (rule.object_threshold, rule.overlap_threshold)
        ids, segments = panoptic(probabilities, mask_logits, resize, things, *thresholds, column_class)
        infos = [{"id": s.id, "isthing": s.is_thing, "category_id": s.class_id, "score": s.score} for s in segments]
        found["panoptic_seg"] = (ids, infos)
    if rule.instances:
        wanted = things if rule.panoptic else None
        objects = instances(probabilities, mask_logits, resize, rule.top_k, wanted, column_class)
        found["instances"] = structures.Instances(
            resize.size,
            pred_masks=objects.masks,
            pred_boxes=structures.Boxes(objects.boxes),
            scores=objects.scores,
            pred_classes=objects.classes,
        )
    return found
