"""From patch scores to labels: refinement by PAMR or a dense CRF, the score rule, and regions that share labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg.clip.normalise import denormalise
from ovseg.contract import CLASS_SCORES, Answer
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.refined import refined
from ovseg.labelling.scores import ScoreRule, Stream, class_probabilities, query_probabilities, segment_map
from ovseg.labelling.shares import ClassShares
from ovseg.labelling.yes_or_no import of_pairs
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.late_scores import Scores, all_of, some_of
from ovseg.ops.windows import WindowPlan
from ovseg.refinement import dense_crf
from ovseg.regions import mean_labels, vote


@dataclass(frozen=True)
class Labeller:
    """Makes the label map of an image from its patch scores.

    Attributes:
        protocol: Where PAMR runs, what regions do, and the dense CRF.
        rule: How scores become labels.
        query_to_class: Class (T,) of each query; -1 for background words.
        mean, std: By which the network input was normalised, per channel of RGB in 0..1.
    """

    protocol: Protocol
    rule: ScoreRule
    query_to_class: Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def label(
        self,
        scores: Scores,
        plan: WindowPlan,
        image: Tensor,
        size: tuple[int, int],
        areas: Tensor | None,
        want: frozenset[str],
    ) -> Answer:
        """Label an image.

        Args:
            scores: Patch scores (T, nI * h, nJ * w) of all windows side by side, or what makes some of them.
            plan: The windows.
            image: The normalised network input (3, h, w).
            size: Height and width of the result.
            areas: Region ids (h, w), or soft maps (R, a, b) whose argmax is the region; None if there are none.
            want: Whether the probabilities of all classes are wanted, too.
        """
        protocol = self.protocol
        scores, rows, columns, rule, guide = self._laid_out(scores, plan, image, size)
        arguments = (scores, rows, columns, self.query_to_class, rule, guide)
        labels, best = segment_map(*arguments)
        if protocol.crf_steps:
            refined = self._crf(arguments, labels, image)
            labels = labels.where(best < rule.prob_threshold, refined) if rule.prob_threshold > 0 else refined
        if protocol.region_rule != "none" and areas is not None and len(areas):
            ids = region_ids(areas, size)
            labels = (
                vote(labels, ids)
                if protocol.region_rule == "vote"
                else mean_labels(scores, rows, columns, ids, self.query_to_class, labels)
            )
        return Answer(labels, best, class_scores=class_probabilities(*arguments) if CLASS_SCORES in want else None)

    def shares(self, scores: Scores, plan: WindowPlan, image: Tensor, size: tuple[int, int]) -> ClassShares:
        """Return the probabilities of the classes, one at a time; the rest is as in `label`."""
        scores, rows, columns, rule, guide = self._laid_out(scores, plan, image, size)
        return ClassShares(scores, rows, columns, self.query_to_class, rule, guide)

    def probabilities(
        self, scores: Scores, plan: WindowPlan, image: Tensor, size: tuple[int, int], point: tuple[int, int]
    ) -> Tensor:
        """Return the probability (T,) of every query at a pixel (row, column); the rest is as in `label`."""
        scores, rows, columns, rule, guide = self._laid_out(scores, plan, image, size)
        return query_probabilities(scores, rows, columns, rule, point, guide)

    def label_pairs(
        self,
        scores: Scores,
        plan: WindowPlan,
        image: Tensor,
        size: tuple[int, int],
        want: frozenset[str],
        skipped: tuple[str, ...] = (),
    ) -> Answer:
        """Label an image by yes or no for each class; counter rows are the second half of the scores.

        Rules of areas, thresholds, regions and the dense CRF belong to classes that compete; what of them is set is
        said in a note, with what the caller has ``skipped``. The rest is as in `label`.
        """
        scores, rows, columns, rule, guide = self._laid_out(_lead(scores), plan, image, size)
        rule = replace(rule, min_max=False, keep_peak=False)
        own = self.query_to_class[: len(scores)]
        answer = of_pairs(Stream(scores, rows, columns, rule, guide), own, want)
        unused = [*self._not_of_pairs(), *skipped]
        note = f"the background policy 'paired' asks about each class by itself, without {', '.join(unused)}"
        return replace(answer, notes=(note,)) if unused else answer

    def pair_probabilities(
        self, scores: Scores, plan: WindowPlan, image: Tensor, size: tuple[int, int], point: tuple[int, int]
    ) -> Tensor:
        """Return the probability (T,) of every query, and behind them of its counter row, at a pixel (row, column)."""
        scores, rows, columns, rule, guide = self._laid_out(_lead(scores), plan, image, size)
        plain = replace(rule, softmax=False, score_threshold=0.0, min_max=False, keep_peak=False)
        yes = query_probabilities(scores, rows, columns, plain, point, guide).sigmoid()
        return torch.cat([yes, 1 - yes])

    def _not_of_pairs(self) -> list[str]:
        """Return the options that are set and have no meaning for pairs."""
        rules = ("prob_threshold", "area_threshold", "score_threshold", "closing", "min_max", "keep_peak")
        found = [name.upper() for name in rules if getattr(self.rule, name)]
        found += ["CRF_STEPS"] if self.protocol.crf_steps else []
        return found + (["REGION_RULE"] if self.protocol.region_rule != "none" else [])

    def _laid_out(
        self, scores: Scores, plan: WindowPlan, image: Tensor, size: tuple[int, int]
    ) -> tuple[Scores, Tensor, Tensor, ScoreRule, Tensor | None]:
        """Return scores, their matrices to the result, the rule that is left, and the image to refine by, if any."""
        rule = self.rule
        if rule.pamr_steps and self.protocol.pamr_at != "output":
            windows = self.protocol.pamr_at == "window"
            scores = refined(scores, plan, image, rule.pamr_steps, rule.pamr_dilations, windows)
            return scores, *_resize(image.shape[1:], size), replace(rule, pamr_steps=0), None
        rows, columns = plan.matrices(size, (scores.shape[1], scores.shape[2]))
        guide = None
        if rule.pamr_steps:
            guide = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
        return scores, rows, columns, rule, guide

    def _crf(self, arguments: tuple[Any, ...], labels: Tensor, image: Tensor) -> Tensor:
        """Refine labels (H, W) by a dense CRF among the classes that won anywhere; what lost everywhere stays out.

        It runs at the size of the network input, so that its cost does not grow with the photograph.
        """
        scores, rows, columns, query_to_class, rule, _ = arguments
        queries = query_to_class.to(labels.device)
        own = torch.isin(queries, labels.long())
        if not own.any():  # every pixel is below the threshold
            return labels
        classes, places = queries[own].unique(return_inverse=True)
        down = _resize(labels.shape, image.shape[1:])
        plain = replace(rule, pamr_steps=0, area_threshold=0.0)
        small = (down[0] @ rows.to(down[0]), down[1] @ columns.to(down[1]))
        probabilities = class_probabilities(some_of(scores, own.nonzero().flatten()), *small, places, plain)
        pixels = (denormalise(image.float(), self.mean, self.std) * 255).round().clamp(0, 255).to(torch.uint8)
        settings = self.protocol
        smooth = dense_crf(pixels, probabilities, settings.crf_steps, settings.crf_smoothness, settings.crf_appearance)
        up = _resize(image.shape[1:], labels.shape)
        return segment_map(smooth, *up, classes, ScoreRule(logit_scale=1.0, softmax=False))[0]


def _lead(scores: Scores) -> Tensor:
    """Return by how much each of the first half of scores (2 T, h, w) is above its partner: (T, h, w)."""
    yes, no = torch.cat(list(all_of(scores))).chunk(2)
    return yes - no


def _resize(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the float32 matrices of bilinear resizing along rows and columns."""
    rows, columns = (bilinear_matrix(*sides).float() for sides in zip(before, after, strict=True))
    return rows, columns


def region_ids(areas: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring regions to an output of a size (H, W): ids (h, w) by the nearest pixel, soft maps (R, a, b) by the largest.

    Returns:
        Region ids (H, W) int64, negative where there is none.
    """
    if areas.ndim == 2:
        return F.interpolate(areas[None, None].float(), size, mode="nearest")[0, 0].long()  # exact below 2**24 regions
    ids = torch.arange(len(areas), device=areas.device)
    return segment_map(areas, *_resize(areas.shape[1:], size), ids, ScoreRule(logit_scale=1.0, softmax=False))[0].long()
