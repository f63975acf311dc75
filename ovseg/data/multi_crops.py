"""Large and small crops of an image, each resized to one square (DINO, SILC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip.normalise import normalise


@dataclass(frozen=True)
class MultiCrops:
    """Adds ``large`` (2, 3, side, side) and ``small`` (local, 3, side, side) to a sample, normalised.

    Large crops have 0.4 to all of the area of the image and small ones 0.05 to 0.4, in the proportions of the image.

    Attributes:
        side: Of the squares in pixels.
        mean, std: By which images are normalised.
        local: How many crops are small.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    local: int = 8

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Draw the crops."""
        image = normalise(sample["image"].float() / 255, self.mean, self.std)
        large = [self._crop(image, 0.4, 1.0, rng) for _ in range(2)]
        small = [self._crop(image, 0.05, 0.4, rng) for _ in range(self.local)]
        return {
            "large": torch.stack(large),
            "small": torch.stack(small) if small else image.new_zeros(0, *large[0].shape),
        }

    def _crop(self, image: Tensor, least: float, most: float, rng: np.random.Generator) -> Tensor:
        share = float(rng.uniform(least, most)) ** 0.5
        high, wide = (max(round(length * share), 1) for length in image.shape[1:])
        top, left = (int(rng.integers(all_ - own + 1)) for all_, own in zip(image.shape[1:], (high, wide), strict=True))
        cut = image[None, :, top : top + high, left : left + wide]
        return F.interpolate(cut, (self.side, self.side), mode="bicubic", align_corners=False, antialias=True)[0]
