"""Regions of an image: generators of region maps, and labels that follow regions."""

import importlib

from ovseg.regions.generators import REGION_REGISTRY, RegionGenerator, build_regions
from ovseg.regions.voting import mean_labels, vote

for _module in ("mean_shift", "sam"):  # they register their generators
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["REGION_REGISTRY", "RegionGenerator", "build_regions", "mean_labels", "vote"]
