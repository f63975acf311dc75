"""Regions of an image: generators of region maps, and labels that follow regions."""

from ovseg.regions.generators import REGION_REGISTRY, RegionGenerator, build_regions
from ovseg.regions.voting import mean_labels, vote

__all__ = ["REGION_REGISTRY", "RegionGenerator", "build_regions", "mean_labels", "vote"]
