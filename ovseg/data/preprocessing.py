"""The size rule of a model: how large a photograph is when the network sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg.errors import ConfigError

ASPECTS = ("keep", "square", "patch", "photo")


@dataclass(frozen=True)
class SizeRule:
    """Resizes so that the short side has a given length, unless the long one would grow too long.

    Attributes:
        short_side: Wanted length of the shorter side in pixels.
        long_side: Bound of the longer side in pixels.
        aspect: ``keep``; ``square``: both sides become ``short_side``; ``patch``: as keep, but each side is rounded to
            the nearest multiple of ``minimum``; ``photo``: the photograph as it is, whatever the other values.
        minimum: No side gets shorter than this, so that a thin strip still has a patch; this may distort it.

    Raises:
        ConfigError: A side is not positive, or there is no such aspect.
    """

    short_side: int
    long_side: int
    aspect: str = "keep"
    minimum: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if min(self.short_side, self.long_side, self.minimum) < 1:
            raise ConfigError(
                f"short_side is {self.short_side}, long_side {self.long_side}, minimum {self.minimum}; expected at "
                "least 1"
            )
        if self.aspect not in ASPECTS:
            raise ConfigError(f"aspect is '{self.aspect}'; expected one of {', '.join(ASPECTS)}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) in which the network sees an image of this size."""
        if self.aspect == "photo":
            return height, width
        if self.aspect == "square":
            return (max(self.short_side, self.minimum),) * 2
        scale = min(self.short_side / min(height, width), self.long_side / max(height, width))
        unit = self.minimum if self.aspect == "patch" else 1
        high, wide = (int(side * scale / unit + 0.5) * unit for side in (height, width))
        return max(high, self.minimum), max(wide, self.minimum)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Resize an RGB photograph (bilinear with antialiasing).

        Args:
            pixels: (H, W, 3) uint8.

        Returns:
            (3, h, w) uint8.
        """
        height, width = self.size(*pixels.shape[:2])
        if (height, width) == pixels.shape[:2]:
            resized = pixels
        else:
            resized = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1).contiguous()
