"""Windows of an image and the whole of it, as CAT-Seg sees it, and how their probabilities come together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.ops.bilinear import bilinear_matrix


class Logits(NamedTuple):
    """Logits of one view.

    Attributes:
        maps: (K, h, w) of the classes that were compared with it.
        classes: Which these are (K,) int64; None for all.
    """

    maps: Tensor
    classes: Tensor | None


@dataclass(frozen=True)
class Sliding:
    """Windows of an image that was squeezed to a square, and the whole of it as one more view.

    Attributes:
        side: Of the square in pixels.
        window: Side of a window in pixels.
        overlap: Share of a window that the next one has in common with it.

    Raises:
        ConfigError: Windows do not end where the square ends.
    """

    side: int
    window: int
    overlap: float

    def __post_init__(self) -> None:
        """Check that the windows fill the square."""
        if not (0 <= self.overlap < 1 and 0 < self.window <= self.side) or (self.side - self.window) % self.stride:
            raise ConfigError(
                f"windows of {self.window} pixels with an overlap of {self.overlap} do not fill {self.side} pixels; "
                "expected sliding_size - window to be a multiple of int(window * (1 - overlap))"
            )

    @property
    def stride(self) -> int:
        """Pixels between windows, rounded as the original does."""
        return max(1, int(self.window * (1 - self.overlap)))

    @property
    def starts(self) -> list[int]:
        """First pixels of the windows along an axis."""
        return list(range(0, self.side - self.window + 1, self.stride))

    def cut(self, images: Tensor, resolution: tuple[int, int]) -> Tensor:
        """Return the views (B * V, 3, h, w) of images (B, 3, H, W): windows row by row, then the whole."""
        square, size = resize(images, (self.side, self.side)), self.window
        views = [square[..., y : y + size, x : x + size] for y in self.starts for x in self.starts]
        views.append(resize(images, (size, size)))
        return torch.stack([resize(view, resolution) for view in views], 1).flatten(0, 1)

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.starts) ** 2 + 1


def plan_views(
    *, sliding: bool = False, sliding_size: int = 640, sliding_window: int = 384, sliding_overlap: float = 0.333
) -> Sliding | None:
    """Return the windows of images; None where an image is seen as a whole.

    Args:
        sliding: Whether results are those of windows and the whole image together, as all published numbers, and not
            of the whole image alone, at a fifth of the cost.
        sliding_size: Side in pixels of the square that windows are cut from.
        sliding_window: Side of a window in pixels.
        sliding_overlap: Share of a window that the next one has in common with it.

    Raises:
        ConfigError: Windows do not end where the square ends.
    """
    return Sliding(sliding_size, sliding_window, sliding_overlap) if sliding else None


class SlidingMaps:
    """The mean of probabilities of windows, and of these with the whole image; see `ovseg.labelling.row_maps.RowMaps`.

    Everything is resized before it is averaged, and made a few rows at a time.
    """

    def __init__(self, plan: Sliding, views: Sequence[Logits], count: int) -> None:
        """Keep the logits of all views, given how many words there are."""
        self.plan, self.views = plan, views
        self.grid = (plan.side, plan.side)
        device = views[0].maps.device
        every = torch.arange(count, device=device)
        seen = torch.zeros(count, dtype=torch.bool, device=device)
        for view in views:
            seen[every if view.classes is None else view.classes] = True
        self.words = seen.nonzero().flatten()
        place = seen.cumsum(0) - 1
        self._places = [place[every if view.classes is None else view.classes] for view in views]
        shape, size = views[0].maps.shape[1:], plan.window
        self._up = [bilinear_matrix(side, size).to(views[0].maps) for side in shape]
        self._whole = bilinear_matrix(size, plan.side).to(views[0].maps)

    def rows(self, part: slice) -> Tensor:
        """Return some rows of all maps: (K, r, w)."""
        plan, size = self.plan, self.plan.window
        found = self._up[0].new_zeros(len(self.words), part.stop - part.start, plan.side)
        counts = found.new_zeros(part.stop - part.start, plan.side)
        tops = [(y, x) for y in plan.starts for x in plan.starts]
        for (top, left), view, places in zip(tops, self.views, self._places, strict=False):
            first, last = max(part.start, top), min(part.stop, top + size)
            if first >= last:
                continue
            into = slice(first - part.start, last - part.start), slice(left, left + size)
            counts[into] += 1
            own = self._probabilities(view, slice(first - top, last - top))
            found[(slice(None), *into)].index_add_(0, places, own)
        found /= counts
        used = (self._whole[part] != 0).any(0).nonzero().flatten()
        whole = slice(int(used[0]), int(used[-1]) + 1)
        own = self._whole[part, whole] @ self._probabilities(self.views[-1], whole) @ self._whole.mT
        return found.index_add_(0, self._places[-1], own).mul_(0.5)

    def _probabilities(self, view: Logits, rows: slice) -> Tensor:
        """Return rows of the probabilities of a view at the size of a window: (K', r, window)."""
        return (self._up[0][rows] @ view.maps @ self._up[1].mT).sigmoid_()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images bilinearly without a filter, as the original does; what has the size already stays.

    Sides may be symbols of `torch.export`, of which that is not known.
    """
    if all(isinstance(side, int) and side == own for side, own in zip(images.shape[-2:], size, strict=True)):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
