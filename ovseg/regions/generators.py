"""Region generators: from a photograph to a map of region ids, without any words."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.system.registry import Kind
from ovseg.system.values import options_in_force

REGION_REGISTRY = Registry("REGIONS")
REGION_REGISTRY.__doc__ = "Region generators by the name of their class; built by `ovseg.system.registry.build`."


class RegionGenerator(nn.Module):
    """Divides an image into regions."""

    @property
    def options(self) -> dict[str, Any]:
        """The options in force, as JSON values; recorded in results."""
        return options_in_force(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return region ids (H, W) int64 from 0, negative where there is none, of an image (3, H, W) RGB in 0..255."""
        raise NotImplementedError


REGIONS: Kind[type[RegionGenerator]] = Kind("region generator", REGION_REGISTRY)


def to_pixels(image: Tensor) -> np.ndarray:
    """Return an image (3, H, W) in 0..255, of any dtype and device, as OpenCV and SAM want it: (H, W, 3) uint8."""
    return np.ascontiguousarray(image.detach().float().round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
