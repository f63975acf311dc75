"""Upsampling, softmax over queries, the maximum over the names of a class and the argmax over classes, streamed.

The labels and the scores of the winners are all that is written at the size of the output: neither upsampled scores nor
probabilities of the queries exist there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.ops.library import define, load_kernels
from ovseg.system.device import is_cpu

_GROUP = 8  # queries that share one comparison before the winner among them is looked up
_CPU_TILE, _CPU_CHUNK = (32, 256), 2**19  # pixels of a tile; scores of a chunk, so that it stays in the cache
_TILE, _CHUNK = (512, 8192), 2**24


def class_argmax(
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    competes: Tensor | None = None,
    scale: float = 1.0,
    softmax: bool = True,
) -> tuple[Tensor, Tensor]:
    """Label every pixel of the output with the class of its best query.

    That is the class of the largest maximum over the queries of a class. Of equal queries the first wins, in plain
    PyTorch only if they are so few that all race at once; of many any may win that are equal within rounding.

    Args:
        logits: Finite scores (T, h, w) of T queries on the grid of patches; any floating dtype and strides.
        rows: Interpolation matrix (H, h): no weight is negative, and those of a row add up to one, as in
            `ovseg.ops.windows`.
        columns: Interpolation matrix (W, w), likewise.
        query_to_class: Class (T,) of each query.
        competes: Which queries (T,) can win, bool; the others only add to the sum of the softmax. None is all.
        scale: Positive factor between scores and the logits of the softmax over all queries.
        softmax: Whether the score of a pixel is the winner's probability; else it is the winner's scaled score.

    Returns:
        Labels (H, W) int32 and scores (H, W) float32. Where no query competes the label is -1 and the score zero, or
        minus infinity without softmax.

    Raises:
        ConfigError: Shapes or dtypes do not fit together, there is no query or no patch, or the scale is not positive.
    """
    _check(logits, rows, columns, query_to_class, competes, scale)
    load_kernels()
    device = logits.device
    kept = torch.ones(len(logits), dtype=torch.bool) if competes is None else competes
    arguments = (rows.to(device), columns.to(device), query_to_class.to(device), kept.to(device))
    labels, scores = torch.ops.ovseg.class_argmax(logits, *arguments, float(scale), softmax)
    return labels, scores


def _check(
    logits: Tensor, rows: Tensor, columns: Tensor, query_to_class: Tensor, competes: Tensor | None, scale: float
) -> None:
    matrices = rows.ndim == columns.ndim == 2
    if logits.ndim != 3 or not logits.numel() or not matrices or logits.shape[1:] != (rows.shape[1], columns.shape[1]):
        got = f"scores {tuple(logits.shape)} with matrices {tuple(rows.shape)} and {tuple(columns.shape)}"
        raise ConfigError(f"{got}; expected (T, h, w), (H, h) and (W, w), with at least one query and one patch")
    of_queries = [query_to_class, *([] if competes is None else [competes])]
    if any(own.shape != logits.shape[:1] for own in of_queries):
        got = ", ".join(str(tuple(own.shape)) for own in of_queries)
        raise ConfigError(f"got {len(logits)} queries and {got} classes or choices; expected one a query")
    fits = logits.is_floating_point() and rows.is_floating_point() and columns.is_floating_point()
    if not fits or query_to_class.is_floating_point() or (competes is not None and competes.dtype != torch.bool):
        got = ", ".join(str(own.dtype).removeprefix("torch.") for own in (logits, rows, columns, *of_queries))
        raise ConfigError(f"dtypes are {got}; expected floating scores and matrices, whole classes and bool choices")
    if scale <= 0:
        raise ConfigError(f"scale is {scale}; expected more than zero")


def plain_class_argmax(
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    competes: Tensor,
    scale: float,
    softmax: bool,
) -> tuple[Tensor, Tensor]:
    """Label tile by tile, a few queries at a time, in plain PyTorch; arguments as `class_argmax`."""
    scaled, rows, columns = logits.float() * scale, rows.float(), columns.float()
    size, device = (len(rows), len(columns)), logits.device
    labels, scores = torch.empty(size, dtype=torch.int32, device=device), torch.empty(size, device=device)
    (high, wide), chunk = (_CPU_TILE, _CPU_CHUNK) if is_cpu(device) else (_TILE, _CHUNK)
    high *= max(1, chunk // (high * wide * len(logits)))  # a tile of few queries has more pixels
    for top in range(0, size[0], high):
        for left in range(0, size[1], wide):
            tile = slice(top, top + high), slice(left, left + wide)
            race = Race(labels[tile], scores[tile], softmax)
            order = _run(race, scaled, (rows[tile[0]], columns[tile[1]]), competes)
            race.finish(query_to_class[order])
    return labels if competes.any() else labels.fill_(-1), scores


def _shapes(
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    query_to_class: Tensor,
    competes: Tensor,
    scale: float,
    softmax: bool,
) -> tuple[Tensor, Tensor]:
    size = (rows.shape[0], columns.shape[0])
    return logits.new_empty(size, dtype=torch.int32), logits.new_empty(size, dtype=torch.float32)


define(
    "class_argmax(Tensor logits, Tensor rows, Tensor columns, Tensor query_to_class, Tensor competes, float scale, "
    "bool softmax) -> (Tensor, Tensor)",
    plain_class_argmax,
    _shapes,
)


def _run(race: Race, scaled: Tensor, matrices: tuple[Tensor, Tensor], competes: Tensor) -> Tensor:
    """Let the queries race for one tile, in the order (T,) that is returned.

    Only the few patches that the tile interpolates from enter the products.

    Interpolation never exceeds the largest of its patches. So many queries come by falling maximum, and as soon as
    that is below what every pixel has reached, the rest only adds to the sum.
    """
    near_rows, near_columns = ((matrix != 0).any(0).nonzero().flatten() for matrix in matrices)
    rows, columns = matrices[0][:, near_rows].contiguous(), matrices[1][:, near_columns].mT.contiguous()
    local = scaled[:, near_rows][:, :, near_columns]
    bounds = local.amax((1, 2))
    size = max(_GROUP, (_CPU_CHUNK if is_cpu(local.device) else _CHUNK) // race.labels.numel())
    # Queries that race all at once need no order but their own, in which the first of equals wins.
    order, kept = first_competing(competes, bounds if len(bounds) > size else None), int(competes.sum())
    for part, competing in runs(order, kept, size):
        contends = competing and bool(bounds[part[0]] >= race.top.min())
        if not (contends or race.softmax):
            break
        race.add((rows @ local[part] @ columns).flatten(1), contends)
    return order


def first_competing(competes: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Return the indices of all queries, those that compete first, and among them those of the largest bounds."""
    kept, rest = competes.nonzero().flatten(), (~competes).nonzero().flatten()
    return torch.cat([kept if bounds is None else kept[bounds[kept].argsort(descending=True, stable=True)], rest])


def runs(order: Tensor, kept: int, size: int) -> Iterator[tuple[Tensor, bool]]:
    """Yield the queries a few at a time, those that compete first, and whether they do."""
    for part in order[:kept].split(size) if kept else ():
        yield part, True
    for part in order[kept:].split(size) if kept < len(order) else ():
        yield part, False


class Race:
    """The running winner and the running log-sum-exp of pixels."""

    def __init__(self, labels: Tensor, scores: Tensor, softmax: bool) -> None:
        """Begin; the results go to maps of labels (H, W) int32 and scores (H, W) float32."""
        self.labels, self.scores, self.softmax = labels, scores, softmax
        pixels, device = labels.numel(), labels.device
        self.peak = torch.full((pixels,), -torch.inf, device=device)  # largest logit so far
        self.total = torch.zeros(pixels, device=device)  # sum of exp(logit - peak) so far
        self.top = self.peak  # largest logit among those that compete
        self.winner = torch.zeros(pixels, dtype=torch.long, device=device)  # its place in the order of adding
        self.added = 0

    def add(self, logits: Tensor, competes: bool) -> None:
        """Take more queries in; their logits (t, pixels) are overwritten. Those that cannot win need not compete."""
        best = self._follow(logits) if competes else logits.amax(0)
        self.added += len(logits)
        if self.softmax:
            peak = torch.maximum(self.peak, best)
            self.total.mul_((self.peak - peak).exp_()).add_(logits.sub_(peak).exp_().sum(0))
            self.peak = peak

    def finish(self, classes: Tensor) -> None:
        """Write the classes of the winners, given those (T,) of all that were added, and their scores."""
        self.labels.copy_(classes[self.winner].view_as(self.labels))
        best = (self.top - self.peak).exp_().div_(self.total) if self.softmax else self.top
        self.scores.copy_(best.view_as(self.scores))

    def _follow(self, logits: Tensor) -> Tensor:
        """Update the winners; an argmax over few groups and then within one group is far cheaper than one over all."""
        if len(logits) <= _GROUP:
            best, inside = logits.max(0)
            self.winner = torch.where(best > self.top, inside + self.added, self.winner)
            self.top = torch.maximum(self.top, best)
            return best
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
