"""Cells of a random grid over an image: where they lie in it, and each as an image of its own (CLIPSelf)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg.clip.normalise import normalise


def grid_choices(most: int = 6) -> list[tuple[int, int]]:
    """Return all grids (rows, columns) that are drawn from: up to ``most`` a side, no side above twice the other."""
    return [(m, n) for m in range(1, most + 1) for n in range((m + 1) // 2, min(2 * m, most) + 1)]


def grid_boxes(size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Return the cells (rows * columns, 4) x0, y0, x1, y1 in pixels of an image (height, width), row by row.

    Lines are found in single precision, as in the original: what is cut out depends on it where a side is at a half.
    """
    lines = [(torch.linspace(0, 1, n + 1) * side).double().numpy() for side, n in zip(size, grid, strict=True)]
    (top, left), (bottom, right) = (
        np.meshgrid(*own, indexing="ij") for own in ([x[:-1] for x in lines], [x[1:] for x in lines])
    )
    return np.stack([left, top, right, bottom], -1).reshape(-1, 4)


@dataclass(frozen=True)
class GridCrops:
    """Adds to a sample what CLIPSelf learns from; the whole image is padded to the right and below.

    Attributes:
        side: Of the square of the whole image in pixels.
        crop: Of the squares of the cells.
        mean, std: By which images are normalised.
        most: Of the cells.
        split: Largest number of rows and columns.
        scale: A cell is enlarged so about its centre where it is cut out; the box stays.
    """

    side: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    most: int = 20
    split: int = 6
    scale: float = 1.0

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Draw a grid; returns ``square``, ``boxes`` and ``crops``, see `cut`."""
        choices = grid_choices(self.split)
        grid = choices[int(rng.integers(len(choices)))]
        order = rng.permutation(grid[0] * grid[1])[: self.most]
        return self.cut(sample["image"].permute(1, 2, 0).numpy(), grid, order)

    def cut(self, image: np.ndarray, grid: tuple[int, int], order: np.ndarray) -> dict[str, Tensor]:
        """Cut an image (H, W, 3) uint8 RGB by a grid.

        Returns:
            ``square`` (3, side, side), the whole, normalised with its padding; ``boxes`` (n, 4) in shares of it of the
            cells, in this order; ``crops`` (n, 3, crop, crop).
        """
        high, wide = image.shape[:2]
        picture, scale = Image.fromarray(image), self.side / max(high, wide)
        cells = grid_boxes((high, wide), grid)[order]
        crops = [self._fit(picture.crop(box), self.crop, centred=True) for box in self._enlarged(cells, high, wide)]
        return {
            "square": self._fit(picture, self.side),
            "boxes": torch.from_numpy(cells * scale / self.side).float(),
            "crops": torch.stack(crops),
        }

    def _enlarged(self, cells: np.ndarray, high: int, wide: int) -> Sequence[tuple[int, int, int, int]]:
        """Return what is cut out, in whole pixels inside of the image."""
        centre, half = (cells[:, :2] + cells[:, 2:]) / 2, (cells[:, 2:] - cells[:, :2]) / 2 * self.scale
        found = np.concatenate([centre - half, centre + half], 1).clip(0, [wide, high, wide, high])
        return [tuple(int(round(side)) for side in box) for box in found.tolist()]  # type: ignore[misc]

    def _fit(self, picture: Image.Image, side: int, centred: bool = False) -> Tensor:
        """Resize to a longest side, pad with black to a square, and normalise."""
        scale = side / max(picture.size)
        wide, high = (max(round(length * scale), 1) for length in picture.size)
        small = np.asarray(picture.resize((wide, high), Image.Resampling.BICUBIC))
        left, top = ((side - wide) // 2, (side - high) // 2) if centred else (0, 0)
        canvas = np.zeros((side, side, 3), np.uint8)
        canvas[top : top + high, left : left + wide] = small
        return normalise(torch.from_numpy(canvas).permute(2, 0, 1).float() / 255, self.mean, self.std)
