"""From class probabilities and mask logits of queries to panoptic segments and instances, in one pass over tiles.

The rules are those of Mask2Former (Cheng et al., CVPR 2022), which FC-CLIP and MAFT+ share. No mask exists at the
photograph's size but as bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.labelling.mask_resize import MaskResize, tiles
from ovseg.labelling.masks import SLACK, check, first_max
from ovseg.result.objects import Instance, PackedMask, PanopticSegment, pack_masks

_MASK_PIXELS = 2**24  # of masks that are unpacked at a time
_OUTSIDE = 1e-3  # logits so far below zero do not round to a probability of one half
_BYTE = 8


@dataclass(frozen=True)
class Claims:
    """Which queries compete for pixels as panoptic segments, and how.

    Attributes:
        shares: (Q,) float32: what a query's mask is multiplied by; negative where it does not compete.
        classes: (Q,) int64, -1 for words of no class.
    """

    shares: Tensor
    classes: Tensor

    @classmethod
    def of(cls, probabilities: Tensor, columns: Tensor, object_threshold: float) -> Claims:
        """Let queries compete whose best class is one, and above a threshold; arguments as `panoptic`."""
        best, column = probabilities.float().max(-1)
        kept = (column < len(columns)) & (best > object_threshold)
        return cls(best.where(kept, -1), columns[column.clamp(max=len(columns) - 1)])


@dataclass(frozen=True)
class Pairs:
    """The most probable pairs of query and class, (n,) each, by falling score."""

    scores: Tensor
    queries: Tensor
    classes: Tensor

    @classmethod
    def of(cls, probabilities: Tensor, columns: Tensor, top_k: int, is_thing: Tensor | None) -> Pairs:
        """Choose pairs; arguments as `instances`."""
        named = (columns >= 0).nonzero().flatten()
        flat = probabilities[:, named].float().flatten()
        scores, pairs = flat.topk(min(top_k, len(flat)))
        queries, classes = pairs // len(named), columns[named[pairs % len(named)]]
        if is_thing is None:
            return cls(scores, queries, classes)
        things = is_thing.to(classes.device)[classes]
        return cls(scores[things], queries[things], classes[things])


@torch.no_grad()
def panoptic(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    is_thing: Tensor,
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    column_class: Tensor | None = None,
) -> tuple[Tensor, list[PanopticSegment]]:
    """Give every pixel to at most one segment.

    Queries whose best class is a class and not "no object", with more than ``object_threshold``, compete for pixels by
    class times mask probability. A query that wins less than ``overlap_threshold`` of the pixels of its own mask
    (probability at least one half) is dropped; of the others the pixels that are both won and in the mask are painted.

    Args:
        probabilities: Class probabilities (Q, K + 1) of the queries, "no object" last.
        mask_logits: (Q, h, w).
        resize: Their way to the photograph.
        is_thing: Bool for each class id.
        object_threshold: 0..1.
        overlap_threshold: 0..1.
        column_class: As in `semantic_map`; what queries of class -1 win stays unassigned.

    Returns:
        Ids (H, W) int32, 0 for unassigned, and the segments in the order of their ids.

    Raises:
        ConfigError: As `semantic_map`.
    """
    columns = check(probabilities, mask_logits, resize, column_class)
    claims = Claims.of(probabilities, columns, object_threshold)
    return Look(mask_logits, resize, claims.shares).segments(claims, is_thing, overlap_threshold)


@torch.no_grad()
def instances(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    top_k: int = 100,
    is_thing: Tensor | None = None,
    column_class: Tensor | None = None,
) -> tuple[Instance, ...]:
    """Take the most probable pairs of query and class as objects; a query may appear with several classes.

    The score of an object is its class probability times the mean mask probability inside its mask. (FC-CLIP and
    Mask2Former return zeros for all boxes; these are around the masks, zeros for an empty one.)

    Args:
        probabilities: Class probabilities (Q, K + 1) of the queries, "no object" last, which is left out.
        mask_logits: (Q, h, w).
        resize: Their way to the photograph; it must not take the sigmoid first.
        top_k: How many pairs are taken at most.
        is_thing: Bool for each class id: keep only pairs of things, after the choice; None keeps all.
        column_class: As in `semantic_map`; columns of class -1 are not among the pairs.

    Returns:
        Objects by falling score.

    Raises:
        ConfigError: As `semantic_map`, or the resizing takes the sigmoid first.
    """
    columns = check(probabilities, mask_logits, resize, column_class)
    pairs = Pairs.of(probabilities, columns, top_k, is_thing)
    return Look(mask_logits, resize, None, pairs.queries).objects(pairs)


@torch.no_grad()
def panoptic_and_instances(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    is_thing: Tensor,
    object_threshold: float,
    overlap_threshold: float,
    top_k: int,
    things_alone: bool,
    column_class: Tensor | None = None,
) -> tuple[Tensor, list[PanopticSegment], tuple[Instance, ...]]:
    """Return what `panoptic` and `instances` do, in one pass; with ``things_alone`` instances are of things."""
    columns = check(probabilities, mask_logits, resize, column_class)
    claims = Claims.of(probabilities, columns, object_threshold)
    pairs = Pairs.of(probabilities, columns, top_k, is_thing if things_alone else None)
    look = Look(mask_logits, resize, claims.shares, pairs.queries)
    return *look.segments(claims, is_thing, overlap_threshold), look.objects(pairs)


class Look:
    """One pass over the masks of an image at the photograph's size.

    Attributes:
        owner: Which query wins each pixel (H, W) int64, Q where none does or the pixel is not in the winner's mask.
        areas: For each query (Q, 3) int64 how many pixels it wins, how many its mask has, and how many are both.
        bits: Where the masks of packed queries are positive, (P, ceil(H / 8), W) uint8; the highest bit is on top.
        inside: For each packed query (P, 2) the sum of its probabilities inside its mask, and its pixels.
        slot: Place (Q,) int64 of each query among those that are packed; -1 for the others.
        powers: What each bit of a byte counts, (8, 1), the highest first.
    """

    def __init__(
        self, mask_logits: Tensor, resize: MaskResize, claims: Tensor | None, packed: Tensor | None = None
    ) -> None:
        """Look at masks.

        Args:
            mask_logits: (Q, h, w).
            resize: Their way to the photograph.
            claims: (Q,) what their probabilities are multiplied by where they compete for pixels, negative for those
                that do not; None if none does.
            packed: Queries whose masks are wanted; None for none.

        Raises:
            ConfigError: Masks are wanted and the resizing takes the sigmoid first.
        """
        if packed is not None and resize.rows_after is not None:
            raise ConfigError("instances need masks at the output size; plan the resizing with sigmoid_first=False")
        device, count, (high, wide) = mask_logits.device, len(mask_logits), resize.size
        self.resize = resize
        self.claims = torch.full((count,), -1.0, device=device) if claims is None else claims
        used = torch.zeros(0, dtype=torch.long, device=device) if packed is None else packed.unique()
        self.slot = torch.full((count,), -1, device=device)
        self.slot[used] = torch.arange(len(used), device=device)
        self.owner = torch.full(resize.size if claims is not None else (0, 0), count, device=device)
        self.areas = torch.zeros(count + 1, 3, dtype=torch.long, device=device)
        self.bits = torch.zeros(len(used), -(-high // _BYTE), wide, dtype=torch.uint8, device=device)
        self.inside = torch.zeros(len(used), 2, device=device)
        self.powers = torch.tensor([2.0**bit for bit in reversed(range(_BYTE))], device=device)[:, None]
        for tile in tiles(resize.size, device):
            self._tile(mask_logits, tile)

    def _tile(self, mask_logits: Tensor, tile: tuple[slice, slice]) -> None:
        """Look at the queries that matter in a tile: packed ones, then those that compete, with both in between."""
        low, high = self.resize.cells(mask_logits, tile).flatten(1).aminmax(dim=1)
        competing, packed = self._contenders(low, high), (self.slot >= 0) & (high > 0)
        order = (packed & ~competing, packed & competing, ~packed & competing)
        parts = [chosen.nonzero().flatten() for chosen in order]
        near, end, start = torch.cat(parts), len(parts[0]) + len(parts[1]), len(parts[0])
        if not len(near):
            return
        if end:
            logits = self.resize.logits(mask_logits, tile, near)
            hard = logits[:end].clone().gt_(0)  # numbers and not bool, which the CPU makes slowly
            masks = logits.sigmoid_()
            self._pack(masks[:end], hard, self.slot[near[:end]], tile)
        else:
            masks = self.resize.probabilities(mask_logits, tile, near)
        if start < len(near):
            self._own(masks[start:], near[start:], tile)

    def _contenders(self, low: Tensor, high: Tensor) -> Tensor:
        """Return which queries may win a pixel of a tile, or have one in their mask, by logits that bound it."""
        surely = (self.claims * low.sigmoid()).max()
        beaten = self.claims * high.sigmoid() * (1 + SLACK) < surely
        return (self.claims >= 0) & ~(beaten & (high < -_OUTSIDE))

    def _pack(self, masks: Tensor, hard: Tensor, slots: Tensor, tile: tuple[slice, slice]) -> None:
        """Note where masks (n, a, b) of a tile are positive, given that as numbers, too."""
        self.inside[slots, 0] += (masks * hard).sum((1, 2))
        self.inside[slots, 1] += hard.sum((1, 2))
        rows = slice(tile[0].start // _BYTE, -(-tile[0].stop // _BYTE))
        padded = F.pad(hard, (0, 0, 0, -hard.shape[1] % _BYTE)).unflatten(1, (-1, _BYTE))
        self.bits[(slots, rows, tile[1])] = padded.mul_(self.powers).sum(2).to(torch.uint8)

    def _own(self, masks: Tensor, queries: Tensor, tile: tuple[slice, slice]) -> None:
        """Give the pixels of a tile to one of these queries, given their masks (n, a, b)."""
        count, pixels = len(self.claims), masks.flatten(1)
        winner = first_max(pixels * self.claims[queries, None], queries)[1]
        place = torch.empty(count, dtype=torch.long, device=masks.device)
        place[queries] = torch.arange(len(queries), device=masks.device)
        owner = winner.where(pixels.gather(0, place[winner][None])[0] >= 0.5, count)
        self.areas[:, 0] += winner.bincount(minlength=count + 1)
        self.areas[queries, 1] += pixels.ge_(0.5).sum(1).long()  # exact: a tile has fewer pixels than float32 counts
        self.areas[:, 2] += owner.bincount(minlength=count + 1)
        self.owner[tile] = owner.view(masks.shape[1:])

    def segments(
        self, claims: Claims, is_thing: Tensor, overlap_threshold: float
    ) -> tuple[Tensor, list[PanopticSegment]]:
        """Return what `panoptic` does, of the pixels that were won."""
        areas, classes, scores = self.areas[:-1].tolist(), claims.classes.tolist(), claims.shares.tolist()
        ids, segments = _number(areas, classes, scores, is_thing.tolist(), overlap_threshold)
        table = torch.tensor([*ids, 0], dtype=torch.int32, device=self.owner.device)
        return table[self.owner], segments

    def objects(self, pairs: Pairs, by_masks: bool = True) -> tuple[Instance, ...]:
        """Return what `instances` does, of the masks that were packed; else scores are those of the pairs alone."""
        packed, which = _run_lengths(self.bits.cpu().numpy(), self.resize.size[0]), self.slot[pairs.queries]
        means = self.inside[:, 0] / (self.inside[:, 1] + 1e-6)
        own = pairs.scores * means[which] if by_masks else pairs.scores
        scores, order = own.sort(descending=True, stable=True)
        objects = zip(pairs.classes[order].tolist(), scores.tolist(), which[order].tolist(), strict=True)
        return tuple(Instance(class_id, score, *packed[slot]) for class_id, score, slot in objects)


def _run_lengths(bits: np.ndarray, height: int) -> list[PackedMask]:
    """Pack masks (P, ceil(H / 8), W) of `Look.bits` as results have them, some at a time."""
    packed = list[PackedMask]()
    some = max(1, _MASK_PIXELS // max(1, height * bits.shape[2]))
    for start in range(0, len(bits), some):
        columns = np.ascontiguousarray(bits[start : start + some].transpose(0, 2, 1))  # as run lengths go
        masks = np.unpackbits(columns, axis=2, count=height).view(bool)
        packed += pack_masks(masks.transpose(0, 2, 1))
    return packed


def _number(
    areas: list[list[int]], classes: list[int], scores: list[float], is_thing: list[bool], overlap: float
) -> tuple[list[int], list[PanopticSegment]]:
    """Decide which queries are painted; returns the id of each (0: not painted) and the segments."""
    ids, segments = [0] * len(classes), list[PanopticSegment]()
    stuff: dict[int, int] = {}  # class: place among the segments
    for query, ((won, own, both), class_id) in enumerate(zip(areas, classes, strict=True)):
        if class_id < 0 or not both or won / own < overlap:
            continue
        place = stuff.get(class_id, len(segments))
        if place == len(segments):
            segments.append(PanopticSegment(place + 1, class_id, bool(is_thing[class_id]), scores[query]))
            if not is_thing[class_id]:
                stuff[class_id] = place
        else:
            known = segments[place]
            score = max(known.score, scores[query])
            segments[place] = PanopticSegment(known.id, class_id, known.is_thing, score)
        ids[query] = place + 1
    return ids, segments
