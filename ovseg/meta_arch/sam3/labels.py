"""From the maps of phrases to labels, a few phrases and a tile at a time, so that no map of all classes exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError, unknown_name
from ovseg.labelling.maps import empty_maps
from ovseg.labelling.mask_resize import MaskResize, tiles, used
from ovseg.labelling.masks import SLACK, first_max
from ovseg.meta_arch.sam3.fusion import Fusion, PhraseMaps
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import WindowPlan
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold

Tile = tuple[slice, slice]
_BAND = 256  # rows whose winners are named at a time
_FIRST, _NEXT = 4, 32
"""Phrases that run for a tile first, and at a time: in most tiles one of a few wins all pixels."""


@dataclass(frozen=True)
class Thresholds:
    """Which pixels keep the class that wins them.

    Attributes:
        threshold: Pixels whose best score is below it take `label`.
        label: -1 is no class.
        class_thresholds: The same, of classes by name, as ConceptBank has them; all others have `threshold`.
        ignore_threshold: Pixels below this one get no class, whatever `label` is.
    """

    threshold: float = 0.0
    label: int = -1
    _: KW_ONLY
    class_thresholds: Mapping[str, float] | None = None
    ignore_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is out of range, or a class is there twice.
        """
        own = self.class_thresholds or {}
        for value in (self.threshold, self.ignore_threshold, *own.values()):
            if not 0 <= value <= 1:
                raise ConfigError(f"a threshold of scores is {value}; expected a share in 0..1")
        if len({fold(name) for name in own}) < len(own):
            raise ConfigError(f"CLASS_THRESHOLDS has a class twice: {', '.join(own)}; expected one value each")

    def of(self, vocabulary: Vocabulary) -> tuple[float, ...]:
        """Return the threshold of each class; none where all have the same.

        Raises:
            UnknownNameError: There is one for a class that is not there.
        """
        if not self.class_thresholds:
            return ()
        own = {fold(name): (name, value) for name, value in self.class_thresholds.items()}
        found = tuple(own.pop(fold(name), ("", self.threshold))[1] for name in vocabulary.names)
        for name, _ in own.values():
            raise unknown_name("class of CLASS_THRESHOLDS", name, vocabulary.names)
        return found

    def apply(self, labels: Tensor, scores: Tensor, own: Sequence[float] = ()) -> Tensor:
        """Change labels (H, W), given the scores of the classes that won and what `of` gives, in place."""
        least: Tensor | float = self.threshold
        if own:
            least = torch.tensor((*own, self.threshold), device=labels.device)[labels.long()]  # the last is of no class
        labels.masked_fill_(scores < least, self.label)
        return labels.masked_fill_(scores < self.ignore_threshold, -1) if self.ignore_threshold > 0 else labels


@dataclass(frozen=True)
class Window:
    """One window on the canvas: its first row and column, and the way of maps (h, w) to its pixels."""

    top: int
    left: int
    resize: MaskResize


@dataclass(frozen=True)
class Canvas:
    """Where windows lie, and the way from there to the photograph.

    Attributes:
        size: Height and width of the canvas: of the photograph, or of the network's input where windows meet in it.
        windows: In the order of their maps.
        rows, columns: Matrices from the canvas to the photograph; None where that is the canvas.
    """

    size: tuple[int, int]
    windows: tuple[Window, ...]
    rows: Tensor | None = None
    columns: Tensor | None = None

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        return self.size if self.rows is None or self.columns is None else (len(self.rows), len(self.columns))

    def inside(self, tile: Tile) -> tuple[Tile, Tensor | None, Tensor | None]:
        """Return the part of the canvas that a tile is made from, and the matrices from there to the tile."""
        if self.rows is None or self.columns is None:
            return tile, None, None
        rows, columns = self.rows[tile[0]], self.columns[tile[1]]
        high, wide = used(rows), used(columns)
        return (high, wide), rows[:, high], columns[:, wide]


def plan_canvas(
    plan: WindowPlan, network: tuple[int, int], output: tuple[int, int], grid: tuple[int, int], rule: Fusion, once: bool
) -> Canvas:
    """Plan the way of the maps of windows to a photograph.

    Args:
        plan: The windows of the network's input.
        network: Its height and width.
        output: Those of the photograph.
        grid: Those of the maps.
        rule: Says whether probabilities are resized, or logits.
        once: Whether the maps of a single window go to the photograph at once.
    """
    alone = len(plan) == 1 and once
    size = output if alone else network
    high, wide = output if alone else (plan.rows.size, plan.columns.size)
    resize = _resize(grid, (high, wide), rule.sigmoid_first)
    windows = [Window(0, 0, resize)] if alone else []
    if not alone:
        windows = [Window(top, left, resize) for top in plan.rows.starts for left in plan.columns.starts]
    if size == output:
        return Canvas(size, tuple(windows))
    rows, columns = (bilinear_matrix(*sides).float() for sides in zip(size, output, strict=True))
    return Canvas(size, tuple(windows), rows, columns)


def _resize(grid: tuple[int, int], size: tuple[int, int], sigmoid_first: bool) -> MaskResize:
    rows, columns = (bilinear_matrix(*sides).float() for sides in zip(grid, size, strict=True))
    return (
        MaskResize(torch.eye(grid[0]), torch.eye(grid[1]), rows, columns)
        if sigmoid_first
        else MaskResize(rows, columns)
    )


def scores_in(
    canvas: Canvas, tile: Tile, parts: Sequence[PhraseMaps], rule: Fusion, which: Tensor, least: float = -1.0
) -> Tensor:
    """Return the scores (m, a, b) of some phrases (m,) in a tile of the photograph.

    Args:
        canvas: Where the windows lie.
        tile: Of the photograph.
        parts: What the phrases find in each window.
        rule: How scores are made.
        which: The phrases, by their places in the parts.
        least: Of a single window masks are left out that lift no score above it, so that scores below it are too low.
    """
    (high, wide), rows, columns = canvas.inside(tile)
    size = (high.stop - high.start, wide.stop - wide.start)
    device = parts[0].semantic.device
    least = least if len(parts) == 1 else -1.0
    total, count = torch.zeros(len(which), *size, device=device), torch.zeros(size, device=device)
    for window, maps in zip(canvas.windows, parts, strict=True):
        placed = _overlap(window, high, wide)
        if placed is None:
            continue
        here, there = placed
        total[(slice(None), *here)] += _scores(window.resize, there, maps, rule, which, least)
        count[here] += 1
    found = total / count if len(canvas.windows) > 1 else total
    found = found if rows is None else rows.to(device) @ found
    return found if columns is None else found @ columns.to(device).mT


def _scores(resize: MaskResize, tile: Tile, maps: PhraseMaps, rule: Fusion, which: Tensor, least: float) -> Tensor:
    """Return the scores (m, a, b) of some phrases in a tile of a window."""
    semantic = resize.probabilities(maps.semantic, tile, which)
    best = torch.zeros_like(semantic)
    place = torch.full((len(maps.presence),), -1, device=which.device)
    place[which] = torch.arange(len(which), device=which.device)
    wanted = (place[maps.owner] >= 0).nonzero().flatten() if rule.instance else maps.owner[:0]
    if len(wanted) and least >= 0:
        high = maps.strength[wanted] * resize.cells(maps.masks, tile)[wanted].amax((1, 2)).sigmoid() * (1 + SLACK)
        sure = maps.presence[maps.owner[wanted]]
        wanted = wanted[rule.mix(sure, torch.zeros_like(high)[:, None], high[:, None])[:, 0] > least]
    if len(wanted) and not rule.sigmoid_first:
        sure = resize.probabilities(maps.masks, tile, wanted).mul_(maps.strength[wanted, None, None])
        owners, lengths = place[maps.owner[wanted]].unique_consecutive(return_counts=True)
        for own, masks in zip(owners.tolist(), sure.split(lengths.tolist()), strict=True):
            best[own] = masks.amax(0)
    mixed = rule.mix(maps.presence[which], semantic.flatten(1), best.flatten(1))
    return mixed.view_as(semantic)


def _overlap(window: Window, high: slice, wide: slice) -> tuple[Tile, Tile] | None:
    """Return where a window meets a part of the canvas, in that part and in the window; None if it does not."""
    height, width = window.resize.size
    top, bottom = max(high.start, window.top), min(high.stop, window.top + height)
    left, right = max(wide.start, window.left), min(wide.stop, window.left + width)
    if top >= bottom or left >= right:
        return None
    here = slice(top - high.start, bottom - high.start), slice(left - wide.start, right - wide.start)
    there = slice(top - window.top, bottom - window.top), slice(left - window.left, right - window.left)
    return here, there


class Race:
    """The best phrase of every pixel so far, and its score.

    Attributes:
        best: (H, W) float32.
        winner: (H, W) int32, the row of the words.
        every: The best score (K, H, W) float32 of each class; None unless they are wanted.
    """

    def __init__(self, canvas: Canvas, rule: Fusion, classes: Tensor, device: torch.device, every: bool) -> None:
        """Begin.

        Args:
            canvas: Where windows lie.
            rule: How scores are made.
            classes: Class (T,) of each row of the words, -1 for none.
            device: Of the maps.
            every: Whether the scores of all classes are wanted.
        """
        self.canvas, self.rule, self.classes = canvas, rule, classes
        self.best = torch.full(canvas.output, -1.0, device=device)
        self.winner = torch.zeros(canvas.output, dtype=torch.int32, device=device)  # of scores below zero, any
        count = int(classes.max()) + 1
        self.every = torch.zeros(count, *canvas.output, device=device) if every else None

    def add(self, rows: Tensor, parts: Sequence[PhraseMaps]) -> None:
        """Let the phrases of some rows (k,) run, given what they find in each window.

        Phrases that cannot win a pixel of a tile, for no map of theirs is high enough there, are not resized for it.
        """
        bounds = torch.stack([_bounds(maps, self.rule, None) for maps in parts]).amax(0) * (1 + SLACK)
        for tile in tiles(self.canvas.output, self.best.device):
            which = (bounds > self.best[tile].min()).nonzero().flatten()
            if not len(which):
                continue
            near = bounds
            if len(parts) == 1:
                near = _bounds(parts[0], self.rule, _cells(self.canvas, tile)) * (1 + SLACK)
            which = which[near[which].argsort(descending=True, stable=True)]
            done, count = 0, _FIRST
            while count > 0:
                least = float(self.best[tile].min())
                part = which[done : done + count]
                part = part[near[part] > least].sort().values
                if not len(part):
                    break
                self._run(tile, rows, part, scores_in(self.canvas, tile, parts, self.rule, part, least))
                done += count
                count = min(_NEXT, len(which) - done)
        if self.every is not None:
            self._keep(rows, parts)

    def _run(self, tile: Tile, rows: Tensor, which: Tensor, scores: Tensor) -> None:
        top, place = first_max(scores.flatten(1), which)
        top, row = top.view(scores.shape[1:]), rows[place].view(scores.shape[1:]).int()
        best, winner = self.best[tile], self.winner[tile]
        better = (top > best) | ((top == best) & (row < winner))
        self.best[tile], self.winner[tile] = top.where(better, best), row.where(better, winner)

    def _keep(self, rows: Tensor, parts: Sequence[PhraseMaps]) -> None:
        every, classes = self.every, self.classes[rows]
        named = (classes >= 0).nonzero().flatten()
        if every is None or not len(named):
            return
        for tile in tiles(self.canvas.output, self.best.device):
            scores = scores_in(self.canvas, tile, parts, self.rule, named)
            for own, map_ in zip(classes[named].tolist(), scores, strict=True):
                kept = every[(own, *tile)]
                torch.maximum(kept, map_, out=kept)

    def finish(self, thresholds: Thresholds, own: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
        """Return labels (H, W) and scores (H, W) of the dtypes of `ovseg.labelling.maps.empty_maps`."""
        labels, scores = empty_maps(self.canvas.output, int(self.classes.max()) + 1, self.best.device)
        for rows in range(0, len(labels), _BAND):
            band = slice(rows, rows + _BAND)
            labels[band] = self.classes[self.winner[band].long()].to(labels.dtype)
        scores.copy_(self.best.clamp_(min=0))
        return thresholds.apply(labels, self.best, own), scores


def _bounds(maps: PhraseMaps, rule: Fusion, cells: Tile | None) -> Tensor:
    """Return what no score (k,) of phrases exceeds, anywhere or in what is made from some cells of their maps."""
    semantic, masks = (
        (maps.semantic, maps.masks)
        if cells is None
        else (m[(slice(None), *cells)] for m in (maps.semantic, maps.masks))
    )
    high = torch.zeros(len(maps.presence), device=semantic.device)
    if len(masks):
        high.scatter_reduce_(0, maps.owner, maps.strength * masks.amax((1, 2)).sigmoid(), "amax")
    return rule.mix(maps.presence, semantic.amax((1, 2)).sigmoid()[:, None], high[:, None])[:, 0]


def _cells(canvas: Canvas, tile: Tile) -> Tile:
    """Return the cells of the maps of a single window that a tile is made from."""
    (high, wide), _, _ = canvas.inside(tile)
    resize = canvas.windows[0].resize
    rows = resize.rows if resize.rows_after is None else resize.rows_after
    columns = resize.columns if resize.columns_after is None else resize.columns_after
    return used(rows[high]), used(columns[wide])
