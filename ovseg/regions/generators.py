"""Region generators: from a photograph to a map of region ids, without any words."""

from __future__ import annotations

from typing import Any

from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.errors import unknown_name

REGION_REGISTRY = Registry("REGIONS")
REGION_REGISTRY.__doc__ = "Region generators by name; see `build_regions`."


class RegionGenerator(nn.Module):
    """Divides an image into regions."""

    def forward(self, image: Tensor) -> Tensor:
        """Return region ids (H, W) int64 from 0, negative where there is none, of an image (3, H, W) RGB in 0..255."""
        raise NotImplementedError


def build_regions(name: str, **options: Any) -> RegionGenerator:
    """Build a generator by its registered name.

    Raises:
        UnknownNameError: No such generator.
        ConfigError: An option is not allowed.
    """
    known = [known for known, _ in REGION_REGISTRY]
    if name not in known:
        raise unknown_name("region generator", name, known)
    return REGION_REGISTRY.get(name)(**options)
