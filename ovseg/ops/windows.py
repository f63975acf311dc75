"""Sliding windows as one separable linear map.

Upsampling the patch scores of every window, cutting its padding away, averaging where windows overlap and resizing the
result to the original image are all linear, and windows form a grid. So one matrix per axis does everything: with ``L``
(T, nI * h, nJ * w) holding the patch grids of all windows side by side, the scores of the whole image are
``rows @ L[t] @ columns.T`` and no image-sized tensor of all classes is ever needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError, one_of
from ovseg.ops.bilinear import bilinear_matrix

PADDINGS = ("none", "corner", "even")
RESIZES = ("once", "twice")
WINDOWS_PER_PASS = 16
"""How many windows a network is given at a time, whatever the image."""


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of the network input.

    Attributes:
        length: Pixels of the input along this axis.
        size: Pixels of every window.
        starts: First pixel of each window.
        before: Zero pixels put before each window.
        after: Zero pixels put after it.
        cells: Patches of each padded window.
        stretch: Whether patch scores are resized to the unpadded window at once, instead of being cut back.
        direct: Whether they go to the output in one step, without the size of the network input between.
        corners: Whether the outermost patches of a window lie on its outermost pixels (``align_corners``).
    """

    length: int
    size: int
    starts: tuple[int, ...]
    before: int
    after: int
    cells: int
    stretch: bool
    direct: bool
    corners: bool = False

    def own(self, cells: int) -> Tensor:
        """Return the matrix (size, cells), float64, from the cells of a window to its pixels."""
        if self.stretch:
            return bilinear_matrix(cells, self.size, self.corners)
        padded = bilinear_matrix(cells, self.before + self.size + self.after, self.corners)
        return padded[self.before : self.before + self.size]

    def matrix(self, outputs: int, cells: int) -> Tensor:
        """Return the matrix (outputs, windows * cells), float64, from the cells of all windows to pixels."""
        if self.direct:
            return bilinear_matrix(cells, outputs)
        one = self.own(cells)
        placed = torch.zeros(self.length, len(self.starts), cells, dtype=torch.float64)
        count = torch.zeros(self.length, 1, dtype=torch.float64)
        for index, start in enumerate(self.starts):
            placed[start : start + self.size, index] = one
            count[start : start + self.size] += 1
        averaged = placed.flatten(1) / count
        return averaged if outputs == self.length else bilinear_matrix(self.length, outputs) @ averaged


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of one image lie, and how their patch scores become the scores of the image.

    Attributes:
        rows: Windows along the height.
        columns: Windows along the width.
    """

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, images: Tensor, padding: float = 0) -> Tensor:
        """Cut the windows (B * windows, C, h, w) of images (B, C, H, W); row by row, images outermost.

        Args:
            images: Of any dtype.
            padding: Value of the pixels around a window.
        """
        rows, columns = self.rows, self.columns
        windows = [
            images[..., top : top + rows.size, left : left + columns.size]
            for top in rows.starts
            for left in columns.starts
        ]
        around = (columns.before, columns.after, rows.before, rows.after)
        return F.pad(torch.stack(windows, dim=1).flatten(0, 1), around, value=padding)

    def join(self, scores: Tensor) -> Tensor:
        """Lay patch scores (B * windows, T, h, w) of the windows side by side: (B, T, nI * h, nJ * w)."""
        across = (len(self.rows.starts), len(self.columns.starts))
        grid = scores.unflatten(0, (-1, *across))  # (B, nI, nJ, T, h, w)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def matrices(self, size: tuple[int, int], joined: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Return float32 matrices (H, nI * h) and (W, nJ * w) to an output of ``size`` (H, W).

        Args:
            size: Height and width of the output.
            joined: Rows and columns of what `join` returned, where the scores of a window are on another grid than that
                of its patches.
        """
        cells = (
            (self.rows.cells, self.columns.cells)
            if joined is None
            else (joined[0] // len(self.rows.starts), joined[1] // len(self.columns.starts))
        )
        return self.rows.matrix(size[0], cells[0]).float(), self.columns.matrix(size[1], cells[1]).float()


def plan_windows(
    size: tuple[int, int],
    patch: int,
    crop: int = 0,
    stride: int = 0,
    padding: str = "none",
    multiple: int = 0,
    resize: str = RESIZES[0],
    corners: bool = False,
) -> WindowPlan:
    """Plan the windows of an image.

    Windows step by ``stride``; the last of each row and column is shifted back inside. An axis shorter than the crop is
    used as it is.

    Args:
        size: Height and width of the network input in pixels.
        patch: Side of a patch in pixels.
        crop: Side of a window in pixels; 0 takes the whole image as one window.
        stride: Step in pixels between windows.
        padding: What to do when a window is no multiple of the patch. ``none``: the trailing pixels are not seen, the
            scores are stretched over them (SCLIP, NACLIP). ``corner``: zeros at the right and the bottom, and the
            scores of the padded window stretched to the unpadded one (MaskCLIP). ``even``: zeros split over both
            sides, scores cut back (ClearCLIP).
        multiple: Pad to a multiple of so many pixels instead of the patch, even where the patch does not divide it (the
            trailing pixels are then not seen); 0 is the patch.
        resize: How the patch scores of a whole image that is not padded come to the output: ``once``, at once (SCLIP,
            ClearCLIP, ITACLIP), or ``twice``, by way of the size of the network input (NACLIP, ResCLIP). Windows are
            averaged and padding is left behind at that size, so all else comes by way of it.
        corners: Whether the outermost patches of a window are put on its outermost pixels (Talk2DINO); a whole image
            then comes by way of the size of the network input, too.

    Raises:
        ConfigError: A value is out of range, or a window is smaller than a patch.
    """
    check_windows(patch, crop, stride, padding, multiple, resize)
    direct = not crop and padding == "none" and resize == "once" and not corners
    axes = (_plan_axis(length, patch, crop, stride, padding, multiple or patch, direct, corners) for length in size)
    return WindowPlan(*axes)


def check_windows(
    patch: int, crop: int, stride: int, padding: str, multiple: int = 0, resize: str = RESIZES[0]
) -> None:
    """Refuse settings of windows that fit no image; arguments and errors are those of `plan_windows`."""
    one_of("window resize", resize, RESIZES)
    if padding not in PADDINGS:
        raise ConfigError(f"window padding is '{padding}'; expected one of {', '.join(PADDINGS)}")
    if crop < 0 or (crop and stride < 1):
        raise ConfigError(f"window crop {crop} with stride {stride}; expected crop >= 0 and, with a crop, stride >= 1")
    if crop and stride > crop:
        raise ConfigError(f"window stride {stride} leaves gaps between windows of {crop}; expected stride <= crop")
    if crop:
        _cells(crop, patch, padding, multiple or patch)


def _cells(size: int, patch: int, padding: str, multiple: int) -> tuple[int, int]:
    """Return the patches along a window of ``size`` pixels, and the pixels that are missing to them."""
    missing = 0 if padding == "none" else -size % multiple
    cells = (size + missing) // patch
    if cells < 1:
        raise ConfigError(f"a window of {size} pixels holds no patch of {patch}; expected a larger image or padding")
    return cells, missing


def _plan_axis(
    length: int, patch: int, crop: int, stride: int, padding: str, multiple: int, direct: bool, corners: bool
) -> Axis:
    size = min(crop, length) if crop else length
    steps = max(length - size + stride - 1, 0) // stride + 1 if crop else 1
    starts = tuple(min(step * stride, length - size) for step in range(steps))
    cells, missing = _cells(size, patch, padding, multiple)
    before = missing // 2 if padding == "even" else 0
    return Axis(length, size, starts, before, missing - before, cells, padding != "even", direct, corners)
