"""Guides: features of a second frozen backbone (or of CLIP itself) that say which pixels belong together.

Each file of this package registers its guides, by being there.
"""

from ovseg.guides.base import GUIDE_REGISTRY, GUIDES, Guide, build_guide, unit_patches
from ovseg.system.registry import register_all

register_all(__name__)

__all__ = ["GUIDES", "GUIDE_REGISTRY", "Guide", "build_guide", "unit_patches"]
