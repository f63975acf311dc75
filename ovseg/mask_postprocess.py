"""From class probabilities and mask logits of queries to labels, panoptic segments and instances, streamed over tiles.

The rules are those of MaskFormer and Mask2Former (Cheng et al., CVPR 2022), which SAN, FC-CLIP and MAFT+ share. Masks
go from the model's resolution to the photograph's tile by tile, so that neither (classes, H, W) nor (queries, H, W)
exists at the photograph's size, unless `class_maps` are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.data.windows import bilinear_matrix
from ovseg.errors import ConfigError
from ovseg.panoptic import Instance, PackedMask, PanopticSegment, pack_masks

_CPU_TILE, _TILE = (64, 64), (256, 1024)  # pixels; on CPUs all masks of a tile should stay in the cache
_CPU_CLASSES, _CLASSES = 32, 256  # classes that are compared at a time
_FIRST_CLASSES = 8  # classes that are compared first: in most tiles one of a few wins all pixels
_MASK_PIXELS = 2**26  # of masks that are packed at a time
_SLACK = 1e-5  # by which rounding may lift a sum over its bound
_OUTSIDE = 1e-3  # logits so far below zero do not round to a probability of one half


@dataclass(frozen=True, eq=False)
class MaskResize:
    """The way of mask logits to the photograph, as a separable linear map; made by `plan_resize`.

    Attributes:
        rows: Matrix (H', h) that is applied before the sigmoid.
        columns: Matrix (W', w), likewise.
        rows_after: Matrix (H, H') that is applied to probabilities; None where that is no change.
        columns_after: Matrix (W, W'), likewise.
    """

    rows: Tensor
    columns: Tensor
    rows_after: Tensor | None = None
    columns_after: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result."""
        rows = self.rows if self.rows_after is None else self.rows_after
        columns = self.columns if self.columns_after is None else self.columns_after
        return len(rows), len(columns)

    def tiles(self, device: torch.device) -> Iterator[tuple[slice, slice]]:
        """Yield the tiles of the result, as large as suits the device."""
        high, wide = _CPU_TILE if device.type == "cpu" else _TILE
        for top in range(0, self.size[0], high):
            for left in range(0, self.size[1], wide):
                yield slice(top, top + high), slice(left, left + wide)

    def cells(self, mask_logits: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """Return the part (Q, a', b') of mask logits (Q, h, w) that a tile of the result is made from.

        As the resizing takes means, no logit in the tile exceeds the largest of them.
        """
        _, top, _ = _part(self.rows, self.rows_after, tile[0])
        _, left, _ = _part(self.columns, self.columns_after, tile[1])
        return mask_logits[:, top, left].float()

    def logits(self, mask_logits: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """Return the logits (Q, a, b) float32 of mask logits (Q, h, w) in a tile of (a, b) pixels, before the sigmoid.

        Where the resizing takes the sigmoid first, the tile is one of (H', W').
        """
        rows, top, _ = _part(self.rows, None, tile[0])
        columns, left, _ = _part(self.columns, None, tile[1])
        device = mask_logits.device
        return rows.to(device) @ mask_logits[:, top, left].float() @ columns.to(device).mT

    def probabilities(self, mask_logits: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """Return the probabilities (Q, a, b) float32 of mask logits (Q, h, w) in a tile of (a, b) pixels."""
        rows, top, after_rows = _part(self.rows, self.rows_after, tile[0])
        columns, left, after_columns = _part(self.columns, self.columns_after, tile[1])
        device = mask_logits.device
        found = (rows.to(device) @ mask_logits[:, top, left].float() @ columns.to(device).mT).sigmoid_()
        found = found if after_rows is None else after_rows.to(device) @ found
        return found if after_columns is None else found @ after_columns.to(device).mT


def plan_resize(
    grid: tuple[int, int],
    padded: tuple[int, int],
    image: tuple[int, int],
    output: tuple[int, int],
    sigmoid_first: bool = False,
) -> MaskResize:
    """Plan how mask logits become maps of the photograph: bilinear to the padded batch, cut, bilinear to the output.

    Args:
        grid: Height and width of the mask logits.
        padded: Those of the batch, padded at the right and the bottom.
        image: Those of the image in it.
        output: Those of the photograph.
        sigmoid_first: Take the sigmoid at the size of the batch and resize probabilities to the output. As all that
            follows is linear, this is what Mask2Former does when it resizes class maps after inference.

    Raises:
        ConfigError: The image is larger than the batch, or a size is empty.
    """
    if min(*grid, *padded, *image, *output) < 1 or any(a > b for a, b in zip(image, padded, strict=True)):
        raise ConfigError(f"masks {grid} of an image {image} in a batch {padded} to {output}; expected image <= batch")
    first = [bilinear_matrix(g, p)[:i] for g, p, i in zip(grid, padded, image, strict=True)]
    if image == output:
        return MaskResize(first[0].float(), first[1].float())
    second = [bilinear_matrix(i, o) for i, o in zip(image, output, strict=True)]
    if sigmoid_first:
        return MaskResize(*(matrix.float() for matrix in (*first, *second)))
    return MaskResize((second[0] @ first[0]).float(), (second[1] @ first[1]).float())


@torch.no_grad()
def semantic_map(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    threshold: float = 0.0,
    column_class: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Label every pixel with the class of the largest sum over queries of class times mask probability.

    Args:
        probabilities: Class probabilities (Q, K + 1) of the queries, "no object" last, which is left out.
        mask_logits: (Q, h, w).
        resize: Their way to the photograph.
        threshold: Pixels whose sum is below it get no class.
        column_class: Class (K,) of each column; columns of class -1 compete but give no class. None is 0..K-1.

    Returns:
        Labels (H, W) int32, -1 for no class, and scores (H, W) float32: the sum of the winner, cut at 1. It says how
        much of one query the pixel has, so it is low where no mask is.

    Raises:
        ConfigError: There is no query or no class, or the shapes do not fit together.
    """
    columns = _check(probabilities, mask_logits, resize, column_class)
    shares = probabilities[:, :-1].float()
    labels = torch.empty(resize.size, dtype=torch.int32, device=mask_logits.device)
    scores = torch.empty(resize.size, device=mask_logits.device)
    for tile in resize.tiles(mask_logits.device):
        masks = resize.probabilities(mask_logits, tile)
        winner, best = _best_class(shares, masks.flatten(1))
        labels[tile] = columns[winner].view(masks.shape[1:]).int()
        scores[tile] = best.view(masks.shape[1:])
    if threshold > 0:
        labels.masked_fill_(scores < threshold, -1)
    return labels, scores.clamp_(0, 1)


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


def _part(first: Tensor, after: Tensor | None, wanted: slice) -> tuple[Tensor, slice, Tensor | None]:
    """Return the parts of one axis' matrices that a tile needs, and the cells of the grid that it is made from."""
    if after is not None:
        after = after[wanted]
        wanted = _used(after)
        after = after[:, wanted]
    first = first[wanted]
    near = _used(first)
    return first[:, near], near, after


def _used(matrix: Tensor) -> slice:
    """Return the columns of a banded matrix that are not all zero."""
    columns = (matrix != 0).any(0).nonzero().flatten().tolist()
    return slice(columns[0], columns[-1] + 1)


def _best_class(shares: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best column (n,) of shares (Q, K) times masks (Q, n), of equal ones the first, and its sum (n,).

    A sum never exceeds that of the largest probability of each mask. So the columns come by falling bound, and what
    cannot reach the sum that every pixel has already is not computed.
    """
    bounds, order = (masks.amax(1) @ shares).mul_(1 + _SLACK).sort(descending=True)
    best = torch.full((masks.shape[1],), -torch.inf, device=masks.device)
    winner = torch.zeros(masks.shape[1], dtype=torch.long, device=masks.device)
    most = _CPU_CLASSES if masks.device.type == "cpu" else _CLASSES
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
        masks = resize.probabilities(mask_logits[near], tile)
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
        logits = resize.logits(mask_logits[near], tile)
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
