"""From class probabilities and mask logits of queries to labels, streamed over tiles; objects are in `mask_objects`.

The rules are those of MaskFormer and Mask2Former (Cheng et al., CVPR 2022), which SAN, FC-CLIP and MAFT+ share. Masks
go from the model's resolution to the photograph's tile by tile, so that neither (classes, H, W) nor (queries, H, W)
exists at the photograph's size, unless `class_maps` are asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.labelling.maps import empty_maps
from ovseg.labelling.mask_resize import MaskResize, tiles
from ovseg.system.device import is_cpu

_CPU_CLASSES, _CLASSES = 32, 256  # classes that are compared at a time
_FIRST_CLASSES = 8  # classes that are compared first: in most tiles one of a few wins all pixels
SLACK = 1e-5  # by which rounding may lift a sum over its bound


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
    return _labels(probabilities, mask_logits, resize, threshold, column_class, cut, None)


@torch.no_grad()
def labels_and_maps(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    threshold: float = 0.0,
    column_class: Tensor | None = None,
    cut: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `semantic_map` does and, in the same pass, the sums (K, H, W) float32 of all classes."""
    columns = check(probabilities, mask_logits, resize, column_class)
    every = torch.empty(int((columns >= 0).sum()), *resize.size, device=mask_logits.device)
    return *_labels(probabilities, mask_logits, resize, threshold, column_class, cut, every), every


@torch.no_grad()
def class_maps(probabilities: Tensor, mask_logits: Tensor, resize: MaskResize, count: int | None = None) -> Tensor:
    """Return the sums (K, H, W) float32 of the first `count` columns (None: of all); arguments as `semantic_map`."""
    check(probabilities, mask_logits, resize, None)
    shares = probabilities[:, :-1].float().mT[:count]
    found = torch.empty(len(shares), *resize.size, device=mask_logits.device)
    for tile in tiles(resize.size, mask_logits.device):
        masks = resize.probabilities(mask_logits, tile)
        found[(slice(None), *tile)] = (shares @ masks.flatten(1)).view(-1, *masks.shape[1:])
    return found


def _labels(
    probabilities: Tensor,
    mask_logits: Tensor,
    resize: MaskResize,
    threshold: float,
    column_class: Tensor | None,
    cut: bool,
    every: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Do as `semantic_map` does, and fill ``every`` (N, H, W) with the sums of the first N columns."""
    columns = check(probabilities, mask_logits, resize, column_class)
    shares = probabilities[:, :-1].float()
    labels, scores = empty_maps(resize.size, int(columns.max()) + 1, mask_logits.device)
    for tile in tiles(resize.size, mask_logits.device):
        masks = resize.probabilities(mask_logits, tile)
        if every is None:
            winner, best = _best_class(shares, masks.flatten(1))
        else:
            sums = shares.mT @ masks.flatten(1)
            every[(slice(None), *tile)] = sums[: len(every)].view(-1, *masks.shape[1:])
            best, winner = first_max(sums)
        labels[tile] = columns[winner].view(masks.shape[1:]).int()
        scores[tile] = best.view(masks.shape[1:])
    if threshold > 0:
        labels.masked_fill_(scores < threshold, -1)
    return labels, scores.clamp_(0, 1) if cut else scores


def _best_class(shares: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best column (n,) of shares (Q, K) times masks (Q, n), of equal ones the first, and its sum (n,).

    A sum never exceeds that of the largest probability of each mask. So the columns come by falling bound, and what
    cannot reach the sum that every pixel has already is not computed.
    """
    bounds, order = (masks.amax(1) @ shares).mul_(1 + SLACK).sort(descending=True)
    best = torch.full((masks.shape[1],), -torch.inf, device=masks.device)
    winner = torch.zeros(masks.shape[1], dtype=torch.long, device=masks.device)
    most = _CPU_CLASSES if is_cpu(masks.device) else _CLASSES
    done, count = 0, min(_FIRST_CLASSES, most)
    while count > 0:
        part = order[done : done + count].sort().values
        sums, place = first_max(shares[:, part].mT @ masks)
        column = part[place]
        better = (sums > best) | ((sums == best) & (column < winner))
        best, winner = torch.where(better, sums, best), torch.where(better, column, winner)
        done += len(part)
        count = min(most, int((bounds >= best.min()).sum()) - done)
    return winner, best


def first_max(values: Tensor, names: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the largest of values (N, n) along the first axis (n,), and the name (n,) int64 of its row.

    The values are lost. `torch.max` goes through such an axis number by number on the CPU. Here whole rows are
    compared, ten times as fast: where one row alone has the largest, its name is the sum of the names of all that do.

    Args:
        values: Float32, at least one row.
        names: Of the rows, (N,) int64 below 2**24, each another; of rows with equal values the smallest is returned.
            None is 0..N-1.
    """
    names = torch.arange(len(values), device=values.device) if names is None else names
    best = values.amax(0)
    equal, found = torch.stack([torch.ones_like(names), names]).float() @ values.eq_(best)
    found = found.long()
    several = equal.ne(1).nonzero().flatten()  # rare
    if len(several):
        found[several] = names[:, None].where(values[:, several] > 0, names.max()).amin(0)
    return best, found


def check(probabilities: Tensor, mask_logits: Tensor, resize: MaskResize, column_class: Tensor | None) -> Tensor:
    """Return the class (K,) of each column, on the device of the masks."""
    count = probabilities.shape[-1] - 1
    columns = torch.arange(count) if column_class is None else column_class
    grid = (resize.rows.shape[1], resize.columns.shape[1])
    fits = len(probabilities) == len(mask_logits) and tuple(mask_logits.shape[1:]) == grid and len(columns) == count
    if not fits or count < 1 or not len(mask_logits):
        got = f"classes {tuple(probabilities.shape)}, masks {tuple(mask_logits.shape)}, {len(columns)} columns"
        raise ConfigError(f"{got}; expected (Q, K + 1), (Q, {grid[0]}, {grid[1]}) and K, none of them empty")
    return columns.to(mask_logits.device)
