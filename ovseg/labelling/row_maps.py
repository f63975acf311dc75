"""Labels of probabilities that are made a few rows at a time, for models whose maps of all classes do not fit at once.

Nothing else is held than some rows of the maps of all words and the labels and scores of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ovseg.labelling.maps import empty_maps
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.class_argmax import class_argmax

_VALUES = 2**24  # of maps that are held at a time
_PIXELS = 2**22  # of a band of the result


class RowMaps(Protocol):
    """Probabilities of words on a grid.

    Attributes:
        grid: Its rows and columns.
        words: Which of all words have a map (K,) int64; the others have none but zeros.
    """

    grid: tuple[int, int]
    words: Tensor

    def rows(self, part: slice) -> Tensor:
        """Return some rows of all maps: (K, r, w) float32."""
        ...


class WholeMaps:
    """Maps (K, h, w) float32 that are there already; see `RowMaps`."""

    def __init__(self, maps: Tensor, words: Tensor | None = None) -> None:
        self.maps = maps
        self.grid = (maps.shape[1], maps.shape[2])
        self.words = torch.arange(len(maps), device=maps.device) if words is None else words

    def rows(self, part: slice) -> Tensor:
        """Return some rows of all maps."""
        return self.maps[:, part]


@torch.no_grad()
def label_rows(
    maps: RowMaps, query_to_class: Tensor, size: tuple[int, int], threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Label every pixel by its most probable word; maps are resized bilinearly.

    Args:
        maps: Probabilities of the words.
        query_to_class: Class (T,) of each word, -1 for none.
        size: Height and width of the result.
        threshold: Pixels whose winner is less probable get no class.

    Returns:
        Labels (H, W), -1 for no class, and scores (H, W) in 0..1; of the dtypes of `empty_maps`.
    """
    device = maps.words.device
    classes = query_to_class.to(device)[maps.words]
    labels, scores = empty_maps(size, int(query_to_class.max()) + 1, device)
    columns = bilinear_matrix(maps.grid[1], size[1]).float()
    for band, rows, part in _bands(maps, size):
        labels[band], scores[band] = class_argmax(maps.rows(part), rows, columns, classes, softmax=False)
    scores.clamp_(0, 1)
    if threshold > 0:
        labels.masked_fill_(scores < threshold, -1)
    return labels, scores


@torch.no_grad()
def class_maps(maps: RowMaps, query_to_class: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the probability of every class at every pixel (C, H, W) float32: the largest of its words."""
    device = maps.words.device
    found = torch.zeros(int(query_to_class.max()) + 1, *size, device=device)
    classes = query_to_class.to(device)[maps.words].tolist()
    columns = bilinear_matrix(maps.grid[1], size[1]).float().to(device).mT
    for band, rows, part in _bands(maps, size):
        rows = rows.to(device)
        for class_id, own in zip(classes, maps.rows(part), strict=True):
            if class_id >= 0:
                torch.maximum(found[class_id, band], rows @ own @ columns, out=found[class_id, band])
    return found.clamp_(0, 1)


@torch.no_grad()
def at_pixel(maps: RowMaps, count: int, size: tuple[int, int], point: tuple[int, int]) -> Tensor:
    """Return the probabilities (T,) of all ``count`` words at a pixel (row, column) of a result of a size."""
    axes = zip(maps.grid, size, point, strict=True)
    row, column = (bilinear_matrix(cells, side)[place].float() for cells, side, place in axes)
    first, last = _span(row[None])
    found = maps.rows(slice(first, last)).float()
    own = row[first:last].to(found) @ found @ column.to(found)
    return found.new_zeros(count).index_copy_(0, maps.words, own.clamp(0, 1))


def _bands(maps: RowMaps, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor, slice]]:
    """Yield bands of the result, their matrix from the rows that they need, and which these are."""
    rows = bilinear_matrix(maps.grid[0], size[0]).float()
    most = max(2, _VALUES // max(1, len(maps.words) * maps.grid[1]))
    step = max(1, min(size[0], int((most - 1) * size[0] / maps.grid[0]), _PIXELS // size[1]))
    for top in range(0, size[0], step):
        band = slice(top, top + step)
        first, last = _span(rows[band])
        yield band, rows[band, first:last].contiguous(), slice(first, last)


def _span(rows: Tensor) -> tuple[int, int]:
    """Return where the columns of a matrix that are not zero begin and end."""
    used = (rows != 0).any(0).nonzero().flatten()
    return int(used[0]), int(used[-1]) + 1
