"""Aggregation in each cost map: Swin blocks whose queries and keys also see what CLIP sees there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.aggregation.checks import all_at_least, check_heads
from ovseg.aggregation.parts import shared_linear
from ovseg.errors import ConfigError
from ovseg.system.device import is_cpu

HIDDEN = -100.0
"""What is added to the scores of places that a shifted window does not have in common (Swin, Liu et al., ICCV 2021)."""


class SpatialAggregation(nn.Module):
    """Two Swin blocks, the second on shifted windows, on the map of every class by itself.

    Cho et al., CAT-Seg, CVPR 2024, arXiv 2303.11797; github.com/cvlab-kaist/CAT-Seg. There is no position bias.
    """

    def __init__(self, dim: int, guidance: int, grid: tuple[int, int], heads: int, window: int, ratio: int = 4) -> None:
        """Build it.

        Args:
            dim: Channels of the maps, a multiple of ``heads``.
            guidance: Channels of the guidance; 0 for none.
            grid: Rows and columns of the maps.
            heads: Of the attention.
            window: Side of a window; a grid that is no larger is one window, without shifts.
            ratio: Of the hidden layer to ``dim``.

        Raises:
            ConfigError: Windows do not fill the grid, or heads cannot share the channels.
        """
        super().__init__()
        check_heads(dim, heads)
        all_at_least(1, swin_window=window)
        whole = min(grid) <= window
        side = min(grid) if whole else window
        if grid[0] % side or grid[1] % side:
            raise ConfigError(f"windows of {side} places do not fill a grid of {grid[0]} x {grid[1]}; choose a divisor")
        self.norm = nn.LayerNorm(guidance) if guidance else None
        shifts = (0, 0 if whole else side // 2)
        self.blocks = nn.ModuleList(SwinBlock(dim, guidance, grid, heads, side, shift, ratio) for shift in shifts)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Run on maps (T, h * w, C), with the guidance (h * w, G) that all of them share."""
        if self.norm is not None:
            guidance = self.norm(guidance)
        for block in self.blocks:
            x = block(x, guidance)
        return x


class SwinBlock(nn.Module):
    """A pre-norm block with attention in windows."""

    def __init__(
        self, dim: int, guidance: int, grid: tuple[int, int], heads: int, side: int, shift: int, ratio: int
    ) -> None:
        super().__init__()
        self.grid, self.heads, self.side, self.shift = grid, heads, side, shift
        self.mask: Tensor  # it moves with the weights, of which it is none
        self.register_buffer("mask", shifted_masks(grid, side, shift) if shift else None, persistent=False)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k = (nn.Linear(dim + guidance, dim) for _ in range(2))
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Run on maps (T, h * w, C), with normed guidance (h * w, G)."""
        x = x + self.proj(self._attend(shared_linear(self.norm1(x), (self.q, self.k, self.v), guidance)))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def _attend(self, joined: Tensor) -> Tensor:
        """Attend in windows, given queries, keys and values side by side (T, h * w, 3 C)."""
        (high, wide), side, maps = self.grid, self.side, joined.unflatten(1, self.grid)
        if self.shift:
            maps = maps.roll((-self.shift, -self.shift), (1, 2))
        cut = maps.reshape(-1, high // side, side, wide // side, side, 3, self.heads, maps.shape[-1] // 3 // self.heads)
        query, key, value = cut.permute(5, 1, 3, 0, 6, 2, 4, 7).flatten(5, 6).flatten(1, 2)  # (windows, T, heads, n, d)
        if self.shift:
            parts = zip(query, key, value, self.mask.to(joined), strict=True)
            found = torch.stack([attend(*part) for part in parts])
        else:
            found = attend(*(one.flatten(0, 1) for one in (query, key, value)))
            found = found.unflatten(0, (len(query), -1))
        found = found.unflatten(0, (high // side, -1)).unflatten(4, (side, side))
        maps = found.permute(2, 0, 4, 1, 5, 3, 6).reshape(-1, high, wide, joined.shape[-1] // 3)
        return (maps.roll((self.shift, self.shift), (1, 2)) if self.shift else maps).flatten(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from few places to few (..., n, d); what is trained on a CPU does without the fused operator.

    Its backward pass there takes six times as long in bfloat16 as the products that it fuses.
    """
    if not (torch.is_grad_enabled() and is_cpu(query.device)):
        return F.scaled_dot_product_attention(query, key, value, mask)
    scores = query * query.shape[-1] ** -0.5 @ key.mT
    return (scores if mask is None else scores + mask).softmax(-1).to(value.dtype) @ value


def shifted_masks(grid: tuple[int, int], side: int, shift: int) -> Tensor:
    """Return what is added to the scores (windows, n, n) of windows of a grid that was rolled by a shift."""
    regions = torch.zeros(grid, dtype=torch.long)
    cuts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for row, rows in enumerate(cuts):
        for column, columns in enumerate(cuts):
            regions[rows, columns] = 3 * row + column
    high, wide = grid
    windows = regions.view(high // side, side, wide // side, side).transpose(1, 2).reshape(-1, side * side)
    return (windows[:, None] != windows[:, :, None]) * HIDDEN
