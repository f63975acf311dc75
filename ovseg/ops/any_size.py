"""Resizing as matrices where a graph is made for images of all sizes: closed forms, in which no value is looked at.

`ovseg.ops.bilinear` and Pillow say what they have to agree with. Lengths may be numbers or symbols of `torch.export`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def length(side: int) -> Tensor:
    """Return the length of an axis as a number () float64, also where it is a symbol."""
    return torch.arange(side, dtype=torch.float64)[-1] + 1


def places(inputs: int, outputs: int) -> Tensor:
    """Return where the pixels (outputs,) of an axis lie on another of ``inputs`` cells, float64, not cut."""
    return (torch.arange(outputs, dtype=torch.float64) + 0.5) * (length(inputs) / length(outputs)) - 0.5


def linear_matrix(inputs: int, outputs: int) -> Tensor:
    """Return the matrix (outputs, inputs), float64, of `ovseg.ops.bilinear.bilinear_matrix`."""
    return _linear(places(inputs, outputs), inputs)


def _linear(at: Tensor, cells: int) -> Tensor:
    at = at.clamp(min=0).minimum(length(cells) - 1)
    return (1 - (at[..., None] - torch.arange(cells, dtype=torch.float64)).abs()).clamp(min=0)


def photo_matrix(inputs: int, outputs: int) -> Tensor:
    """Return the matrix (outputs, inputs), float64, by which Pillow resizes: linear, with a filter where it shrinks."""
    step = (length(inputs) / length(outputs)).clamp(min=1)
    apart = places(inputs, outputs)[:, None] - torch.arange(inputs, dtype=torch.float64)
    weights = (1 - apart.abs() / step).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def max_pool(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the largest of each window, (M, Q, h, w) of maps (M, Q, a, b), as `F.adaptive_max_pool2d` does."""
    rows, columns = (_windows(*sides) for sides in zip(maps.shape[2:], grid, strict=True))
    found = maps[:, :, None].masked_fill(~rows[:, :, None], -torch.inf).amax(3)
    return found[..., None, :].masked_fill(~columns, -torch.inf).amax(-1)


def mean_pool(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean of each window, (M, Q, h, w) of maps (M, Q, a, b), as `F.adaptive_avg_pool2d` does."""
    inside = [_windows(*sides).to(maps.dtype) for sides in zip(maps.shape[2:], grid, strict=True)]
    rows, columns = (one / one.sum(1, keepdim=True) for one in inside)
    return rows @ maps @ columns.mT


def _windows(inputs: int, outputs: int) -> Tensor:
    """Return which cells belong to each of adaptive windows, bool (outputs, inputs)."""
    own, whole, parts = torch.arange(outputs)[:, None], length(inputs).long(), length(outputs).long()
    cells = torch.arange(inputs)
    return (cells >= own * whole // parts) & (cells < ((own + 1) * whole + parts - 1) // parts)


def resize_photo(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a photograph (H, W, 3) of 0..255 as Pillow does, rounding behind each of its two passes; (1, 3, h, w)."""
    planes = image.permute(2, 0, 1).float()
    wide = _byte(planes @ photo_matrix(image.shape[1], size[1]).float().mT)
    return _byte(photo_matrix(image.shape[0], size[0]).float() @ wide)[None]


def _byte(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


@dataclass(frozen=True)
class AnyAxis:
    """Windows along one axis, as `ovseg.ops.windows.Axis` has them, of a length that may be a symbol.

    Attributes:
        length: Pixels of the input along this axis; with a crop, no less than it unless it is a number.
        crop: Side of a window in pixels; 0 is the whole axis.
        stride: Step between windows.
        before, after: Zero pixels around each window.
        stretch, direct: As there.
    """

    length: int
    crop: int
    stride: int
    before: int
    after: int
    stretch: bool
    direct: bool

    @property
    def size(self) -> int:
        """Pixels of every window."""
        if not self.crop:
            return self.length
        return min(self.crop, self.length) if isinstance(self.length, int) else self.crop

    @property
    def count(self) -> int:
        """Number of windows."""
        return (self.length - self.size + self.stride - 1) // self.stride + 1 if self.crop else 1

    @property
    def starts(self) -> Tensor:
        """First pixel (n,) int64 of each window; the last is shifted back inside."""
        return (torch.arange(self.count) * max(self.stride, 1)).minimum(length(self.length).long() - self.size)

    @property
    def pixels(self) -> Tensor:
        """Pixels (n, size) int64 of all windows."""
        return self.starts[:, None] + torch.arange(self.size)

    def matrix(self, outputs: int, cells: int) -> Tensor:
        """Return the matrix (outputs, n * cells), float32, from the cells of all windows to pixels of the result."""
        if self.direct:
            return linear_matrix(cells, outputs).float()
        own = torch.arange(self.length)[:, None] - self.starts  # (length, n): which pixel of a window it is
        inside = (own >= 0) & (own < self.size)
        before, span = (0, length(self.size)) if self.stretch else (self.before, self._padded)
        shares = _linear((own + before + 0.5) * (length(cells) / span) - 0.5, cells) * inside[..., None]
        averaged = shares.flatten(1) / inside.sum(1, keepdim=True)
        return (linear_matrix(self.length, outputs) @ averaged).float()

    @property
    def _padded(self) -> Tensor:
        return length(self.size) + self.before + self.after


def cut(images: Tensor, rows: AnyAxis, columns: AnyAxis) -> Tensor:
    """Cut the windows (n * m, C, h, w) of one image (1, C, H, W), row by row, as `WindowPlan.cut` does."""
    if rows.crop:
        found = images[0][:, rows.pixels[:, None, :, None], columns.pixels[:, None]]
        images = found.permute(1, 2, 0, 3, 4).flatten(0, 1)
    around = (columns.before, columns.after, rows.before, rows.after)
    return F.pad(images, around) if any(around) else images


def join(scores: Tensor, rows: AnyAxis, columns: AnyAxis) -> Tensor:
    """Lay scores (n * m, T, h, w) of the windows of one image side by side: (T, n * h, m * w), as `WindowPlan.join`."""
    count, high, wide = scores.shape[1:]
    grid = scores.reshape(rows.count, columns.count, count, high, wide).permute(2, 0, 3, 1, 4)
    return grid.reshape(count, rows.count * high, columns.count * wide)
