"""Rules by which published methods resize CLIP's table of position embeddings to another patch grid.

The rules differ by more than rounding, so each method names its own:

======================  ============================================================  ===========================
rule                    sampling                                                      left as it is when
======================  ============================================================  ===========================
``bicubic``             to the size of the grid                                       the token count is the same
``bicubic_by_grid``     to the size of the grid                                       the grid is the same
``bicubic_offset``      scale factor (n + 0.1) / g taken literally for coordinates    the token count is the same
``bilinear``            to the size of the grid                                       the grid is the same
``bicubic_antialias``   to the size of the grid, with a low-pass filter               the grid is the same
``bilinear_antialias``  as that, bilinear: how SigLIP 2 (NaFlex) was trained          the grid is the same
======================  ============================================================  ===========================

A guard by token count means that a 4 x 9 grid takes the rows of a 6 x 6 table in order, as the originals do
(MaskCLIP and SAN's side adapter for ``bicubic``; SCLIP, NACLIP, ClearCLIP for ``bicubic_offset``). SAN's CLIP has
``bicubic_by_grid``. None uses ``align_corners``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.ops.any_size import length, linear_matrix

RULES = ("bicubic", "bicubic_offset", "bilinear", "bicubic_antialias", "bilinear_antialias", "bicubic_by_grid")
_GUARDED_BY_COUNT = ("bicubic", "bicubic_offset")


def resize_position(table: Tensor, table_grid: tuple[int, int], grid: tuple[int, int], rule: str) -> Tensor:
    """Fit a table of position embeddings to a patch grid.

    Args:
        table: (1 + g_h * g_w, C), class token first; any floating dtype (the interpolation runs in float32).
        table_grid: Rows and columns ``(g_h, g_w)`` of the table.
        grid: Rows and columns ``(h, w)`` that are wanted.
        rule: One of `RULES`.

    Returns:
        (1 + h * w, C) in the dtype of the table.
    """
    if not any(isinstance(side, torch.SymInt) for side in grid) and _fits(len(table) - 1, table_grid, grid, rule):
        return table
    return torch.cat([table[:1], resize_patches(table[1:], table_grid, grid, rule)])


def resize_patches(table: Tensor, table_grid: tuple[int, int], grid: tuple[int, int], rule: str) -> Tensor:
    """Fit a table without a class token (g_h * g_w, C); else as `resize_position`: (h * w, C)."""
    height, width = grid
    if any(isinstance(side, torch.SymInt) for side in grid):
        return _resize_on_any_grid(table, table_grid, grid, rule)
    if _fits(len(table), table_grid, grid, rule):
        return table
    patches = table.float().reshape(1, *table_grid, -1).permute(0, 3, 1, 2)
    if rule == "bicubic_offset":
        factors = ((height + 0.1) / table_grid[0], (width + 0.1) / table_grid[1])
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False)
    else:
        mode, antialias = rule.split("_")[0], rule.endswith("antialias")
        patches = F.interpolate(patches, size=grid, mode=mode, align_corners=False, antialias=antialias)
    return patches.permute(0, 2, 3, 1).reshape(height * width, -1).to(table.dtype)


def _resize_on_any_grid(table: Tensor, table_grid: tuple[int, int], grid: tuple[int, int], rule: str) -> Tensor:
    """Do the same where a graph is made for grids of all sizes: no choice may depend on the grid, so both are made.

    Raises:
        ConfigError: The rule has a low-pass filter, whose reach depends on the grid.
    """
    if rule.endswith("antialias"):
        raise ConfigError(f"position embeddings are resized by {rule}, which needs one size; give a height and a width")
    height, width = grid
    order = torch.arange(height * width, device=table.device)
    if rule in _GUARDED_BY_COUNT:
        fits = length(height) * length(width) == table_grid[0] * table_grid[1]
    else:
        fits = (length(height) == table_grid[0]) & (length(width) == table_grid[1])
    rows, columns = (_taps(inputs, side, rule).float() for inputs, side in zip(table_grid, grid, strict=True))
    patches = table.float().reshape(*table_grid, -1).permute(2, 0, 1)
    resized = (rows @ patches @ columns.mT).flatten(1).mT
    return torch.where(fits, table[order.clamp(max=len(table) - 1)].float(), resized).to(table.dtype)


def _taps(inputs: int, outputs: int, rule: str) -> Tensor:
    """Return the matrix (outputs, inputs), float64, by which `F.interpolate` resizes an axis without a filter."""
    if rule == "bilinear":
        return linear_matrix(inputs, outputs)
    offset = 0.1 if rule == "bicubic_offset" else 0.0
    at = (torch.arange(outputs, dtype=torch.float64) + 0.5) * (inputs / (length(outputs) + offset)) - 0.5
    cells = torch.arange(inputs, dtype=torch.float64)
    first = at.floor()
    found = torch.zeros((), dtype=torch.float64)
    for tap in (-1, 0, 1, 2):
        cell = (first + tap).clamp(0, inputs - 1)
        found = found + _cubic((at - first - tap).abs())[:, None] * (cell[:, None] == cells)
    return found


def _cubic(x: Tensor) -> Tensor:
    """Return the weights of cubic convolution (Keys, 1981) at distances 0..2, with PyTorch's a = -0.75."""
    near = (1.25 * x - 2.25) * x * x + 1
    far = ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
    return torch.where(x <= 1, near, far)


def _fits(count: int, table_grid: tuple[int, int], grid: tuple[int, int], rule: str) -> bool:
    """Tell whether a rule leaves a table of ``count`` patches as it is."""
    return grid == table_grid or (rule in _GUARDED_BY_COUNT and grid[0] * grid[1] == count)
