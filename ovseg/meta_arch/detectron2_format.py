"""Answers as Detectron2's evaluators and visualisers take them, and models that its loops can call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovseg.contract import Answer, Words
from ovseg.result.objects import Instance


def to_detectron2(answer: Answer) -> dict[str, Any]:
    """Return an answer as a dict.

    Returns:
        ``labels`` (H, W) int32, ``scores`` (H, W) float32, and of what was wanted ``sem_seg`` (K, H, W) float32,
        ``panoptic_seg``: a pair of ids (H, W) int32 and their list of dicts (``id``, ``isthing``, ``category_id``,
        ``score``), and ``instances``, Detectron2's.
    """
    found: dict[str, Any] = {"labels": answer.labels, "scores": answer.scores}
    if answer.class_scores is not None:
        found["sem_seg"] = answer.class_scores
    if answer.panoptic is not None:
        infos = [
            {"id": s.id, "isthing": s.is_thing, "category_id": s.class_id, "score": s.score}
            for s in answer.panoptic.segments
        ]
        found["panoptic_seg"] = (torch.from_numpy(answer.panoptic.ids), infos)
    if answer.instances is not None:
        found["instances"] = _instances(answer.instances, (answer.labels.shape[0], answer.labels.shape[1]))
    return found


def _instances(objects: Sequence[Instance], size: tuple[int, int]) -> Any:
    from detectron2 import structures

    masks = np.stack([own.mask() for own in objects]) if objects else np.zeros((0, *size), bool)
    boxes = torch.tensor([own.bbox for own in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return structures.Instances(
        size,
        pred_masks=torch.from_numpy(masks),
        pred_boxes=structures.Boxes(boxes),
        scores=torch.tensor([own.score for own in objects], dtype=torch.float32),
        pred_classes=torch.tensor([own.class_id for own in objects], dtype=torch.int64),
    )


class WithWords(nn.Module):
    """A model that has been told its words; for Detectron2's loops, evaluators and samplers."""

    def __init__(self, model: nn.Module, words: Words) -> None:
        """Take over the model's mode."""
        super().__init__()
        self.model, self.words = model, words
        self.training = model.training

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Fill the words in, and call the model; see there."""
        found: Any = self.model([{**entry, "words": self.words} for entry in batched_inputs])
        return found
