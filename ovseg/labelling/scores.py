"""From patch scores to a label for every pixel of the original image, streamed over classes.

Upsampling, softmax over all queries, the maximum over the names of a class and the argmax run tile by tile and a few
queries at a time, with a running winner and a running log-sum-exp. Memory at the original size does not grow with the
number of classes; a (classes, H, W) tensor never exists unless `class_probabilities` is asked for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.labelling.maps import empty_maps
from ovseg.ops.class_argmax import Race, class_argmax, first_competing
from ovseg.ops.late_scores import LateScores, Scores, all_of, few_at_a_time
from ovseg.refinement import affinity, close_labels, propagate
from ovseg.result.parts import COMPACT

_CHUNK = 2**24  # pixels of whole maps that are computed at a time
_BAND = 2**22  # pixels of a band of compact maps


@dataclass(frozen=True)
class ScoreRule:
    """How scores become labels.

    Attributes:
        logit_scale: Factor between scores and the logits of the softmax over all queries.
        prob_threshold: Pixels whose winner has a lower probability take ``threshold_label``.
        area_threshold: Classes that win no more than this share of the pixels that classes win are dropped (SCLIP).
        area_exempt: Class that is never dropped and not counted; 0 in the benchmarks of SCLIP, -1 for none.
        min_max: Whether every query's map is stretched to 0..1 first (GEM).
        keep_peak: Whether every query's map is scaled so that its peak is that of its patches, which upsampling lowers
            (CLIPer); for scores that are not negative.
        score_threshold: Queries whose best patch score is no higher are dropped (CLIPer); 0 is off.
        pamr_steps: Rounds of pixel-adaptive refinement of the upsampled scores; 0 is off.
        pamr_dilations: Distances in pixels of its neighbours.
        softmax: Whether scores become probabilities by a softmax; methods that give probabilities themselves say no.
        closing: Side in pixels of the square by which the labels, not the scores, are closed (ITACLIP: 3); 0 is off.
        threshold_label: Label of pixels below the threshold; -1 is "no class", 0 the background class of benchmarks.
    """

    logit_scale: float
    prob_threshold: float = 0.0
    area_threshold: float = 0.0
    area_exempt: int = -1
    min_max: bool = False
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    threshold_label: int = -1
    softmax: bool = True
    closing: int = 0
    keep_peak: bool = False
    score_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of range.
        """
        for name in ("prob_threshold", "area_threshold", "score_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if self.pamr_steps < 0 or self.logit_scale <= 0:
            raise ConfigError(
                f"pamr_steps is {self.pamr_steps} and logit_scale {self.logit_scale}; expected >= 0 and > 0"
            )
        if self.closing < 0 or (self.closing and self.closing % 2 == 0):
            raise ConfigError(f"closing is {self.closing}; expected 0 (off) or an odd side in pixels, such as 3")


@torch.no_grad()
def segment_map(
    patch_logits: Scores,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    rule: ScoreRule,
    image: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Label every pixel with the class of its best query.

    Args:
        patch_logits: Scores (T, h, w) of T queries on the patch grid (of all windows, see `ovseg.ops.windows`), or what
            makes some of them.
        rows: Interpolation matrix (H, h).
        columns: Interpolation matrix (W, w).
        query_to_class: Class (T,) of each query; queries of class -1 compete but give no class.
        rule: Scale, thresholds and refinement.
        image: (3, H, W) at the output size, normalised; needed for the refinement.

    Returns:
        Labels (H, W), -1 for no class, and scores (H, W): the probability of the best query in 0..1; of the dtypes of
        `empty_maps`.

    Raises:
        ConfigError: There is no query, or the refinement has no image.
    """
    _check(patch_logits, query_to_class, rule, image)
    query_to_class = query_to_class.to(patch_logits.device)
    keep = _strong(patch_logits, rule)
    streamed = Stream(patch_logits, rows, columns, rule, image)
    labels, scores = streamed.best(keep, query_to_class)
    if rule.area_threshold > 0:
        large = ~torch.isin(query_to_class, _small_classes(labels, query_to_class, rule))
        if not large[keep].all():
            keep &= large
            labels, scores = streamed.best(keep, query_to_class)
    if rule.prob_threshold > 0 or not keep.any():  # scores that are no probabilities may be negative
        low = scores < rule.prob_threshold if keep.any() else torch.ones_like(scores, dtype=torch.bool)
        labels.masked_fill_(low, rule.threshold_label)
    return close_labels(labels, rule.closing) if rule.closing else labels, scores


@torch.no_grad()
def class_probabilities(
    patch_logits: Scores,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    rule: ScoreRule,
    image: Tensor | None = None,
) -> Tensor:
    """Return the probability of every class at every pixel (K, H, W), for evaluators; arguments as `segment_map`.

    Softmax over all queries, then the maximum over the names of a class, then zero for what the rules of scores and
    areas drop of the labels, too. The probability threshold is not applied.
    """
    _check(patch_logits, query_to_class, rule, image)
    streamed = Stream(patch_logits, rows, columns, rule, image)
    keep = kept_queries(streamed, query_to_class)
    logits = torch.cat(list(streamed.maps()))
    query_probabilities = logits.softmax(0) if rule.softmax else logits
    classes = query_to_class.tolist()
    found = torch.zeros(max([*classes, 0]) + 1, *logits.shape[1:], device=logits.device)
    for index, kept, probability in zip(classes, keep.tolist(), query_probabilities, strict=True):
        if index >= 0 and kept:
            torch.maximum(found[index], probability, out=found[index])
    return found


@torch.no_grad()
def kept_queries(streamed: Stream, query_to_class: Tensor) -> Tensor:
    """Return which queries (T,) bool the rules of scores and areas leave, given the class (T,) of each."""
    rule, queries = streamed.rule, query_to_class.to(streamed.logits.device)
    keep = _strong(streamed.logits, rule)
    if rule.area_threshold > 0:
        keep &= ~torch.isin(queries, _small_classes(streamed.best(keep, queries)[0], queries, rule))
    return keep


@torch.no_grad()
def query_probabilities(
    patch_logits: Scores,
    rows: Tensor,
    columns: Tensor,
    rule: ScoreRule,
    point: tuple[int, int],
    image: Tensor | None = None,
) -> Tensor:
    """Return the probability (T,) of every query at one pixel; arguments as `segment_map`.

    It is what `class_probabilities` takes the maximum of, without the rules of areas and thresholds of probability.
    Where a map has to be whole to be stretched or refined, a few of them are at a time.

    Args:
        patch_logits: (T, h, w).
        rows: (H, h).
        columns: (W, w).
        rule: Scale and refinement.
        point: Row and column of the pixel.
        image: For the refinement.
    """
    streamed, (y, x) = Stream(patch_logits, rows, columns, rule, image), point
    if isinstance(patch_logits, LateScores) or streamed.needs_whole:
        logits = torch.cat([part[:, y, x] for part in streamed.maps()])
    else:
        logits = upsample(patch_logits, rows[y : y + 1], columns[x : x + 1])[:, 0, 0] * rule.logit_scale
    found = logits.softmax(0) if rule.softmax else logits
    return found * _strong(patch_logits, rule)


@torch.no_grad()
def upsample(patch_logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the scores (T, H, W) at the output size, float32, of patch scores (T, h, w)."""
    return rows.to(patch_logits.device) @ patch_logits.float() @ columns.to(patch_logits.device).mT


def _check(patch_logits: Scores, query_to_class: Tensor, rule: ScoreRule, image: Tensor | None) -> None:
    if len(patch_logits) == 0 or len(patch_logits) != len(query_to_class):
        raise ConfigError(
            f"got {len(patch_logits)} queries and {len(query_to_class)} classes; expected one class a query"
        )
    if rule.pamr_steps and image is None:
        raise ConfigError("pamr_steps is set but there is no image to refine by; pass the normalised image")


def _strong(patch_logits: Scores, rule: ScoreRule) -> Tensor:
    """Return which queries (T,) have a patch score above the rule's threshold; all where that is off."""
    if rule.score_threshold <= 0:
        return torch.ones(len(patch_logits), dtype=torch.bool, device=patch_logits.device)
    return torch.cat([part.amax((1, 2)) for part in all_of(patch_logits)]) > rule.score_threshold


def _small_classes(labels: Tensor, query_to_class: Tensor, rule: ScoreRule) -> Tensor:
    """Return the classes that win too few pixels, or none; the exempt class and pixels without a class do not count."""
    counted = labels[(labels >= 0) & (labels != rule.area_exempt)]
    areas = torch.bincount(counted.long(), minlength=int(query_to_class.max()) + 1)
    small = areas <= rule.area_threshold * areas.sum()
    if 0 <= rule.area_exempt < len(small):
        small[rule.area_exempt] = False
    return small.nonzero().flatten()


class Stream:
    """Scores of one image at the output size, a few queries at a time."""

    def __init__(
        self, patch_logits: Scores, rows: Tensor, columns: Tensor, rule: ScoreRule, image: Tensor | None
    ) -> None:
        self.rule, self.logits = rule, patch_logits
        self.rows, self.columns = rows.to(patch_logits.device), columns.to(patch_logits.device)
        self.size = (len(rows), len(columns))
        self.weights = affinity(image[None], rule.pamr_dilations) if rule.pamr_steps and image is not None else None

    @property
    def needs_whole(self) -> bool:
        """Whether a map has to be whole before one of its pixels is known, or is made whole."""
        late = isinstance(self.logits, LateScores)
        return late or self.weights is not None or self.rule.min_max or self.rule.keep_peak

    def best(self, keep: Tensor, query_to_class: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class (H, W) of the best of the kept queries, and its probability (H, W) among all."""
        rule = self.rule
        if isinstance(self.logits, LateScores) or self.needs_whole:
            labels, scores = self._whole(keep, query_to_class)
        else:
            labels, scores = self._tiled(self.logits, keep, query_to_class)
        return labels, scores if rule.softmax else scores.clamp_(0, 1)  # CLIPer's probabilities may exceed 1

    def maps(self) -> Iterator[Tensor]:
        """Yield the final logits (t, H, W) of all queries in order, a few at a time."""
        return self._in_turn(torch.arange(len(self.logits), device=self.logits.device))

    def some(self, part: Tensor) -> Tensor:
        """Return whole maps (t, H, W) of some queries, refined and stretched as the rule says."""
        return torch.cat(list(self._in_turn(part)))

    def _in_turn(self, queries: Tensor) -> Iterator[Tensor]:
        size = max(1, _CHUNK // (self.size[0] * self.size[1]))
        yield from (self._finished(part) for part in few_at_a_time(self.logits, queries, size))

    def _finished(self, scores: Tensor) -> Tensor:
        """Return whole maps (t, H, W) of scores (t, h, w)."""
        logits = scores.float() * (1 if self.rule.min_max else self.rule.logit_scale)
        maps = upsample(logits, self.rows, self.columns)
        if self.weights is not None:
            maps = propagate(maps[None], self.weights, self.rule.pamr_steps, self.rule.pamr_dilations)[0]
        tiny = torch.finfo(maps.dtype).tiny
        if self.rule.keep_peak:
            now, wanted = (peaks.amax((1, 2), keepdim=True).clamp_min(tiny) for peaks in (maps, logits))
            maps = maps * (wanted / now)
        if self.rule.min_max:
            low, high = maps.aminmax(dim=2)
            low, high = low.amin(1)[:, None, None], high.amax(1)[:, None, None]
            least = 1e-6 if self.rule.keep_peak else tiny  # where several are at their peak, the highest wins
            # Divided, every peak is exactly 1, and of several the first wins.
            maps = ((maps - low) / (high - low + least)).mul_(self.rule.logit_scale)
        return maps

    def _tiled(self, logits: Tensor, keep: Tensor, query_to_class: Tensor) -> tuple[Tensor, Tensor]:
        """Label tile by tile; compact maps are filled in bands, so that no wide ones stand beside them."""
        scale, softmax = self.rule.logit_scale, self.rule.softmax
        if self.size[0] * self.size[1] < COMPACT:
            return class_argmax(logits, self.rows, self.columns, query_to_class, keep, scale, softmax)
        labels, scores = empty_maps(self.size, int(query_to_class.max()) + 1, self.logits.device)
        step = max(1, _BAND // self.size[1])
        for top in range(0, self.size[0], step):
            band, rows = slice(top, top + step), self.rows[top : top + step]
            found = class_argmax(logits, rows, self.columns, query_to_class, keep, scale, softmax)
            labels[band], scores[band] = found
        return labels, scores

    def _whole(self, keep: Tensor, query_to_class: Tensor) -> tuple[Tensor, Tensor]:
        """Label all pixels at once, a few maps at a time."""
        labels, scores = empty_maps(self.size, int(query_to_class.max()) + 1, self.logits.device)
        race = Race(labels, scores, self.rule.softmax)
        order, kept = first_competing(keep), int(keep.sum())
        for queries, compete in ((order[:kept], True), (order[kept:], False)):
            for maps in self._in_turn(queries):
                race.add(maps.flatten(1), compete)
        race.finish(query_to_class[order])
        return labels, scores
