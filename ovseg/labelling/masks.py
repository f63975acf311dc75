"""From class probabilities and mask logits of queries to labels, panoptic segments and instances, streamed over tiles.

The rules are those of MaskFormer and Mask2Former (Cheng et al., CVPR 2022), which SAN, FC-CLIP and MAFT+ share. Masks
go from the model's resolution to the photograph's tile by tile, so that neither (classes, H, W) nor (queries, H, W)
exists at the photograph's size, unless `class_maps` are asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.labelling.maps import empty_maps
from ovseg.labelling.mask_resize import MaskResize
from ovseg.result.objects import Instance, PackedMask, PanopticSegment, pack_masks
from ovseg.system.device import is_cpu

_CPU_CLASSES, _CLASSES = 32, 256  # classes that are compared at a time
_FIRST_CLASSES = 8  # classes that are compared first: in most tiles one of a few wins all pixels
_MASK_PIXELS = 2**26  # of masks that are packed at a time
_SLACK = 1e-5  # by which rounding may lift a sum over its bound
_OUTSIDE = 1e-3  # logits so far below zero do not round to a probability of one half


@torch.no_grad()
def semantic_map(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    threshold: float = 0.0,
    column_class: Tensor | None = None,
    cut: bool = True,
) -> tuple[Tensor, Tensor]:
    """Label every pixel with the class of the largest sum over queries of class times mask probability.

    Args:
        probabilities: Class probabilities (Q, K + 1) of the queries, "no object" last, which is left out.
        mask_logits: (Q, h, w).
        resize: Their way to the photograph.
        threshold: Pixels whose sum is below it get no class.
        column_class: Class (K,) of each column; columns of class -1 compete but give no class. None is 0..K-1.
        cut: Whether scores end at 1; a calibration tells more of whole sums.

    Returns:
        Labels (H, W), -1 for no class, and scores (H, W): the sum of the winner, cut at 1; of the dtypes of
        `empty_maps`. It says how much of one query the pixel has, so it is low where no mask is.

    Raises:
        ConfigError: There is no query or no class, or the shapes do not fit together.
    """
    columns = _check(probabilities, mask_logits, resize, column_class)
    shares = probabilities[:, :-1].float()
    labels, scores = empty_maps(resize.size, int(columns.max()) + 1, mask_logits.device)
    for tile in resize.tiles(mask_logits.device):
        masks = resize.probabilities(mask_logits, tile)
        winner, best = _best_class(shares, masks.flatten(1))
        labels[tile] = columns[winner].view(masks.shape[1:]).int()
        scores[tile] = best.view(masks.shape[1:])
    if threshold > 0:
        labels.masked_fill_(scores < threshold, -1)
    return labels, scores.clamp_(0, 1) if cut else scores


@torch.no_grad()
def class_maps(probabilities: Tensor, mask_logits: Tensor, resize: MaskResize, count: int | None = None) -> Tensor:
    """Return the sums (K, H, W) float32 of the first `count` columns (None: of all); arguments as `semantic_map`."""
    _check(probabilities, mask_logits, resize, None)
    shares = probabilities[:, :-1].float().mT[:count]
    found = torch.empty(len(shares), *resize.size, device=mask_logits.device)
    for tile in resize.tiles(mask_logits.device):
        masks = resize.probabilities(mask_logits, tile)
        found[(slice(None), *tile)] = (shares @ masks.flatten(1)).view(-1, *masks.shape[1:])
    return found


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
    columns = _check(probabilities, mask_logits, resize, column_class)
    best, column = probabilities.float().max(-1)
    kept = ((column < len(columns)) & (best > object_threshold)).nonzero().flatten()
    if not len(kept):
        return torch.zeros(resize.size, dtype=torch.int32, device=mask_logits.device), []
    best = best[kept]
    owner, areas = _owners(best, mask_logits[kept], resize)
    classes = columns[column[kept]]
    ids, segments = _number(areas.tolist(), classes.tolist(), best.tolist(), is_thing.tolist(), overlap_threshold)
    table = torch.tensor([*ids, 0], dtype=torch.int32, device=owner.device)  # owner -1: won, but not in the mask
    return table[owner], segments


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

    The score of an object is its class probability times the mean mask probability inside its mask. Masks are packed a
    few at a time, so that not all of them exist at the photograph's size. (FC-CLIP and Mask2Former return zeros for all
    boxes; these are around the masks, zeros for an empty one.)

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
    columns = _check(probabilities, mask_logits, resize, column_class)
    if resize.rows_after is not None:
        raise ConfigError("instances need masks at the output size; plan the resizing with sigmoid_first=False")
    named = (columns >= 0).nonzero().flatten()
    flat = probabilities[:, named].float().flatten()
    scores, pairs = flat.topk(min(top_k, len(flat)))
    queries, classes = pairs // len(named), columns[named[pairs % len(named)]]
    if is_thing is not None:
        things = is_thing.to(classes.device)[classes]
        scores, queries, classes = scores[things], queries[things], classes[things]
    used, which = queries.unique(return_inverse=True)
    packed, inside = _packed_masks(mask_logits[used], resize)
    scores, order = (scores * inside[which]).sort(descending=True, stable=True)
    objects = zip(classes[order].tolist(), scores.tolist(), which[order].tolist(), strict=True)
    return tuple(Instance(class_id, score, *packed[query]) for class_id, score, query in objects)


def _best_class(shares: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best column (n,) of shares (Q, K) times masks (Q, n), of equal ones the first, and its sum (n,).

    A sum never exceeds that of the largest probability of each mask. So the columns come by falling bound, and what
    cannot reach the sum that every pixel has already is not computed.
    """
    bounds, order = (masks.amax(1) @ shares).mul_(1 + _SLACK).sort(descending=True)
    best = torch.full((masks.shape[1],), -torch.inf, device=masks.device)
    winner = torch.zeros(masks.shape[1], dtype=torch.long, device=masks.device)
    most = _CPU_CLASSES if is_cpu(masks.device) else _CLASSES
    done, count = 0, min(_FIRST_CLASSES, most)
    while count > 0:
        part = order[done : done + count].sort().values
        sums, place = (shares[:, part].mT @ masks).max(0)
        column = part[place]
        better = (sums > best) | ((sums == best) & (column < winner))
        best, winner = torch.where(better, sums, best), torch.where(better, column, winner)
        done += len(part)
        count = min(most, int((bounds >= best.min()).sum()) - done)
    return winner, best


def _owners(best: Tensor, mask_logits: Tensor, resize: MaskResize) -> tuple[Tensor, Tensor]:
    """Find which query wins each pixel.

    Returns:
        The query (H, W) int64, -1 where the pixel is not in its mask, and for each query (Q, 3) int64 how many pixels
        it wins, how many its mask has, and how many are both.
    """
    device, count = mask_logits.device, len(best)
    owner = torch.empty(resize.size, dtype=torch.long, device=device)
    areas = torch.zeros(count, 3, dtype=torch.long, device=device)
    for tile in resize.tiles(device):
        near = _contenders(best, resize.cells(mask_logits, tile))
        masks = resize.probabilities(mask_logits, tile, near)
        place = (best[near, None, None] * masks).max(0).indices  # on CPUs twice as fast as argmax
        inside = masks.gather(0, place[None])[0] >= 0.5
        winner = near[place]
        areas[:, 0] += winner.flatten().bincount(minlength=count)
        areas[near, 1] += masks.ge_(0.5).sum((1, 2)).long()  # exact: a tile has fewer pixels than float32 can count
        areas[:, 2] += winner[inside].bincount(minlength=count)
        owner[tile] = winner.masked_fill_(~inside, -1)
    return owner, areas


def _contenders(best: Tensor, cells: Tensor) -> Tensor:
    """Return the queries (n,) that may win a pixel of a tile, or have one in their mask, by the cells that make it."""
    high, low = cells.amax((1, 2)), cells.amin((1, 2))
    beaten = best * high.sigmoid() * (1 + _SLACK) < (best * low.sigmoid()).max()
    return (~(beaten & (high < -_OUTSIDE))).nonzero().flatten()


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


def _packed_masks(mask_logits: Tensor, resize: MaskResize) -> tuple[list[PackedMask], Tensor]:
    """Return where each of the masks (Q, h, w) is positive, packed, and its mean probability (Q,) inside."""
    packed, inside = list[PackedMask](), [mask_logits.new_zeros(0)]
    for part in mask_logits.split(max(1, _MASK_PIXELS // (resize.size[0] * resize.size[1]))):
        masks, mean = _hard_masks(part, resize)
        packed += pack_masks(masks.cpu().numpy())
        inside.append(mean)
    return packed, torch.cat(inside)


def _hard_masks(mask_logits: Tensor, resize: MaskResize) -> tuple[Tensor, Tensor]:
    """Return masks (Q, H, W) bool where logits are positive, and their mean probability (Q,) inside."""
    device = mask_logits.device
    masks = torch.zeros(len(mask_logits), *resize.size, dtype=torch.bool, device=device)
    total, area = torch.zeros(2, len(mask_logits), device=device)
    for tile in resize.tiles(device):
        near = (resize.cells(mask_logits, tile).amax((1, 2)) > 0).nonzero().flatten()
        logits = resize.logits(mask_logits, tile, near)
        hard = logits > 0
        masks[(near, *tile)] = hard
        area[near] += hard.float().sum((1, 2))
        total[near] += logits.sigmoid_().mul_(hard).sum((1, 2))
    return masks, total / (area + 1e-6)


def _check(probabilities: Tensor, mask_logits: Tensor, resize: MaskResize, column_class: Tensor | None) -> Tensor:
    """Return the class (K,) of each column, on the device of the masks."""
    count = probabilities.shape[-1] - 1
    columns = torch.arange(count) if column_class is None else column_class
    grid = (resize.rows.shape[1], resize.columns.shape[1])
    fits = len(probabilities) == len(mask_logits) and tuple(mask_logits.shape[1:]) == grid and len(columns) == count
    if not fits or count < 1 or not len(mask_logits):
        got = f"classes {tuple(probabilities.shape)}, masks {tuple(mask_logits.shape)}, {len(columns)} columns"
        raise ConfigError(f"{got}; expected (Q, K + 1), (Q, {grid[0]}, {grid[1]}) and K, none of them empty")
    return columns.to(mask_logits.device)
