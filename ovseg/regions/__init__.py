"""Regions of an image: generators of region maps, and labels that follow regions.

Each file of this package registers its generators, by being there.
"""

from ovseg.regions.generators import REGION_REGISTRY, REGIONS, RegionGenerator
from ovseg.regions.voting import mean_labels, vote
from ovseg.system.registry import register_all

register_all(__name__)

__all__ = ["REGIONS", "REGION_REGISTRY", "RegionGenerator", "mean_labels", "vote"]
