"""The way of mask logits to the photograph: separable, and tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.system.device import is_cpu

_CPU_TILE, _TILE = (64, 64), (256, 1024)  # pixels; on CPUs all masks of a tile should stay in the cache


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

    def cells(self, mask_logits: Tensor, tile: tuple[slice, slice]) -> Tensor:
        """Return the part (Q, a', b') of mask logits (Q, h, w) that a tile of the result is made from.

        As the resizing takes means, no logit in the tile exceeds the largest of them.
        """
        _, top, _ = _part(self.rows, self.rows_after, tile[0])
        _, left, _ = _part(self.columns, self.columns_after, tile[1])
        return mask_logits[:, top, left].float()

    def logits(self, mask_logits: Tensor, tile: tuple[slice, slice], queries: Tensor | None = None) -> Tensor:
        """Return the logits (Q, a, b) float32 of mask logits (Q, h, w) in a tile of (a, b) pixels, before the sigmoid.

        Where the resizing takes the sigmoid first, the tile is one of (H', W'). With ``queries`` (n,) it is of them
        alone: of the others nothing is copied.
        """
        rows, top, _ = _part(self.rows, None, tile[0])
        columns, left, _ = _part(self.columns, None, tile[1])
        device = mask_logits.device
        return rows.to(device) @ _cells(mask_logits, top, left, queries) @ columns.to(device).mT

    def probabilities(self, mask_logits: Tensor, tile: tuple[slice, slice], queries: Tensor | None = None) -> Tensor:
        """Return the probabilities (Q, a, b) float32 of mask logits (Q, h, w) in a tile of (a, b) pixels.

        With ``queries`` (n,) it is of them alone, as in `logits`.
        """
        rows, top, after_rows = _part(self.rows, self.rows_after, tile[0])
        columns, left, after_columns = _part(self.columns, self.columns_after, tile[1])
        device = mask_logits.device
        cells = _cells(mask_logits, top, left, queries)
        found = (rows.to(device) @ cells @ columns.to(device).mT).sigmoid_()
        found = found if after_rows is None else after_rows.to(device) @ found
        return found if after_columns is None else found @ after_columns.to(device).mT


def tiles(size: tuple[int, int], device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles of a result of some height and width, as large as suits the device."""
    high, wide = _CPU_TILE if is_cpu(device) else _TILE
    for top in range(0, size[0], high):
        for left in range(0, size[1], wide):
            yield slice(top, min(top + high, size[0])), slice(left, min(left + wide, size[1]))


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


def _cells(mask_logits: Tensor, rows: slice, columns: slice, queries: Tensor | None) -> Tensor:
    """Return float32 cells of all masks, or of some; the cells are cut out first, for whole masks are large."""
    found = mask_logits[:, rows, columns]
    return (found if queries is None else found[queries]).float()


def _part(first: Tensor, after: Tensor | None, wanted: slice) -> tuple[Tensor, slice, Tensor | None]:
    """Return the parts of one axis' matrices that a tile needs, and the cells of the grid that it is made from."""
    if after is not None:
        after = after[wanted]
        wanted = used(after)
        after = after[:, wanted]
    first = first[wanted]
    near = used(first)
    return first[:, near], near, after


def used(matrix: Tensor) -> slice:
    """Return the columns of a banded matrix that are not all zero."""
    columns = (matrix != 0).any(0).nonzero().flatten().tolist()
    return slice(columns[0], columns[-1] + 1)
