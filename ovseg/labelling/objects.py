"""Labels, panoptic segments and instances of one image, for all models that propose masks."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from ovseg.contract import CLASS_SCORES, INSTANCES, PANOPTIC, Answer, Words
from ovseg.errors import ConfigError
from ovseg.labelling.mask_objects import instances, panoptic, panoptic_and_instances
from ovseg.labelling.mask_resize import MaskResize
from ovseg.labelling.masks import labels_and_maps, semantic_map
from ovseg.result.objects import Panoptic


@dataclass(frozen=True)
class MaskRule:
    """What is made of masks besides labels.

    Attributes:
        top_k: See `ovseg.labelling.mask_objects.instances`.
        panoptic: Whether the model gives panoptic segments.
        instances: Whether it gives instances; with panoptic segments only things.
        object_threshold: See `ovseg.labelling.mask_objects.panoptic`.
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


def semantic_results(
    probabilities: Tensor, mask_logits: Tensor, resize: MaskResize, words: Words, want: frozenset[str]
) -> Answer:
    """Label an image; scores are whole sums, which who answers brings to 0..1.

    Args:
        probabilities: (Q, C + 1) of the columns (see `Words.columns`) and, last, of "no object".
        mask_logits: (Q, h, w).
        resize: Their way to the photograph.
        words: The words of the columns.
        want: Whether the scores of all classes are wanted, too.
    """
    rest = (words.background.threshold, words.column_class, False)
    if CLASS_SCORES in want:
        labels, scores, every = labels_and_maps(probabilities, mask_logits, resize, *rest)
        return Answer(labels, scores, class_scores=every)
    return Answer(*semantic_map(probabilities, mask_logits, resize, *rest))


def object_results(
    probabilities: Tensor, mask_logits: Tensor, resize: MaskResize, rule: MaskRule, words: Words, want: frozenset[str]
) -> dict[str, Any]:
    """Make the panoptic and instance results of one image.

    Args:
        probabilities: Class probabilities (Q, K + 1) of the columns of the words, "no object" last.
        mask_logits: (Q, h, w).
        resize: Their way to the photograph.
        rule: How they are made.
        words: The words of the columns.
        want: What is wanted of ``panoptic`` and ``instances``.

    Returns:
        What is wanted, as an `Answer` has it.
    """
    found: dict[str, Any] = {}
    things = torch.tensor([entry.is_thing for entry in words.vocabulary])
    masks, thresholds = (probabilities, mask_logits, resize), (rule.object_threshold, rule.overlap_threshold)
    classes = words.column_class
    if {PANOPTIC, INSTANCES} <= want:
        ids, segments, found[INSTANCES] = panoptic_and_instances(
            *masks, things, *thresholds, rule.top_k, rule.panoptic, classes
        )
        found[PANOPTIC] = Panoptic(ids.cpu().numpy(), tuple(segments))
    elif PANOPTIC in want:
        ids, segments = panoptic(*masks, things, *thresholds, classes)
        found[PANOPTIC] = Panoptic(ids.cpu().numpy(), tuple(segments))
    elif INSTANCES in want:
        found[INSTANCES] = instances(*masks, rule.top_k, things if rule.panoptic else None, classes)
    return found
