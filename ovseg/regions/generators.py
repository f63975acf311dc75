"""Region generators: from a photograph to a map of region ids, without any words."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.errors import ConfigError, unknown_name

REGION_REGISTRY = Registry("REGIONS")
REGION_REGISTRY.__doc__ = "Region generators by the name of their class; see `build_regions`."


class RegionGenerator(nn.Module):
    """Divides an image into regions."""

    def forward(self, image: Tensor) -> Tensor:
        """Return region ids (H, W) int64 from 0, negative where there is none, of an image (3, H, W) RGB in 0..255."""
        raise NotImplementedError


def build_regions(name: str, **options: Any) -> RegionGenerator:
    """Build a generator by its registered name, in any case.

    Raises:
        UnknownNameError: No such generator.
        ConfigError: An option is not allowed.
    """
    known = {known.casefold(): generator for known, generator in REGION_REGISTRY}
    if name.casefold() not in known:
        raise unknown_name("region generator", name, (known for known, _ in REGION_REGISTRY))
    generator = known[name.casefold()]
    signature = inspect.signature(generator)
    try:
        signature.bind(**options)
    except TypeError as error:
        allowed = ", ".join(signature.parameters)
        raise ConfigError(f"region generator {name} got {error}; expected options among {allowed}") from error
    return generator(**options)


def to_pixels(image: Tensor) -> np.ndarray:
    """Return an image (3, H, W) in 0..255, of any dtype and device, as OpenCV and SAM want it: (H, W, 3) uint8."""
    return np.ascontiguousarray(image.detach().float().round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
