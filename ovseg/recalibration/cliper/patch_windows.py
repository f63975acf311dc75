"""What windows see, joined on the patch grid of the whole image, as in CLIPer (github.com/linsun449/cliper.code)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.ops.windows import WindowPlan, plan_windows


def side_and_step(windows: tuple[int, ...]) -> tuple[int, ...]:
    """Return the option if it is empty or a side and a step in pixels.

    Raises:
        ConfigError: It is neither, or the windows leave gaps.
    """
    if windows and (len(windows) != 2 or not 0 < windows[1] <= windows[0]):
        raise ConfigError(
            f"windows is {list(windows)}; expected none, or a side and a step that is no longer: [336, 112]"
        )
    return tuple(windows)


@dataclass(frozen=True)
class PatchWindows:
    """Windows whose patches are patches of the whole image.

    Attributes:
        plan: Where they lie.
        grid: Patch rows and columns ``(h, w)`` of the whole image.
        patch: Side of a patch in pixels.
    """

    plan: WindowPlan
    grid: tuple[int, int]
    patch: int

    @classmethod
    def over(cls, grid: tuple[int, int], patch: int, windows: tuple[int, ...]) -> PatchWindows:
        """Lay windows of a side and a step in pixels; the last ones are shifted inside.

        Raises:
            ConfigError: Side or step is no multiple of the patch.
        """
        if any(length % patch for length in windows):
            raise ConfigError(f"windows is {list(windows)}; expected multiples of the patch of this CLIP, {patch}")
        side, step = windows
        return cls(plan_windows((grid[0] * patch, grid[1] * patch), patch, side, step), grid, patch)

    def mean_scores(self, scores: Tensor) -> Tensor:
        """Average scores (L, B * windows, T, h', w') where windows overlap: (L, B, T, h, w)."""
        scores = scores.unflatten(1, (-1, len(self.plan)))
        total = scores.new_zeros(*scores.shape[:2], scores.shape[3], *self.grid)
        count = scores.new_zeros(self.grid)
        for index, (rows, columns) in enumerate(self._places()):
            total[..., rows, columns] += scores[:, :, index]
            count[rows, columns] += 1
        return total / count

    def mean_weights(self, weights: Tensor) -> Tensor:
        """Average weights (B * windows, h' * w', h' * w') of pairs of patches over the windows that hold both.

        Returns:
            (B, h * w, h * w), rows sum to 1; pairs that no window holds weigh nothing.
        """
        cells = (self.plan.rows.cells, self.plan.columns.cells)
        weights = weights.unflatten(2, cells).unflatten(1, cells).unflatten(0, (-1, len(self.plan)))
        total = weights.new_zeros(len(weights), *self.grid, *self.grid)
        count = weights.new_zeros(*self.grid, *self.grid)
        for index, (rows, columns) in enumerate(self._places()):
            total[:, rows, columns, rows, columns] += weights[:, index]
            count[rows, columns, rows, columns] += 1
        mean = (total / count.clamp_min(1)).flatten(3).flatten(1, 2)
        return mean / mean.sum(-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)

    def _places(self) -> Iterator[tuple[slice, slice]]:
        """Yield the patch rows and columns of every window."""
        for top in self.plan.rows.starts:
            for left in self.plan.columns.starts:
                row, column = top // self.patch, left // self.patch
                yield slice(row, row + self.plan.rows.cells), slice(column, column + self.plan.columns.cells)
