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
    if _fits(len(table) - 1, table_grid, grid, rule):
        return table
    return torch.cat([table[:1], resize_patches(table[1:], table_grid, grid, rule)])


def resize_patches(table: Tensor, table_grid: tuple[int, int], grid: tuple[int, int], rule: str) -> Tensor:
    """Fit a table without a class token (g_h * g_w, C); else as `resize_position`: (h * w, C)."""
    height, width = grid
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


def _fits(count: int, table_grid: tuple[int, int], grid: tuple[int, int], rule: str) -> bool:
    """Tell whether a rule leaves a table of ``count`` patches as it is."""
    return grid == table_grid or (rule in _GUARDED_BY_COUNT and grid[0] * grid[1] == count)
