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
from ovseg.refinement import affinity, close_labels, propagate

_GROUP = 8  # queries that share one comparison before the winner among them is looked up
_CPU_TILE, _CPU_CHUNK = (32, 256), 2**19  # pixels of a tile; scores of a chunk, so that it stays in the cache
_TILE, _CHUNK = (512, 8192), 2**24


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
    patch_logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    rule: ScoreRule,
    image: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Label every pixel with the class of its best query.

    Args:
        patch_logits: Scores (T, h, w) of T queries on the patch grid (of all windows, see `ovseg.data.windows`).
        rows: Interpolation matrix (H, h).
        columns: Interpolation matrix (W, w).
        query_to_class: Class (T,) of each query; queries of class -1 compete but give no class.
        rule: Scale, thresholds and refinement.
        image: (3, H, W) at the output size, normalised; needed for the refinement.

    Returns:
        Labels (H, W) int32, -1 for no class, and scores (H, W) float32: the probability of the best query in 0..1.

    Raises:
        ConfigError: There is no query, or the refinement has no image.
    """
    _check(patch_logits, query_to_class, rule, image)
    query_to_class = query_to_class.to(patch_logits.device)
    keep = _strong(patch_logits, rule)
    streamed = _Stream(patch_logits, rows, columns, rule, image)
    winners, scores = streamed.best(keep)
    if rule.area_threshold > 0:
        large = ~torch.isin(query_to_class, _small_classes(query_to_class[winners.long()], query_to_class, rule))
        if not large[keep].all():
            keep &= large
            winners, scores = streamed.best(keep)
    labels = query_to_class.int()[winners.long()]
    if rule.prob_threshold > 0 or not keep.any():  # scores that are no probabilities may be negative
        low = scores < rule.prob_threshold if keep.any() else torch.ones_like(scores, dtype=torch.bool)
        labels.masked_fill_(low, rule.threshold_label)
    return close_labels(labels, rule.closing) if rule.closing else labels, scores


@torch.no_grad()
def class_probabilities(
    patch_logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    rule: ScoreRule,
    image: Tensor | None = None,
) -> Tensor:
    """Return the probability of every class at every pixel (K, H, W), for evaluators; arguments as `segment_map`.

    Softmax over all queries, then the maximum over the names of a class, then zero for classes that the area rule
    drops. The probability threshold is not applied.
    """
    _check(patch_logits, query_to_class, rule, image)
    logits = torch.cat(list(_Stream(patch_logits, rows, columns, rule, image).maps()))
    query_probabilities = logits.softmax(0) if rule.softmax else logits
    classes = query_to_class.tolist()
    found = torch.zeros(max([*classes, 0]) + 1, *logits.shape[1:], device=logits.device)
    strong = _strong(patch_logits, rule).tolist()
    for index, kept, probability in zip(classes, strong, query_probabilities, strict=True):
        if index >= 0 and kept:
            torch.maximum(found[index], probability, out=found[index])
    if rule.area_threshold > 0:
        found[_small_classes(found.argmax(0), query_to_class, rule)] = 0
    return found


@torch.no_grad()
def upsample(patch_logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the scores (T, H, W) at the output size, float32, of patch scores (T, h, w)."""
    return rows.to(patch_logits.device) @ patch_logits.float() @ columns.to(patch_logits.device).mT


def _check(patch_logits: Tensor, query_to_class: Tensor, rule: ScoreRule, image: Tensor | None) -> None:
    if len(patch_logits) == 0 or len(patch_logits) != len(query_to_class):
        raise ConfigError(
            f"got {len(patch_logits)} queries and {len(query_to_class)} classes; expected one class a query"
        )
    if rule.pamr_steps and image is None:
        raise ConfigError("pamr_steps is set but there is no image to refine by; pass the normalised image")


def _strong(patch_logits: Tensor, rule: ScoreRule) -> Tensor:
    """Return which queries (T,) have a patch score above the rule's threshold; all where that is off."""
    if rule.score_threshold <= 0:
        return torch.ones(len(patch_logits), dtype=torch.bool, device=patch_logits.device)
    return patch_logits.amax((1, 2)) > rule.score_threshold


def _small_classes(labels: Tensor, query_to_class: Tensor, rule: ScoreRule) -> Tensor:
    """Return the classes that win too few pixels, or none; the exempt class and pixels without a class do not count."""
    counted = labels[(labels >= 0) & (labels != rule.area_exempt)]
    areas = torch.bincount(counted.long(), minlength=int(query_to_class.max()) + 1)
    small = areas <= rule.area_threshold * areas.sum()
    if 0 <= rule.area_exempt < len(small):
        small[rule.area_exempt] = False
    return small.nonzero().flatten()


class _Stream:
    """Scores of one image at the output size, a few queries at a time."""

    def __init__(
        self, patch_logits: Tensor, rows: Tensor, columns: Tensor, rule: ScoreRule, image: Tensor | None
    ) -> None:
        self.rule = rule
        self.logits = patch_logits.float() * (1 if rule.min_max else rule.logit_scale)
        self.rows, self.columns = rows.to(self.logits.device), columns.to(self.logits.device)
        self.size = (len(rows), len(columns))
        on_cpu = self.logits.device.type == "cpu"
        self.tile, self.chunk = (_CPU_TILE, _CPU_CHUNK) if on_cpu else (_TILE, _CHUNK)
        self.weights = affinity(image[None], rule.pamr_dilations) if rule.pamr_steps and image is not None else None

    def best(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index (H, W) int32 of the best of the kept queries, and its probability (H, W) among all."""
        winners = torch.empty(self.size, dtype=torch.int32, device=self.logits.device)
        scores = torch.empty(self.size, device=self.logits.device)
        if self.weights is not None or self.rule.min_max or self.rule.keep_peak:
            self._whole(keep, winners, scores)
            return winners, scores
        for top in range(0, self.size[0], self.tile[0]):
            for left in range(0, self.size[1], self.tile[1]):
                area = (slice(top, top + self.tile[0]), slice(left, left + self.tile[1]))
                self._tile(area, keep, winners[area], scores[area])
        return winners, scores

    def maps(self) -> Iterator[Tensor]:
        """Yield the final logits (t, H, W) of all queries in order."""
        size = max(1, _CHUNK // (self.size[0] * self.size[1]))
        for part in torch.arange(len(self.logits), device=self.logits.device).split(size):
            yield self._maps(part)

    def _maps(self, part: Tensor) -> Tensor:
        """Return whole maps (t, H, W) of some queries, refined and stretched as the rule says."""
        maps = upsample(self.logits[part], self.rows, self.columns)
        if self.weights is not None:
            maps = propagate(maps[None], self.weights, self.rule.pamr_steps, self.rule.pamr_dilations)[0]
        tiny = torch.finfo(maps.dtype).tiny
        if self.rule.keep_peak:
            now, wanted = (peaks.amax((1, 2), keepdim=True).clamp_min(tiny) for peaks in (maps, self.logits[part]))
            maps = maps * (wanted / now)
        if self.rule.min_max:
            low, high = maps.aminmax(dim=2)
            low, high = low.amin(1)[:, None, None], high.amax(1)[:, None, None]
            least = 1e-6 if self.rule.keep_peak else tiny  # where several are at their peak, the highest wins
            maps = (maps - low) * (self.rule.logit_scale / (high - low + least))
        return maps

    def _whole(self, keep: Tensor, winners: Tensor, scores: Tensor) -> None:
        """Label all pixels at once, a few maps at a time."""
        race = _Race(winners.numel(), self.logits.device, self.rule.softmax)
        order, kept = _first(keep), int(keep.sum())
        for part, competes in _runs(order, kept, max(1, _CHUNK // winners.numel())):
            race.add(self._maps(part).flatten(1), competes)
        race.finish(order, winners, scores)

    def _tile(self, area: tuple[slice, slice], keep: Tensor, winners: Tensor, scores: Tensor) -> None:
        """Label one tile; only the few patches that it interpolates from enter the products.

        Interpolation never exceeds the largest of its patches. So the queries come by falling maximum, and as soon as
        that is below what every pixel has reached, the rest only adds to the sum.
        """
        rows, columns = self.rows[area[0]], self.columns[area[1]]
        near_rows, near_columns = (near.any(0).nonzero().flatten() for near in (rows != 0, columns != 0))
        rows, columns = rows[:, near_rows].contiguous(), columns[:, near_columns].mT.contiguous()
        local = self.logits[:, near_rows][:, :, near_columns]
        bounds = local.amax((1, 2))
        order, kept = _first(keep, bounds), int(keep.sum())
        race = _Race(winners.numel(), local.device, self.rule.softmax)
        for part, competes in _runs(order, kept, max(_GROUP, self.chunk // winners.numel())):
            contends = competes and bool(bounds[part[0]] >= race.top.min())
            race.add((rows @ local[part] @ columns).flatten(1), contends)
        race.finish(order, winners, scores)


def _first(keep: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Return the indices of all queries, those that are kept first, and among them those of the largest bounds."""
    kept, rest = keep.nonzero().flatten(), (~keep).nonzero().flatten()
    return torch.cat([kept if bounds is None else kept[bounds[kept].argsort(descending=True, stable=True)], rest])


def _runs(order: Tensor, kept: int, size: int) -> Iterator[tuple[Tensor, bool]]:
    """Yield the queries a few at a time, those that compete first, and whether they do."""
    for part in order[:kept].split(size) if kept else ():
        yield part, True
    for part in order[kept:].split(size) if kept < len(order) else ():
        yield part, False


class _Race:
    """The running winner and the running log-sum-exp of a row of pixels."""

    def __init__(self, pixels: int, device: torch.device, softmax: bool) -> None:
        self.softmax = softmax
        self.peak = torch.full((pixels,), -torch.inf, device=device)  # largest logit so far
        self.total = torch.zeros(pixels, device=device)  # sum of exp(logit - peak) so far
        self.top = self.peak  # largest logit among those that compete
        self.winner = torch.zeros(pixels, dtype=torch.long, device=device)  # its place in the order of adding
        self.added = 0

    def add(self, logits: Tensor, competes: bool) -> None:
        """Take more queries in; their logits (t, pixels) are overwritten. Those that cannot win need not compete."""
        best = self._follow(logits) if competes else logits.amax(0)
        peak = torch.maximum(self.peak, best)
        self.total.mul_((self.peak - peak).exp_()).add_(logits.sub_(peak).exp_().sum(0))
        self.peak = peak
        self.added += len(logits)

    def finish(self, order: Tensor, winners: Tensor, scores: Tensor) -> None:
        """Write the winners, as places in ``order``, and their probabilities into maps of as many pixels."""
        winners.copy_(order[self.winner].view_as(winners))
        # What a method calls probabilities may exceed 1 (CLIPer); where no query competes the best is -inf.
        best = (self.top - self.peak).exp_().div_(self.total) if self.softmax else self.top.clamp(0, 1)
        scores.copy_(best.view_as(scores))

    def _follow(self, logits: Tensor) -> Tensor:
        """Update the winners; an argmax over few groups and then within one group is far cheaper than one over all."""
        full = len(logits) // _GROUP * _GROUP
        groups = [logits[:full].unflatten(0, (-1, _GROUP)).amax(1)] if full else []
        groups += [logits[full:].amax(0, keepdim=True)] if full < len(logits) else []
        best, group = torch.cat(groups).max(0)
        changed = (best > self.top).nonzero().flatten()
        first = group[changed] * _GROUP
        members = first + torch.arange(_GROUP, device=logits.device)[:, None]
        inside = logits[members.clamp_(max=len(logits) - 1), changed].argmax(0)
        self.winner[changed] = first + inside + self.added
        self.top = torch.maximum(self.top, best)
        return best
